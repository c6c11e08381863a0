//! Which way a request goes: method and path, compared byte for byte (S3, S4), after the checks that every request must
//! pass (S5). Pure.

use http::{HeaderMap, HeaderValue, Method, Uri, Version, header, uri::Authority};

pub use config::Config;
pub use redirect::to_https;

mod config;
mod redirect;

/// Sorts requests.
#[derive(Debug, Clone)]
pub struct Routes {
    paths: Vec<String>,
    health_path: Option<String>,
}

/// A way to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// An image.
    Image,
    /// A CORS preflight for an image.
    Preflight,
    /// The load balancer's question.
    Health,
    /// Everything else.
    App,
    /// A method that is not for this path; the words are for `Allow`.
    NotAllowed(&'static str),
}

/// What a route counts as in logs and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Images, refusals included.
    Image,
    /// Preflights.
    Preflight,
    /// Health.
    Health,
    /// The app, or its 404.
    App,
    /// Refused before a route was found.
    Refused,
    /// Sent to https.
    Redirect,
}

/// A request that is refused with 400 and a closed connection (S5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadRequest {
    /// HTTP/1.1 without `Host`.
    NoHost,
    /// More than one `Host`.
    SeveralHosts,
    /// A `Host` that is no authority.
    MalformedHost,
    /// `Host` names another authority than the request target.
    DifferentHost,
    /// `Transfer-Encoding` says something else than `chunked`.
    Coded,
}

impl Routes {
    /// Routes by `config`.
    pub fn new(config: Config) -> Self {
        Self { paths: config.paths, health_path: config.health_path }
    }

    /// The way of a request.
    pub fn of(&self, method: &Method, uri: &Uri) -> Route {
        if matches!(*method, Method::CONNECT | Method::TRACE) {
            return Route::NotAllowed("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
        }
        if self.paths.iter().any(|path| path == uri.path()) {
            return image_route(method);
        }
        let reads = matches!(*method, Method::GET | Method::HEAD);
        match &self.health_path {
            Some(path) if reads && path == uri.path() => Route::Health,
            _ => Route::App,
        }
    }
}

fn image_route(method: &Method) -> Route {
    match *method {
        Method::GET | Method::HEAD => Route::Image,
        Method::OPTIONS => Route::Preflight,
        _ => Route::NotAllowed("GET, HEAD, OPTIONS"),
    }
}

impl Route {
    /// What the route counts as.
    pub const fn kind(self) -> Kind {
        match self {
            Self::Image => Kind::Image,
            Self::Preflight => Kind::Preflight,
            Self::Health => Kind::Health,
            Self::App => Kind::App,
            Self::NotAllowed(_) => Kind::Refused,
        }
    }
}

impl Kind {
    /// Every kind, in the order of its discriminants.
    pub const ALL: [Self; 6] = [Self::Image, Self::Preflight, Self::Health, Self::App, Self::Refused, Self::Redirect];

    /// The word for logs and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Preflight => "preflight",
            Self::Health => "health",
            Self::App => "app",
            Self::Refused => "refused",
            Self::Redirect => "redirect",
        }
    }
}

/// Checks what RFC 9112 §3.2 demands of `Host`: exactly one on HTTP/1.1, well-formed, and the same authority as an
/// absolute request target's. That is also `:authority` of HTTP/2, which may stand alone (RFC 9113 §8.3.1).
pub fn check_host(version: Version, uri: &Uri, headers: &HeaderMap) -> Result<(), BadRequest> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let Some(host) = hosts.next() else {
        return match (version, uri.authority()) {
            (Version::HTTP_2, Some(authority)) if is_authority(authority.as_str()) => Ok(()),
            (Version::HTTP_2, Some(_)) => Err(BadRequest::MalformedHost),
            (Version::HTTP_2 | Version::HTTP_11, _) => Err(BadRequest::NoHost),
            (_, Some(authority)) if !is_authority(authority.as_str()) => Err(BadRequest::MalformedHost),
            _ => Ok(()),
        };
    };
    if hosts.next().is_some() {
        return Err(BadRequest::SeveralHosts);
    }
    let host = host.to_str().ok().filter(|host| is_authority(host)).ok_or(BadRequest::MalformedHost)?;
    match uri.authority() {
        Some(authority) if !authority.as_str().eq_ignore_ascii_case(host) => Err(BadRequest::DifferentHost),
        _ => Ok(()),
    }
}

/// Whether a message with `headers` is coded for its transfer in a way that cannot be undone here: `chunked` alone can (RFC 9112
/// §6.1).
pub fn is_coded(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(header::TRANSFER_ENCODING).iter();
    let first = lines.next().map(HeaderValue::as_bytes);
    first.is_some_and(|coding| !coding.trim_ascii().eq_ignore_ascii_case(b"chunked")) || lines.next().is_some()
}

/// Checks that a message is framed in a way that everybody reads alike: hyper undoes chunks, and would leave another coding in
/// the body without a word about it (RFC 9112 §6.1).
pub fn check_framing(headers: &HeaderMap) -> Result<(), BadRequest> {
    if is_coded(headers) { Err(BadRequest::Coded) } else { Ok(()) }
}

fn is_authority(host: &str) -> bool {
    is_plain(host) || !host.contains('@') && is_parsed(host)
}

/// What nearly everybody sends: a name or an IPv4 address, perhaps with a port. Parsing would copy it.
fn is_plain(host: &str) -> bool {
    let (name, port) = host.split_once(':').unwrap_or((host, "80"));
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    !name.is_empty() && name.bytes().all(is_letter) && !port.is_empty() && is_port(port)
}

