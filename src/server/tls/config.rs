//! The TLS listener.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// `[tls]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// `listen`: where; port 0 picks a free one, `None` is off.
    pub listen: Option<SocketAddr>,
    /// `cert`: the certificate chain, PEM, the server's own first.
    pub cert: Option<PathBuf>,
    /// `key`: its private key, PEM.
    pub key: Option<PathBuf>,
    /// `redirect`: a listener in the clear that sends everybody to `listen`; `None` is off.
    pub redirect: Option<SocketAddr>,
}

impl Config {
    /// The keys that name a file, and the files.
    pub fn files(&self) -> [(&'static str, Option<&Path>); 2] {
        [("tls.cert", self.cert.as_deref()), ("tls.key", self.key.as_deref())]
    }
}
