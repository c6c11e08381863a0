//! The operator's listener: is it alive, is it ready, what has it counted. Never on the public address.

pub mod config;

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
pub use config::Config;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;

use crate::metrics::{Metrics, Reading};
use crate::server::drain::Drain;

/// Connections at once: a few scrapers and people.
const CONNECTIONS: usize = 64;
/// For a head, and for an idle connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Accepting rests this long after it failed.
const REST: Duration = Duration::from_millis(100);

/// OpenMetrics 1.0.
const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// What the operator can ask about.
pub struct Admin {
    /// Whether the proxy is draining.
    pub drain: Drain,
    /// What was counted.
    pub metrics: Arc<Metrics>,
    /// Measures what is read only when somebody looks.
    pub read: Box<dyn Fn() -> Reading + Send + Sync>,
}

/// Serves `admin` on `listener` until dropped.
pub async fn serve(admin: Arc<Admin>, listener: TcpListener) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(REST).await;
            continue;
        };
        let admin = Arc::clone(&admin);
        // Ends by its own deadlines, or with the runtime.
        tokio::spawn(async move {
            let _place = place;
            let service = service_fn(|request| std::future::ready(Ok::<_, Infallible>(admin.answer(&request))));
            let mut http1 = http1::Builder::new();
            http1.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
            if let Err(error) = http1.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "an admin connection broke");
            }
        });
    }
}

impl Admin {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "this listener takes GET and HEAD\n");
        }
        match request.uri().path() {
            "/readyz" if self.drain.is_announced() => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
            "/healthz" | "/readyz" => text(StatusCode::OK, "ok\n"),
            "/metrics" => page(StatusCode::OK, OPEN_METRICS, self.metrics.exposition((self.read)())),
            _ => text(StatusCode::NOT_FOUND, "there are /healthz, /readyz and /metrics\n"),
        }
    }
}

fn text(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    page(status, PLAIN, text.to_owned())
}

fn page(status: StatusCode, content_type: HeaderValue, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let fields = [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    *response.headers_mut() = HeaderMap::from_iter(fields);
    response
}
