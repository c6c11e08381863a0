//! stub
/// x
#[derive(Debug, Clone)]
pub struct Config {
    /// x
    pub listen: Option<std::net::SocketAddr>,
}
