//! The app behind us: `app` and `[forward]`.

use std::path::PathBuf;
use std::time::Duration;

use http::Uri;

/// Where other paths go, and how long we wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `app`: scheme and authority; `None` answers 404.
    pub app: Option<Uri>,
    /// `connect_timeout`: name, TCP and TLS together.
    pub connect_timeout: Duration,
    /// `first_byte_timeout`: from the connection to the head of the answer.
    pub first_byte_timeout: Duration,
    /// `tunnel_idle`: how long nothing may move in a tunnel.
    pub tunnel_idle: Duration,
    /// `ca_file`: PEM certificates to believe besides the web's; `None` when empty.
    pub ca_file: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            app: None,
            connect_timeout: Duration::from_secs(3),
            first_byte_timeout: Duration::from_secs(60),
            tunnel_idle: Duration::from_secs(3600),
            ca_file: None,
        }
    }
}
