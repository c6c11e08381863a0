//! What is counted. Passed down from [`crate::app`]: there is no global registry, and two proxies in one process count
//! apart. The handles of whatever a good answer counts are resolved once, so that counting it is one atomic addition; only
//! reasons for trouble are looked up by name. What every answer counts, each thread counts apart (`tally`); what is
//! measured when somebody looks is a [`Reading`]. `docs/metrics.md` has every name; a test compares.

mod process;
mod reading;
mod tally;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use http::StatusCode;
use process::Process;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use reading::Gauges;
pub use reading::Reading;
use tally::Tallies;
pub use tally::{Source, Tally};

use crate::cache::Store;
use crate::cache::status::Outcome;
use crate::latency::{Counts, Latency};
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

/// What was chosen when this was built.
const FEATURES: &str = match (cfg!(feature = "mimalloc"), cfg!(feature = "otel")) {
    (true, true) => "mimalloc,otel",
    (true, false) => "mimalloc",
    (false, true) => "otel",
    (false, false) => "",
};

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
    fill_failures: Family<ReasonLabels, Counter>,
    collapsed: Counter,
    origin_duration: Histogram,
    connections_open: Gauge,
    connections_max: Gauge,
    /// Connections closed because their client had its share, or because with `proxy_protocol` their peer is not trusted.
    pub connections_refused: Counter,
    /// Connections that idled, and were closed because others needed their places.
    pub connections_given_up: Counter,
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
    /// Mistakes of ours, of which each cost a request or a fill.
    pub panics: Counter,
    evictions: Family<StoreLabels, Counter>,
    evictions_by: [Counter; Store::ALL.len()],
    /// Tickets that an answer to the relay taught.
    pub tickets_learned: Counter,
    /// Tickets that the operator registered.
    pub tickets_registered: Counter,
    /// Times that the file of own tickets could not be written or opened again.
    pub store_failures: Counter,
    /// Own tickets that the file never got.
    pub store_dropped: Counter,
    /// Forwarding headers from a loopback or private peer that is not trusted.
    pub untrusted_forwarding: Counter,
    spans: Family<FateLabels, Counter>,
    spans_by: [Counter; Fate::ALL.len()],
    tallies: Tallies,
    /// The same as `origin_duration`, which nobody can read.
    origin_latency: Latency,
    gauges: Gauges,
}

/// What became of a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The collector took it.
    Sent,
    /// The queue was full.
    Dropped,
    /// The collector did not take it.
    Lost,
}

