//! Introductions: with `proxy_protocol` every connection to a public listener begins with a word of who comes (S30), before
//! TLS and before HTTP. Only trusted peers may introduce somebody; whoever else comes is closed. What the word says,
//! [`super::proxy_header`] reads.
//!
//! Not a byte behind the header is taken from the socket: what has come is looked at first, and only what belongs to the
//! header is read.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fmt, io};

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::proxy_header::{BadHeader, Header, LONGEST};
use crate::limit::Trust;
use crate::metrics::Metrics;

/// Hears the introductions of all connections.
#[derive(Debug)]
pub struct Introductions {
    trust: Trust,
    limit: Duration,
    metrics: Arc<Metrics>,
    warned: AtomicBool,
    warned_of_headers: AtomicBool,
}

/// Why nobody was introduced.
#[derive(Debug)]
enum Unheard {
    /// The peer hung up in the middle of its header,
    Cut,
    /// or before its first byte, as probes do that only want to see a port open.
    Probe,
    /// The header was not whole in time.
    Slow,
    /// It is none.
    Bad(BadHeader),
    /// The socket broke.
    Io(io::Error),
}

impl Introductions {
    /// Hears those whom `trust` covers, each within `limit`.
    pub fn new(trust: Trust, limit: Duration, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            trust,
            limit,
            metrics,
            warned: AtomicBool::new(false),
            warned_of_headers: AtomicBool::new(false),
        })
    }

    /// The client that `peer` introduces, which may be itself; `None` when the connection is to be closed. That is counted.
    /// Dropping the future loses the part of the header that was read.
    pub async fn hear(&self, stream: &mut TcpStream, peer: SocketAddr) -> Option<SocketAddr> {
        if !self.trust.covers(peer.ip()) {
            self.note_stranger(peer);
            return None;
        }
        let heard = timeout(self.limit, read(stream)).await.unwrap_or(Err(Unheard::Slow));
        heard.map(|header| header.client.unwrap_or(peer)).map_err(|unheard| self.note(&unheard, peer)).ok()
    }

    fn note(&self, unheard: &Unheard, peer: SocketAddr) {
        if !matches!(unheard, Unheard::Probe) {
            self.metrics.proxy_headers_refused.inc();
            if !self.warned_of_headers.swap(true, Ordering::Relaxed) {
                tracing::warn!(%peer, "closed, its PROXY header is of no use: {unheard}; further ones are counted, and told at debug");
                return;
            }
        }
        tracing::debug!(%peer, "closed, its PROXY header is of no use: {unheard}");
    }

    /// A forgotten line of configuration closes everything: said once, counted always.
    fn note_stranger(&self, peer: SocketAddr) {
        self.metrics.connections_refused.inc();
        if !self.warned.swap(true, Ordering::Relaxed) {
            let (peer, add) = (peer.ip(), self.trust.line_to_add(peer.ip()));
            tracing::warn!(%peer, "closed: with proxy_protocol only trusted peers may come; if this peer is your proxy, set {add}");
        }
    }
}

/// Takes exactly the header from `stream`.
async fn read(stream: &mut TcpStream) -> Result<Header, Unheard> {
    // Until then, a silent connection costs no buffer.
    stream.readable().await?;
    let mut bytes = vec![0; LONGEST];
    let mut taken = 0;
    loop {
        let seen = taken + stream.peek(&mut bytes[taken..]).await?;
        if seen == taken {
            return Err(if taken == 0 { Unheard::Probe } else { Unheard::Cut });
        }
        let header = Header::parse(&bytes[..seen])?;
        let end = header.map_or(seen, |header| header.length);
        // A part is taken as well: left where it is, it would be seen again at once, and again.
        stream.read_exact(&mut bytes[taken..end]).await?;
        match header {
            Some(header) => return Ok(header),
            None => taken = end,
        }
    }
}

impl From<BadHeader> for Unheard {
    fn from(bad: BadHeader) -> Self {
        Self::Bad(bad)
    }
}

impl From<io::Error> for Unheard {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl fmt::Display for Unheard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cut => f.write_str("it ends in its middle"),
            Self::Probe => f.write_str("the connection ended before it"),
            Self::Slow => f.write_str("it was not whole within timeouts.first_byte"),
            Self::Bad(bad) => bad.fmt(f),
            Self::Io(error) => error.fmt(f),
        }
    }
}
