//! `ticketgate health`: asks the operator's listener of a running server how it is. Made for container probes: one line, an
//! exit code, and an end within the deadline whatever the other side does.

use std::fmt;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::operator::Whom;
use super::{Options, fail, say};
use crate::clock::Clock;
use crate::moment::Tick;

pub(super) const EXAMPLES: &str = "\
Examples:
  ticketgate health                               asks the server that this configuration would start
  ticketgate health --admin 127.0.0.1:9180 --live
  HEALTHCHECK CMD [\"ticketgate\", \"health\"]        in a Dockerfile

Exits 0 when the answer is yes, 1 when it is no or when there is none, 2 for bad usage or configuration.";

/// Bytes within which an answer has told its status.
const LONGEST_STATUS_LINE: usize = 1024;

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
enum Trouble {
    Unreachable(io::Error),
    Slow(Duration),
    Broken(io::Error),
    Closed,
    Rubbish,
    Draining,
    Refused(u16),
}

impl Health {
    /// Asks. `before` are the flags that stand before the command.
    pub(super) fn run(&self, before: &Options, environment: &[(String, String)]) -> ExitCode {
        let (live, timeout) = (self.live, self.timeout);
        let address = match self.whom.address(before, environment) {
            Ok(address) => address,
            Err(refused) => return refused,
        };
        let (path, yes) = if live { ("/healthz", "alive") } else { ("/readyz", "ready") };
        match ask(address, path, timeout) {
            Ok(()) => say(format!("http://{address}{path}: {yes}")),
            Err(trouble) => return fail(format_args!("http://{address}{path}: {trouble}")),
        }
        ExitCode::SUCCESS
    }
}

fn patience(text: &str) -> Result<Duration, String> {
    let parsed = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let valid = Duration::from_millis(1)..=Duration::from_secs(3600);
    valid.contains(&parsed).then_some(parsed).ok_or_else(|| "valid: from \"1ms\" to \"1h\"".to_owned())
}

/// Asks `address` for `path` and takes at most `patience`.
fn ask(address: SocketAddr, path: &str, patience: Duration) -> Result<(), Trouble> {
    let deadline = Deadline::after(patience);
    let mut stream = TcpStream::connect_timeout(&address, patience).map_err(|error| match error.kind() {
        ErrorKind::TimedOut => Trouble::Slow(patience),
        _ => Trouble::Unreachable(error),
    })?;
    let broken = |error| Trouble::broken(error, patience);
    stream.set_write_timeout(Some(deadline.left()?)).map_err(broken)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(broken)?;
    match status(&status_line(&mut stream, &deadline)?) {
        Some(200) => Ok(()),
        Some(503) => Err(Trouble::Draining),
        Some(other) => Err(Trouble::Refused(other)),
        None => Err(Trouble::Rubbish),
    }
}

/// The first line of an answer.
fn status_line(stream: &mut TcpStream, deadline: &Deadline) -> Result<Vec<u8>, Trouble> {
    let mut read = [0; LONGEST_STATUS_LINE];
    let mut length = 0;
    while length < read.len() {
        let broken = |error| Trouble::broken(error, deadline.patience);
        stream.set_read_timeout(Some(deadline.left()?)).map_err(broken)?;
        match stream.read(&mut read[length..]) {
            Ok(0) if length == 0 => return Err(Trouble::Closed),
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(broken(error)),
        }
        if let Some(end) = read[..length].windows(2).position(|two| two == b"\r\n") {
            return Ok(read[..end].to_vec());
        }
    }
    Err(Trouble::Rubbish)
}

/// The status in the first line of an answer (RFC 9112 §4).
fn status(line: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(line).ok()?;
    let code = line.strip_prefix("HTTP/1.")?.split(' ').nth(1)?;
    code.parse().ok().filter(|code| (100..1000).contains(code))
}

/// The end of a span that began when this was made.
struct Deadline {
    clock: Clock,
    start: Tick,
    patience: Duration,
}

impl Deadline {
    fn after(patience: Duration) -> Self {
        let clock = Clock::system();
        Self { start: clock.tick(), clock, patience }
    }

    /// What is left of it; never zero, which sockets take for "for ever".
    fn left(&self) -> Result<Duration, Trouble> {
        let left = self.patience.saturating_sub(self.clock.tick().since(self.start));
        if left.is_zero() { Err(Trouble::Slow(self.patience)) } else { Ok(left) }
    }
}

impl Trouble {
    /// A timeout of a socket is `WouldBlock` on some systems, `TimedOut` on others.
    fn broken(error: io::Error, patience: Duration) -> Self {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Self::Slow(patience),
            _ => Self::Broken(error),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(error) => write!(f, "not reachable: {error}"),
            Self::Slow(patience) => write!(f, "no answer within {}", humantime::format_duration(*patience)),
            Self::Broken(error) => write!(f, "the connection broke: {error}"),
            Self::Closed => write!(f, "closed without an answer"),
            Self::Rubbish => write!(f, "what answers there speaks no HTTP/1"),
            Self::Draining => write!(f, "draining (503)"),
            Self::Refused(status) => write!(f, "answered {status}; is it ticketgate's operator listener?"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_from_a_status_line_only() {
        assert_eq!(status(b"HTTP/1.1 200 OK"), Some(200));
        assert_eq!(status(b"HTTP/1.0 503"), Some(503));
        for rubbish in ["", "HTTP/1.1", "HTTP/1.1 ", "HTTP/1.1 2000 OK", "HTTP/1.1 20 OK", "HTTP/2 200", "220 mail 200"]
        {
            assert_eq!(status(rubbish.as_bytes()), None, "{rubbish}");
        }
        assert_eq!(status(b"HTTP/1.1 200 \xff"), None);
    }
}
