//! What an answer of the origin is worth (S15–S17): pure, and the only place that decides what may be stored.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};

use crate::cache::directives::Directives;
use crate::cache::entry::{Image, Instead, Life, Negative, Passed, Validators};
use crate::cache::expiry::Expiry;
use crate::cache::format::Format;
use crate::cache::freshness::{Exchange, Freshness};
use crate::cache::grace::Grace;
use crate::cache::pass_headers::PassHeaders;
use crate::moment::Moment;
use crate::origin::{Answer, Failure, Read};
use crate::ticket::Facts;

/// How long a 200 without an image is remembered, so that it is not asked for again at once (S16).
const NOT_AN_IMAGE_FOR: Duration = Duration::from_secs(2);

/// A ticket created this far in our future says more about clocks than about itself (S20).
const FUTURE: Duration = Duration::from_secs(5 * 60);

/// Why the image of a ticket whose life is over is not stored.
pub const EXPIRED: &str = "ticket-expired";

/// Why an image whose ticket was purged in the meantime is not stored.
pub const PURGED: &str = "purged";

/// The word for an image that is of no use a moment later.
pub const STALE_ON_ARRIVAL: &str = "stale-on-arrival";

/// The word for a refusal of the origin that says nothing of the ticket.
pub const ORIGIN_STATUS: &str = "origin-status";

/// What configuration sets.
#[derive(Debug, Clone)]
pub struct Rules {
    /// `cache.default_ttl`.
    pub default_ttl: Duration,
    /// `cache.negative_ttl`.
    pub negative_ttl: Duration,
    /// `cache.stale_while_revalidate`, `cache.stale_if_error`.
    pub grace: Grace,
    /// `cache.pass_headers`.
    pub pass_headers: PassHeaders,
    /// Whether an answer past a ticket's life is remembered for a short while (S22).
    pub remember_late: bool,
}

/// What is known of a ticket before an answer comes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Known<'a> {
    /// What it says of itself.
    pub facts: Option<&'a Facts>,
    /// Its image, when one is held.
    pub stored: Option<&'a Image>,
    /// The deadline that others know: what was learned of it, and what was set for it before.
    pub expiry: Option<Expiry>,
}

/// When the judgement is made, and what is known of the clocks.
#[derive(Debug, Clone, Copy)]
pub struct Bench {
    /// Now.
    pub now: Moment,
    /// What the origin's clock shows more than ours, in milliseconds.
    pub skew_millis: i64,
}

/// The judgement.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// An image, to be stored or only shown.
    Image(Arc<Image>, Storable),
    /// A 404 or 410, to be remembered while it is current.
    Unknown(Negative),
    /// Another refusal of the origin, to be passed on.
    Passed(Arc<Passed>),
    /// No answer for anybody. With `remember`, the next question in a short while is answered the same.
    Failed(Failure, Option<Negative>),
}

impl Verdict {
    /// Whether it is a 304 that renewed nothing.
    pub const fn is_of_another_version(&self) -> bool {
        matches!(self, Self::Failed(Failure::UnexpectedStatus(StatusCode::NOT_MODIFIED), _))
    }

    /// The same, where an image is not to be stored because of `reason`.
    #[must_use]
    pub fn shown_only(self, reason: &'static str) -> Self {
        match self {
            Self::Image(image, _) => Self::Image(image, Storable::ShowOnly(reason)),
            other => other,
        }
    }

    /// Why there is no answer of the origin's to go by, when that is so: a 404 is one.
    pub const fn failed(&self) -> Option<&'static str> {
        match self {
            Self::Passed(_) => Some(ORIGIN_STATUS),
            Self::Failed(failure, _) => Some(failure.reason()),
            Self::Image(..) | Self::Unknown(_) => None,
        }
    }

    /// Why a good image is not stored, when that is so.
    pub const fn not_stored(&self) -> Option<&'static str> {
        match self {
            Self::Image(_, Storable::ShowOnly(reason)) => Some(*reason),
            Self::Image(_, Storable::Stale) => Some(STALE_ON_ARRIVAL),
            _ => None,
        }
    }
}

