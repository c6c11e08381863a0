//! An origin that is down, slow, cut short, or answers rubbish (S12, S14–S17, S27).

use std::time::Duration;

use ticketgate::fault::Faults;

use crate::support::origin::{Answer, Origin, Then, jpeg};
use crate::support::proxy::Proxy;
use crate::support::tickets;

/// What the client sees, and what is left behind: nothing.
async fn refused(proxy: &Proxy, status: u16, reason: &str) {
    let answer = proxy.image(&tickets::permanent(1)).await;
    assert_eq!(answer.status, status, "{reason}: {}", answer.text());
    assert!(answer.cache_status().ends_with(&format!("detail={reason}")), "{}", answer.cache_status());
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{reason}");
    assert!(answer.header("proxy-status").unwrap().contains("; error="), "{reason}");
    assert_eq!(answer.text().lines().count(), 1);
    let reading = proxy.running.reading();
    assert_eq!((reading.image_entries, reading.fills), (0, 0), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_is_down_is_a_502() {
    // Bound and not listening: nobody else can take the port meanwhile.
    let deaf = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    deaf.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = deaf.local_addr().unwrap().as_socket().unwrap();
    let proxy = Proxy::configured(Faults::default(), |config| {
        config.origin.url = format!("http://{address}").parse().unwrap();
    });
    refused(&proxy, 502, "origin-unreachable").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_does_not_begin_or_not_end_is_a_504() {
    let silent = Origin::answering(Answer::raw("", Then::Hang)).await;
    let proxy = Proxy::with(&silent, |config| config.origin.first_byte_timeout = Duration::from_millis(100));
    refused(&proxy, 504, "first-byte-timeout").await;

    let half = Answer::image().bytes;
    let dripping = Origin::answering(Answer::raw(&half[..half.len() - 1], Then::Hang)).await;
    let proxy = Proxy::with(&dripping, |config| config.origin.fill_timeout = Duration::from_millis(200));
    refused(&proxy, 504, "fill-timeout").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_usable_image_is_a_502() {
    let chunked = |headers: &str, body: &[u8]| {
        let mut bytes = format!("HTTP/1.1 200 OK\r\n{headers}\r\n").into_bytes();
        bytes.extend_from_slice(body);
        bytes
    };
    let jpeg = jpeg();
    let cases = [
        (Answer::of(200, "Content-Type: text/html\r\n", b"<html>"), "not-an-image"),
        (Answer::of(200, "Content-Type: image/jpeg\r\n", b""), "not-an-image"),
        (Answer::of(200, "Content-Type: image/jpeg\r\n", b"{\"errcode\":40001}"), "not-an-image"),
        (Answer::of(200, "Content-Encoding: gzip\r\n", &jpeg), "encoded"),
        (Answer::raw(chunked("Content-Type: image/jpeg\r\n", &jpeg), Then::Close), "close-delimited"),
        (Answer::raw(&b"rubbish\r\n\r\n"[..], Then::Close), "malformed"),
        (Answer::raw(&b""[..], Then::Close), "cut"),
        (Answer::of(302, "Location: http://127.0.0.1:1/\r\n", b""), "unexpected-status"),
        (Answer::of(206, "Content-Range: bytes 0-1999/4000\r\n", &jpeg), "unexpected-status"),
    ];
    for (answer, reason) in cases {
        let origin = Origin::answering(answer).await;
        refused(&Proxy::before(&origin), 502, reason).await;
    }
    let large = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&large, |config| config.cache.max_image = 1999);
    refused(&proxy, 502, "too-large").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_200_without_an_image_is_not_asked_for_again_at_once() {
    let origin = Origin::answering(Answer::of(200, "", b"<html>busy</html>")).await;
    let proxy = Proxy::before(&origin);
    let ticket = tickets::permanent(1);
    for _ in 0..3 {
        let answer = proxy.image(&ticket).await;
        assert_eq!(answer.status, 502);
        assert!(!answer.text().contains("busy"), "never shown");
    }
    assert_eq!(origin.count(), 1);
    proxy.hands.advance(Duration::from_secs(2));
    proxy.image(&ticket).await;
    assert_eq!(origin.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_refusals_of_the_origin_pass_and_are_asked_again() {
    for status in [400, 403, 500, 503] {
        let fields = if status == 400 {
            "Content-Type: text/plain\r\nRetry-After: 9\r\n"
        } else {
            "Content-Type: text/plain\r\n"
        };
        let origin = Origin::answering(Answer::of(status, fields, b"their words")).await;
        let proxy = Proxy::before(&origin);
        for _ in 0..2 {
            let answer = proxy.image(&tickets::permanent(1)).await;
            assert_eq!((answer.status, answer.text()), (status, "their words"));
            assert_eq!(answer.header("retry-after"), (status == 400).then_some("9"));
        }
        assert_eq!(origin.count(), 2, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_refusal_is_replaced_by_our_text() {
    let origin = Origin::answering(Answer::of(404, "", &vec![b'x'; 64 * 1024 + 1])).await;
    let answer = Proxy::before(&origin).image(&tickets::permanent(1)).await;
    assert_eq!((answer.status, answer.text()), (404, "the QR code origin answered 404\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_429_limits_us_and_not_the_client() {
    let origin = Origin::answering(Answer::of(429, "Retry-After: 7\r\n", b"")).await;
    let proxy = Proxy::before(&origin);
    let first = proxy.image(&tickets::permanent(1)).await;
    assert_eq!((first.status, first.header("retry-after")), (503, Some("7")));
    let second = proxy.image(&tickets::permanent(2)).await;
    assert_eq!(second.status, 503);
    assert_eq!(origin.count(), 1, "the pause is kept for every ticket");
    proxy.hands.advance(Duration::from_secs(7));
    proxy.image(&tickets::permanent(2)).await;
    assert_eq!(origin.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_keeps_failing_is_only_probed() {
    let answer = |number, _: &str| if number < 21 { Answer::of(500, "", b"") } else { Answer::image() };
    let origin = Origin::start(answer).await;
    let proxy = Proxy::before(&origin);
    for number in 0..30 {
        let answer = proxy.image(&tickets::permanent(number)).await;
        assert_eq!(answer.status, if number < 20 { 500 } else { 503 }, "{number}");
        assert_eq!(answer.header("retry-after").is_some(), number >= 20);
    }
    assert_eq!(origin.count(), 20);
    proxy.hands.advance(Duration::from_secs(2));
    assert_eq!(proxy.image(&tickets::permanent(30)).await.status, 500, "the probe failed");
    assert_eq!(proxy.image(&tickets::permanent(31)).await.status, 503);
    proxy.hands.advance(Duration::from_secs(2));
    assert_eq!(proxy.image(&tickets::permanent(32)).await.status, 200, "the probe succeeded");
    assert_eq!(proxy.image(&tickets::permanent(33)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_tickets_never_open_the_circuit() {
    let origin = Origin::answering(Answer::of(404, "", b"")).await;
    let proxy = Proxy::before(&origin);
    for number in 0..30 {
        assert_eq!(proxy.image(&tickets::permanent(number)).await.status, 404);
    }
    assert_eq!(origin.count(), 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooled_connection_that_died_unnoticed_is_tried_once_more() {
    // The second request on each connection meets a close before any byte.
    let origin = Origin::start(|number, _| match number {
        1 => Answer::raw("", Then::Close),
        _ => Answer::image(),
    })
    .await;
    let proxy = Proxy::before(&origin);
    assert_eq!(proxy.image(&tickets::permanent(1)).await.status, 200);
    assert_eq!(proxy.image(&tickets::permanent(2)).await.status, 200);
    assert_eq!((origin.count(), origin.connections()), (3, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_connection_that_dies_is_not_tried_again() {
    let origin = Origin::answering(Answer::raw("", Then::Close)).await;
    let proxy = Proxy::before(&origin);
    assert_eq!(proxy.image(&tickets::permanent(1)).await.status, 502);
    assert_eq!(origin.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn fills_are_pooled_and_bounded() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&origin, |config| config.origin.max_concurrent = 3);
    origin.hold();
    let asking: Vec<_> = (0..20)
        .map(|number| {
            let (address, target) = (proxy.address(), tickets::target(&tickets::permanent(number)));
            tokio::spawn(async move {
                crate::support::client::Connection::open(address).await.get(&target, "").await.status
            })
        })
        .collect();
    crate::support::eventually("all fills are under way", || proxy.running.reading().fills == 20).await;
    origin.has_been_asked(3).await;
    assert_eq!(origin.count(), 3, "the others wait for a place");
    origin.release();
    for answer in asking {
        assert_eq!(answer.await.unwrap(), 200);
    }
    assert!(origin.connections() <= 3, "{}", origin.connections());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_origin_delays_no_hit() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::before(&origin);
    let warm = tickets::permanent(1);
    proxy.image(&warm).await;
    origin.hold();
    let mut waiting = proxy.connect().await;
    waiting.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", tickets::target(&tickets::permanent(2)))).await;
    origin.has_been_asked(2).await;
    assert!(proxy.image(&warm).await.cache_status().contains("hit"));
    origin.release();
    assert_eq!(waiting.response().await.unwrap().status, 200);
}
