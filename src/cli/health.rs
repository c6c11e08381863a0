//! `ticketgate health`: asks the operator's listener of a running server how it is. Made for container probes: one line, an
//! exit code, and an end within the deadline whatever the other side does.

use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::operator::{Operator, Trouble, Whom};
use super::{Options, fail, say};

pub(super) const EXAMPLES: &str = "\
Examples:
  ticketgate health                               asks the server that this configuration would start
  ticketgate health --admin 127.0.0.1:9180 --live
  HEALTHCHECK CMD [\"ticketgate\", \"health\"]        in a Dockerfile

Exits 0 when the answer is yes, 1 when it is no or when there is none, 2 for bad usage or configuration.";

/// Whom to ask, what, and for how long.
#[derive(Debug, Args)]
pub(super) struct Health {
    #[command(flatten)]
    whom: Whom,
    /// Asks whether it is alive (/healthz) rather than ready (/readyz): it stays alive while it drains.
    #[arg(long)]
    live: bool,
    /// How long all of it may take.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = patience)]
    timeout: Duration,
}

/// Why the answer is not yes.
#[derive(Debug)]
enum No {
    Trouble(Trouble),
    Draining,
    Refused(u16),
}

impl Health {
    /// Asks. `before` are the flags that stand before the command.
    pub(super) fn run(self, before: Options, environment: Vec<(String, String)>) -> ExitCode {
        let operator = match self.whom.find(before, environment) {
            Ok(operator) => operator,
            Err(refused) => return refused,
        };
        let (path, yes) = if self.live { ("/healthz", "alive") } else { ("/readyz", "ready") };
        let address = operator.address;
        match ask(&operator, path, self.timeout) {
            Ok(()) => say(format!("http://{address}{path}: {yes}")),
            Err(no) => return fail(format_args!("http://{address}{path}: {no}")),
        }
        ExitCode::SUCCESS
    }
}

fn patience(text: &str) -> Result<Duration, String> {
    let parsed = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let valid = Duration::from_millis(1)..=Duration::from_secs(3600);
    valid.contains(&parsed).then_some(parsed).ok_or_else(|| "valid: from \"1ms\" to \"1h\"".to_owned())
}

/// Asks `operator` for `path` and takes at most `patience`.
fn ask(operator: &Operator, path: &str, patience: Duration) -> Result<(), No> {
    match operator.status_of(path, patience).map_err(No::Trouble)? {
        200 => Ok(()),
        503 => Err(No::Draining),
        other => Err(No::Refused(other)),
    }
}

impl fmt::Display for No {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Trouble(trouble) => trouble.fmt(f),
            Self::Draining => write!(f, "draining (503)"),
            Self::Refused(status) => write!(f, "answered {status}; is it ticketgate's operator listener?"),
        }
    }
}
