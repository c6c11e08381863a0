//! The real proxy, in this process, with a clock that can be turned.

use std::net::SocketAddr;
use std::sync::Arc;

use ticketgate::app::{App, Running, Surroundings};
use ticketgate::clock::{Clock, Hands};
use ticketgate::config::Config;
use ticketgate::fault::Faults;

use super::client::{Connection, Response};
use super::origin::Origin;

pub struct Proxy {
    pub running: Running,
    pub hands: Arc<Hands>,
    config: Config,
}

impl Proxy {
    /// In front of `origin`, otherwise as shipped.
    pub fn before(origin: &Origin) -> Self {
        Self::with(origin, |_| {})
    }

    /// In front of `origin`, with changes to the shipped configuration.
    pub fn with(origin: &Origin, change: impl FnOnce(&mut Config)) -> Self {
        Self::faulty(origin, Faults::default(), change)
    }

    pub fn faulty(origin: &Origin, faults: Faults, change: impl FnOnce(&mut Config)) -> Self {
        Self::configured(faults, |config| {
            config.origin.url = origin.url().parse().unwrap();
            change(config);
        })
    }

    pub fn configured(faults: Faults, change: impl FnOnce(&mut Config)) -> Self {
        Self::by(Clock::adjustable(), faults, change)
    }

    /// With a clock that may have been turned before.
    pub fn by((clock, hands): (Clock, Arc<Hands>), faults: Faults, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        config.server.listen = Some("127.0.0.1:0".parse().unwrap());
        config.admin.listen = Some("127.0.0.1:0".parse().unwrap());
        change(&mut config);
        let certificate_poll = std::time::Duration::from_millis(5);
        let surroundings = Surroundings { clock, faults, certificate_poll, ..Surroundings::default() };
        let running = App::bind(config.clone(), surroundings).unwrap().start().unwrap();
        Self { running, hands, config }
    }

    /// Puts changes in force that need what is known only now, such as its own address.
    pub fn reconfigure(&self, change: impl FnOnce(&mut Config)) {
        let mut config = self.config.clone();
        change(&mut config);
        self.running.reload().apply(config).unwrap();
    }

    pub fn address(&self) -> SocketAddr {
        self.running.addresses().public.unwrap()
    }

    pub fn tls(&self) -> SocketAddr {
        self.running.addresses().tls.unwrap()
    }

    pub fn admin(&self) -> SocketAddr {
        self.running.addresses().admin.unwrap()
    }

    pub fn relay(&self) -> SocketAddr {
        self.running.addresses().relay.unwrap()
    }

    pub async fn connect(&self) -> Connection {
        Connection::open(self.address()).await
    }

    /// One request on a connection of its own.
    pub async fn get(&self, target: &str) -> Response {
        self.get_with(target, "").await
    }

    pub async fn get_with(&self, target: &str, headers: &str) -> Response {
        self.connect().await.get(target, &format!("Connection: close\r\n{headers}")).await
    }

    /// The image of `ticket`, which is percent-encoded as a careful page would.
    pub async fn image(&self, ticket: &str) -> Response {
        self.get(&super::tickets::target(ticket)).await
    }
}
