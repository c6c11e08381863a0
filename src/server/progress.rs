//! What one client connection is doing just now, as its io wrapper, its service and its bodies see it. The io wrapper asks
//! it which deadline holds for the next byte; the drain tells it to hurry.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::Instant;

use crate::body::timed::Unread;
use crate::metrics::Tally;

/// Shared by the parts of one connection, all of which run on one thread: the atomics only carry the values.
#[derive(Debug)]
pub struct Progress {
    began: Instant,
    exchanges: AtomicU32,
    served: AtomicU32,
    thinking: AtomicU32,
    stalled: AtomicBool,
    switched: AtomicBool,
    /// Microseconds from `began` to the end of the last exchange, or of the last write that had to wait.
    idle_after: AtomicU64,
    unread: Unread,
    hurried_since: OnceLock<Instant>,
    /// Counts this connection as idle while it has had a request, and none is under way.
    tally: Arc<Tally>,
}

/// An exchange under way: from the end of a request's head until its response body is sent or dropped.
#[derive(Debug)]
pub struct Exchange(Arc<Progress>);

/// A part of an exchange: from the first step towards an answer until the answer is there.
#[derive(Debug)]
pub struct Thinking<'a>(&'a Progress);

impl Progress {
    /// Of a connection whose first byte has come; counted in `tally`.
    pub fn start(tally: &Arc<Tally>) -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            exchanges: AtomicU32::new(0),
            served: AtomicU32::new(0),
            thinking: AtomicU32::new(0),
            stalled: AtomicBool::new(false),
            switched: AtomicBool::new(false),
            idle_after: AtomicU64::new(0),
            unread: Unread::default(),
            hurried_since: OnceLock::new(),
            tally: Arc::clone(tally),
        })
    }

    /// Begins an exchange, which ends when the returned value is dropped.
    pub fn begin(self: &Arc<Self>) -> Exchange {
        if self.is_idle() {
            self.tally.shrink_idle();
        }
        self.exchanges.fetch_add(1, Ordering::Relaxed);
        self.served.fetch_add(1, Ordering::Relaxed);
        Exchange(Arc::clone(self))
    }

    /// Turns the connection into a tunnel, which it stays: no read deadline holds, and the end of the client's words is
    /// the tunnel's to hear at once.
    pub fn switch(&self) {
        self.switched.store(true, Ordering::Relaxed);
    }

    fn is_switched(&self) -> bool {
        self.switched.load(Ordering::Relaxed)
    }

    /// Whether a response is being made or sent: then no read deadline holds (the app may think, events may idle).
    pub fn in_exchange(&self) -> bool {
        self.exchanges.load(Ordering::Relaxed) > 0 || self.is_switched()
    }

    /// Whether it is between two requests.
    fn is_idle(&self) -> bool {
        self.served() > 0 && !self.in_exchange()
    }

    /// Whether a client that hangs up now is one too many: nothing is under way, or an answer is not found yet. An answer
    /// that can be had at once, or is being sent, still goes out to a client that has merely said all it had to say.
    pub fn can_be_given_up(&self) -> bool {
        !self.in_exchange() || self.thinking.load(Ordering::Relaxed) > 0 || self.is_switched()
    }

    /// Notes a write that cannot proceed.
    pub fn stall(&self) {
        self.stalled.store(true, Ordering::Relaxed);
    }

    /// Notes that it went on.
    pub fn go_on(&self) {
        self.stalled.store(false, Ordering::Relaxed);
        self.note_idle();
    }

    /// Whether the peer has yet to read what we write.
    pub fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }

    /// Notes that a request is waited for from now on.
    pub fn note_idle(&self) {
        let after = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.idle_after.store(after, Ordering::Relaxed);
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

impl Exchange {
    /// Begins to look for the answer, which is there when the returned value is dropped.
    pub fn think(&self) -> Thinking<'_> {
        self.0.thinking.fetch_add(1, Ordering::Relaxed);
        Thinking(&self.0)
    }
}

impl Drop for Thinking<'_> {
    fn drop(&mut self) {
        self.0.thinking.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.0.exchanges.fetch_sub(1, Ordering::Relaxed);
        self.0.note_idle();
        if self.0.is_idle() {
            self.0.tally.grow_idle();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_idle() {
            self.tally.shrink_idle();
        }
    }
}
