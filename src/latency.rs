//! How long answers take, by size: counts that can be read again and again, and subtracted to see one second of them. Counting
//! is one relaxed addition.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets in microseconds, from what a hit takes to longer than anybody waits.
pub const BOUNDS: [u64; 20] = [
    10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000, 30_000_000,
];
const BUCKETS: usize = BOUNDS.len();

/// Counts durations.
#[derive(Debug, Default)]
pub struct Latency([AtomicU64; BUCKETS]);

/// What was counted, up to a moment or between two.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts([u64; BUCKETS]);

impl Latency {
    /// Counts something that took so long.
    pub fn note(&self, took: Duration) {
        self.0[bucket(took)].fetch_add(1, Ordering::Relaxed);
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        Counts(std::array::from_fn(|bucket| self.0[bucket].load(Ordering::Relaxed)))
    }
}

impl Counts {
    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self(std::array::from_fn(|bucket| self.0[bucket].saturating_sub(earlier.0[bucket])))
    }

    /// This and what `other` counted.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|bucket| self.0[bucket] + other.0[bucket]))
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The duration that the share `quantile` of them did not exceed, as near as a bucket tells; `None` of nothing.
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        let all = self.count();
        if all == 0 {
            return None;
        }
        let mut wanted = (all as f64 * quantile).max(1.0);
        for (bucket, &count) in self.0.iter().enumerate() {
            if wanted <= count as f64 {
                return Some(within(bucket, wanted / count as f64));
            }
            wanted -= count as f64;
        }
        Some(end(BUCKETS - 1))
    }
}

/// The bucket of everything up to its bound and over the one before. What is longer than all is in the last.
fn bucket(took: Duration) -> usize {
    BOUNDS.iter().position(|bound| took <= Duration::from_micros(*bound)).unwrap_or(BUCKETS - 1)
}

fn end(bucket: usize) -> Duration {
    Duration::from_micros(BOUNDS[bucket])
}

impl FromIterator<(Duration, u64)> for Counts {
    /// Of other buckets: upper bounds, and how many were counted under each.
    fn from_iter<I: IntoIterator<Item = (Duration, u64)>>(others: I) -> Self {
        let mut counts = Self::default();
        for (bound, count) in others {
            counts.0[bucket(bound)] += count;
        }
        counts
    }
}

/// As if what a bucket holds were spread evenly.
fn within(bucket: usize, share: f64) -> Duration {
    let start = if bucket == 0 { Duration::ZERO } else { end(bucket - 1) };
    start + end(bucket).saturating_sub(start).mul_f64(share.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(durations: impl IntoIterator<Item = Duration>) -> Counts {
        let latency = Latency::default();
        durations.into_iter().for_each(|took| latency.note(took));
        latency.counts()
    }

    #[test]
    fn each_bucket_ends_where_it_says() {
        for number in 0..BUCKETS {
            assert_eq!(bucket(end(number)), number);
            assert_eq!(bucket(end(number) + Duration::from_nanos(1)), (number + 1).min(BUCKETS - 1));
        }
        assert_eq!((bucket(Duration::ZERO), bucket(Duration::MAX)), (0, BUCKETS - 1));
        assert!(end(BUCKETS - 1) > Duration::from_secs(20), "longer than any exchange of ours");
    }

    #[test]
    fn quantiles_are_no_further_off_than_a_bucket_is_wide() {
        let counts = of((1..=1000).map(Duration::from_millis));
        for (quantile, exact) in [(0.5, 500.0), (0.9, 900.0), (0.99, 990.0), (0.001, 1.0)] {
            let told = counts.quantile(quantile).unwrap().as_secs_f64() * 1e3;
            assert!(told / exact < 2.5 && exact / told < 2.5, "{quantile}: {told} for {exact}");
        }
        assert_eq!(of([]).quantile(0.5), None);
        assert!(of([Duration::MAX]).quantile(1.0).is_some());
    }

    #[test]
    fn other_buckets_fit_where_their_bounds_do() {
        let other: Counts = [(10, 3), (1_000, 4), (100_000, 5)]
            .map(|(micros, count)| (Duration::from_micros(micros), count))
            .into_iter()
            .collect();
        let same = of([(10, 3), (1_000, 4), (100_000, 5)]
            .iter()
            .flat_map(|(micros, count)| vec![Duration::from_micros(*micros); *count]));
        assert_eq!(other, same);
        assert_eq!(Counts::from_iter([(Duration::MAX, 1)]), of([Duration::MAX]));
    }

    #[test]
    fn what_came_before_can_be_taken_off() {
        let latency = Latency::default();
        latency.note(Duration::from_millis(1));
        let before = latency.counts();
        latency.note(Duration::from_secs(1));
        let since = latency.counts().since(&before);
        assert_eq!(since.count(), 1);
        assert!(since.quantile(0.5).unwrap() > Duration::from_millis(500));
        assert_eq!(before.since(&latency.counts()).count(), 0, "never below nothing");
    }
}
