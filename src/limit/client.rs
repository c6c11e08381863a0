//! Who a client is (S30): the socket's peer, or, when that is a proxy we trust, whom the proxies say they speak for. Pure.
//!
//! Of a chain of hops only the right end can be believed: each proxy adds on the right whom it saw, and whatever stood
//! there before may be made up. So the chain is walked from the right, over all lines of the one configured header, while
//! hops are trusted; the first that is not is the client.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::{HeaderMap, HeaderName, header};
use ipnet::IpNet;

use super::config::{ClientConfig, ClientHeader, Trusted};
use crate::forwarded;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Hops walked at most; longer chains end in their middle.
const MOST_HOPS: usize = 64;

/// A client. Displays as its address; is counted by [`Client::key`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client(IpAddr);

/// Tells clients from proxies.
#[derive(Debug, Clone)]
pub struct Trust {
    trusted: Vec<Trusted>,
    header: ClientHeader,
}

impl Client {
    /// The client at `address`; a v4-mapped one is v4.
    pub fn at(address: IpAddr) -> Self {
        Self(address.to_canonical())
    }

    /// Its address.
    pub fn address(&self) -> IpAddr {
        self.0
    }

    /// What it is counted by: the address, of IPv6 the /64, since that is what one customer gets.
    pub fn key(&self) -> IpAddr {
        match self.0 {
            IpAddr::V4(_) => self.0,
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
        }
    }
}

impl std::hash::Hash for Client {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Trust {
    /// Trusts by `config`.
    pub fn new(config: &ClientConfig) -> Self {
        Self { trusted: config.trusted_proxies.clone(), header: config.client_header }
    }

    /// Whether the word of `address` about its clients counts.
    pub fn covers(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted.iter().any(|trusted| match trusted {
            Trusted::Loopback => address.is_loopback(),
            Trusted::Private => is_private(address),
            Trusted::Net(net) => net.contains(&address),
        })
    }

    /// The family of fields in which `address` is believed.
    pub fn believed(&self, address: IpAddr) -> Option<ClientHeader> {
        self.covers(address).then_some(self.header)
    }

    /// The client behind `peer`. A hop that is no address ends the walk: what stands left of it is hearsay, so the hop
    /// that told us is the client.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> Client {
        if !self.covers(peer) {
            return Client::at(peer);
        }
        let lines = |name| headers.get_all(name).iter().rev();
        match self.header {
            ClientHeader::XForwardedFor => {
                let words = lines(X_FORWARDED_FOR).flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
                self.walk(peer, words.map(plain_hop))
            }
            ClientHeader::Forwarded => {
                let elements = lines(header::FORWARDED).flat_map(|line| forwarded::elements(line.as_bytes()));
                self.walk(peer, elements.map(forwarded_hop))
            }
        }
    }

    /// Along `hops`, right to left; `None` for one that is no address.
    fn walk(&self, peer: IpAddr, hops: impl Iterator<Item = Option<IpAddr>>) -> Client {
        let mut client = peer;
        for hop in hops.take(MOST_HOPS) {
            let Some(hop) = hop else { break };
            client = hop;
            if !self.covers(hop) {
                break;
            }
        }
        Client::at(client)
    }

    /// Whether `peer` looks like a proxy of ours that nobody told us of: forwarding headers from an untrusted loopback or
    /// private address.
    pub fn unconfigured(&self, peer: IpAddr, headers: &HeaderMap) -> bool {
        let forwards = || [X_FORWARDED_FOR, header::FORWARDED, X_REAL_IP].iter().any(|name| headers.contains_key(name));
        !self.covers(peer) && is_local(peer) && forwards()
    }

    /// The line of configuration that would make us believe `peer`.
    pub fn line_to_add(&self, peer: IpAddr) -> String {
        let mut names: Vec<String> = self.trusted.iter().map(|trusted| format!("\"{trusted}\"")).collect();
        names.push(format!("\"{}\"", peer.to_canonical()));
        format!("trusted_proxies = [{}]", names.join(", "))
    }
}

impl fmt::Display for Trusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback => f.write_str("loopback"),
            Self::Private => f.write_str("private"),
            Self::Net(net) if net.prefix_len() == net.max_prefix_len() => net.addr().fmt(f),
            Self::Net(net) => net.fmt(f),
        }
    }
}

fn is_local(address: IpAddr) -> bool {
    address.to_canonical().is_loopback() || is_private(address)
}

/// RFC 1918, RFC 6598 (carrier NAT, used inside clouds), RFC 4193 and link-local.
fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_private() || v4.is_link_local() || is_shared(v4),
        IpAddr::V6(v6) => v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

fn is_shared(v4: Ipv4Addr) -> bool {
    IpNet::new_assert(Ipv4Addr::new(100, 64, 0, 0).into(), 10).contains(&IpAddr::V4(v4))
}

fn plain_hop(hop: &[u8]) -> Option<IpAddr> {
    forwarded::address(hop.trim_ascii())
}

