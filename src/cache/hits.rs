//! How often an image answered, whichever entry of its ticket it was kept in at the time.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts what one entry answered, and what those before it did. The line of memory that it dirties lies in the entry, whose
/// count of users every hit changes anyway.
#[derive(Debug, Default)]
pub struct Hits(AtomicU64);

impl Hits {
    /// Counts one more.
    pub fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many there were.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Takes over what `before` counted. What it counts later is lost.
    pub(super) fn carry_over(&self, before: &Self) {
        self.0.fetch_add(before.get(), Ordering::Relaxed);
    }
}
