//! Conditions, ranges and HEAD (S26): answered from the whole image, which is fetched once whatever is asked of it.

use std::time::Duration;

use crate::support::client::Response;
use crate::support::origin::{Answer, Origin, jpeg};
use crate::support::proxy::Proxy;
use crate::support::tickets;

const DATED: &str = "Cache-Control: max-age=600\r\nLast-Modified: Wed, 31 Dec 2025 00:00:00 GMT\r\n";

/// Its status, `Content-Range` and body.
fn part(answer: &Response) -> (u16, Option<&str>, &[u8]) {
    (answer.status, answer.header("content-range"), &answer.body)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_or_a_head_on_a_miss_fills_the_whole_image_once() {
    let ticket = tickets::permanent(1);
    let target = tickets::target(&ticket);
    let plain = {
        let origin = Origin::answering(Answer::image()).await;
        Proxy::before(&origin).get(&target).await;
        origin.plain_head()
    };
    let asks = [
        ("GET", "Range: bytes=100-199\r\n", 206),
        ("GET", "Range: bytes=2000-\r\n", 416),
        ("GET", "Range: bytes=0-1,5-6\r\n", 200),
        ("GET", "If-None-Match: *\r\n", 304),
        ("GET", "If-Modified-Since: Fri, 31 Dec 2100 00:00:00 GMT\r\n", 304),
        ("HEAD", "", 200),
        ("HEAD", "Range: bytes=0-1\r\n", 200),
    ];
    for (method, headers, status) in asks {
        let origin = Origin::answering(Answer::image()).await;
        let proxy = Proxy::before(&origin);
        let mut connection = proxy.connect().await;
        let first = connection.request(method, &target, headers).await;
        assert_eq!(first.status, status, "{method} {headers}");
        assert!(first.cache_status().contains("fwd=uri-miss"), "{}", first.cache_status());
        let next = connection.get(&target, "").await;
        assert_eq!((next.status, next.body.as_slice()), (200, jpeg().as_slice()), "{method} {headers}");
        assert!(next.cache_status().contains("; hit"), "{}", next.cache_status());
        assert_eq!(origin.count(), 1, "{method} {headers}");
        assert_eq!(origin.plain_head(), plain, "{method} {headers}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_are_cut_from_the_cached_image() {
    let origin = Origin::answering(Answer::image_with(DATED)).await;
    let proxy = Proxy::before(&origin);
    let target = tickets::target(&tickets::permanent(1));
    let whole = proxy.get(&target).await;
    assert_eq!(whole.header("accept-ranges"), Some("bytes"));
    let image = jpeg();
    let mut connection = proxy.connect().await;
    for (range, told, bytes) in [
        ("0-1999", "bytes 0-1999/2000", 0..2000),
        ("0-0", "bytes 0-0/2000", 0..1),
        ("1990-", "bytes 1990-1999/2000", 1990..2000),
        ("-10", "bytes 1990-1999/2000", 1990..2000),
        ("-9999", "bytes 0-1999/2000", 0..2000),
        ("500-99999", "bytes 500-1999/2000", 500..2000),
    ] {
        let answer = connection.get(&target, &format!("Range: bytes={range}\r\n")).await;
        assert_eq!(part(&answer), (206, Some(told), &image[bytes.clone()]), "{range}");
        assert_eq!(answer.header("content-length"), Some(bytes.len().to_string().as_str()), "{range}");
        for name in ["content-type", "etag", "last-modified", "date", "cache-control", "accept-ranges"] {
            assert_eq!(answer.header(name), whole.header(name), "{range} {name}");
        }
        assert!(answer.header("x-request-id").is_some() && answer.cache_status().contains("; hit"));
    }
    for range in ["bytes=0-1,3-4", "bytes=5-1", "lines=0-1", "bytes=x"] {
        let answer = connection.get(&target, &format!("Range: {range}\r\n")).await;
        assert_eq!(part(&answer), (200, None, image.as_slice()), "{range}");
    }
    assert_eq!(origin.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_not_there_are_refused_with_the_length() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::before(&origin);
    let target = tickets::target(&tickets::permanent(1));
    for range in ["2000-", "2000-3000", "-0"] {
        let answer = proxy.get_with(&target, &format!("Range: bytes={range}\r\n")).await;
        assert_eq!((answer.status, answer.header("content-range")), (416, Some("bytes */2000")), "{range}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(answer.text().lines().count(), 1);
        assert_eq!(answer.header("etag"), None, "the text is not the image");
    }
    assert_eq!(origin.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_another_version_is_not_mixed_with_this_one() {
    let origin = Origin::answering(Answer::image_with(DATED)).await;
    let proxy = Proxy::before(&origin);
    let target = tickets::target(&tickets::permanent(1));
    let etag = proxy.get(&target).await.header("etag").unwrap().to_owned();
    let mut connection = proxy.connect().await;
    for (condition, status) in [
        (etag.as_str(), 206),
        ("Wed, 31 Dec 2025 00:00:00 GMT", 206),
        ("\"other\"", 200),
        (&format!("W/{etag}"), 200),
        ("Thu, 01 Jan 2026 00:00:00 GMT", 200),
        ("nonsense", 200),
    ] {
        let headers = format!("Range: bytes=0-1\r\nIf-Range: {condition}\r\n");
        assert_eq!(connection.get(&target, &headers).await.status, status, "{condition}");
        let beyond = format!("Range: bytes=5000-\r\nIf-Range: {condition}\r\n");
        let expected = if status == 206 { 416 } else { 200 };
        assert_eq!(connection.get(&target, &beyond).await.status, expected, "{condition}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_date_tells_a_browser_that_it_has_the_image() {
    let origin = Origin::answering(Answer::image_with(DATED)).await;
    let proxy = Proxy::before(&origin);
    let target = tickets::target(&tickets::permanent(1));
    let whole = proxy.get(&target).await;
    let mut connection = proxy.connect().await;
    for (headers, status) in [
        ("If-Modified-Since: Wed, 31 Dec 2025 00:00:00 GMT\r\n", 304),
        ("If-Modified-Since: Tue, 30 Dec 2025 00:00:00 GMT\r\n", 200),
        ("If-Modified-Since: Wed, 31 Dec 2025 00:00:00 GMT\r\nIf-None-Match: \"other\"\r\n", 200),
        ("If-Modified-Since: Wed, 31 Dec 2025 00:00:00 GMT\r\nRange: bytes=0-1\r\n", 304),
    ] {
        let answer = connection.get(&target, headers).await;
        assert_eq!(answer.status, status, "{headers}");
        for name in ["etag", "last-modified", "date", "cache-control"] {
            assert_eq!(answer.header(name), whole.header(name), "{headers} {name}");
        }
        let of_the_body = (answer.header("content-type"), answer.header("content-length"));
        assert_eq!(of_the_body == (None, None), status == 304, "{headers}");
    }
    assert_eq!(connection.request("HEAD", &target, "If-None-Match: *\r\n").await.status, 304);
    assert_eq!(origin.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_and_a_304_live_no_longer_than_the_ticket() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::before(&origin);
    let target = tickets::target(&tickets::temporary(1, Duration::from_secs(600)));
    let whole = proxy.get(&target).await;
    let ends = whole.header("ticket-expires").unwrap().to_owned();
    proxy.hands.advance(Duration::from_secs(300));
    for (headers, status) in [("Range: bytes=0-1\r\n", 206), ("If-None-Match: *\r\n", 304)] {
        let answer = proxy.get_with(&target, headers).await;
        assert_eq!((answer.status, answer.header("age")), (status, Some("0")), "re-based");
        assert_eq!(answer.header("ticket-expires"), Some(ends.as_str()));
        let left = answer.header("cache-control").unwrap().strip_prefix("public, max-age=").unwrap();
        assert!(left.parse::<u64>().unwrap() <= 300, "{left}");
    }
    assert_eq!(origin.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_may_only_be_shown_is_shown_whole() {
    let origin = Origin::answering(Answer::image_with("Cache-Control: no-store\r\n")).await;
    let proxy = Proxy::before(&origin);
    let target = tickets::target(&tickets::permanent(1));
    for headers in ["Range: bytes=0-1\r\n", "Range: bytes=5000-\r\n", "If-None-Match: *\r\n"] {
        let answer = proxy.get_with(&target, headers).await;
        assert_eq!(part(&answer), (200, None, jpeg().as_slice()), "{headers}");
        assert_eq!((answer.header("cache-control"), answer.header("accept-ranges")), (Some("no-store"), None));
    }
}
