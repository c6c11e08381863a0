//! When a stale image is refreshed again after refreshes that failed: after 5 s, doubling to 60 s (S23). A fresh entry
//! starts anew.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::moment::Tick;

const FIRST: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(60);

/// The failures of one entry's refreshes. Two that fail at once count at least once, which is all that matters here.
#[derive(Debug, Default)]
pub struct Retry {
    failures: AtomicU32,
    /// Milliseconds of the monotonic clock.
    not_before: AtomicU64,
}

impl Retry {
    /// Whether a refresh may be tried at `now`.
    pub fn is_due(&self, now: Tick) -> bool {
        millis(now) >= self.not_before.load(Ordering::Relaxed)
    }

    /// A refresh failed at `now`.
    pub fn failed(&self, now: Tick) {
        let before = self.failures.fetch_add(1, Ordering::Relaxed);
        let wait = FIRST.saturating_mul(1 << before.min(8)).min(LONGEST);
        self.not_before.store(millis(now + wait), Ordering::Relaxed);
    }
}

fn millis(tick: Tick) -> u64 {
    u64::try_from(tick.since_start().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_from_five_seconds_to_a_minute() {
        let retry = Retry::default();
        let mut now = Tick::from_start(Duration::from_secs(1000));
        assert!(retry.is_due(now));
        for wait in [5, 10, 20, 40, 60, 60, 60] {
            retry.failed(now);
            assert!(!retry.is_due(now + Duration::from_millis(wait * 1000 - 1)), "{wait}");
            now = now + Duration::from_secs(wait);
            assert!(retry.is_due(now), "{wait}");
        }
    }
}
