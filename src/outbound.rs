//! Sending a request out over a pool, with a deadline for the first byte of the answer that does not count the time to
//! connect: connecting has a deadline of its own. Shared by the ways to the origin and to the app.

use std::time::Duration;

use bytes::Buf;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::{CaptureConnection, Connect, capture_connection};
use hyper_util::client::legacy::{Client, Error};
use tokio::time::timeout;

/// Why no answer began.
#[derive(Debug)]
pub enum Unanswered {
    /// Connected, and then nothing came in time.
    TooSlow,
    /// No connection, or it broke.
    Lost(Error),
}

/// Sends `request` and waits for the head of its answer. Dropping the future closes the connection, unless the request
/// had not been written yet.
pub async fn send<C, B>(
    pool: &Client<C, B>,
    mut request: Request<B>,
    first_byte: Duration,
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
        () = connected(&mut capture) => timeout(first_byte, sending).await.map_err(|_| Unanswered::TooSlow)?,
    };
    answered.map_err(Unanswered::Lost)
}

async fn connected(capture: &mut CaptureConnection) {
    drop(capture.wait_for_connection_metadata().await);
}
