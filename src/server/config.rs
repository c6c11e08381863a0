//! The public listeners, their connections and their end.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// The public listeners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `listen`: where, in the clear; port 0 picks a free one, `None` is off.
    pub listen: Option<SocketAddr>,
    /// `[tls]`.
    pub tls: super::tls::Config,
    /// `proxy_protocol`: whether every connection begins with a header of the PROXY protocol.
    pub proxy_protocol: bool,
    /// `drain`: from the signal until what is left is cut.
    pub drain: Duration,
    /// `drain_delay`: of that, how long connections are still accepted, so that load balancers notice.
    pub drain_delay: Duration,
    /// `[timeouts]`.
    pub timeouts: Timeouts,
    /// `limits.max_connections`: open at once; past them newcomers wait, all but one in the kernel's queue.
    pub max_connections: usize,
    /// `limits.max_connections_per_client`: of one untrusted address (IPv6: /64); past them newcomers are closed.
    pub max_connections_per_client: usize,
}

/// How long a client may keep us waiting; see [`super::deadline_io`] for what happens then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// `first_byte`: from the accept to the first byte. With `proxy_protocol` from the accept to the end of the header, and
    /// again to the first byte behind it; over TLS again from the handshake to the first byte behind it.
    pub first_byte: Duration,
    /// `head`: from a request's first byte to the end of its head.
    pub head: Duration,
    /// `body`: between two pieces of a request's body.
    pub body: Duration,
    /// `write`: an answer that makes no progress.
    pub write: Duration,
    /// `keep_alive`: between two requests.
    pub keep_alive: Duration,
    /// `tls_handshake`: from the accept, or the end of the PROXY header, to the end of the handshake.
    pub tls_handshake: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Some((Ipv4Addr::LOCALHOST, 8080).into()),
            tls: super::tls::Config::default(),
            proxy_protocol: false,
            drain: Duration::from_secs(25),
            drain_delay: Duration::from_secs(5),
            timeouts: Timeouts::default(),
            max_connections: 10_000,
            max_connections_per_client: 1024,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            first_byte: Duration::from_secs(5),
            head: Duration::from_secs(10),
            body: Duration::from_secs(30),
            write: Duration::from_secs(30),
            keep_alive: Duration::from_secs(75),
            tls_handshake: Duration::from_secs(10),
        }
    }
}
