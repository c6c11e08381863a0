//! What is counted. Passed down from [`crate::app`]: there is no global registry, and two proxies in one process count
//! apart. The handles of whatever a good answer counts are resolved once, so that counting it is one atomic addition; only
//! reasons for trouble are looked up by name.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use http::StatusCode;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::cache::status::Outcome;
use crate::limit::BudgetName;
use crate::moment::Wall;
use crate::route::Kind;
use crate::ticket::{Repair, Repairs};

/// Labels a request that has nothing to do with the cache.
const NO_OUTCOME: &str = "none";
const OUTCOMES: usize = Outcome::LABELS.len() + 1;
/// 1xx to 5xx.
const CLASSES: usize = 5;
const CLASS_LABELS: [&str; CLASSES] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    requests: Family<RequestLabels, Counter>,
    handles: [[[OnceLock<Counter>; OUTCOMES]; CLASSES]; Kind::ALL.len()],
    failures: Family<ReasonLabels, Counter>,
    not_stored: Family<ReasonLabels, Counter>,
    refusals: Family<BudgetLabels, Counter>,
    refusals_by: [Counter; BudgetName::ALL.len()],
    repairs: Family<RepairLabels, Counter>,
    repairs_by: [Counter; Repair::ALL.len()],
    relayed: Family<RelayLabels, Counter>,
    relay_failures: Family<ReasonLabels, Counter>,
    fills: Counter,
    origin_seconds: Histogram,
    connections_open: Gauge,
    /// Connections closed because their client had its share, or because with `proxy_protocol` their peer is not trusted.
    pub connections_refused: Counter,
    /// Connections of trusted peers that began with no whole PROXY header.
    pub proxy_headers_refused: Counter,
    /// Failures of accept(2).
    pub accept_failures: Counter,
    /// TLS handshakes that failed or took too long.
    pub tls_handshakes_failed: Counter,
    /// Changed files of `[tls]` that were of no use.
    pub tls_certificates_refused: Counter,
    /// Absent without TLS.
    certificate_ends: Family<FileLabels, Gauge>,
    /// Messages that were no HTTP.
    pub malformed: Counter,
    /// Requests whose client hung up before the answer.
    pub abandoned: Counter,
    /// Images evicted for want of room.
    pub evictions: Counter,
    /// Tickets that an answer to the relay taught.
    pub tickets_learned: Counter,
    /// Forwarding headers from a loopback or private peer that is not trusted.
    pub untrusted_forwarding: Counter,
    gauges: Gauges,
}

/// What is measured when somebody looks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reading {
    /// Images held, those of own tickets not counted.
    pub image_entries: u64,
    /// Bytes they take.
    pub image_bytes: u64,
    /// Images of own tickets held.
    pub own_entries: u64,
    /// Bytes they take.
    pub own_bytes: u64,
    /// Own tickets known.
    pub own_tickets: u64,
    /// Refusals remembered.
    pub negative_entries: u64,
    /// Bytes they take.
    pub negative_bytes: u64,
    /// Fills under way.
    pub fills: u64,
    /// Requests waiting for a budget.
    pub waiting: u64,
    /// Requests waiting for a fill.
    pub waiting_for_fills: u64,
    /// Whether the circuit is open.
    pub circuit_open: bool,
    /// The origin's clock less ours, in milliseconds.
    pub skew_millis: i64,
    /// Log lines that found the queue full.
    pub log_lines_dropped: u64,
}

/// Sums for a view of the whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Image requests answered from the cache.
    pub hits: u64,
    /// Image requests for which the origin was asked or a fill was joined.
    pub misses: u64,
    /// Calls refused by a budget.
    pub refused: u64,
}

