//! One running fill per ticket (S13): a second asker joins the first one's.
//!
//! A fill is in the map from the moment it starts until it has stored its result; the entry leaves the map in the drop of
//! a guard, so that a panic frees the ticket too. Whoever starts looks into the cache once more under the same lock:
//! another fill may have ended between its miss and this lock, and that one had stored before it left.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Locks, so that misses of different tickets rarely meet.
const SHARDS: usize = 16;

type Running<T> = HashMap<Arc<str>, watch::Receiver<Option<T>>>;

/// The fills under way, each with a result of type `T`.
#[derive(Debug)]
pub struct Flights<T> {
    shards: [Mutex<Running<T>>; SHARDS],
    most_per_shard: usize,
}

/// A place in the audience of a running fill. Dropping it neither cancels nor restarts the fill.
#[derive(Debug)]
pub struct Seat<T>(watch::Receiver<Option<T>>);

/// What became of an attempt to join or start.
#[derive(Debug)]
pub enum Boarding<T, F> {
    /// The result is there already.
    Found(F),
    /// A fill was under way.
    Joined(Seat<T>),
    /// A new fill may start: run it with the ticket's permit.
    Start(Permit<T>, Seat<T>),
    /// Too many fills are under way.
    Full,
}

/// The right to run the one fill of a ticket. Dropped without a result (a panic), it ends the fill as failed.
#[derive(Debug)]
pub struct Permit<T> {
    flights: Arc<Flights<T>>,
    key: Arc<str>,
    result: watch::Sender<Option<T>>,
    landed: bool,
}

impl<T> Flights<T> {
    /// An empty sky for about `most` fills at once.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { shards: Default::default(), most_per_shard: most.div_ceil(SHARDS).max(1) })
    }

    /// Joins the running fill of `key`, if there is one.
    pub fn join(&self, key: &str) -> Option<Seat<T>> {
        self.shard(key).get(key).cloned().map(Seat)
    }

    /// Joins the running fill of `key`, or finds its result by `look`, or lets a new one start.
    pub fn join_or_start<F>(self: &Arc<Self>, key: &Arc<str>, look: impl FnOnce() -> Option<F>) -> Boarding<T, F> {
        let mut shard = self.shard(key);
        if let Some(running) = shard.get(key) {
            return Boarding::Joined(Seat(running.clone()));
        }
        if let Some(found) = look() {
            return Boarding::Found(found);
        }
        if shard.len() >= self.most_per_shard {
            return Boarding::Full;
        }
        let (result, audience) = watch::channel(None);
        shard.insert(Arc::clone(key), audience.clone());
        let permit = Permit { flights: Arc::clone(self), key: Arc::clone(key), result, landed: false };
        Boarding::Start(permit, Seat(audience))
    }

    /// How many fills are under way.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    fn shard(&self, key: &str) -> MutexGuard<'_, Running<T>> {
        // Tickets differ most in their middle; any spread will do, since tickets cannot be aimed at a lock to any effect.
        let sum = key.bytes().fold(0usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)));
        lock(&self.shards[sum % SHARDS])
    }
}

/// A panic under the lock leaves the map whole: single inserts and removes.
fn lock<M>(mutex: &Mutex<M>) -> MutexGuard<'_, M> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T> Permit<T> {
    /// Frees the ticket, then hands `result` to everybody who waits. The caller has stored it before.
    pub fn land(mut self, result: T) {
        self.free();
        self.landed = true;
        self.result.send_replace(Some(result));
    }

    fn free(&self) {
        self.flights.shard(&self.key).remove(&self.key);
    }
}

impl<T> Drop for Permit<T> {
    fn drop(&mut self) {
        // After `land` another fill of this ticket may be under way already: that one must stay.
        if !self.landed {
            self.free();
        }
    }
}

impl<T: Clone> Seat<T> {
    /// Waits for the result; `None` when the fill ended without one, which only a panic does.
    pub async fn result(mut self) -> Option<T> {
        self.0.wait_for(Option::is_some).await.ok().and_then(|result| result.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Arc<str> {
        "ticket".into()
    }

    fn start(flights: &Arc<Flights<u32>>) -> (Permit<u32>, Seat<u32>) {
        match flights.join_or_start(&key(), || None::<()>) {
            Boarding::Start(permit, seat) => (permit, seat),
            other => panic!("cannot start: {other:?}"),
        }
    }

    #[tokio::test]
    async fn all_who_join_get_the_one_result() {
        let flights = Flights::new(16);
        let (permit, first) = start(&flights);
        let second = flights.join("ticket").expect("it runs");
        permit.land(7);
        assert_eq!((first.result().await, second.result().await), (Some(7), Some(7)));
        assert_eq!(flights.len(), 0);
    }

    #[tokio::test]
    async fn nobody_waiting_neither_cancels_nor_keeps_the_ticket() {
        let flights = Flights::new(16);
        let (permit, seat) = start(&flights);
        drop(seat);
        assert!(flights.join("ticket").is_some(), "still under way");
        permit.land(7);
        assert!(flights.join("ticket").is_none());
    }

    #[tokio::test]
    async fn a_panicking_fill_frees_the_ticket_and_tells_those_who_wait() {
        let flights = Flights::new(16);
        let (permit, seat) = start(&flights);
        let fill = tokio::spawn(async move {
            let _permit = permit;
            panic!("on purpose");
        });
        assert!(fill.await.is_err());
        assert_eq!(seat.result().await, None);
        let (permit, _seat) = start(&flights);
        permit.land(1);
    }

    #[test]
    fn what_ended_between_the_miss_and_the_lock_is_found() {
        let flights = Flights::<u32>::new(16);
        assert!(matches!(flights.join_or_start(&key(), || Some(5)), Boarding::Found(5)));
        assert_eq!(flights.len(), 0);
    }

    #[test]
    fn fills_are_bounded() {
        let flights = Flights::<u32>::new(1);
        let seats: Vec<_> = (0..1000).map(|n| flights.join_or_start(&format!("{n}").into(), || None::<()>)).collect();
        assert_eq!(flights.len(), SHARDS);
        assert!(seats.iter().any(|boarding| matches!(boarding, Boarding::Full)));
    }
}
