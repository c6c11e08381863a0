//! The last ten minutes, a second at a time, so that a page that is opened now shows what has been. Fixed in size: a quarter of a
//! MiB. Taking a sample reads some 300 counters, a few microseconds of each second.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::failures::Failures;
use crate::latency::Counts;
use crate::metrics::Metrics;
use crate::moment::{Moment, Tick, Wall};

/// Between two samples.
pub const EVERY: Duration = Duration::from_secs(1);

/// Samples that are kept.
pub const KEPT: usize = 600;

/// Samples of the last minute.
const MINUTE: usize = 60;

/// What the samples are of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    requests: u64,
    images: u64,
    looked_up: u64,
    hits: u64,
    misses: u64,
    failures: u64,
    refused: u64,
    hit: Counts,
    origin: Counts,
}

/// One second.
#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Wall,
    over: Duration,
    counted: Counted,
}

/// The last samples.
#[derive(Debug, Default)]
pub struct Samples(Mutex<Ring>);

#[derive(Debug, Default)]
struct Ring {
    taken: u64,
    before: Option<(Tick, Counted)>,
    kept: VecDeque<Sample>,
}

impl Counted {
    /// What was counted since the start.
    pub fn now(metrics: &Metrics, failures: &Failures) -> Self {
        let totals = metrics.totals();
        Self {
            requests: totals.requests,
            images: totals.images,
            looked_up: totals.looked_up,
            hits: totals.hits,
            misses: totals.misses,
            failures: failures.count(),
            refused: totals.refused,
            hit: metrics.hit_latency(),
            origin: metrics.origin_latency(),
        }
    }

    fn since(&self, earlier: &Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(earlier.requests),
            images: self.images.saturating_sub(earlier.images),
            looked_up: self.looked_up.saturating_sub(earlier.looked_up),
            hits: self.hits.saturating_sub(earlier.hits),
            misses: self.misses.saturating_sub(earlier.misses),
            failures: self.failures.saturating_sub(earlier.failures),
            refused: self.refused.saturating_sub(earlier.refused),
            hit: self.hit.since(&earlier.hit),
            origin: self.origin.since(&earlier.origin),
        }
    }

    /// For programs; latencies in milliseconds.
    pub fn told(&self) -> Value {
        json!({
            "requests": self.requests,
            "images": self.images,
            "looked_up": self.looked_up,
            "hits": self.hits,
            "misses": self.misses,
            "failures": self.failures,
            "refused": self.refused,
            "origin_calls": self.origin.count(),
            "hit_ms": latency(&self.hit),
            "origin_ms": latency(&self.origin),
        })
    }
}

impl Samples {
    /// Keeps what was counted since the last one; `counted` is what was counted since the start.
    pub fn take(&self, now: Moment, counted: &Counted) {
        self.ring().take(now, counted);
    }

    /// Those after the first `known`, the oldest first, and how many there were. Whoever knows more than there were knows those of
    /// a process before this one, and is told all.
    pub fn told_after(&self, known: u64) -> Value {
        let ring = self.ring();
        let oldest = ring.taken - ring.kept.len() as u64 + 1;
        let known = if known > ring.taken { 0 } else { known };
        let news = (oldest..).zip(&ring.kept).filter(|(number, _)| *number > known);
        let samples = news.map(|(_, sample)| sample.told()).collect::<Vec<_>>();
        json!({ "taken": ring.taken, "kept": KEPT, "samples": samples })
    }

    /// Latencies of the last minute.
    pub fn last_minute(&self) -> Value {
        let ring = self.ring();
        let (hit, origin) =
            ring.kept.iter().rev().take(MINUTE).fold(<(Counts, Counts)>::default(), |(hit, origin), sample| {
                (hit.with(&sample.counted.hit), origin.with(&sample.counted.origin))
            });
        json!({ "hit_ms": latency(&hit), "origin_ms": latency(&origin) })
    }

    /// A panic under the lock leaves a sample out, at worst.
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn take(&mut self, now: Moment, counted: &Counted) {
        let Some((tick, before)) = self.before.replace((now.tick, *counted)) else { return };
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(Sample { at: now.wall, over: now.tick.since(tick), counted: counted.since(&before) });
        self.taken += 1;
    }
}

impl Sample {
    fn told(&self) -> Value {
        let mut told = self.counted.told();
        told["at_ms"] = self.at.unix_millis().into();
        told["seconds"] = self.over.as_secs_f64().into();
        told
    }
}

fn latency(counts: &Counts) -> Value {
    let quantile = |share| counts.quantile(share).map(|took| (took.as_secs_f64() * 1e5).round() / 1e2);
    match (quantile(0.5), quantile(0.99)) {
        (Some(half), Some(most)) => json!({ "p50": half, "p99": most }),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Moment {
        let tick = Tick::from_start(Duration::from_secs(second));
        Moment { wall: Wall::from_unix(1_700_000_000) + tick.since_start(), tick }
    }

    fn counted(requests: u64) -> Counted {
        Counted { requests, ..Counted::default() }
    }

    #[test]
    fn a_sample_is_what_came_since_the_one_before() {
        let samples = Samples::default();
        samples.take(at(0), &counted(1000));
        assert_eq!(samples.told_after(0)["samples"], json!([]), "nobody knows how long that took");
        samples.take(at(1), &counted(1010));
        samples.take(at(3), &counted(1050));
        let told = samples.told_after(0);
        let told = told["samples"].as_array().unwrap();
        let parts: Vec<_> = told.iter().map(|sample| (sample["requests"].clone(), sample["seconds"].clone())).collect();
        assert_eq!(parts, [(json!(10), json!(1.0)), (json!(40), json!(2.0))]);
        assert_eq!(told[1]["at_ms"], 1_700_000_003_000i64);
    }

    #[test]
    fn ten_minutes_are_kept_and_whoever_knows_some_is_told_the_others() {
        let samples = Samples::default();
        (0..=1000).for_each(|second| samples.take(at(second), &counted(second)));
        let count = |known| samples.told_after(known)["samples"].as_array().unwrap().len();
        assert_eq!((count(0), count(399), count(998), count(1000)), (KEPT, KEPT, 2, 0));
        assert_eq!(count(1001), KEPT, "of another process");
        assert_eq!(samples.told_after(0)["taken"], 1000);
    }
}
