//! What each worker thread counts apart, because every answer counts it: were it one number for all, the cores would pass
//! its cache line around with every hit. Summed when somebody looks. A histogram of our own, since the library's takes a
//! lock for each value.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use crate::latency::{BOUNDS, Counts};

/// Where the bytes of an answer's body came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Images and refusals that were held.
    Cache,
    /// What a fill brought.
    Origin,
    /// The app.
    App,
    /// Texts of ours.
    Own,
    /// WeChat's API, through the relay.
    Relay,
}

/// Counts of one thread. On cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Tally {
    hits: Latencies,
    sent: [AtomicU64; Source::ALL.len()],
    idle: AtomicI64,
    parked: AtomicI64,
}

/// Counts a connection as parked until dropped.
#[derive(Debug)]
pub struct Parked<'a>(&'a Tally);

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        self.0.parked.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All tallies.
#[derive(Debug, Clone, Default)]
pub(super) struct Tallies(Arc<Mutex<Vec<Arc<Tally>>>>);

#[derive(Debug, Default)]
struct Latencies {
    /// One for each of [`BOUNDS`], and one for what is beyond.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    nanos: AtomicU64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabels {
    source: &'static str,
}

impl Source {
    /// Every source, in the order of the discriminants.
    pub const ALL: [Self; 5] = [Self::Cache, Self::Origin, Self::App, Self::Own, Self::Relay];

    /// The word for metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cache => "cache",
            Self::Origin => "origin",
            Self::App => "app",
            Self::Own => "own",
            Self::Relay => "relay",
        }
    }
}

impl Tally {
    /// Notes how long an image took that was answered from the cache.
    pub fn hit(&self, took: Duration) {
        self.hits.observe(took);
    }

    /// Counts bytes of a body.
    pub fn sent(&self, source: Source, bytes: u64) {
        self.sent[source as usize].fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts one more idle connection.
    pub fn grow_idle(&self) {
        self.idle.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one more connection that waits without buffers, until the returned value is dropped.
    pub fn parked(&self) -> Parked<'_> {
        self.parked.fetch_add(1, Ordering::Relaxed);
        Parked(self)
    }

    /// Counts one less.
    pub fn shrink_idle(&self) {
        self.idle.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Latencies {
    fn observe(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.iter().position(|bound| nanos <= *bound * 1000).unwrap_or(BOUNDS.len());
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }
}

impl Tallies {
    pub(super) fn one_more(&self) -> Arc<Tally> {
        let tally = Arc::<Tally>::default();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&tally));
        tally
    }

    fn sum<T: std::iter::Sum>(&self, of: impl Fn(&Tally) -> T) -> T {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|tally| of(tally)).sum()
    }

    /// How long hits took.
    pub(super) fn hits(&self) -> Counts {
        let count = |bucket: usize| self.sum(|tally| tally.hits.buckets[bucket].load(Ordering::Relaxed));
        let bounds = BOUNDS.iter().map(|micros| Duration::from_micros(*micros)).chain([Duration::MAX]);
        bounds.enumerate().map(|(bucket, bound)| (bound, count(bucket))).collect()
    }

    fn encode_hits(&self, mut metric: MetricEncoder<'_>) -> std::fmt::Result {
        let bounds = BOUNDS.iter().map(|micros| *micros as f64 / 1e6).chain([f64::INFINITY]);
        let count = |bucket: usize| self.sum(|tally| tally.hits.buckets[bucket].load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.enumerate().map(|(bucket, bound)| (bound, count(bucket))).collect();
        let nanos: u64 = self.sum(|tally| tally.hits.nanos.load(Ordering::Relaxed));
        let all = buckets.iter().map(|(_, count)| count).sum();
        metric.encode_histogram::<NoLabelSet>(nanos as f64 / 1e9, all, &buckets, None)
    }

    fn encode_sent(&self, mut metric: MetricEncoder<'_>) -> std::fmt::Result {
        for source in Source::ALL {
            let bytes: u64 = self.sum(|tally| tally.sent[source as usize].load(Ordering::Relaxed));
            let labels = SourceLabels { source: source.name() };
            ConstCounter::new(bytes).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

impl Collector for Tallies {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let help = "Time until an image was found fresh in the cache.";
        // Its unit stands in its name alone: parsers there are take none for histograms.
        self.encode_hits(encoder.encode_descriptor("hit_duration_seconds", help, None, MetricType::Histogram)?)?;
        let help = "Bytes of bodies that were sent.";
        self.encode_sent(encoder.encode_descriptor("sent", help, Some(&Unit::Bytes), MetricType::Counter)?)?;
        let help = "Client connections between two requests.";
        let idle: i64 = self.sum(|tally| tally.idle.load(Ordering::Relaxed));
        let metric = encoder.encode_descriptor("connections_idle", help, None, MetricType::Gauge)?;
        ConstGauge::new(idle.max(0)).encode(metric)?;
        let help = "Idle connections that wait without buffers.";
        let parked: i64 = self.sum(|tally| tally.parked.load(Ordering::Relaxed));
        let metric = encoder.encode_descriptor("connections_parked", help, None, MetricType::Gauge)?;
        ConstGauge::new(parked.max(0)).encode(metric)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_falls_into_the_first_bucket_that_holds_it() {
        let tally = Tally::default();
        let micros = Duration::from_micros;
        for took in
            [micros(0), micros(10), micros(10) + Duration::from_nanos(1), micros(30_000_000), micros(30_000_001)]
        {
            tally.hit(took);
        }
        let counts = tally.hits.buckets.each_ref().map(|count| count.load(Ordering::Relaxed));
        assert_eq!((counts[0], counts[1], counts[BOUNDS.len() - 1], counts[BOUNDS.len()]), (2, 1, 1, 1));
        assert_eq!(tally.hits.nanos.load(Ordering::Relaxed), 60_000_021_001);
    }
}
