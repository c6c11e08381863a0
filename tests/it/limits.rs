//! Budgets refuse exactly what they should (S28–S30).

use std::num::NonZeroU32;
use std::time::Duration;

use ticketgate::limit::{Policy, TellBudget};
use tokio::task::JoinSet;

use crate::support::client::Connection;
use crate::support::origin::{Answer, Origin};
use crate::support::proxy::Proxy;
use crate::support::{eventually, tickets};

#[expect(clippy::unnecessary_wraps, reason = "an `Option` is what the configuration holds")]
fn policy(rate: f64, burst: u32, wait: Duration) -> Option<Policy> {
    Some(Policy { rate, burst: NonZeroU32::new(burst).unwrap(), wait })
}

#[tokio::test(flavor = "multi_thread")]
async fn four_browsers_behind_one_address_with_200_cold_codes_each_see_no_refusal() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::before(&origin);
    let mut browsers = JoinSet::new();
    // Six connections each, as browsers do.
    for lane in 0..24u32 {
        let address = proxy.address();
        browsers.spawn(async move {
            let mut connection = Connection::open(address).await;
            let mut holes = 0;
            for code in (lane..800).step_by(24) {
                let answer = connection.get(&tickets::target(&tickets::permanent(code)), "").await;
                holes += usize::from(answer.status != 200);
            }
            holes
        });
    }
    assert_eq!(browsers.join_all().await.into_iter().sum::<usize>(), 0);
    assert_eq!(origin.count(), 800);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_over_its_requests_is_refused_with_the_fields_that_say_so() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&origin, |config| config.limits.client_requests = policy(0.1, 5, Duration::ZERO));
    let target = tickets::target(&tickets::permanent(1));
    for _ in 0..5 {
        let allowed = proxy.get(&target).await;
        assert_eq!((allowed.status, allowed.header("ratelimit")), (200, None));
    }
    let refused = proxy.get(&target).await;
    assert_eq!(refused.status, 429);
    // Ten seconds less what the requests before it took.
    let after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=10).contains(&after), "{after}");
    assert_eq!(refused.header("ratelimit-policy"), Some("\"client\";q=5;w=50"));
    assert_eq!(refused.header("ratelimit").unwrap(), format!("\"client\";r=0;t={after}"));
    assert_eq!(refused.header("access-control-allow-origin"), Some("*"));
    proxy.hands.advance(Duration::from_secs(10));
    assert_eq!(proxy.get(&target).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn hits_and_joined_fills_spend_no_miss() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&origin, |config| config.limits.client_misses = policy(0.1, 2, Duration::ZERO));
    for _ in 0..5 {
        assert_eq!(proxy.image(&tickets::permanent(1)).await.status, 200);
    }
    assert_eq!(proxy.image(&tickets::permanent(2)).await.status, 200);
    assert_eq!(proxy.image(&tickets::permanent(3)).await.status, 429);
    assert_eq!(proxy.image(&tickets::permanent(1)).await.status, 200, "a hit needs no miss");
    assert_eq!(origin.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_beats_a_refusal() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&origin, |config| config.limits.client_misses = policy(50.0, 1, Duration::from_secs(10)));
    for number in 0..6 {
        assert_eq!(proxy.image(&tickets::permanent(number)).await.status, 200);
    }
    assert_eq!(origin.count(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_all_places_to_wait_are_taken_the_next_is_refused() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&origin, |config| {
        config.limits.client_misses = policy(0.01, 1, Duration::from_secs(1000));
        config.limits.max_waiters = 2;
    });
    assert_eq!(proxy.image(&tickets::permanent(0)).await.status, 200);
    let mut waiting = Vec::new();
    for number in 1..=2 {
        let mut connection = proxy.connect().await;
        connection
            .send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", tickets::target(&tickets::permanent(number))))
            .await;
        waiting.push(connection);
        eventually("it waits for its turn", || proxy.running.reading().waiting == u64::from(number)).await;
    }
    let refused = proxy.image(&tickets::permanent(3)).await;
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("300")));
    assert_eq!(refused.cache_status(), "ticketgate; detail=client_misses");
    assert!(proxy.image(&tickets::permanent(0)).await.cache_status().contains("hit"), "a hit waits for nothing");
    waiting.pop();
    eventually("who hangs up leaves its place", || proxy.running.reading().waiting == 1).await;
    assert_eq!(origin.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spent_origin_budget_is_a_503_and_calls_nobody() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&origin, |config| config.limits.origin_fills = policy(0.5, 2, Duration::ZERO));
    for number in 0..2 {
        assert_eq!(proxy.image(&tickets::permanent(number)).await.status, 200);
    }
    let refused = proxy.image(&tickets::permanent(2)).await;
    assert!(refused.status == 503 && ["1", "2"].contains(&refused.header("retry-after").unwrap()));
    assert!(refused.header("ratelimit-policy").unwrap().starts_with("\"origin\";q=2;w=4"));
    assert_eq!(origin.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn budgets_that_are_off_refuse_nobody() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&origin, |config| {
        config.limits.client_requests = None;
        config.limits.client_misses = None;
        config.limits.origin_fills = None;
    });
    let mut connection = proxy.connect().await;
    for number in 0..1200 {
        assert_eq!(connection.get(&tickets::target(&tickets::permanent(number)), "").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_is_told_on_allowed_answers_only_when_asked_to() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&origin, |config| {
        config.limits.client_requests = policy(1.0, 10, Duration::ZERO);
        config.limits.ratelimit_headers = TellBudget::Always;
    });
    let told = proxy.image(&tickets::permanent(1)).await;
    assert_eq!(told.header("ratelimit-policy"), Some("\"client\";q=10;w=10"));
    assert!(told.header("ratelimit").unwrap().starts_with("\"client\";r=9;t="));
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_behind_a_trusted_proxy_have_budgets_of_their_own() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&origin, |config| config.limits.client_requests = policy(0.1, 1, Duration::ZERO));
    let target = tickets::target(&tickets::permanent(1));
    for client in ["203.0.113.1", "203.0.113.2", "9.9.9.9, 203.0.113.3"] {
        assert_eq!(proxy.get_with(&target, &format!("X-Forwarded-For: {client}\r\n")).await.status, 200, "{client}");
    }
    let spoofed = proxy.get_with(&target, "X-Forwarded-For: 8.8.8.8, 203.0.113.3\r\n").await;
    assert_eq!(spoofed.status, 429, "only the right-most untrusted hop counts");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_cannot_choose_its_identity() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&origin, |config| {
        config.clients.trusted_proxies.clear();
        config.limits.client_requests = policy(0.1, 1, Duration::ZERO);
    });
    let target = tickets::target(&tickets::permanent(1));
    assert_eq!(proxy.get_with(&target, "X-Forwarded-For: 203.0.113.1\r\n").await.status, 200);
    assert_eq!(proxy.get_with(&target, "X-Forwarded-For: 203.0.113.2\r\n").await.status, 429);
}
