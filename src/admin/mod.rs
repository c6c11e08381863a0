//! The operator's listener, with a page for people and calls for programs: is it alive, is it ready, what has it counted, which
//! configuration is in force, what is held of a ticket; and what the operator can have done. Never on the public address. Who may ask what, [`guard`] says.

mod answer;
mod call;
pub mod config;
mod failures;
pub mod guard;
mod images;
mod inspect;
mod page;
mod picture;
mod purge;
mod query;
mod register;
mod samples;
mod status;
pub mod token;
mod warm;

use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use answer::{Answer, OPEN_METRICS, json, not_allowed, page, refused, text};
pub use config::Config;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use images::Scans;
use page::Page;
pub use register::{BadRegistration, lifetime, registration};
use samples::{Counted, Samples};
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;
use warm::Fetch;

use crate::clock::Clock;
use crate::exchange::Records;
use crate::fault::Stage;
use crate::log::access::shortened;
use crate::metrics::{Metrics, Reading};
use crate::mishap::{outlived, outlived_aside};
use crate::moment::Moment;
use crate::proxy::Shared;
use crate::server::drain::Drain;
use crate::server::small::{self, Answers, Mishaps, Room};

/// A few scrapers and people, of whom none keeps the others out.
const ROOM: Room = Room { all: 64, per_address: 16 };

/// What is told to whoever asks for something else.
const CALLS: &str = "there are GET /, /healthz, /readyz, /metrics, /config, /status, /failures, /images, /image?ticket=…, \
                     /inspect?ticket=…, and POST /reload, /tickets, /purge, /warm, /refresh\n";

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
    drain: Drain,
    metrics: Arc<Metrics>,
    records: Arc<Records>,
    clock: Clock,
    samples: Samples,
    started: Moment,
    page: Page,
    scans: Scans,
    server: Arc<T>,
}

impl<T: Operated> Admin<T> {
    /// Answers for `server`, of which `metrics` and `records` are kept, from now on.
    pub fn new(drain: Drain, metrics: Arc<Metrics>, records: Arc<Records>, clock: Clock, server: Arc<T>) -> Self {
        let started = clock.now();
        let (samples, page, scans) = (Samples::default(), Page::new(), Scans::new());
        Self { drain, metrics, records, clock, samples, started, page, scans, server }
    }

    /// Keeps what was counted, once a second.
    async fn sample(&self) {
        let mut due = tokio::time::interval(samples::EVERY);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            due.tick().await;
            let turn = async {
                self.samples.take(self.clock.now(), &Counted::now(&self.metrics, self.records.failures()));
            };
            let _ = outlived(turn, &self.metrics.panics).await;
        }
    }
}

/// Serves `admin` on `listener` until dropped, or until a successor does: probes are its to answer then.
pub async fn serve(admin: Arc<Admin<impl Operated>>, listener: TcpListener) -> io::Result<()> {
    let drain = admin.drain.clone();
    let mishaps = Mishaps { panics: admin.metrics.panics.clone(), faults: admin.server.shared().faults.clone() };
    tokio::select! {
        ended = small::serve(Arc::clone(&admin), listener, ROOM, mishaps) => ended,
        () = admin.sample() => Ok(()),
        () = drain.handed_over() => Ok(()),
    }
}

impl<T: Operated> Answers for Admin<T> {
    type Body = answer::Body;
    const GUESTS: &'static str = "the operator";

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let _witness = self.metrics.witness();
        self.server.shared().faults.strike(Stage::Operate);
        match guard::admit(&self.server.rules(), request.method(), request.uri(), request.headers()) {
            Ok(()) => self.route(request).await,
            Err(barred) => {
                let path = shortened(request.uri().path());
                tracing::warn!(path, why = barred.text().trim_end(), "an operator's call is refused");
                refused(barred)
            }
        }
    }
}

impl<T: Operated> Admin<T> {
    async fn route(&self, request: Request<Incoming>) -> Answer {
        let is_look = matches!(*request.method(), Method::GET | Method::HEAD);
        let is_change = request.method() == Method::POST;
        match request.uri().path() {
            "/"
            | "/healthz"
            | "/readyz"
            | "/metrics"
            | "/config"
            | "/inspect"
            | "/status"
            | "/failures"
            | "/images"
            | "/image"
            | page::ICON
                if !is_look =>
            {
                not_allowed("GET, HEAD")
            }
            "/reload" | "/tickets" | "/purge" | "/warm" | "/refresh" if !is_change => not_allowed("POST"),
            "/" => self.page.answer(),
            page::ICON => page::icon(),
            "/status" => status::status(self, request.uri().query()),
            "/failures" => failures::failures(self.records.failures(), request.uri().query()),
            "/images" => self.scans.images(self.server.shared(), request.uri().query(), &self.metrics.panics).await,
            "/image" => picture::picture(&self.server.shared(), request.uri().query()),
            "/readyz" if self.drain.is_announced() => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
            "/healthz" | "/readyz" => text(StatusCode::OK, "ok\n"),
            "/metrics" => page(StatusCode::OK, OPEN_METRICS, self.metrics.exposition(self.server.reading())),
            "/config" => json(StatusCode::OK, &self.server.shown()),
            "/inspect" => inspect::inspect(&self.server.shared(), request.uri().query()),
            "/reload" => self.reload().await,
            "/tickets" => register::register(self.server.shared(), &self.metrics, request).await,
            "/purge" => purge::purge(&self.server.shared().fills, request).await,
            "/warm" => warm::warm(self.server.shared(), request, Fetch::Missing).await,
            "/refresh" => warm::warm(self.server.shared(), request, Fetch::Anew).await,
            _ => text(StatusCode::NOT_FOUND, CALLS),
        }
    }

    async fn reload(&self) -> Answer {
        let server = Arc::clone(&self.server);
        // Files are read, and a file system may hang.
        match outlived_aside(move || server.reload(), &self.metrics.panics).await {
            Some(Ok(Reloaded { applied, restart })) => {
                json(StatusCode::OK, &json!({ "applied": applied, "restart": restart }))
            }
            Some(Err(why)) => {
                json(StatusCode::UNPROCESSABLE_ENTITY, &json!({ "applied": [], "restart": [], "error": why }))
            }
            None => text(StatusCode::INTERNAL_SERVER_ERROR, "the reload failed; see the log\n"),
        }
    }
}
