//! CORS (Fetch standard) for images, so that a poster can be drawn on a canvas (S25).

use http::{HeaderMap, HeaderValue, header};

use super::config::CorsConfig;

/// Answer fields that scripts may read.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "ETag, Age, Expires, Cache-Status, Retry-After, RateLimit, RateLimit-Policy, X-Request-Id, Ticket-Expires",
);
const ANY: HeaderValue = HeaderValue::from_static("*");
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, OPTIONS");
/// A day; browsers cap it lower.
const MAX_AGE: HeaderValue = HeaderValue::from_static("86400");

/// Who may read our answers from a script.
#[derive(Debug, Clone)]
pub enum Cors {
    /// Everybody.
    Any,
    /// These origins; nobody, when there is none.
    Listed(Vec<String>),
}

impl Cors {
    /// CORS by `config`.
    pub fn new(config: &CorsConfig) -> Self {
        match config.allow_origins.as_slice() {
            [any] if any == "*" => Self::Any,
            listed => Self::Listed(listed.to_vec()),
        }
    }

    /// Adds the fields for an answer to `asked`. `*` is constant, so that caches need not tell askers apart; a list
    /// echoes only what it names, and says that it does so.
    pub fn allow(&self, asked: &HeaderMap, answer: &mut HeaderMap) {
        self.allow_all(answer);
        self.allow_listed(asked, answer);
    }

    /// Those of the fields that are the same whoever asks.
    pub(super) fn allow_all(&self, answer: &mut HeaderMap) {
        if let Self::Any = self {
            expose(answer, ANY);
        }
    }

    /// The others.
    pub(super) fn allow_listed(&self, asked: &HeaderMap, answer: &mut HeaderMap) {
        let Self::Listed(listed) = self else { return };
        answer.append(header::VARY, HeaderValue::from_static("Origin"));
        if let Some(origin) = asked.get(header::ORIGIN).filter(|origin| is_listed(listed, origin)) {
            expose(answer, origin.clone());
        }
    }

    /// Adds the fields for the answer to a preflight.
    pub fn allow_preflight(&self, asked: &HeaderMap, answer: &mut HeaderMap) {
        self.allow(asked, answer);
        answer.remove(header::ACCESS_CONTROL_EXPOSE_HEADERS);
        if answer.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN) {
            answer.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
            answer.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, ANY);
            answer.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        }
    }
}

fn expose(answer: &mut HeaderMap, origin: HeaderValue) {
    answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    answer.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
}

fn is_listed(listed: &[String], origin: &HeaderValue) -> bool {
    listed.iter().any(|listed| listed.as_bytes() == origin.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(allow: &[&str], origin: Option<&'static str>) -> HeaderMap {
        let cors = Cors::new(&CorsConfig { allow_origins: allow.iter().map(ToString::to_string).collect() });
        let asked = origin.map(|origin| (header::ORIGIN, HeaderValue::from_static(origin))).into_iter().collect();
        let mut answer = HeaderMap::new();
        cors.allow(&asked, &mut answer);
        answer
    }

    #[test]
    fn a_star_is_the_same_for_everybody() {
        let with = answer(&["*"], Some("https://a.example"));
        assert_eq!(with, answer(&["*"], None));
        assert_eq!(with[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
        assert!(!with.contains_key(header::VARY));
    }

    fn preflight(allow: &[&str], asked: &[(http::HeaderName, &'static str)]) -> HeaderMap {
        let cors = Cors::new(&CorsConfig { allow_origins: allow.iter().map(ToString::to_string).collect() });
        let asked = asked.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect();
        let mut answer = HeaderMap::new();
        cors.allow_preflight(&asked, &mut answer);
        answer
    }

    /// Fetch standard, CORS protocol: what is exposed is said on the answer itself, what is allowed on the preflight's.
    #[test]
    fn a_preflight_is_told_what_it_may_send_when_its_origin_may_ask() {
        let method = (header::ACCESS_CONTROL_REQUEST_METHOD, "GET");
        let from = |origin| [(header::ORIGIN, origin), method.clone()];
        for allow in ["*", "https://a.example"] {
            let answer = preflight(&[allow], &from("https://a.example"));
            assert_eq!(answer[header::ACCESS_CONTROL_ALLOW_ORIGIN], allow);
            assert_eq!(answer[header::ACCESS_CONTROL_ALLOW_METHODS], "GET, HEAD, OPTIONS");
            assert_eq!(answer[header::ACCESS_CONTROL_ALLOW_HEADERS], "*");
            assert_eq!(answer[header::ACCESS_CONTROL_MAX_AGE], "86400");
            assert!(!answer.contains_key(header::ACCESS_CONTROL_EXPOSE_HEADERS));
        }
        for allow in [&["https://a.example"][..], &[]] {
            let answer = preflight(allow, &from("https://b.example"));
            assert_eq!(answer, [(header::VARY, HeaderValue::from_static("Origin"))].into_iter().collect());
        }
    }

    /// RFC 6454 §7, Fetch standard (byte-serialized origins compare as bytes).
    #[test]
    fn an_origin_is_echoed_only_as_it_is_listed() {
        let listed = ["https://a.example", "http://localhost:3000"];
        for origin in listed {
            assert_eq!(answer(&listed, Some(origin))[header::ACCESS_CONTROL_ALLOW_ORIGIN], origin);
        }
        let others = ["http://a.example", "https://A.example", "https://a.example:443", "https://a.example/", "*", ""];
        for other in others {
            assert!(!answer(&listed, Some(other)).contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN), "{other}");
        }
        assert!(!answer(&[], Some("https://a.example")).contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
    }

    #[test]
    fn a_list_echoes_only_what_it_names_and_says_that_it_varies() {
        let listed = answer(&["https://a.example"], Some("https://a.example"));
        assert_eq!(listed[header::ACCESS_CONTROL_ALLOW_ORIGIN], "https://a.example");
        for other in [Some("https://b.example"), Some("https://a.example.evil.example"), Some("null"), None] {
            let answer = answer(&["https://a.example"], other);
            assert!(!answer.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN), "{other:?}");
            assert_eq!(answer[header::VARY], "Origin");
        }
    }
}
