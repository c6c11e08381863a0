//! What belongs to one connection and must not travel on (RFC 9110 §7.6.1).

use http::{HeaderMap, HeaderName, Version, header};

/// Fields that always end at this hop. `Proxy-Authorization` is for whoever challenged, so it travels on.
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Fields that `Connection` may not name away: a stranger must not strip what the app decides by.
const PROTECTED: [&str; 8] =
    ["host", "content-length", "authorization", "cookie", "forwarded", "via", "x-real-ip", "x-request-id"];

/// Removes hop-by-hop fields and those that `Connection` names; where the message was framed by `Transfer-Encoding`, a
/// `Content-Length` beside it too, which was overridden (RFC 9112 §6.3).
pub fn strip(headers: &mut HeaderMap) {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        headers.remove(header::CONTENT_LENGTH);
    }
    let named: Vec<HeaderName> = headers.get_all(header::CONNECTION).iter().flat_map(names).collect();
    for name in named.iter().filter(|name| !is_protected(name)) {
        headers.remove(name);
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

fn is_protected(name: &HeaderName) -> bool {
    PROTECTED.contains(&name.as_str()) || name.as_str().starts_with("x-forwarded")
}

/// Whether `Connection` names `field`.
pub fn connection_names(headers: &HeaderMap, field: &HeaderName) -> bool {
    headers.get_all(header::CONNECTION).iter().flat_map(names).any(|name| name == *field)
}

/// Whether whoever sent a message with `headers` takes trailers behind the answer (RFC 9110 §10.1.4): our wish as well, since
/// we pass them on. HTTP/1.1 names the field in `Connection`; over HTTP/2 it speaks for itself (RFC 9113 §8.2.2).
pub fn takes_trailers(headers: &HeaderMap, version: Version) -> bool {
    let mut members = headers.get_all(header::TE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    (version == Version::HTTP_2 || connection_names(headers, &header::TE))
        && members.any(|member| member.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

fn names(line: &http::HeaderValue) -> impl Iterator<Item = HeaderName> {
    let members = line.as_bytes().split(|byte| *byte == b',');
    members.filter_map(|member| HeaderName::from_bytes(member.trim_ascii()).ok())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn stripped(lines: &[(&'static str, &'static str)]) -> Vec<String> {
        let line = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let mut headers: HeaderMap = lines.iter().map(line).collect();
        strip(&mut headers);
        headers.keys().map(ToString::to_string).collect()
    }

    #[test]
    fn what_connection_names_ends_here() {
        let left =
            stripped(&[("connection", "close, X-Mine ,,"), ("x-mine", "1"), ("x-yours", "2"), ("keep-alive", "5")]);
        assert_eq!(left, ["x-yours"]);
    }

    #[test]
    fn a_length_that_was_overridden_ends_here() {
        assert_eq!(stripped(&[("transfer-encoding", "chunked"), ("content-length", "1")]), [""; 0]);
        assert_eq!(stripped(&[("content-length", "1")]), ["content-length"]);
    }

    #[test]
    fn connection_cannot_name_away_what_the_app_decides_by() {
        for name in PROTECTED.into_iter().chain(["x-forwarded-for", "x-forwarded-prefix"]) {
            let left = stripped(&[("connection", name), (name, "1")]);
            assert_eq!(left, [name]);
        }
    }
}
