//! Talks to the operator's listener of a running server, for the commands that need it. Blocks, within a deadline whatever the
//! other side does.

use std::fmt;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::{BAD_USAGE, Options, complain, refuse};
use crate::admin::token::Token;
use crate::clock::Clock;
use crate::moment::Tick;

/// Holds the operator's token, so that no command line shows it.
pub(super) const TOKEN_VARIABLE: &str = "TICKETGATE_ADMIN_TOKEN";

/// Bytes within which an answer has told its status.
const LONGEST_STATUS_LINE: usize = 1024;

/// Bytes of an answer that are read.
const LONGEST_ANSWER: usize = 1024 * 1024;

/// Whom to ask.
#[derive(Debug, Args)]
pub(super) struct Whom {
    /// The operator's listener [default: admin.listen of the configuration that "serve" reads, or 127.0.0.1:9180].
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
    #[arg(long, value_name = "FILE", conflicts_with = "admin", help = "The configuration file of the server")]
    config: Option<PathBuf>,
}

/// The operator's listener of a running server.
pub(super) struct Operator {
    pub(super) address: SocketAddr,
    token: Option<String>,
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: u16,
    /// When to come back, if it says so.
    pub(super) retry_after: Option<Duration>,
    pub(super) text: String,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Trouble {
    Unreachable(io::Error),
    Slow(Duration),
    Broken(io::Error),
    Closed,
    Rubbish,
    /// The environment holds no token that could be sent.
    BadToken,
}

impl Whom {
    /// Finds it. A configuration is read only when nobody says where, or a broken one would make a running server ill. `before` are
    /// the flags that stand before the command.
    pub(super) fn find(self, before: Options, environment: Vec<(String, String)>) -> Result<Operator, ExitCode> {
        let (tokens, environment): (Vec<_>, Vec<_>) =
            environment.into_iter().partition(|(name, _)| name == TOKEN_VARIABLE);
        let token = tokens.into_iter().map(|(_, token)| token).find(|token| !token.is_empty());
        let configured = || {
            let options = Options { config: self.config, ..Options::default() }.or(before);
            // Where the server's token stands in a file, ours beside it would be a contradiction.
            options.load(environment).map(|loaded| loaded.config.admin.listen).map_err(|mistakes| refuse(&mistakes))
        };
        let listen = self.admin.map_or_else(configured, |address| Ok(Some(address)))?;
        let told = match listen {
            None => "admin.listen is off, there is nobody to ask",
            Some(address) if address.port() == 0 => "port 0 is picked at the start; name the real one with --admin",
            Some(address) => return Ok(Operator { address: reachable(address), token }),
        };
        complain(told);
        Err(ExitCode::from(BAD_USAGE))
    }
}

impl Operator {
    /// Asks for the status of `path` alone, without the token.
    pub(super) fn status_of(&self, path: &str, patience: Duration) -> Result<u16, Trouble> {
        let mut exchange = Exchange::begin(self.address, patience)?;
        exchange.send(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address))?;
        status(&exchange.status_line()?).ok_or(Trouble::Rubbish)
    }

    /// Posts `body`, JSON, to `path`.
    pub(super) fn post(&self, path: &str, body: &str, patience: Duration) -> Result<Reply, Trouble> {
        if self.token.as_ref().is_some_and(|token| Token::of(token).is_none()) {
            return Err(Trouble::BadToken);
        }
        let mut exchange = Exchange::begin(self.address, patience)?;
        let (host, length) = (self.address, body.len());
        let token = self.token.as_ref().map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
        exchange.send(&format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n{token}\r\n{body}"
        ))?;
        Reply::of(&exchange.rest()?).ok_or(Trouble::Rubbish)
    }
}

impl Reply {
    fn of(bytes: &[u8]) -> Option<Self> {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
        let mut lines = bytes[..end].split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
        let status = status(lines.next()?)?;
        let retry_after = lines.find_map(|line| {
            let (name, value) = std::str::from_utf8(line).ok()?.split_once(':')?;
            let seconds = name.eq_ignore_ascii_case("retry-after").then(|| value.trim().parse().ok())?;
            seconds.map(Duration::from_secs)
        });
        Some(Self { status, retry_after, text: String::from_utf8_lossy(&bytes[end + 4..]).trim_end().to_owned() })
    }
}

/// Who listens everywhere listens on loopback too.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let loopback: IpAddr = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        _ => return listen,
    };
    SocketAddr::new(loopback, listen.port())
}

