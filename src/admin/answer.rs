//! Answers on the operator's listener: never kept by anybody, never guessed at.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::channel::{Channel, Sender};
use http_body_util::{Either, Full};
use serde_json::Value;

use super::guard::Barred;

/// What is sent after a head: all of it, or pieces as they come.
pub type Body = Either<Full<Bytes>, Channel<Bytes>>;

/// An answer.
pub type Answer = Response<Body>;

/// OpenMetrics 1.0.
pub const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// A JSON text a line.
const JSON_LINES: HeaderValue = HeaderValue::from_static("application/x-ndjson");

/// Pieces that wait for a reader who is slower than we are.
const QUEUE: usize = 16;

/// `body`, whole.
pub fn page(status: StatusCode, content_type: HeaderValue, body: impl Into<Bytes>) -> Answer {
    answer(status, content_type, Either::Left(Full::new(body.into())))
}

/// One line of text.
pub fn text(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    page(status, PLAIN, text)
}

/// That it is done.
pub fn done() -> Answer {
    let mut response = text(StatusCode::NO_CONTENT, "");
    response.headers_mut().remove(header::CONTENT_TYPE);
    response
}

/// `value`, for people to read too.
pub fn json(status: StatusCode, value: &Value) -> Answer {
    page(status, JSON, format!("{value:#}\n"))
}

/// `value`, for programs that ask often.
pub fn compact_json(value: &Value) -> Answer {
    page(StatusCode::OK, JSON, value.to_string())
}

/// Lines of JSON that are still to come, and where to put them.
pub fn json_lines() -> (Sender<Bytes>, Answer) {
    let (sender, lines) = Channel::new(QUEUE);
    (sender, answer(StatusCode::OK, JSON_LINES, Either::Right(lines)))
}

/// Whoever is not let in.
pub fn refused(barred: Barred) -> Answer {
    let mut response = text(barred.status(), barred.text());
    response.headers_mut().extend(barred.challenge());
    response
}

/// The methods that are, where another was used.
pub fn not_allowed(allow: &'static str) -> Answer {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "not by this method\n");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    response
}

fn answer(status: StatusCode, content_type: HeaderValue, body: Body) -> Answer {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let fields = [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    *response.headers_mut() = HeaderMap::from_iter(fields);
    response
}
