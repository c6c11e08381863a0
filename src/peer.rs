//! Who is at the other end of a client connection, and how it speaks to us.

use std::net::{IpAddr, SocketAddr};

/// The other end of a client connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its socket's address, or the one that a trusted peer introduced it with (see [`crate::server::introduction`]).
    pub address: SocketAddr,
    /// What it spoke to us, whatever it was before another proxy.
    pub scheme: Scheme,
}

/// With or without TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Over TLS.
    Https,
}

impl Peer {
    /// Its address without the port.
    pub fn ip(&self) -> IpAddr {
        self.address.ip()
    }
}

impl Scheme {
    /// As URLs and forwarding fields write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}
