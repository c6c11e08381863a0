//! Puts the parts together: binds every listener first, so that a port in use or a bad certificate file is known before
//! anything runs, then starts the threads. The only reader of the whole configuration. Nothing here is global: two apps
//! run in one process.

mod running;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

pub use running::{Ending, Running};
use tokio::runtime::Runtime;

use crate::admin::{self, Admin};
use crate::cache::Cache;
use crate::clock::Clock;
use crate::config::Config;
use crate::exchange::{Exchanges, Records};
use crate::fault::Faults;
use crate::fill::judge::Rules;
use crate::fill::{Filler, Fills};
use crate::forward::{Forward, Via};
use crate::limit::{Limits, Trust};
use crate::log::{Dropped, START};
use crate::metrics::{Metrics, Reading};
use crate::origin::{BadCaFile, Origin};
use crate::proxy::{Proxy, Shared};
use crate::respond::Responder;
use crate::respond::cors::Cors;
use crate::route::Routes;
use crate::server::connection::Connections;
use crate::server::drain::Drain;
use crate::server::listener::{Door, Entrance, Listener};
use crate::server::places::Places;
use crate::server::tls::Tls;
use crate::server::tls::certificate::{BadCertificate, Certificate};
use crate::server::tls::renewal::Renewal;
use crate::server::workers::Workers;
use crate::server::{self, files, listener};
use crate::ticket::Expired;

/// Threads for fills, the accept loop and the admin listener. Clients are served by others.
const BACKGROUND_THREADS: usize = 2;

/// How often the stores do their bookkeeping.
const TEND_EVERY: Duration = Duration::from_secs(1);

/// How often the certificate's files are looked at.
const LOOK_FOR_CERTIFICATES_EVERY: Duration = Duration::from_secs(60);

/// Everything bound, nothing running.
pub struct App {
    config: Config,
    listeners: Vec<Listener>,
    tls: Option<Arc<Tls>>,
    renewal: Option<Renewal>,
    admin: Option<TcpListener>,
    addresses: Addresses,
    background: Runtime,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    around: Surroundings,
}

/// Where the listeners are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// For everybody, in the clear.
    pub public: Option<SocketAddr>,
    /// For everybody, over TLS.
    pub tls: Option<SocketAddr>,
    /// For everybody, in the clear, to be sent to TLS.
    pub redirect: Option<SocketAddr>,
    /// For the operator.
    pub admin: Option<SocketAddr>,
}

/// What surrounds an app; tests turn the clock and prepare faults.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// The time.
    pub clock: Clock,
    /// Faults on purpose.
    pub faults: Faults,
    /// How often the certificate's files are looked at.
    pub certificate_poll: Duration,
    /// What the log could not write.
    pub dropped_lines: Dropped,
}

/// Why nothing could be started.
#[derive(Debug)]
pub enum StartError {
    /// A listener cannot be bound.
    Listen(&'static str, SocketAddr, io::Error),
    /// `origin.ca_file` is of no use.
    CaFile(BadCaFile),
    /// `tls.cert` or `tls.key` is of no use.
    Certificate(BadCertificate),
    /// The system gives no threads or timers.
    System(io::Error),
}

impl Default for Surroundings {
    fn default() -> Self {
        Self {
            clock: Clock::system(),
            faults: Faults::default(),
            certificate_poll: LOOK_FOR_CERTIFICATES_EVERY,
            dropped_lines: Dropped::default(),
        }
    }
}

impl App {
    /// Binds every listener of `config`.
    pub fn bind(config: Config, surroundings: Surroundings) -> Result<Self, StartError> {
        files::raise_limit(config.server.max_connections);
        let certificate = certificate(&config.server.tls)?;
        let listeners = listeners(&config.server)?;
        let admin = config.admin.listen.map(|address| bind("admin.listen", address)).transpose()?;
        let addresses = Addresses::of(&listeners, admin.as_ref()).map_err(StartError::System)?;
        let connections = config.server.max_connections;
        let tls = certificate.clone().zip(addresses.tls);
        let tls = tls.map(|(certificate, at)| Arc::new(Tls::new(certificate, connections, at.port())));
        let background = background().map_err(StartError::System)?;
        let metrics = Metrics::new();
        let around = surroundings.clone();
        let renew = |certificate| {
            Renewal::new(config.server.tls.clone(), certificate, around.clock.clone(), Arc::clone(&metrics))
        };
        let renewal = certificate.map(renew);
        let shared = Arc::new(share(&config, surroundings, &metrics, &background)?);
        Ok(Self { config, listeners, tls, renewal, admin, addresses, background, shared, metrics, around })
    }

    /// Where the listeners are; ports that were 0 have their number.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Starts serving.
    pub fn start(self) -> Result<Running, StartError> {
        let drain = Drain::default();
        let (workers, threads) = Workers::start(self.services(&drain)?).map_err(StartError::System)?;
        let server = &self.config.server;
        let trust = self.shared.trust.clone();
        let places = Places::new(server.max_connections, server.max_connections_per_client, trust);
        let door = Door { places, workers, metrics: Arc::clone(&self.metrics) };
        let accepting = listener::accept(self.listeners, door, drain.clone(), server.drain_delay);
        self.background.spawn(accepting);
        self.background.spawn(tend(Arc::clone(&self.shared.cache)));
        self.background.spawn(limit_drain(drain.clone(), server.drain));
        if let Some(renewal) = self.renewal {
            self.background.spawn(renewal.watch(self.around.certificate_poll));
        }
        if let Some(listener) = self.admin {
            let admin = operator(&self.shared, &self.metrics, &drain, self.around.dropped_lines);
            self.background.spawn(admin::serve(Arc::new(admin), listener));
        }
        announce(self.addresses);
        let Self { addresses, background, shared, metrics, .. } = self;
        Ok(Running::new(addresses, drain, threads, shared, metrics, background))
    }

