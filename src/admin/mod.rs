//! The operator's listener: is it alive, is it ready, what has it counted, which configuration is in force. Never on the
//! public address. Who may ask what, [`guard`] says.

pub mod config;
pub mod guard;
pub mod token;

use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use bytes::Bytes;
pub use config::Config;
use guard::Barred;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::metrics::{Metrics, Reading};
use crate::server::drain::Drain;
use crate::server::small::{self, Answers};

/// Connections at once: a few scrapers and people.
const CONNECTIONS: usize = 64;

/// OpenMetrics 1.0.
const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What the operator can ask of a running server.
pub trait Operated: Send + Sync + 'static {
    /// The rules of this listener, as they are now.
    fn rules(&self) -> Config;
    /// Measures what is read only when somebody looks.
    fn reading(&self) -> Reading;
    /// Every key with the value in force, secrets masked.
    fn shown(&self) -> Value;
    /// Reads the configuration again; what came of it, or why nothing did. Reads files.
    fn reload(&self) -> Result<Reloaded, String>;
}

/// What another configuration came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Keys whose new values are in force.
    pub applied: Vec<&'static str>,
    /// Keys whose new values wait for a restart.
    pub restart: Vec<&'static str>,
}

/// Answers the operator.
pub struct Admin<T> {
    /// Whether the proxy is draining.
    pub drain: Drain,
    /// What was counted.
    pub metrics: Arc<Metrics>,
    /// The running server.
    pub server: Arc<T>,
}

/// Serves `admin` on `listener` until dropped, or until a successor does: probes are its to answer then.
pub async fn serve(admin: Arc<Admin<impl Operated>>, listener: TcpListener) -> io::Result<()> {
    let drain = admin.drain.clone();
    tokio::select! {
        ended = small::serve(admin, listener, CONNECTIONS) => ended,
        () = drain.handed_over() => Ok(()),
    }
}

impl<T: Operated> Answers for Admin<T> {
    type Body = Full<Bytes>;

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        match guard::admit(&self.server.rules(), request.method(), request.uri(), request.headers()) {
            Ok(()) => self.route(&request).await,
            Err(barred) => refused(barred),
        }
    }
}

impl<T: Operated> Admin<T> {
    async fn route(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let is_look = matches!(*request.method(), Method::GET | Method::HEAD);
        match request.uri().path() {
            "/healthz" | "/readyz" | "/metrics" | "/config" if !is_look => not_allowed("GET, HEAD"),
            "/readyz" if self.drain.is_announced() => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
            "/healthz" | "/readyz" => text(StatusCode::OK, "ok\n"),
            "/metrics" => page(StatusCode::OK, OPEN_METRICS, self.metrics.exposition(self.server.reading())),
            "/config" => json(StatusCode::OK, &self.server.shown()),
            "/reload" if request.method() == Method::POST => self.reload().await,
            "/reload" => not_allowed("POST"),
            _ => text(StatusCode::NOT_FOUND, "there are /healthz, /readyz, /metrics, /config and POST /reload\n"),
        }
    }

    async fn reload(&self) -> Response<Full<Bytes>> {
        let server = Arc::clone(&self.server);
        // Files are read, and a file system may hang.
        match tokio::task::spawn_blocking(move || server.reload()).await {
            Ok(Ok(Reloaded { applied, restart })) => {
                json(StatusCode::OK, &json!({ "applied": applied, "restart": restart }))
            }
            Ok(Err(why)) => {
                json(StatusCode::UNPROCESSABLE_ENTITY, &json!({ "applied": [], "restart": [], "error": why }))
            }
            Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the reload failed; see the log\n"),
        }
    }
}

fn refused(barred: Barred) -> Response<Full<Bytes>> {
    let mut response = text(barred.status(), barred.text());
    response.headers_mut().extend(barred.challenge());
    response
}

fn not_allowed(allow: &'static str) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "not by this method\n");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    response
}

fn json(status: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    page(status, JSON, format!("{value:#}\n"))
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
