//! `[tickets]`.

/// How tickets are treated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Config {
    /// `strict`: what is not recognised as a ticket is answered 404 here, without asking the origin (S10).
    pub strict: bool,
}
