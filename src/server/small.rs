//! A small HTTP/1.1 server for a few known peers: the operator's listener, and the demo's made-up neighbours. It keeps the
//! bounds (connections, heads, the time they may take); what is answered is its owner's to say.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// For a head, and for an idle connection: scrapers come back every half minute or so.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Of a connection; its peer then opens another.
const LIFE: Duration = Duration::from_secs(600);
/// For the answer that is under way at its end.
const LAST_ANSWER: Duration = Duration::from_secs(30);
/// Accepting rests this long after it failed.
const REST: Duration = Duration::from_millis(100);

/// Somebody who answers requests.
pub trait Answers: Send + Sync + 'static {
    /// Answers `request`.
    fn answer(&self, request: Request<Incoming>) -> impl Future<Output = Response<Full<Bytes>>> + Send;
}

/// Lets `owner` answer what comes to `listener`, over at most `connections` at once; further ones wait in the kernel's
/// queue. Ends with its runtime.
pub async fn serve(owner: Arc<impl Answers>, listener: TcpListener, connections: usize) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(connections));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(REST).await;
            continue;
        };
        let owner = Arc::clone(&owner);
        // Ends by its own deadlines, or with the runtime.
        tokio::spawn(async move {
            let _place = place;
            if let Err(error) = converse(&*owner, stream).await {
                tracing::debug!(%error, "a connection broke");
            }
        });
    }
}

/// A peer that stops reading an answer has no deadline of its own; the connection as a whole has.
async fn converse(owner: &impl Answers, stream: TcpStream) -> hyper::Result<()> {
    let answer = |request| async { Ok::<_, Infallible>(owner.answer(request).await) };
    let mut http1 = http1::Builder::new();
    http1.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).title_case_headers(true);
    let mut connection = pin!(http1.serve_connection(TokioIo::new(stream), service_fn(answer)));
    if let Ok(ended) = timeout(LIFE, connection.as_mut()).await {
        return ended;
    }
    connection.as_mut().graceful_shutdown();
    timeout(LAST_ANSWER, connection).await.unwrap_or(Ok(()))
}
