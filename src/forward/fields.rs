//! The fields that tell the app who asked, since it sees only us: `X-Forwarded-*` and `Forwarded` (RFC 7239).
//! From a trusted peer they are extended, from anybody else replaced (S31).
//!
//! A peer is believed in the one family of fields that `client_header` names: it may pass on the other as strangers send it.
//! Apps read the one or the other, the first entry or the last, so all of them tell the same: the other family is made of
//! the believed one, and whatever we add repeats the scheme and the host that the client used. Each is one line: some apps
//! read no second one.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::forwarded;
use crate::limit::ClientHeader;
use crate::peer::Peer;

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Hops that are told anew; of a longer chain the nearest.
const MOST_HOPS: usize = 64;

/// What the believed fields say of the client.
#[derive(Default)]
struct Told {
    /// Left to right; `None` for one that is no address.
    hops: Vec<Option<IpAddr>>,
    scheme: Option<&'static str>,
    host: Option<String>,
}

/// Tells the app about `peer`, and whether it spoke TLS to us; it is `believed` in that family of fields, or in none.
pub fn introduce(headers: &mut HeaderMap, peer: Peer, believed: Option<ClientHeader>) {
    let told = match believed {
        None => Told::default(),
        Some(ClientHeader::XForwardedFor) => Told::in_x_forwarded(headers),
        Some(ClientHeader::Forwarded) => Told::in_forwarded(headers),
    };
    forget_claims(headers, believed);
    let (address, scheme) = (peer.ip().to_canonical(), told.scheme.unwrap_or(peer.scheme.as_str()));
    let asked = headers.get(header::HOST).and_then(|host| host_of(host.as_bytes()));
    let host = told.host.or(asked);
    let hops = || told.hops.iter().copied().chain([Some(address)]);
    if believed == Some(ClientHeader::XForwardedFor) {
        extend(headers, FOR, &address.to_string());
    } else {
        let whole: Vec<String> =
            hops().map(|hop| hop.map_or_else(|| "unknown".to_owned(), |hop| hop.to_string())).collect();
        set(headers, FOR, &whole.join(", "));
    }
    let element = |hop| forwarded::element(hop, host.as_deref(), scheme);
    if believed == Some(ClientHeader::Forwarded) {
        extend(headers, header::FORWARDED, &element(Some(address)));
    } else {
        set(headers, header::FORWARDED, &hops().map(element).collect::<Vec<_>>().join(", "));
    }
    set(headers, PROTO, scheme);
    if let Some(host) = &host {
        set(headers, HOST, host);
    }
}

impl Told {
    fn in_x_forwarded(headers: &HeaderMap) -> Self {
        let lines = headers.get_all(FOR).iter().rev();
        let words = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
        let hops = words.map(|word| forwarded::address(word.trim_ascii()));
        let scheme = nearest_word(headers, &PROTO).and_then(scheme_of);
        Self { hops: left_to_right(hops), scheme, host: nearest_word(headers, &HOST).and_then(host_of) }
    }

    fn in_forwarded(headers: &mut HeaderMap) -> Self {
        let lines = headers.get_all(header::FORWARDED);
        if !lines.iter().all(|line| forwarded::is_well_formed(line.as_bytes())) {
            // What we add would become part of it.
            headers.remove(header::FORWARDED);
            return Self::default();
        }
        let elements = || lines.iter().rev().flat_map(|line| forwarded::elements(line.as_bytes()));
        let hops = elements().map(|element| forwarded::parameter(element, "for").and_then(forwarded::address));
        let nearest = |name| forwarded::parameter(elements().next()?, name).map(forwarded::unquoted);
        Self {
            hops: left_to_right(hops),
            scheme: nearest("proto").and_then(scheme_of),
            host: nearest("host").and_then(host_of),
        }
    }
}

fn left_to_right(hops: impl Iterator<Item = Option<IpAddr>>) -> Vec<Option<IpAddr>> {
    let mut hops: Vec<_> = hops.take(MOST_HOPS).collect();
    hops.reverse();
    hops
}

