//! More clients than places: connections that idle, or have asked for nothing, make room first, then requests that wait for the
//! origin; hits are answered to the last.

use std::any::Any;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::parking::are_parked;
use crate::support::client::Connection;
use crate::support::frames::{ACK, Frame, Frames, HEADERS, PING, frame, get};
use crate::support::origin::{Answer, Origin};
use crate::support::proxy::Proxy;
use crate::support::tls::{Authority, HTTP_1, HTTP_2};
use crate::support::{PATIENCE, eventually, tickets};

fn target(number: u32) -> String {
    tickets::target(&tickets::permanent(number))
}

/// A proxy with `places`, which has the image of the first ticket; the origin holds back all others.
async fn crowded(places: usize) -> (Origin, Proxy) {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&origin, |config| config.server.max_connections = places);
    assert_eq!(proxy.get(&target(1)).await.status, 200);
    eventually("its place is free", || proxy.running.metrics().open_connections() == 0).await;
    origin.hold();
    (origin, proxy)
}

/// Somebody who waits for the image of ticket `number`, the `calls`th that the origin is asked for.
async fn waiting(proxy: &Proxy, origin: &Origin, number: u32, calls: usize) -> Connection {
    let mut client = proxy.connect().await;
    client.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", target(number))).await;
    origin.has_been_asked(calls).await;
    client
}

/// Longer than any test.
const FOR_EVER: Duration = Duration::from_secs(3600);

/// As a GOAWAY names it that is only the first: whatever comes is still answered (RFC 9113 §6.8).
const ANY_STREAM: u32 = 0x7fff_ffff;

/// A proxy with room for `places` connections, whose silent clients are closed for that alone.
async fn with_places(places: usize) -> (Origin, Authority, Proxy) {
    let origin = Origin::answering(Answer::image()).await;
    let authority = Authority::new();
    authority.install();
    let proxy = Proxy::with(&origin, |config| {
        authority.configure(config);
        config.server.max_connections = places;
        let timeouts = &mut config.server.timeouts;
        (timeouts.first_byte, timeouts.head, timeouts.tls_handshake) = (FOR_EVER, FOR_EVER, FOR_EVER);
    });
    (origin, authority, proxy)
}

/// A client of HTTP/2 that was answered once.
async fn answered(authority: &Authority, proxy: &Proxy) -> Frames {
    let mut frames = Frames::open(authority, proxy.tls(), &[]).await;
    frames.say(get(1, &target(1))).await;
    assert_eq!(frames.hear(Frame::status).await, 200);
    frames
}

/// A client of HTTP/1 that is parked, twice as long after now as any other would be.
async fn rests_twice(proxy: &Proxy) -> Connection {
    let mut client = proxy.connect().await;
    for _ in 0..2 {
        assert_eq!(client.get(&target(1), "").await.status, 200);
        are_parked(proxy, 1).await;
    }
    client
}

/// The status of the first answer on a connection, which is on `stream`; nothing when it is told to go first.
fn answer_or_goaway(stream: u32) -> impl Fn(&Frame) -> Option<Option<u16>> {
    move |frame| match frame.status() {
        Some(status) if frame.stream == stream => Some(Some(status)),
        _ => frame.goaway().map(|_| None),
    }
}

