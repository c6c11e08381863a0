//! The fields that tell the app who asked, since it sees only us: `X-Forwarded-*` and `Forwarded` (RFC 7239).
//! From a trusted peer they are extended, from anybody else replaced (S31).
//!
//! Apps read the one or the other, the first entry or the last, so all of them tell the same: where a trusted peer
//! names the scheme and the host that the client used, what we add repeats them, and where it speaks in
//! `X-Forwarded-*` alone, `Forwarded` is made of these. Each is one line: some apps read no second one.

use std::net::IpAddr;

use http::header::Entry;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::forwarded;
use crate::peer::Peer;

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Hops that are told anew; of a longer chain the nearest.
const MOST_HOPS: usize = 64;

/// Tells the app about `peer`, and whether it spoke TLS to us.
pub fn introduce(headers: &mut HeaderMap, peer: Peer, trusted: bool) {
    if !trusted {
        forget_claims(headers);
    }
    let (address, scheme, host) = (peer.ip().to_canonical(), scheme(headers, peer), host(headers));
    let element = |node| forwarded::element(node, host.as_deref(), scheme);
    let before = if headers.contains_key(header::FORWARDED) { Vec::new() } else { hops(headers) };
    let elements = before.into_iter().chain([Some(address)]).map(element);
    let elements = elements.collect::<Vec<_>>().join(", ");
    extend(headers, header::FORWARDED, &elements);
    extend(headers, FOR, &address.to_string());
    headers.entry(PROTO).or_insert(HeaderValue::from_static(scheme));
    if let Some(host) = host.and_then(|host| HeaderValue::try_from(host).ok()) {
        headers.entry(HOST).or_insert(host);
    }
}

/// Whatever a stranger claims of itself: apps believe more names than we set.
fn forget_claims(headers: &mut HeaderMap) {
    let is_claim =
        |name: &&HeaderName| name.as_str().starts_with("x-forwarded") || [REAL_IP, header::FORWARDED].contains(*name);
    let claims: Vec<HeaderName> = headers.keys().filter(is_claim).cloned().collect();
    for name in claims {
        headers.remove(name);
    }
}

/// The scheme that the client used, as far as the fields or our own socket tell.
fn scheme(headers: &HeaderMap, peer: Peer) -> &'static str {
    let told = nearest_parameter(headers, "proto").or_else(|| nearest_word(headers, &PROTO));
    match told {
        Some(scheme) if scheme.eq_ignore_ascii_case(b"https") => "https",
        Some(scheme) if scheme.eq_ignore_ascii_case(b"http") => "http",
        _ => peer.scheme.as_str(),
    }
}

/// The host that the client asked for, likewise.
fn host(headers: &HeaderMap) -> Option<String> {
    let own = headers.get(header::HOST).map(HeaderValue::as_bytes);
    let told = [nearest_parameter(headers, "host"), nearest_word(headers, &HOST), own];
    told.into_iter()
        .flatten()
        .find_map(|host| Some(std::str::from_utf8(host).ok()?.to_owned()).filter(|host| is_host(host)))
}

/// What can stand between quotes.
fn is_host(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\,;".contains(&byte))
}

fn nearest_parameter<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let line = headers.get_all(header::FORWARDED).iter().next_back()?;
    forwarded::elements(line.as_bytes())
        .next()
        .and_then(|nearest| forwarded::parameter(nearest, name))
        .map(forwarded::unquoted)
}

fn nearest_word<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let line = headers.get_all(name).iter().next_back()?;
    line.as_bytes().rsplit(|byte| *byte == b',').next().map(<[u8]>::trim_ascii)
}

/// Those of `X-Forwarded-For`, left to right; `None` for one that is no address.
fn hops(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let lines = headers.get_all(FOR).iter().rev();
    let words = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    let mut hops: Vec<_> = words.map(|word| forwarded::address(word.trim_ascii())).take(MOST_HOPS).collect();
    hops.reverse();
    hops
}

