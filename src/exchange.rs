//! One exchange, seen from outside: gives it an id, has it answered, counts it and writes its access line. What the answer
//! is, [`crate::proxy`] decides.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body as _;

use crate::arrival::{Arrival, REQUEST_ID, UNNAMED};
use crate::body::Body;
use crate::body::counted::{End, Onlooker};
use crate::body::timed::TimedBody;
use crate::cache::status::Outcome;
use crate::clock::Clock;
use crate::failures::{Failures, ImageFailure};
use crate::limit::Client;
use crate::log::access::{self, Line};
use crate::log::{Control, Shown};
use crate::metrics::{Metrics, Source, Tally};
use crate::moment::{Moment, Tick};
use crate::otel::{Step, Tracer};
use crate::peer::Peer;
use crate::proxy::Proxy;
use crate::reply::Answered;
use crate::route::{Kind, to_https};
use crate::ticket::Ticket;
use crate::trace::{Context, TRACE_PARENT, TRACE_STATE};

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Bytes of an id that a client may bring along.
const LONGEST_ID: usize = 64;

/// Has requests answered and keeps the records. One for each worker thread.
pub struct Exchanges {
    /// Another may take its place between two requests; whoever is being answered keeps the one it began with.
    proxy: ArcSwap<Proxy>,
    records: Arc<Records>,
    tally: Arc<Tally>,
}

/// What all threads share to keep records.
#[derive(Debug)]
pub struct Records {
    metrics: Arc<Metrics>,
    failures: Failures,
    clock: Clock,
    log: Control,
    tracer: Option<Arc<Tracer>>,
    id_seed: RandomState,
    id_count: AtomicU64,
    warned_of_forwarding: AtomicBool,
}

impl Records {
    /// Records in `metrics` and in `log`, and with `tracer` if there is one.
    pub fn new(metrics: Arc<Metrics>, clock: Clock, log: Control, tracer: Option<Arc<Tracer>>) -> Arc<Self> {
        let (id_count, warned_of_forwarding) = (AtomicU64::new(0), AtomicBool::new(false));
        let (failures, id_seed) = (Failures::default(), RandomState::new());
        Arc::new(Self { metrics, failures, clock, log, tracer, id_seed, id_count, warned_of_forwarding })
    }

    /// The image requests that ended without an image.
    pub fn failures(&self) -> &Failures {
        &self.failures
    }

    /// The client's own id when it is one, else a new one.
    pub fn request_id(&self, brought: Option<&HeaderValue>) -> HeaderValue {
        if let Some(id) = brought.filter(|id| is_id(id.as_bytes())) {
            return id.clone();
        }
        let id = self.id_seed.hash_one(self.id_count.fetch_add(1, Ordering::Relaxed));
        // Two digits a byte, without the machinery of formatting.
        let bytes = id.to_be_bytes();
        let digit = |place: usize| HEX[usize::from(bytes[place / 2] >> (4 * (1 - place % 2)) & 0xf)];
        HeaderValue::from_bytes(&std::array::from_fn::<u8, 16, _>(digit)).expect("hex digits are visible ASCII")
    }

    /// Whose trace a request with `headers` belongs to, and its own step in it; whoever is asked next hears of that one.
    fn trace(&self, headers: &mut HeaderMap) -> (Option<Context>, Option<Step>) {
        if self.tracer.is_none() && !access::is_wanted() {
            // Nobody would read it.
            return (None, None);
        }
        let came = Context::of(headers);
        let Some(step) = self.tracer.as_ref().and_then(|tracer| tracer.begin(came)) else { return (came, None) };
        headers.insert(TRACE_PARENT, step.onward().field());
        if came.is_none() {
            headers.remove(TRACE_STATE);
        }
        (Some(step.context()), Some(step))
    }

    fn count(&self, answered: &Answered) {
        self.metrics.answered(answered.kind, answered.response.status(), answered.outcome.as_ref());
        if let Some(reason) = why_no_image(answered) {
            self.metrics.image_failed(reason);
        }
        if let Some(refused) = &answered.refused {
            self.metrics.refused(refused.budget);
        }
        if let Some(ticket) = &answered.ticket {
            self.metrics.repaired(ticket.repairs());
        }
    }

    /// Whether anybody wants the line of a request that is traced by `step`.
    fn wants_line(step: Option<Step>) -> bool {
        step.is_some() || access::is_wanted()
    }

