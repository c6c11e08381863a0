//! How much of a client's address the log tells.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// How clients appear in access lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ClientShown {
    /// By their whole address.
    #[default]
    Full,
    /// By their network: the first three octets of IPv4, the /48 of IPv6.
    Anonymised,
    /// Not at all.
    Off,
}

/// The rule in force, shared by all who write lines.
#[derive(Debug, Clone, Default)]
pub(super) struct Rule(Arc<AtomicU8>);

/// An address as it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown(IpAddr);

impl Rule {
    pub(super) fn set(&self, shown: ClientShown) {
        self.0.store(shown as u8, Ordering::Relaxed);
    }

    pub(super) fn show(&self, client: IpAddr) -> Option<Shown> {
        let of = |shown: ClientShown| shown as u8;
        match self.0.load(Ordering::Relaxed) {
            off if off == of(ClientShown::Off) => None,
            full if full == of(ClientShown::Full) => Some(Shown(client)),
            _ => Some(Shown(network(client))),
        }
    }
}

fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() & (u32::MAX << 8)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 80)).into(),
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(how: ClientShown, client: &str) -> Option<String> {
        let rule = Rule::default();
        rule.set(how);
        rule.show(client.parse().unwrap()).map(|shown| shown.to_string())
    }

    #[test]
    fn an_address_loses_what_tells_one_customer_from_the_next() {
        for (client, network) in [
            ("203.0.113.77", "203.0.113.0"),
            ("::ffff:203.0.113.77", "203.0.113.0"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1::"),
        ] {
            assert_eq!(shown(ClientShown::Anonymised, client).as_deref(), Some(network));
            assert_eq!(shown(ClientShown::Off, client), None);
        }
        assert_eq!(shown(ClientShown::Full, "203.0.113.77").as_deref(), Some("203.0.113.77"));
        assert!(Rule::default().show([127, 0, 0, 1].into()).is_some(), "in full, when nobody says otherwise");
    }
}