/// Whatever others claim, and nobody is believed in: apps believe more names than we set, and some read an underscore in them
/// as a hyphen.
fn forget_claims(headers: &mut HeaderMap, believed: Option<ClientHeader>) {
    let is_kept = |name: &str| match believed {
        None => false,
        Some(ClientHeader::XForwardedFor) => name.starts_with("x-forwarded-") || name == "x-real-ip",
        Some(ClientHeader::Forwarded) => name == "forwarded",
    };
    let is_claim = |name: &str| {
        let name = name.replace('_', "-");
        name.starts_with("x-forwarded") || name == "x-real-ip" || name == "forwarded"
    };
    let claims = headers.keys().filter(|name| is_claim(name.as_str()) && !is_kept(name.as_str()));
    for name in claims.cloned().collect::<Vec<_>>() {
        headers.remove(name);
    }
}

fn scheme_of(text: &[u8]) -> Option<&'static str> {
    ["https", "http"].into_iter().find(|scheme| text.eq_ignore_ascii_case(scheme.as_bytes()))
}

/// What is a host, and can stand between quotes.
fn host_of(text: &[u8]) -> Option<String> {
    let fits = |byte: &u8| byte.is_ascii_graphic() && !b"\"\\,;".contains(byte);
    let text = std::str::from_utf8(text).ok()?;
    (!text.is_empty() && text.bytes().all(|byte| fits(&byte))).then(|| text.to_owned())
}

fn nearest_word<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let line = headers.get_all(name).iter().next_back()?;
    line.as_bytes().rsplit(|byte| *byte == b',').next().map(<[u8]>::trim_ascii)
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    headers.insert(name, HeaderValue::try_from(value).expect("addresses, schemes and checked hosts are visible ASCII"));
}

