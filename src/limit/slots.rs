//! State of a limiter for any number of clients in fixed memory: a row of slots, into which clients are hashed. Two clients
//! may meet in a slot; [`super::budget`] therefore asks two rows with different hashes. The hashes are keyed, so that
//! nobody outside can aim at a slot.

use std::hash::BuildHasher;

use foldhash::quality::RandomState;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed, StateStore};

use super::Client;

/// One row: 8 bytes a slot.
#[derive(Debug)]
pub(super) struct Row {
    slots: Box<[InMemoryState]>,
    hash: RandomState,
}

impl Row {
    /// A row of `slots` slots, all fresh.
    pub(super) fn new(slots: usize) -> Self {
        Self { slots: (0..slots).map(|_| InMemoryState::default()).collect(), hash: RandomState::default() }
    }
}

impl StateStore for Row {
    type Key = Client;

    fn measure_and_replace<T, F, E>(&self, client: &Client, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let hash = usize::try_from(self.hash.hash_one(client.key())).unwrap_or(usize::MAX);
        self.slots[hash % self.slots.len()].measure_and_replace(&NotKeyed::NonKey, decide)
    }
}
