//! The end of serving, in order (S38): announced, listener gone, over. Everything that must behave differently then asks
//! here; nothing goes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// How far the drain has come. Cheap to clone; all clones agree.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    announced: Arc<AtomicBool>,
    announcement: CancellationToken,
    listener_gone: CancellationToken,
    over: CancellationToken,
}

impl Drain {
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
