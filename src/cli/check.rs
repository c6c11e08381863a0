//! `ticketgate check`: is the configuration valid?

use std::process::ExitCode;

use super::{complain, refuse, say};
use crate::app::{Addresses, doubts};
use crate::config::{Loaded, Mistakes};
use crate::store;

/// Says so, or tells every mistake. What is a mistake only once a disk fails is told besides, and what a start would warn of.
pub(super) fn check(loaded: Result<Loaded, Mistakes>) -> ExitCode {
    if let Some(path) = loaded.as_ref().ok().and_then(|loaded| loaded.config.tickets.store.as_deref())
        && let Err(error) = store::check_directory(path)
    {
        complain(format_args!(
            "tickets.store: the directory of {} cannot be written: {error}; should the file be damaged, no other could take its place",
            path.display()
        ));
    }
    if let Ok(Loaded { config, .. }) = &loaded {
        doubts(Addresses::wanted(config), config).for_each(complain);
    }
    match loaded {
        Ok(Loaded { file: Some(file), .. }) => say(format!("{}: the configuration is valid", file.display())),
        Ok(Loaded { file: None, .. }) => say("no configuration file; flags, environment and defaults are valid"),
        Err(mistakes) => return refuse(&mistakes),
    }
    ExitCode::SUCCESS
}
