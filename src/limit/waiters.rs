//! How many may wait at once (`limits.max_waiters`): a queue that nobody bounds is memory that strangers fill.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The places to wait in.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    most: AtomicUsize,
    count: AtomicUsize,
}

/// A place, free again when dropped.
#[derive(Debug)]
pub(super) struct Place<'a>(&'a AtomicUsize);

impl Waiters {
    /// Has places for `most` from now on; who waits already goes on.
    pub(super) fn limit(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// Takes a place, if one is free.
    pub(super) fn enter(&self) -> Option<Place<'_>> {
        let most = self.most.load(Ordering::Relaxed);
        let enter = |count| (count < most).then_some(count + 1);
        self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enter).ok()?;
        Some(Place(&self.count))
    }

    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
