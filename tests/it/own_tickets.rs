//! Own tickets alone are served where the operator says so, and they are own after a restart too (S36).

use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use ticketgate::app::{App, Ending, StartError, Surroundings};
use ticketgate::config::Config;
use ticketgate::limit::Policy;
use ticketgate::ticket::{Allow, Expired};

use crate::support::api::{Api, created};
use crate::support::client::{Connection, Response};
use crate::support::origin::{Answer, Origin};
use crate::support::proxy::Proxy;
use crate::support::{eventually, tickets};

const CANARY: &str = "CANARY-access-token";

fn file(directory: &TempDir) -> PathBuf {
    directory.path().join("own.redb")
}

/// As shipped, but for own tickets alone, which are kept at `path`.
fn own(path: &Path) -> impl FnOnce(&mut Config) {
    let path = path.to_owned();
    move |config| (config.tickets.allow, config.tickets.store) = (Allow::Own, Some(path))
}

async fn create(proxy: &Proxy) -> Response {
    let target = format!("/cgi-bin/qrcode/create?access_token={CANARY}");
    Connection::open(proxy.relay()).await.post(&target, "{}").await
}

/// Ends it well, so that another may have the file.
async fn ended(proxy: Proxy) -> Ending {
    let end = move || {
        proxy.running.drain();
        proxy.running.cut_drain_on(std::future::ready(()));
        proxy.running.finish()
    };
    tokio::task::spawn_blocking(end).await.unwrap()
}

fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_own_is_refused_without_a_call_and_what_the_relay_saw_made_is_own_after_a_restart() {
    let directory = TempDir::new().unwrap();
    let origin = Origin::answering(Answer::image()).await;
    let (ours, theirs) = (tickets::permanent(1), tickets::permanent(2));
    let api = Api::saying(&created(&ours, Some(600))).await;
    let configure = |config: &mut Config| {
        own(&file(&directory))(config);
        api.configure(config);
        config.relay.prefetch = false;
    };
    let proxy = Proxy::with(&origin, configure);
    let refused = proxy.image(&theirs).await;
    assert_eq!((refused.status, refused.header("cache-control")), (403, Some("no-store")));
    assert!(refused.text().contains("tickets.allow") && refused.text().lines().count() == 1, "{}", refused.text());
    assert!(refused.cache_status().contains("detail=foreign-ticket"), "{}", refused.cache_status());
    assert_eq!(proxy.image(&ours).await.status, 403, "not yet");
    assert_eq!((origin.count(), proxy.running.reading().negative_entries), (0, 0), "nobody is asked, nothing is kept");
    assert_eq!(create(&proxy).await.status, 200);
    let shown = proxy.image(&ours).await;
    assert_eq!((shown.status, origin.count()), (200, 1));
    let end = shown.header("ticket-expires").expect("the relay saw an end").to_owned();
    ended(proxy).await;

    assert!(contains(&bytes(&file(&directory)), &ours), "it is there for the next start");
    assert!(!contains(&bytes(&file(&directory)), CANARY), "and the token is not");
    let proxy = Proxy::with(&origin, configure);
    let again = proxy.image(&ours).await;
    assert_eq!((again.status, again.header("ticket-expires")), (200, Some(&*end)), "with its end");
    assert_eq!(proxy.image(&theirs).await.status, 403);
    assert_eq!(origin.count(), 2, "the image was fetched once more, by whoever came first");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_own_ticket_that_has_ended_is_treated_as_any_that_has() {
    for (expired, status, calls) in [(Expired::Ask, 200, 1), (Expired::Gone, 410, 0)] {
        let directory = TempDir::new().unwrap();
        let origin = Origin::answering(Answer::image()).await;
        // Nobody but the relay knows its end.
        let api = Api::saying(&created("opaque", Some(60))).await;
        let proxy = Proxy::with(&origin, |config| {
            own(&file(&directory))(config);
            api.configure(config);
            (config.relay.prefetch, config.tickets.expired) = (false, expired);
        });
        create(&proxy).await;
        proxy.hands.advance(Duration::from_secs(61));
        let answer = proxy.image("opaque").await;
        assert_eq!((answer.status, origin.count()), (status, calls), "{}", answer.cache_status());
        assert_eq!(proxy.running.reading().own_entries, 0, "never as an image");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_ended_more_than_a_day_ago_is_forgotten_and_who_ended_since_is_not() {
    for (days, status) in [(2, 403), (1, 410)] {
        let directory = TempDir::new().unwrap();
        let origin = Origin::answering(Answer::image()).await;
        let api = Api::saying(&created("opaque", Some(60))).await;
        let configure = |config: &mut Config| {
            own(&file(&directory))(config);
            api.configure(config);
            (config.relay.prefetch, config.tickets.expired) = (false, Expired::Gone);
        };
        let proxy = Proxy::with(&origin, configure);
        // A little less than a day, or two, before now.
        proxy.hands.shift_wall(60_000 - days * 86_400_000);
        create(&proxy).await;
        ended(proxy).await;
        let proxy = Proxy::with(&origin, configure);
        assert_eq!((proxy.image("opaque").await.status, origin.count()), (status, 0), "{days} days");
        assert_eq!(proxy.running.reading().own_tickets, u64::from(status == 410));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_came_while_any_was_served_are_not_shown_to_those_who_bring_other_peoples_tickets() {
    let directory = TempDir::new().unwrap();
    let origin = Origin::answering(Answer::image()).await;
    let theirs = tickets::permanent(2);
    let proxy = Proxy::with(&origin, |config| config.tickets.store = Some(file(&directory)));
    assert_eq!(proxy.image(&theirs).await.status, 200);
    let mut config = Config::default();
    own(&file(&directory))(&mut config);
    config.origin.url = origin.url().parse().unwrap();
    let reloaded = proxy.running.reload().apply(config).unwrap();
    assert!(reloaded.applied.contains(&"tickets.allow") && !reloaded.restart.contains(&"tickets.store"));
    assert_eq!((proxy.image(&theirs).await.status, origin.count()), (403, 1));
}

/// Fills a file with tickets by way of the relay; the last is the newest.
async fn filled(path: &Path, count: usize) -> Vec<String> {
    let origin = Origin::answering(Answer::image()).await;
    let made: Vec<String> = (0..count).map(|number| tickets::permanent(u32::try_from(number).unwrap())).collect();
    let told = made.clone();
    let api = Api::start(move |number| crate::support::api::answer(&created(&told[number], None))).await;
    let proxy = Proxy::with(&origin, |config| {
        own(path)(config);
        api.configure(config);
        config.relay.prefetch = false;
    });
    for _ in 0..count {
        create(&proxy).await;
    }
    ended(proxy).await;
    made
}

#[tokio::test(flavor = "multi_thread")]
async fn own_tickets_are_warmed_at_the_start_the_newest_first_and_within_the_budget() {
    let directory = TempDir::new().unwrap();
    let made = filled(&file(&directory), 30).await;
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&origin, |config| {
        own(&file(&directory))(config);
        // Three at once, and no fourth within the hour.
        let burst = 3.try_into().unwrap();
        config.limits.origin_fills = Some(Policy { rate: 0.001, burst, wait: Duration::ZERO });
    });
    origin.has_been_asked(3).await;
    eventually("three images", || proxy.running.reading().own_entries == 3).await;
    for head in origin.heads() {
        let is_asked = |ticket: &String| head.contains(&tickets::encode(ticket));
        assert!(made[22..].iter().any(is_asked), "the newest come first, eight at once: {head}");
    }
    let oldest = proxy.image(&made[0]).await;
    assert_eq!((oldest.status, origin.count()), (503, 3), "the budget is the origin's");
}

#[tokio::test(flavor = "multi_thread")]
async fn warming_stops_where_there_is_no_more_room() {
    let directory = TempDir::new().unwrap();
    filled(&file(&directory), 40).await;
    let large = [b"\xff\xd8\xff\xe0\x00\x10JFIF\x00".to_vec(), vec![7; 50_000]].concat();
    let origin = Origin::answering(Answer::of(200, "Cache-Control: max-age=604800\r\n", &large)).await;
    let proxy = Proxy::with(&origin, |config| {
        own(&file(&directory))(config);
        (config.cache.memory, config.cache.max_image) = (1024 * 1024, 100_000);
    });
    eventually("some images", || proxy.running.reading().own_entries > 5).await;
    eventually("no fill under way", || proxy.running.reading().fills == 0).await;
    let reading = proxy.running.reading();
    assert!(reading.own_bytes <= 512 * 1024 && origin.count() < 11, "{} calls", origin.count());
    assert_eq!(reading.own_tickets, 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_waits_for_the_file_and_says_so_when_it_may_wait_no_longer() {
    let directory = TempDir::new().unwrap();
    let origin = Origin::answering(Answer::image()).await;
    let first = Proxy::with(&origin, own(&file(&directory)));
    let mut config = Config::default();
    own(&file(&directory))(&mut config);
    config.server.listen = Some("127.0.0.1:0".parse().unwrap());
    config.admin.listen = None;
    let bind = |patience| {
        let config = config.clone();
        let surroundings = Surroundings { store_patience: patience, ..Surroundings::default() };
        tokio::task::spawn_blocking(move || App::bind(config, surroundings).map(drop))
    };
    let told = bind(Duration::from_millis(100)).await.unwrap().unwrap_err();
    assert!(matches!(told, StartError::Store(_)));
    assert!(told.to_string().contains("held by another process after 100ms"), "{told}");
    let waiting = bind(Duration::from_secs(20));
    assert!(!waiting.is_finished());
    ended(first).await;
    waiting.await.unwrap().unwrap();
}
