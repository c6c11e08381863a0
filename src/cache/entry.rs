//! What the cache holds: images, and for a short while what the origin said instead of one.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use headers::{ETag, Header};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use sha2::{Digest, Sha256};

use super::directives::Directives;
use super::expiry::Expiry;
use super::format::Format;
use super::freshness::Freshness;
use super::grace::Grace;
use super::hits::Hits;
use super::pass_headers::{Field, PassHeaders};
use super::retry::Retry;
use crate::moment::{Moment, Tick, Wall};

/// Bytes of one field that are kept of the origin's head; no entity tag, date or media type needs more.
const LONGEST_FIELD: usize = 256;

/// How long an image that can be revalidated is worth its room after it became stale.
const WORTH_REVALIDATING_FOR: Duration = Duration::from_secs(30 * 86_400);
/// Bytes that a field which passes on costs beside its text: its place in the slice (72), and for name and value each a
/// buffer's bookkeeping (32) and what the allocator rounds up.
const FIELD_OVERHEAD: usize = 160;

/// One QR picture with everything needed to answer for it.
#[derive(Debug)]
pub struct Image {
    /// The bytes, exactly as the origin sent them.
    pub body: Bytes,
    /// What the origin said about caches.
    pub said: Directives,
    /// How long it is fresh.
    pub freshness: Freshness,
    /// How long it may be served stale.
    pub grace: Grace,
    /// When its ticket ends; `None` when permanent or unknown.
    pub expiry: Option<Expiry>,
    /// When it may be refreshed, after refreshes that failed.
    pub retry: Retry,
    /// How often it answered.
    pub hits: Hits,
    format: Format,
    etag: ETag,
    etag_is_ours: bool,
    answered_by: StatusCode,
    /// As many as there are: a map would cost more than all else that is kept beside the bytes.
    own_fields: Box<[(HeaderName, HeaderValue)]>,
    /// What `cache.pass_headers` lets pass on.
    passed_fields: Box<[Field]>,
}

/// What is known of an image's life.
#[derive(Debug, Clone, Copy)]
pub struct Life {
    /// What the origin said about caches.
    pub said: Directives,
    /// How long it is fresh.
    pub freshness: Freshness,
    /// How long it may be served stale.
    pub grace: Grace,
    /// When its ticket ends; `None` when permanent or unknown.
    pub expiry: Option<Expiry>,
}

/// The fields by which an origin can tell that an image has not changed (RFC 9110 §8.8).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Validators {
    /// Its `ETag`, for `If-None-Match`.
    pub etag: Option<HeaderValue>,
    /// Its `Last-Modified`, for `If-Modified-Since`.
    pub last_modified: Option<HeaderValue>,
}

impl Image {
    /// Makes the entry for `body`, whose answer had the head `headers`.
    pub fn new(body: Bytes, format: Format, headers: &HeaderMap, life: &Life) -> Self {
        let origins = origin_etag(headers);
        let etag_is_ours = origins.is_none();
        let etag = origins.unwrap_or_else(|| hash_etag(&body));
        let own_fields = describe(&body, &etag, last_modified(headers));
        Self::build(body, format, etag, etag_is_ours, own_fields, life)
    }

    /// The entry that a 304 with the head `headers` makes of this one (RFC 9111 §4.3.4); `None` when the 304 speaks of
    /// something else.
    pub fn renewed(&self, headers: &HeaderMap, life: &Life) -> Option<Self> {
        if !self.is_meant_by(headers) {
            return None;
        }
        let (said, etag_is_ours) = match origin_etag(headers) {
            Some(said) => (said, false),
            None => (self.etag.clone(), self.etag_is_ours),
        };
        let modified = last_modified(headers).or_else(|| self.field(&header::LAST_MODIFIED).cloned());
        let own_fields = describe(&self.body, &said, modified);
        let renewed = Self::build(self.body.clone(), self.format, said, etag_is_ours, own_fields, life);
        let passed_fields = self.passed_fields.clone();
        Some(Self { answered_by: StatusCode::NOT_MODIFIED, passed_fields, ..renewed })
    }