/// The status in the first line of an answer (RFC 9112 §4).
fn status(line: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(line).ok()?;
    let code = line.strip_prefix("HTTP/1.")?.split(' ').nth(1)?;
    code.parse().ok().filter(|code| (100..1000).contains(code))
}

/// One request and its answer, on a connection of its own.
struct Exchange {
    stream: TcpStream,
    deadline: Deadline,
}

impl Exchange {
    fn begin(address: SocketAddr, patience: Duration) -> Result<Self, Trouble> {
        let deadline = Deadline::after(patience);
        let stream = TcpStream::connect_timeout(&address, patience).map_err(|error| match error.kind() {
            ErrorKind::TimedOut => Trouble::Slow(patience),
            _ => Trouble::Unreachable(error),
        })?;
        Ok(Self { stream, deadline })
    }

    fn send(&mut self, request: &str) -> Result<(), Trouble> {
        let left = self.deadline.left()?;
        self.stream.set_write_timeout(Some(left)).map_err(|error| self.broken(error))?;
        self.stream.write_all(request.as_bytes()).map_err(|error| self.broken(error))
    }

    /// The first line of the answer.
    fn status_line(&mut self) -> Result<Vec<u8>, Trouble> {
        let mut read = Vec::new();
        while read.len() < LONGEST_STATUS_LINE {
            if !self.read_more(&mut read, LONGEST_STATUS_LINE)? {
                return Err(if read.is_empty() { Trouble::Closed } else { Trouble::Rubbish });
            }
            if let Some(end) = read.windows(2).position(|two| two == b"\r\n") {
                read.truncate(end);
                return Ok(read);
            }
        }
        Err(Trouble::Rubbish)
    }

    /// The whole answer.
    fn rest(&mut self) -> Result<Vec<u8>, Trouble> {
        let mut read = Vec::new();
        while read.len() < LONGEST_ANSWER && self.read_more(&mut read, LONGEST_ANSWER)? {}
        if read.is_empty() { Err(Trouble::Closed) } else { Ok(read) }
    }

    /// Whether there was more; never beyond `most`.
    fn read_more(&mut self, read: &mut Vec<u8>, most: usize) -> Result<bool, Trouble> {
        let mut piece = [0; 4096];
        let room = piece.len().min(most - read.len());
        loop {
            let left = self.deadline.left()?;
            self.stream.set_read_timeout(Some(left)).map_err(|error| self.broken(error))?;
            match self.stream.read(&mut piece[..room]) {
                Ok(more) => {
                    read.extend_from_slice(&piece[..more]);
                    return Ok(more > 0);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broken(error)),
            }
        }
    }

    /// A timeout of a socket is `WouldBlock` on some systems, `TimedOut` on others.
    fn broken(&self, error: io::Error) -> Trouble {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Trouble::Slow(self.deadline.patience),
            _ => Trouble::Broken(error),
        }
    }
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

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(error) => write!(f, "not reachable: {error}"),
            Self::Slow(patience) => write!(f, "no answer within {}", humantime::format_duration(*patience)),
            Self::Broken(error) => write!(f, "the connection broke: {error}"),
            Self::Closed => write!(f, "closed without an answer"),
            Self::Rubbish => write!(f, "what answers there speaks no HTTP/1"),
            Self::BadToken => write!(f, "{TOKEN_VARIABLE} holds no token of 1 to 512 visible ASCII characters"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unspecified_address_is_asked_on_loopback() {
        for (listen, asked) in [
            ("0.0.0.0:9180", "127.0.0.1:9180"),
            ("[::]:9180", "[::1]:9180"),
            ("10.0.0.1:9180", "10.0.0.1:9180"),
            ("127.0.0.2:1", "127.0.0.2:1"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()), asked.parse().unwrap());
        }
    }

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

    #[test]
    fn an_answer_is_read_with_its_reason() {
        let reply = Reply::of(b"HTTP/1.1 503 Service Unavailable\r\nX: \xff\r\nretry-after: 2\r\n\r\nlater\n");
        let retry_after = Some(Duration::from_secs(2));
        assert_eq!(reply, Some(Reply { status: 503, retry_after, text: "later".to_owned() }));
        assert_eq!(Reply::of(b"HTTP/1.1 204 No Content\r\n\r\n").map(|reply| reply.status), Some(204));
        assert_eq!(Reply::of(b"HTTP/1.1 204 No Content\r\n"), None);
    }
}
