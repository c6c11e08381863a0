//! `[cache]`.

use std::time::Duration;

use super::grace::Grace;
use super::pass_headers::PassHeaders;

const DAY: Duration = Duration::from_secs(86_400);

/// What is kept, and for how long where the origin says nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `memory`: bytes for images, their overhead included.
    pub memory: u64,
    /// `max_image`: bytes of the largest image.
    pub max_image: u64,
    /// `default_ttl`: the lifetime of an image whose answer names none.
    pub default_ttl: Duration,
    /// `negative_ttl`: how long a 404 is remembered at most.
    pub negative_ttl: Duration,
    /// `stale_while_revalidate`, `stale_if_error`: how long a stale image is served where the answer does not say.
    pub grace: Grace,
    /// `pass_headers`: which of the origin's fields pass on with an image.
    pub pass_headers: PassHeaders,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            memory: 256 * 1024 * 1024,
            max_image: 1024 * 1024,
            default_ttl: Duration::from_secs(60),
            negative_ttl: Duration::from_secs(10),
            // A ticket's code does not change, and its expiry caps both.
            grace: Grace { while_revalidate: 30 * DAY, if_error: 30 * DAY },
            pass_headers: PassHeaders::NONE,
        }
    }
}
