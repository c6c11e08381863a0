//! A small HTTP/1.1 server for the demo's made-up neighbours. It keeps the bounds: connections, heads, bodies and the
//! time they may take. What is answered is the neighbour's to say.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// More than the proxy's pools ever open.
const CONNECTIONS: usize = 256;
/// For a head, and for an idle connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// For a whole body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Of a body; WeChat's own calls have a few hundred.
const MOST_BODY_BYTES: usize = 16 * 1024;
/// Accepting rests this long after it failed.
const REST: Duration = Duration::from_millis(100);

/// Somebody who answers requests.
pub trait Neighbour: Send + Sync + 'static {
    /// Answers `request`.
    fn answer(&self, request: Request<Incoming>) -> impl Future<Output = Response<Full<Bytes>>> + Send;
}

/// Binds a port that nobody else reaches.
pub fn bind() -> io::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Lets `neighbour` answer what comes to `listener`. Ends with its runtime.
pub async fn serve(neighbour: Arc<impl Neighbour>, listener: TcpListener) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(REST).await;
            continue;
        };
        let neighbour = Arc::clone(&neighbour);
        // Ends by its own deadlines, or with the runtime.
        tokio::spawn(async move {
            let _place = place;
            let answer = |request| async { Ok::<_, Infallible>(neighbour.answer(request).await) };
            let mut http1 = http1::Builder::new();
            http1.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).title_case_headers(true);
            if let Err(error) = http1.serve_connection(TokioIo::new(stream), service_fn(answer)).await {
                tracing::debug!(%error, "a connection within the demo broke");
            }
        });
    }
}

/// Reads a whole body; `None` when it is too long, too slow or cut.
pub async fn read(body: Incoming) -> Option<Bytes> {
    let whole = timeout(BODY_TIMEOUT, Limited::new(body, MOST_BODY_BYTES).collect()).await.ok()?;
    Some(whole.ok()?.to_bytes())
}
