//! What the operator can look at and change: `/inspect`, `/purge`, `/warm`.

use std::num::NonZero;
use std::time::Duration;

use serde_json::{Value, json};
use ticketgate::limit::Policy;

use crate::support::client::{Connection, Response};
use crate::support::eventually;
use crate::support::origin::{Answer, Origin, jpeg};
use crate::support::proxy::Proxy;
use crate::support::tickets;

async fn inspect(proxy: &Proxy, ticket: &str) -> Value {
    let target = format!("/inspect?ticket={}", tickets::encode(ticket));
    let answer = Connection::to_operator(proxy.admin()).await.get(&target, "").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

async fn post(proxy: &Proxy, target: &str, body: impl std::fmt::Display) -> Response {
    Connection::to_operator(proxy.admin()).await.post(target, &body.to_string()).await
}

async fn purged(proxy: &Proxy, body: Value) -> u64 {
    let answer = post(proxy, "/purge", body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["purged"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn inspecting_tells_what_a_ticket_says_and_what_is_held_and_calls_nobody() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::before(&origin);
    let ticket = tickets::temporary(1, Duration::from_secs(600));
    let told = inspect(&proxy, ticket.trim_end_matches('=')).await;
    assert_eq!(
        (&told["ticket"], &told["recognised"], &told["permanent"]),
        (&json!(ticket), &json!(true), &json!(false))
    );
    assert!((590..=600).contains(&told["remaining_seconds"].as_i64().unwrap()), "{told:#}");
    assert_eq!(
        (&told["cache"]["state"], &told["own"], &told["filling"]),
        (&json!("nothing"), &json!(false), &json!(false))
    );
    assert_eq!(origin.count(), 0);
    proxy.image(&ticket).await;
    proxy.hands.advance(Duration::from_secs(5));
    let told = inspect(&proxy, &ticket).await;
    let cache = &told["cache"];
    assert_eq!(
        (&cache["state"], &cache["bytes"], &cache["content_type"]),
        (&json!("fresh"), &json!(2000), &json!("image/jpeg"))
    );
    assert_eq!(cache["age_seconds"], 5);
    assert!(cache["usable_for_seconds"].as_u64().unwrap() <= 595, "never beyond the ticket's life: {told:#}");
    for (query, why) in [("", "no ticket"), ("?ticket=", "empty"), ("?ticket=%01", "characters")] {
        let refused = Connection::to_operator(proxy.admin()).await.get(&format!("/inspect{query}"), "").await;
        assert_eq!(refused.status, 400, "{query}");
        assert!(refused.text().ends_with('\n') && refused.text().len() > 10, "{why}: {}", refused.text());
    }
    assert_eq!(origin.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remembered_refusal_is_told_and_purged() {
    let origin = Origin::answering(Answer::of(404, "", b"no")).await;
    let proxy = Proxy::before(&origin);
    let ticket = tickets::permanent(1);
    proxy.image(&ticket).await;
    let told = inspect(&proxy, &ticket).await;
    assert_eq!(
        (&told["cache"]["state"], &told["cache"]["refusal"]["reason"]),
        (&json!("refused"), &json!("unknown-ticket"))
    );
    assert_eq!(purged(&proxy, json!({ "tickets": [ticket] })).await, 1);
    proxy.image(&ticket).await;
    assert_eq!(origin.count(), 2, "it is asked for anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_purged_is_fetched_anew_and_nothing_else_is() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::before(&origin);
    let [one, two, never] = [1, 2, 3].map(tickets::permanent);
    proxy.image(&one).await;
    proxy.image(&two).await;
    let as_url = format!("https://mp.weixin.qq.com{}", tickets::target(&one));
    assert_eq!(purged(&proxy, json!({ "tickets": [as_url, never] })).await, 1);
    assert!(proxy.image(&two).await.cache_status().contains("hit"));
    assert!(proxy.image(&one).await.cache_status().contains("fwd=uri-miss"));
    assert_eq!(purged(&proxy, json!({ "all": true })).await, 2);
    assert_eq!(inspect(&proxy, &one).await["cache"]["state"], "nothing");
    assert_eq!(proxy.running.reading().image_entries, 0);
    assert!(proxy.image(&two).await.cache_status().contains("fwd=uri-miss"));
    assert_eq!(origin.count(), 4);
    assert_eq!(purged(&proxy, json!({ "all": true })).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_under_way_when_its_ticket_is_purged_is_shown_and_not_stored() {
    for body in [json!({ "tickets": [tickets::permanent(1)] }), json!({ "all": true })] {
        let origin = Origin::answering(Answer::image()).await;
        let proxy = Proxy::before(&origin);
        origin.hold();
        let mut waiting = proxy.connect().await;
        waiting.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", tickets::target(&tickets::permanent(1)))).await;
        origin.has_been_asked(1).await;
        assert_eq!(purged(&proxy, body).await, 0);
        origin.release();
        let shown = waiting.response().await.unwrap();
        assert_eq!(shown.header("cache-control"), Some("no-store"));
        assert_eq!((shown.status, shown.body), (200, jpeg()));
        assert_eq!(inspect(&proxy, &tickets::permanent(1)).await["cache"]["state"], "nothing");
        let again = proxy.image(&tickets::permanent(1)).await;
        assert!(again.cache_status().contains("stored"), "{}", again.cache_status());
        assert_eq!(origin.count(), 2);
    }
}

fn lines(answer: &Response) -> Vec<Value> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn warming_tells_of_each_ticket_and_the_next_who_asks_finds_the_image() {
    let origin = Origin::start(|_, head| match head {
        head if head.contains("0009") => Answer::of(404, "", b"no"),
        _ => Answer::image(),
    })
    .await;
    let proxy = Proxy::before(&origin);
    let unknown = ticketgate::ticket::Ticket::from_text("layout0009").unwrap().canonical().to_owned();
    let over = tickets::temporary(5, Duration::from_secs(60));
    proxy.hands.advance(Duration::from_secs(60));
    proxy.image(&tickets::permanent(0)).await;
    let mut wanted: Vec<String> = (0..40).map(tickets::permanent).collect();
    wanted.extend([unknown, over]);
    let mut told = lines(&post(&proxy, "/warm", json!({ "tickets": wanted })).await);
    told.sort_by_key(|line| line["index"].as_u64());
    assert_eq!(told.len(), 42);
    assert_eq!((&told[0]["result"], &told[0]["bytes"]), (&json!("held"), &json!(2000)));
    for (number, line) in told.iter().enumerate().take(40).skip(1) {
        assert_eq!((&line["result"], &line["ticket"]), (&json!("stored"), &json!(wanted[number])), "{line}");
    }
    assert_eq!((&told[40]["result"], &told[40]["reason"]), (&json!("failed"), &json!("unknown-ticket")));
    assert_eq!((&told[41]["result"], &told[41]["reason"]), (&json!("failed"), &json!("ticket-expired")));
    let asked = origin.count();
    assert_eq!(asked, 41, "what is held and what is over is not asked for");
    for ticket in &wanted[..40] {
        assert!(proxy.image(ticket).await.cache_status().contains("hit"));
    }
    assert_eq!(origin.count(), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn warming_waits_for_the_origins_budget_and_spends_no_clients() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&origin, |config| {
        let wait = Duration::from_millis(200);
        let budget = |rate, burst| Policy { rate, burst: NonZero::new(burst).unwrap(), wait };
        config.limits.origin_fills = Some(budget(50.0, 5));
        config.limits.client_misses = Some(budget(0.001, 1));
    });
    let wanted: Vec<String> = (0..30).map(tickets::permanent).collect();
    let told = lines(&post(&proxy, "/warm", json!({ "tickets": wanted })).await);
    assert!(told.iter().all(|line| line["result"] == "stored"), "{told:?}");
    assert_eq!(proxy.image(&tickets::permanent(99)).await.status, 200, "the client's own miss is still there");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_hangs_up_ends_the_warming_but_not_what_is_under_way() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::before(&origin);
    origin.hold();
    let body = json!({ "tickets": (0..200).map(tickets::permanent).collect::<Vec<_>>() }).to_string();
    let mut caller = Connection::to_operator(proxy.admin()).await;
    caller
        .send(format!("POST /warm HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
        .await;
    origin.has_been_asked(16).await;
    drop(caller);
    origin.release();
    eventually("the fills under way are stored", || proxy.running.reading().image_entries >= 16).await;
    eventually("nothing more is fetched", || proxy.running.reading().fills == 0).await;
    assert!(origin.count() < 100, "{}", origin.count());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_call_changes_nothing_and_says_what_to_mend() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::before(&origin);
    proxy.image(&tickets::permanent(1)).await;
    let good = tickets::permanent(1);
    let long = "x".repeat(513);
    for (call, body, status, told) in [
        ("/purge", "{".to_owned(), 400, "line 1"),
        ("/purge", String::new(), 400, "JSON"),
        ("/purge", "{}".to_owned(), 400, "either"),
        ("/purge", json!({ "all": false }).to_string(), 400, "either"),
        ("/purge", json!({ "all": true, "tickets": [good] }).to_string(), 400, "either"),
        ("/purge", json!({ "everything": true }).to_string(), 400, "unknown field `everything`"),
        ("/purge", json!({ "tickets": good }).to_string(), 400, "sequence"),
        ("/purge", json!({ "tickets": [good, ""] }).to_string(), 400, "tickets[1]"),
        ("/warm", json!({ "tickets": [good, long] }).to_string(), 400, "tickets[1]"),
        ("/warm", json!({ "tickets": [1] }).to_string(), 400, "string"),
        ("/warm", json!([good]).to_string(), 400, "JSON"),
        ("/warm", json!({ "tickets": ["x".repeat(1 << 20)] }).to_string(), 413, "1048576"),
    ] {
        let refused = post(&proxy, call, &body).await;
        assert_eq!(refused.status, status, "{call} {:.80}: {}", body, refused.text());
        assert!(refused.text().contains(told), "{call} {:.80}: {}", body, refused.text());
    }
    for (method, call, allow) in
        [("GET", "/purge", "POST"), ("PUT", "/warm", "POST"), ("POST", "/inspect", "GET, HEAD")]
    {
        let refused = Connection::to_operator(proxy.admin()).await.request(method, call, "").await;
        assert_eq!((refused.status, refused.header("allow")), (405, Some(allow)), "{method} {call}");
    }
    let foreign = "Origin: http://evil.example\r\nContent-Length: 12\r\n\r\n{\"all\":true}";
    let mut page = Connection::to_operator(proxy.admin()).await;
    page.send(format!("POST /purge HTTP/1.1\r\nHost: localhost\r\n{foreign}")).await;
    assert_eq!(page.response().await.unwrap().status, 403);
    assert!(proxy.image(&good).await.cache_status().contains("hit"), "nothing was purged");
    assert_eq!(origin.count(), 1, "nothing was warmed");
}
