//! What is learned of own tickets (S20, S34, S36): it applies at once to an image that is held and to a fill under way, and is
//! written for the next start.

use std::sync::Arc;
use std::time::Duration;

use super::Fills;
use crate::cache::expiry::Expiry;
use crate::origin::FURTHEST_BEHIND;
use crate::store::{NotKept, Record, Store};
use crate::ticket::Ticket;

/// A ticket that the operator makes own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// The ticket.
    pub ticket: Ticket,
    /// How long it lives from now; `None` when permanent, or not known.
    pub lifetime: Option<Duration>,
}

impl Fills {
    /// Takes `ticket` as own. Its life ends `lifetime` from now; `None` is not known, or what the ticket itself says. It is written soon: nobody waits for a disk.
    pub fn learn(&self, ticket: &Ticket, lifetime: Option<Duration>) {
        let record = self.record(ticket, lifetime);
        self.take_as_own(&record);
        if let Some(store) = self.store() {
            store.remember(record);
        }
    }

    /// Takes all of `registrations` as own, once they are surely written where there is a file, or none of them. To be run to its
    /// end: dropped before, it may have written them all the same.
    pub async fn register(&self, registrations: &[Registration]) -> Result<(), NotKept> {
        let record = |Registration { ticket, lifetime }: &Registration| self.record(ticket, *lifetime);
        let records: Vec<Record> = registrations.iter().map(record).collect();
        if let Some(store) = self.store() {
            store.keep(records.clone()).await?;
        }
        for record in &records {
            self.take_as_own(record);
        }
        Ok(())
    }

    /// Takes as own what a predecessor has learned, and has it written. Blocks while too many wait to be.
    pub fn adopt(&self, record: Record) {
        self.take_as_own(&record);
        if let Some(store) = self.store() {
            store.remember_patiently(record);
        }
    }

    /// Takes as own what a successor has learned, which has it written; a predecessor of ours hears of it too.
    pub fn hear(&self, record: Record) {
        self.take_as_own(&record);
        if let Some(store) = self.store() {
            store.pass_back(record);
        }
    }

    /// Takes as own what was written before: the newest first.
    pub fn restore(&self, records: &[Record]) {
        // The newest last: where there is no room for one more, the oldest goes.
        for record in records.iter().rev() {
            self.take_as_own(record);
        }
    }

    /// Where own tickets are kept for the next start, if anywhere.
    pub fn store(&self) -> Option<&Arc<Store>> {
        self.filler.store.as_ref()
    }

    /// What the ticket itself says is heeded whenever it is asked for, by what is known of the clocks then. Written down it is only
    /// so that the ticket is forgotten one day, and so late that a clock that is wrong now does not end it for ever.
    fn record(&self, ticket: &Ticket, lifetime: Option<Duration>) -> Record {
        let (now, skew_millis) = (self.filler.clock.now(), self.filler.origin.skew_millis());
        let learned = lifetime.map(|lifetime| Expiry::after(lifetime, now, skew_millis));
        let stated = || Some(Expiry::new(ticket.facts()?.expires()?.shifted(-FURTHEST_BEHIND), now, 0));
        Record::new(ticket, learned.or_else(stated))
    }

    fn take_as_own(&self, record: &Record) {
        let now = self.filler.clock.now();
        self.filler.cache.learn(&record.ticket, record.expiry(now), now);
    }
}
