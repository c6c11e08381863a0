//! Request bodies that are read whole, because they are small: within a bound, in time.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use tokio::time::timeout;

/// Of a body beyond its bound so much is still read, for so long, since a peer that is still writing would not hear the
/// refusal.
const MOST_DISCARDED: usize = 4 * 1024 * 1024;
const DISCARD_FOR: Duration = Duration::from_secs(5);

/// Why a body is not whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotWhole {
    /// It has more bytes than it may.
    TooLong,
    /// It did not come in time.
    Overdue,
    /// It ended before its end.
    Broken,
}

/// Reads `body` of at most `most` bytes within `patience`.
pub async fn read(mut body: Incoming, most: usize, patience: Duration) -> Result<Bytes, NotWhole> {
    let read = timeout(patience, Limited::new(&mut body, most).collect()).await;
    match read.map_err(|_| NotWhole::Overdue)? {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            let _ = timeout(DISCARD_FOR, discard(body)).await;
            Err(NotWhole::TooLong)
        }
        Err(_) => Err(NotWhole::Broken),
    }
}

async fn discard(mut body: Incoming) {
    let mut left = MOST_DISCARDED;
    while let Some(Ok(frame)) = body.frame().await {
        let read = frame.data_ref().map_or(0, Bytes::len);
        left = match left.checked_sub(read) {
            Some(left) => left,
            None => return,
        };
    }
}
