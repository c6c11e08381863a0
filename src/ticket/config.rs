//! `[tickets]`.

use std::path::PathBuf;

/// How tickets are treated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `strict`: what is not recognised as a ticket is answered 404 here, without asking the origin (S10).
    pub strict: bool,
    /// `expired`: what becomes of a ticket whose life is over (S22).
    pub expired: Expired,
    /// `allow`: whose images are served (S36).
    pub allow: Allow,
    /// `store`: the file in which own tickets survive a restart.
    pub store: Option<PathBuf>,
    /// `max_own`: own tickets known at once.
    pub max_own: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { strict: false, expired: Expired::Ask, allow: Allow::Any, store: None, max_own: 1_000_000 }
    }
}

/// `tickets.expired`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Expired {
    /// The origin is asked, a tenth as often as otherwise, and its answer is shown and not stored.
    #[default]
    Ask,
    /// 410 here, without asking the origin.
    Gone,
}

/// `tickets.allow`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Allow {
    /// Whatever ticket somebody brings.
    #[default]
    Any,
    /// Own tickets alone: 403 for all others, without asking the origin.
    Own,
}
