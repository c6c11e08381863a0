//! How a fill can fail: one kind each, with what the client is told (S27), what `Proxy-Status` says (RFC 9209) and whether
//! the circuit counts it.

use std::time::Duration;

use http::StatusCode;

use crate::limit::Refused;
use crate::outbound::Trouble;

/// Why there is no answer to show.
#[derive(Debug, Clone)]
pub enum Failure {
    /// The origin's name has no address.
    Unresolved,
    /// No connection could be made.
    Unreachable,
    /// No connection could be made in time.
    ConnectTimeout,
    /// The origin's certificate does not hold.
    Certificate,
    /// The TLS handshake failed otherwise.
    Handshake,
    /// We have too many files open to connect: nothing is wrong with the origin.
    NoDescriptors,
    /// The answer did not begin in time.
    FirstByteTimeout,
    /// The answer did not end in time.
    FillTimeout,
    /// The connection ended before the answer did.
    Cut,
    /// The answer is not HTTP.
    Malformed,
    /// A 200 that is no image (S16).
    NotAnImage,
    /// An image in a content encoding nobody asked for.
    Encoded,
    /// More bytes than `cache.max_image`.
    TooLarge,
    /// Its end cannot be told from a cut.
    CloseDelimited,
    /// A status that means nothing here (1xx, 3xx, other 2xx).
    UnexpectedStatus(StatusCode),
    /// WeChat limits us.
    Limited(Duration),
    /// The origin asked for a pause.
    Paused(Duration),
    /// The origin failed too often in a row.
    CircuitOpen(Duration),
    /// `limits.origin_fills` is spent.
    Budget(Refused),
    /// Too many fills are under way.
    Busy,
    /// All connections are taken, and whoever waits makes room.
    Crowded,
    /// The fill panicked: a mistake of ours.
    Panicked,
}

impl Failure {
    /// The status for a client without an image.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::ConnectTimeout | Self::FirstByteTimeout | Self::FillTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Limited(_)
            | Self::Paused(_)
            | Self::CircuitOpen(_)
            | Self::Budget(_)
            | Self::Busy
            | Self::Crowded
            | Self::NoDescriptors => StatusCode::SERVICE_UNAVAILABLE,
            Self::Panicked => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_GATEWAY,
        }
    }

    /// When to try again, where that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Limited(after) | Self::Paused(after) | Self::CircuitOpen(after) => Some(*after),
            Self::Budget(refused) => Some(refused.retry_after),
            Self::Busy | Self::Crowded | Self::NoDescriptors => Some(Duration::from_secs(1)),
            _ => None,
        }
    }

    /// Whether it speaks against the origin's health (S14: connect, deadline, cut or malformed answer; 5xx are counted by
    /// their status).
    pub fn counts_against_origin(&self) -> bool {
        matches!(
            self,
            Self::Unresolved
                | Self::Unreachable
                | Self::ConnectTimeout
                | Self::Certificate
                | Self::Handshake
                | Self::FirstByteTimeout
                | Self::FillTimeout
                | Self::Cut
                | Self::Malformed
        )
    }

    /// What the origin answered, where it did.
    pub fn origin_status(&self) -> Option<StatusCode> {
        match self {
            Self::NotAnImage | Self::Encoded | Self::TooLarge | Self::CloseDelimited => Some(StatusCode::OK),
            Self::UnexpectedStatus(status) => Some(*status),
            Self::Limited(_) => Some(StatusCode::TOO_MANY_REQUESTS),
            _ => None,
        }
    }

    /// The word for `Cache-Status`, logs and metrics.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Unresolved => "origin-unresolved",
            Self::Unreachable => "origin-unreachable",
            Self::ConnectTimeout => "connect-timeout",
            Self::Certificate => "certificate",
            Self::Handshake => "tls-handshake",
            Self::NoDescriptors => "no-descriptors",
            Self::FirstByteTimeout => "first-byte-timeout",
            Self::FillTimeout => "fill-timeout",
            Self::Cut => "cut",
            Self::Malformed => "malformed",
            Self::NotAnImage => "not-an-image",
            Self::Encoded => "encoded",
            Self::TooLarge => "too-large",
            Self::CloseDelimited => "close-delimited",
            Self::UnexpectedStatus(_) => "unexpected-status",
            Self::Limited(_) => "origin-429",
            Self::Paused(_) => "origin-paused",
            Self::CircuitOpen(_) => "circuit-open",
            Self::Budget(_) => "origin-budget",
            Self::Busy => "busy",
            Self::Crowded => "crowded",
            Self::Panicked => "panicked",
        }
    }

    /// The error type of RFC 9209 §2.3.
    pub const fn proxy_error(&self) -> &'static str {
        match self {
            Self::Unresolved => "dns_error",
            Self::Unreachable => "connection_refused",
            Self::ConnectTimeout => "connection_timeout",
            Self::Certificate => "tls_certificate_error",
            Self::Handshake => "tls_protocol_error",
            Self::FirstByteTimeout | Self::FillTimeout => "http_response_timeout",
            Self::Cut => "http_response_incomplete",
            Self::Malformed | Self::UnexpectedStatus(_) | Self::NotAnImage | Self::CloseDelimited => {
                "http_protocol_error"
            }
            Self::Encoded => "http_response_content_coding",
            Self::TooLarge => "http_response_body_size",
            Self::Limited(_) | Self::Paused(_) | Self::CircuitOpen(_) => "destination_unavailable",
            Self::Budget(_) | Self::Busy | Self::Crowded | Self::NoDescriptors => "connection_limit_reached",
            Self::Panicked => "proxy_internal_error",
        }
    }
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Unresolved => Self::Unresolved,
            Trouble::TimedOut => Self::ConnectTimeout,
            Trouble::Certificate => Self::Certificate,
            Trouble::Handshake => Self::Handshake,
            Trouble::NoDescriptors => Self::NoDescriptors,
        }
    }
}

