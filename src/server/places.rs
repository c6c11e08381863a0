//! Places for connections: `limits.max_connections` in all, `limits.max_connections_per_client` for one address (trusted
//! peers carry many clients and are exempt). A place is held by its connection and free again when that is dropped. When
//! all are taken, somebody is asked to make room ([`crate::limit::crowd`]), so that the next who comes finds one.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::limit::shares::{Share, Shares};
use crate::limit::{Crowd, Trust};
use crate::sync::{Mutex, MutexGuard};

/// Counts open connections.
#[derive(Debug)]
pub struct Places {
    free: Arc<Semaphore>,
    crowd: Arc<Crowd>,
    shares: Arc<Shares>,
    cap: Mutex<Cap>,
}

/// How many.
#[derive(Debug)]
struct Cap {
    all: usize,
    /// Places given out that are not to come back: there were more of them before.
    owed: usize,
}

/// The right to keep one connection open.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    share: Share,
    permit: Option<OwnedSemaphorePermit>,
}

impl Places {
    /// Makes room for `all` connections, `per_client` of one untrusted address; past them, those of `crowd` are asked for theirs.
    pub fn new(all: usize, per_client: usize, trust: Trust, crowd: Arc<Crowd>) -> Arc<Self> {
        let all = all.min(Semaphore::MAX_PERMITS);
        let (free, cap) = (Arc::new(Semaphore::new(all)), Mutex::new(Cap { all, owed: 0 }));
        Arc::new(Self { free, crowd, shares: Shares::new(per_client, trust), cap })
    }

    /// Makes room for `all` connections, `per_client` of one untrusted address, from now on. Those that are open stay.
    pub fn resize(&self, all: usize, per_client: usize, trust: Trust) {
        let all = all.min(Semaphore::MAX_PERMITS);
        let mut cap = self.cap();
        let before = cap.all + cap.owed;
        self.free.add_permits(all.saturating_sub(before));
        let too_many = before.saturating_sub(all);
        let owed = too_many - self.free.forget_permits(too_many);
        *cap = Cap { all, owed };
        self.shares.resize(per_client, trust);
    }

    fn take_back(&self, permit: Option<OwnedSemaphorePermit>) {
        let mut cap = self.cap();
        if let Some(permit) = permit.filter(|_| cap.owed > 0) {
            permit.forget();
            cap.owed -= 1;
            // Whoever gave it up may have been asked to for one who waits still.
            self.crowd.ask();
        }
    }

    fn cap(&self) -> MutexGuard<'_, Cap> {
        self.cap.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for `peer`, or `None` when this client has its share already. Past `max_connections` it waits until another
    /// connection ends, as those behind it do in the kernel's queue; those who can make room are asked to, one after the other.
    /// Dropping the future gives nothing away.
    pub async fn take(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        let share = self.shares.take(peer)?;
        let permit = Some(self.permit().await);
        Some(Place { places: Arc::clone(self), share, permit })
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
}

impl Place {
    /// Counts this place, which was nobody's so far or a trusted peer's, as one of `client`; false when that client has its
    /// share already.
    pub fn count_for(&mut self, client: IpAddr) -> bool {
        let Some(share) = self.places.shares.take(client) else { return false };
        self.share = share;
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
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.take_back(self.permit.take());
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
        assert!(take(&places, "203.0.113.8").is_some());
    }
}
