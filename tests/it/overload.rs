//! More clients than places: connections that idle make room first, then requests that wait for the origin; hits are answered
//! to the last.

use tokio::time::timeout;

use crate::parking::are_parked;
use crate::support::client::Connection;
use crate::support::origin::{Answer, Origin};
use crate::support::proxy::Proxy;
use crate::support::tickets;
use crate::support::{PATIENCE, eventually};

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
    assert_eq!(second.get(&target(1), "").await.status, 200, "one made room");
    origin.release();
    assert_eq!(waits.response().await.unwrap().status, 200, "who is served is not asked");
    assert_eq!(proxy.running.metrics().connections_given_up.get(), 1);
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
