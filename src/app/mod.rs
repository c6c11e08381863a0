//! Puts the parts together: binds every listener first, so that a port in use or a bad certificate file is known before
//! anything runs, then starts the threads. The only reader of the whole configuration. Nothing here is global: two apps
//! run in one process.

mod doubts;
mod own;
mod parts;
pub mod reload;
mod running;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
pub use doubts::doubts;
pub use parts::rules;
use parts::{Ground, Relays};
use reload::Reload;
pub use running::{Ending, Running};
use tokio::runtime::Runtime;

use crate::admin::{self, Admin};
use crate::cache::Cache;
use crate::clock::Clock;
use crate::config::{Config, Sources};
use crate::exchange::{Exchanges, Records};
use crate::fault::{Faults, Stage};
use crate::forward::Forward;
use crate::log::{Control, START};
use crate::metrics::Metrics;
use crate::mishap::outlived;
use crate::otel::Tracer;
use crate::outbound::BadCaFile;
use crate::proxy::{Proxy, Shared};
use crate::relay::{self, Books, Current};
use crate::server::connection::Connections;
use crate::server::door::Door;
use crate::server::drain::{Drain, Times};
use crate::server::inheritance::{Inheritance, Legacy, Taken};
use crate::server::listener::{Entrance, Listener, Public};
use crate::server::places::Places;
use crate::server::small::Mishaps;
use crate::server::tls::Tls;
use crate::server::tls::certificate::{BadCertificate, Certificate};
use crate::server::tls::renewal::{self, Renewal};
use crate::server::workers::{Service, Workers};
use crate::server::{self, files, listener};
use crate::store::{self, NoStore};
use crate::ticket::Ticket;

/// Threads for fills, the accept loop and the admin listener. Clients are served by others.
const BACKGROUND_THREADS: usize = 2;

/// How often the stores do their bookkeeping.
const TEND_EVERY: Duration = Duration::from_secs(1);

/// Larger than anything that the allocator keeps for itself.
const LARGE_PIECE: usize = 8 * 1024 * 1024;

/// How often the certificate's files are looked at.
const LOOK_FOR_CERTIFICATES_EVERY: Duration = Duration::from_secs(60);

/// Everything bound, nothing running.
pub struct App {
    config: Config,
    listeners: Vec<Listener>,
    tls: Option<Arc<Tls>>,
    renewal: Option<Arc<Mutex<Renewal>>>,
    admin: Option<TcpListener>,
    relay: Option<TcpListener>,
    legacy: Arc<Legacy>,
    addresses: Addresses,
    background: Runtime,
    shared: Arc<Shared>,
    ground: Ground,
    cold: Vec<Ticket>,
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
    /// For the app's calls of WeChat's API.
    pub relay: Option<SocketAddr>,
}

impl Addresses {
    /// Where `config` wants them.
    pub fn wanted(config: &Config) -> Self {
        let server = &config.server;
        let (admin, relay) = (config.admin.listen, config.relay.listen);
        Self { public: server.listen, tls: server.tls.listen, redirect: server.tls.redirect, admin, relay }
    }
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
    /// For another process to let go of the file of own tickets.
    pub store_patience: Duration,
    /// The log of this process.
    pub log: Control,
    /// Where the configuration came from; without them it cannot be read again.
    pub sources: Option<Sources>,
}

/// Why nothing could be started.
#[derive(Debug)]
pub enum StartError {
    /// A listener cannot be bound.
    Listen(&'static str, SocketAddr, io::Error),
    /// `origin.ca_file` or `forward.ca_file` is of no use.
    CaFile(BadCaFile),
    /// `tls.cert` or `tls.key` is of no use.
    Certificate(BadCertificate),
    /// `tickets.store` cannot be used.
    Store(NoStore),
    /// The system gives no threads or timers.
    System(io::Error),
}

impl Default for Surroundings {
    fn default() -> Self {
        Self {
            clock: Clock::system(),
            faults: Faults::default(),
            certificate_poll: LOOK_FOR_CERTIFICATES_EVERY,
            store_patience: store::OPEN_WITHIN,
            log: Control::default(),
            sources: None,
        }
    }
}

impl App {
    /// Binds every listener of `config`.
    pub fn bind(config: Config, surroundings: Surroundings) -> Result<Self, StartError> {
        Self::inherit(config, surroundings, Inheritance::default())
    }

