//! A running server, as the commands that ask its operator's listener see it (S40): where it listens, what it wants to be
//! shown, and one call at a time over a connection of its own. What is asked, and what an answer means, is left to the
//! commands. Every wait has a bound, and the token is told to nobody but the listener.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use clap::Args;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{BAD_USAGE, Options, complain, refuse};
use crate::admin::token::Credential;
use crate::config::{Config, Sources};

/// For a connection to come to be.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// For an answer to begin: the listener itself waits 30 s for a body.
const BEGIN_WITHIN: Duration = Duration::from_secs(40);
/// For a whole answer, and between two lines of one that is told by and by: longer than any connection of the listener lives.
const GO_ON_WITHIN: Duration = Duration::from_secs(660);
/// Bytes of an answer that is read whole, and of one line.
const LONGEST_ANSWER: usize = 1024 * 1024;
const LONGEST_LINE: usize = 64 * 1024;
/// Bytes of a refusal that are told.
const LONGEST_REASON: usize = 300;

/// Tickets in one call: far below the listener's 1 MiB however they are written, and done within the life of one of its
/// connections at a pace of one in two seconds.
pub(super) const BATCH: usize = 256;

/// What tells a token.
const TOKENS: [&str; 2] = ["TICKETGATE_ADMIN_TOKEN", "TICKETGATE_ADMIN_TOKEN_FILE"];

/// Which server is asked.
#[derive(Debug, Args)]
pub(super) struct Whom {
    /// The operator's listener [default: admin.listen of the configuration that "serve" reads, or 127.0.0.1:9180].
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
    #[arg(long, value_name = "FILE", conflicts_with = "admin", help = "The configuration file of the server")]
    config: Option<PathBuf>,
}

/// The operator's listener of a running server.
#[derive(Debug, Clone)]
pub(super) struct Operator {
    address: SocketAddr,
    credential: Option<Credential>,
}

/// An answer that is told line by line, JSON each.
pub(super) struct Lines {
    body: Incoming,
    unread: BytesMut,
}

/// Why a call came to nothing.
#[derive(Debug)]
pub(super) enum Trouble {
    /// No connection could be made.
    Unreachable(io::Error),
    /// Nothing came for so long.
    Slow(Duration),
    /// The connection ended before the answer did.
    Broken(hyper::Error),
    /// The token is missing, or, when one was shown, wrong.
    Token {
        /// Whether one was shown.
        shown: bool,
    },
    /// The listener refuses, and says why.
    Refused(StatusCode, String),
    /// The same for now; it names when to come back.
    Later(Duration, String),
    /// This machine does not let us ask.
    System(io::Error),
    /// Somebody else answers there.
    Stranger(Option<StatusCode>),
}

impl Whom {
    /// Where to ask. A configuration is read only when nobody says so, or a broken one would make a running server ill.
    /// `before` are the flags that stand before the command.
    pub(super) fn address(&self, before: &Options, environment: &[(String, String)]) -> Result<SocketAddr, ExitCode> {
        let configured = || {
            // What is shown there may come from elsewhere than the server's own token, and is no contradiction to it.
            let rest: Vec<_> =
                environment.iter().filter(|(name, _)| !TOKENS.contains(&name.as_str())).cloned().collect();
            let loaded = Config::load(self.sources(before, &rest));
            loaded.map(|loaded| loaded.config.admin.listen).map_err(|mistakes| refuse(&mistakes))
        };
        let listen = self.admin.map_or_else(configured, |address| Ok(Some(address)))?;
        let told = match listen {
            None => "admin.listen is off, there is nobody to ask",
            Some(address) if address.port() == 0 => "port 0 is picked at the start; name the real one with --admin",
            Some(address) => return Ok(reachable(address)),
        };
        complain(told);
        Err(ExitCode::from(BAD_USAGE))
    }

    /// The same with what has to be shown there: `TICKETGATE_ADMIN_TOKEN`, or what a configuration that is read says.
    pub(super) fn operator(&self, before: &Options, environment: &[(String, String)]) -> Result<Operator, ExitCode> {
        let address = self.address(before, environment)?;
        match Config::credential(self.sources(before, environment)) {
            Ok(credential) => Ok(Operator { address, credential }),
            Err(why) => {
                complain(why);
                Err(ExitCode::from(BAD_USAGE))
            }
        }
    }

