//! A panic costs one request, or one fill for all who wait for it: never a thread, a key, or a place that is not free again.
//! Needs debug assertions: without them faults do nothing.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use ticketgate::config::Config;
use ticketgate::fault::{Faults, Stage};
use ticketgate::limit::Policy;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::api::{Api, created};
use crate::support::client::{Connection, Response};
use crate::support::origin::{Answer, Origin, Then, jpeg};
use crate::support::proxy::Proxy;
use crate::support::tls::{Authority, HTTP_2};
use crate::support::{PATIENCE, eventually, tickets};

/// Panics that are prepared at one stage, so many times.
struct Prepared {
    faults: Faults,
    left: Arc<AtomicUsize>,
}

impl Prepared {
    fn at(stage: Stage) -> Self {
        let left = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&left);
        let strike = move |at| {
            let take = |left: usize| left.checked_sub(1);
            let strikes = at == stage && count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok();
            assert!(!strikes, "on purpose, at {at:?}");
        };
        Self { faults: Faults::new(strike), left }
    }

    fn times(&self, times: usize) {
        self.left.store(times, Ordering::SeqCst);
    }

    /// Whether all of them happened.
    fn are_spent(&self) -> bool {
        self.left.load(Ordering::SeqCst) == 0
    }
}

/// What comes to whoever asks for `target`; `None` when the connection closes instead.
async fn asked(proxy: &Proxy, target: &str) -> Option<Response> {
    let mut connection = proxy.connect().await;
    connection.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
    connection.response().await
}

fn panics(proxy: &Proxy) -> u64 {
    proxy.running.metrics().panics.get()
}

/// Waits until so many have been counted: a client may see the end before.
async fn counted(proxy: &Proxy, most: u64) {
    eventually("they are counted", || panics(proxy) >= most).await;
    assert_eq!(panics(proxy), most, "each once");
}

