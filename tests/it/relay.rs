//! The relay of `qrcode/create` (S33, S34): what passes, what is learned of it, and what is not.

use std::num::NonZeroU32;
use std::time::Duration;

use ticketgate::cache::Store;
use ticketgate::limit::Policy;
use ticketgate::relay::Forwarded;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::api::{self, Api, answer, created};
use crate::support::client::{Connection, Response};
use crate::support::origin::{Answer, Origin, Then, jpeg};
use crate::support::proxy::Proxy;
use crate::support::tickets;
use crate::support::{PATIENCE, eventually};

const CREATE: &str = "/cgi-bin/qrcode/create?access_token=a_TOKEN-1";
const ASKED: &str = r#"{"expire_seconds": 60, "action_name": "QR_SCENE", "action_info": {"scene": {"scene_id": 123}}}"#;
/// In no layout that we know: nothing but the answer says when it ends.
const OPAQUE: &str = "opaqueTicketOfTomorrow/of+a_layout==";

/// `method` on `target` with a body, on a connection of its own.
async fn call(proxy: &Proxy, method: &str, target: &str, body: &str) -> Response {
    let mut connection = Connection::open(proxy.relay()).await;
    let fields = format!("Host: 127.0.0.1:9181\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    connection.send(format!("{method} {target} HTTP/1.1\r\n{fields}\r\n{body}")).await;
    connection.response_to(method).await.expect("an answer")
}

async fn create(proxy: &Proxy) -> Response {
    call(proxy, "POST", CREATE, ASKED).await
}

/// A relay to `api` that prefetches nothing.
fn learning(origin: &Origin, api: &Api) -> Proxy {
    Proxy::with(origin, |config| {
        api.configure(config);
        config.relay.prefetch = false;
    })
}

fn proxy_status(answer: &Response) -> &str {
    answer.header("proxy-status").unwrap_or("")
}

#[tokio::test(flavor = "multi_thread")]
async fn request_and_answer_pass_byte_for_byte_but_for_the_connections_own_fields() {
    let body = "{\"ticket\":\"x\",\r\n \"expire_seconds\" : 60 , \"new\":\"\u{7801}\"}";
    let fields = "Content-Type: application/json; encoding=utf-8\r\nX-One: 1\r\nX-One: 2\r\nConnection: keep-alive, X-Hop\r\n\
                  X-Hop: 1\r\nKeep-Alive: timeout=5\r\n";
    let told = Answer::of(200, fields, body.as_bytes());
    let api = Api::start(move |_| told.clone()).await;
    let origin = Origin::answering(Answer::image()).await;
    let proxy = learning(&origin, &api);
    let target = "/cgi-bin/qrcode/create?a=%2b%zz+&access_token=T_-%E7!*'();:@&=+$,/?";
    let asked = "{\"action_name\":\"QR_STR_SCENE\" ,\t\"scene\":\"\u{95e8}\u{5e97}\\/1\"}\n";
    let mut connection = Connection::open(proxy.relay()).await;
    let head = format!(
        "POST {target} HTTP/1.1\r\nHost: 127.0.0.1:9181\r\nUser-Agent: sdk/1\r\nAccept-Encoding: gzip\r\n\
         Content-Type: application/json\r\nX-Mine: a\r\nX-Mine: b\r\nConnection: X-Gone\r\nX-Gone: 1\r\nTE: trailers\r\n\
         Expect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        asked.len()
    );
    connection.send(head).await;
    let mut stream = connection.into_stream();
    crate::support::app::hear(&mut stream, "HTTP/1.1 100 Continue\r\n\r\n").await;
    let mut connection = Connection::over(stream);
    connection.send(asked).await;
    let got = connection.response().await.unwrap();

    assert_eq!((got.status, got.body.as_slice()), (200, body.as_bytes()));
    let passed: Vec<_> = got.headers.iter().filter(|(name, _)| name != "Date").cloned().collect();
    let line = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        passed,
        [
            line("Content-Type", "application/json; encoding=utf-8"),
            line("X-One", "1"),
            line("X-One", "2"),
            line("Content-Length", &body.len().to_string()),
        ]
    );
    let request = api.requests().remove(0);
    let (head, sent) = request.split_once("\r\n\r\n").unwrap();
    assert_eq!(sent, asked);
    let mut lines: Vec<_> = head.split("\r\n").collect();
    assert_eq!(lines.remove(0), format!("POST {target} HTTP/1.1"));
    lines.sort_unstable();
    let (via, lines): (Vec<_>, Vec<_>) = lines.into_iter().partition(|line| line.starts_with("via: "));
    assert_eq!(via.len(), 1, "what RFC 9110 §7.6.3 wants");
    let (host, length) = (format!("host: {}", api.address), format!("content-length: {}", asked.len()));
    let mut expected = vec![
        "accept-encoding: gzip",
        &length,
        "content-type: application/json",
        &host,
        "user-agent: sdk/1",
        "x-mine: a",
        "x-mine: b",
    ];
    expected.sort_unstable();
    assert_eq!(lines, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_image_after_a_create_is_a_hit() {
    let ticket = tickets::temporary(1, Duration::from_secs(600));
    let api = Api::saying(&created(&ticket, Some(600))).await;
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&origin, |config| api.configure(config));
    assert_eq!(create(&proxy).await.status, 200);
    eventually("the image is there", || proxy.running.reading().own_entries == 1).await;
    let first = proxy.image(&ticket).await;
    assert!(first.status == 200 && first.cache_status().contains("; hit"), "{}", first.cache_status());
    assert_eq!((origin.count(), proxy.running.metrics().tickets_learned.get()), (1, 1));
    create(&proxy).await;
    proxy.image(&ticket).await;
    assert_eq!(origin.count(), 1, "made again, it is held already");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefetch_that_comes_too_early_is_tried_once_more_and_its_404_is_not_remembered() {
    let api = Api::saying(&created(OPAQUE, Some(600))).await;
    let script = |number, _: &str| if number == 0 { Answer::of(404, "", b"no") } else { Answer::image() };
    let origin = Origin::start(script).await;
    let proxy = Proxy::with(&origin, |config| api.configure(config));
    create(&proxy).await;
    origin.has_been_asked(1).await;
    // Joins, and waits for the second answer.
    let joined = proxy.image(OPAQUE).await;
    assert_eq!((joined.status, joined.body), (200, jpeg()));
    assert_eq!(origin.count(), 2);
    assert!(proxy.image(OPAQUE).await.cache_status().contains("; hit"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefetch_that_meets_two_404s_leaves_nothing_behind() {
    let api = Api::saying(&created(OPAQUE, Some(600))).await;
    let script = |number, _: &str| if number < 2 { Answer::of(404, "", b"no") } else { Answer::image() };
    let origin = Origin::start(script).await;
    let proxy = Proxy::with(&origin, |config| api.configure(config));
    create(&proxy).await;
    origin.has_been_asked(2).await;
    eventually("the prefetch is over", || proxy.running.reading().fills == 0).await;
    assert_eq!(proxy.running.reading().negative_entries, 0);
    assert_eq!(proxy.image(OPAQUE).await.status, 200);
    assert_eq!(origin.count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learned_end_caps_an_image_whose_ticket_says_nothing() {
    let api = Api::saying(&created(OPAQUE, Some(60))).await;
    let origin = Origin::answering(Answer::image()).await;
    let proxy = learning(&origin, &api);
    create(&proxy).await;
    proxy.image(OPAQUE).await;
    proxy.hands.advance(Duration::from_secs(30));
    let living = proxy.image(OPAQUE).await;
    assert!(living.cache_status().contains("; hit"), "{}", living.cache_status());
    let told = living.header("cache-control").unwrap();
    let left: u64 = told.split("max-age=").nth(1).unwrap().parse().unwrap();
    assert!(left <= 30, "a browser is told what is left: {told}");
    assert!(living.header("ticket-expires").is_some());
    proxy.hands.advance(Duration::from_secs(31));
    let dead = proxy.image(OPAQUE).await;
    assert_eq!(dead.header("cache-control"), Some("no-store"));
    assert!(dead.cache_status().contains("fwd=") && !dead.cache_status().contains("stored;"));
    assert_eq!(origin.count(), 2, "past its end the origin is asked");
    // It stays dead, whatever the origin says.
    proxy.hands.advance(Duration::from_secs(3600));
    assert_eq!(proxy.image(OPAQUE).await.header("cache-control"), Some("no-store"));
    assert_eq!(proxy.running.reading().own_entries + proxy.running.reading().image_entries, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learned_end_applies_to_an_image_held_and_to_a_fill_under_way() {
    let api = Api::saying(&created(OPAQUE, Some(60))).await;
    let origin = Origin::answering(Answer::image()).await;
    let proxy = learning(&origin, &api);
    let before = proxy.image(OPAQUE).await;
    assert!(before.header("ticket-expires").is_none() && before.header("cache-control").unwrap().contains("604800"));
    create(&proxy).await;
    let moved = proxy.image(OPAQUE).await;
    assert!(moved.cache_status().contains("; hit") && moved.header("ticket-expires").is_some());
    eventually("it moved", || {
        let reading = proxy.running.reading();
        (reading.own_entries, reading.image_entries) == (1, 0)
    })
    .await;
    assert_eq!(origin.count(), 1);

    let proxy = learning(&origin, &api);
    origin.hold();
    let asking = async { proxy.image(OPAQUE).await };
    let teaching = async {
        origin.has_been_asked(2).await;
        create(&proxy).await;
        origin.release();
    };
    let (filled, ()) = tokio::join!(asking, teaching);
    assert!(filled.header("ticket-expires").is_some(), "whoever waited is told as well");
    proxy.hands.advance(Duration::from_secs(61));
    assert_eq!(proxy.image(OPAQUE).await.header("cache-control"), Some("no-store"));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_what_is_said_and_what_is_learned_the_earlier_end_counts() {
    let ticket = tickets::temporary(1, Duration::from_secs(60));
    let api = Api::saying(&created(&ticket, Some(2_592_000))).await;
    let origin = Origin::answering(Answer::image()).await;
    let proxy = learning(&origin, &api);
    create(&proxy).await;
    proxy.image(&ticket).await;
    assert!(proxy.image(&ticket).await.cache_status().contains("; hit"));
    proxy.hands.advance(Duration::from_secs(61));
    assert_eq!(proxy.image(&ticket).await.header("cache-control"), Some("no-store"));
}

#[tokio::test(flavor = "multi_thread")]
async fn temporary_and_permanent_scenes_of_both_kinds_are_learned() {
    for (ticket, seconds) in [
        (tickets::temporary(1, Duration::from_secs(2_592_000)), Some(2_592_000)),
        (tickets::permanent(2), None),
        (OPAQUE.to_owned(), Some(0)),
    ] {
        let api = Api::saying(&created(&ticket, seconds)).await;
        let origin = Origin::answering(Answer::image()).await;
        let proxy = Proxy::with(&origin, |config| api.configure(config));
        assert_eq!(create(&proxy).await.text(), created(&ticket, seconds));
        eventually("the image is there", || proxy.running.reading().own_entries == 1).await;
        let image = proxy.image(&ticket).await;
        let has_end = seconds.is_some_and(|seconds| seconds > 0);
        assert!(image.cache_status().contains("; hit") && image.header("ticket-expires").is_some() == has_end);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_good_answer_passes_untouched_and_teaches_nothing() {
    let good = created(OPAQUE, Some(60));
    let answers = [
        answer(r#"{"errcode":40013,"errmsg":"invalid appid"}"#),
        answer(&format!("{{\"errcode\":45009,{}", &good[1..])),
        answer("<html>busy</html>"),
        answer(""),
        Answer::of(201, "", good.as_bytes()),
        Answer::of(503, "Retry-After: 3\r\n", good.as_bytes()),
        Answer::of(302, "Location: http://127.0.0.1:1/\r\n", good.as_bytes()),
        Answer::of(200, "Content-Encoding: br\r\n", good.as_bytes()),
    ];
    let count = answers.len();
    let expected: Vec<_> = answers.iter().map(|answer| answer.bytes.clone()).collect();
    let api = Api::start(move |number| answers[number].clone()).await;
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&origin, |config| api.configure(config));
    for told in expected {
        let got = create(&proxy).await;
        let told = String::from_utf8(told).unwrap();
        let (head, body) = told.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {} ", got.status)), "{head}");
        assert_eq!(got.text(), body);
        for (name, value) in head.split("\r\n").skip(1).map(|line| line.split_once(": ").unwrap()) {
            assert_eq!(got.header(name), Some(value), "{head}");
        }
    }
    assert_eq!((api.count(), origin.count()), (count, 0));
    assert_eq!((proxy.running.reading().own_tickets, proxy.running.metrics().tickets_learned.get()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_host_is_asked_only_when_no_connection_could_be_made() {
    let gone = [Api::saying("").await.stop().await, Api::saying("").await.stop().await];
    let [first, fallback] = [Api::saying(r#"{"errcode":1}"#).await, Api::saying(r#"{"errcode":2}"#).await];
    let origin = Origin::answering(Answer::image()).await;
    let relaying = |url, others: &[_]| {
        let fallback = others.iter().copied().map(api::host).collect();
        Proxy::with(&origin, |config| {
            first.configure(config);
            config.relay.url = api::host(url);
            config.relay.fallback = fallback;
        })
    };
    let proxy = relaying(first.address, &[fallback.address]);
    assert_eq!(create(&proxy).await.text(), r#"{"errcode":1}"#);
    assert_eq!(fallback.count(), 0);
    let proxy = relaying(gone[0], &[gone[1], fallback.address]);
    assert_eq!(create(&proxy).await.text(), r#"{"errcode":2}"#);
    assert!(fallback.requests()[0].contains(&format!("host: {}\r\n", fallback.address)));
    assert!(fallback.requests()[0].ends_with(ASKED));
    let proxy = relaying(gone[0], &[gone[1]]);
    let refused = create(&proxy).await;
    assert_eq!(refused.status, 502);
    assert_eq!(proxy_status(&refused), "ticketgate; error=connection_refused; details=\"api-unreachable\"");
    assert_eq!((first.count(), fallback.count()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_which_a_byte_was_sent_is_never_sent_again() {
    let origin = Origin::answering(Answer::image()).await;
    let fallback = Api::saying("{}").await;
    for (bytes, then, error) in [
        ("", Then::Close, "http_response_incomplete"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{\"ti", Then::Close, "http_response_incomplete"),
        ("rubbish\r\n\r\n", Then::Close, "http_protocol_error"),
    ] {
        let api = Api::start(move |_| Answer::raw(bytes, then)).await;
        let proxy = Proxy::with(&origin, |config| {
            api.configure(config);
            config.relay.fallback = vec![api::host(fallback.address)];
        });
        let lost = create(&proxy).await;
        assert!(lost.status == 502 && proxy_status(&lost).contains(error), "{bytes}: {lost:?}");
        assert_eq!(lost.header("cache-control"), Some("no-store"));
        assert_eq!((api.count(), fallback.count()), (1, 0), "{bytes}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_closes_under_a_call_is_not_a_reason_to_send_it_again() {
    let script = |number| if number == 0 { answer("{}") } else { Answer::raw("", Then::Close) };
    let api = Api::start(script).await;
    let origin = Origin::answering(Answer::image()).await;
    let proxy = learning(&origin, &api);
    assert_eq!(create(&proxy).await.status, 200);
    assert_eq!(create(&proxy).await.status, 502);
    assert_eq!(api.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_says_nothing_is_a_504_and_is_not_asked_again() {
    let origin = Origin::answering(Answer::image()).await;
    let fallback = Api::saying("{}").await;
    let start = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{";
    for (bytes, detail) in [("", "first-byte-timeout"), (start, "answer-timeout")] {
        let api = Api::start(move |_| Answer::raw(bytes, Then::Hang)).await;
        let proxy = Proxy::with(&origin, |config| {
            api.configure(config);
            config.relay.fallback = vec![api::host(fallback.address)];
            config.origin.first_byte_timeout = Duration::from_millis(100);
            config.origin.fill_timeout = Duration::from_millis(200);
        });
        let late = create(&proxy).await;
        assert_eq!(late.status, 504);
        assert!(proxy_status(&late).contains(detail), "{}", proxy_status(&late));
        assert_eq!((api.count(), fallback.count()), (1, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_a_create_have_a_cap_both_ways() {
    let most = 64 * 1024;
    let api = Api::start(move |number| answer(&"x".repeat(most + usize::from(number == 1)))).await;
    let origin = Origin::answering(Answer::image()).await;
    let proxy = learning(&origin, &api);
    let fits = call(&proxy, "POST", CREATE, &"y".repeat(most)).await;
    assert_eq!((fits.status, fits.body.len()), (200, most));
    assert!(api.requests()[0].ends_with(&"y".repeat(most)));
    let beyond = call(&proxy, "POST", CREATE, ASKED).await;
    assert_eq!(beyond.status, 502);
    assert!(proxy_status(&beyond).contains("http_response_body_size"));
    for length in [most + 1, 2 * 1024 * 1024] {
        let refused = call(&proxy, "POST", CREATE, &"y".repeat(length)).await;
        assert_eq!((refused.status, refused.header("connection")), (413, Some("close")), "{length}");
    }
    assert_eq!(api.count(), 2, "what is too long reaches nobody");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stops_coming_is_a_408() {
    for forward in [Forwarded::Create, Forwarded::All] {
        let api = Api::saying("{}").await;
        let origin = Origin::answering(Answer::image()).await;
        let proxy = Proxy::with(&origin, |config| {
            api.configure(config);
            config.relay.forward = forward;
            config.server.timeouts.body = Duration::from_millis(50);
        });
        let target = if forward == Forwarded::All { "/cgi-bin/x?access_token=x" } else { CREATE };
        let mut connection = Connection::open(proxy.relay()).await;
        connection.send(format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{{")).await;
        let overdue = connection.response().await.unwrap();
        assert_eq!((overdue.status, overdue.text()), (408, "the request body stopped coming\n"));
        assert_eq!(api.count(), 0, "no half of a request is taken for one");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_calls_are_relayed_only_when_all_are() {
    let api = Api::start(|_| answer(&"z".repeat(300_000))).await;
    let origin = Origin::answering(Answer::image()).await;
    let proxy = learning(&origin, &api);
    let hint = call(&proxy, "GET", "/cgi-bin/user/get?access_token=x", "").await;
    assert_eq!(hint.status, 404);
    assert!(hint.text().contains("relay.forward = \"all\""), "{}", hint.text());
    let refused = call(&proxy, "GET", CREATE, "").await;
    assert_eq!((refused.status, refused.header("allow")), (405, Some("POST")));
    assert_eq!(call(&proxy, "POST", "/cgi-bin/qrcode/create/?access_token=x", "{}").await.status, 404);
    assert_eq!(api.count(), 0);

    let proxy = Proxy::with(&origin, |config| {
        api.configure(config);
        config.relay.forward = Forwarded::All;
    });
    let target = "/cgi-bin/media/upload?type=image&access_token=x%2F";
    let whole = call(&proxy, "POST", target, &"y".repeat(200_000)).await;
    assert_eq!((whole.status, whole.body.len()), (200, 300_000), "other calls have no cap");
    assert!(api.requests()[0].starts_with(&format!("POST {target} HTTP/1.1\r\n")));
    assert!(api.requests()[0].ends_with(&"y".repeat(200_000)));
    assert_eq!(call(&proxy, "GET", "/cgi-bin/user/get?access_token=x", "").await.status, 200);
    assert_eq!(call(&proxy, "DELETE", CREATE, "").await.status, 200);
    assert_eq!(call(&proxy, "POST", CREATE, ASKED).await.status, 502, "those of create have it here too");
    assert_eq!(proxy.running.reading().own_tickets, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_streams_goes_to_another_host_too_when_no_connection_could_be_made() {
    let gone = Api::saying("").await.stop().await;
    let api = Api::saying("{}").await;
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&origin, |config| {
        api.configure(config);
        config.relay.forward = Forwarded::All;
        config.relay.fallback = vec![api::host(api.address)];
        config.relay.url = api::host(gone);
    });
    let body = "y".repeat(200_000);
    assert_eq!(call(&proxy, "POST", "/cgi-bin/media/upload?access_token=x", &body).await.text(), "{}");
    assert!(api.requests()[0].ends_with(&body));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_comes_round_is_a_508() {
    let origin = Origin::answering(Answer::image()).await;
    let api = Api::saying("{}").await;
    let proxy = learning(&origin, &api);
    create(&proxy).await;
    let request = api.requests().remove(0);
    let via = request.lines().find(|line| line.starts_with("via:")).unwrap();
    let mut connection = Connection::open(proxy.relay()).await;
    let round = connection.request("POST", CREATE, &format!("{via}\r\nContent-Length: 0\r\n")).await;
    assert_eq!(round.status, 508);
    assert_eq!(api.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_relay_is_not_on_the_public_address_nor_images_on_its_own() {
    let origin = Origin::answering(Answer::image()).await;
    let api = Api::saying("{}").await;
    let proxy = learning(&origin, &api);
    let public = proxy.connect().await.request("POST", CREATE, "Content-Length: 0\r\n").await;
    assert_eq!(public.status, 404);
    assert_eq!(call(&proxy, "GET", &tickets::target(&tickets::permanent(1)), "").await.status, 404);
    assert_eq!((api.count(), origin.count()), (0, 0));
    assert_eq!(Proxy::before(&origin).running.addresses().relay, None, "off by default");
}

#[tokio::test(flavor = "multi_thread")]
async fn images_of_own_tickets_outlive_a_flood_of_others() {
    let own = tickets::permanent(1);
    let api = Api::saying(&created(&own, None)).await;
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&origin, |config| {
        api.configure(config);
        config.cache.memory = 2 * 1024 * 1024;
        config.limits.client_misses = None;
        config.limits.origin_fills = None;
    });
    create(&proxy).await;
    eventually("the image is there", || proxy.running.reading().own_entries == 1).await;
    let mut connection = proxy.connect().await;
    for number in 2..1002 {
        assert_eq!(connection.get(&tickets::target(&tickets::permanent(number)), "").await.status, 200);
    }
    let reading = proxy.running.reading();
    assert!(proxy.running.metrics().evictions(Store::Images) > 0 && reading.image_bytes <= 1024 * 1024, "{reading:?}");
    let asked = origin.count();
    assert!(connection.get(&tickets::target(&own), "").await.cache_status().contains("; hit"));
    assert_eq!(origin.count(), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn own_tickets_spend_no_miss_of_a_client() {
    let own: Vec<_> = (0..5).map(tickets::permanent).collect();
    let told = own.clone();
    let api = Api::start(move |number| answer(&created(&told[number], None))).await;
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&origin, |config| {
        api.configure(config);
        config.relay.prefetch = false;
        let burst = NonZeroU32::new(1).unwrap();
        config.limits.client_misses = Some(Policy { rate: 0.01, burst, wait: Duration::ZERO });
    });
    for _ in &own {
        create(&proxy).await;
    }
    for ticket in &own {
        assert_eq!(proxy.image(ticket).await.status, 200);
    }
    assert_eq!(proxy.image(&tickets::permanent(100)).await.status, 200, "the one miss is still there");
    assert_eq!(proxy.image(&tickets::permanent(101)).await.status, 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn own_tickets_have_a_bound() {
    let api = Api::start(|number| answer(&created(&tickets::permanent(u32::try_from(number).unwrap()), None))).await;
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&origin, |config| {
        api.configure(config);
        config.relay.prefetch = false;
        config.tickets.max_own = 3;
    });
    for _ in 0..5 {
        create(&proxy).await;
    }
    assert_eq!(proxy.running.reading().own_tickets, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefetch_spends_the_origins_budget() {
    let api = Api::start(|number| answer(&created(&tickets::permanent(u32::try_from(number).unwrap()), None))).await;
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&origin, |config| {
        api.configure(config);
        let burst = NonZeroU32::new(2).unwrap();
        config.limits.origin_fills = Some(Policy { rate: 0.01, burst, wait: Duration::ZERO });
    });
    for _ in 0..5 {
        assert_eq!(create(&proxy).await.status, 200);
    }
    eventually("the prefetches are over", || proxy.running.reading().fills == 0).await;
    assert_eq!(origin.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_finishes_the_call_under_way_and_takes_no_more() {
    let origin = Origin::answering(Answer::image()).await;
    let api = Origin::answering(answer("{\"errcode\":0}")).await;
    let proxy = Proxy::with(&origin, |config| {
        config.relay.listen = Some("127.0.0.1:0".parse().unwrap());
        config.relay.url = api::host(api.address);
        config.server.drain_delay = Duration::ZERO;
    });
    api.hold();
    let mut idle = Connection::open(proxy.relay()).await;
    let mut busy = Connection::open(proxy.relay()).await;
    busy.send(format!("POST {CREATE} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")).await;
    api.has_been_asked(1).await;
    let relay = proxy.relay();
    proxy.running.drain();
    let refused = async {
        while TcpStream::connect(relay).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, refused).await.expect("the listener closes");
    api.release();
    let answer = busy.response().await.expect("an answer");
    assert_eq!((answer.text(), answer.header("connection")), ("{\"errcode\":0}", Some("close")));
    assert!(idle.is_closed().await);
    let ending = tokio::task::spawn_blocking(|| proxy.running.finish()).await.unwrap();
    assert_eq!(ending, ticketgate::app::Ending::Clean);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_cut_by_the_end_of_the_drain_is_told() {
    let origin = Origin::answering(Answer::image()).await;
    let api = Origin::answering(answer("{}")).await;
    let proxy = Proxy::with(&origin, |config| {
        config.relay.listen = Some("127.0.0.1:0".parse().unwrap());
        config.relay.url = api::host(api.address);
        (config.server.drain_delay, config.server.drain) = (Duration::ZERO, Duration::from_millis(100));
    });
    api.hold();
    let mut busy = TcpStream::connect(proxy.relay()).await.unwrap();
    crate::support::app::say(&mut busy, format!("POST {CREATE} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"))
        .await;
    api.has_been_asked(1).await;
    proxy.running.drain();
    let ending = tokio::task::spawn_blocking(|| proxy.running.finish()).await.unwrap();
    assert_eq!(ending, ticketgate::app::Ending::Cut(1));
    assert!(matches!(busy.read(&mut [0]).await, Ok(0) | Err(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_is_over_at_once_ends_the_relay_too() {
    let origin = Origin::answering(Answer::image()).await;
    let api = Api::saying("{}").await;
    let proxy = learning(&origin, &api);
    // The end comes before the listeners are lost.
    proxy.running.cut_drain_on(std::future::ready(()));
    let ending = tokio::task::spawn_blocking(|| proxy.running.finish()).await.unwrap();
    assert_eq!(ending, ticketgate::app::Ending::Clean);
}
