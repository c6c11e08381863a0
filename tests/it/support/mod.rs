//! The real proxy between a scripted origin and raw clients, all over sockets on port 0.

pub mod api;
pub mod app;
pub mod browser;
pub mod client;
pub mod command;
pub mod frames;
pub mod load;
pub mod origin;
pub mod proxy;
pub mod relay;
pub mod scanner;
pub mod tickets;
pub mod tls;

use std::time::Duration;

/// Longer than anything here takes; a test that reaches it has found something that hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for `condition` without guessing how long it takes.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never happened: {what}"));
}
