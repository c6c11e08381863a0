//! Builds what all threads share from a configuration: at the start, and again when another one is put in force. Then
//! whatever its part of the configuration has left alone is kept as it is: who has spent which budget, the pool and the
//! circuit of the origin; and always the cache, the fills under way and our name in `Via`.

use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use tokio::runtime::Runtime;

use super::Surroundings;
use crate::cache::Cache;
use crate::config::Config;
use crate::exchange::Records;
use crate::fill::judge::Rules;
use crate::fill::{Filler, Fills};
use crate::limit::{Limits, Requests, Trust};
use crate::metrics::Metrics;
use crate::origin::Origin;
use crate::outbound::BadCaFile;
use crate::proxy::Shared;
use crate::relay::{Books, Relay};
use crate::respond::Responder;
use crate::respond::cors::Cors;
use crate::route::Routes;
use crate::server::introduction::Introductions;
use crate::server::tls::certificate::Certificate;
use crate::server::tls::renewal::Renewal;
use crate::store::Store;
use crate::ticket::Expired;
use crate::via::Via;

/// What is built once and outlives every configuration.
#[derive(Clone)]
pub(super) struct Ground {
    pub(super) around: Surroundings,
    pub(super) metrics: Arc<Metrics>,
    pub(super) store: Option<Arc<Store>>,
}

impl Ground {
    /// What all threads share at the start; fills run on `background`.
    pub(super) fn share(&self, config: &Config, background: &Runtime) -> Result<Shared, BadCaFile> {
        let evicted = Arc::clone(&self.metrics);
        let on_evict = move |store| evicted.evicted(store);
        let most = config.tickets.max_own;
        let cache = Arc::new(if config.expects_own_tickets() {
            Cache::with_own(&config.cache, most, on_evict)
        } else {
            Cache::new(&config.cache, most, on_evict)
        });
        let limits = Arc::new(Limits::new(&config.limits, &self.around.clock));
        let server = &config.server;
        let requests =
            || Requests::new(server.max_connections, server.max_connections_per_client, Trust::new(&config.clients));
        let via = Via::unique();
        let origin = Arc::new(self.origin(config, &via)?);
        let filler = self.filler(config, &cache, origin, &limits);
        let fills = Fills::new(filler, most_fills(config), background.handle().clone());
        Ok(self.assemble(config, (cache, limits, [requests(), requests()], fills), via))
    }

    /// The same by `config`, where `before` was built by `was`. A file of certificates is read anew.
    pub(super) fn renew(&self, before: &Shared, was: &Config, config: &Config) -> Result<Shared, BadCaFile> {
        let is_same = config.origin == was.origin
            && config.origin.ca_file.is_none()
            && config.cache.max_image == was.cache.max_image;
        let origin =
            if is_same { Arc::clone(before.fills.origin()) } else { Arc::new(self.origin(config, &before.via)?) };
        let cache = Arc::clone(&before.cache);
        let limits = Arc::new(before.limits.renewed(&config.limits, &self.around.clock));
        let fills = before.fills.renewed(self.filler(config, &cache, origin, &limits), most_fills(config));
        let requests = [&before.at_app, &before.awaiting].map(Arc::clone);
        Ok(self.assemble(config, (cache, limits, requests, fills), before.via.clone()))
    }

    /// Keeps `certificate` the one in the files that `config` names.
    pub(super) fn renewal(&self, config: &Config, certificate: Arc<Certificate>) -> Arc<Mutex<Renewal>> {
        let (clock, metrics) = (self.around.clock.clone(), Arc::clone(&self.metrics));
        Arc::new(Mutex::new(Renewal::new(config.server.tls.clone(), certificate, clock, metrics)))
    }

    /// What every connection begins with by `config`, if anything.
    pub(super) fn introductions(&self, config: &Config) -> Option<Arc<Introductions>> {
        let (trust, patience) = (Trust::new(&config.clients), config.server.timeouts.first_byte);
        config.server.proxy_protocol.then(|| Introductions::new(trust, patience, Arc::clone(&self.metrics)))
    }

    fn origin(&self, config: &Config, via: &Via) -> Result<Origin, BadCaFile> {
        let Surroundings { clock, faults, .. } = self.around.clone();
        Origin::new(&config.origin, config.cache.max_image, clock, via.clone(), faults)
    }

    fn filler(&self, config: &Config, cache: &Arc<Cache>, origin: Arc<Origin>, limits: &Arc<Limits>) -> Filler {
        let Surroundings { clock, faults, .. } = self.around.clone();
        Filler {
            cache: Arc::clone(cache),
            store: self.store.clone(),
            origin,
            limits: Arc::clone(limits),
            rules: rules(config),
            clock,
            metrics: Arc::clone(&self.metrics),
            faults,
        }
    }

    fn assemble(
        &self,
        config: &Config,
        kept: (Arc<Cache>, Arc<Limits>, [Arc<Requests>; 2], Fills),
        via: Via,
    ) -> Shared {
        let (cache, limits, [at_app, awaiting], fills) = kept;
        Shared {
            routes: Routes::new(config.routes.clone()),
            trust: Trust::new(&config.clients),
            limits,
            at_app,
            awaiting,
            strict: config.tickets.strict,
            expired: config.tickets.expired,
            allow: config.tickets.allow,
            cache,
            fills,
            responder: Responder::new(Cors::new(&config.cors), config.limits.ratelimit_headers),
            clock: self.around.clock.clone(),
            via,
            faults: self.around.faults.clone(),
        }
    }
}

/// What every relay of this process is made with.
pub(super) struct Relays {
    pub(super) records: Arc<Records>,
    pub(super) shared: Arc<ArcSwap<Shared>>,
    pub(super) books: Arc<Books>,
}

impl Relays {
    /// The relay of `config`. A file of certificates is read.
    pub(super) fn relay(&self, config: &Config) -> Result<Relay, BadCaFile> {
        let (records, shared, books) = (Arc::clone(&self.records), Arc::clone(&self.shared), Arc::clone(&self.books));
        Relay::new(&config.relay, &config.origin, config.server.timeouts.body, shared, records, books)
    }
}

/// By what answers of the origin are judged.
pub fn rules(config: &Config) -> Rules {
    Rules {
        default_ttl: config.cache.default_ttl,
        negative_ttl: config.cache.negative_ttl,
        grace: config.cache.grace,
        pass_headers: config.cache.pass_headers.clone(),
        remember_late: config.tickets.expired == Expired::Ask,
    }
}

/// Each waits for a budget or for a place at the origin.
fn most_fills(config: &Config) -> usize {
    config.limits.max_waiters + config.origin.max_concurrent
}
