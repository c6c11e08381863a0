//! `[cors]`.

/// Whose scripts may read our answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorsConfig {
    /// `allow_origins`: `*` alone, or origins as browsers send them; empty allows nobody.
    pub allow_origins: Vec<String>,
}

impl Default for CorsConfig {
    fn default() -> Self {
        Self { allow_origins: vec!["*".to_owned()] }
    }
}