/// Adds `more` on the right, and makes one line of all.
fn extend(headers: &mut HeaderMap, name: HeaderName, more: &str) {
    let lines = headers.get_all(&name).iter().map(HeaderValue::as_bytes).chain([more.as_bytes()]);
    let whole = lines.collect::<Vec<_>>().join(&b", "[..]);
    headers.insert(name, HeaderValue::try_from(whole).expect("each of the lines is a valid value"));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::peer::Scheme;

    const X: Option<ClientHeader> = Some(ClientHeader::XForwardedFor);
    const RFC: Option<ClientHeader> = Some(ClientHeader::Forwarded);

    fn introduced(brought: &[(&'static str, &str)], believed: Option<ClientHeader>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("shop.example"));
        for (name, value) in brought {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        introduce(&mut headers, Peer { address: "127.0.0.1:9".parse().unwrap(), scheme: Scheme::Http }, believed);
        headers
    }

    fn lines(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
        headers.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    }

    /// `X-Forwarded-For`, `-Proto`, `-Host`, `Forwarded`, each in one line.
    fn all(headers: &HeaderMap) -> [String; 4] {
        [FOR, PROTO, HOST, header::FORWARDED].map(|name| {
            let mut lines = lines(headers, &name);
            assert_eq!(lines.len(), 1, "{name}");
            lines.remove(0)
        })
    }

    #[test]
    fn a_trusted_peers_word_is_extended_and_holds_in_every_field() {
        let brought = [
            ("x-forwarded-for", "203.0.113.9, 2001:db8::1"),
            ("x-forwarded-for", "unknown"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "edge.example"),
            ("x-forwarded-port", "443"),
        ];
        let headers = introduced(&brought, X);
        let rest = r#"host="edge.example";proto=https"#;
        let chain =
            format!(r#"for=203.0.113.9;{rest}, for="[2001:db8::1]";{rest}, for=unknown;{rest}, for=127.0.0.1;{rest}"#);
        let whole = "203.0.113.9, 2001:db8::1, unknown, 127.0.0.1";
        assert_eq!(all(&headers), [whole, "https", "edge.example", &chain]);
        assert_eq!(headers["x-forwarded-port"], "443");
    }

    #[test]
    fn a_peer_that_is_believed_in_forwarded_is_extended_there() {
        let brought = [
            ("forwarded", "for=203.0.113.9;proto=http"),
            ("forwarded", "for=10.0.0.1;proto=https;host=\"a.b\""),
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-proto", "gopher"),
            ("x-forwarded-port", "1"),
        ];
        let headers = introduced(&brought, RFC);
        let chain =
            r#"for=203.0.113.9;proto=http, for=10.0.0.1;proto=https;host="a.b", for=127.0.0.1;host="a.b";proto=https"#;
        assert_eq!(all(&headers), ["203.0.113.9, 10.0.0.1, 127.0.0.1", "https", "a.b", chain]);
        assert!(!headers.contains_key("x-forwarded-port"));
    }

    #[test]
    fn what_a_stranger_says_through_a_trusted_peer_counts_for_nothing_in_the_other_family() {
        let brought = [("x-forwarded-for", "203.0.113.9"), ("forwarded", "for=6.6.6.6;proto=https;host=evil.example")];
        let chain = r#"for=203.0.113.9;host="shop.example";proto=http, for=127.0.0.1;host="shop.example";proto=http"#;
        assert_eq!(all(&introduced(&brought, X)), ["203.0.113.9, 127.0.0.1", "http", "shop.example", chain]);
        for underscored in ["x_forwarded_for", "x_real_ip", "x_forwarded-proto"] {
            assert!(!introduced(&[(underscored, "6.6.6.6")], X).contains_key(underscored), "{underscored}");
        }
    }

    #[test]
    fn anybody_elses_word_is_replaced() {
        let brought = [
            ("x-forwarded-for", "203.0.113.9"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-port", "443"),
            ("x-real-ip", "203.0.113.9"),
            ("forwarded", "for=203.0.113.9"),
        ];
        let headers = introduced(&brought, None);
        let own = r#"for=127.0.0.1;host="shop.example";proto=http"#;
        assert_eq!(all(&headers), ["127.0.0.1", "http", "shop.example", own]);
        assert!(!headers.contains_key("x-forwarded-port") && !headers.contains_key("x-real-ip"));
    }

    #[test]
    fn what_is_no_scheme_no_host_and_no_whole_element_is_not_repeated() {
        let own = r#"for=127.0.0.1;host="shop.example";proto=http"#;
        let odd = introduced(&[("x-forwarded-proto", "gopher"), ("x-forwarded-host", "a\"b")], X);
        assert_eq!(all(&odd), ["127.0.0.1", "http", "shop.example", own]);
        let unclosed = introduced(&[("forwarded", "for=\"203.0.113.9;proto=https")], RFC);
        assert_eq!(all(&unclosed), ["127.0.0.1", "http", "shop.example", own]);
    }

    proptest! {
        #[test]
        fn whatever_a_peer_says_each_line_can_be_read_to_our_own_hop(values: [Vec<u8>; 4], believed: u8) {
            let mut headers = HeaderMap::new();
            for (name, value) in [FOR, PROTO, HOST, header::FORWARDED].into_iter().zip(values) {
                headers.extend(HeaderValue::from_bytes(&value).ok().map(|value| (name, value)));
            }
            let peer = Peer { address: "[2001:db8::1]:9".parse().unwrap(), scheme: Scheme::Http };
            introduce(&mut headers, peer, [None, X, RFC][usize::from(believed % 3)]);
            let own: IpAddr = "2001:db8::1".parse().unwrap();
            let forwarded = headers[header::FORWARDED].as_bytes().to_vec();
            let nearest = forwarded::elements(&forwarded).next().and_then(|element| forwarded::parameter(element, "for"));
            prop_assert_eq!(nearest.and_then(forwarded::address), Some(own));
            prop_assert_eq!(nearest_word(&headers, &FOR).and_then(forwarded::address), Some(own));
            for name in [FOR, PROTO, header::FORWARDED] {
                prop_assert_eq!(headers.get_all(name).iter().count(), 1);
            }
        }
    }
}
