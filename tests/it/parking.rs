//! Idle connections are parked: they cost no buffers, and nobody can tell (S38, and the bounds on idle memory).

use std::time::Duration;

use ticketgate::fault::Faults;
use tokio::time::Instant;

use crate::support::client::Connection;
use crate::support::origin::{Answer, Origin};
use crate::support::proxy::Proxy;
use crate::support::tls::{Authority, HTTP_1};
use crate::support::{PATIENCE, eventually, tickets};

async fn parked(proxy: &Proxy) -> u64 {
    let page = Connection::to_operator(proxy.admin()).await.get("/metrics", "").await;
    let line = page.text().lines().find_map(|line| line.strip_prefix("ticketgate_connections_parked "));
    line.unwrap().parse().unwrap()
}

/// Waits until so many connections are.
pub async fn are_parked(proxy: &Proxy, count: u64) {
    let deadline = Instant::now() + PATIENCE;
    while parked(proxy).await != count {
        assert!(Instant::now() < deadline, "never parked: {count}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn target() -> String {
    tickets::target(&tickets::permanent(1))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_connection_is_answered_as_before() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::before(&origin);
    let mut client = proxy.connect().await;
    for _ in 0..3 {
        assert_eq!(client.get(&target(), "").await.status, 200);
        are_parked(&proxy, 1).await;
    }
    client.send(format!("GET {0} HTTP/1.1\r\nHost: a\r\n\r\nGET {0} HTTP/1.1\r\nHost: a\r\n\r\n", target())).await;
    assert_eq!((client.response().await.unwrap().status, client.response().await.unwrap().status), (200, 200));
    assert_eq!(proxy.running.metrics().open_connections(), 1, "it was one connection");
    are_parked(&proxy, 1).await;
    drop(client);
    are_parked(&proxy, 0).await;
    eventually("its place is free", || proxy.running.metrics().open_connections() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_is_one_over_tls() {
    let origin = Origin::answering(Answer::image()).await;
    let authority = Authority::new();
    authority.install();
    let proxy = Proxy::with(&origin, |config| authority.configure(config));
    let mut client = Connection::over(authority.connect(proxy.tls(), &[HTTP_1]).await);
    for _ in 0..3 {
        assert_eq!(client.get(&target(), "").await.status, 200);
        are_parked(&proxy, 1).await;
    }
    drop(client);
    are_parked(&proxy, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn part_of_a_head_is_never_lost() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::before(&origin);
    let (mut along, mut behind, mut bare) = (proxy.connect().await, proxy.connect().await, proxy.connect().await);
    // Along with the request before it, so that only hyper has it.
    along.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\nGET {}", target(), &target()[..9])).await;
    assert_eq!(along.response().await.unwrap().status, 200);
    assert_eq!(behind.get(&target(), "").await.status, 200);
    behind.send(format!("GET {} HTTP/1.1\r\n", target())).await;
    assert_eq!(bare.get(&target(), "").await.status, 200);
    // Twice as long as any of them would take to be parked.
    for _ in 0..2 {
        are_parked(&proxy, 1).await;
        assert_eq!(bare.get(&target(), "").await.status, 200);
    }
    along.send(format!("{} HTTP/1.1\r\nHost: a\r\n\r\n", &target()[9..])).await;
    behind.send("Host: a\r\n\r\n").await;
    assert_eq!(along.response().await.unwrap().status, 200);
    assert_eq!(behind.response().await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_upload_is_followed_by_is_never_lost() {
    let app = Origin::answering(Answer::of(200, "", b"ok")).await;
    let proxy = Proxy::configured(Faults::default(), |config| config.forward.app = Some(app.url().parse().unwrap()));
    let mut client = proxy.connect().await;
    for body in ["ends as a head does\r\n\r\n", "does not"] {
        for _ in 0..2 {
            assert_eq!(client.post("/upload", body).await.status, 200);
        }
    }
    assert_eq!(client.get("/page", "").await.status, 200);
    are_parked(&proxy, 1).await;
    assert_eq!(client.post("/upload", "x").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_of_idling_holds_for_it() {
    const KEEP_ALIVE: Duration = Duration::from_secs(5);
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&origin, |config| config.server.timeouts.keep_alive = KEEP_ALIVE);
    let mut client = proxy.connect().await;
    let began = Instant::now();
    assert_eq!(client.get(&target(), "").await.status, 200);
    are_parked(&proxy, 1).await;
    assert!(client.is_closed().await);
    assert!(began.elapsed() >= KEEP_ALIVE, "not before");
    assert_eq!(parked(&proxy).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_its_place_until_somebody_needs_it() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&origin, |config| config.server.max_connections = 2);
    let mut first = proxy.connect().await;
    for _ in 0..2 {
        assert_eq!(first.get(&target(), "").await.status, 200);
        are_parked(&proxy, 1).await;
    }
    let mut second = proxy.connect().await;
    assert_eq!(second.get(&target(), "").await.status, 200);
    are_parked(&proxy, 2).await;
    assert_eq!(first.get(&target(), "").await.status, 200, "two have room");
    are_parked(&proxy, 2).await;
    let mut third = proxy.connect().await;
    assert_eq!(third.get(&target(), "").await.status, 200);
    assert!(second.is_closed().await, "it has idled longest");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_it_make_one_more_request_and_closes_it_soon() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&origin, |config| config.server.drain_delay = Duration::ZERO);
    let (mut asks, mut says_nothing) = (proxy.connect().await, proxy.connect().await);
    for client in [&mut asks, &mut says_nothing] {
        assert_eq!(client.get(&target(), "").await.status, 200);
    }
    are_parked(&proxy, 2).await;
    let began = Instant::now();
    proxy.running.drain();
    let last = asks.get(&target(), "").await;
    assert_eq!((last.status, last.header("connection")), (200, Some("close")));
    assert!(asks.is_closed().await && says_nothing.is_closed().await);
    assert!(began.elapsed() < Duration::from_secs(10), "long before the 25 s of the drain");
}
