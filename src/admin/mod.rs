//! The operator's listener: is it alive, is it ready, what has it counted, which configuration is in force, what is held of a
//! ticket; and what the operator can have done. Never on the public address. Who may ask what, [`guard`] says.

mod answer;
mod call;
pub mod config;
pub mod guard;
mod inspect;
mod purge;
mod register;
pub mod token;
mod warm;

use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use answer::{Answer, OPEN_METRICS, json, not_allowed, page, refused, text};
pub use config::Config;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
pub use register::{BadRegistration, lifetime, registration};
use serde_json::{Value, json};

use crate::metrics::{Metrics, Reading};
use crate::proxy::Shared;
use crate::server::drain::Drain;
use crate::server::small::{self, Answers, Room};

/// A few scrapers and people, of whom none keeps the others out.
const ROOM: Room = Room { all: 64, per_address: 16 };

/// What is told to whoever asks for something else.
const CALLS: &str = "there are GET /healthz, /readyz, /metrics, /config, /inspect?ticket=…, and POST /reload, /tickets, /purge, /warm\n";

/// What the operator can ask of a running server.
pub trait Operated: Send + Sync + 'static {
    /// The rules of this listener, as they are now.
    fn rules(&self) -> Config;
    /// Measures what is read only when somebody looks.
    fn reading(&self) -> Reading;
    /// Every key with the value in force, secrets masked.
    fn shown(&self) -> Value;
    /// What all threads share now: the cache, the fills.
    fn shared(&self) -> Arc<Shared>;
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
        ended = small::serve(admin, listener, ROOM) => ended,
        () = drain.handed_over() => Ok(()),
    }
}

impl<T: Operated> Answers for Admin<T> {
    type Body = answer::Body;

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        match guard::admit(&self.server.rules(), request.method(), request.uri(), request.headers()) {
            Ok(()) => self.route(request).await,
            Err(barred) => refused(barred),
        }
    }
}

impl<T: Operated> Admin<T> {
    async fn route(&self, request: Request<Incoming>) -> Answer {
        let is_look = matches!(*request.method(), Method::GET | Method::HEAD);
        let is_change = request.method() == Method::POST;
        match request.uri().path() {
            "/healthz" | "/readyz" | "/metrics" | "/config" | "/inspect" if !is_look => not_allowed("GET, HEAD"),
            "/reload" | "/tickets" | "/purge" | "/warm" if !is_change => not_allowed("POST"),
            "/readyz" if self.drain.is_announced() => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
            "/healthz" | "/readyz" => text(StatusCode::OK, "ok\n"),
            "/metrics" => page(StatusCode::OK, OPEN_METRICS, self.metrics.exposition(self.server.reading())),
            "/config" => json(StatusCode::OK, &self.server.shown()),
            "/inspect" => inspect::inspect(&self.server.shared(), request.uri().query()),
            "/reload" => self.reload().await,
            "/tickets" => register::register(self.server.shared(), &self.metrics, request).await,
            "/purge" => purge::purge(&self.server.shared().fills, request).await,
            "/warm" => warm::warm(self.server.shared(), request).await,
            _ => text(StatusCode::NOT_FOUND, CALLS),
        }
    }

    async fn reload(&self) -> Answer {
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
