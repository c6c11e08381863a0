//! Puts another configuration in force while everything runs (S38): no connection is dropped, no budget is refilled and
//! nothing leaves the cache. Requests being answered end by the configuration they began with; `[timeouts]` and `proxy_protocol` hold
//! for connections that come later. What only a restart can change stays as it was, and is named.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use serde_json::Value;

use super::Addresses;
use super::parts::{Ground, Relays};
use crate::admin::{self, Operated, Reloaded};
use crate::config::{Config, Mistakes, Sources};
use crate::fault::Stage;
use crate::forward::Forward;
use crate::limit::Trust;
use crate::metrics::Reading;
use crate::outbound::BadCaFile;
use crate::proxy::{Proxy, Shared};
use crate::relay::Current;
use crate::server::drain::{Drain, Times};
use crate::server::files;
use crate::server::places::Places;
use crate::server::tls::Tls;
use crate::server::tls::certificate::BadCertificate;
use crate::server::tls::renewal::Renewal;
use crate::server::workers::Service;

/// Sockets, the size of the cache, the file of own tickets, the look of the log and the way to a collector are made once.
const NEEDS_RESTART: [&str; 11] = [
    "admin.listen",
    "cache.memory",
    "listen",
    "log.format",
    "relay.listen",
    "tickets.max_own",
    "tickets.store",
    "tls.listen",
    "tls.redirect",
    "trace.endpoint",
    "trace.sample",
];

/// Keys that mean nothing to a server that was started without TLS.
const NEEDS_TLS: [&str; 2] = ["tls.cert", "tls.key"];

/// The configuration in force, and everything that follows it.
pub struct Reload {
    pub(super) in_force: ArcSwap<Config>,
    /// Held by whoever changes it: files are read meanwhile, and whoever only looks does not wait for them.
    pub(super) turn: Mutex<()>,
    /// Where the listeners really are: systemd may have said otherwise than the configuration.
    pub(super) addresses: Addresses,
    pub(super) sources: Option<Sources>,
    pub(super) ground: Ground,
    pub(super) shared: Arc<ArcSwap<Shared>>,
    pub(super) services: Vec<Service>,
    pub(super) places: Arc<Places>,
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) relay: Option<(Arc<Current>, Relays)>,
    pub(super) drain: Drain,
    pub(super) renewal: Option<Arc<Mutex<Renewal>>>,
}

/// Why everything stays as it was.
#[derive(Debug)]
pub enum NotReloaded {
    /// The configuration is of no use.
    Mistakes(Mistakes),
    /// It is of no use beside what a restart alone can change.
    Mixture(Mistakes),
    /// A file that it names is of no use: it has changed since it was looked at.
    CaFile(BadCaFile),
    /// The same of a certificate or its key.
    Certificate(BadCertificate),
    /// This one was started without a file, an environment and flags.
    NoSources,
}

impl Reload {
    /// Reads the configuration again, from where it came from, puts it in force and tells the log what came of it. Reads
    /// files: not for a thread that serves clients.
    pub fn read_again(&self) -> Result<Reloaded, NotReloaded> {
        self.shared.load().faults.strike(Stage::Reload);
        let reloaded = self.read().and_then(|config| self.apply(config));
        match &reloaded {
            Ok(Reloaded { applied, restart }) => {
                let list = |keys: &[&str]| (!keys.is_empty()).then(|| keys.join(", "));
                tracing::info!(
                    applied = list(applied),
                    needs_restart = list(restart),
                    "the configuration was reloaded"
                );
            }
            Err(why) => tracing::warn!("the configuration stays as it was: {why}"),
        }
        reloaded
    }

    fn read(&self) -> Result<Config, NotReloaded> {
        let sources = self.sources.clone().ok_or(NotReloaded::NoSources)?;
        Config::load(sources).map(|loaded| loaded.config).map_err(NotReloaded::Mistakes)
    }

