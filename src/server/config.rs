//! stub
use std::net::SocketAddr;
use std::time::Duration;
/// x
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// x
    pub first_byte: Duration,
    /// x
    pub head: Duration,
    /// x
    pub body: Duration,
    /// x
    pub write: Duration,
    /// x
    pub keep_alive: Duration,
}
/// x
#[derive(Debug, Clone)]
pub struct Config {
    /// x
    pub listen: SocketAddr,
    /// x
    pub drain: Duration,
    /// x
    pub drain_delay: Duration,
    /// x
    pub timeouts: Timeouts,
    /// x
    pub max_connections: usize,
    /// x
    pub max_connections_per_client: usize,
}