    fn write(&self, line: &Line<'_>, step: Option<Step>) {
        line.write();
        if let (Some(tracer), Some(step)) = (&self.tracer, step) {
            tracer.end(step, line);
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

/// Why an image request ended without an image. A late image (S22) has a reason too, and is shown.
fn why_no_image(answered: &Answered) -> Option<&'static str> {
    let has_image = answered.outcome.is_none() || answered.response.status().is_success();
    answered.reason.filter(|_| !has_image)
}

fn is_id(bytes: &[u8]) -> bool {
    let fits = (1..=LONGEST_ID).contains(&bytes.len());
    fits && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

/// A request that is not answered yet. Dropped in this state it was given up: its client hung up, or we panicked.
struct Pending<'a> {
    records: &'a Arc<Records>,
    tally: &'a Arc<Tally>,
    method: &'a Method,
    path: &'a str,
    id: HeaderValue,
    trace: Option<Context>,
    step: Option<Step>,
    peer: Peer,
    began: Moment,
}

impl Pending<'_> {
    fn arrival(&self) -> Arrival<'_> {
        Arrival { peer: self.peer, at: self.began, id: &self.id }
    }

    fn took(&self) -> Duration {
        self.records.clock.tick().since(self.began.tick)
    }

    /// Records `answered`, and lets the answer go. What streams is recorded at its end.
    fn answered(self, answered: Answered) -> Response<Body> {
        let mut this = std::mem::ManuallyDrop::new(self);
        this.records.count(&answered);
        this.note_failure(&answered);
        let took = this.took();
        if matches!(answered.outcome, Some(Outcome::Hit { .. })) {
            this.tally.hit(took);
        }
        let is_apps = answered.source == Source::App;
        let mut response = if is_apps {
            this.streams(answered, took)
        } else {
            let bytes = answered.response.body().size_hint().lower();
            this.tally.sent(answered.source, bytes);
            if Records::wants_line(this.step) {
                this.write_line(&answered, took, Some(bytes));
            }
            answered.response
        };
        let id = std::mem::replace(&mut this.id, UNNAMED);
        if is_apps {
            // An app that has an id of its own names its answer itself.
            response.headers_mut().entry(REQUEST_ID).or_insert(id);
        } else {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        response
    }

    fn note_failure(&self, answered: &Answered) {
        let Some(reason) = why_no_image(answered) else { return };
        self.records.failures.keep(ImageFailure {
            at: self.records.clock.now().wall,
            reason,
            status: answered.response.status().as_u16(),
            request_id: self.id.to_str().unwrap_or_default().to_owned(),
            ticket: answered.ticket.as_ref().map(Ticket::short),
            client: self.client(answered.client).map(|client| client.to_string()),
        });
    }

    /// How the log and the operator's page tell of `client`, where they do.
    fn client(&self, client: Option<Client>) -> Option<Shown> {
        client.and_then(|client| self.records.log.client(client.address()))
    }

    /// Tickets appear shortened, queries never (S35, S39).
    fn write_line(&self, answered: &Answered, took: Duration, bytes: Option<u64>) {
        let ticket = answered.ticket.as_ref().map(Ticket::short);
        let line = Line {
            route: Some(answered.kind.label()),
            status: answered.response.status().as_u16(),
            bytes,
            cache: answered.outcome.as_ref().map(Outcome::label),
            reason: answered.reason,
            ticket: ticket.as_ref().map(|ticket| ticket as _),
            client: self.client(answered.client),
            origin_took: answered.origin_took,
            took: Some(took),
            ..self.line()
        };
        self.records.write(&line, self.step);
    }

    fn line(&self) -> Line<'_> {
        let trace = self.trace.as_ref().map(|trace| trace as _);
        Line {
            method: Some(self.method.as_str()),
            path: Some(self.path),
            id: self.id.to_str().ok(),
            trace,
            ..Line::default()
        }
    }

