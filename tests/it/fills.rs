//! One fill per ticket, shared by all who wait (S13).

use std::num::NonZeroU32;
use std::time::Duration;

use ticketgate::config::Config;
use ticketgate::limit::Policy;
use tokio::task::{JoinHandle, JoinSet};

use crate::support::client::{Connection, Response};
use crate::support::origin::{Answer, Origin, Then, jpeg};
use crate::support::proxy::Proxy;
use crate::support::{eventually, tickets};

async fn at_once(proxy: &Proxy, ticket: &str, clients: usize) -> Vec<Response> {
    let mut asking = JoinSet::new();
    for _ in 0..clients {
        let (address, target) = (proxy.address(), tickets::target(ticket));
        asking.spawn(async move { Connection::open(address).await.get(&target, "Connection: close\r\n").await });
    }
    asking.join_all().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_concurrent_misses_make_one_origin_request() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::before(&origin);
    let ticket = tickets::permanent(1);
    origin.hold();
    let asking = at_once(&proxy, &ticket, 1000);
    let release = async {
        eventually("all wait for the fill", || proxy.running.reading().waiting_for_fills == 1000).await;
        origin.has_been_asked(1).await;
        origin.release();
    };
    let (answers, ()) = tokio::join!(asking, release);
    assert!(answers.iter().all(|answer| answer.status == 200 && answer.body == jpeg()));
    assert_eq!(origin.count(), 1);
    let joined = |answer: &&Response| answer.cache_status().ends_with("; stored; collapsed");
    assert_eq!(answers.iter().filter(joined).count(), 999);
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_leaders_hanging_up_neither_cancel_nor_repeat_the_fill() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::before(&origin);
    let ticket = tickets::permanent(1);
    origin.hold();
    for number in 1..=300 {
        let mut leader = proxy.connect().await;
        leader.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", tickets::target(&ticket))).await;
        eventually("it waits for the fill", || proxy.running.reading().waiting_for_fills == 1).await;
        drop(leader);
        eventually("it is taken for gone", || proxy.running.metrics().abandoned.get() == number).await;
    }
    assert_eq!(proxy.running.reading().fills, 1, "still the one that the first began");
    origin.release();
    eventually("the image is stored", || proxy.running.reading().image_entries == 1).await;
    assert!(proxy.image(&ticket).await.cache_status().contains("hit"));
    assert_eq!(origin.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_fill_frees_the_ticket() {
    let failing = |number, _: &str| if number == 0 { Answer::raw("", Then::Reset) } else { Answer::image() };
    let origin = Origin::start(failing).await;
    let proxy = Proxy::before(&origin);
    let ticket = tickets::permanent(1);
    assert_eq!(proxy.image(&ticket).await.status, 502);
    assert_eq!(proxy.running.reading().fills, 0);
    assert_eq!(proxy.image(&ticket).await.status, 200);
    assert_eq!(origin.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_who_wait_on_a_private_image_are_shown_it() {
    let origin = Origin::answering(Answer::image_with("Cache-Control: private\r\n")).await;
    let proxy = Proxy::before(&origin);
    origin.hold();
    let release = async {
        eventually("all wait for the fill", || proxy.running.reading().waiting_for_fills == 10).await;
        origin.has_been_asked(1).await;
        origin.release();
    };
    let ticket = tickets::permanent(1);
    let (answers, ()) = tokio::join!(at_once(&proxy, &ticket, 10), release);
    assert!(answers.iter().all(|answer| answer.status == 200 && answer.header("cache-control") == Some("no-store")));
    assert_eq!(origin.count(), 1);
    assert_eq!(proxy.running.reading().waiting_for_fills, 0);
    assert_eq!(proxy.running.reading().image_entries, 0);
}

/// A client whose budget of misses is spent asks for `ticket` and waits for its turn, which comes within a second.
async fn waiting_for_its_turn(proxy: &Proxy, ticket: &str) -> JoinHandle<Response> {
    let (address, target) = (proxy.address(), tickets::target(ticket));
    let asking = tokio::spawn(async move { Connection::open(address).await.get(&target, "").await });
    let waits = || {
        let reading = proxy.running.reading();
        // On a machine that stood still for that second its turn has come, which the tests below can stand.
        reading.waiting + reading.waiting_for_fills > 0 || asking.is_finished()
    };
    eventually("it waits for its turn", waits).await;
    asking
}

fn one_miss_a_second(config: &mut Config) {
    let burst = NonZeroU32::MIN;
    config.limits.client_misses = Some(Policy { rate: 1.0, burst, wait: Duration::from_secs(10) });
}

const ANOTHER: &str = "X-Forwarded-For: 203.0.113.2\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_miss_that_waited_for_its_turn_finds_the_image_that_came_meanwhile() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&origin, one_miss_a_second);
    let ticket = tickets::permanent(2);
    assert_eq!(proxy.image(&tickets::permanent(1)).await.status, 200);
    let asking = waiting_for_its_turn(&proxy, &ticket).await;
    assert_eq!(proxy.get_with(&tickets::target(&ticket), ANOTHER).await.status, 200);
    let waited = asking.await.unwrap();
    assert_eq!((waited.status, waited.body), (200, jpeg()));
    assert_eq!(origin.count(), 2, "one for each ticket");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_miss_that_waited_for_its_turn_joins_the_fill_that_began_meanwhile() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&origin, one_miss_a_second);
    let ticket = tickets::permanent(2);
    assert_eq!(proxy.image(&tickets::permanent(1)).await.status, 200);
    origin.hold();
    let asking = waiting_for_its_turn(&proxy, &ticket).await;
    let (another, waited, ()) = tokio::join!(
        async { proxy.get_with(&tickets::target(&ticket), ANOTHER).await },
        async { asking.await.unwrap() },
        async {
            eventually("both wait for the fill", || proxy.running.reading().waiting_for_fills == 2).await;
            origin.release();
        }
    );
    assert_eq!((another.status, waited.status), (200, 200));
    assert_eq!(origin.count(), 2, "one for each ticket");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_apps_in_one_process_share_nothing() {
    let (one, two) = (Origin::answering(Answer::image()).await, Origin::answering(Answer::image()).await);
    let (first, second) = (Proxy::before(&one), Proxy::before(&two));
    let ticket = tickets::permanent(1);
    first.image(&ticket).await;
    second.image(&ticket).await;
    assert_eq!((one.count(), two.count()), (1, 1));
    assert_eq!(first.running.metrics().totals().misses, 1);
}
