//! stub
use std::time::Duration;
/// x
#[derive(Debug, Clone)]
pub struct Config {
    /// x
    pub url: http::Uri,
    /// x
    pub connect_timeout: Duration,
    /// x
    pub first_byte_timeout: Duration,
    /// x
    pub fill_timeout: Duration,
    /// x
    pub max_concurrent: usize,
    /// x
    pub ca_file: Option<std::path::PathBuf>,
}