/// What a ping of the server says. Its answer tells the server that a GOAWAY has arrived.
fn ping(frame: &Frame) -> Option<Vec<u8>> {
    (frame.kind == PING).then(|| frame.payload.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_idles_longest_makes_room_and_who_is_served_stays() {
    let (origin, proxy) = crowded(3).await;
    let mut first = proxy.connect().await;
    assert_eq!(first.get(&target(1), "").await.status, 200);
    are_parked(&proxy, 1).await;
    // Not before: two that are answered at once may be parked in either order.
    let mut second = proxy.connect().await;
    assert_eq!(second.get(&target(1), "").await.status, 200);
    are_parked(&proxy, 2).await;
    let mut waits = waiting(&proxy, &origin, 2, 2).await;
    assert_eq!(proxy.running.metrics().connections_given_up.get(), 0, "there was room for three");
    let mut fourth = proxy.connect().await;
    let answer = fourth.get(&target(1), "").await;
    assert_eq!((answer.status, answer.header("connection")), (200, None));
    assert!(first.is_closed().await, "it idled longest");
    origin.release();
    assert_eq!(waits.response().await.unwrap().status, 200, "who is served is not asked");
    assert!(proxy.running.metrics().connections_given_up.get() >= 1, "two, where the first took its time");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_idles_who_waits_for_an_image_makes_room_and_a_hit_is_answered() {
    let (origin, proxy) = crowded(2).await;
    let (mut one, mut two) = (waiting(&proxy, &origin, 2, 2).await, waiting(&proxy, &origin, 3, 3).await);
    let mut hit = proxy.connect().await;
    assert_eq!(hit.get(&target(1), "").await.status, 200);
    let (refused, mut left, mut kept) = tokio::select! {
        answer = one.response() => (answer.unwrap(), one, two),
        answer = two.response() => (answer.unwrap(), two, one),
    };
    let told = |name| refused.header(name);
    assert_eq!((refused.status, told("retry-after"), told("connection")), (503, Some("1"), Some("close")));
    assert_eq!(told("cache-control"), Some("no-store"));
    assert!(refused.cache_status().contains("detail=crowded"), "{}", refused.cache_status());
    assert!(refused.text().contains("limits.max_connections"), "{}", refused.text());
    assert!(left.is_closed().await);
    origin.release();
    assert_eq!(kept.response().await.unwrap().status, 200, "one place was needed, and one was made");
    drop((kept, hit));
    assert_eq!((proxy.get(&target(2)).await.status, proxy.get(&target(3)).await.status), (200, 200));
    assert_eq!(origin.count(), 3, "what was begun for whom made room was kept for the next");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_can_make_room_the_next_answer_is_the_last_on_its_connection() {
    let (origin, proxy) = crowded(1).await;
    let mut only = proxy.connect().await;
    for _ in 0..2 {
        let answer = only.get(&target(1), "").await;
        assert_eq!((answer.status, answer.header("connection")), (200, None), "nobody waits");
    }
    let mut next = proxy.connect().await;
    next.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", target(1))).await;
    let told_to_go = async {
        loop {
            only.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", target(1))).await;
            // Or it was found idle before that.
            if only.response().await.is_none_or(|answer| answer.header("connection") == Some("close")) {
                break;
            }
        }
    };
    timeout(PATIENCE, told_to_go).await.expect("told to go");
    assert!(only.is_closed().await);
    assert_eq!(next.response().await.unwrap().status, 200);
    drop(origin);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_its_share_of_places_is_refused_and_nobody_makes_room_for_it() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&origin, |config| {
        config.server.max_connections = 2;
        config.server.max_connections_per_client = 2;
        config.clients.trusted_proxies.clear();
    });
    origin.hold();
    let mut first = waiting(&proxy, &origin, 1, 1).await;
    let mut second = waiting(&proxy, &origin, 2, 2).await;
    assert!(proxy.connect().await.is_closed().await);
    assert_eq!(proxy.running.metrics().connections_refused.get(), 1);
    origin.release();
    assert_eq!((first.response().await.unwrap().status, second.response().await.unwrap().status), (200, 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_2_too_who_idles_longest_makes_room_and_who_is_served_stays() {
    let (origin, authority, proxy) = with_places(3).await;
    let mut first = answered(&authority, &proxy).await;
    let mut served = Frames::open(&authority, proxy.tls(), &[]).await;
    origin.hold();
    served.say(get(1, &target(2))).await;
    origin.has_been_asked(2).await;
    let mut second = rests_twice(&proxy).await;
    let mut third = proxy.connect().await;
    assert_eq!(third.get(&target(1), "").await.status, 200);
    assert_eq!(first.hear(Frame::last_stream).await, ANY_STREAM, "it idled longest");
    first.heeds_a_ping().await;
    assert_eq!(first.hear(Frame::last_stream).await, 1);
    assert!(first.rest().await.is_empty());
    let mut fourth = answered(&authority, &proxy).await;
    assert!(second.is_closed().await, "it idled longer than the third");
    origin.release();
    assert_eq!(served.hear(answer_or_goaway(1)).await, Some(200), "who is served is not asked");
    fourth.say(get(3, &target(1))).await;
    assert!(fourth.hear(|frame| (frame.stream == 3).then_some(frame.kind)).await == HEADERS, "nor is who came last");
    assert!(proxy.running.metrics().connections_given_up.get() >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_crosses_the_goaway_is_answered_and_a_later_one_is_told_that_it_was_not_seen() {
    let (_origin, authority, proxy) = with_places(1).await;
    let mut idle = answered(&authority, &proxy).await;
    let _newcomer = proxy.connect().await;
    assert_eq!(idle.hear(Frame::last_stream).await, ANY_STREAM);
    let ping = idle.hear(ping).await;
    idle.say(get(3, &target(1))).await;
    assert_eq!(idle.hear(|frame| (frame.stream == 3).then_some(frame.kind)).await, HEADERS);
    idle.say([frame(PING, ACK, 0, &ping), get(5, &target(1))].concat()).await;
    let heard = idle.rest().await;
    assert_eq!(heard.iter().rev().find_map(Frame::last_stream), Some(3), "{heard:?}");
    assert!(heard.iter().all(|frame| frame.stream != 5), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_heed_its_goaway_holds_up_nobody_and_is_closed() {
    let (_origin, authority, proxy) = with_places(2).await;
    let mut deaf = answered(&authority, &proxy).await;
    let mut second = rests_twice(&proxy).await;
    let mut third = proxy.connect().await;
    assert_eq!(third.get(&target(1), "").await.status, 200);
    assert_eq!(deaf.hear(Frame::last_stream).await, ANY_STREAM);
    let began = Instant::now();
    assert!(second.is_closed().await);
    assert_eq!(proxy.connect().await.get(&target(1), "").await.status, 200);
    assert!(began.elapsed() < Duration::from_secs(4), "sooner than the first has to have heard");
    assert!(deaf.rest().await.iter().all(|frame| frame.goaway().is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_asked_for_nothing_yet_makes_room_too() {
    let (_origin, authority, proxy) = with_places(1).await;
    for stage in ["connected", "connected to TLS", "after a handshake", "after a handshake for HTTP/2", "in HTTP/2"] {
        let silent: Box<dyn Any> = match stage {
            "connected" => Box::new(proxy.connect().await),
            "connected to TLS" => Box::new(Connection::open(proxy.tls()).await),
            "after a handshake" => Box::new(authority.connect(proxy.tls(), &[HTTP_1]).await),
            "after a handshake for HTTP/2" => Box::new(authority.connect(proxy.tls(), &[HTTP_2]).await),
            _ => {
                let mut frames = Frames::open(&authority, proxy.tls(), &[]).await;
                Box::new(tokio::spawn(async move { frames.heeds_a_ping().await }))
            }
        };
        let mut next = proxy.connect().await;
        assert_eq!(next.get(&target(1), "Connection: close\r\n").await.status, 200, "{stage}");
        drop(silent);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_needs_a_place_the_silent_keep_theirs() {
    let (_origin, authority, proxy) = with_places(5).await;
    let mut clear = proxy.connect().await;
    let mut tls = Connection::over(authority.connect(proxy.tls(), &[HTTP_1]).await);
    let mut frames = Frames::open(&authority, proxy.tls(), &[]).await;
    rests_twice(&proxy).await;
    assert_eq!(clear.get(&target(1), "").await.status, 200);
    assert_eq!(tls.get(&target(1), "").await.status, 200);
    frames.say(get(1, &target(1))).await;
    assert_eq!(frames.hear(answer_or_goaway(1)).await, Some(200));
}
