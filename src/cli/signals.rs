//! Signals: `SIGTERM` and `SIGINT` end a server, `SIGHUP` has its configuration read again. They are caught from before the
//! line that says where it listens, so that whoever read that line can send one.

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::app::Running;
use crate::app::reload::Reload;

/// The signals of one process, caught.
pub(super) struct Signals {
    end: End,
    hangup: Signal,
}

/// Those that end it.
pub(super) struct End {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Catches them from now on. Needs a runtime.
    pub(super) fn catch() -> io::Result<Self> {
        Ok(Self { end: End::catch()?, hangup: signal(SignalKind::hangup())? })
    }

    /// Has every `SIGHUP` read the configuration of `running` again, until one that ends it comes.
    pub(super) fn heed(self, running: &Running) {
        running.spawn(reload_on(self.hangup, Arc::clone(running.reload())));
        self.end.heed(running);
    }
}

impl End {
    /// Catches them from now on. Needs a runtime.
    pub(super) fn catch() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for one and announces the drain of `running`, which a second one cuts short.
    pub(super) fn heed(mut self, running: &Running) {
        running.wait_for(self.next());
        running.cut_drain_on(async move { self.next().await });
        tracing::info!("draining; a second signal ends it at once");
        running.drain();
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// One reload after the other. Ends with its runtime.
async fn reload_on(mut hangups: Signal, reload: Arc<Reload>) {
    while hangups.recv().await.is_some() {
        let reload = Arc::clone(&reload);
        // What came of it is in the log.
        let _ = tokio::task::spawn_blocking(move || reload.read_again().is_ok()).await;
    }
}