    /// With `--admin` the environment alone.
    fn sources(&self, before: &Options, environment: &[(String, String)]) -> Sources {
        if self.admin.is_some() {
            return Sources { environment: environment.to_vec(), ..Sources::default() };
        }
        let own = Options { config: self.config.clone(), ..Options::default() };
        own.or(before.clone()).sources(environment.to_vec())
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

impl Operator {
    /// Posts `body` to `path` and reads the JSON that is answered; `null` where a call has nothing to say.
    pub(super) async fn call(&self, path: &str, body: &Value) -> Result<Value, Trouble> {
        let response = self.post(path, body).await?;
        let status = response.status();
        let whole = timeout(GO_ON_WITHIN, whole(response)).await.map_err(|_| Trouble::Slow(GO_ON_WITHIN))??;
        if status == StatusCode::NO_CONTENT {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&whole).map_err(|_| Trouble::Stranger(Some(status)))
    }

    /// Posts `body` to `path`, where the answer is told line by line. Dropping the lines hangs up.
    pub(super) async fn lines(&self, path: &str, body: &Value) -> Result<Lines, Trouble> {
        let response = self.post(path, body).await?;
        let is_lines = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/x-ndjson");
        if !is_lines {
            return Err(Trouble::Stranger(Some(response.status())));
        }
        Ok(Lines { body: response.into_body(), unread: BytesMut::new() })
    }

    /// An answer that is a success.
    async fn post(&self, path: &str, body: &Value) -> Result<Response<Incoming>, Trouble> {
        let response = self.send(self.request(path, body.to_string())).await?;
        match response.status() {
            StatusCode::OK | StatusCode::NO_CONTENT => Ok(response),
            StatusCode::UNAUTHORIZED => Err(Trouble::Token { shown: self.credential.is_some() }),
            status => Err(self.refusal(status, response).await),
        }
    }

    fn request(&self, path: &str, body: String) -> Request<Full<Bytes>> {
        let request = Request::post(path)
            .header(header::HOST, self.address.to_string())
            .header(header::CONTENT_TYPE, "application/json");
        let shown = self.credential.iter().map(Credential::authorization);
        let request = shown.fold(request, |request, shown| request.header(header::AUTHORIZATION, shown));
        request.body(Full::from(body)).expect("constant names, an address and a token that was checked")
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Trouble> {
        let connecting = timeout(CONNECT_WITHIN, TcpStream::connect(self.address)).await;
        let stream = connecting.map_err(|_| Trouble::Slow(CONNECT_WITHIN))?.map_err(Trouble::Unreachable)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(Trouble::of)?;
        // Ends with the answer, or with whoever reads it.
        tokio::spawn(connection);
        let answered = timeout(BEGIN_WITHIN, sender.send_request(request)).await;
        answered.map_err(|_| Trouble::Slow(BEGIN_WITHIN))?.map_err(Trouble::of)
    }

    /// What a listener of ours says in a line of text; of anybody else nothing is repeated.
    async fn refusal(&self, status: StatusCode, response: Response<Incoming>) -> Trouble {
        let is_ours =
            response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "text/plain; charset=utf-8");
        if !is_ours || matches!(status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) {
            return Trouble::Stranger(Some(status));
        }
        let later = response.headers().get(header::RETRY_AFTER).and_then(|after| after.to_str().ok()?.parse().ok());
        let read = timeout(BEGIN_WITHIN, whole(response)).await;
        let text = String::from_utf8_lossy(read.ok().and_then(Result::ok).as_deref().unwrap_or_default()).into_owned();
        let text = self.credential.as_ref().map_or_else(|| text.clone(), |shown| shown.masked(&text));
        let reason = text.trim().chars().filter(|c| !c.is_control()).take(LONGEST_REASON).collect();
        match later.map(Duration::from_secs) {
            Some(later) if status == StatusCode::SERVICE_UNAVAILABLE => Trouble::Later(later, reason),
            _ => Trouble::Refused(status, reason),
        }
    }
}

async fn whole(response: Response<Incoming>) -> Result<Bytes, Trouble> {
    let stranger = Trouble::Stranger(Some(response.status()));
    match Limited::new(response.into_body(), LONGEST_ANSWER).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(stranger),
        Err(error) => Err(error.downcast().map_or(stranger, |error| Trouble::Broken(*error))),
    }
}

impl Lines {
    /// The next line; `None` at the end. Dropping the future loses nothing.
    pub(super) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Trouble> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line = self.unread.split_to(end + 1);
                return serde_json::from_slice(&line).map(Some).map_err(|_| Trouble::Stranger(None));
            }
            if self.unread.len() > LONGEST_LINE {
                return Err(Trouble::Stranger(None));
            }
            let frame = timeout(GO_ON_WITHIN, self.body.frame()).await.map_err(|_| Trouble::Slow(GO_ON_WITHIN))?;
            match frame {
                None => return Ok(None),
                Some(frame) => {
                    let frame = frame.map_err(Trouble::Broken)?;
                    self.unread.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
                }
            }
        }
    }
}

impl Trouble {
    fn of(error: hyper::Error) -> Self {
        if error.is_parse() { Self::Stranger(None) } else { Self::Broken(error) }
    }
}

/// Asks, on this thread.
pub(super) fn wait_for<T>(asking: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Trouble::System)?;
    runtime.block_on(asking)
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.address)
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(error) => {
                write!(f, "not reachable: {error}; does the server run, and is this its admin.listen?")
            }
            Self::Slow(patience) => write!(f, "no answer within {}", humantime::format_duration(*patience)),
            Self::Broken(error) => write!(f, "the connection broke: {error}"),
            Self::Token { shown: false } => {
                f.write_str("it wants the token (401): set TICKETGATE_ADMIN_TOKEN to the server's admin.token")
            }
            Self::Token { shown: true } => {
                f.write_str("the token is wrong (401): set TICKETGATE_ADMIN_TOKEN to the server's admin.token")
            }
            Self::Refused(status, reason) => write!(f, "refused ({}): {reason}", status.as_u16()),
            Self::Later(later, reason) => write!(f, "refused for {}: {reason}", humantime::format_duration(*later)),
            Self::System(error) => write!(f, "cannot ask: {error}"),
            Self::Stranger(Some(status)) => {
                write!(f, "answered {}; is it ticketgate's operator listener?", status.as_u16())
            }
            Self::Stranger(None) => f.write_str("what answers there is no operator's listener of ticketgate"),
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
}