    /// The same, where sockets that were handed to us are taken instead of binding them.
    pub fn inherit(config: Config, surroundings: Surroundings, mut given: Inheritance) -> Result<Self, StartError> {
        files::raise_limit(config.server.max_connections, config.forward.app.is_some());
        let certificate = certificate(&config.server.tls)?;
        let legacy = Arc::new(Legacy::default());
        let mut open = |name, key, address| {
            let bind = || Ok(Taken { socket: listener::bind(address)?, appointed: false });
            let taken = given.take(name, address).unwrap_or_else(bind);
            let kept = taken.and_then(|taken| legacy.keep(name, &taken).map(|()| taken.socket));
            kept.map_err(|error| StartError::Listen(key, address, error))
        };
        let listeners = listeners(&config.server, &mut open)?;
        let admin = config.admin.listen.map(|address| open("admin", "admin.listen", address)).transpose()?;
        let relay = config.relay.listen.map(|address| open("relay", "relay.listen", address)).transpose()?;
        given.close_the_rest();
        let addresses = Addresses::of(&listeners, admin.as_ref(), relay.as_ref()).map_err(StartError::System)?;
        let (all, per_client) = (config.server.max_connections, config.server.max_connections_per_client);
        let tls = certificate.clone().zip(addresses.tls);
        let tls = tls.map(|(certificate, at)| Arc::new(Tls::new(certificate, all, per_client, at.port())));
        let background = background().map_err(StartError::System)?;
        let metrics = Metrics::new(surroundings.clock.now().wall);
        let (store, records) = own::open(&config, &surroundings, &metrics).map_err(StartError::Store)?;
        let ground = Ground { around: surroundings, metrics, store };
        let renewal = certificate.map(|certificate| ground.renewal(&config, certificate));
        let shared = Arc::new(ground.share(&config, &background).map_err(StartError::CaFile)?);
        let cold = own::restore(&shared, &records);
        if let Some(store) = &ground.store {
            store.refill_from(Arc::clone(&shared.cache));
        }
        Ok(Self { config, listeners, tls, renewal, admin, relay, legacy, addresses, background, shared, ground, cold })
    }

    /// Where the listeners are; ports that were 0 have their number.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Waits for `event` on the background threads.
    ///
    /// # Panics
    /// When called from within a runtime.
    pub fn wait_for<T>(&self, event: impl Future<Output = T>) -> T {
        self.background.block_on(event)
    }

    /// Starts serving.
    pub fn start(self) -> Result<Running, StartError> {
        let server = &self.config.server;
        let drain = Drain::new(Times { delay: server.drain_delay, whole: server.drain });
        let Surroundings { clock, log, faults, .. } = self.ground.around.clone();
        let metrics = Arc::clone(&self.ground.metrics);
        let tracer = Tracer::start(&self.config.trace, self.background.handle(), &clock, &metrics);
        let tracer = tracer.map_err(StartError::CaFile)?;
        let records = Records::new(metrics, clock.clone(), log, tracer.clone());
        let services = self.services(&drain, &records)?;
        let (workers, threads) = Workers::start(&services).map_err(StartError::System)?;
        self.ground.metrics.connections_may_be(server.max_connections);
        let trust = self.shared.trust.clone();
        let crowd = Arc::clone(self.shared.limits.crowd());
        let places = Places::new(server.max_connections, server.max_connections_per_client, trust, crowd);
        let Self { config, listeners, tls, renewal, admin, relay, legacy, addresses, background, shared, ground, cold } =
            self;
        let metrics = Arc::clone(&ground.metrics);
        let keeper = Public { workers, metrics: Arc::clone(&metrics), faults: faults.clone() };
        let door = Door { keeper, places: Arc::clone(&places), panics: metrics.panics.clone() };
        background.spawn(listener::accept(listeners, door, Arc::clone(&legacy), drain.clone()));
        background.spawn(tend(Arc::clone(&shared.cache), Arc::clone(&metrics), faults.clone()));
        background.spawn(limit_drain(drain.clone()));
        if let Some(renewal) = renewal.clone() {
            background.spawn(renewal::watch(renewal, ground.around.certificate_poll, Arc::clone(&metrics)));
        }
        let shared = Arc::new(ArcSwap::new(shared));
        background.spawn(own::warm(cold, Arc::clone(&shared), drain.clone()));
        let books = Arc::new(Books::new(Arc::clone(&metrics), ground.around.clock.clone()));
        let relays = Relays { records: Arc::clone(&records), shared: Arc::clone(&shared), books };
        let mishaps = Mishaps { panics: metrics.panics.clone(), faults };
        let relaying = relay.map(|listener| {
            let relay = Arc::new(Current::new(relays.relay(&config).map_err(StartError::CaFile)?));
            Ok((Arc::clone(&relay), background.spawn(relay::serve(relay, listener, mishaps, drain.clone()))))
        });
        let (relay, relaying) = relaying.transpose()?.unzip();
        let relay = relay.map(|relay| (relay, relays));
        let sources = ground.around.sources.clone();
        let (in_force, turn) = (ArcSwap::from_pointee(config), Mutex::default());
        let drained = drain.clone();
        let reload = Reload {
            in_force,
            turn,
            sources,
            addresses,
            ground,
            shared,
            services,
            places,
            tls,
            relay,
            drain: drained,
            renewal,
        };
        let reload = Arc::new(reload);
        if let Some(listener) = admin {
            let admin = Admin::new(drain.clone(), Arc::clone(&metrics), records, clock, Arc::clone(&reload));
            background.spawn(admin::serve(Arc::new(admin), listener));
        }
        doubts(addresses, &reload.in_force.load()).for_each(|doubt| tracing::warn!("{doubt}"));
        announce(addresses);
        let (background, store) = (Some(background), reload.ground.store.clone());
        Ok(Running { addresses, drain, threads, relaying, legacy, reload, metrics, tracer, background, store })
    }