    fn services(&self, drain: &Drain) -> Result<Vec<Connections>, StartError> {
        let threads = std::thread::available_parallelism().map_err(StartError::System)?.get();
        let records = Records::new(Arc::clone(&self.metrics), self.around.clock.clone());
        let service = |_| {
            let proxy = Proxy {
                shared: Arc::clone(&self.shared),
                forward: Forward::new(&self.config.forward, self.shared.via.clone()),
            };
            let exchanges = Exchanges::new(proxy, Arc::clone(&records));
            let timeouts = self.config.server.timeouts;
            Connections::new(exchanges, timeouts, drain.for_thread(), Arc::clone(&self.metrics), self.tls.clone())
        };
        Ok((0..threads).map(service).collect())
    }
}

fn bind(name: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    listener::bind(address).map_err(|error| StartError::Listen(name, address, error))
}

/// Every public listener that is on.
fn listeners(config: &server::Config) -> Result<Vec<Listener>, StartError> {
    let wanted = [
        ("listen", config.listen, Entrance::Clear),
        ("tls.listen", config.tls.listen, Entrance::Tls),
        ("tls.redirect", config.tls.redirect, Entrance::Redirect),
    ];
    let on = wanted.into_iter().filter_map(|(name, address, entrance)| Some((name, address?, entrance)));
    on.map(|(name, address, entrance)| Ok(Listener { socket: bind(name, address)?, entrance })).collect()
}

fn certificate(config: &server::tls::Config) -> Result<Option<Arc<Certificate>>, StartError> {
    let load = |_| Certificate::load(config).map_err(StartError::Certificate);
    config.listen.map(load).transpose()
}

impl Addresses {
    fn of(listeners: &[Listener], admin: Option<&TcpListener>) -> io::Result<Self> {
        let of = |entrance| {
            let mut matching = listeners.iter().filter(move |listener| listener.entrance == entrance);
            matching.next().map(|listener| listener.socket.local_addr()).transpose()
        };
        let admin = admin.map(TcpListener::local_addr).transpose()?;
        let (public, tls, redirect) = (of(Entrance::Clear)?, of(Entrance::Tls)?, of(Entrance::Redirect)?);
        Ok(Self { public, tls, redirect, admin })
    }
}

fn background() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(BACKGROUND_THREADS)
        .thread_name("ticketgate-origin")
        .enable_all()
        .build()
}

fn share(config: &Config, around: Surroundings, metrics: &Arc<Metrics>, run: &Runtime) -> Result<Shared, StartError> {
    let Surroundings { clock, faults, .. } = around;
    let counted = Arc::clone(metrics);
    let cache = Arc::new(Cache::new(&config.cache, move || {
        counted.evictions.inc();
    }));
    let limits = Arc::new(Limits::new(&config.limits, &clock));
    let origin = Origin::new(&config.origin, config.cache.max_image, clock.clone()).map_err(StartError::CaFile)?;
    let filler = Filler {
        cache: Arc::clone(&cache),
        origin,
        limits: Arc::clone(&limits),
        rules: Rules {
            default_ttl: config.cache.default_ttl,
            negative_ttl: config.cache.negative_ttl,
            grace: config.cache.grace,
            pass_headers: config.cache.pass_headers.clone(),
            remember_late: config.tickets.expired == Expired::Ask,
        },
        clock: clock.clone(),
        metrics: Arc::clone(metrics),
        faults,
    };
    let most_fills = config.limits.max_waiters + config.origin.max_concurrent;
    Ok(Shared {
        routes: Routes::new(config.routes.clone()),
        trust: Trust::new(&config.clients),
        limits,
        strict: config.tickets.strict,
        expired: config.tickets.expired,
        cache,
        fills: Fills::new(filler, most_fills, run.handle().clone()),
        responder: Responder::new(Cors::new(&config.cors), config.limits.ratelimit_headers),
        clock,
        via: Via::unique(),
    })
}

fn operator(shared: &Arc<Shared>, metrics: &Arc<Metrics>, drain: &Drain, dropped: Dropped) -> Admin {
    let shared = Arc::clone(shared);
    let read = move || Reading { log_lines_dropped: dropped.lines(), ..shared.reading() };
    Admin { drain: drain.clone(), metrics: Arc::clone(metrics), read: Box::new(read) }
}

/// Says where we listen, whatever the log level (S2).
fn announce(addresses: Addresses) {
    let say = |address: Option<SocketAddr>| address.map_or_else(|| "off".to_owned(), |address| address.to_string());
    let (public, tls, admin) = (say(addresses.public), say(addresses.tls), say(addresses.admin));
    let relay = tracing::field::display("off");
    let redirect = addresses.redirect.map(tracing::field::display);
    tracing::info!(target: START, %public, %tls, redirect, %admin, relay, "listening");
}

/// Ends with its runtime.
async fn tend(cache: Arc<Cache>) {
    let mut due = tokio::time::interval(TEND_EVERY);
    loop {
        due.tick().await;
        cache.tend();
    }
}

async fn limit_drain(drain: Drain, limit: Duration) {
    drain.announcement().await;
    tokio::time::sleep(limit).await;
    drain.end();
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(name, address, error) => write!(f, "cannot listen on {address} ({name}): {error}"),
            Self::CaFile(bad) => bad.fmt(f),
            Self::Certificate(bad) => bad.fmt(f),
            Self::System(error) => write!(f, "the system does not let us start: {error}"),
        }
    }
}

impl std::error::Error for StartError {}
