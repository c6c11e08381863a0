//! `ticketgate check`: is the configuration valid?

use std::process::ExitCode;

use super::{refuse, say};
use crate::config::{Loaded, Mistakes};

/// Says so, or tells every mistake.
pub(super) fn check(loaded: Result<Loaded, Mistakes>) -> ExitCode {
    match loaded {
        Ok(Loaded { file: Some(file), .. }) => say(format!("{}: the configuration is valid", file.display())),
        Ok(Loaded { file: None, .. }) => say("no configuration file; flags, environment and defaults are valid"),
        Err(mistakes) => return refuse(&mistakes),
    }
    ExitCode::SUCCESS
}
