//! stub
/// x
#[derive(Debug, Clone)]
pub struct Config {
    /// x
    pub paths: Vec<String>,
    /// x
    pub health_path: Option<String>,
}
