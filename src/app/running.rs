//! A running app: what can be seen of it, and how it ends.

use std::io;
use std::sync::Arc;

use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::Addresses;
use super::reload::Reload;
use crate::admin::Operated as _;
use crate::metrics::{Metrics, Reading};
use crate::otel::Tracer;
use crate::server::drain::Drain;
use crate::server::inheritance::Legacy;
use crate::server::workers::Worker;
use crate::store::Store;

/// A running app. Dropping it ends everything at once; [`Running::drain`] and [`Running::finish`] end it well.
pub struct Running {
    pub(super) addresses: Addresses,
    pub(super) drain: Drain,
    pub(super) threads: Vec<Worker>,
    pub(super) relaying: Option<Relaying>,
    pub(super) legacy: Arc<Legacy>,
    pub(super) reload: Arc<Reload>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) tracer: Option<Arc<Tracer>>,
    pub(super) background: Option<Runtime>,
    pub(super) store: Option<Arc<Store>>,
}

/// The relay at work; ends with how many connections were cut.
type Relaying = JoinHandle<io::Result<usize>>;

/// How serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Every connection had its say.
    Clean,
    /// `drain` was over before so many connections had.
    Cut(usize),
}

impl Running {
    /// Where the listeners are.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// What was counted so far.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// What is in the cache, under way and waiting.
    pub fn reading(&self) -> Reading {
        self.reload.tend();
        self.reload.reading()
    }

    /// Puts other configurations in force.
    pub fn reload(&self) -> &Arc<Reload> {
        &self.reload
    }

    /// Waits for `event` on the background threads.
    ///
    /// # Panics
    /// When called from within a runtime.
    pub fn wait_for<T>(&self, event: impl Future<Output = T>) -> T {
        self.background.as_ref().expect("present until dropped").block_on(event)
    }

    /// Runs `task` on the background threads, until they end.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.background.as_ref().expect("present until dropped").spawn(task);
    }

    /// Starts the drain (S38).
    pub fn drain(&self) {
        self.drain.announce();
    }

    /// Our listening sockets, to be handed on.
    pub fn legacy(&self) -> &Legacy {
        &self.legacy
    }

    /// The file of own tickets, if there is one.
    pub fn store(&self) -> Option<&Arc<Store>> {
        self.store.as_ref()
    }

    /// Starts the drain because a successor serves on our sockets.
    pub fn hand_over(&self) {
        self.drain.hand_over();
    }

    /// Ends the drain when `impatience` does.
    pub fn cut_drain_on(&self, impatience: impl Future<Output = ()> + Send + 'static) {
        let drain = self.drain.clone();
        self.spawn(async move {
            impatience.await;
            drain.end();
        });
    }

    /// Waits for the drain to end: at most `drain` after it was announced.
    pub fn finish(mut self) -> Ending {
        let cut: usize = self.threads.drain(..).map(|worker| worker.join().unwrap_or(1)).sum();
        let relaying = self.relaying.take().map(|relaying| self.wait_for(relaying));
        let cut = cut + relaying.map_or(0, |ended| ended.map_or(1, |cut| cut.unwrap_or(0)));
        // Nobody learns any more.
        self.close_store();
        if let Some(tracer) = self.tracer.take() {
            self.wait_for(tracer.flush());
        }
        if cut == 0 { Ending::Clean } else { Ending::Cut(cut) }
    }

    fn close_store(&self) {
        if let Some(store) = &self.store {
            store.close();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.drain.announce();
        self.drain.lose_listener();
        self.drain.end();
        if let Some(background) = self.background.take() {
            // Ends the accept loop, and with it the way to the workers.
            background.shutdown_background();
        }
        self.close_store();
        for worker in self.threads.drain(..) {
            let _ = worker.join();
        }
    }
}