/// Sums for a view of the whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests of every kind.
    pub requests: u64,
    /// Image requests.
    pub images: u64,
    /// Those of them for which the cache was looked at: what the hit ratio is of.
    pub looked_up: u64,
    /// Image requests answered from the cache.
    pub hits: u64,
    /// Image requests for which the origin was asked or a fill was joined.
    pub misses: u64,
    /// Calls refused by a budget.
    pub refused: u64,
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
struct RouteLabels {
    route: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StoreLabels {
    store: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FateLabels {
    fate: &'static str,
}

impl Fate {
    /// Every fate, in the order of the discriminants.
    pub const ALL: [Self; 3] = [Self::Sent, Self::Dropped, Self::Lost];

    const fn name(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Dropped => "dropped",
            Self::Lost => "lost",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FileLabels {
    file: &'static str,
}

impl Metrics {
    /// Nothing counted yet, in a process that starts at `start`.
    pub fn new(start: Wall) -> Arc<Self> {
        let (refusals, repairs, evictions) = (Family::default(), Family::default(), Family::default());
        let refusal = |budget: BudgetName| refusals.get_or_create_owned(&BudgetLabels { budget: budget.name() });
        let repair = |repair: Repair| repairs.get_or_create_owned(&RepairLabels { kind: repair.name() });
        let spans = Family::default();
        let fate = |fate: Fate| spans.get_or_create_owned(&FateLabels { fate: fate.name() });
        let eviction = |store: Store| evictions.get_or_create_owned(&StoreLabels { store: store.name() });
        let metrics = Self {
            registry: Mutex::default(),
            requests: Family::default(),
            handles: Default::default(),
            failures: Family::default(),
            not_stored: Family::default(),
            refusals_by: BudgetName::ALL.map(refusal),
            repairs_by: Repair::ALL.map(repair),
            evictions_by: Store::ALL.map(eviction),
            evictions,
            refusals,
            repairs,
            relayed: Family::default(),
            relay_failures: Family::default(),
            tickets_learned: Counter::default(),
            tickets_registered: Counter::default(),
            store_failures: Counter::default(),
            store_dropped: Counter::default(),
            fills: Counter::default(),
            fill_failures: Family::default(),
            collapsed: Counter::default(),
            origin_duration: Histogram::new(exponential_buckets(0.005, 2.0, 13)),
            connections_open: Gauge::default(),
            connections_max: Gauge::default(),
            connections_refused: Counter::default(),
            connections_given_up: Counter::default(),
            proxy_headers_refused: Counter::default(),
            accept_failures: Counter::default(),
            tls_handshakes_failed: Counter::default(),
            tls_certificates_refused: Counter::default(),
            certificate_ends: Family::default(),
            malformed: Counter::default(),
            abandoned: Counter::default(),
            panics: Counter::default(),
            untrusted_forwarding: Counter::default(),
            spans_by: Fate::ALL.map(fate),
            spans,
            tallies: Tallies::default(),
            origin_latency: Latency::default(),
            gauges: Gauges::default(),
        };
        metrics.register(start);
        Arc::new(metrics)
    }

    fn register(&self, start: Wall) {
        let mut all = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        all.register_collector(Box::new(Process::started(start)));
        let registry = all.sub_registry_with_prefix("ticketgate");
        self.register_images(registry);
        self.register_relay(registry);
        self.register_connections(registry);
        self.gauges.register(registry);
        registry.register(
            "panics",
            "Mistakes of ours that each cost a request, a fill or a turn of other work",
            self.panics.clone(),
        );
        registry.register("trace_spans", "Spans for the collector of traces", self.spans.clone());
        registry.register_collector(Box::new(self.tallies.clone()));
        let build = [("version", env!("CARGO_PKG_VERSION")), ("features", FEATURES)];
        registry.register("build", "What is running", Info::new(build.to_vec()));
    }

    fn register_images(&self, registry: &mut Registry) {
        registry.register("requests", "Requests answered on the public listeners", self.requests.clone());
        registry.register("image_failures", "Image requests that ended without an image", self.failures.clone());
        registry.register("images_not_stored", "Images shown but not stored", self.not_stored.clone());
        registry.register("limit_refusals", "Calls refused by a budget", self.refusals.clone());
        registry.register("ticket_repairs", "Repairs made to tickets", self.repairs.clone());
        registry.register("fills", "Fills that ended", self.fills.clone());
        registry.register("fill_failures", "Fills that ended without an answer to show", self.fill_failures.clone());
        registry.register("fills_joined", "Requests that joined a fill under way", self.collapsed.clone());
        let help = "Time from asking the origin until its answer was read";
        registry.register("origin_duration_seconds", help, self.origin_duration.clone());
        registry.register("cache_evictions", "Entries evicted for want of room", self.evictions.clone());
    }

    fn register_relay(&self, registry: &mut Registry) {
        registry.register("relay_requests", "Calls answered on the relay", self.relayed.clone());
        registry.register("relay_failures", "Calls that the relay answered itself", self.relay_failures.clone());
        registry.register("tickets_learned", "Tickets learned by the relay", self.tickets_learned.clone());
        let help = "Tickets registered by the operator";
        registry.register("tickets_registered", help, self.tickets_registered.clone());
        let help = "Times that tickets.store could not be written or opened again";
        registry.register("store_failures", help, self.store_failures.clone());
        let help = "Own tickets that tickets.store never got, and a restart forgets";
        registry.register("store_dropped_tickets", help, self.store_dropped.clone());
    }

    fn register_connections(&self, registry: &mut Registry) {
        registry.register("connections_open", "Open client connections", self.connections_open.clone());
        let help = "Client connections that may be open at once";
        registry.register("connections_max", help, self.connections_max.clone());
        let help = "Connections over the share of a client, or of peers that may not speak the PROXY protocol";
        registry.register("connections_refused", help, self.connections_refused.clone());
        let help = "Connections that idled or had asked for nothing, closed because others needed their places";
        registry.register("connections_given_up", help, self.connections_given_up.clone());
        let help = "Connections that began with no whole PROXY header";
        registry.register("proxy_headers_refused", help, self.proxy_headers_refused.clone());
        registry.register("accept_failures", "Failed attempts to accept a connection", self.accept_failures.clone());
        let help = "TLS handshakes that failed or took too long";
        registry.register("tls_handshakes_failed", help, self.tls_handshakes_failed.clone());
        let help = "Changed files of [tls] that were of no use";
        registry.register("tls_certificates_refused", help, self.tls_certificates_refused.clone());
        let (help, ends) = ("Unix time at which the TLS certificate in force ends", self.certificate_ends.clone());
        registry.register_with_unit("tls_certificate_expiry_timestamp", help, Unit::Seconds, ends);
        registry.register("malformed_messages", "Messages that were no HTTP", self.malformed.clone());
        let help = "Requests whose client hung up before the answer";
        registry.register("abandoned_requests", help, self.abandoned.clone());
        let help = "Requests whose forwarding headers were ignored though their peer is local";
        registry.register("untrusted_forwarding", help, self.untrusted_forwarding.clone());
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

    /// Counts a fill that ended, why its image was not stored when it was not, and why there is none when it failed.
    pub fn filled(&self, not_stored: Option<&'static str>, failed: Option<&'static str>) {
        self.fills.inc();
        if let Some(reason) = not_stored {
            self.not_stored.get_or_create(&ReasonLabels { reason }).inc();
        }
        if let Some(reason) = failed {
            self.fill_failures.get_or_create(&ReasonLabels { reason }).inc();
        }
    }

    /// Counts a request that joined a fill under way.
    pub fn joined(&self) {
        self.collapsed.inc();
    }

    /// Notes how long the origin took.
    pub fn origin_answered(&self, took: Duration) {
        self.origin_duration.observe(took.as_secs_f64());
        self.origin_latency.note(took);
    }

    /// How long the origin took, so far.
    pub fn origin_latency(&self) -> Counts {
        self.origin_latency.counts()
    }

    /// How long hits took, so far.
    pub fn hit_latency(&self) -> Counts {
        self.tallies.hits()
    }

    /// Counts an entry of `store` that went for want of room.
    pub fn evicted(&self, store: Store) {
        self.evictions_by[store as usize].inc();
    }

    /// How many entries of `store` went for want of room.
    pub fn evictions(&self, store: Store) -> u64 {
        self.evictions_by[store as usize].get()
    }

    /// Counts `spans` that met `fate`.
    pub fn traced(&self, fate: Fate, spans: u64) {
        self.spans_by[fate as usize].inc_by(spans);
    }

    /// How many spans met `fate`.
    pub fn spans(&self, fate: Fate) -> u64 {
        self.spans_by[fate as usize].get()
    }

    /// Counts of its own for a thread.
    pub fn tally(&self) -> Arc<Tally> {
        self.tallies.one_more()
    }

    /// Notes how many connections may be open at once.
    pub fn connections_may_be(&self, most: usize) {
        self.connections_max.set(i64::try_from(most).unwrap_or(i64::MAX));
    }

    /// Counts a connection as open until the returned value is dropped.
    pub fn connection_opened(&self) -> OpenConnection {
        self.connections_open.inc();
        OpenConnection(self.connections_open.clone())
    }

    /// Counts a panic, if one ends the task that holds the returned value.
    pub fn witness(&self) -> Witness<'_> {
        Witness(&self.panics)
    }

    /// Notes when the TLS certificate in force ends.
    pub fn certificate_ends(&self, end: Wall) {
        self.certificate_ends.get_or_create(&FileLabels { file: "tls.cert" }).set(end.unix());
    }

    /// How many calls each budget refused.
    pub fn refusals(&self) -> [(BudgetName, u64); BudgetName::ALL.len()] {
        BudgetName::ALL.map(|budget| (budget, self.refusals_by[budget as usize].get()))
    }

    /// When the TLS certificate in force ends; `None` without TLS.
    pub fn certificate_end(&self) -> Option<Wall> {
        self.certificate_ends.get(&FileLabels { file: "tls.cert" }).map(|end| Wall::from_unix(end.get()))
    }

    /// How many client connections are open.
    pub fn open_connections(&self) -> u64 {
        u64::try_from(self.connections_open.get()).unwrap_or(0)
    }

    /// Sums what was counted so far.
    pub fn totals(&self) -> Totals {
        let image = &self.handles[Kind::Image as usize];
        let count = |cache: usize| image.iter().filter_map(|class| class[cache].get()).map(Counter::get).sum::<u64>();
        let of_kind = |kind: Kind| self.handles[kind as usize].iter().flatten().filter_map(OnceLock::get);
        let all = |kind: Kind| of_kind(kind).map(Counter::get).sum::<u64>();
        let sum = |which: fn(&str) -> bool| {
            let labels = Outcome::LABELS.iter().enumerate().filter(|(_, label)| which(label));
            labels.map(|(cache, _)| count(cache)).sum()
        };
        let refused = self.refusals_by.iter().map(Counter::get).sum();
        let requests = Kind::ALL.map(all).iter().sum();
        Totals {
            requests,
            images: all(Kind::Image),
            looked_up: sum(|label| label != Outcome::REFUSED),
            hits: sum(Outcome::is_hit),
            misses: sum(Outcome::is_miss),
            refused,
        }
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

fn class(status: StatusCode) -> usize {
    usize::from(status.as_u16() / 100).clamp(1, CLASSES) - 1
}

/// Sees a panic go by. One for each task, so that none is counted twice.
#[derive(Debug)]
pub struct Witness<'a>(&'a Counter);

impl Drop for Witness<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.inc();
        }
    }
}

/// An open connection, counted.
#[derive(Debug)]
pub struct OpenConnection(Gauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}
