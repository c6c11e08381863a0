//! What one client connection is doing just now, as its io wrapper, its service and its response bodies see it. The io
//! wrapper asks it which deadline holds for the next byte; the drain tells it to hurry.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::time::Instant;

/// Shared by the parts of one connection, all of which run on one thread: the atomics only carry the values.
#[derive(Debug, Default)]
pub struct Progress {
    exchanges: AtomicU32,
    served: AtomicU32,
    body_unread: AtomicBool,
    hurried_since: OnceLock<Instant>,
}

/// An exchange under way: from the end of a request's head until its response body is sent or dropped.
#[derive(Debug)]
pub struct Exchange(Arc<Progress>);

impl Progress {
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

    /// How many requests were begun so far; tells one head from the next.
    pub fn served(&self) -> u32 {
        self.served.load(Ordering::Relaxed)
    }

    /// Remembers that a request body was left unread, so that the close must linger.
    pub fn leave_body_unread(&self) {
        self.body_unread.store(true, Ordering::Relaxed);
    }

    /// Whether a request body was left unread.
    pub fn body_unread(&self) -> bool {
        self.body_unread.load(Ordering::Relaxed)
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
        self.0.exchanges.fetch_sub(1, Ordering::Relaxed);
    }
}
