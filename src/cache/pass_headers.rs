//! `cache.pass_headers` (S25): which of the origin's fields pass on with an image. Some never do: what we say ourselves, and
//! what was never meant for whoever gets the image from us. Pure.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Bytes of names and values that pass on with one image. A field that finds no more room does not pass.
const MOST_BYTES: usize = 4096;

/// One line of a head.
pub type Field = (HeaderName, HeaderValue);

/// The names whose fields pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PassHeaders {
    /// These.
    Listed(Vec<HeaderName>),
    /// All that can.
    All,
}

/// Why a field never passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Barred {
    /// RFC 9110 §7.6.1, RFC 9111 §3.1: it belongs to one connection.
    Connection,
    /// It belongs to one visitor.
    Cookie,
    /// It describes the bytes, which may be a part of the image or none (304).
    Content,
    /// It speaks to caches. Were it believed, an image could outlive its ticket (RFC 9213 for `…-Cache-Control`).
    Lifetime,
    /// `[cors]` decides.
    Cors,
    /// We say it ourselves.
    Ours,
    /// Browsers would take it for a word about our host.
    Host,
    /// It is an order to the server in front of us.
    Front,
}

impl PassHeaders {
    /// Nothing passes.
    pub const NONE: Self = Self::Listed(Vec::new());

    /// Copies what passes of `headers`; where they say nothing, what passed `before` stays (RFC 9111 §3.2, for a 304).
    pub fn copy(&self, headers: &HeaderMap, before: &[Field]) -> Box<[Field]> {
        let ends_here = named_by_connection(headers);
        let passes = |name: &HeaderName| self.names(name) && !ends_here.contains(name);
        let new = headers.iter().filter(|(name, _)| passes(name)).map(|(name, value)| (name.clone(), copied(value)));
        let old = before.iter().filter(|(name, _)| !headers.contains_key(name)).cloned();
        let mut fields = HeaderMap::new();
        fields.extend(new.chain(old));
        within(MOST_BYTES, &fields)
    }

    fn names(&self, name: &HeaderName) -> bool {
        let named = match self {
            Self::Listed(listed) => listed.contains(name),
            Self::All => true,
        };
        named && barred(name).is_none()
    }
}

/// As it comes, a value is a slice of the buffer that the whole head was read into.
fn copied(value: &HeaderValue) -> HeaderValue {
    HeaderValue::from_bytes(value.as_bytes()).expect("it is the value of a field")
}

/// The lines of a field stay together: some of them would say something else than all.
fn within(mut room: usize, fields: &HeaderMap) -> Box<[Field]> {
    let mut fitting = Vec::with_capacity(fields.len());
    for name in fields.keys() {
        let lines = fields.get_all(name);
        let bytes: usize = lines.iter().map(|value| name.as_str().len() + value.len()).sum();
        if let Some(left) = room.checked_sub(bytes) {
            room = left;
            fitting.extend(lines.iter().map(|value| (name.clone(), value.clone())));
        }
    }
    fitting.into()
}

fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let lines = headers.get_all(header::CONNECTION).iter();
    let members = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    members.filter_map(|member| HeaderName::from_bytes(member.trim_ascii()).ok()).collect()
}

/// Why `name` never passes, if it does not.
pub fn barred(name: &HeaderName) -> Option<Barred> {
    Some(match name.as_str() {
        "connection"
        | "keep-alive"
        | "proxy-connection"
        | "te"
        | "trailer"
        | "transfer-encoding"
        | "upgrade"
        | "proxy-authenticate"
        | "proxy-authentication-info"
        | "proxy-authorization" => Barred::Connection,
        "set-cookie" | "set-cookie2" => Barred::Cookie,
        "accept-ranges" | "content-digest" | "content-encoding" | "content-length" | "content-md5"
        | "content-range" | "content-type" | "etag" | "last-modified" => Barred::Content,
        "age" | "cache-control" | "date" | "edge-control" | "expires" | "pragma" | "vary" | "warning"
        | "x-accel-expires" => Barred::Lifetime,
        "cross-origin-resource-policy" => Barred::Cors,
        "cache-status"
        | "proxy-status"
        | "ratelimit"
        | "ratelimit-policy"
        | "retry-after"
        | "ticket-expires"
        | "x-content-type-options"
        | "x-request-id" => Barred::Ours,
        "alt-svc"
        | "clear-site-data"
        | "expect-ct"
        | "nel"
        | "report-to"
        | "reporting-endpoints"
        | "strict-transport-security" => Barred::Host,
        "x-sendfile" => Barred::Front,
        name if name.ends_with("-cache-control") || name.starts_with("surrogate-") => Barred::Lifetime,
        name if name.starts_with("access-control-") => Barred::Cors,
        name if name.starts_with("x-accel-") => Barred::Front,
        _ => return None,
    })
}

