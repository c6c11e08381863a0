//! The end of serving, in order (S38): announced, listener gone, over. Everything that must behave differently then asks
//! here; nothing goes back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// How far the drain has come. Cheap to clone; all clones agree.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    announced: Arc<AtomicBool>,
    times: Arc<Mutex<Times>>,
    handed_over: CancellationToken,
    announcement: CancellationToken,
    listener_gone: CancellationToken,
    over: CancellationToken,
}

/// How long the drain may take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// `drain_delay`: how long connections are still accepted, so that load balancers notice.
    pub delay: Duration,
    /// `drain`: from its announcement until what is left is cut.
    pub whole: Duration,
}

impl Drain {
    /// A drain that will take `times`, unless they are set anew before it is announced.
    pub fn new(times: Times) -> Self {
        Self { times: Arc::new(Mutex::new(times)), ..Self::default() }
    }

    /// How long it may take.
    pub fn times(&self) -> Times {
        *self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets it take `times`; a drain that has begun keeps what it began with.
    pub fn set_times(&self, times: Times) {
        *self.times.lock().unwrap_or_else(PoisonError::into_inner) = times;
    }

    /// A view for one thread: waiting on it contends with no other thread.
    #[must_use]
    pub fn for_thread(&self) -> Self {
        let (announcement, listener_gone) = (self.announcement.child_token(), self.listener_gone.child_token());
        Self { announcement, listener_gone, ..self.clone() }
    }

    /// Starts the drain: readiness is false, and every answer closes its connection.
    pub fn announce(&self) {
        self.announced.store(true, Ordering::Release);
        self.announcement.cancel();
    }

    /// Starts the drain because a successor serves on our sockets: nothing is accepted any more, and there is nobody to warn.
    pub fn hand_over(&self) {
        self.set_times(Times { delay: Duration::ZERO, ..self.times() });
        self.handed_over.cancel();
        self.announce();
    }

    /// Whether a successor serves.
    pub fn is_handed_over(&self) -> bool {
        self.handed_over.is_cancelled()
    }

    /// Waits until a successor serves.
    pub fn handed_over(&self) -> WaitForCancellationFuture<'_> {
        self.handed_over.cancelled()
    }

    /// Whether the drain has started.
    pub fn is_announced(&self) -> bool {
        self.announced.load(Ordering::Relaxed)
    }

    /// Waits for the drain to start.
    pub fn announcement(&self) -> WaitForCancellationFuture<'_> {
        self.announcement.cancelled()
    }

    /// Says that only what is queued will be accepted any more: idle connections may make one more request within 2 s.
    pub fn lose_listener(&self) {
        self.listener_gone.cancel();
    }

    /// Waits until no connection is accepted any more.
    pub fn listener_gone(&self) -> WaitForCancellationFuture<'_> {
        self.listener_gone.cancelled()
    }

    /// Ends what is left: `drain` is over.
    pub fn end(&self) {
        self.over.cancel();
    }

    /// Waits for the end.
    pub fn over(&self) -> WaitForCancellationFuture<'_> {
        self.over.cancelled()
    }
}
