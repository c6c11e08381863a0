//! stub
/// x
#[derive(Debug, Clone)]
pub struct CorsConfig {
    /// x
    pub allow_origins: Vec<String>,
}
