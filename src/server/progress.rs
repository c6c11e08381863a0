//! What one client connection is doing just now, as its io wrapper, its service and its bodies see it. The io wrapper asks
//! it which deadline holds for the next byte; the drain tells it to hurry.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::Instant;

use crate::body::timed::Unread;

/// Shared by the parts of one connection, all of which run on one thread: the atomics only carry the values.
#[derive(Debug)]
pub struct Progress {
    began: Instant,
    exchanges: AtomicU32,
    served: AtomicU32,
    /// Microseconds from `began` to the end of the last exchange.
    idle_after: AtomicU64,
    unread: Unread,
    hurried_since: OnceLock<Instant>,
}

/// An exchange under way: from the end of a request's head until its response body is sent or dropped.
#[derive(Debug)]
pub struct Exchange(Arc<Progress>);

impl Progress {
    /// Of a connection whose first byte has come.
    pub fn start() -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            exchanges: AtomicU32::new(0),
            served: AtomicU32::new(0),
            idle_after: AtomicU64::new(0),
            unread: Unread::default(),
            hurried_since: OnceLock::new(),
        })
    }

    /// Begins an exchange, which ends when the returned value is dropped.
    pub fn begin(self: &Arc<Self>) -> Exchange {
        self.exchanges.fetch_add(1, Ordering::Relaxed);
        self.served.fetch_add(1, Ordering::Relaxed);
        Exchange(Arc::clone(self))
    }

    /// Whether a response is being made or sent: then no read deadline holds (the app may think, events may idle).
    pub fn in_exchange(&self) -> bool {
        self.exchanges.load(Ordering::Relaxed) > 0
    }

    /// Since when no exchange has been under way; the connection's beginning, when there was none.
    pub fn idle_since(&self) -> Instant {
        self.began + Duration::from_micros(self.idle_after.load(Ordering::Relaxed))
    }

    /// How many requests were begun so far; tells one head from the next.
    pub fn served(&self) -> u32 {
        self.served.load(Ordering::Relaxed)
    }

    /// Learns when a request body is dropped before its end, so that the close lingers.
    pub fn unread(&self) -> &Unread {
        &self.unread
    }

    /// Tells the connection that its listener is gone: it may make one more request, soon (S38).
    pub fn hurry(&self) {
        self.hurried_since.get_or_init(Instant::now);
    }

    /// Since when the listener is gone.
    pub fn hurried_since(&self) -> Option<Instant> {
        self.hurried_since.get().copied()
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let progress = &self.0;
        progress.exchanges.fetch_sub(1, Ordering::Relaxed);
        let after = u64::try_from(progress.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        progress.idle_after.store(after, Ordering::Relaxed);
    }
}
