//! stub
use std::time::Duration;
/// x
#[derive(Debug, Clone)]
pub struct Config {
    /// x
    pub memory: u64,
    /// x
    pub max_image: u64,
    /// x
    pub default_ttl: Duration,
    /// x
    pub negative_ttl: Duration,
}
