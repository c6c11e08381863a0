//! One running fill per ticket (S13): a second asker joins the first one's.
//!
//! A fill is in the map from the moment it starts until it has stored its result, which it does under the lock under which it
//! leaves; a guard's drop frees the ticket when it panics. Whoever starts looks into the cache once more under the same
//! lock: another fill may have ended between its miss and this lock. Whoever purges marks the fill under it, too, and
//! removes what is stored then: a fill that has not stored finds the mark, and one that has is joined by nobody any more.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use foldhash::quality::RandomState;
use tokio::sync::watch;

use crate::sync::{AtomicUsize, Mutex, MutexGuard};

/// Locks, so that misses of different tickets rarely meet.
const SHARDS: usize = 16;

type Running<T> = HashMap<Arc<str>, Flight<T>>;

/// A fill under way.
#[derive(Debug)]
struct Flight<T> {
    result: watch::Sender<Option<T>>,
    /// What it brings is not to be stored.
    spoiled: bool,
}

/// The fills under way, each with a result of type `T`.
#[derive(Debug)]
pub struct Flights<T> {
    shards: [Mutex<Running<T>>; SHARDS],
    /// Keyed: whoever chooses tickets cannot choose their lock.
    hash: RandomState,
    most: AtomicUsize,
    count: AtomicUsize,
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
    /// An empty sky for `most` fills at once.
    pub fn new(most: usize) -> Arc<Self> {
        let (shards, hash, count) = Default::default();
        Arc::new(Self { shards, hash, most: AtomicUsize::new(most), count })
    }

    /// Lets `most` fills start at once from now on; those under way go on.
    pub fn limit(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// Joins the running fill of `key`, if there is one.
    pub fn join(&self, key: &str) -> Option<Seat<T>> {
        self.shard(key).get(key).map(|flight| Seat(flight.result.subscribe()))
    }

    /// Joins the running fill of `key`, or finds its result by `look`, or lets a new one start.
    pub fn join_or_start<F>(self: &Arc<Self>, key: &Arc<str>, look: impl FnOnce() -> Option<F>) -> Boarding<T, F> {
        let mut shard = self.shard(key);
        if let Some(running) = shard.get(key) {
            return Boarding::Joined(Seat(running.result.subscribe()));
        }
        if let Some(found) = look() {
            return Boarding::Found(found);
        }
        if !self.take_place() {
            return Boarding::Full;
        }
        // Nothing from here to the permit, which gives the place back, can panic.
        let (result, audience) = watch::channel(None);
        shard.insert(Arc::clone(key), Flight { result: result.clone(), spoiled: false });
        let permit = Permit { flights: Arc::clone(self), key: Arc::clone(key), result, landed: false };
        Boarding::Start(permit, Seat(audience))
    }

    /// What a running fill of `key` brings is not to be stored.
    pub fn spoil(&self, key: &str) {
        if let Some(flight) = self.shard(key).get_mut(key) {
            flight.spoiled = true;
        }
    }

    /// The same of every running fill.
    pub fn spoil_all(&self) {
        for shard in &self.shards {
            lock(shard).values_mut().for_each(|flight| flight.spoiled = true);
        }
    }

    /// How many fills are under way.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// How many wait for a fill's end, all fills together.
    pub fn waiting(&self) -> usize {
        let audience = |shard: &Running<T>| shard.values().map(|flight| flight.result.receiver_count()).sum::<usize>();
        self.shards.iter().map(|shard| audience(&lock(shard))).sum()
    }

    fn take_place(&self) -> bool {
        let most = self.most.load(Ordering::Relaxed);
        let take = |count| (count < most).then_some(count + 1);
        self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    fn shard(&self, key: &str) -> MutexGuard<'_, Running<T>> {
        let hash = usize::try_from(self.hash.hash_one(key) % SHARDS as u64).expect("less than the shards");
        lock(&self.shards[hash])
    }
}

/// A panic under the lock leaves the map whole: single inserts and removes.
fn lock<M>(mutex: &Mutex<M>) -> MutexGuard<'_, M> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T> Permit<T> {
    /// Ends the fill by what `store` returns, which everybody who waits is handed. It is called under the lock of the ticket,
    /// which is free again when that is let go, with whether what the fill brings is not to be stored.
    /// Others who miss wait meanwhile: it keeps to memory, and asks for no other ticket.
    pub fn land(mut self, store: impl FnOnce(bool) -> T) {
        let mut shard = self.flights.shard(&self.key);
        let is_spoiled = shard.get(&self.key).is_some_and(|flight| flight.spoiled);
        let result = store(is_spoiled);
        self.free(&mut shard);
        drop(shard);
        self.landed = true;
        self.result.send_replace(Some(result));
    }

