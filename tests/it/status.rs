//! What the operator's status page is made of: `/status`, `/failures`, `/images`, `/image`, `/refresh`, and the page itself.

use std::time::Duration;

use serde_json::{Value, json};
use ticketgate::admin::token::Token;
use ticketgate::ticket::Ticket;

use crate::support::client::{Connection, Response};
use crate::support::origin::{Answer, Origin, jpeg};
use crate::support::proxy::Proxy;
use crate::support::tickets;

async fn look(proxy: &Proxy, target: &str) -> Response {
    Connection::to_operator(proxy.admin()).await.get(target, "").await
}

async fn told(proxy: &Proxy, target: &str) -> Value {
    let answer = look(proxy, target).await;
    assert_eq!(answer.status, 200, "{target}: {}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    answer.json()
}

async fn post(proxy: &Proxy, target: &str, body: &Value) -> Response {
    Connection::to_operator(proxy.admin()).await.post(target, &body.to_string()).await
}

fn short(ticket: &str) -> String {
    Ticket::from_text(ticket).unwrap().short().to_string()
}

fn column<'a>(listing: &'a Value, name: &str) -> Vec<&'a Value> {
    listing["rows"].as_array().unwrap().iter().map(|row| &row[name]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_counts_what_was_asked_and_calls_nobody() {
    let origin = Origin::start(|_, head| match head {
        head if head.contains("layout") => Answer::of(404, "", b"no"),
        _ => Answer::image(),
    })
    .await;
    let proxy = Proxy::before(&origin);
    proxy.image(&tickets::permanent(1)).await;
    proxy.image(&tickets::permanent(1)).await;
    proxy.image("layout").await;
    proxy.get("/cgi-bin/showqrcode").await;
    proxy.get("/elsewhere").await;
    let status = told(&proxy, "/status").await;
    let counted = &status["since_start"];
    let counts = ["requests", "images", "hits", "misses", "failures", "refused", "origin_calls"];
    assert_eq!(counts.map(|name| counted[name].as_u64().unwrap()), [5, 4, 1, 2, 2, 0, 2], "{counted:#}");
    for latency in ["hit_ms", "origin_ms"] {
        let [half, most] = ["p50", "p99"].map(|share| counted[latency][share].as_f64().unwrap());
        assert!(0.0 < half && half <= most && most < 20_000.0, "{counted:#}");
    }
    assert_eq!((&status["version"], &status["draining"]), (&json!(env!("CARGO_PKG_VERSION")), &json!(false)));
    assert_eq!(status["stores"]["image"]["capacity"], 256 << 20);
    assert_eq!((&status["stores"]["own"], &status["certificate"]), (&Value::Null, &Value::Null));
    assert_eq!(status["stores"]["negative"]["capacity"], 16 << 20);
    assert_eq!(status["limits"]["refusals"], json!({ "client_requests": 0, "client_misses": 0, "origin_fills": 0 }));
    assert_eq!(status["origin"], json!({ "circuit_open": false, "skew_ms": 0, "fills_under_way": 0 }));
    assert!(status["connections"]["open"].is_u64() && status["uptime_seconds"].is_u64());
    told(&proxy, "/images").await;
    told(&proxy, "/failures").await;
    look(&proxy, "/").await;
    assert_eq!(origin.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_opened_now_sees_the_seconds_before() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::before(&origin);
    for _ in 0..5 {
        proxy.image(&tickets::permanent(1)).await;
    }
    let sum = |status: &Value, name: &str| -> u64 {
        let samples = status["history"]["samples"].as_array().unwrap().iter();
        samples.map(|sample| sample[name].as_u64().unwrap()).sum()
    };
    let status = loop {
        let status = told(&proxy, "/status").await;
        if sum(&status, "images") == 5 {
            break status;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!((sum(&status, "hits"), sum(&status, "misses"), sum(&status, "origin_calls")), (4, 1, 1));
    assert!(status["last_minute"]["hit_ms"]["p50"].is_f64(), "{status:#}");
    let taken = status["history"]["taken"].as_u64().unwrap();
    let later = told(&proxy, &format!("/status?after={taken}")).await;
    let new = later["history"]["taken"].as_u64().unwrap() - taken;
    assert_eq!(later["history"]["samples"].as_array().unwrap().len() as u64, new);
    assert!(new < 600 && status["history"]["kept"] == 600);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_proxy_says_so_while_it_can() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::before(&origin);
    proxy.running.drain();
    assert_eq!(told(&proxy, "/status").await["draining"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_failures_are_told_with_what_the_log_says_of_them() {
    let origin = Origin::start(|_, head| match head {
        head if head.contains("layout") => Answer::of(404, "", b"no"),
        _ => Answer::of(200, "Content-Type: text/html\r\n", b"<html>"),
    })
    .await;
    let proxy = Proxy::before(&origin);
    let from = "X-Forwarded-For: 203.0.113.7\r\nX-Request-Id: order-1\r\n";
    let secret = "&access_token=CANARY";
    proxy.get_with(&format!("{}{secret}", tickets::target("layout")), from).await;
    proxy.image(&tickets::permanent(1)).await;
    proxy.get("/cgi-bin/showqrcode?ticket=").await;
    proxy.get("/no/app").await;
    let answer = look(&proxy, "/failures").await;
    let (text, failures) = (answer.text().to_owned(), answer.json());
    assert_eq!(failures["all"], 3, "a path without an app is no image: {failures:#}");
    assert_eq!(failures["by_reason"], json!({ "empty-ticket": 1, "not-an-image": 1, "unknown-ticket": 1 }));
    let last = failures["last"].as_array().unwrap();
    let first = &last[0];
    assert_eq!(
        (&first["number"], &first["reason"], &first["status"], &first["client"], &first["request_id"]),
        (&json!(1), &json!("unknown-ticket"), &json!(404), &json!("203.0.113.7"), &json!("order-1"))
    );
    assert_eq!(first["ticket"], short("layout"));
    assert!(first["at_ms"].as_i64().unwrap() > 1_700_000_000_000);
    assert_eq!((&last[1]["reason"], &last[1]["status"]), (&json!("not-an-image"), &json!(502)));
    assert_eq!((&last[2]["reason"], &last[2]["ticket"]), (&json!("empty-ticket"), &Value::Null));
    for hidden in ["CANARY", "layout", &tickets::permanent(1), "access_token"] {
        assert!(!text.contains(hidden), "{hidden}: {text}");
    }
    let news = told(&proxy, "/failures?after=2").await;
    assert_eq!((news["all"].clone(), news["last"].as_array().unwrap().len()), (json!(3), 1));
    proxy.image(&tickets::permanent(1)).await;
    assert_eq!(told(&proxy, "/failures?after=3").await["last"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_flood_of_failures_grows_the_list() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::before(&origin);
    let mut client = proxy.connect().await;
    for number in 0..260 {
        let refused = client.get("/cgi-bin/showqrcode?ticket=", &format!("X-Request-Id: {number}\r\n")).await;
        assert_eq!(refused.status, 400);
    }
    let failures = told(&proxy, "/failures").await;
    let last = failures["last"].as_array().unwrap();
    assert_eq!((failures["all"].clone(), last.len()), (json!(260), 200));
    assert_eq!((&last[0]["request_id"], &last[199]["request_id"]), (&json!("60"), &json!("259")));
    assert_eq!(origin.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_image_is_shown_and_no_failure() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::before(&origin);
    let ticket = tickets::temporary(1, Duration::from_secs(60));
    proxy.hands.advance(Duration::from_secs(61));
    assert_eq!(proxy.image(&ticket).await.status, 200);
    assert_eq!(proxy.image(&ticket).await.status, 200);
    assert_eq!(told(&proxy, "/failures").await["all"], 0);
    let metrics = Connection::to_operator(proxy.admin()).await.get("/metrics", "").await;
    assert!(!metrics.text().contains("ticketgate_image_failures_total{"), "{}", metrics.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_images_that_are_held_are_told_with_their_lives_and_hits() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&origin, |config| config.relay.listen = Some("127.0.0.1:0".parse().unwrap()));
    let (permanent, temporary) = (tickets::permanent(1), tickets::temporary(2, Duration::from_secs(600)));
    for _ in 0..4 {
        proxy.image(&permanent).await;
    }
    proxy.image(&temporary).await;
    proxy.image("opaque").await;
    proxy.running.reload().shared().fills.learn(&Ticket::from_text(&temporary).unwrap(), None);
    proxy.hands.advance(Duration::from_secs(5));
    let listing = told(&proxy, "/images").await;
    assert_eq!((&listing["held"], &listing["matching"], &listing["next"]), (&json!(3), &json!(3), &Value::Null));
    let rows = listing["rows"].as_array().unwrap();
    let row = |ticket: &str| rows.iter().find(|row| row["ticket"] == ticket).unwrap();
    let first = &rows[0];
    assert_eq!(
        (&first["ticket"], &first["short"], &first["hits"]),
        (&json!(permanent), &json!(short(&permanent)), &json!(3)),
        "the most hits first"
    );
    assert_eq!((&first["bytes"], &first["content_type"]), (&json!(2000), &json!("image/jpeg")));
    assert_eq!((&first["state"], &first["age_seconds"], &first["own"]), (&json!("fresh"), &json!(5), &json!(false)));
    let kinds = [&permanent, &temporary, "opaque"].map(|ticket| row(ticket)["kind"].clone());
    assert_eq!(kinds, [json!("permanent"), json!("temporary"), json!("unknown")]);
    assert_eq!(row(&temporary)["own"], true);
    let left = row(&temporary)["remaining_ms"].as_u64().unwrap();
    assert!((590_000..=595_000).contains(&left), "{left}");
    assert_eq!(row(&permanent)["expires_ms"], Value::Null);
    assert_eq!(told(&proxy, "/images?order=ending").await["rows"][0]["ticket"], temporary.as_str());
    proxy.hands.advance(Duration::from_secs(600));
    assert_eq!(told(&proxy, "/images").await["held"], 2, "what has ended is not held");
    assert!(proxy.image(&permanent).await.cache_status().contains("hit"));
    assert_eq!(told(&proxy, "/images").await["rows"][0]["hits"], 4, "looking counts as no hit");
    assert_eq!(origin.count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_finds_a_ticket_in_whatever_form_it_is_pasted() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::before(&origin);
    for number in 0..20 {
        proxy.image(&tickets::permanent(number)).await;
    }
    let ticket = tickets::permanent(7);
    let target = tickets::target(&ticket);
    let code = format!("http://weixin.qq.com/q/{:022}", 7);
    let forms = [
        ticket.clone(),
        ticket.trim_end_matches('=').to_owned(),
        format!("  {ticket}\n"),
        target.clone(),
        format!("https://shop.example{target}&x=1#y"),
        format!("/cgi-bin/showqrcode?ticket={}", tickets::encode(&tickets::encode(&ticket))),
        short(&ticket),
        short(&ticket).to_uppercase(),
        short(&ticket)[..7].to_owned(),
        code,
    ];
    for form in forms {
        let listing = told(&proxy, &format!("/images?search={}", tickets::encode(&form))).await;
        assert_eq!(column(&listing, "ticket"), [&json!(ticket)], "{form}");
        assert_eq!((&listing["held"], &listing["matching"]), (&json!(20), &json!(1)));
    }
    assert_eq!(told(&proxy, "/images?search=weixin.qq.com").await["matching"], 20);
    assert_eq!(told(&proxy, "/images?search=").await["matching"], 20);
    let nobody = tickets::encode(&tickets::permanent(99));
    assert_eq!(told(&proxy, &format!("/images?search={nobody}")).await["rows"], json!([]));
    assert_eq!(origin.count(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_images_show_each_once_in_every_order() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::before(&origin);
    let mut client = proxy.connect().await;
    for number in 0..25 {
        let life = Duration::from_secs(100 + u64::from(number * 37 % 25));
        let ticket = if number % 2 == 0 { tickets::permanent(number) } else { tickets::temporary(number, life) };
        for _ in 0..=number % 5 {
            client.get(&tickets::target(&ticket), "").await;
        }
    }
    for order in ["hits", "newest", "ending", "largest"] {
        let (mut seen, mut after) = (Vec::new(), String::new());
        loop {
            let target = format!("/images?order={order}&limit=10&after={}", tickets::encode(&after));
            let listing = told(&proxy, &target).await;
            seen.extend(listing["rows"].as_array().unwrap().iter().cloned());
            assert_eq!((&listing["held"], &listing["matching"]), (&json!(25), &json!(25)));
            let Some(next) = listing["next"].as_str() else { break };
            assert_eq!(listing["rows"].as_array().unwrap().len(), 10);
            after = next.to_owned();
        }
        let mut shown: Vec<_> = seen.iter().map(|row| row["ticket"].to_string()).collect();
        shown.sort_unstable();
        shown.dedup();
        assert_eq!((seen.len(), shown.len()), (25, 25), "{order}");
        let number = |row: &Value, name: &str| row[name].as_u64().unwrap_or(u64::MAX);
        match order {
            "hits" => assert!(seen.is_sorted_by_key(|row| u64::MAX - number(row, "hits"))),
            "newest" => assert!(seen.is_sorted_by_key(|row| number(row, "age_seconds"))),
            "ending" => assert!(seen.is_sorted_by_key(|row| number(row, "expires_ms"))),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_is_shown_as_it_is_held_and_never_fetched() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::before(&origin);
    let ticket = tickets::permanent(1);
    let target = format!("/image?ticket={}", tickets::encode(&ticket));
    let missing = look(&proxy, &target).await;
    assert_eq!((missing.status, missing.header("content-type")), (404, Some("text/plain; charset=utf-8")));
    assert_eq!(look(&proxy, "/image").await.status, 400);
    assert_eq!(origin.count(), 0);
    proxy.image(&ticket).await;
    let shown = look(&proxy, &target).await;
    assert_eq!((shown.status, &shown.body), (200, &jpeg()));
    let fields = ["content-type", "x-content-type-options", "cache-control", "cross-origin-resource-policy"];
    assert_eq!(fields.map(|name| shown.header(name).unwrap()), ["image/jpeg", "nosniff", "no-store", "same-origin"]);
    assert_eq!(shown.header("content-security-policy"), Some("default-src 'none'; sandbox"));
    let head = Connection::to_operator(proxy.admin()).await.request("HEAD", &target, "").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(told(&proxy, "/images").await["rows"][0]["hits"], 0);
    assert_eq!(origin.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_keeps_the_old_image_until_the_new_one_is_there() {
    let newer = [jpeg(), b"newer".to_vec()].concat();
    let again = newer.clone();
    let origin = Origin::start(move |number, _| match number {
        0 => Answer::image(),
        1 => Answer::of(200, "Cache-Control: max-age=600\r\n", &again),
        2 => Answer::of(503, "", b"no"),
        _ => Answer::of(404, "", b"no"),
    })
    .await;
    let proxy = Proxy::before(&origin);
    let ticket = tickets::permanent(1);
    let body = json!({ "tickets": [ticket] });
    proxy.image(&ticket).await;
    proxy.image(&ticket).await;
    origin.hold();
    let (asked, refreshed) = tokio::join!(
        async {
            origin.has_been_asked(2).await;
            let meanwhile = proxy.image(&ticket).await;
            origin.release();
            meanwhile
        },
        post(&proxy, "/refresh", &body)
    );
    assert!(asked.cache_status().contains("hit"), "{}", asked.cache_status());
    assert_eq!(asked.body, jpeg());
    let line = refreshed.json();
    assert_eq!((&line["result"], &line["bytes"]), (&json!("stored"), &json!(newer.len())), "{line}");
    assert_eq!(proxy.image(&ticket).await.body, newer);
    assert_eq!(told(&proxy, "/images").await["rows"][0]["hits"], 3, "those of the old image too");
    let failed = post(&proxy, "/refresh", &body).await.json();
    assert_eq!(failed["result"], "failed");
    assert_eq!(proxy.image(&ticket).await.body, newer, "a failure takes nothing away");
    let unknown = post(&proxy, "/refresh", &body).await.json();
    assert_eq!((&unknown["result"], &unknown["reason"]), (&json!("failed"), &json!("unknown-ticket")));
    assert_eq!(proxy.image(&ticket).await.status, 404, "WeChat knows it no more");
    assert_eq!(origin.count(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_asks_with_the_validators_that_the_origin_gave() {
    let origin = Origin::start(|_, head| match head {
        head if head.to_ascii_lowercase().contains("if-none-match") => {
            Answer::of(304, "Cache-Control: max-age=600\r\n", b"")
        }
        _ => Answer::image_with("ETag: \"1\"\r\nCache-Control: max-age=600\r\n"),
    })
    .await;
    let proxy = Proxy::before(&origin);
    let ticket = tickets::permanent(1);
    proxy.image(&ticket).await;
    proxy.hands.advance(Duration::from_secs(300));
    let line = post(&proxy, "/refresh", &json!({ "tickets": [ticket] })).await.json();
    assert_eq!(line["result"], "stored", "{line}");
    assert_eq!(told(&proxy, "/images").await["rows"][0]["age_seconds"], 0);
    assert_eq!(origin.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_make_no_sense_are_refused_with_the_reason() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::before(&origin);
    let long = format!("/images?search={}", "x".repeat(4097));
    for (target, why) in [
        ("/status?after=x", "number"),
        ("/status?since=1", "there are: after"),
        ("/failures?after=-1", "number"),
        ("/failures?after=1&after=2", "twice"),
        ("/images?limit=0", "from 1 to 200"),
        ("/images?limit=201", "from 1 to 200"),
        ("/images?order=best", "hits, newest, ending, largest"),
        ("/images?after=elsewhere", "`next`"),
        ("/images?q=1", "search, order, after, limit"),
        ("/images?search=%FF", "UTF-8"),
        (&long, "4096"),
    ] {
        let refused = look(&proxy, target).await;
        assert_eq!(refused.status, 400, "{target}: {}", refused.text());
        assert!(refused.text().contains(why) && refused.text().ends_with('\n'), "{target}: {}", refused.text());
    }
    for (method, call, allow) in
        [("POST", "/", "GET, HEAD"), ("POST", "/images", "GET, HEAD"), ("GET", "/refresh", "POST")]
    {
        let refused = Connection::to_operator(proxy.admin()).await.request(method, call, "").await;
        assert_eq!((refused.status, refused.header("allow")), (405, Some(allow)), "{method} {call}");
    }
    assert_eq!(post(&proxy, "/refresh", &json!({ "tickets": [""] })).await.status, 400);
    assert_eq!(origin.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_may_load_nothing_of_others_and_shows_no_secret() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&origin, |config| config.admin.token = Some(Token::of("open-sesame").unwrap()));
    proxy.image(&tickets::permanent(1)).await;
    let calls = ["/", "/icon.svg", "/status", "/failures", "/images", "/image?ticket=x"];
    for call in calls {
        let barred = look(&proxy, call).await;
        assert_eq!(barred.status, 401, "{call}");
        let ways: Vec<_> =
            barred.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("www-authenticate")).collect();
        assert_eq!(
            ways.iter().map(|(_, way)| way.as_str()).collect::<Vec<_>>(),
            ["Basic realm=\"ticketgate\"", "Bearer"]
        );
    }
    // "x:open-sesame"
    let basic = "Authorization: Basic eDpvcGVuLXNlc2FtZQ==\r\n";
    let mut operator = Connection::to_operator(proxy.admin()).await;
    let page = operator.get("/", basic).await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
    assert!(!policy.contains("unsafe") && policy.contains("frame-ancestors 'none'") && !policy.contains("http"));
    assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
    let text = page.text().replace("http://www.w3.org/2000/svg", "");
    for outside in
        ["https://", "http://", "\"//", "@import", "url(", "innerHTML", "insertAdjacent", " onclick", " style="]
    {
        assert!(!text.contains(outside), "{outside}");
    }
    for call in ["/", "/icon.svg", "/status", "/failures", "/images"] {
        let answer = operator.get(call, basic).await;
        assert_eq!(answer.status, 200, "{call}");
        assert!(!answer.text().contains("open-sesame"), "{call}");
    }
    let foreign = operator.get("/status", &format!("{basic}Origin: http://evil.example\r\n")).await;
    assert_eq!(foreign.header("access-control-allow-origin"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_look_through_the_cache_at_once_and_all_are_told() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::before(&origin);
    proxy.image(&tickets::permanent(1)).await;
    let looks = (0..20).map(|_| async { told(&proxy, "/images").await["held"].clone() });
    assert_eq!(futures_util::future::join_all(looks).await, vec![json!(1); 20]);
}
