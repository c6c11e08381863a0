//! `[admin]`.

use std::net::{Ipv4Addr, SocketAddr};

/// The operator's listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `listen`: where; `None` is off.
    pub listen: Option<SocketAddr>,
}

impl Default for Config {
    fn default() -> Self {
        Self { listen: Some((Ipv4Addr::LOCALHOST, 9180).into()) }
    }
}
