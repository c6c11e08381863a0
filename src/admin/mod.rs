//! The operator's listener: is it alive, is it ready, what has it counted. Never on the public address.

pub mod config;

use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use bytes::Bytes;
pub use config::Config;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;

use crate::metrics::{Metrics, Reading};
use crate::server::drain::Drain;
use crate::server::small::{self, Answers};

/// Connections at once: a few scrapers and people.
const CONNECTIONS: usize = 64;

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
    small::serve(admin, listener, CONNECTIONS).await
}

impl Answers for Admin {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        self.say(&request)
    }
}

impl Admin {
    fn say(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "this listener takes GET and HEAD\n");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
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
