//! `[log]`.

use tracing::Level;

use super::ClientShown;

/// What is logged, and how it looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `format`.
    pub format: Format,
    /// `access`: one line for each request.
    pub access: bool,
    /// `client`: how much of an address access lines tell.
    pub client: ClientShown,
    /// `level` of everything else.
    pub level: Level,
}

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Human on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self { format: Format::Auto, access: true, client: ClientShown::Full, level: Level::INFO }
    }
}