    fn free(&self, shard: &mut Running<T>) {
        shard.remove(&self.key);
        self.flights.count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<T> Drop for Permit<T> {
    fn drop(&mut self) {
        // After `land` another fill of this ticket may be under way already: that one must stay.
        if !self.landed {
            self.free(&mut self.flights.shard(&self.key));
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
        permit.land(|_| 7);
        assert_eq!((first.result().await, second.result().await), (Some(7), Some(7)));
        assert_eq!(flights.len(), 0);
    }

    #[tokio::test]
    async fn nobody_waiting_neither_cancels_nor_keeps_the_ticket() {
        let flights = Flights::new(16);
        let (permit, seat) = start(&flights);
        assert_eq!(flights.waiting(), 1);
        drop(seat);
        assert_eq!(flights.waiting(), 0);
        assert!(flights.join("ticket").is_some(), "still under way");
        permit.land(|_| 7);
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
        permit.land(|_| 1);
    }

    #[test]
    fn what_ended_between_the_miss_and_the_lock_is_found() {
        let flights = Flights::<u32>::new(16);
        assert!(matches!(flights.join_or_start(&key(), || Some(5)), Boarding::Found(5)));
        assert_eq!(flights.len(), 0);
    }

    fn try_start(flights: &Arc<Flights<u32>>, key: &str) -> Option<Permit<u32>> {
        match flights.join_or_start(&key.into(), || None::<()>) {
            Boarding::Start(permit, _) => Some(permit),
            _ => None,
        }
    }

    #[test]
    fn fills_are_bounded() {
        let flights = Flights::new(100);
        let permits: Vec<_> = (0..1000).filter_map(|n| try_start(&flights, &n.to_string())).collect();
        assert_eq!((permits.len(), flights.len()), (100, 100));
        drop(permits);
        assert_eq!(flights.len(), 0);
        assert_eq!((0..1000).filter_map(|n| try_start(&flights, &n.to_string())).count(), 1000, "one after the other");
    }

    #[test]
    fn tickets_made_to_meet_take_nothing_from_others() {
        let flights = Flights::new(1000);
        // Equal by the hash of Java's strings, which anybody can compute.
        let public = |key: &str| key.bytes().fold(0usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        let aimed = (0..).map(|n| format!("aimed {n}")).filter(|key| public(key).is_multiple_of(SHARDS)).take(500);
        let aimed: Vec<_> = aimed.filter_map(|key| try_start(&flights, &key)).collect();
        assert_eq!(aimed.len(), 500);
        assert_eq!((0..500).filter_map(|n| try_start(&flights, &n.to_string())).count(), 500);
    }

    #[test]
    fn the_bound_holds_however_many_start_and_end_at_once() {
        let flights = Flights::new(10);
        let most_seen = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (flights, most_seen) = (&flights, &most_seen);
                scope.spawn(move || {
                    for n in 0..2000 {
                        let mut permits: Vec<_> =
                            (0..5).filter_map(|k| try_start(flights, &format!("{thread} {n} {k}"))).collect();
                        most_seen.fetch_max(flights.len(), Ordering::SeqCst);
                        // Some land, some are dropped as by a panic.
                        permits.drain(..permits.len() / 2).for_each(|permit| permit.land(|_| 1));
                    }
                });
            }
        });
        assert!(most_seen.into_inner() <= 10);
        let permits: Vec<_> = (0..20).filter_map(|n| try_start(&flights, &n.to_string())).collect();
        assert_eq!(permits.len(), 10, "no place is lost and none is given twice");
    }
}
