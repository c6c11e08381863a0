//! Signals: `SIGTERM` and `SIGINT` end a server, `SIGHUP` has its configuration read again, `SIGUSR2` lets
//! a successor take its place. They are caught from before the
//! line that says where it listens, so that whoever read that line can send one.

use std::io;
use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::succession::{Succession, tell_systemd};
use crate::app::Running;
use crate::app::reload::Reload;
use crate::mishap::outlived_aside;

/// The signals of one process, caught.
pub(super) struct Signals {
    end: End,
    hangup: Signal,
    succeed: Signal,
}

/// Those that end it.
pub(super) struct End {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Catches them from now on. Needs a runtime.
    pub(super) fn catch() -> io::Result<Self> {
        Ok(Self {
            end: End::catch()?,
            hangup: signal(SignalKind::hangup())?,
            succeed: signal(SignalKind::user_defined2())?,
        })
    }

    /// Heeds them until one comes that ends `running`, or a successor serves; then it drains.
    pub(super) fn heed(self, running: &Running, succession: &Succession) {
        let Self { mut end, hangup, mut succeed } = self;
        running.spawn(reload_on(hangup, Arc::clone(running.reload()), running.metrics().panics.clone()));
        let succeeded = running.wait_for(async {
            tokio::select! {
                () = end.next() => false,
                () = a_successor(&mut succeed, succession, running) => true,
            }
        });
        if succeeded {
            running.hand_over();
            // Whoever ends the service signals this process too: that is the first word it hears of an end.
            end.drain_beyond(1, running);
        } else {
            tell_systemd(NotifyState::Stopping);
            end.drain(running);
        }
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
        self.drain(running);
    }

    fn drain(self, running: &Running) {
        self.drain_beyond(0, running);
    }

    /// The drain goes on when so many signals come, and the next cuts it.
    fn drain_beyond(mut self, signals: usize, running: &Running) {
        running.cut_drain_on(async move {
            for _ in 0..=signals {
                self.next().await;
            }
        });
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

/// Ends when there is one. While one is awaited, a signal that ends this process ends that wait, and with it the candidate.
async fn a_successor(signal: &mut Signal, succession: &Succession, running: &Running) {
    while signal.recv().await.is_some() {
        tracing::info!("a successor is started");
        match succession.take_place(running).await {
            Ok(()) => return,
            Err(why) => tracing::error!("there is no successor, this process goes on: {why}"),
        }
    }
    std::future::pending::<()>().await;
}

/// One reload after the other. A panic costs one, and `panics` counts it. Ends with its runtime.
async fn reload_on(mut hangups: Signal, reload: Arc<Reload>, panics: Counter) {
    while hangups.recv().await.is_some() {
        let reload = Arc::clone(&reload);
        // What came of it is in the log.
        let _ = outlived_aside(move || reload.read_again().is_ok(), &panics).await;
    }
}
