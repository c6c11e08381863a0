//! One exchange, seen from outside: gives it an id, has it answered, counts it and writes its access line. What the answer
//! is, [`crate::proxy`] decides.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};

use crate::body::Body;
use crate::body::timed::TimedBody;
use crate::clock::Clock;
use crate::log::ACCESS;
use crate::metrics::Metrics;
use crate::moment::Tick;
use crate::peer::Peer;
use crate::proxy::Proxy;
use crate::reply::Answered;
use crate::route::{Kind, to_https};

/// Connects an answer with its log line.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Bytes of an id that a client may bring along.
const LONGEST_ID: usize = 64;

/// Bytes of a path that are logged.
const LONGEST_PATH: usize = 256;

/// What is logged for a client that hung up, as nginx does.
const CLIENT_GONE: u16 = 499;

/// Has requests answered and keeps the records. One for each worker thread.
pub struct Exchanges {
    /// Another may take its place between two requests; whoever is being answered keeps the one it began with.
    proxy: ArcSwap<Proxy>,
    records: Arc<Records>,
}

/// What all threads share to keep records.
#[derive(Debug)]
pub struct Records {
    metrics: Arc<Metrics>,
    clock: Clock,
    id_seed: RandomState,
    id_count: AtomicU64,
    warned_of_forwarding: AtomicBool,
}

impl Records {
    /// Records in `metrics` and in the log.
    pub fn new(metrics: Arc<Metrics>, clock: Clock) -> Arc<Self> {
        let (id_count, warned_of_forwarding) = (AtomicU64::new(0), AtomicBool::new(false));
        Arc::new(Self { metrics, clock, id_seed: RandomState::new(), id_count, warned_of_forwarding })
    }

    /// The client's own id when it is one, else a new one.
    pub fn request_id(&self, brought: Option<&HeaderValue>) -> HeaderValue {
        if let Some(id) = brought.filter(|id| is_id(id.as_bytes())) {
            return id.clone();
        }
        let id = self.id_seed.hash_one(self.id_count.fetch_add(1, Ordering::Relaxed));
        HeaderValue::try_from(format!("{id:016x}")).expect("hex digits are visible ASCII")
    }

    fn keep(&self, answered: &Answered, pending: &Pending<'_>) {
        self.metrics.answered(answered.kind, answered.response.status(), answered.outcome.as_ref());
        if let Some(reason) = answered.reason.filter(|_| answered.outcome.is_some()) {
            self.metrics.image_failed(reason);
        }
        if let Some(refused) = &answered.refused {
            self.metrics.refused(refused.budget);
        }
        if let Some(ticket) = &answered.ticket {
            self.metrics.repaired(ticket.repairs());
        }
        if tracing::enabled!(target: ACCESS, tracing::Level::INFO) {
            write_line(answered, pending);
        }
    }

    /// A forgotten line of configuration makes all clients one: said once, counted always (S30).
    fn note_ignored_forwarding(&self, proxy: &Proxy, peer: Peer, request: &Request<TimedBody>) {
        let trust = &proxy.shared.trust;
        if !trust.unconfigured(peer.ip(), request.headers()) {
            return;
        }
        self.metrics.untrusted_forwarding.inc();
        if !self.warned_of_forwarding.swap(true, Ordering::Relaxed) {
            let add = trust.line_to_add(peer.ip());
            tracing::warn!(peer = %peer.ip(), "forwarding headers are ignored: if this peer is your proxy, set {add}");
        }
    }
}