/// Whether an image may be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storable {
    /// Yes.
    Yes,
    /// No, and browsers must not keep it either; the word says why.
    ShowOnly(&'static str),
    /// No: it is stale on arrival, and neither stale use nor revalidation could make use of it. Browsers are told so.
    Stale,
}

/// The word for what is remembered instead of an image.
pub fn negative_reason(negative: &Negative) -> &'static str {
    match negative.instead {
        Instead::Unknown(_) => "unknown-ticket",
        Instead::NotAnImage => Failure::NotAnImage.reason(),
        Instead::Late(_) => EXPIRED,
    }
}

/// Judges `answer`, which came for a ticket of which `known` is known.
pub fn judge(answer: Answer, known: Known<'_>, rules: &Rules, bench: Bench) -> Verdict {
    match answer.status {
        StatusCode::OK => image(answer, known, rules, bench),
        StatusCode::NOT_MODIFIED => renewed(&answer, known, rules, bench),
        StatusCode::NOT_FOUND | StatusCode::GONE => Verdict::Unknown(unknown(answer, rules, bench.now)),
        status if status.is_client_error() || status.is_server_error() => Verdict::Passed(passed(answer)),
        status => Verdict::Failed(Failure::UnexpectedStatus(status), None),
    }
}

fn image(answer: Answer, known: Known<'_>, rules: &Rules, bench: Bench) -> Verdict {
    let Answer { headers, body, exchange, .. } = answer;
    let body = match body {
        Read::Whole(body) => body,
        Read::TooLong => return Verdict::Failed(Failure::TooLarge, None),
        Read::CloseDelimited => return Verdict::Failed(Failure::CloseDelimited, None),
        Read::Unwanted => return Verdict::Failed(Failure::Encoded, None),
    };
    let Some(format) = Format::of(&body) else {
        return Verdict::Failed(Failure::NotAnImage, Some(not_an_image(bench.now)));
    };
    let life = life(&headers, Directives::of(&headers), exchange, known, rules, bench);
    let image = Image::new(body, format, &headers, &life).passing(&rules.pass_headers, &headers);
    let storable = storable(&headers, &image, known.facts, bench);
    Verdict::Image(Arc::new(image), storable)
}

/// RFC 9111 §4.3.4.
fn renewed(answer: &Answer, known: Known<'_>, rules: &Rules, bench: Bench) -> Verdict {
    let other_version = Verdict::Failed(Failure::UnexpectedStatus(StatusCode::NOT_MODIFIED), None);
    let asked = known.stored.filter(|stored| stored.validators() != Validators::default());
    let Some(stored) = asked else { return other_version };
    let said = stored.said.renewed(&answer.headers);
    let life = life(&answer.headers, said, answer.exchange, known, rules, bench);
    let Some(image) = stored.renewed(&answer.headers, &life) else { return other_version };
    let image = image.passing(&rules.pass_headers, &answer.headers);
    let storable = storable(&answer.headers, &image, known.facts, bench);
    Verdict::Image(Arc::new(image), storable)
}

fn life(
    headers: &HeaderMap,
    said: Directives,
    exchange: Exchange,
    known: Known<'_>,
    rules: &Rules,
    bench: Bench,
) -> Life {
    let freshness = Freshness::of(headers, &said, exchange, rules.default_ttl);
    let stated = known.facts.and_then(Facts::expires);
    let stated = stated.map(|stated| Expiry::new(stated, bench.now, bench.skew_millis));
    let expiry = Expiry::earliest([stated, known.expiry]);
    Life { said, freshness, grace: Grace::of(&said.shared, rules.grace), expiry }
}

fn storable(headers: &HeaderMap, image: &Image, facts: Option<&Facts>, bench: Bench) -> Storable {
    // RFC 9111 §3, for a shared cache.
    if image.said.shared.no_store {
        return Storable::ShowOnly("no-store");
    }
    if image.said.shared.private {
        return Storable::ShowOnly("private");
    }
    // §4.1: a Vary of `*` never matches. Other members cannot matter: no client field reaches the origin.
    if varies_always(headers) {
        return Storable::ShowOnly("vary");
    }
    if image.has_ended(bench.now) {
        return Storable::ShowOnly(EXPIRED);
    }
    if facts.is_some_and(|facts| is_from_the_future(facts, bench)) {
        return Storable::ShowOnly("ticket-from-the-future");
    }
    if image.useful_for(bench.now).is_zero() { Storable::Stale } else { Storable::Yes }
}

