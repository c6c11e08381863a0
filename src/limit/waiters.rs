//! How many may wait at once (`limits.max_waiters`): a queue that nobody bounds is memory that strangers fill.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The places to wait in.
#[derive(Debug)]
pub(super) struct Waiters {
    most: usize,
    count: AtomicUsize,
}

/// A place, free again when dropped.
#[derive(Debug)]
pub(super) struct Place<'a>(&'a AtomicUsize);

impl Waiters {
    pub(super) fn new(most: usize) -> Self {
        Self { most, count: AtomicUsize::new(0) }
    }

    /// Takes a place, if one is free.
    pub(super) fn enter(&self) -> Option<Place<'_>> {
        let enter = |count| (count < self.most).then_some(count + 1);
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
