//! How the way to the app can fail: what the client is told, and what `Proxy-Status` says (RFC 9209).

use std::error::Error as StdError;
use std::io::{self, ErrorKind};
use std::time::Duration;

use http::{HeaderValue, Method, Response, StatusCode, header};

use crate::body::Body;
use crate::body::timed::BodyFailure;
use crate::limit::TooMany;
use crate::outbound::connect::ConnectError;
use crate::outbound::trouble::links;
use crate::outbound::{Trouble, certificate_cause};
use crate::respond;

/// Why the app gave no answer.
#[derive(Debug)]
pub enum ForwardFailure {
    /// No connection; nothing said why when it was refused.
    Unconnected(Option<Trouble>, ConnectError),
    /// The answer did not begin in time.
    TooSlow(Duration),
    /// The connection was there, and broke before the answer began.
    Lost(hyper::Error),
    /// The answer is no HTTP, or has more fields than are read.
    Malformed(bool),
    /// The answer is coded for its transfer by something else than chunks.
    Coded,
    /// The client's own body stopped coming.
    BodyOverdue,
    /// The client's own body is not what its framing promised.
    BodyBroken,
    /// As many requests are under way as there may be.
    TooMany(TooMany),
    /// The request target makes no sense to forward.
    BadTarget,
    /// It switched protocols, which was not asked of it, or to another one.
    Switched,
}

/// The word of RFC 9209 §2.3 for a connection that did not come to be.
fn unreached(why: &(dyn StdError + 'static)) -> &'static str {
    let kind = links(why).filter_map(|link| link.downcast_ref::<io::Error>()).map(io::Error::kind).next();
    match kind {
        Some(ErrorKind::ConnectionRefused) => "connection_refused",
        Some(ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable) => "destination_ip_unroutable",
        _ => "destination_unavailable",
    }
}

impl From<BodyFailure> for ForwardFailure {
    fn from(failure: BodyFailure) -> Self {
        match failure {
            BodyFailure::Overdue => Self::BodyOverdue,
            BodyFailure::Broken => Self::BodyBroken,
        }
    }
}

impl ForwardFailure {
    pub(super) fn unconnected(error: ConnectError) -> Self {
        Self::Unconnected(Trouble::of(&*error), error)
    }

    /// The word for logs and metrics.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Unconnected(None, _) => "app-unreachable",
            Self::Unconnected(Some(Trouble::Unresolved), _) => "app-unresolved",
            Self::Unconnected(Some(Trouble::TimedOut), _) => "app-connect-timeout",
            Self::Unconnected(Some(Trouble::Certificate), _) => "app-certificate",
            Self::Unconnected(Some(Trouble::Handshake), _) => "app-tls-handshake",
            Self::Unconnected(Some(Trouble::NoDescriptors), _) => "no-descriptors",
            Self::TooSlow(_) => "app-too-slow",
            Self::Lost(_) => "app-lost",
            Self::Malformed(false) => "app-malformed",
            Self::Malformed(true) => "app-head-too-large",
            Self::Coded => "app-transfer-coding",
            Self::BodyOverdue => "body-overdue",
            Self::BodyBroken => "body-broken",
            Self::TooMany(too_many) => too_many.reason(),
            Self::BadTarget => "bad-target",
            Self::Switched => "app-switched-protocols",
        }
    }

    /// What the client is told.
    pub fn response(&self, method: &Method) -> Response<Body> {
        let (status, error) = match self {
            Self::Unconnected(trouble, why) => match trouble {
                None => (StatusCode::BAD_GATEWAY, Some(unreached(&**why))),
                Some(Trouble::Unresolved) => (StatusCode::BAD_GATEWAY, Some("dns_error")),
                Some(Trouble::TimedOut) => (StatusCode::GATEWAY_TIMEOUT, Some("connection_timeout")),
                Some(Trouble::Certificate) => (StatusCode::BAD_GATEWAY, Some("tls_certificate_error")),
                Some(Trouble::Handshake) => (StatusCode::BAD_GATEWAY, Some("tls_protocol_error")),
                Some(Trouble::NoDescriptors) => (StatusCode::SERVICE_UNAVAILABLE, Some("connection_limit_reached")),
            },
            Self::TooSlow(_) => (StatusCode::GATEWAY_TIMEOUT, Some("http_response_timeout")),
            Self::Lost(_) => (StatusCode::BAD_GATEWAY, Some("connection_terminated")),
            Self::Malformed(false) => (StatusCode::BAD_GATEWAY, Some("http_protocol_error")),
            Self::Malformed(true) => (StatusCode::BAD_GATEWAY, Some("http_response_header_section_size")),
            Self::Coded => (StatusCode::BAD_GATEWAY, Some("http_response_transfer_coding")),
            Self::BodyOverdue => (StatusCode::REQUEST_TIMEOUT, None),
            Self::TooMany(too_many) => (too_many.status(), too_many.proxy_error()),
            Self::BodyBroken | Self::BadTarget => (StatusCode::BAD_REQUEST, None),
            Self::Switched => (StatusCode::BAD_GATEWAY, Some("http_upgrade_failed")),
        };
        let mut response = respond::text(method, status, &self.to_string());
        let headers = response.headers_mut();
        if let Some(error) = error {
            headers.insert(respond::PROXY_STATUS, respond::proxy_status(error, self.reason()));
        } else if !matches!(self, Self::TooMany(_)) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if matches!(self, Self::TooMany(_)) {
            headers.insert(header::RETRY_AFTER, TooMany::RETRY_AFTER);
        }
        response
    }
}

impl std::fmt::Display for ForwardFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Self::Unconnected(Some(Trouble::Certificate), error) = self {
            let cause = certificate_cause(&**error).unwrap_or_else(|| "it does not hold".to_owned());
            let text = "the certificate of the app behind this proxy is not trusted";
            return write!(f, "{text}: {cause}; check app and forward.ca_file");
        }
        f.write_str(match self {
            Self::Unconnected(None, _) => "the app behind this proxy cannot be reached",
            Self::Unconnected(Some(Trouble::Unresolved), _) => "the name of the app behind this proxy does not resolve",
            Self::Unconnected(Some(Trouble::TimedOut), _) => {
                "no connection to the app behind this proxy within forward.connect_timeout"
            }
            Self::Unconnected(Some(Trouble::Certificate), _) => {
                "the certificate of the app behind this proxy is not trusted"
            }
            Self::Unconnected(Some(Trouble::Handshake), _) => {
                "the TLS handshake with the app behind this proxy failed; check app"
            }
            Self::Unconnected(Some(Trouble::NoDescriptors), _) => {
                "this proxy has too many open files to reach the app behind it; raise LimitNOFILE or ulimit -n"
            }
            Self::TooSlow(_) => "the app behind this proxy did not answer in time",
            Self::Malformed(false) => "what the app behind this proxy answered is no HTTP",
            Self::Malformed(true) => "the head of what the app behind this proxy answered is too large",
            Self::Coded => "the app behind this proxy answered in a Transfer-Encoding other than chunked",
            Self::Lost(_) => "the app behind this proxy closed the connection before it answered",
            Self::BodyOverdue => "the request body stopped coming",
            Self::BodyBroken => "the request body is not framed as HTTP wants it; check Content-Length or the chunks",
            Self::TooMany(too_many) => too_many.text(),
            Self::BadTarget => "the request target cannot be forwarded",
            Self::Switched => "the app behind this proxy switched to a protocol that nobody asked for",
        })
    }
}

impl StdError for ForwardFailure {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Unconnected(_, cause) => Some(&**cause),
            Self::Lost(cause) => Some(cause),
            _ => None,
        }
    }
}
