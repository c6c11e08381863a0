//! Own tickets: those that we know to be the app's, since the relay saw them made or somebody registered them, and
//! what was learned of their ends. Bounded; takes the time as an argument. Where their images are kept is
//! [`super::Cache`]'s to say.
//!
//! A ticket that has ended is remembered for a while: an opaque one, of which nothing else knows the end, would come back to
//! life as soon as its end was forgotten.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use foldhash::quality::RandomState;

use super::expiry::Expiry;
use crate::moment::{Moment, Tick};
use crate::ticket::Ticket;

/// How long an ended ticket is remembered, where there is room: as long as a page may be left open.
pub const REMEMBERED: Duration = Duration::from_secs(86_400);

/// The own tickets, about 300 bytes each.
#[derive(Debug)]
pub(super) struct Own {
    most: usize,
    tickets: HashMap<Arc<str>, Known, RandomState>,
    /// Who goes first when there is no room.
    order: BTreeMap<Rank, Arc<str>>,
    learned: u64,
}

/// What was learned of one.
#[derive(Debug)]
pub(super) struct Known {
    /// When it ends; `None` when permanent, or not known.
    pub(super) expiry: Option<Expiry>,
    rank: Rank,
}

/// The earliest to end first; of those without an end the oldest.
pub type Rank = (Tick, u64);

impl Own {
    /// None yet, and `most` at once.
    pub(super) fn new(most: usize) -> Self {
        Self { most, tickets: HashMap::default(), order: BTreeMap::new(), learned: 0 }
    }

    /// Takes `ticket` as own and returns its end: the earliest that was learned.
    pub(super) fn learn(&mut self, ticket: &Ticket, expiry: Option<Expiry>, now: Moment) -> Option<Expiry> {
        let before = self.remove(ticket.canonical());
        let expiry = Expiry::earliest([before.and_then(|known| known.expiry), expiry]);
        self.make_room(now.tick);
        self.learned += 1;
        let rank = (expiry.map_or(Tick::NEVER, |expiry| expiry.tick()), self.learned);
        self.order.insert(rank, Arc::clone(ticket.key()));
        self.tickets.insert(Arc::clone(ticket.key()), Known { expiry, rank });
        expiry
    }

    /// Whether `ticket` is own, and has not ended.
    pub(super) fn holds(&self, ticket: &Ticket, now: Moment) -> bool {
        self.get(ticket).is_some_and(|known| !known.expiry.is_some_and(|expiry| expiry.is_over(now)))
    }

    /// What was learned of `ticket`, when it is own, ended or not.
    pub(super) fn get(&self, ticket: &Ticket) -> Option<&Known> {
        self.tickets.get(ticket.canonical())
    }

    /// At most `most` of them in the order in which they would go, those after `after` if it is given.
    pub(super) fn after(&self, after: Option<Rank>, most: usize) -> Vec<(Rank, Ticket, Option<Expiry>)> {
        let from = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let known = |(rank, key): (&Rank, &Arc<str>)| {
            let known = self.tickets.get(key)?;
            Some((*rank, Ticket::from_canonical(key).ok()?, known.expiry))
        };
        self.order.range::<Rank, _>(from).filter_map(known).take(most).collect()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.tickets.len()
    }

    /// Lets go who ended long ago, and, where there is no room for one more, who is next to go.
    fn make_room(&mut self, now: Tick) {
        while let Some((rank, key)) = self.order.first_key_value() {
            let is_forgotten = rank.0 + REMEMBERED <= now;
            if !is_forgotten && self.tickets.len() < self.most {
                return;
            }
            let key = Arc::clone(key);
            self.remove(&key);
        }
    }

    fn remove(&mut self, key: &str) -> Option<Known> {
        let known = self.tickets.remove(key)?;
        self.order.remove(&known.rank);
        Some(known)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::moment::Wall;

    fn ticket(number: u32) -> Ticket {
        Ticket::from_text(&format!("ticket{number}")).unwrap()
    }

    fn at(seconds: u64) -> Moment {
        let tick = Tick::from_start(Duration::from_secs(seconds));
        Moment { wall: Wall::from_unix(1_700_000_000) + tick.since_start(), tick }
    }

    fn within(seconds: u64, now: u64) -> Expiry {
        Expiry::after(Duration::from_secs(seconds), at(now), 0)
    }

    fn held(own: &Own, tickets: std::ops::Range<u32>) -> Vec<u32> {
        tickets.filter(|number| own.get(&ticket(*number)).is_some()).collect()
    }

    #[test]
    fn where_there_is_no_room_the_earliest_to_end_goes_and_else_the_oldest() {
        let mut own = Own::new(3);
        own.learn(&ticket(0), None, at(0));
        own.learn(&ticket(1), Some(within(600, 0)), at(0));
        own.learn(&ticket(2), Some(within(60, 0)), at(0));
        own.learn(&ticket(3), None, at(1));
        assert_eq!(held(&own, 0..10), [0, 1, 3]);
        own.learn(&ticket(4), None, at(1));
        assert_eq!(held(&own, 0..10), [0, 3, 4]);
        own.learn(&ticket(0), None, at(2));
        own.learn(&ticket(5), None, at(2));
        assert_eq!(held(&own, 0..10), [0, 4, 5], "learned again, it is no longer the oldest");
    }

    #[test]
    fn an_end_is_never_put_off() {
        let mut own = Own::new(3);
        let first = own.learn(&ticket(0), Some(within(60, 0)), at(0));
        assert_eq!(own.learn(&ticket(0), Some(within(600, 1)), at(1)), first);
        assert_eq!(own.learn(&ticket(0), None, at(2)), first);
        assert!(own.learn(&ticket(0), Some(within(30, 3)), at(3)).unwrap().is_over(at(33)));
        assert_eq!(own.len(), 1);
    }

    #[test]
    fn an_ended_ticket_is_own_no_more_and_is_forgotten_a_day_later() {
        let mut own = Own::new(10);
        own.learn(&ticket(0), Some(within(60, 0)), at(0));
        assert!(own.holds(&ticket(0), at(59)));
        assert!(!own.holds(&ticket(0), at(60)));
        own.learn(&ticket(1), None, at(86_459));
        assert!(own.get(&ticket(0)).is_some(), "it must not come back to life");
        own.learn(&ticket(1), None, at(86_460));
        assert_eq!(held(&own, 0..2), [1]);
    }

    proptest! {
        #[test]
        fn the_bound_and_the_order_hold_whatever_is_learned(
            learned in prop::collection::vec((0u32..20, prop::option::of(0u64..200_000), 0u64..50_000), 0..200),
            most in 1usize..8,
        ) {
            let (mut own, mut now) = (Own::new(most), 0);
            for (number, lifetime, passed) in learned {
                now += passed;
                own.learn(&ticket(number), lifetime.map(|lifetime| within(lifetime, now)), at(now));
                prop_assert!(own.get(&ticket(number)).is_some(), "what was just learned is there");
                prop_assert!(own.len() <= most);
                prop_assert_eq!(own.len(), own.order.len());
            }
        }
    }
}