fn forwarded_hop(element: &[u8]) -> Option<IpAddr> {
    forwarded::parameter(element, "for").and_then(forwarded::address)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn trust(trusted: &[Trusted], header: ClientHeader) -> Trust {
        Trust::new(&ClientConfig { trusted_proxies: trusted.to_vec(), client_header: header })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn client(header: ClientHeader, peer: &str, lines: &[&str]) -> String {
        let name = match header {
            ClientHeader::XForwardedFor => X_FORWARDED_FOR,
            ClientHeader::Forwarded => header::FORWARDED,
        };
        let headers = lines.iter().map(|line| (name.clone(), HeaderValue::from_str(line).unwrap())).collect();
        let trusted = [Trusted::Loopback, Trusted::Net("10.0.0.0/8".parse().unwrap())];
        trust(&trusted, header).client(ip(peer), &headers).to_string()
    }

    #[test]
    fn the_right_most_untrusted_hop_is_the_client() {
        let table: [(&str, &[&str], &str); 15] = [
            ("203.0.113.7", &["198.51.100.1"], "203.0.113.7"),
            ("127.0.0.1", &[], "127.0.0.1"),
            ("127.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("127.0.0.1", &["6.6.6.6, 198.51.100.1"], "198.51.100.1"),
            ("127.0.0.1", &["6.6.6.6", "198.51.100.1, 10.1.2.3"], "198.51.100.1"),
            ("127.0.0.1", &["198.51.100.1:1234"], "198.51.100.1"),
            ("127.0.0.1", &["[2001:db8::1]:1234"], "2001:db8::1"),
            ("127.0.0.1", &["[2001:db8::1]"], "2001:db8::1"),
            ("127.0.0.1", &["2001:db8::1"], "2001:db8::1"),
            ("127.0.0.1", &["::ffff:198.51.100.1"], "198.51.100.1"),
            ("::ffff:127.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("127.0.0.1", &["10.0.0.1, 10.0.0.2"], "10.0.0.1"),
            ("127.0.0.1", &["6.6.6.6, rubbish, 10.0.0.2"], "10.0.0.2"),
            ("127.0.0.1", &["6.6.6.6, "], "127.0.0.1"),
            ("127.0.0.1", &["198.51.100.1 , 10.0.0.2 "], "198.51.100.1"),
        ];
        for (peer, lines, expected) in table {
            assert_eq!(client(ClientHeader::XForwardedFor, peer, lines), expected, "{peer} {lines:?}");
        }
    }

    #[test]
    fn forwarded_is_read_as_rfc_7239_writes_it() {
        let table: [(&[&str], &str); 7] = [
            (&["for=198.51.100.1"], "198.51.100.1"),
            (&["proto=https; For=\"[2001:db8::1]:80\" ;by=x"], "2001:db8::1"),
            (&["for=6.6.6.6, for=198.51.100.1;host=\"a,for=7.7.7.7\""], "198.51.100.1"),
            (&["for=6.6.6.6, for=unknown"], "127.0.0.1"),
            (&["for=6.6.6.6, for=_hidden, for=10.0.0.1"], "10.0.0.1"),
            (&["for=198.51.100.1", "for=10.0.0.1"], "198.51.100.1"),
            (&["proto=http"], "127.0.0.1"),
        ];
        for (lines, expected) in table {
            assert_eq!(client(ClientHeader::Forwarded, "127.0.0.1", lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn one_customer_is_one_client() {
        let key = |text| Client::at(ip(text)).key();
        assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::9"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_eq!(key("::ffff:198.51.100.1"), key("198.51.100.1"));
    }

    #[test]
    fn a_forgotten_line_is_noticed_and_named() {
        let headers = [(X_FORWARDED_FOR, HeaderValue::from_static("1.2.3.4"))].into_iter().collect();
        let trust = trust(&[Trusted::Loopback], ClientHeader::XForwardedFor);
        assert!(trust.unconfigured(ip("172.17.0.1"), &headers));
        assert!(!trust.unconfigured(ip("172.17.0.1"), &HeaderMap::new()));
        assert!(!trust.unconfigured(ip("127.0.0.1"), &headers), "it is trusted");
        assert!(!trust.unconfigured(ip("203.0.113.7"), &headers), "a stranger makes things up");
        assert_eq!(trust.line_to_add(ip("172.17.0.1")), r#"trusted_proxies = ["loopback", "172.17.0.1"]"#);
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic_and_no_stranger_is_believed(line in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Ok(value) = HeaderValue::from_bytes(&line) {
                for (name, kind) in [(X_FORWARDED_FOR, ClientHeader::XForwardedFor), (header::FORWARDED, ClientHeader::Forwarded)] {
                    let headers = [(name, value.clone())].into_iter().collect();
                    let trust = trust(&[Trusted::Loopback], kind);
                    let _ = trust.client(ip("127.0.0.1"), &headers);
                    prop_assert_eq!(trust.client(ip("203.0.113.7"), &headers).address(), ip("203.0.113.7"));
                }
            }
        }
    }
}
