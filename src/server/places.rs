//! Places for connections: `limits.max_connections` in all, `limits.max_connections_per_client` for one address (trusted
//! peers carry many clients and are exempt). A place is held by its connection and free again when that is dropped. When
//! all are taken, somebody is asked to make room ([`crate::limit::crowd`]), so that the next who comes finds one.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::limit::{Client, Crowd, Trust};
use crate::sync::{Mutex, MutexGuard};

/// Counts open connections.
#[derive(Debug)]
pub struct Places {
    free: Arc<Semaphore>,
    crowd: Arc<Crowd>,
    caps: Mutex<Caps>,
    /// At most one entry for each open connection.
    taken: Mutex<HashMap<IpAddr, usize>>,
}

/// How many, and who is exempt.
#[derive(Debug)]
struct Caps {
    all: usize,
    per_client: usize,
    trust: Trust,
    /// Places given out that are not to come back: there were more of them before.
    owed: usize,
}

/// The right to keep one connection open.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    counted: Option<IpAddr>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Places {
    /// Makes room for `all` connections, `per_client` of one untrusted address; past them, those of `crowd` are asked for theirs.
    pub fn new(all: usize, per_client: usize, trust: Trust, crowd: Arc<Crowd>) -> Arc<Self> {
        let all = all.min(Semaphore::MAX_PERMITS);
        let (free, caps) = (Arc::new(Semaphore::new(all)), Mutex::new(Caps { all, per_client, trust, owed: 0 }));
        Arc::new(Self { free, crowd, caps, taken: Mutex::default() })
    }

    /// Makes room for `all` connections, `per_client` of one untrusted address, from now on. Those that are open stay.
    pub fn resize(&self, all: usize, per_client: usize, trust: Trust) {
        let all = all.min(Semaphore::MAX_PERMITS);
        let mut caps = self.caps();
        let before = caps.all + caps.owed;
        self.free.add_permits(all.saturating_sub(before));
        let too_many = before.saturating_sub(all);
        let owed = too_many - self.free.forget_permits(too_many);
        *caps = Caps { all, per_client, trust, owed };
    }

    fn take_back(&self, permit: Option<OwnedSemaphorePermit>) {
        let mut caps = self.caps();
        if let Some(permit) = permit.filter(|_| caps.owed > 0) {
            permit.forget();
            caps.owed -= 1;
            // Whoever gave it up may have been asked to for one who waits still.
            self.crowd.ask();
        }
    }

    fn caps(&self) -> MutexGuard<'_, Caps> {
        self.caps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for `peer`, or `None` when this client has its share already. Past `max_connections` it waits until another
    /// connection ends, as those behind it do in the kernel's queue; those who can make room are asked to, one after the other.
    /// Dropping the future gives nothing away.
    pub async fn take(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        let mut place = Place { places: Arc::clone(self), counted: None, permit: None };
        if !place.count_for(peer) {
            return None;
        }
        place.permit = Some(self.permit().await);
        Some(place)
    }

    async fn permit(&self) -> OwnedSemaphorePermit {
        if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
            return permit;
        }
        let newcomer = self.crowd.newcomer();
        let mut permit = pin!(Arc::clone(&self.free).acquire_owned());
        loop {
            let patience = newcomer.asks();
            if let Ok(permit) = timeout(patience, &mut permit).await {
                return permit.expect("the semaphore is never closed");
            }
        }
    }

    /// Counts one more of `client`, unless it has its share already.
    fn count(&self, client: IpAddr) -> bool {
        let per_client = self.caps().per_client;
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(client).or_default();
        let has_room = *count < per_client;
        *count += usize::from(has_room);
        has_room
    }
}

impl Place {
    /// Counts this place, which was nobody's so far or a trusted peer's, as one of `client`; false when that client has its
    /// share already.
    pub fn count_for(&mut self, client: IpAddr) -> bool {
        let counted = (!self.places.caps().trust.covers(client)).then(|| Client::at(client).key());
        if counted.is_some_and(|client| !self.places.count(client)) {
            return false;
        }
        self.discount();
        self.counted = counted;
        true
    }

