//! `ticketgate serve`: from a configuration to a clean end.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{BAD_USAGE, complain, fail, refuse};
use crate::app::{App, Ending, Running, StartError, Surroundings};
use crate::config::{Config, Loaded, Mistakes};
use crate::log;

/// Serves until `SIGTERM` or `SIGINT`, then drains (S38).
pub(super) fn serve(loaded: Result<Loaded, Mistakes>) -> ExitCode {
    let Loaded { config, file } = match loaded {
        Ok(loaded) => loaded,
        Err(mistakes) => return refuse(&mistakes),
    };
    // Kept to the end: dropping it writes the lines that are still queued.
    let log = log::init(&config.log);
    tell(&config, file.as_deref());
    let surroundings = Surroundings { dropped_lines: log.dropped(), ..Surroundings::default() };
    match App::bind(config, surroundings).and_then(App::start) {
        Ok(running) => match until_a_signal(&running) {
            Ok(()) => exit_code(running.finish()),
            Err(error) => fail(format_args!("cannot wait for signals: {error}")),
        },
        Err(error @ (StartError::CaFile(_) | StartError::Certificate(_))) => {
            complain(error);
            ExitCode::from(BAD_USAGE)
        }
        Err(error) => fail(error),
    }
}

/// Says what is in force, since a file in the working directory is easily overlooked.
fn tell(config: &Config, file: Option<&Path>) {
    let app = config.forward.app.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
    let file = file.map_or_else(|| "none".to_owned(), |file| file.display().to_string());
    tracing::info!(%file, origin = %config.origin.url, %app, "configured");
}

/// Serves until a signal and announces the drain, which a second signal cuts short.
pub(super) fn until_a_signal(running: &Running) -> io::Result<()> {
    let mut signals = running.wait_for(async {
        let mut signals = Signals::new()?;
        signals.next().await;
        Ok::<_, io::Error>(signals)
    })?;
    running.cut_drain_on(async move { signals.next().await });
    tracing::info!("draining; a second signal ends it at once");
    running.drain();
    Ok(())
}

/// What the end of the drain means to whoever started us.
pub(super) fn exit_code(ending: Ending) -> ExitCode {
    match ending {
        Ending::Clean => {
            tracing::info!("drained");
            ExitCode::SUCCESS
        }
        Ending::Cut(connections) => {
            tracing::warn!(connections, "the drain was over before every connection had ended");
            ExitCode::FAILURE
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
