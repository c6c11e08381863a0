//! What the cache holds: images, and for a short while what the origin said instead of one.

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use headers::{ETag, Header};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use sha2::{Digest, Sha256};

use super::control::Control;
use super::expiry::Expiry;
use super::format::Format;
use super::freshness::Freshness;
use crate::moment::{Moment, Tick};

/// One QR picture with everything needed to answer for it.
#[derive(Debug)]
pub struct Image {
    /// The bytes, exactly as the origin sent them.
    pub body: Bytes,
    /// What the origin said about caches.
    pub control: Control,
    /// How long it is fresh.
    pub freshness: Freshness,
    /// When its ticket ends; `None` when permanent or unknown.
    pub expiry: Option<Expiry>,
    etag: ETag,
    head: HeaderMap,
}

impl Image {
    /// Makes the entry for `body`, whose answer had the head `headers`.
    pub fn new(
        body: Bytes,
        format: Format,
        headers: &HeaderMap,
        control: Control,
        freshness: Freshness,
        expiry: Option<Expiry>,
    ) -> Self {
        let etag = origin_etag(headers).unwrap_or_else(|| hash_etag(&body));
        let head = describe(&body, format, &etag, headers);
        Self { body, control, freshness, expiry, etag, head }
    }

    /// The header fields that never change while the entry lives.
    pub fn head(&self) -> &HeaderMap {
        &self.head
    }

    /// The entity tag that is served: the origin's, or ours.
    pub fn etag(&self) -> &ETag {
        &self.etag
    }

    /// Whether it may be served without asking the origin.
    pub fn is_fresh(&self, now: Moment) -> bool {
        !self.freshness.left(now.tick).is_zero() && !self.has_ended(now)
    }

    /// Whether its ticket's life is over.
    pub fn has_ended(&self, now: Moment) -> bool {
        self.expiry.is_some_and(|expiry| expiry.is_over(now))
    }
}

fn describe(body: &Bytes, format: Format, etag: &ETag, headers: &HeaderMap) -> HeaderMap {
    let mut head = HeaderMap::with_capacity(12);
    head.insert(header::CONTENT_TYPE, format.content_type());
    head.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    let mut tag = Vec::with_capacity(1);
    etag.encode(&mut tag);
    head.extend(tag.pop().map(|tag| (header::ETAG, tag)));
    if let Some(modified) = headers.get(header::LAST_MODIFIED).filter(|at| super::freshness::http_date(at).is_some()) {
        head.insert(header::LAST_MODIFIED, modified.clone());
    }
    head.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    head
}

fn origin_etag(headers: &HeaderMap) -> Option<ETag> {
    ETag::decode(&mut headers.get_all(header::ETAG).iter()).ok()
}

/// A strong tag: equal bytes, equal tag, whichever server cached them.
fn hash_etag(body: &[u8]) -> ETag {
    let hash = Sha256::digest(body);
    let mut tag = String::with_capacity(34);
    tag.push('"');
    for byte in &hash[..16] {
        let _ = write!(tag, "{byte:02x}");
    }
    tag.push('"');
    tag.parse().expect("hex digits in quotes are an entity tag")
}

/// An answer of the origin that passes through (S17): status, type and at most 64 KiB of body.
#[derive(Debug)]
pub struct Passed {
    /// The origin's status.
    pub status: StatusCode,
    /// What the origin calls the body; browsers are told not to guess.
    pub content_type: Option<HeaderValue>,
    /// The body; `None` when it was too long or encoded, and our own text stands in.
    pub body: Option<Bytes>,
}

/// What is remembered instead of an image.
#[derive(Debug, Clone)]
pub enum Instead {
    /// The origin's 404 or 410.
    Unknown(Arc<Passed>),
    /// A 200 that was no image (S16).
    NotAnImage,
}

/// A negative entry.
#[derive(Debug, Clone)]
pub struct Negative {
    /// What to answer.
    pub instead: Instead,
    /// Until when.
    pub until: Tick,
}

impl Negative {
    /// Whether it still answers.
    pub fn is_current(&self, now: Tick) -> bool {
        now < self.until
    }

    pub(super) fn bytes(&self) -> usize {
        match &self.instead {
            Instead::Unknown(passed) => passed.body.as_ref().map_or(0, Bytes::len),
            Instead::NotAnImage => 0,
        }
    }
}