impl std::fmt::Display for Failure {
    /// The one-line text for clients: what they or the operator can mend.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = match self {
            Self::Unresolved => "the name of the QR code origin does not resolve; check origin.url and DNS",
            Self::Unreachable => "the QR code origin cannot be reached; check origin.url and the network",
            Self::ConnectTimeout => "no connection to the QR code origin within origin.connect_timeout",
            Self::Certificate => "the QR code origin's certificate is not trusted; check origin.url and origin.ca_file",
            Self::Handshake => "the TLS handshake with the QR code origin failed",
            Self::NoDescriptors => {
                "this proxy has too many open files to reach the QR code origin; raise LimitNOFILE or ulimit -n"
            }
            Self::FirstByteTimeout => "the QR code origin did not answer within origin.first_byte_timeout",
            Self::FillTimeout => "the QR code origin did not finish within origin.fill_timeout",
            Self::Cut => "the QR code origin's answer was cut short; try again",
            Self::Malformed => "the QR code origin's answer is not HTTP",
            Self::NotAnImage => "the QR code origin answered 200 without an image",
            Self::Encoded => "the QR code origin sent an encoded image that nobody asked for",
            Self::TooLarge => "the QR code origin's image is larger than cache.max_image",
            Self::CloseDelimited => "the QR code origin's image has no length, so a cut could not be told from its end",
            Self::UnexpectedStatus(status) => {
                return write!(f, "the QR code origin answered {}, which is no image", status.as_u16());
            }
            Self::Limited(_) => "the QR code origin limits our calls; try again after Retry-After",
            Self::Paused(_) => "the QR code origin asked for a pause; try again after Retry-After",
            Self::CircuitOpen(_) => "the QR code origin keeps failing; it is probed, try again after Retry-After",
            Self::Budget(_) => "the budget of calls to the QR code origin (limits.origin_fills) is spent for now",
            Self::Busy => "too many images are being fetched at once; try again after Retry-After",
            Self::Crowded => {
                "all connections to this proxy are taken (limits.max_connections); images that it does not have must wait: try again after Retry-After"
            }
            Self::Panicked => "an internal error of this proxy; please report it",
        };
        f.write_str(text)
    }
}

impl std::error::Error for Failure {}
