//! How a relayed call can fail: one kind each, with its status, its word for logs and metrics, what `Proxy-Status` says
//! (RFC 9209) and what the app is told. None of it holds anything of the request.

use http::{HeaderValue, Method, Response, StatusCode, header};

use crate::body::Body;
use crate::body::whole::NotWhole;
use crate::origin::Failure as Unanswered;
use crate::respond;

/// Why the API's answer is not what the app gets.
#[derive(Debug)]
pub enum Failure {
    /// Another path, and `relay.forward` is `"create"`.
    NotRelayed,
    /// `qrcode/create` takes `POST`.
    NotPost,
    /// `CONNECT` and `TRACE` are never relayed.
    NotAllowed,
    /// The target is none that could be asked for.
    BadTarget,
    /// The request was sent on by this very process.
    Loop,
    /// A body for `qrcode/create` beyond the cap.
    BodyTooLong,
    /// The app's body stopped coming.
    BodyOverdue,
    /// The app's body is not what its framing promised.
    BodyBroken,
    /// An answer to `qrcode/create` beyond the cap.
    AnswerTooLong,
    /// The API switched protocols, which was not asked of it.
    Switched,
    /// There is no answer.
    Unanswered(Unanswered),
}

impl Failure {
    fn status(&self) -> StatusCode {
        match self {
            Self::NotRelayed => StatusCode::NOT_FOUND,
            Self::NotPost | Self::NotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BadTarget | Self::BodyBroken => StatusCode::BAD_REQUEST,
            Self::Loop => StatusCode::LOOP_DETECTED,
            Self::BodyTooLong => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyOverdue => StatusCode::REQUEST_TIMEOUT,
            Self::AnswerTooLong | Self::Switched => StatusCode::BAD_GATEWAY,
            Self::Unanswered(unanswered) => unanswered.status(),
        }
    }

    /// The word for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotRelayed => "not-relayed",
            Self::NotPost | Self::NotAllowed => "method",
            Self::BadTarget => "bad-target",
            Self::Loop => "loop",
            Self::BodyTooLong => "body-too-long",
            Self::BodyOverdue => "body-overdue",
            Self::BodyBroken => "body-broken",
            Self::AnswerTooLong => "answer-too-long",
            Self::Switched => "api-switched-protocols",
            Self::Unanswered(Unanswered::Unresolved) => "api-unresolved",
            Self::Unanswered(Unanswered::Unreachable) => "api-unreachable",
            Self::Unanswered(Unanswered::FillTimeout) => "answer-timeout",
            Self::Unanswered(unanswered) => unanswered.reason(),
        }
    }

    /// The error type of RFC 9209 §2.3, when it is about the way to the API.
    fn proxy_error(&self) -> Option<&'static str> {
        match self {
            Self::AnswerTooLong => Some("http_response_body_size"),
            Self::Switched => Some("http_upgrade_failed"),
            Self::Loop => Some("proxy_loop_detected"),
            Self::Unanswered(unanswered) => Some(unanswered.proxy_error()),
            _ => None,
        }
    }

    /// What the app is told.
    pub fn response(&self, method: &Method) -> Response<Body> {
        let mut response = respond::text(method, self.status(), &self.to_string());
        let headers = response.headers_mut();
        if let Some(error) = self.proxy_error() {
            headers.insert(respond::PROXY_STATUS, respond::proxy_status(error, self.reason()));
        }
        match self {
            Self::NotPost => drop(headers.insert(header::ALLOW, HeaderValue::from_static("POST"))),
            Self::NotAllowed => drop(headers.insert(header::ALLOW, HeaderValue::from_static(ALLOWED))),
            _ => {}
        }
        if matches!(self, Self::NotAllowed | Self::BodyTooLong | Self::BodyOverdue | Self::BodyBroken) {
            // What follows is no request.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

const ALLOWED: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

impl From<NotWhole> for Failure {
    fn from(why: NotWhole) -> Self {
        match why {
            NotWhole::TooLong => Self::BodyTooLong,
            NotWhole::Overdue => Self::BodyOverdue,
            NotWhole::Broken => Self::BodyBroken,
        }
    }
}

impl From<Unanswered> for Failure {
    fn from(unanswered: Unanswered) -> Self {
        Self::Unanswered(unanswered)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotRelayed => {
                "only POST /cgi-bin/qrcode/create is relayed; set relay.forward = \"all\" to relay every API call"
            }
            Self::NotPost => "this path takes POST",
            Self::NotAllowed => "this method is not relayed",
            Self::BadTarget => "the request target cannot be relayed; it must begin with \"/\"",
            Self::Loop => "this call has come through here before (see Via): relay.url leads back to this proxy",
            Self::BodyTooLong => "the body is longer than the 64 KiB that qrcode/create may have here",
            Self::BodyOverdue => "the request body stopped coming",
            Self::BodyBroken => "the request body is not framed as HTTP wants it; check Content-Length or the chunks",
            Self::AnswerTooLong => "the WeChat API answered qrcode/create with more than 64 KiB",
            Self::Switched => "the WeChat API switched to a protocol that nobody asked for",
            Self::Unanswered(unanswered) => match unanswered {
                Unanswered::Unresolved => "the name of the WeChat API does not resolve; check relay.url and DNS",
                Unanswered::Unreachable => "the WeChat API cannot be reached; check relay.url and the network",
                Unanswered::ConnectTimeout => "no connection to the WeChat API within origin.connect_timeout",
                Unanswered::Certificate => {
                    "the WeChat API's certificate is not trusted; check relay.url and origin.ca_file"
                }
                Unanswered::Handshake => "the TLS handshake with the WeChat API failed",
                Unanswered::NoDescriptors => {
                    "this proxy has too many open files to reach the WeChat API; raise LimitNOFILE or ulimit -n"
                }
                Unanswered::FirstByteTimeout => {
                    "the WeChat API did not answer within origin.first_byte_timeout; what was asked may have been done"
                }
                Unanswered::FillTimeout => {
                    "the WeChat API did not finish within origin.fill_timeout; what was asked may have been done"
                }
                Unanswered::Malformed => "the WeChat API's answer is not HTTP; what was asked may have been done",
                _ => "the WeChat API closed the connection before its answer was whole; what was asked may have been done",
            },
        })
    }
}

impl std::error::Error for Failure {}
