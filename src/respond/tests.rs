use std::time::Duration;

use super::*;
use crate::cache::directives::Directives;
use crate::cache::entry::Life;
use crate::cache::format::Format;
use crate::cache::freshness::{Exchange, Freshness};
use crate::cache::grace::Grace;
use crate::moment::{Tick, Wall};

const PICTURE: &[u8] = b"\xff\xd8\xff\xe00123456789";
pub(super) const MODIFIED: &str = "Wed, 31 Dec 2025 00:00:00 GMT";
const DATE: &str = "Thu, 01 Jan 2026 00:00:00 GMT";

pub(super) fn at(seconds: u64) -> Moment {
    let since = Duration::from_secs(seconds);
    Moment { wall: Wall::from_unix(1_767_225_600) + since, tick: Tick::from_start(since) }
}

fn headers(lines: &[(HeaderName, &str)]) -> HeaderMap {
    lines.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
}

/// Came at the new year with everything that an origin can say about it, and may be kept for 100 seconds.
fn image() -> Image {
    image_of(PICTURE, "\"a\"", Some(MODIFIED))
}

pub(super) fn image_of(picture: &'static [u8], tag: &str, modified: Option<&str>) -> Image {
    let lines = [(header::ETAG, tag), (header::DATE, DATE), (header::CACHE_CONTROL, "max-age=100")];
    let lines: Vec<_> = lines.into_iter().chain(modified.map(|at| (header::LAST_MODIFIED, at))).collect();
    let headers = headers(&lines);
    let said = Directives::of(&headers);
    let freshness = Freshness::of(&headers, &said, Exchange { asked: at(0), answered: at(0) }, Duration::ZERO);
    let life = Life { said, freshness, grace: Grace::NONE, expiry: None };
    let format = Format::of(picture).expect("a picture has a signature");
    Image::new(Bytes::from_static(picture), format, &headers, &life)
}

fn answer_to(method: &Method, lines: &[(HeaderName, &str)], show_only: bool) -> Response<Body> {
    answer_with("ticket=x", method, lines, show_only)
}

fn answer_with(query: &str, method: &Method, lines: &[(HeaderName, &str)], show_only: bool) -> Response<Body> {
    let responder = Responder::new(Cors::Any, TellBudget::Refusals);
    let headers = headers(lines);
    let asked = Asked { method, query: Some(query), headers: &headers };
    responder.image(asked, &image(), &Outcome::Hit { ttl: Duration::from_secs(93) }, at(7), show_only)
}

fn get(lines: &[(HeaderName, &str)]) -> Response<Body> {
    answer_to(&Method::GET, lines, false)
}

fn sent(response: &Response<Body>) -> &[u8] {
    match response.body() {
        Body::Bytes(bytes) => bytes,
        Body::Empty => b"",
        Body::App(..) | Body::Tunnel(_) => panic!("no app is asked for an image"),
    }
}

fn range(bytes: &'static str) -> (HeaderName, &'static str) {
    (header::RANGE, bytes)
}

/// RFC 9110 §13.2.2, step by step.
#[test]
fn conditions_go_before_the_range() {
    use header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE};
    for (lines, status, bytes) in [
        (&[][..], 200, PICTURE),
        // Steps 1 and 2 concern origins (RFC 9111 §4.3.2).
        (&[(IF_MATCH, "\"b\"")], 200, PICTURE),
        (&[(IF_UNMODIFIED_SINCE, "Thu, 01 Jan 1970 00:00:00 GMT")], 200, PICTURE),
        // Step 3.
        (&[(IF_NONE_MATCH, "\"a\"")], 304, b""),
        (&[(IF_NONE_MATCH, "\"b\"")], 200, PICTURE),
        (&[(IF_NONE_MATCH, "\"a\""), (IF_MODIFIED_SINCE, "Thu, 01 Jan 1970 00:00:00 GMT")], 304, b""),
        (&[(IF_NONE_MATCH, "\"b\""), (IF_MODIFIED_SINCE, MODIFIED)], 200, PICTURE),
        (&[(IF_NONE_MATCH, "\"a\""), range("bytes=0-1")], 304, b""),
        (&[(IF_NONE_MATCH, "\"a\""), range("bytes=99-")], 304, b""),
        (&[(IF_NONE_MATCH, "\"b\""), range("bytes=0-1")], 206, &PICTURE[..2]),
        // Step 4.
        (&[(IF_MODIFIED_SINCE, MODIFIED)], 304, b""),
        (&[(IF_MODIFIED_SINCE, MODIFIED), range("bytes=0-1")], 304, b""),
        (&[(IF_MODIFIED_SINCE, "Thu, 01 Jan 1970 00:00:00 GMT"), range("bytes=0-1")], 206, &PICTURE[..2]),
        // Step 5.
        (&[(IF_RANGE, "\"a\""), range("bytes=0-1")], 206, &PICTURE[..2]),
        (&[(IF_RANGE, MODIFIED), range("bytes=0-1")], 206, &PICTURE[..2]),
        (&[(IF_RANGE, "\"b\""), range("bytes=0-1")], 200, PICTURE),
        (&[(IF_RANGE, "W/\"a\""), range("bytes=0-1")], 200, PICTURE),
        (&[(IF_RANGE, DATE), range("bytes=0-1")], 200, PICTURE),
        (&[(IF_RANGE, "\"b\""), range("bytes=99-")], 200, PICTURE),
        (&[(IF_RANGE, "\"a\"")], 200, PICTURE),
        (&[(IF_NONE_MATCH, "\"a\""), (IF_RANGE, "\"b\""), range("bytes=0-1")], 304, b""),
    ] {
        let response = get(lines);
        assert_eq!((response.status().as_u16(), sent(&response)), (status, bytes), "{lines:?}");
    }
}