    /// The same image with another end of its ticket's life. A refresh that was put off may be tried at once.
    #[must_use]
    pub(super) fn ending(&self, expiry: Option<Expiry>) -> Self {
        let life = Life { said: self.said, freshness: self.freshness, grace: self.grace, expiry };
        let (body, etag, own_fields) = (self.body.clone(), self.etag.clone(), self.own_fields.clone());
        let same = Self::build(body, self.format, etag, self.etag_is_ours, own_fields, &life);
        same.hits.carry_over(&self.hits);
        Self { answered_by: self.answered_by, passed_fields: self.passed_fields.clone(), ..same }
    }

    /// RFC 9111 §4.3.4: a strong validator of a 304 must be the stored one; a weak one must correspond to it. A 304
    /// without any speaks of what was asked for.
    fn is_meant_by(&self, headers: &HeaderMap) -> bool {
        let stored = (!self.etag_is_ours).then_some(&self.etag);
        match origin_etag(headers) {
            Some(said) if is_weak(&said) => stored.is_none_or(|stored| same_version(&said, stored)),
            Some(said) => stored == Some(&said),
            None => {
                let own = self.field(&header::LAST_MODIFIED);
                last_modified(headers).is_none_or(|said| own.is_none_or(|own| *own == said))
            }
        }
    }

    fn build(
        body: Bytes,
        format: Format,
        etag: ETag,
        etag_is_ours: bool,
        own_fields: Box<[(HeaderName, HeaderValue)]>,
        life: &Life,
    ) -> Self {
        let Life { said, freshness, grace, expiry } = *life;
        let (retry, hits, answered_by) = (Retry::default(), Hits::default(), StatusCode::OK);
        Self {
            body,
            said,
            freshness,
            grace,
            expiry,
            retry,
            hits,
            format,
            etag,
            etag_is_ours,
            answered_by,
            own_fields,
            passed_fields: Box::default(),
        }
    }

    /// The status of the answer that made this entry: 200, or the 304 that renewed it.
    pub fn answered_by(&self) -> StatusCode {
        self.answered_by
    }

    /// What the origin gave to recognise it by.
    pub fn validators(&self) -> Validators {
        let etag = self.field(&header::ETAG).filter(|_| !self.etag_is_ours).cloned();
        Validators { etag, last_modified: self.field(&header::LAST_MODIFIED).cloned() }
    }

    fn field(&self, name: &HeaderName) -> Option<&HeaderValue> {
        self.own_fields.iter().find(|(own, _)| own == name).map(|(_, value)| value)
    }

    /// With those of `headers` that `pass_headers` lets pass on; what passed on before and is not named anew stays.
    #[must_use]
    pub fn passing(self, pass_headers: &PassHeaders, headers: &HeaderMap) -> Self {
        let passed_fields = pass_headers.copy(headers, &self.passed_fields);
        Self { passed_fields, ..self }
    }

    /// The header fields that never change while the entry lives.
    pub fn head(&self) -> impl Iterator<Item = &(HeaderName, HeaderValue)> {
        self.format.fields().iter().chain(&self.own_fields).chain(&self.passed_fields)
    }

    /// Those that describe its bytes, in this order: `Content-Length`, `ETag`, and `Last-Modified` where it is known.
    pub fn described(&self) -> &[(HeaderName, HeaderValue)] {
        &self.own_fields
    }

    /// Those that the origin said and `cache.pass_headers` lets pass on.
    pub fn passed(&self) -> &[Field] {
        &self.passed_fields
    }

    /// The entity tag that is served: the origin's, or ours.
    pub fn etag(&self) -> &ETag {
        &self.etag
    }

    /// The format of the picture.
    pub fn format(&self) -> Format {
        self.format
    }

    /// When the origin says that the picture was last changed.
    pub fn last_modified(&self) -> Option<Wall> {
        self.field(&header::LAST_MODIFIED).and_then(super::freshness::http_date)
    }