fn varies_always(headers: &HeaderMap) -> bool {
    let mut members = headers.get_all(header::VARY).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    members.any(|member| member.trim_ascii() == b"*")
}

/// Permanent tickets are exempt: nothing of theirs is counted from their creation.
fn is_from_the_future(facts: &Facts, bench: Bench) -> bool {
    let theirs = bench.now.wall.shifted(bench.skew_millis);
    facts.expires().is_some() && facts.created > theirs + FUTURE
}

fn unknown(answer: Answer, rules: &Rules, now: Moment) -> Negative {
    let said = Directives::of(&answer.headers);
    let forbidden = said.shared.no_store || said.shared.private || varies_always(&answer.headers);
    let freshness = Freshness::of(&answer.headers, &said, answer.exchange, rules.negative_ttl);
    let ttl = if forbidden { Duration::ZERO } else { freshness.left(now.tick).min(rules.negative_ttl) };
    Negative { instead: Instead::Unknown(passed(answer)), until: now.tick + ttl }
}

fn not_an_image(now: Moment) -> Negative {
    Negative { instead: Instead::NotAnImage, until: now.tick + NOT_AN_IMAGE_FOR }
}

fn passed(answer: Answer) -> Arc<Passed> {
    let body: Option<Bytes> = match answer.body {
        Read::Whole(body) => Some(body),
        _ => None,
    };
    Arc::new(Passed::new(answer.status, &answer.headers, body))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;
    use crate::moment::{Tick, Wall};
    use crate::ticket::Validity;

    const RULES: Rules = Rules {
        default_ttl: Duration::from_secs(60),
        negative_ttl: Duration::from_secs(10),
        grace: Grace::NONE,
        pass_headers: PassHeaders::NONE,
        remember_late: true,
    };
    const JPEG: &[u8] = b"\xff\xd8\xff\xe0\0\x10JFIF\0";

    fn now() -> Moment {
        Moment { wall: Wall::from_unix(1_767_225_600), tick: Tick::from_start(Duration::from_secs(1000)) }
    }

    fn answer(status: u16, headers: &[(&'static str, &'static str)], body: &'static [u8]) -> Answer {
        let headers = headers.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect();
        Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers,
            body: Read::Whole(Bytes::from_static(body)),
            exchange: Exchange { asked: now(), answered: now() },
        }
    }

    fn verdict(answer: Answer, facts: Option<&Facts>) -> Verdict {
        let known = Known { facts, ..Known::default() };
        judge(answer, known, &RULES, Bench { now: now(), skew_millis: 0 })
    }

    fn storable_with(headers: &[(&'static str, &'static str)], facts: Option<&Facts>) -> Storable {
        match verdict(answer(200, headers, JPEG), facts) {
            Verdict::Image(_, storable) => storable,
            other => panic!("not an image: {other:?}"),
        }
    }

    fn facts(created: i64, seconds: u64) -> Facts {
        Facts {
            url: "http://weixin.qq.com/q/x".to_owned(),
            created: Wall::from_unix(now().wall.unix() + created),
            validity: Validity::Lifetime(Duration::from_secs(seconds)),
        }
    }

    #[test]
    fn only_what_a_shared_cache_may_keep_is_stored() {
        assert_eq!(storable_with(&[("cache-control", "max-age=604800")], None), Storable::Yes);
        assert_eq!(storable_with(&[], None), Storable::Yes);
        assert_eq!(storable_with(&[("cache-control", "no-store")], None), Storable::ShowOnly("no-store"));
        assert_eq!(storable_with(&[("cache-control", "private")], None), Storable::ShowOnly("private"));
        assert_eq!(storable_with(&[("vary", "accept, *")], None), Storable::ShowOnly("vary"));
        assert_eq!(storable_with(&[("vary", "cookie")], None), Storable::Yes);
        assert_eq!(storable_with(&[("cache-control", "max-age=0")], None), Storable::Stale);
    }

    #[test]
    fn an_expired_ticket_and_one_from_the_future_are_shown_but_not_stored() {
        assert_eq!(storable_with(&[], Some(&facts(-60, 60))), Storable::ShowOnly("ticket-expired"));
        assert_eq!(storable_with(&[], Some(&facts(-59, 60))), Storable::Yes);
        assert_eq!(storable_with(&[], Some(&facts(301, 60))), Storable::ShowOnly("ticket-from-the-future"));
        assert_eq!(storable_with(&[], Some(&facts(299, 60))), Storable::Yes);
    }

    /// What servers call what they send.
    const DECLARED: [&str; 30] = [
        "image/jpeg",
        "image/jpg",
        "image/png",
        "image/gif",
        "image/webp",
        "image/svg+xml",
        "image/avif",
        "image/bmp",
        "image/x-icon",
        "image/*",
        "IMAGE/JPEG",
        "image/jpeg; charset=utf-8",
        "image/jpeg, text/html",
        "text/html",
        "text/html; charset=gbk",
        "text/plain",
        "text/xml",
        "text/javascript",
        "text/css",
        "application/json",
        "application/xhtml+xml",
        "application/octet-stream",
        "application/pdf",
        "application/x-shockwave-flash",
        "application/zip",
        "multipart/form-data",
        "multipart/x-mixed-replace; boundary=x",
        "*/*",
        "nonsense",
        "",
    ];

    /// What they send, and what it is.
    const PAYLOADS: [(&[u8], Option<&str>); 12] = [
        (JPEG, Some("image/jpeg")),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", Some("image/png")),
        (b"GIF89a\x01\0\x01\0", Some("image/gif")),
        (b"RIFF\x1a\0\0\0WEBPVP8L", Some("image/webp")),
        (b"", None),
        (b"<!DOCTYPE html><html><script>alert(1)</script>", None),
        (b"{\"errcode\":40001,\"errmsg\":\"invalid credential\"}", None),
        (b"<svg xmlns=\"http://www.w3.org/2000/svg\" onload=\"alert(1)\"/>", None),
        (b"<html>\xff\xd8\xff\xe0 a picture further on", None),
        (b"\xff\xd8", None),
        (b"RIFF\x1a\0\0\0WAVEfmt ", None),
        (b"%PDF-1.7", None),
    ];

    #[test]
    fn declared_types_prove_nothing() {
        for declared in DECLARED {
            for (payload, is) in PAYLOADS {
                match (verdict(answer(200, &[("content-type", declared)], payload), None), is) {
                    (Verdict::Image(image, Storable::Yes), Some(is)) => {
                        let types: Vec<_> = image.head().filter(|(name, _)| name == header::CONTENT_TYPE).collect();
                        assert_eq!(types, [&(header::CONTENT_TYPE, HeaderValue::from_static(is))], "{declared}");
                    }
                    (Verdict::Failed(Failure::NotAnImage, Some(_)), None) => {}
                    (other, is) => panic!("{declared}, {is:?}: {other:?}"),
                }
            }
        }
    }

    #[test]
    fn a_shorter_lifetime_of_a_404_wins_and_a_longer_one_does_not() {
        let until = |headers: &[(&'static str, &'static str)]| match verdict(answer(404, headers, b"no"), None) {
            Verdict::Unknown(negative) => negative.until.since(now().tick).as_secs(),
            other => panic!("not unknown: {other:?}"),
        };
        assert_eq!(until(&[]), 10);
        assert_eq!(until(&[("cache-control", "max-age=3")]), 3);
        assert_eq!(until(&[("cache-control", "max-age=3600")]), 10);
        assert_eq!(until(&[("cache-control", "no-store")]), 0);
    }

    #[test]
    fn other_statuses_pass_or_fail_but_are_never_stored() {
        for status in [400, 403, 451, 500, 503] {
            assert!(matches!(verdict(answer(status, &[], b"x"), None), Verdict::Passed(_)), "{status}");
        }
        for status in [201, 204, 206, 301, 302, 304] {
            let verdict = verdict(answer(status, &[], JPEG), None);
            assert!(matches!(verdict, Verdict::Failed(Failure::UnexpectedStatus(_), None)), "{status}");
        }
    }
}
