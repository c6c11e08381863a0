//! stub
/// x
#[derive(Debug, Clone, Copy)]
pub enum Format {
    /// x
    Auto,
    /// x
    Human,
    /// x
    Json,
}
/// x
#[derive(Debug, Clone)]
pub struct Config {
    /// x
    pub format: Format,
    /// x
    pub access: bool,
    /// x
    pub level: tracing::Level,
}