    /// Bytes of the picture and of its head.
    pub(super) fn bytes(&self) -> usize {
        let own: usize = self.own_fields.iter().map(|(_, value)| value.len()).sum();
        let passed = self.passed_fields.iter().map(|(name, value)| FIELD_OVERHEAD + name.as_str().len() + value.len());
        self.body.len() + own + passed.sum::<usize>()
    }

    /// Whether it may be served without asking the origin.
    pub fn is_fresh(&self, now: Moment) -> bool {
        !self.freshness.left(now.tick).is_zero() && !self.has_ended(now)
    }

    /// How long from `now` it may be served without asking the origin; never beyond its ticket's life.
    pub fn fresh_for(&self, now: Moment) -> Duration {
        let left = self.freshness.left(now.tick);
        self.expiry.map_or(left, |expiry| left.min(expiry.left(now)))
    }

    /// How long from `now` it can be of any use: fresh, stale, or to be revalidated; never beyond its ticket's life.
    pub fn useful_for(&self, now: Moment) -> Duration {
        let can_be_revalidated = self.validators() != Validators::default();
        let after = if can_be_revalidated { WORTH_REVALIDATING_FOR } else { Duration::ZERO };
        let stale_use = self.grace.longest().max(after).saturating_sub(self.freshness.staleness(now.tick));
        let useful = self.freshness.left(now.tick).saturating_add(stale_use);
        self.expiry.map_or(useful, |expiry| useful.min(expiry.left(now)))
    }

    /// Whether it is stale, and served at once all the same while a fill refreshes it (S23).
    pub fn serves_while_revalidating(&self, now: Moment) -> bool {
        self.grace.covers_revalidation(self.freshness.staleness(now.tick)) && !self.has_ended(now)
    }

    /// Whether it is stale, and served in place of an error (S23).
    pub fn serves_on_error(&self, now: Moment) -> bool {
        self.grace.covers_error(self.freshness.staleness(now.tick)) && !self.has_ended(now)
    }

    /// Whether its ticket's life is over.
    pub fn has_ended(&self, now: Moment) -> bool {
        self.expiry.is_some_and(|expiry| expiry.is_over(now))
    }
}

/// The weak comparison, since a 304 may weaken a tag (RFC 9110 §8.8.3.2).
fn same_version(one: &ETag, other: &ETag) -> bool {
    let opaque =
        |tag: &ETag| tag_field(tag).map(|tag| tag.as_bytes().strip_prefix(b"W/").unwrap_or(tag.as_bytes()).to_vec());
    opaque(one) == opaque(other)
}

fn is_weak(tag: &ETag) -> bool {
    tag_field(tag).is_some_and(|tag| tag.as_bytes().starts_with(b"W/"))
}

fn tag_field(tag: &ETag) -> Option<HeaderValue> {
    let mut field = Vec::with_capacity(1);
    tag.encode(&mut field);
    field.pop()
}

fn describe(body: &[u8], etag: &ETag, modified: Option<HeaderValue>) -> Box<[(HeaderName, HeaderValue)]> {
    let length = HeaderValue::try_from(body.len().to_string()).expect("digits are visible ASCII");
    let tag = tag_field(etag).expect("an entity tag is the value of one field");
    let modified = modified.map(|at| (header::LAST_MODIFIED, at));
    [(header::CONTENT_LENGTH, length), (header::ETAG, tag)].into_iter().chain(modified).collect()
}

fn last_modified(headers: &HeaderMap) -> Option<HeaderValue> {
    headers.get(header::LAST_MODIFIED).filter(|at| super::freshness::http_date(at).is_some()).and_then(kept)
}

/// Several are as good as none: nobody could say which is meant.
fn origin_etag(headers: &HeaderMap) -> Option<ETag> {
    let mut tags = headers.get_all(header::ETAG).iter();
    let tag = tags.next().and_then(kept).filter(|_| tags.next().is_none())?;
    are_tags(&tag).then(|| ETag::decode(&mut std::iter::once(&tag)).ok())?
}

/// Whether every quote in `line` has its end, and nothing between two of them is what no entity tag has: white space, a control
/// character (RFC 9110 §8.8.3). `headers` relies on that: built for debugging, it panics where it is not so.
pub fn are_tags(line: &HeaderValue) -> bool {
    let mut is_inside = false;
    for byte in line.as_bytes() {
        match byte {
            b'"' => is_inside = !is_inside,
            0..=b' ' | 0x7f if is_inside => return false,
            _ => {}
        }
    }
    !is_inside
}

