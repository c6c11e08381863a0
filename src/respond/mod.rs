//! Answers on the image route, built from an allow-list and never copied (S25): nothing of the origin's head passes but
//! what is named here. What of an image is sent is decided by [`conditional`] and [`range`], in this order (S26).

pub mod conditional;
pub mod config;
pub mod cors;
pub mod download;
mod head;
pub mod range;

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use conditional::Stored;
pub use config::CorsConfig;
use cors::Cors;
use head::{About, Heads, Use};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use range::{Part, content_range, unsatisfied_range};

use crate::body::Body;
use crate::cache::entry::{Image, Passed};
use crate::cache::status::Outcome;
use crate::limit::{Admitted, Refused, TellBudget, TooMany, fields};
use crate::moment::Moment;
use crate::origin::Failure;

/// RFC 9211.
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
/// RFC 9209.
pub const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
/// When the ticket of an image ends (HTTP date).
const TICKET_EXPIRES: HeaderName = HeaderName::from_static("ticket-expires");
/// Any site may show our images (Fetch standard §3.7).
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const BYTES: HeaderValue = HeaderValue::from_static("bytes");
const PLAIN_TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// What can make the answer something else than the whole image. `If-Range` says nothing without `Range`.
const SELECTING: [HeaderName; 3] = [header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE, header::RANGE];

/// The part of a request that shapes the answer.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// `GET` or `HEAD`.
    pub method: &'a Method,
    /// Its raw query.
    pub query: Option<&'a str>,
    /// Its header fields.
    pub headers: &'a HeaderMap,
}

/// Builds answers.
#[derive(Debug, Clone)]
pub struct Responder {
    cors: Cors,
    tell_budget: TellBudget,
    heads: Heads,
}

impl Responder {
    /// Answers with these CORS rules, and tells budgets when `tell_budget` says so.
    pub fn new(cors: Cors, tell_budget: TellBudget) -> Self {
        Self { cors, tell_budget, heads: Heads::default() }
    }

    /// Shows `image`, the part of it that is asked for, or says that the client has it already (304). With `show_only`
    /// nobody may keep it: what is of no use later is shown whole.
    pub fn image(
        &self,
        asked: Asked<'_>,
        image: &Image,
        outcome: &Outcome,
        now: Moment,
        show_only: bool,
    ) -> Response<Body> {
        let head = |how| self.head(About { image, outcome, how, now }, asked);
        let whole = |headers| answer(StatusCode::OK, headers, asked.body(image.body.clone()));
        if show_only {
            return whole(head(Use::ShowOnly));
        }
        match wanted(asked, image) {
            None => answer(StatusCode::NOT_MODIFIED, head(Use::Renew), Body::Empty),
            Some(Part::Unsatisfiable) => self.unsatisfiable(asked, image.body.len(), outcome),
            Some(Part::Whole) => whole(head(Use::Keep)),
            Some(Part::Bytes(bytes)) => part(head(Use::Keep), &image.body, bytes),
        }
    }

    fn head(&self, about: About<'_>, asked: Asked<'_>) -> HeaderMap {
        let mut headers = self.heads.head(about, &self.cors);
        self.cors.allow_listed(asked.headers, &mut headers);
        headers.extend(about.image.passed().iter().cloned());
        if about.how != Use::Renew {
            save_as(&mut headers, asked, about.image);
        }
        headers
    }

    /// Passes on what the origin said instead of an image (S17). Our own text stands in for a body that
    /// cannot pass.
    pub fn passed(&self, asked: Asked<'_>, passed: &Passed, outcome: &Outcome) -> Response<Body> {
        let mut headers = self.error_head(asked, outcome);
        headers.extend(passed.retry_after.clone().map(|after| (header::RETRY_AFTER, after)));
        let Some(body) = &passed.body else {
            let text = format!("the QR code origin answered {}", passed.status.as_u16());
            return plain(passed.status, headers, asked, &text);
        };
        headers.extend(passed.content_type.clone().map(|content_type| (header::CONTENT_TYPE, content_type)));
        headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; sandbox"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        answer(passed.status, headers, asked.body(body.clone()))
    }