/// A host with an optional port, which http's own parser does not look at.
fn is_parsed(host: &str) -> bool {
    let port = host.rsplit_once(':').map_or("", |(_, port)| port);
    host.parse::<Authority>().is_ok() && (is_port(port) || port.ends_with(']'))
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && (text.is_empty() || text.parse::<u16>().is_ok())
}

impl BadRequest {
    /// The word for `Cache-Status`, logs and metrics.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NoHost => "no-host",
            Self::SeveralHosts => "several-hosts",
            Self::MalformedHost => "malformed-host",
            Self::DifferentHost => "different-host",
            Self::Coded => "transfer-coding",
        }
    }
}

impl std::fmt::Display for BadRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NoHost => "the request names no host; HTTP/1.1 needs a Host header field",
            Self::SeveralHosts => "the request has several Host header fields; send one",
            Self::MalformedHost => "the Host header field is not a host with an optional port",
            Self::DifferentHost => "the Host header field and the request target name different hosts",
            Self::Coded => "Transfer-Encoding may say chunked, once, and nothing else",
        })
    }
}

impl std::error::Error for BadRequest {}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn route(method: &Method, target: &'static str) -> Route {
        let config = Config { paths: vec!["/cgi-bin/showqrcode".to_owned()], health_path: Some("/up".to_owned()) };
        Routes::new(config).of(method, &Uri::from_static(target))
    }

    #[test]
    fn chunks_alone_can_be_undone() {
        let is_coded = |lines: &[&'static str]| {
            let line = |line: &&'static str| (header::TRANSFER_ENCODING, HeaderValue::from_static(line));
            super::is_coded(&lines.iter().map(line).collect())
        };
        assert!(!is_coded(&[]) && !is_coded(&["chunked"]) && !is_coded(&[" Chunked "]));
        for lines in
            [&["gzip, chunked"][..], &["gzip", "chunked"], &["chunked", "chunked"], &["chunked, chunked"], &[""]]
        {
            assert!(is_coded(lines), "{lines:?}");
        }
    }

    #[test]
    fn exactly_the_configured_path_is_an_image() {
        assert_eq!(route(&Method::GET, "/cgi-bin/showqrcode?ticket=x"), Route::Image);
        assert_eq!(route(&Method::HEAD, "/cgi-bin/showqrcode"), Route::Image);
        let others = [
            "/cgi-bin/showqrcode/",
            "//cgi-bin/showqrcode",
            "/cgi-bin/ShowQRCode",
            "/cgi-bin/showqrcod%65",
            "/",
            "/up/",
        ];
        for other in others {
            assert_eq!(route(&Method::GET, other), Route::App, "{other}");
        }
        assert_eq!(route(&Method::GET, "/up"), Route::Health);
        assert_eq!(route(&Method::POST, "/up"), Route::App);
    }

    #[test]
    fn methods_that_make_no_sense_are_not_allowed() {
        assert_eq!(route(&Method::POST, "/cgi-bin/showqrcode"), Route::NotAllowed("GET, HEAD, OPTIONS"));
        assert_eq!(route(&Method::OPTIONS, "/cgi-bin/showqrcode"), Route::Preflight);
        assert!(matches!(route(&Method::TRACE, "/"), Route::NotAllowed(_)));
        assert!(matches!(route(&Method::CONNECT, "/"), Route::NotAllowed(_)));
    }

    proptest! {
        #[test]
        fn what_is_plain_is_an_authority(host in "[a-zA-Z0-9.-]{1,20}(:[0-9]{1,6})?", other in "[a-z0-9:@/ %.-]{0,8}") {
            for host in [host.as_str(), &other] {
                prop_assert!(!is_plain(host) || is_parsed(host), "{host}");
            }
        }
    }

    fn host(version: Version, target: &'static str, hosts: &[&'static str]) -> Result<(), BadRequest> {
        let line = |host: &&str| (header::HOST, HeaderValue::from_bytes(host.as_bytes()).unwrap());
        let headers = hosts.iter().map(line).collect();
        check_host(version, &Uri::from_static(target), &headers)
    }

    #[test]
    fn a_request_names_one_host() {
        let http11 = Version::HTTP_11;
        assert_eq!(host(http11, "/", &["example.com:8080"]), Ok(()));
        for good in ["[::1]:80", "[::1]", "a:", "a:65535"] {
            assert_eq!(host(http11, "/", &[good]), Ok(()), "{good}");
        }
        assert_eq!(host(http11, "/", &[]), Err(BadRequest::NoHost));
        assert_eq!(host(Version::HTTP_10, "/", &[]), Ok(()));
        assert_eq!(host(http11, "/", &["a", "b"]), Err(BadRequest::SeveralHosts));
        for bad in ["", "a b", "a/b", "user@a", "a:b:c", "a\u{e9}", "a:b", "a:+80", "a:65536", "[::1]:b"] {
            assert_eq!(host(http11, "/", &[bad]), Err(BadRequest::MalformedHost), "{bad}");
        }
        assert_eq!(host(http11, "http://a/", &["b"]), Err(BadRequest::DifferentHost));
        assert_eq!(host(http11, "http://a/", &["A"]), Ok(()));
        let http2 = Version::HTTP_2;
        assert_eq!(host(http2, "https://a/", &[]), Ok(()));
        assert_eq!(host(http2, "https://a/", &["a"]), Ok(()));
        assert_eq!(host(http2, "https://a/", &["b"]), Err(BadRequest::DifferentHost));
        assert_eq!(host(http2, "/", &["a"]), Ok(()));
        assert_eq!(host(http2, "/", &[]), Err(BadRequest::NoHost));
        assert_eq!(host(http2, "https://user@a/", &[]), Err(BadRequest::MalformedHost));
    }
}