/// As few places of every kind as can be: the first that is lost is missed.
fn narrow(config: &mut Config) {
    config.server.max_connections = 2;
    config.origin.max_concurrent = 1;
    config.limits.max_waiters = 1;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_at_any_stage_of_a_request_costs_its_connection_and_nothing_else() {
    let stages = [
        Stage::Route,
        Stage::Ticket,
        Stage::Admit,
        Stage::LookUp,
        Stage::Join,
        Stage::Respond,
        Stage::Forward,
        Stage::Forwarded,
    ];
    for stage in stages {
        let origin = Origin::answering(Answer::image()).await;
        let prepared = Prepared::at(stage);
        let proxy = Proxy::faulty(&origin, prepared.faults.clone(), |config| {
            narrow(config);
            config.forward.app = Some(origin.url().parse().unwrap());
        });
        let target = match stage {
            Stage::Forward | Stage::Forwarded => "/page".to_owned(),
            _ => tickets::target(&tickets::permanent(1)),
        };
        prepared.times(5);
        for _ in 0..5 {
            assert_eq!(asked(&proxy, &target).await, None, "{stage:?}");
        }
        eventually("all places are free", || proxy.running.metrics().open_connections() == 0).await;
        assert!(prepared.are_spent(), "{stage:?}");
        counted(&proxy, 5).await;
        assert_eq!(proxy.running.metrics().abandoned.get(), 0, "nobody hung up");

        let answer = asked(&proxy, &target).await.unwrap();
        assert_eq!((answer.status, answer.body), (200, jpeg()), "{stage:?}");
        assert_eq!(proxy.get(&target).await.status, 200, "{stage:?}");
        assert_eq!((proxy.running.reading().fills, panics(&proxy)), (0, 5), "{stage:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_on_which_a_request_panics_is_closed_and_is_not_counted_as_idle() {
    let origin = Origin::answering(Answer::image()).await;
    let prepared = Prepared::at(Stage::Respond);
    let proxy = Proxy::faulty(&origin, prepared.faults.clone(), narrow);
    let target = tickets::target(&tickets::permanent(1));
    let mut client = proxy.connect().await;
    assert_eq!(client.get(&target, "").await.status, 200);
    prepared.times(1);
    client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").repeat(3)).await;
    assert!(client.response().await.is_none() && client.is_closed().await, "nothing is answered out of turn");
    counted(&proxy, 1).await;
    eventually("its place is free", || proxy.running.metrics().open_connections() == 0).await;
    let page = proxy.running.metrics().exposition(proxy.running.reading());
    assert!(
        page.contains("\nticketgate_connections_idle 0\n") && page.contains("\nticketgate_panics_total 1\n"),
        "{page}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_2_a_panic_resets_one_stream_and_the_others_go_on() {
    let origin = Origin::answering(Answer::image()).await;
    let authority = Authority::new();
    authority.install();
    let prepared = Prepared::at(Stage::Respond);
    let proxy = Proxy::faulty(&origin, prepared.faults.clone(), |config| authority.configure(config));
    let stream = authority.connect(proxy.tls(), &[HTTP_2]).await;
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let ask = |number: u32| {
        let target = tickets::target(&tickets::permanent(number));
        let request = http::Request::get(format!("https://localhost{target}")).body(Full::<Bytes>::default()).unwrap();
        let mut sender = sender.clone();
        tokio::spawn(async move { sender.send_request(request).await })
    };
    origin.hold();
    let waiting = ask(1);
    origin.has_been_asked(1).await;
    prepared.times(1);
    let malformed = "https://localhost/cgi-bin/showqrcode?ticket=";
    let request = http::Request::get(malformed).body(Full::<Bytes>::default()).unwrap();
    let struck = timeout(PATIENCE, sender.clone().send_request(request)).await.expect("in time");
    assert!(struck.is_err() && prepared.are_spent(), "{struck:?}");
    origin.release();
    let answer = timeout(PATIENCE, waiting).await.expect("in time").unwrap().unwrap();
    assert_eq!(answer.collect().await.unwrap().to_bytes(), jpeg());
    assert_eq!(ask(1).await.unwrap().unwrap().status(), 200, "on the same connection");
    assert!(!connection.is_finished());
    counted(&proxy, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panicking_fill_is_a_500_for_all_who_wait_and_frees_the_ticket_and_its_place_at_every_stage() {
    for stage in [Stage::Fetch, Stage::Ask, Stage::Judge, Stage::Store] {
        let origin = Origin::answering(Answer::image()).await;
        let prepared = Prepared::at(stage);
        let proxy = Proxy::faulty(&origin, prepared.faults.clone(), |config| config.origin.max_concurrent = 1);
        let ticket = tickets::permanent(1);
        for round in 1..=3 {
            prepared.times(1);
            let answer = proxy.image(&ticket).await;
            assert_eq!((answer.status, answer.header("cache-control")), (500, Some("no-store")), "{stage:?}");
            assert!(answer.cache_status().contains("detail=panicked"), "{}", answer.cache_status());
            assert_eq!(proxy.running.reading().fills, 0, "{stage:?}");
            counted(&proxy, round).await;
        }
        assert_eq!(proxy.running.reading().image_entries, 0, "{stage:?}");
        assert_eq!(proxy.image(&ticket).await.status, 200, "{stage:?}");
        assert_eq!(proxy.image(&tickets::permanent(2)).await.status, 200, "{stage:?}");
        assert!(!proxy.running.reading().circuit_open);
    }
}

/// A thousand ask for one ticket while `origin` holds its answer back.
async fn a_thousand(proxy: &Proxy, origin: &Origin, ticket: &str) -> Vec<Response> {
    origin.hold();
    let asked = origin.count() + 1;
    let mut asking = JoinSet::new();
    for _ in 0..1000 {
        let (address, target) = (proxy.address(), tickets::target(ticket));
        asking.spawn(async move { Connection::open(address).await.get(&target, "Connection: close\r\n").await });
    }
    eventually("all wait for the fill", || proxy.running.reading().waiting_for_fills == 1000).await;
    origin.has_been_asked(asked).await;
    origin.release();
    asking.join_all().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_who_wait_for_a_fill_that_panics_or_fails_made_one_request_and_the_ticket_is_free() {
    let cut = |number, _: &str| {
        if number == 1 { Answer::raw(&Answer::image().bytes[..500], Then::Reset) } else { Answer::image() }
    };
    let origin = Origin::start(cut).await;
    let prepared = Prepared::at(Stage::Judge);
    let proxy = Proxy::faulty(&origin, prepared.faults.clone(), |config| config.limits.client_requests = None);
    let ticket = tickets::permanent(1);
    prepared.times(1);
    for (number, status) in [(1, 500), (2, 502), (3, 200)] {
        let answers = a_thousand(&proxy, &origin, &ticket).await;
        assert!(answers.iter().all(|answer| answer.status == status), "{status}");
        assert_eq!((origin.count(), proxy.running.reading().fills), (number, 0), "{status}");
    }
    counted(&proxy, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_panics_after_a_wait_for_its_turn_has_given_its_place_in_the_queue_back() {
    let origin = Origin::answering(Answer::image()).await;
    let prepared = Prepared::at(Stage::Join);
    let proxy = Proxy::faulty(&origin, prepared.faults.clone(), |config| {
        narrow(config);
        let (rate, burst) = (20.0, NonZeroU32::MIN);
        config.limits.client_misses = Some(Policy { rate, burst, wait: Duration::from_secs(10) });
    });
    assert_eq!(proxy.image(&tickets::permanent(0)).await.status, 200);
    prepared.times(3);
    for number in 1..=3 {
        assert_eq!(asked(&proxy, &tickets::target(&tickets::permanent(number))).await, None);
    }
    counted(&proxy, 3).await;
    assert_eq!(proxy.running.reading().waiting, 0);
    assert_eq!(proxy.image(&tickets::permanent(4)).await.status, 200, "it waited in the one place");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_image_is_shown_though_every_refresh_panics() {
    let origin = Origin::answering(Answer::image_with("Cache-Control: max-age=10, stale-while-revalidate=0\r\n")).await;
    let prepared = Prepared::at(Stage::Ask);
    let proxy = Proxy::faulty(&origin, prepared.faults.clone(), narrow);
    let ticket = tickets::permanent(1);
    assert_eq!(proxy.image(&ticket).await.status, 200);
    for round in 1..=3 {
        proxy.hands.advance(Duration::from_secs(61));
        prepared.times(1);
        let answer = proxy.image(&ticket).await;
        assert_eq!((answer.status, answer.body), (200, jpeg()));
        // The stale image may be shown before its refresh has failed.
        eventually("the refresh panics", || prepared.are_spent()).await;
        counted(&proxy, round).await;
        eventually("its ticket is free", || proxy.running.reading().fills == 0).await;
    }
    proxy.hands.advance(Duration::from_secs(61));
    proxy.image(&ticket).await;
    eventually("the next refresh comes through", || origin.count() == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_the_relay_or_before_the_operator_costs_that_call() {
    for stage in [Stage::Relay, Stage::Learn, Stage::Operate] {
        let origin = Origin::answering(Answer::image()).await;
        let api = Api::saying(&created(&tickets::permanent(1), None)).await;
        let prepared = Prepared::at(stage);
        let proxy = Proxy::faulty(&origin, prepared.faults.clone(), |config| api.configure(config));
        let (address, call) = match stage {
            Stage::Operate => (proxy.admin(), "GET /status HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
            _ => (
                proxy.relay(),
                "POST /cgi-bin/qrcode/create?access_token=x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}",
            ),
        };
        prepared.times(20);
        for _ in 0..20 {
            let mut connection = Connection::open(address).await;
            connection.send(call).await;
            assert_eq!(connection.response().await, None, "{stage:?}");
        }
        assert!(prepared.are_spent(), "{stage:?}");
        counted(&proxy, 20).await;
        assert_eq!(proxy.running.metrics().abandoned.get(), 0, "nobody hung up");
        let mut connection = Connection::open(address).await;
        connection.send(call).await;
        assert_eq!(connection.response().await.unwrap().status, 200, "{stage:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_while_a_connection_is_taken_in_costs_that_one_and_the_door_stays_open() {
    let origin = Origin::answering(Answer::image()).await;
    let prepared = Prepared::at(Stage::Welcome);
    let proxy = Proxy::faulty(&origin, prepared.faults.clone(), narrow);
    let target = tickets::target(&tickets::permanent(1));
    prepared.times(20);
    for _ in 0..20 {
        let mut turned_away = proxy.connect().await;
        assert!(turned_away.is_closed().await);
    }
    counted(&proxy, 20).await;
    // With two places in all, the first that was lost would be missed.
    for _ in 0..3 {
        let answer = asked(&proxy, &target).await.unwrap();
        assert_eq!((answer.status, answer.body), (200, jpeg()));
    }
    counted(&proxy, 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_at_the_relays_or_the_operators_door_costs_that_connection_too() {
    let origin = Origin::answering(Answer::image()).await;
    let api = Api::saying(&created(&tickets::permanent(1), None)).await;
    let prepared = Prepared::at(Stage::Welcome);
    let proxy = Proxy::faulty(&origin, prepared.faults.clone(), |config| api.configure(config));
    // The operator has 64 places: the first that was lost would be missed.
    let (mut made, times) = (0, 70);
    for door in [proxy.relay(), proxy.admin()] {
        prepared.times(times);
        for _ in 0..times {
            let mut turned_away = Connection::open(door).await;
            assert!(turned_away.is_closed().await);
        }
        made += times as u64;
        counted(&proxy, made).await;
        let mut connection = Connection::open(door).await;
        connection.send("GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await;
        assert!(connection.response().await.is_some(), "{door}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_while_the_configuration_is_read_again_or_images_are_looked_for_is_a_500_and_counted() {
    for (stage, call) in [(Stage::Reload, "POST /reload"), (Stage::Scan, "GET /images")] {
        let origin = Origin::answering(Answer::image()).await;
        let prepared = Prepared::at(stage);
        let proxy = Proxy::faulty(&origin, prepared.faults.clone(), |_| {});
        // As many at once as may look: the first place that was lost would be missed.
        prepared.times(3);
        let mut connection = Connection::open(proxy.admin()).await;
        let call = format!("{call} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
        for _ in 0..3 {
            connection.send(&call).await;
            assert_eq!(connection.response().await.unwrap().status, 500, "{stage:?}");
        }
        counted(&proxy, 3).await;
        connection.send(&call).await;
        // It was started without a file: there is nothing to read again.
        let expected = if stage == Stage::Reload { 422 } else { 200 };
        assert_eq!(connection.response().await.unwrap().status, expected, "{stage:?}");
        counted(&proxy, 3).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_while_the_cache_is_tended_costs_that_turn() {
    let origin = Origin::answering(Answer::image()).await;
    let (prepared, turns) = (Prepared::at(Stage::Tend), Arc::new(AtomicUsize::new(0)));
    let (strike, count) = (prepared.faults.clone(), Arc::clone(&turns));
    let faults = Faults::new(move |at| {
        count.fetch_add(usize::from(at == Stage::Tend), Ordering::SeqCst);
        strike.strike(at);
    });
    prepared.times(1);
    let proxy = Proxy::faulty(&origin, faults, |_| {});
    eventually("it is tended again", || turns.load(Ordering::SeqCst) > 1).await;
    counted(&proxy, 1).await;
}

/// All threads, all stages, at random: what is left is as good as new.
#[tokio::test(flavor = "multi_thread")]
async fn panics_everywhere_at_once_leave_every_place_free() {
    let origin = Origin::answering(Answer::image()).await;
    let (turn, armed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(true)));
    let (count, on) = (Arc::clone(&turn), Arc::clone(&armed));
    let faults = Faults::new(move |at| {
        let number = count.fetch_add(1, Ordering::Relaxed);
        assert!(!on.load(Ordering::Relaxed) || number % 7 != 3, "on purpose, at {at:?}");
    });
    let proxy = Proxy::faulty(&origin, faults, |config| {
        config.server.max_connections = 32;
        (config.origin.max_concurrent, config.limits.max_waiters) = (2, 8);
        config.limits.client_misses = None;
    });
    let mut asking = JoinSet::new();
    for client in 0..32 {
        let address = proxy.address();
        asking.spawn(async move {
            let mut answered = 0;
            for number in 0..25 {
                let target = tickets::target(&tickets::permanent((client * 7 + number) % 40));
                let mut connection = Connection::open(address).await;
                connection.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await;
                let answer = connection.response().await;
                answered += u32::from(answer.is_some_and(|answer| answer.status == 200 && answer.body == jpeg()));
            }
            answered
        });
    }
    let answered: u32 = asking.join_all().await.into_iter().sum();
    armed.store(false, Ordering::Relaxed);
    assert!(answered > 100, "{answered} images");
    eventually("more than a hundred panics are counted", || panics(&proxy) > 100).await;
    eventually("all places are free", || proxy.running.metrics().open_connections() == 0).await;
    let reading = proxy.running.reading();
    assert_eq!((reading.fills, reading.waiting, reading.waiting_for_fills), (0, 0, 0));
    proxy.hands.advance(Duration::from_secs(2));
    for number in 0..40 {
        assert_eq!(proxy.image(&tickets::permanent(number)).await.status, 200, "{number}");
    }
}