    /// Says why there is no image though the origin was, or should have been, asked (S27).
    pub fn failure(&self, asked: Asked<'_>, failure: &Failure, outcome: &Outcome) -> Response<Body> {
        let mut headers = self.error_head(asked, outcome);
        if let Failure::Budget(refused) = failure {
            fields::refused(&mut headers, refused, self.tell_budget);
        } else {
            headers.extend(failure.retry_after().map(|after| (header::RETRY_AFTER, whole_seconds(after))));
        }
        if matches!(failure, Failure::Crowded) {
            // Refused for the sake of the place that its connection has.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        headers.insert(PROXY_STATUS, proxy_status(failure.proxy_error(), failure.reason()));
        plain(failure.status(), headers, asked, &failure.to_string())
    }

    /// Refuses to wait, since as many do as may (S27).
    pub fn too_many(&self, asked: Asked<'_>, too_many: TooMany, outcome: &Outcome) -> Response<Body> {
        let mut headers = self.error_head(asked, outcome);
        headers.insert(header::RETRY_AFTER, TooMany::RETRY_AFTER);
        headers.extend(too_many.proxy_error().map(|error| (PROXY_STATUS, proxy_status(error, too_many.reason()))));
        plain(too_many.status(), headers, asked, too_many.text())
    }

    /// Refuses before anybody was asked; `text` says what to mend.
    pub fn refusal(&self, asked: Asked<'_>, status: StatusCode, text: &str, outcome: &Outcome) -> Response<Body> {
        plain(status, self.error_head(asked, outcome), asked, text)
    }

    /// Refuses what a budget of the client does not allow (S29).
    pub fn limited(&self, asked: Asked<'_>, refused: &Refused, text: &str, outcome: &Outcome) -> Response<Body> {
        let mut headers = self.error_head(asked, outcome);
        fields::refused(&mut headers, refused, self.tell_budget);
        plain(StatusCode::TOO_MANY_REQUESTS, headers, asked, text)
    }

    /// Tells what is left of the client's budget, if that is wanted on allowed answers.
    pub fn tell_budget(&self, response: &mut Response<Body>, admitted: &Admitted) {
        fields::admitted(response.headers_mut(), admitted, self.tell_budget);
    }

    /// Says what is wrong with a request before its route matters.
    pub fn objection(&self, asked: Asked<'_>, status: StatusCode, text: &str) -> Response<Body> {
        plain(status, self.own_head(asked), asked, text)
    }

    /// Answers a CORS preflight.
    pub fn preflight(&self, asked: &HeaderMap) -> Response<Body> {
        let mut headers = HeaderMap::new();
        self.cors.allow_preflight(asked, &mut headers);
        answer(StatusCode::NO_CONTENT, headers, Body::Empty)
    }

    /// RFC 9110 §15.5.17.
    fn unsatisfiable(&self, asked: Asked<'_>, length: usize, outcome: &Outcome) -> Response<Body> {
        let mut headers = self.error_head(asked, outcome);
        headers.insert(header::CONTENT_RANGE, unsatisfied_range(length));
        let text = format!("the image has no such bytes; it has {length}, the first of which is 0");
        plain(StatusCode::RANGE_NOT_SATISFIABLE, headers, asked, &text)
    }

    fn error_head(&self, asked: Asked<'_>, outcome: &Outcome) -> HeaderMap {
        let mut headers = self.own_head(asked);
        headers.insert(CACHE_STATUS, outcome.field());
        headers
    }

    fn own_head(&self, asked: Asked<'_>) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(16);
        headers.insert(header::CACHE_CONTROL, NO_STORE);
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(RESOURCE_POLICY, HeaderValue::from_static("cross-origin"));
        self.cors.allow(asked.headers, &mut headers);
        headers
    }
}

impl<'a> Asked<'a> {
    /// That part of `request`.
    pub fn of<B>(request: &'a Request<B>) -> Self {
        Self { method: request.method(), query: request.uri().query(), headers: request.headers() }
    }

    /// RFC 9110 §9.3.2: a HEAD gets the head alone.
    fn body(&self, bytes: Bytes) -> Body {
        if self.method == Method::HEAD { Body::Empty } else { Body::Bytes(bytes) }
    }
}

/// Says something of ours in one line of plain text, outside the image route too.
pub fn text(method: &Method, status: StatusCode, text: &str) -> Response<Body> {
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(header::CACHE_CONTROL, NO_STORE);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    plain(status, headers, Asked { method, query: None, headers: &HeaderMap::new() }, text)
}

fn plain(status: StatusCode, mut headers: HeaderMap, asked: Asked<'_>, text: &str) -> Response<Body> {
    let body = Bytes::from(format!("{text}\n"));
    headers.insert(header::CONTENT_TYPE, PLAIN_TEXT);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    answer(status, headers, asked.body(body))
}

fn answer(status: StatusCode, headers: HeaderMap, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// RFC 9110 §13.2.2: conditions go before the range. `None` when the client has the image already.
fn wanted(asked: Asked<'_>, image: &Image) -> Option<Part> {
    // Most requests have none of these, and then no date is parsed.
    if !SELECTING.iter().any(|name| asked.headers.contains_key(name)) {
        return Some(Part::Whole);
    }
    let stored = Stored { etag: image.etag(), last_modified: image.last_modified(), date: image.freshness.date() };
    if stored.is_known(asked.headers) {
        return None;
    }
    // §14.2: ranges are defined for GET alone.
    let in_parts = asked.method == Method::GET && stored.allows_part(asked.headers);
    Some(if in_parts { Part::of(asked.headers, image.body.len()) } else { Part::Whole })
}

fn save_as(headers: &mut HeaderMap, asked: Asked<'_>, image: &Image) {
    if let Some(disposition) = download::disposition(asked.query, image.format().extension()) {
        // Replaces the origin's, which may have passed on.
        headers.insert(header::CONTENT_DISPOSITION, disposition);
    }
}

/// RFC 9110 §15.3.7.1. The part shares the bytes of the whole.
fn part(mut headers: HeaderMap, image: &Bytes, bytes: Range<usize>) -> Response<Body> {
    headers.insert(header::CONTENT_RANGE, content_range(&bytes, image.len()));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    answer(StatusCode::PARTIAL_CONTENT, headers, Body::Bytes(image.slice(bytes)))
}

/// Its value: an error type of RFC 9209 §2.3, and our word for what happened. Both are words of ours, and stand as they are.
pub fn proxy_status(error: &'static str, details: &'static str) -> HeaderValue {
    let status = format!("ticketgate; error={error}; details=\"{details}\"");
    HeaderValue::try_from(status).expect("tokens are visible ASCII")
}

/// Whole seconds, rounded up, at least one: a client must not come back a moment too early.
fn whole_seconds(duration: Duration) -> HeaderValue {
    HeaderValue::from((duration.as_secs() + u64::from(duration.subsec_nanos() > 0)).max(1))
}

#[cfg(test)]
mod tests;