/// RFC 9110 §15.3.7: what a 200 would have said of the whole is said of the part, and §15.4.5 of what the client has.
#[test]
fn a_part_and_a_304_carry_what_the_whole_carries() {
    let whole = get(&[]);
    let (partial, known) = (get(&[range("bytes=4-")]), get(&[(header::IF_NONE_MATCH, "*")]));
    let names = [
        header::ETAG,
        header::LAST_MODIFIED,
        header::DATE,
        header::CACHE_CONTROL,
        header::EXPIRES,
        header::AGE,
        header::ACCESS_CONTROL_ALLOW_ORIGIN,
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        CACHE_STATUS,
    ];
    for name in names {
        assert_eq!(partial.headers().get(&name), whole.headers().get(&name), "{name}");
        assert_eq!(known.headers().get(&name), whole.headers().get(&name), "{name}");
        assert!(whole.headers().contains_key(&name), "{name}");
    }
    assert_eq!(whole.headers()[header::ACCEPT_RANGES], "bytes");
    assert_eq!(whole.headers()[header::AGE], "7");
    assert_eq!(partial.headers()[header::ACCEPT_RANGES], "bytes");
    assert_eq!(partial.headers()[header::CONTENT_TYPE], "image/jpeg");
    assert_eq!(partial.headers()[header::CONTENT_RANGE], "bytes 4-13/14");
    assert_eq!(partial.headers()[header::CONTENT_LENGTH], "10");
    for name in [header::CONTENT_TYPE, header::CONTENT_LENGTH, header::CONTENT_RANGE] {
        assert!(!known.headers().contains_key(&name), "{name}");
    }
}

/// RFC 9110 §15.5.17 and §14.4.
#[test]
fn bytes_that_are_not_there_are_told_with_the_length_and_kept_by_nobody() {
    let response = get(&[range("bytes=14-")]);
    assert_eq!(response.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    let told = response.headers();
    assert_eq!(told[header::CONTENT_RANGE], "bytes */14");
    assert_eq!(told[header::CACHE_CONTROL], "no-store");
    assert_eq!(told[header::CONTENT_TYPE], "text/plain; charset=utf-8");
    assert_eq!(told[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
    assert_eq!(told[CACHE_STATUS], "ticketgate; hit; ttl=93");
    for name in [header::ETAG, header::LAST_MODIFIED, header::AGE, header::EXPIRES] {
        assert!(!told.contains_key(&name), "{name} is the image's");
    }
    assert_eq!(sent(&response), b"the image has no such bytes; it has 14, the first of which is 0\n");
}

/// RFC 9110 §14.2: Range is defined for GET alone. Conditions hold for HEAD too (§13.1).
#[test]
fn a_head_is_the_wholes_whatever_range_it_names() {
    let head = |lines: &[_]| answer_to(&Method::HEAD, lines, false);
    for lines in [&[][..], &[range("bytes=0-1")], &[range("bytes=99-")]] {
        let response = head(lines);
        assert_eq!((response.status().as_u16(), sent(&response)), (200, &b""[..]), "{lines:?}");
        assert_eq!(response.headers()[header::CONTENT_LENGTH], "14");
        assert!(!response.headers().contains_key(header::CONTENT_RANGE));
    }
    assert_eq!(head(&[(header::IF_NONE_MATCH, "\"a\"")]).status(), StatusCode::NOT_MODIFIED);
}

#[test]
fn what_nobody_may_keep_is_shown_whole() {
    for lines in [&[range("bytes=0-1")][..], &[range("bytes=99-")], &[(header::IF_NONE_MATCH, "*")]] {
        let response = answer_to(&Method::GET, lines, true);
        assert_eq!((response.status().as_u16(), sent(&response)), (200, PICTURE), "{lines:?}");
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
        assert!(!response.headers().contains_key(header::ACCEPT_RANGES), "no part would be answered");
    }
}

#[test]
fn a_part_shares_the_bytes_of_the_whole() {
    let (body, image) = (Bytes::from(PICTURE.to_vec()), HeaderMap::new());
    let response = part(image, &body, 4..6);
    let Body::Bytes(sent) = response.body() else { panic!("bytes") };
    assert_eq!(sent.as_ptr(), body[4..].as_ptr());
}

/// S26: on an image or a part of one, and on nothing else.
#[test]
fn what_is_to_be_saved_is_an_attachment() {
    let name = |method, lines: &[_], show_only| {
        let response = answer_with("download=a", method, lines, show_only);
        let name = response.headers().get(header::CONTENT_DISPOSITION).cloned();
        (response.status().as_u16(), name)
    };
    let attached = Some(HeaderValue::from_static("attachment; filename=\"a.jpg\""));
    assert_eq!(name(&Method::GET, &[], false), (200, attached.clone()));
    assert_eq!(name(&Method::GET, &[], true), (200, attached.clone()));
    assert_eq!(name(&Method::HEAD, &[], false), (200, attached.clone()));
    assert_eq!(name(&Method::GET, &[range("bytes=0-1")], false), (206, attached));
    assert_eq!(name(&Method::GET, &[range("bytes=99-")], false), (416, None));
    assert_eq!(name(&Method::GET, &[(header::IF_NONE_MATCH, "*")], false), (304, None));
    assert_eq!(get(&[]).headers().get(header::CONTENT_DISPOSITION), None);
}