/// A copy: as it comes, a value is a slice of the buffer that the head was read into, 8 to 400 KiB, all of which would
/// stay in memory as long as the entry.
fn kept(value: &HeaderValue) -> Option<HeaderValue> {
    let short = Some(value.as_bytes()).filter(|bytes| bytes.len() <= LONGEST_FIELD)?;
    HeaderValue::from_bytes(short).ok()
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
    /// When to come again.
    pub retry_after: Option<HeaderValue>,
    /// The body; `None` when it was too long or encoded, and our own text stands in.
    pub body: Option<Bytes>,
}

impl Passed {
    /// What to pass on of an answer with the head `headers`. Values of more than 256 bytes are dropped.
    pub fn new(status: StatusCode, headers: &HeaderMap, body: Option<Bytes>) -> Self {
        let field = |name| headers.get(name).and_then(kept);
        let content_type = field(header::CONTENT_TYPE).filter(|_| body.is_some());
        Self { status, content_type, retry_after: field(header::RETRY_AFTER), body }
    }

    fn bytes(&self) -> usize {
        let fields = [&self.content_type, &self.retry_after];
        let fields = fields.into_iter().flatten().map(HeaderValue::len).sum::<usize>();
        fields + self.body.as_ref().map_or(0, Bytes::len)
    }
}

/// What is remembered instead of an image.
#[derive(Debug, Clone)]
pub enum Instead {
    /// The origin's 404 or 410.
    Unknown(Arc<Passed>),
    /// A 200 that was no image (S16).
    NotAnImage,
    /// The image of a ticket whose life is over: shown for a short while, and not kept as an image (S22).
    Late(Arc<Image>),
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
            Instead::Unknown(passed) => passed.bytes(),
            Instead::NotAnImage => 0,
            Instead::Late(image) => image.bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::freshness::Exchange;
    use super::*;

    /// A head as hyper hands it over: every value is a slice of the one buffer that was read into.
    fn head(fields: &[(HeaderName, &str)]) -> (Bytes, HeaderMap) {
        let lines: String = fields.iter().map(|(_, value)| *value).collect();
        let read = Bytes::from(lines + &"x".repeat(60_000));
        let mut headers = HeaderMap::new();
        let mut at = 0;
        for (name, value) in fields {
            let slice = read.slice(at..at + value.len());
            headers.append(name, HeaderValue::from_maybe_shared(slice).unwrap());
            at += value.len();
        }
        (read, headers)
    }

    fn image(headers: &HeaderMap) -> Image {
        let now = Moment { wall: Wall::from_unix(1_767_225_600), tick: Tick::from_start(Duration::ZERO) };
        let said = Directives::of(headers);
        let exchange = Exchange { asked: now, answered: now };
        let freshness = Freshness::of(headers, &said, exchange, Duration::from_secs(60));
        let life = Life { said, freshness, grace: Grace::NONE, expiry: None };
        Image::new(Bytes::from_static(b"\xff\xd8\xff"), Format::Jpeg, headers, &life)
    }

    const DATE: &str = "Thu, 01 Jan 2026 00:00:00 GMT";

    #[test]
    fn an_image_keeps_nothing_of_the_buffer_that_its_head_was_read_into() {
        let (read, headers) = head(&[(header::ETAG, "\"abc\""), (header::LAST_MODIFIED, DATE)]);
        let image = image(&headers);
        drop(headers);
        assert!(read.is_unique(), "60 KB would stay as long as the image");
        let kept: HeaderMap = image.head().cloned().collect();
        assert_eq!(
            (&kept[header::ETAG], &kept[header::LAST_MODIFIED]),
            (&"\"abc\"".parse().unwrap(), &DATE.parse().unwrap())
        );
    }