    /// The app's answer: its line is written when the last of it was sent, or its client is gone. A tunnel's is written now.
    fn streams(&self, mut answered: Answered, app_took: Duration) -> Response<Body> {
        let Self { records, tally, method, path, id, trace, step, began, .. } = self;
        let Answered { kind, client, .. } = answered;
        let status = answered.response.status();
        let line = Records::wants_line(self.step).then(|| {
            let (method, path) = ((*method).clone(), access::shortened(path).to_owned());
            Late {
                records: Arc::clone(records),
                method,
                path,
                id: id.clone(),
                trace: *trace,
                step: *step,
                began: began.tick,
                kind,
                client,
                status,
                app_took,
            }
        });
        match (answered.response.body_mut().stream(), line) {
            (Some(stream), line) => stream.show(Box::new(Streaming { tally: Arc::clone(tally), line })),
            (None, Some(line)) => line.write(None, None),
            (None, None) => {}
        }
        answered.response
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let (status, reason) = access::unanswered();
        if reason.is_none() {
            self.records.metrics.abandoned.inc();
        }
        if Records::wants_line(self.step) {
            let (client, took) = (self.records.log.client(self.peer.ip()), Some(self.took()));
            self.records.write(&Line { status, reason, client, took, ..self.line() }, self.step);
        }
    }
}

/// Sees the app's answer go by.
#[derive(Debug)]
struct Streaming {
    tally: Arc<Tally>,
    line: Option<Late>,
}

/// What a line says that is written when its request is long gone.
#[derive(Debug)]
struct Late {
    records: Arc<Records>,
    method: Method,
    path: String,
    id: HeaderValue,
    trace: Option<Context>,
    step: Option<Step>,
    began: Tick,
    kind: Kind,
    client: Option<Client>,
    status: StatusCode,
    app_took: Duration,
}

impl Onlooker for Streaming {
    fn passed(&self, bytes: u64) {
        self.tally.sent(Source::App, bytes);
    }

    fn ended(self: Box<Self>, end: End, bytes: u64) {
        let reason = match end {
            End::Whole => None,
            End::Cut => Some("cut"),
            End::GivenUp => Some("client-gone"),
        };
        if let Some(line) = self.line {
            line.write(Some(bytes), reason);
        }
    }
}

impl Late {
    fn write(&self, bytes: Option<u64>, reason: Option<&'static str>) {
        let line = Line {
            method: Some(self.method.as_str()),
            route: Some(self.kind.label()),
            path: Some(&self.path),
            status: self.status.as_u16(),
            bytes,
            reason,
            client: self.client.and_then(|client| self.records.log.client(client.address())),
            app_took: Some(self.app_took),
            took: Some(self.records.clock.tick().since(self.began)),
            id: self.id.to_str().ok(),
            trace: self.trace.as_ref().map(|trace| trace as _),
            ..Line::default()
        };
        self.records.write(&line, self.step);
    }
}

impl Exchanges {
    /// Exchanges through `proxy`, recorded in `records`.
    pub fn new(proxy: Proxy, records: Arc<Records>) -> Self {
        let tally = records.metrics.tally();
        Self { proxy: ArcSwap::from_pointee(proxy), records, tally }
    }

    /// Counts of this thread alone.
    pub fn tally(&self) -> &Arc<Tally> {
        &self.tally
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
        let (status, client) = (status.as_u16(), self.records.log.client(peer.ip()));
        Line { route: Some("refused"), status, reason: Some("malformed"), client, ..Line::default() }.write();
    }

    /// Answers `request`, which came from `peer`; one that came in the clear to where TLS is taken on `https_port` is sent
    /// there. Dropping the future, as a client that hangs up does, is recorded as 499.
    #[expect(
        clippy::manual_async_fn,
        reason = "arguments take their room twice there, and this is copied with every request"
    )]
    pub fn serve(
        &self,
        mut request: Request<TimedBody>,
        peer: Peer,
        https_port: Option<u16>,
    ) -> impl Future<Output = Response<Body>> {
        async move {
            let proxy = self.proxy();
            let (method, uri) = (request.method().clone(), request.uri().clone());
            let pending = self.begin(&method, uri.path(), peer, &mut request);
            self.records.note_ignored_forwarding(&proxy, peer, &request);
            let answered = match https_port {
                None => proxy.answer(&mut request, pending.arrival()).await,
                Some(port) => {
                    let location = to_https(&method, request.version(), &uri, request.headers(), port);
                    Answered::redirected(&method, location)
                }
            };
            pending.answered(answered)
        }
    }

    fn begin<'a>(
        &'a self,
        method: &'a Method,
        path: &'a str,
        peer: Peer,
        request: &mut Request<TimedBody>,
    ) -> Pending<'a> {
        let Self { records, tally, .. } = self;
        let began = records.clock.now();
        let id = records.request_id(request.headers().get(REQUEST_ID));
        let (trace, step) = records.trace(request.headers_mut());
        Pending { records, tally, method, path, id, trace, step, peer, began }
    }
}
