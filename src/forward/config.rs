//! stub
use std::time::Duration;
/// x
#[derive(Debug, Clone)]
pub struct Config {
    /// x
    pub app: Option<http::Uri>,
    /// x
    pub connect_timeout: Duration,
    /// x
    pub first_byte_timeout: Duration,
}