    #[test]
    fn the_head_of_an_image_is_all_that_never_changes() {
        let (_, headers) = head(&[(header::ETAG, "\"abc\""), (header::SET_COOKIE, "a=b")]);
        let image = image(&headers);
        let fields: Vec<_> = image.head().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        let expected = [
            ("content-type", "image/jpeg"),
            ("x-content-type-options", "nosniff"),
            ("cross-origin-resource-policy", "cross-origin"),
            ("content-length", "3"),
            ("etag", "\"abc\""),
        ];
        assert_eq!(fields, expected);
    }

    #[test]
    fn what_passes_on_is_copied_and_weighed() {
        let (read, headers) = head(&[(header::SERVER, "nginx"), (header::SET_COOKIE, "a=b"), (header::LINK, "<x>")]);
        let image = image(&headers);
        let before = image.bytes();
        let image = image.passing(&PassHeaders::All, &headers);
        drop(headers);
        assert!(read.is_unique(), "60 KB would stay as long as the image");
        let fields: HeaderMap = image.head().cloned().collect();
        assert_eq!(
            (&fields[header::SERVER], &fields[header::LINK]),
            (&"nginx".parse().unwrap(), &"<x>".parse().unwrap())
        );
        assert!(!fields.contains_key(header::SET_COOKIE));
        assert_eq!(image.bytes() - before, "servernginxlink<x>".len() + 2 * FIELD_OVERHEAD);
    }

    #[test]
    fn a_refusal_keeps_nothing_of_the_buffer_that_its_head_was_read_into() {
        let (read, headers) = head(&[(header::CONTENT_TYPE, "text/plain")]);
        let passed = Passed::new(StatusCode::NOT_FOUND, &headers, Some(Bytes::new()));
        drop(headers);
        assert!(read.is_unique());
        assert_eq!(passed.content_type.unwrap(), "text/plain");
    }

    #[test]
    fn the_origins_own_tag_is_served_unless_it_is_none_or_longer_than_any_needs_to_be() {
        let tagged = |tags: &[&str]| image(&head(&tags.iter().map(|tag| (header::ETAG, *tag)).collect::<Vec<_>>()).1);
        let ours = hash_etag(b"\xff\xd8\xff");
        let longest = format!("\"{}\"", "a".repeat(LONGEST_FIELD - 2));
        assert_eq!(tagged(&[&longest]).etag(), &longest.parse().unwrap());
        assert_eq!(tagged(&["W/\"a\""]).etag(), &"W/\"a\"".parse().unwrap());
        let longer = format!("\"a{}", &longest[1..]);
        for none in [&[][..], &[longer.as_str()], &["abc"], &["\"a\"", "\"b\""], &["\"a b\""], &["\"a\tb\""], &["\"a"]]
        {
            assert_eq!(tagged(none).etag(), &ours, "{none:?}");
        }
    }

    #[test]
    fn a_type_longer_than_any_needs_to_be_is_no_type() {
        let typed = |length| {
            let (_, headers) = head(&[(header::CONTENT_TYPE, &"t".repeat(length))]);
            Passed::new(StatusCode::GONE, &headers, Some(Bytes::new())).content_type
        };
        assert_eq!(typed(LONGEST_FIELD).map(|kept| kept.len()), Some(LONGEST_FIELD));
        assert_eq!(typed(LONGEST_FIELD + 1), None);
    }

    #[test]
    fn what_is_kept_of_a_head_is_weighed() {
        let (_, bare) = head(&[]);
        let (_, full) = head(&[(header::ETAG, &format!("\"{:a>255}", '"')), (header::LAST_MODIFIED, DATE)]);
        // Our own tag has 34 bytes.
        assert_eq!(image(&full).bytes() - image(&bare).bytes(), 256 - 34 + DATE.len());
        let (_, headers) = head(&[(header::CONTENT_TYPE, "text/plain"), (header::RETRY_AFTER, "9")]);
        let passed = Passed::new(StatusCode::GONE, &headers, Some(Bytes::from_static(b"gone")));
        let negative = Negative { instead: Instead::Unknown(Arc::new(passed)), until: Tick::NEVER };
        assert_eq!(negative.bytes(), "text/plain9gone".len());
    }
}
