//! `[origin]`.

use std::path::PathBuf;
use std::time::Duration;

use http::Uri;

/// Who is asked for images, and how long we wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `url`: scheme and authority; its path, if it has one, replaces WeChat's.
    pub url: Uri,
    /// `connect_timeout`: name, TCP and TLS together.
    pub connect_timeout: Duration,
    /// `first_byte_timeout`: from the connection to the head of the answer.
    pub first_byte_timeout: Duration,
    /// `fill_timeout`: the whole exchange.
    pub fill_timeout: Duration,
    /// `max_concurrent`: exchanges at once.
    pub max_concurrent: usize,
    /// `ca_file`: PEM certificates to believe besides the web's; `None` when empty.
    pub ca_file: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: Uri::from_static("https://mp.weixin.qq.com"),
            connect_timeout: Duration::from_secs(3),
            first_byte_timeout: Duration::from_secs(10),
            fill_timeout: Duration::from_secs(20),
            max_concurrent: 64,
            ca_file: None,
        }
    }
}