fn is_id(bytes: &[u8]) -> bool {
    let fits = (1..=LONGEST_ID).contains(&bytes.len());
    fits && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

/// Tickets appear shortened, queries never (S35, S39).
fn write_line(answered: &Answered, pending: &Pending<'_>) {
    let ticket = answered.ticket.as_ref().map(|ticket| tracing::field::display(ticket.short()));
    tracing::info!(
        target: ACCESS,
        method = pending.method.as_str(),
        route = answered.kind.label(),
        path = (answered.kind != Kind::Image).then(|| shortened(pending.path)),
        status = answered.response.status().as_u16(),
        cache = answered.outcome.as_ref().map(crate::cache::status::Outcome::label),
        reason = answered.reason,
        ticket,
        client = answered.client.map(tracing::field::display),
        origin_ms = answered.origin_took.map(milliseconds),
        took_ms = milliseconds(pending.took()),
        id = pending.id.to_str().unwrap_or_default(),
    );
}

/// A head may be 32 KiB long; a log line need not.
fn shortened(path: &str) -> &str {
    path.get(..LONGEST_PATH).unwrap_or(path)
}

/// A request that is not answered yet. Dropped in this state it was given up: its client hung up.
struct Pending<'a> {
    records: &'a Records,
    method: &'a Method,
    path: &'a str,
    id: &'a HeaderValue,
    peer: Peer,
    began: Tick,
}

impl Pending<'_> {
    fn took(&self) -> Duration {
        self.records.clock.tick().since(self.began)
    }

    fn answered(self, answered: &Answered) {
        let this = std::mem::ManuallyDrop::new(self);
        this.records.keep(answered, &this);
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.records.metrics.abandoned.inc();
        if tracing::enabled!(target: ACCESS, tracing::Level::INFO) {
            tracing::info!(
                target: ACCESS,
                method = self.method.as_str(),
                path = shortened(self.path),
                status = CLIENT_GONE,
                client = %self.peer.ip(),
                took_ms = milliseconds(self.took()),
                id = self.id.to_str().unwrap_or_default(),
            );
        }
    }
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

impl Exchanges {
    /// Exchanges through `proxy`, recorded in `records`.
    pub fn new(proxy: Proxy, records: Arc<Records>) -> Self {
        Self { proxy: ArcSwap::from_pointee(proxy), records }
    }

    /// The one that answers now.
    pub fn proxy(&self) -> Arc<Proxy> {
        self.proxy.load_full()
    }

    /// Has requests answered by `proxy` from now on.
    pub fn replace(&self, proxy: Proxy) {
        self.proxy.store(Arc::new(proxy));
    }

    /// Notes a message that was no HTTP, and was answered `status` before it became a request.
    pub fn malformed(&self, status: StatusCode, peer: Peer) {
        self.records.metrics.malformed.inc();
        if tracing::enabled!(target: ACCESS, tracing::Level::INFO) {
            tracing::info!(target: ACCESS, route = "refused", status = status.as_u16(), reason = "malformed", client = %peer.ip());
        }
    }

    /// Answers `request`, which came from `peer`. Dropping the future, as a client that hangs up does, is recorded as 499.
    pub async fn serve(&self, request: Request<TimedBody>, peer: Peer) -> Response<Body> {
        let proxy = self.proxy();
        self.recorded(request, peer, &proxy, |request| proxy.answer(request, peer)).await
    }

    /// Sends `request`, which came from `peer` in the clear, to `port`, where we take TLS.
    pub async fn redirect(&self, request: Request<TimedBody>, peer: Peer, port: u16) -> Response<Body> {
        let answer = async |request: Request<TimedBody>| {
            let location = to_https(request.method(), request.version(), request.uri(), request.headers(), port);
            Answered::redirected(request.method(), location)
        };
        self.recorded(request, peer, &self.proxy(), answer).await
    }

    async fn recorded<F>(
        &self,
        mut request: Request<TimedBody>,
        peer: Peer,
        proxy: &Proxy,
        answer: impl FnOnce(Request<TimedBody>) -> F,
    ) -> Response<Body>
    where
        F: Future<Output = Answered>,
    {
        let records = &self.records;
        let began = records.clock.tick();
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let id = records.request_id(request.headers().get(REQUEST_ID));
        request.headers_mut().insert(REQUEST_ID, id.clone());
        records.note_ignored_forwarding(proxy, peer, &request);
        let pending = Pending { records, method: &method, path: uri.path(), id: &id, peer, began };
        let mut answered = answer(request).await;
        answered.response.headers_mut().insert(REQUEST_ID, id.clone());
        pending.answered(&answered);
        answered.response
    }
}