/// Adds `more` on the right, and makes one line of all.
fn extend(headers: &mut HeaderMap, name: HeaderName, more: &str) {
    let Entry::Occupied(mut lines) = headers.entry(name.clone()) else {
        headers
            .insert(name, HeaderValue::try_from(more).expect("addresses, schemes and checked hosts are visible ASCII"));
        return;
    };
    let mut whole = Vec::new();
    for line in lines.iter().map(HeaderValue::as_bytes).chain([more.as_bytes()]) {
        if !whole.is_empty() {
            whole.extend_from_slice(b", ");
        }
        whole.extend_from_slice(line);
    }
    lines.insert(HeaderValue::try_from(whole).expect("each of the lines is a valid value"));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::peer::Scheme;

    fn introduced(brought: &[(HeaderName, &str)], trusted: bool) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("shop.example"));
        for (name, value) in brought {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        introduce(&mut headers, Peer { address: "127.0.0.1:9".parse().unwrap(), scheme: Scheme::Http }, trusted);
        headers
    }

    fn lines(headers: &HeaderMap, name: HeaderName) -> Vec<&str> {
        headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    }

    #[test]
    fn a_trusted_peers_word_is_extended_and_holds_in_every_field() {
        let brought = [(FOR, "203.0.113.9, 2001:db8::1"), (FOR, "unknown"), (PROTO, "https"), (HOST, "edge.example")];
        let headers = introduced(&brought, true);
        assert_eq!(lines(&headers, FOR), ["203.0.113.9, 2001:db8::1, unknown, 127.0.0.1"]);
        assert_eq!(lines(&headers, PROTO), ["https"]);
        assert_eq!(lines(&headers, HOST), ["edge.example"]);
        let rest = r#"host="edge.example";proto=https"#;
        let all =
            format!(r#"for=203.0.113.9;{rest}, for="[2001:db8::1]";{rest}, for=unknown;{rest}, for=127.0.0.1;{rest}"#);
        assert_eq!(lines(&headers, header::FORWARDED), [all]);
    }

    #[test]
    fn a_trusted_peer_that_speaks_in_forwarded_is_extended_there() {
        let brought = [
            (header::FORWARDED, "for=203.0.113.9;proto=http"),
            (header::FORWARDED, "for=10.0.0.1;proto=https;host=\"a.b\""),
        ];
        let headers = introduced(&brought, true);
        let all =
            r#"for=203.0.113.9;proto=http, for=10.0.0.1;proto=https;host="a.b", for=127.0.0.1;host="a.b";proto=https"#;
        assert_eq!(lines(&headers, header::FORWARDED), [all]);
        assert_eq!((lines(&headers, PROTO), lines(&headers, HOST)), (vec!["https"], vec!["a.b"]));
        assert_eq!(lines(&headers, FOR), ["127.0.0.1"]);
    }

    #[test]
    fn anybody_elses_word_is_replaced() {
        let port = HeaderName::from_static("x-forwarded-port");
        let brought = [
            (HeaderName::from_static("x-forwarded-port"), "443"),
            (port.clone(), "443"),
            (FOR, "203.0.113.9"),
            (PROTO, "https"),
            (REAL_IP, "203.0.113.9"),
            (header::FORWARDED, "for=203.0.113.9"),
        ];
        let headers = introduced(&brought, false);
        assert_eq!(lines(&headers, FOR), ["127.0.0.1"]);
        assert_eq!(lines(&headers, PROTO), ["http"]);
        assert_eq!(lines(&headers, header::FORWARDED), [r#"for=127.0.0.1;host="shop.example";proto=http"#]);
        assert_eq!((lines(&headers, REAL_IP), lines(&headers, port)), (vec![], vec![]));
    }

    #[test]
    fn what_is_no_scheme_and_no_host_is_not_repeated() {
        let headers = introduced(&[(PROTO, "gopher"), (HOST, "a\"b, ")], true);
        assert_eq!(lines(&headers, header::FORWARDED), [r#"for=127.0.0.1;host="shop.example";proto=http"#]);
    }

    proptest! {
        #[test]
        fn whatever_a_trusted_peer_says_one_valid_line_of_each_comes_of_it(values: [Vec<u8>; 4]) {
            let mut headers = HeaderMap::new();
            for (name, value) in [FOR, PROTO, HOST, header::FORWARDED].into_iter().zip(values) {
                headers.extend(HeaderValue::from_bytes(&value).ok().map(|value| (name, value)));
            }
            introduce(&mut headers, Peer { address: "[2001:db8::1]:9".parse().unwrap(), scheme: Scheme::Http }, true);
            for name in [FOR, header::FORWARDED] {
                prop_assert_eq!(headers.get_all(name).iter().count(), 1);
            }
        }
    }
}
