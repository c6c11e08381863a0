//! Sending a request over a pool of hyper-util's, to the origin and to the API.

use std::time::Duration;

use bytes::Buf;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::{CaptureConnection, Connect, capture_connection};
use hyper_util::client::legacy::{Client, Error};
use tokio::time::Instant;

use super::head;

/// Why no answer began.
#[derive(Debug)]
pub enum Unanswered {
    /// Connected, and then nothing came in time.
    TooSlow,
    /// No connection, or it broke.
    Lost(Error),
}

/// Sends `request` and waits for the head of its answer, `first_byte` at most after the connection was there and after the
/// last piece of the request's body, which `last_piece` tells. Dropping the future closes the connection, unless the request
/// had not been written yet.
pub async fn send<C, B>(
    pool: &Client<C, B>,
    mut request: Request<B>,
    first_byte: Duration,
    last_piece: impl Fn() -> Option<Instant>,
) -> Result<Response<Incoming>, Unanswered>
where
    C: Connect + Clone + Send + Sync + 'static,
    B: Body + Send + Unpin + 'static,
    B::Data: Buf + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut capture = capture_connection(&mut request);
    let mut sending = std::pin::pin!(pool.request(request));
    let answered = tokio::select! {
        biased;
        answered = &mut sending => answered,
        () = connected(&mut capture) => {
            let connected = Instant::now();
            let quiet_since = || last_piece().map_or(connected, |piece| piece.max(connected));
            head(sending, quiet_since, first_byte).await.ok_or(Unanswered::TooSlow)?
        }
    };
    answered.map_err(Unanswered::Lost)
}

async fn connected(capture: &mut CaptureConnection) {
    drop(capture.wait_for_connection_metadata().await);
}
