//! What an origin of ours reads and says: one after the other the targets it is asked for, and what time it is.

use std::time::{Duration, UNIX_EPOCH};

use ticketgate::clock::Clock;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// Bytes of a request's head at most.
const LONGEST_HEAD: usize = 16 * 1024;

/// The target of the next request, which has no body; `None` when no more come. `head` is the room it is read into.
pub async fn next_target(stream: &mut TcpStream, head: &mut Vec<u8>) -> Option<String> {
    head.clear();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > LONGEST_HEAD || stream.read_buf(head).await.ok()? == 0 {
            return None;
        }
    }
    Some(String::from_utf8_lossy(head).split(' ').nth(1).unwrap_or_default().to_owned())
}

/// The value of `Date`.
pub fn date(clock: &Clock) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(clock.now().wall.unix().cast_unsigned()))
}
