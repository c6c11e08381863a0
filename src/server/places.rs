//! Places for connections: `limits.max_connections` in all, `limits.max_connections_per_client` for one address (trusted
//! peers carry many clients and are exempt). A place is held by its connection and free again when that is dropped.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limit::{Client, Trust};

/// Counts open connections.
#[derive(Debug)]
pub struct Places {
    all: Arc<Semaphore>,
    per_client: usize,
    trust: Trust,
    /// At most one entry for each open connection.
    taken: Mutex<HashMap<IpAddr, usize>>,
}

/// The right to keep one connection open.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    counted: Option<IpAddr>,
    _permit: OwnedSemaphorePermit,
}

impl Places {
    /// Makes room for `all` connections, `per_client` of one untrusted address.
    pub fn new(all: usize, per_client: usize, trust: Trust) -> Arc<Self> {
        let all = Arc::new(Semaphore::new(all.min(Semaphore::MAX_PERMITS)));
        Arc::new(Self { all, per_client, trust, taken: Mutex::default() })
    }

    /// Waits until a connection may be accepted at all: past `max_connections` newcomers wait in the kernel's queue.
    /// Dropping the future gives nothing away.
    pub async fn permit(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.all).acquire_owned().await.expect("the semaphore is never closed")
    }

    /// Takes a place for `peer`, or `None` when this client has its share already.
    pub fn take(self: &Arc<Self>, permit: OwnedSemaphorePermit, peer: IpAddr) -> Option<Place> {
        let counted = (!self.trust.covers(peer)).then(|| Client::at(peer).key());
        if let Some(client) = counted {
            let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
            let count = taken.entry(client).or_default();
            if *count >= self.per_client {
                return None;
            }
            *count += 1;
        }
        Some(Place { places: Arc::clone(self), counted, _permit: permit })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(client) = self.counted else { return };
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&client);
            }
        }
    }
}
