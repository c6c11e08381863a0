//! How many of something one client may have at once, be it connections or requests. Trusted peers carry many clients, and are
//! exempt.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError};

use super::{Client, Trust};
use crate::sync::{Mutex, MutexGuard};

/// Counts what each client has.
#[derive(Debug)]
pub struct Shares {
    rule: Mutex<Rule>,
    /// At most one entry for each share that is held.
    held: Mutex<HashMap<IpAddr, usize>>,
}

#[derive(Debug)]
struct Rule {
    per_client: usize,
    trust: Trust,
}

/// One of a client's, until dropped; a trusted peer's is not counted.
pub struct Share {
    shares: Arc<Shares>,
    client: Option<IpAddr>,
}

impl Shares {
    /// `per_client` for one untrusted address (IPv6: /64).
    pub fn new(per_client: usize, trust: Trust) -> Arc<Self> {
        Arc::new(Self { rule: Mutex::new(Rule { per_client, trust }), held: Mutex::default() })
    }

    /// `per_client` for one untrusted address from now on; what is held stays.
    pub fn resize(&self, per_client: usize, trust: Trust) {
        *self.rule() = Rule { per_client, trust };
    }

    /// One more for `peer`, unless it has its share already.
    pub fn take(self: &Arc<Self>, peer: IpAddr) -> Option<Share> {
        let (per_client, client) = {
            let rule = self.rule();
            (rule.per_client, (!rule.trust.covers(peer)).then(|| Client::at(peer).key()))
        };
        let fits = client.is_none_or(|client| self.count(client, per_client));
        fits.then(|| Share { shares: Arc::clone(self), client })
    }

    fn count(&self, client: IpAddr, per_client: usize) -> bool {
        let mut held = self.held();
        let count = held.entry(client).or_default();
        let has_room = *count < per_client;
        *count += usize::from(has_room);
        has_room
    }

    fn rule(&self) -> MutexGuard<'_, Rule> {
        self.rule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Share {
    /// Without whose it is: bodies and connections hold one, and theirs may be written down anywhere.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Share")
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let Some(client) = self.client else { return };
        let mut held = self.shares.held();
        if let Some(count) = held.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                held.remove(&client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::{ClientConfig, Trusted};

    fn trusting(network: &str) -> Trust {
        let network = Trusted::Net(network.parse().unwrap());
        Trust::new(&ClientConfig { trusted_proxies: vec![network], ..ClientConfig::default() })
    }

    fn take(shares: &Arc<Shares>, peer: &str) -> Option<Share> {
        shares.take(peer.parse().unwrap())
    }

    #[test]
    fn a_client_has_its_share_and_what_it_gives_back_is_forgotten() {
        let shares = Shares::new(1, trusting("192.0.2.0/24"));
        let first = take(&shares, "2001:db8::1");
        assert!(first.is_some() && take(&shares, "2001:db8::2").is_none(), "one customer is one client");
        let other = take(&shares, "203.0.113.7");
        assert!(other.is_some());
        let carried: Vec<_> = (0..9).filter_map(|_| take(&shares, "192.0.2.1")).collect();
        assert_eq!(carried.len(), 9, "trusted peers are exempt");
        drop((first, other, carried));
        assert!(shares.held().is_empty());
    }

    #[test]
    fn another_share_and_another_trust_hold_at_once() {
        let shares = Shares::new(1, trusting("192.0.2.0/24"));
        let first = take(&shares, "203.0.113.7");
        assert!(first.is_some() && take(&shares, "203.0.113.7").is_none());
        shares.resize(2, trusting("192.0.2.0/24"));
        let second = take(&shares, "203.0.113.7");
        assert!(second.is_some() && take(&shares, "203.0.113.7").is_none());
        shares.resize(2, trusting("203.0.113.0/24"));
        assert!(take(&shares, "203.0.113.7").is_some());
        drop((first, second));
        assert!(shares.held().is_empty(), "they were counted as they were taken");
    }
}