impl fmt::Display for Barred {
    /// As it reads after the name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connection => "belongs to the connection to WeChat",
            Self::Cookie => "belongs to one visitor, and an image is everybody's",
            Self::Content => "describes the bytes, which the proxy does itself",
            Self::Lifetime => "speaks to caches, which the proxy does itself: an image must not outlive its ticket",
            Self::Cors => "is set by [cors]",
            Self::Ours => "is the proxy's own",
            Self::Host => "speaks for WeChat's host, and browsers would take it for yours",
            Self::Front => "is an order to the server in front of the proxy",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let line = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        let mut headers = HeaderMap::new();
        headers.extend(lines.iter().map(line));
        headers
    }

    fn listed(names: &[&'static str]) -> PassHeaders {
        PassHeaders::Listed(names.iter().map(|name| HeaderName::from_static(name)).collect())
    }

    fn told(fields: &[Field]) -> Vec<(&str, &str)> {
        fields.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect()
    }

    #[test]
    fn what_is_listed_passes_with_all_its_lines() {
        let headers = headers(&[("x-a", "1"), ("x-b", "2"), ("x-a", "3"), ("server", "nginx")]);
        assert_eq!(told(&PassHeaders::NONE.copy(&headers, &[])), []);
        assert_eq!(told(&listed(&["x-a", "x-c"]).copy(&headers, &[])), [("x-a", "1"), ("x-a", "3")]);
        let all = PassHeaders::All.copy(&headers, &[]);
        assert_eq!(told(&all), [("x-a", "1"), ("x-a", "3"), ("x-b", "2"), ("server", "nginx")]);
    }

    /// RFC 9110 §7.6.1.
    #[test]
    fn what_connection_names_ends_here() {
        let headers = headers(&[("connection", "close, X-A ,,"), ("connection", "x-b"), ("x-a", "1"), ("x-b", "2")]);
        assert_eq!(told(&PassHeaders::All.copy(&headers, &[])), []);
        assert_eq!(told(&listed(&["x-a", "connection"]).copy(&headers, &[])), []);
    }

    #[test]
    fn some_never_pass_even_when_they_are_listed() {
        let cases = [
            (Barred::Connection, &["connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"][..]),
            (Barred::Cookie, &["set-cookie", "set-cookie2"]),
            (Barred::Content, &["content-length", "content-type", "content-encoding", "etag", "accept-ranges"]),
            (Barred::Lifetime, &["cache-control", "expires", "age", "date", "vary", "pragma"]),
            (Barred::Lifetime, &["cdn-cache-control", "surrogate-control", "x-accel-expires"]),
            (Barred::Cors, &["access-control-allow-origin", "access-control-max-age", "cross-origin-resource-policy"]),
            (Barred::Ours, &["cache-status", "ticket-expires", "x-request-id", "x-content-type-options", "ratelimit"]),
            (Barred::Host, &["strict-transport-security", "alt-svc", "clear-site-data"]),
            (Barred::Front, &["x-accel-redirect", "x-sendfile"]),
        ];
        for (why, names) in cases {
            for name in names {
                assert_eq!(barred(&HeaderName::from_static(name)), Some(why), "{name}");
                let headers = headers(&[(name, "1")]);
                assert_eq!(told(&PassHeaders::All.copy(&headers, &[])), [], "{name}");
                assert_eq!(told(&listed(&[name]).copy(&headers, &[])), [], "{name}");
            }
        }
        for name in ["server", "x-powered-by", "content-disposition", "content-security-policy", "link", "via"] {
            assert_eq!(barred(&HeaderName::from_static(name)), None, "{name}");
        }
    }

    /// RFC 9111 §3.2, §4.3.4.
    #[test]
    fn a_304_replaces_what_it_names_and_leaves_the_rest() {
        let before = PassHeaders::All.copy(&headers(&[("x-a", "1"), ("x-a", "2"), ("x-b", "3")]), &[]);
        let after = PassHeaders::All.copy(&headers(&[("x-a", "4"), ("x-c", "5"), ("set-cookie", "a=b")]), &before);
        assert_eq!(told(&after), [("x-a", "4"), ("x-c", "5"), ("x-b", "3")]);
        let named_away = PassHeaders::All.copy(&headers(&[("connection", "x-a"), ("x-a", "4")]), &before);
        assert_eq!(told(&named_away), [("x-b", "3")]);
    }

    #[test]
    fn what_finds_no_room_does_not_pass() {
        let exactly = "x".repeat(MOST_BYTES - "x-a".len());
        assert_eq!(PassHeaders::All.copy(&headers(&[("x-a", &exactly)]), &[]).len(), 1);
        let (half, more) = ("x".repeat(MOST_BYTES / 2), format!("{exactly}x"));
        let crowded = headers(&[("x-a", &more), ("x-b", &half), ("x-b", &half), ("x-c", &half)]);
        let passed = PassHeaders::All.copy(&crowded, &[]);
        assert_eq!(passed.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["x-c"], "whole fields alone");
        let renewed = PassHeaders::All.copy(&headers(&[("x-d", &half)]), &passed);
        assert_eq!(
            renewed.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            ["x-d"],
            "304s add up to no more"
        );
    }
}