#[derive(Debug, Default)]
struct Gauges {
    entries: Family<StoreLabels, Gauge>,
    bytes: Family<StoreLabels, Gauge>,
    own_tickets: Gauge,
    fills: Gauge,
    waiting: Gauge,
    waiting_for_fills: Gauge,
    circuit_open: Gauge,
    skew_millis: Gauge,
    log_lines_dropped: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: &'static str,
    status: &'static str,
    cache: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RelayLabels {
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BudgetLabels {
    budget: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RepairLabels {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StoreLabels {
    store: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FileLabels {
    file: &'static str,
}

impl Metrics {
    /// Nothing counted yet.
    pub fn new() -> Arc<Self> {
        let (refusals, repairs) = (Family::default(), Family::default());
        let refusal = |budget: BudgetName| refusals.get_or_create_owned(&BudgetLabels { budget: budget.name() });
        let repair = |repair: Repair| repairs.get_or_create_owned(&RepairLabels { kind: repair.name() });
        let metrics = Self {
            registry: Mutex::default(),
            requests: Family::default(),
            handles: Default::default(),
            failures: Family::default(),
            not_stored: Family::default(),
            refusals_by: BudgetName::ALL.map(refusal),
            repairs_by: Repair::ALL.map(repair),
            refusals,
            repairs,
            relayed: Family::default(),
            relay_failures: Family::default(),
            tickets_learned: Counter::default(),
            fills: Counter::default(),
            origin_seconds: Histogram::new(exponential_buckets(0.005, 2.0, 13)),
            connections_open: Gauge::default(),
            connections_refused: Counter::default(),
            proxy_headers_refused: Counter::default(),
            accept_failures: Counter::default(),
            tls_handshakes_failed: Counter::default(),
            tls_certificates_refused: Counter::default(),
            certificate_ends: Family::default(),
            malformed: Counter::default(),
            abandoned: Counter::default(),
            evictions: Counter::default(),
            untrusted_forwarding: Counter::default(),
            gauges: Gauges::default(),
        };
        metrics.register();
        Arc::new(metrics)
    }

    fn register(&self) {
        let mut all = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let registry = all.sub_registry_with_prefix("ticketgate");
        registry.register("requests", "Requests answered on the public listener", self.requests.clone());
        registry.register("image_failures", "Image requests that ended without an image", self.failures.clone());
        registry.register("not_stored", "Images shown but not stored", self.not_stored.clone());
        registry.register("limit_refusals", "Calls refused by a budget", self.refusals.clone());
        registry.register("ticket_repairs", "Repairs made to tickets", self.repairs.clone());
        registry.register("relay_requests", "Calls answered on the relay", self.relayed.clone());
        registry.register("relay_failures", "Calls that the relay answered itself", self.relay_failures.clone());
        registry.register("tickets_learned", "Tickets learned by the relay", self.tickets_learned.clone());
        registry.register("fills", "Fills that ended", self.fills.clone());
        registry.register("origin_seconds", "Time until the origin's answer was read", self.origin_seconds.clone());
        registry.register("connections_open", "Open client connections", self.connections_open.clone());
        let help = "Connections over the share of a client, or of peers that may not speak the PROXY protocol";
        registry.register("connections_refused", help, self.connections_refused.clone());
        let help = "Connections that began with no whole PROXY header";
        registry.register("proxy_headers_refused", help, self.proxy_headers_refused.clone());
        registry.register("accept_failures", "Failed attempts to accept a connection", self.accept_failures.clone());
        let help = "TLS handshakes that failed or took too long";
        registry.register("tls_handshakes_failed", help, self.tls_handshakes_failed.clone());
        let help = "Changed files of [tls] that were of no use";
        registry.register("tls_certificates_refused", help, self.tls_certificates_refused.clone());
        let help = "Unix time at which the TLS certificate in force ends";
        registry.register("tls_certificate_expires_seconds", help, self.certificate_ends.clone());
        registry.register("malformed_messages", "Messages that were no HTTP", self.malformed.clone());
        let help = "Requests whose client hung up before the answer";
        registry.register("abandoned_requests", help, self.abandoned.clone());
        registry.register("cache_evictions", "Images evicted for want of room", self.evictions.clone());
        let help = "Requests whose forwarding headers were ignored though their peer is local";
        registry.register("untrusted_forwarding", help, self.untrusted_forwarding.clone());
        self.gauges.register(registry);
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "What is running", build);
    }

    /// Counts an answer.
    pub fn answered(&self, kind: Kind, status: StatusCode, outcome: Option<&Outcome>) {
        let class = class(status);
        let cache = outcome.map_or(OUTCOMES - 1, Outcome::index);
        self.handles[kind as usize][class][cache].get_or_init(|| self.resolve(kind, class, cache)).inc();
    }

    fn resolve(&self, kind: Kind, class: usize, cache: usize) -> Counter {
        let status = CLASS_LABELS[class];
        let cache = Outcome::LABELS.get(cache).copied().unwrap_or(NO_OUTCOME);
        self.requests.get_or_create_owned(&RequestLabels { route: kind.label(), status, cache })
    }

    /// Counts an answer of the relay; with `reason` it is our own.
    pub fn relayed(&self, status: StatusCode, reason: Option<&'static str>) {
        self.relayed.get_or_create(&RelayLabels { status: CLASS_LABELS[class(status)] }).inc();
        if let Some(reason) = reason {
            self.relay_failures.get_or_create(&ReasonLabels { reason }).inc();
        }
    }

    /// Counts an image request that ended without an image.
    pub fn image_failed(&self, reason: &'static str) {
        self.failures.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// Counts a refusal by a budget.
    pub fn refused(&self, budget: BudgetName) {
        self.refusals_by[budget as usize].inc();
    }

    /// Counts what had to be mended in a ticket.
    pub fn repaired(&self, repairs: Repairs) {
        for repair in repairs.iter() {
            self.repairs_by[repair as usize].inc();
        }
    }

    /// Counts a fill that ended, and why its image was not stored when it was not.
    pub fn filled(&self, not_stored: Option<&'static str>) {
        self.fills.inc();
        if let Some(reason) = not_stored {
            self.not_stored.get_or_create(&ReasonLabels { reason }).inc();
        }
    }

    /// Notes how long the origin took.
    pub fn origin_answered(&self, took: Duration) {
        self.origin_seconds.observe(took.as_secs_f64());
    }

    /// Counts a connection as open until the returned value is dropped.
    pub fn connection_opened(&self) -> OpenConnection {
        self.connections_open.inc();
        OpenConnection(self.connections_open.clone())
    }

    /// Notes when the TLS certificate in force ends.
    pub fn certificate_ends(&self, end: Wall) {
        self.certificate_ends.get_or_create(&FileLabels { file: "tls.cert" }).set(end.unix());
    }

    /// How many client connections are open.
    pub fn open_connections(&self) -> u64 {
        u64::try_from(self.connections_open.get()).unwrap_or(0)
    }

    /// Sums what was counted so far.
    pub fn totals(&self) -> Totals {
        let image = &self.handles[Kind::Image as usize];
        let count = |cache: usize| image.iter().filter_map(|class| class[cache].get()).map(Counter::get).sum::<u64>();
        let sum = |which: fn(&str) -> bool| {
            let labels = Outcome::LABELS.iter().enumerate().filter(|(_, label)| which(label));
            labels.map(|(cache, _)| count(cache)).sum()
        };
        let refused = self.refusals_by.iter().map(Counter::get).sum();
        Totals { hits: sum(Outcome::is_hit), misses: sum(Outcome::is_miss), refused }
    }

    /// The metrics in the OpenMetrics text format, with `reading` as of now.
    pub fn exposition(&self, reading: Reading) -> String {
        self.gauges.set(reading);
        let mut page = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        text::encode(&mut page, &registry).expect("writing to a string cannot fail");
        page
    }
}

impl Gauges {
    fn register(&self, registry: &mut Registry) {
        registry.register("cache_entries", "Entries held", self.entries.clone());
        registry.register("cache_bytes", "Bytes that entries take, with their overhead", self.bytes.clone());
        registry.register("own_tickets", "Own tickets known", self.own_tickets.clone());
        registry.register("fills_under_way", "Fills under way", self.fills.clone());
        registry.register("waiting", "Requests that wait for a budget", self.waiting.clone());
        registry.register("waiting_for_fills", "Requests that wait for a fill", self.waiting_for_fills.clone());
        registry.register("circuit_open", "1 while the origin is only probed", self.circuit_open.clone());
        registry.register("origin_clock_skew_ms", "The origin's clock less ours", self.skew_millis.clone());
        registry.register("log_lines_dropped", "Log lines that found the queue full", self.log_lines_dropped.clone());
    }

    fn set(&self, reading: Reading) {
        let store = |store| StoreLabels { store };
        self.entries.get_or_create(&store("image")).set(signed(reading.image_entries));
        self.entries.get_or_create(&store("own")).set(signed(reading.own_entries));
        self.entries.get_or_create(&store("negative")).set(signed(reading.negative_entries));
        self.bytes.get_or_create(&store("image")).set(signed(reading.image_bytes));
        self.bytes.get_or_create(&store("own")).set(signed(reading.own_bytes));
        self.own_tickets.set(signed(reading.own_tickets));
        self.bytes.get_or_create(&store("negative")).set(signed(reading.negative_bytes));
        self.fills.set(signed(reading.fills));
        self.waiting.set(signed(reading.waiting));
        self.waiting_for_fills.set(signed(reading.waiting_for_fills));
        self.circuit_open.set(i64::from(reading.circuit_open));
        self.skew_millis.set(reading.skew_millis);
        self.log_lines_dropped.inner().store(reading.log_lines_dropped, Ordering::Relaxed);
    }
}

fn class(status: StatusCode) -> usize {
    usize::from(status.as_u16() / 100).clamp(1, CLASSES) - 1
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// An open connection, counted.
#[derive(Debug)]
pub struct OpenConnection(Gauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}
