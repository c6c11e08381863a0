//! Going out, to the origin and to the app: how a connection is opened and whom TLS believes ([`connect`], [`trust`]), what
//! came over it ([`wire`], and for who looks [`transcript`]), why there is none ([`trouble`]), and how long one waits. What is sent, over which connection, and
//! what an answer means, is left to [`crate::origin`] and [`crate::forward`].

pub mod connect;
pub mod pooled;
pub mod transcript;
pub mod trouble;
pub mod trust;
pub mod wire;

use std::time::Duration;

pub use connect::Connector;
use tokio::time::{Instant, sleep_until};
pub use transcript::Transcript;
pub use trouble::{Trouble, certificate_cause};
pub use trust::{BadCaFile, check_ca_file};
pub use wire::Wire;

/// A deadline resets a stream of HTTP/2 and leaves its connection in use: one that a middlebox dropped without a word would
/// fail every request until TCP gave up, a quarter of an hour. A ping after so long a silence finds out, while an answer is
/// awaited,
pub const PING_AFTER: Duration = Duration::from_secs(2);
/// and this long without an echo ends the connection: together, before `origin.first_byte_timeout` as shipped.
pub const PING_ECHO: Duration = Duration::from_secs(3);

/// Waits for the head of an answer, which `sending` brings; `None` when nothing has moved for `first_byte` before it came.
/// `quiet_since` tells when something last moved, and does not count the time to connect.
pub async fn head<T>(
    sending: impl Future<Output = T>,
    quiet_since: impl Fn() -> Instant,
    first_byte: Duration,
) -> Option<T> {
    tokio::select! {
        biased;
        answered = sending => Some(answered),
        () = silence(quiet_since, first_byte) => None,
    }
}

/// Ends when nothing has moved for `bound`.
pub async fn silence(quiet_since: impl Fn() -> Instant, bound: Duration) {
    let mut since = quiet_since();
    loop {
        sleep_until(since + bound).await;
        let moved = quiet_since();
        if moved == since {
            return;
        }
        since = moved;
    }
}