    /// Puts `config` in force. An error leaves everything as it was.
    pub fn apply(&self, mut config: Config) -> Result<Reloaded, NotReloaded> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let was = self.in_force.load_full();
        let mut reloaded = Reloaded::default();
        for key in was.differences(&config) {
            let waits = NEEDS_RESTART.contains(&key) || self.renewal.is_none() && NEEDS_TLS.contains(&key);
            if waits { &mut reloaded.restart } else { &mut reloaded.applied }.push(key);
        }
        keep_what_needs_a_restart(&mut config, &was);
        if !reloaded.restart.is_empty() {
            config.agrees().map_err(NotReloaded::Mixture)?;
        }
        let shared = self.ground.renew(&self.shared.load(), &was, &config).map_err(NotReloaded::CaFile)?;
        let apps = self.apps(&shared, &was, &config).map_err(NotReloaded::CaFile)?;
        let relay = self.relay.as_ref().map(|(_, relays)| relays.relay(&config));
        let relay = relay.transpose().map_err(NotReloaded::CaFile)?;
        let is_renewed = self.renew_certificate(&config).map_err(NotReloaded::Certificate)?;
        if is_renewed && !reloaded.applied.contains(&"tls.cert") {
            reloaded.applied.push("tls.cert");
        }
        self.put_in_force(Arc::new(shared), apps, &was, &config);
        if let Some(((current, _), relay)) = self.relay.as_ref().zip(relay) {
            current.replace(relay);
        }
        self.in_force.store(Arc::new(config));
        Ok(reloaded)
    }

    /// What all threads share just now.
    pub fn shared(&self) -> Arc<Shared> {
        self.shared.load_full()
    }

    /// Does the stores' bookkeeping.
    pub fn tend(&self) {
        self.shared.load().cache.tend();
    }

    /// Whether the files hold another pair by now.
    fn renew_certificate(&self, config: &Config) -> Result<bool, BadCertificate> {
        let Some(renewal) = &self.renewal else { return Ok(false) };
        renewal.lock().unwrap_or_else(PoisonError::into_inner).adopt(config.server.tls.clone())
    }

    /// The way to the app for each worker, whose pool stays where nothing of it has changed.
    fn apps(&self, shared: &Shared, was: &Config, config: &Config) -> Result<Vec<Option<Arc<Forward>>>, BadCaFile> {
        let is_same = config.forward == was.forward && config.forward.ca_file.is_none();
        let app = |service: &Service| {
            if is_same {
                return Ok(service.load().exchanges().proxy().forward.clone());
            }
            Ok(Forward::new(&config.forward, shared.via.clone())?.map(Arc::new))
        };
        self.services.iter().map(app).collect()
    }

    /// Nothing here can fail: half a configuration is never in force.
    fn put_in_force(&self, shared: Arc<Shared>, apps: Vec<Option<Arc<Forward>>>, was: &Config, config: &Config) {
        let server = &config.server;
        let introductions = self.ground.introductions(config);
        let (all, per_client) = (server.max_connections, server.max_connections_per_client);
        let tls = self.tls.as_ref().map(|tls| Arc::new(tls.resized(all, per_client)));
        for (service, forward) in self.services.iter().zip(apps) {
            let connections = service.load_full();
            connections.exchanges().replace(Proxy { shared: Arc::clone(&shared), forward });
            service.store(Arc::new(connections.with(server.timeouts, introductions.clone(), tls.clone())));
        }
        for requests in [&shared.at_app, &shared.awaiting] {
            requests.resize(all, per_client, Trust::new(&config.clients));
        }
        self.shared.store(shared);
        let to_app = config.forward.app.is_some();
        if (all, to_app) != (was.server.max_connections, was.forward.app.is_some()) {
            files::raise_limit(all, to_app);
        }
        self.places.resize(all, per_client, Trust::new(&config.clients));
        self.ground.metrics.connections_may_be(all);
        self.drain.set_times(Times { delay: server.drain_delay, whole: server.drain });
        self.ground.around.log.retune(&config.log);
    }
}

impl Operated for Reload {
    fn rules(&self) -> admin::Config {
        admin::Config { listen: self.addresses.admin, ..self.in_force.load().admin.clone() }
    }

    fn shared(&self) -> Arc<Shared> {
        self.shared()
    }

    fn reading(&self) -> Reading {
        let log_lines_dropped = self.ground.around.log.dropped_lines();
        Reading { log_lines_dropped, ..self.shared.load().reading() }
    }

    fn shown(&self) -> Value {
        serde_json::json!(self.in_force.load().shown())
    }

    fn reload(&self) -> Result<Reloaded, String> {
        self.read_again().map_err(|why| why.to_string())
    }
}

/// What is in force is then told as it is.
fn keep_what_needs_a_restart(config: &mut Config, was: &Config) {
    let (server, tls) = (&mut config.server, &was.server.tls);
    (server.listen, server.tls.listen, server.tls.redirect) = (was.server.listen, tls.listen, tls.redirect);
    if tls.listen.is_none() {
        (server.tls.cert, server.tls.key) = (tls.cert.clone(), tls.key.clone());
    }
    config.admin.listen = was.admin.listen;
    config.relay.listen = was.relay.listen;
    (config.cache.memory, config.tickets.max_own) = (was.cache.memory, was.tickets.max_own);
    config.tickets.store.clone_from(&was.tickets.store);
    config.log.format = was.log.format;
    config.trace = was.trace.clone();
}

impl fmt::Display for NotReloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mistakes(mistakes) => mistakes.fmt(f),
            Self::Mixture(mistakes) => {
                write!(f, "it needs a restart: with what only that can change left as it is, {mistakes}")
            }
            Self::CaFile(bad) => bad.fmt(f),
            Self::Certificate(bad) => bad.fmt(f),
            Self::NoSources => f.write_str("there is no configuration to read again: this one was started without"),
        }
    }
}

impl std::error::Error for NotReloaded {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_that_needs_a_restart_exists_and_is_kept() {
        let mut changed = Config::default();
        let address = Some("192.0.2.1:1".parse().unwrap());
        (changed.server.listen, changed.server.tls.listen, changed.server.tls.redirect) = (address, address, address);
        (changed.server.tls.cert, changed.server.tls.key) = (Some("a".into()), Some("b".into()));
        (changed.admin.listen, changed.cache.memory) = (address, 1 << 20);
        changed.relay.listen = address;
        (changed.tickets.max_own, changed.tickets.store) = (1, Some("own.redb".into()));
        changed.log.format = crate::log::Format::Human;
        (changed.trace.endpoint, changed.trace.sample) = (Some(http::Uri::from_static("http://c.example")), 0.5);
        let mut keys = [&NEEDS_RESTART[..], &NEEDS_TLS].concat();
        keys.sort_unstable();
        assert_eq!(Config::default().differences(&changed), keys);
        keep_what_needs_a_restart(&mut changed, &Config::default());
        assert!(Config::default().differences(&changed).is_empty());
    }
}