    /// Ends when this place is needed: all are taken, and its connection, which must idle all the while, has done so longest.
    /// Dropping the future, when a request comes, keeps the place.
    pub async fn is_needed(&self) {
        self.places.crowd.needs_idle().await;
    }

    /// Whether somebody waits for a place, and no connection idles: what is served now had better be the last on its own.
    pub fn is_wanted(&self) -> bool {
        self.places.crowd.is_crowded()
    }

    fn discount(&mut self) {
        let Some(client) = self.counted.take() else { return };
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&client);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.take_back(self.permit.take());
        self.discount();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::limit::ClientConfig;

    fn trust() -> Trust {
        Trust::new(&ClientConfig::default())
    }

    fn take(places: &Arc<Places>, peer: &str) -> Option<Place> {
        places.take(peer.parse().unwrap()).now_or_never()?
    }

    #[tokio::test]
    async fn fewer_places_hold_when_those_that_are_too_many_have_come_back() {
        let places = Places::new(3, 9, trust(), Arc::default());
        let mut open: Vec<_> = (0..3).map(|_| take(&places, "203.0.113.7").unwrap()).collect();
        places.resize(1, 9, trust());
        assert!(take(&places, "203.0.113.7").is_none());
        open.pop();
        open.pop();
        assert!(take(&places, "203.0.113.7").is_none(), "two were owed");
        open.pop();
        let kept = take(&places, "203.0.113.7");
        assert!(kept.is_some() && take(&places, "203.0.113.7").is_none());
    }

    #[tokio::test]
    async fn places_that_were_owed_are_not_when_there_are_more_again() {
        let places = Places::new(3, 9, trust(), Arc::default());
        let open: Vec<_> = (0..3).map(|_| take(&places, "203.0.113.7").unwrap()).collect();
        places.resize(1, 9, trust());
        places.resize(4, 9, trust());
        let more = take(&places, "203.0.113.7");
        assert!(more.is_some() && take(&places, "203.0.113.7").is_none());
        drop((open, more));
        let all: Vec<_> = std::iter::from_fn(|| take(&places, "203.0.113.7")).collect();
        assert_eq!(all.len(), 4);
    }

    #[tokio::test]
    async fn a_wait_for_a_place_that_is_given_up_costs_nobody_his_own() {
        let places = Places::new(1, 9, trust(), Arc::default());
        let place = take(&places, "203.0.113.7").unwrap();
        assert!(take(&places, "203.0.113.8").is_none());
        assert!(place.is_needed().now_or_never().is_none());
    }

    #[tokio::test]
    async fn a_place_that_is_counted_for_another_client_is_the_first_ones_no_more() {
        let places = Places::new(9, 1, trust(), Arc::default());
        let mut place = take(&places, "203.0.113.7").unwrap();
        assert!(place.count_for("203.0.113.8".parse().unwrap()));
        let first = take(&places, "203.0.113.7");
        assert!(first.is_some() && take(&places, "203.0.113.8").is_none());
        drop((place, first));
        assert!(places.taken.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn another_share_of_a_client_and_another_trust_hold_at_once() {
        let places = Places::new(9, 1, trust(), Arc::default());
        let first = take(&places, "203.0.113.7");
        assert!(first.is_some() && take(&places, "203.0.113.7").is_none());
        places.resize(9, 2, trust());
        let second = take(&places, "203.0.113.7");
        assert!(second.is_some() && take(&places, "203.0.113.7").is_none());
        let network = crate::limit::Trusted::Net("203.0.113.0/24".parse().unwrap());
        places.resize(9, 2, Trust::new(&ClientConfig { trusted_proxies: vec![network], ..ClientConfig::default() }));
        assert!(take(&places, "203.0.113.7").is_some(), "trusted peers are exempt");
    }
}