    fn services(&self, drain: &Drain, records: &Arc<Records>) -> Result<Vec<Service>, StartError> {
        let threads = std::thread::available_parallelism().map_err(StartError::System)?.get();
        let metrics = &self.ground.metrics;
        let introductions = self.ground.introductions(&self.config);
        let service = |_| {
            let forward = Forward::new(&self.config.forward, self.shared.via.clone()).map_err(StartError::CaFile)?;
            let proxy = Proxy { shared: Arc::clone(&self.shared), forward: forward.map(Arc::new) };
            let exchanges = Arc::new(Exchanges::new(proxy, Arc::clone(records)));
            let (timeouts, tls) = (self.config.server.timeouts, self.tls.clone());
            let drain = drain.for_thread();
            let (metrics, introductions) = (Arc::clone(metrics), introductions.clone());
            let connections = Connections::new(exchanges, timeouts, drain, metrics, introductions, tls);
            Ok(Arc::new(ArcSwap::from_pointee(connections)))
        };
        (0..threads).map(service).collect()
    }
}

/// Every public listener that is on.
fn listeners(
    config: &server::Config,
    mut open: impl FnMut(&'static str, &'static str, SocketAddr) -> Result<TcpListener, StartError>,
) -> Result<Vec<Listener>, StartError> {
    let wanted = [
        ("public", "listen", config.listen, Entrance::Clear),
        ("tls", "tls.listen", config.tls.listen, Entrance::Tls),
        ("redirect", "tls.redirect", config.tls.redirect, Entrance::Redirect),
    ];
    let on = wanted.into_iter().filter_map(|(name, key, address, entrance)| Some((name, key, address?, entrance)));
    on.map(|(name, key, address, entrance)| Ok(Listener { socket: open(name, key, address)?, entrance })).collect()
}

fn certificate(config: &server::tls::Config) -> Result<Option<Arc<Certificate>>, StartError> {
    let load = |_| Certificate::load(config).map_err(StartError::Certificate);
    config.listen.map(load).transpose()
}

impl Addresses {
    fn of(listeners: &[Listener], admin: Option<&TcpListener>, relay: Option<&TcpListener>) -> io::Result<Self> {
        let of = |entrance| {
            let mut matching = listeners.iter().filter(move |listener| listener.entrance == entrance);
            matching.next().map(|listener| listener.socket.local_addr()).transpose()
        };
        let address = |listener: Option<&TcpListener>| listener.map(TcpListener::local_addr).transpose();
        let (admin, relay) = (address(admin)?, address(relay)?);
        let (public, tls, redirect) = (of(Entrance::Clear)?, of(Entrance::Tls)?, of(Entrance::Redirect)?);
        Ok(Self { public, tls, redirect, admin, relay })
    }
}

fn background() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(BACKGROUND_THREADS)
        .thread_name("ticketgate-origin")
        .enable_all()
        .build()
}

/// Says where we listen, whatever the log level (S2).
fn announce(addresses: Addresses) {
    let say = |address: Option<SocketAddr>| address.map_or_else(|| "off".to_owned(), |address| address.to_string());
    let (public, tls, admin) = (say(addresses.public), say(addresses.tls), say(addresses.admin));
    let relay = say(addresses.relay);
    let redirect = addresses.redirect.map(tracing::field::display);
    tracing::info!(target: START, %public, %tls, redirect, %admin, %relay, "listening");
}

/// Ends with its runtime.
async fn tend(cache: Arc<Cache>, metrics: Arc<Metrics>, faults: Faults) {
    let mut due = tokio::time::interval(TEND_EVERY);
    loop {
        due.tick().await;
        let turn = async {
            faults.strike(Stage::Tend);
            cache.tend();
            give_memory_back();
        };
        let _ = outlived(turn, &metrics.panics).await;
    }
}

/// The allocator gives back what has been free for a second, but looks only when a large piece is freed: a process that went idle
/// would keep what its busiest moment took. Nothing is written to the piece, so that it costs no memory.
fn give_memory_back() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(LARGE_PIECE)));
}

async fn limit_drain(drain: Drain) {
    drain.announcement().await;
    tokio::time::sleep(drain.times().whole).await;
    drain.end();
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(name, address, error) => write!(f, "cannot listen on {address} ({name}): {error}"),
            Self::CaFile(bad) => bad.fmt(f),
            Self::Certificate(bad) => bad.fmt(f),
            Self::Store(error) => error.fmt(f),
            Self::System(error) => write!(f, "the system does not let us start: {error}"),
        }
    }
}

impl std::error::Error for StartError {}
