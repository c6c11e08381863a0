//! `ticketgate serve`: from a configuration to a clean end.

use std::path::Path;
use std::process::ExitCode;

use super::signals::Signals;
use super::succession::{self, Succession};
use super::{BAD_USAGE, complain, fail, refuse};
use crate::app::{App, Ending, Running, StartError, Surroundings};
use crate::config::{Config, Loaded, Sources};
use crate::log;
use crate::server::inheritance::Inheritance;

/// Serves until `SIGTERM` or `SIGINT`, then drains; `SIGHUP` reads the configuration again (S38).
pub(super) fn serve(mut sources: Sources) -> ExitCode {
    let Loaded { config, file } = match Config::load(sources.clone()) {
        Ok(loaded) => loaded,
        Err(mistakes) => return refuse(&mistakes),
    };
    // Read again it is this one: a file that is gone is a mistake, and no reason to fall back to defaults.
    sources.file.clone_from(&file);
    // Before the log, which has a thread.
    let given = Inheritance::from_environment(succession::is_successor());
    // Kept to the end: dropping it writes the lines that are still queued.
    let log = log::init(&config.log);
    let succession = match Succession::of_this_process() {
        Ok(succession) => succession,
        Err(error) => return fail(format_args!("the program's own file cannot be found: {error}")),
    };
    tell(&config, file.as_deref());
    let surroundings = Surroundings { log: log.control(), sources: Some(sources), ..Surroundings::default() };
    match start(config, surroundings, given) {
        Ok((running, signals)) => {
            succession::tell_ready();
            succession::talk_to_predecessor(&running);
            signals.heed(&running, &succession);
            exit_code(running.finish())
        }
        Err(error @ (StartError::CaFile(_) | StartError::Certificate(_))) => {
            complain(error);
            ExitCode::from(BAD_USAGE)
        }
        Err(error) => fail(error),
    }
}

fn start(config: Config, around: Surroundings, given: Inheritance) -> Result<(Running, Signals), StartError> {
    let app = App::inherit(config, around, given)?;
    let signals = app.wait_for(async { Signals::catch() }).map_err(StartError::System)?;
    Ok((app.start()?, signals))
}

/// Says what is in force, since a file in the working directory is easily overlooked.
fn tell(config: &Config, file: Option<&Path>) {
    let app = config.forward.app.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
    let file = file.map_or_else(|| "none".to_owned(), |file| file.display().to_string());
    tracing::info!(%file, origin = %config.origin.url, %app, "configured");
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
