//! The fields that tell the app who asked, since it sees only us: `X-Forwarded-*` and `Forwarded` (RFC 7239).
//! From a trusted peer they are extended, from anybody else replaced (S31).

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::peer::Peer;

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Tells the app about `peer`, and whether it spoke TLS to us.
pub fn introduce(headers: &mut HeaderMap, peer: Peer, trusted: bool) {
    let (peer, scheme) = (peer.ip().to_canonical(), peer.scheme.as_str());
    let host = headers.get(header::HOST).cloned();
    if !trusted {
        for name in [FOR, PROTO, HOST, REAL_IP, header::FORWARDED] {
            headers.remove(name);
        }
    }
    headers.append(FOR, HeaderValue::try_from(peer.to_string()).expect("an address is visible ASCII"));
    headers.append(header::FORWARDED, element(peer, host.as_ref(), scheme));
    headers.entry(PROTO).or_insert(HeaderValue::from_static(scheme));
    if let Some(host) = host {
        headers.entry(HOST).or_insert(host);
    }
}

fn element(peer: IpAddr, host: Option<&HeaderValue>, scheme: &str) -> HeaderValue {
    let node = match peer {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("\"[{v6}]\""),
    };
    let host = host.and_then(|host| host.to_str().ok()).map(|host| format!(";host=\"{host}\"")).unwrap_or_default();
    HeaderValue::try_from(format!("for={node}{host};proto={scheme}"))
        .expect("a checked host and an address are visible ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::Scheme;

    fn introduced(trusted: bool) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("shop.example"));
        headers.insert(FOR, HeaderValue::from_static("203.0.113.9"));
        headers.insert(PROTO, HeaderValue::from_static("https"));
        introduce(&mut headers, Peer { address: "127.0.0.1:9".parse().unwrap(), scheme: Scheme::Http }, trusted);
        headers
    }

    fn lines(headers: &HeaderMap, name: HeaderName) -> Vec<&str> {
        headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    }

    #[test]
    fn a_trusted_peers_word_is_extended() {
        let headers = introduced(true);
        assert_eq!(lines(&headers, FOR), ["203.0.113.9", "127.0.0.1"]);
        assert_eq!(lines(&headers, PROTO), ["https"]);
        assert_eq!(lines(&headers, HOST), ["shop.example"]);
        assert_eq!(lines(&headers, header::FORWARDED), [r#"for=127.0.0.1;host="shop.example";proto=http"#]);
    }

    #[test]
    fn anybody_elses_word_is_replaced() {
        let headers = introduced(false);
        assert_eq!(lines(&headers, FOR), ["127.0.0.1"]);
        assert_eq!(lines(&headers, PROTO), ["http"]);
    }
}
