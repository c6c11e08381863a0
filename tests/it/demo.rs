//! The demo (S41): a stand-in that answers as WeChat is documented to, a page, and the real proxy between them.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};
use ticketgate::app::Surroundings;
use ticketgate::clock::{Clock, Hands};
use ticketgate::demo::{Demo, qr};
use ticketgate::ticket::Ticket;

use crate::support::client::{Connection, Response};
use crate::support::scanner::Grey;
use crate::support::tickets::{self, encode, target};

struct Show {
    demo: Demo,
    hands: Arc<Hands>,
}

impl Show {
    fn start() -> Self {
        let (clock, hands) = Clock::adjustable();
        let surroundings = Surroundings { clock, ..Surroundings::default() };
        Self { demo: Demo::start("127.0.0.1:0".parse().unwrap(), surroundings).unwrap(), hands }
    }

    /// Through the proxy.
    async fn get(&self, target: &str) -> Response {
        Connection::open(self.demo.address()).await.get(target, "Connection: close\r\n").await
    }

    /// From the stand-in, past the proxy.
    async fn weixin(&self, target: &str) -> Response {
        Connection::open(self.demo.stand_in()).await.get(target, "").await
    }

    async fn post(&self, target: &str, body: &str) -> Response {
        let mut connection = Connection::open(self.demo.stand_in()).await;
        let length = body.len();
        connection.send(format!("POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}")).await;
        connection.response().await.expect("an answer")
    }

    async fn create(&self, body: Value) -> Value {
        let answer = self.post("/cgi-bin/qrcode/create?access_token=TOKEN", &body.to_string()).await;
        assert_eq!(answer.status, 200);
        serde_json::from_slice(&answer.body).unwrap()
    }

    async fn temporary(&self, expire_seconds: u32) -> (String, String) {
        let scene = json!({ "scene": { "scene_str": "test" } });
        let body = json!({ "expire_seconds": expire_seconds, "action_name": "QR_STR_SCENE", "action_info": scene });
        let created = self.create(body).await;
        (text(&created["ticket"]), text(&created["url"]))
    }

    /// The page's `<img>` of a card, as the page wrote it.
    fn source(page: &Response, card: &str) -> String {
        let (_, rest) = page.text().split_once(&format!("data-card=\"{card}\"")).expect(card);
        let (_, rest) = rest.split_once("<img src=\"").unwrap();
        rest.split_once('"').unwrap().0.to_owned()
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

fn limit(scene: &Value) -> Value {
    let name = if scene["scene_id"].is_null() { "QR_LIMIT_STR_SCENE" } else { "QR_LIMIT_SCENE" };
    json!({ "action_name": name, "action_info": { "scene": scene } })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_scanner_reads_every_url_back(code in "[0-9A-Za-z_-]{20,22}") {
        let url = format!("http://weixin.qq.com/q/{code}");
        let picture = Grey::of(&qr::draw(&url).unwrap());
        prop_assert_eq!((picture.width, picture.height), (430, 430));
        prop_assert_eq!(picture.scan(), url);
    }

    #[test]
    fn a_picture_is_as_heavy_as_wechats(code in "[0-9A-Za-z]{20}") {
        let weight = qr::draw(&format!("http://weixin.qq.com/q/{code}")).unwrap().len();
        prop_assert!((26_000..=30_000).contains(&weight), "{} bytes", weight);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stand_ins_picture_carries_the_documented_fields_and_no_others() {
    let show = Show::start();
    let (ticket, url) = show.temporary(60).await;
    let answer = show.weixin(&target(&ticket)).await;
    let (date, expires) = (answer.header("date").unwrap(), answer.header("expires").unwrap());
    let length = answer.body.len().to_string();
    let mut fields: Vec<_> = answer.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    fields.sort_unstable();
    let documented = [
        ("Accept-Ranges", "bytes"),
        ("Cache-Control", "max-age=604800"),
        ("Connection", "keep-alive"),
        ("Content-Length", length.as_str()),
        ("Content-Type", "image/jpg"),
        ("Date", date),
        ("Expires", expires),
        ("Server", "nginx/1.4.1"),
    ];
    assert_eq!((answer.status, fields.as_slice()), (200, documented.as_slice()));
    let local = expires.strip_suffix(" +0800").expect("WeChat's local time");
    let read = |date: &str| httpdate::parse_http_date(date).unwrap();
    let (expires, date) = (read(&format!("{local} GMT")), read(date));
    assert_eq!(expires.duration_since(date).unwrap(), Duration::from_secs(604_800 + 8 * 3600));
    assert_eq!(Grey::of(&answer.body).scan(), url);
}

#[tokio::test(flavor = "multi_thread")]
async fn create_answers_as_documented() {
    let show = Show::start();
    let body = r#"{"expire_seconds": 604800, "action_name": "QR_SCENE", "action_info": {"scene": {"scene_id": 123}}}"#;
    let answer = show.post("/cgi-bin/qrcode/create?access_token=TOKEN", body).await;
    let start = r#"{"ticket":"gQ"#;
    let end = r#"==","expire_seconds":604800,"url":"http:\/\/weixin.qq.com\/q\/"#;
    assert!(answer.text().starts_with(start) && answer.text().contains(end), "{}", answer.text());
    let created: Value = serde_json::from_slice(&answer.body).unwrap();
    let facts = Ticket::from_text(&text(&created["ticket"])).unwrap().facts().expect("a well-formed ticket");
    assert_eq!(facts.url, text(&created["url"]));
    assert_eq!(facts.expires(), Some(facts.created + Duration::from_secs(604_800)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permanent_ticket_has_no_end_and_is_the_same_for_the_same_scene() {
    let show = Show::start();
    let door = limit(&json!({ "scene_str": "door" }));
    let created = show.create(door.clone()).await;
    assert_eq!(created.get("expire_seconds"), None);
    let ticket = text(&created["ticket"]);
    assert_eq!(Ticket::from_text(&ticket).unwrap().facts().unwrap().expires(), None);
    show.hands.advance(Duration::from_secs(400 * 24 * 3600));
    assert_eq!(show.create(door).await, created);
    assert_ne!(show.create(limit(&json!({ "scene_id": 100_000 }))).await, created);
    assert_eq!(show.weixin(&target(&ticket)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn create_objects_with_wechats_codes_and_status_200() {
    let show = Show::start();
    let with = "/cgi-bin/qrcode/create?access_token=TOKEN";
    let good = limit(&json!({ "scene_id": 1 })).to_string();
    let objections = [
        ("/cgi-bin/qrcode/create", good.as_str(), 40001),
        ("/cgi-bin/qrcode/create?access_token=", &good, 40001),
        (with, "", 44002),
        (with, "{", 47001),
        (with, "access_token=TOKEN", 47001),
        (with, r#"{"action_info":{"scene":{"scene_id":1}}}"#, 40052),
        (with, r#"{"action_name":"QR_CODE","action_info":{"scene":{"scene_id":1}}}"#, 40052),
        (with, r#"{"action_name":"QR_SCENE"}"#, 40053),
        (with, &"x".repeat(20_000), 45002),
    ];
    for (target, body, code) in objections {
        let answer = show.post(target, body).await;
        let told: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!((answer.status, &told["errcode"]), (200, &json!(code)), "{target} {body:.60}");
        assert!(told["errmsg"].is_string() && told.get("ticket").is_none());
    }
    let get = show.weixin(with).await;
    assert!(get.text().contains("43002"), "{}", get.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn scenes_and_lives_have_their_documented_limits() {
    let show = Show::start();
    let long = |letters: usize| json!({ "scene_str": "漢".repeat(letters) });
    for scene in [json!({ "scene_id": 0 }), json!({ "scene_id": 100_001 }), json!({}), long(0), long(65)] {
        assert_eq!(show.create(limit(&scene)).await["errcode"], 40053, "{scene}");
    }
    assert!(show.create(limit(&long(64))).await["ticket"].is_string());
    let lasting = |scene_id: u64, seconds: u64| {
        let scene = json!({ "scene": { "scene_id": scene_id } });
        json!({ "expire_seconds": seconds, "action_name": "QR_SCENE", "action_info": scene })
    };
    for (scene, seconds) in [(1, 0), (1, 2_592_001), (0, 60), (1 << 32, 60)] {
        assert_eq!(show.create(lasting(scene, seconds)).await["errcode"], 40053, "{scene} {seconds}");
    }
    assert_eq!(show.create(lasting((1 << 32) - 1, 2_592_000)).await["expire_seconds"], 2_592_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stand_in_knows_only_what_it_issued_and_only_when_properly_encoded() {
    let show = Show::start();
    let (ticket, _) = show.temporary(604_920).await;
    assert!(ticket.contains('+') && ticket.contains('/'));
    let unknown = [
        format!("/cgi-bin/showqrcode?ticket={ticket}"),
        target(&encode(&ticket)),
        target(&tickets::permanent(1)),
        "/cgi-bin/showqrcode?ticket=".to_owned(),
        "/cgi-bin/showqrcode".to_owned(),
        "/".to_owned(),
    ];
    for target in unknown {
        let answer = show.weixin(&target).await;
        assert_eq!((answer.status, answer.body.len(), answer.header("content-type")), (404, 0, None), "{target}");
    }
    assert_eq!(show.weixin(&target(&ticket)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_ticket_is_gone_everywhere() {
    let show = Show::start();
    let (ticket, _) = show.temporary(30).await;
    assert_eq!(show.get(&target(&ticket)).await.status, 200);
    show.hands.advance(Duration::from_secs(30));
    assert_eq!(show.weixin(&target(&ticket)).await.status, 404);
    assert_eq!(show.get(&target(&ticket)).await.status, 404);
    assert_eq!(show.get(&format!("{}&again=1", target(&ticket))).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_comes_through_the_proxy_scans_and_is_a_hit_the_second_time() {
    let show = Show::start();
    let (ticket, url) = show.temporary(60).await;
    let first = show.get(&target(&ticket)).await;
    assert_eq!((first.status, first.header("content-type")), (200, Some("image/jpeg")));
    assert!(first.cache_status().contains("fwd=uri-miss"), "{}", first.cache_status());
    assert_eq!(Grey::of(&first.body).scan(), url);
    let second = show.get(&target(&ticket)).await;
    assert!(second.cache_status().contains("; hit"), "{}", second.cache_status());
    assert_eq!(second.body, first.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn three_spellings_of_one_ticket_are_one_call_to_wechat() {
    let show = Show::start();
    let page = show.get("/").await;
    let spellings = ["bare", "encoded", "twice"].map(|card| Show::source(&page, card));
    assert!(spellings[0].contains('+') && spellings[1].contains("%2B") && spellings[2].contains("%252B"));
    let mut codes = Vec::new();
    for spelling in &spellings {
        let answer = show.get(spelling).await;
        assert_eq!(answer.status, 200, "{spelling}");
        codes.push(answer.body);
    }
    assert!(codes.iter().all(|code| *code == codes[0]));
    assert_eq!(show.demo.figures().origin_images, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_tickets_that_wechat_issued_and_one_that_it_did_not() {
    let show = Show::start();
    let page = show.get("/").await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(!page.text().contains("{{"), "every blank is filled in");
    for (card, status) in [("brief", 200), ("permanent", 200), ("broken", 404)] {
        assert_eq!(show.get(&Show::source(&page, card)).await.status, status, "{card}");
    }
    let again = show.get("/").await;
    for (card, kept) in [("bare", true), ("permanent", true), ("brief", false)] {
        assert_eq!(Show::source(&page, card) == Show::source(&again, card), kept, "{card}");
    }
    show.hands.advance(Duration::from_secs(6 * 24 * 3600));
    assert_ne!(Show::source(&show.get("/").await, "bare"), Show::source(&page, "bare"), "renewed before its end");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_policy_lets_the_browser_load_the_codes_and_nothing_else() {
    let show = Show::start();
    let mut connection = Connection::open(show.demo.address()).await;
    connection.send("GET / HTTP/1.1\r\nHost: localhost:8080\r\n\r\n").await;
    let page = connection.response().await.unwrap();
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
    assert!(policy.contains("img-src 'self' http://localhost:8080 http://127.0.0.1:8080;"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(page.header("cache-control"), Some("no-store"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_figures_add_up() {
    let show = Show::start();
    let page = show.get("/").await;
    for card in ["bare", "encoded", "twice", "brief", "permanent", "broken", "broken"] {
        show.get(&Show::source(&page, card)).await;
    }
    let answer = show.get("/demo/figures").await;
    let figures: Value = serde_json::from_slice(&answer.body).unwrap();
    // The second broken one is answered by the remembered 404, which is neither.
    let expected = json!({ "hits": 2, "misses": 4, "refused": 0, "origin_images": 4, "origin_creates": 3 });
    assert_eq!(figures, expected);
    assert_eq!(figures, serde_json::to_value(show.demo.figures()).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_reaches_the_limit_and_is_let_in_again() {
    let show = Show::start();
    let (ticket, _) = show.temporary(3600).await;
    let mut connection = Connection::open(show.demo.address()).await;
    let mut answers = Vec::new();
    let refused = loop {
        let answer = connection.request("HEAD", &target(&ticket), "").await;
        if answer.status == 429 || answers.len() > 1000 {
            break answer;
        }
        answers.push(answer);
    };
    assert!(answers.len() >= 150, "nobody is refused within the budget");
    assert!(answers[0].header("ratelimit").unwrap().starts_with("\"client\";r=149;t="));
    assert_eq!(refused.header("ratelimit-policy"), Some("\"client\";q=150;w=15"));
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert!(show.demo.figures().refused >= 1);
    show.hands.advance(Duration::from_secs(15));
    assert_eq!(connection.request("HEAD", &target(&ticket), "").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_app_takes_only_what_it_has() {
    let show = Show::start();
    assert_eq!(show.get("/favicon.ico").await.status, 404);
    assert_eq!(show.get("/demo/icon.svg").await.header("content-type"), Some("image/svg+xml"));
    let mut connection = Connection::open(show.demo.address()).await;
    let refused = connection.request("DELETE", "/", "").await;
    assert_eq!((refused.status, refused.header("allow")), (405, Some("GET, HEAD")));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_demos_in_one_process_know_nothing_of_each_other() {
    let (one, other) = (Show::start(), Show::start());
    let (ticket, _) = one.temporary(60).await;
    assert_eq!(one.get(&target(&ticket)).await.status, 200);
    assert_eq!(other.get(&target(&ticket)).await.status, 404);
    assert_eq!((one.demo.figures().origin_creates, other.demo.figures().origin_creates), (1, 0));
    drop(one);
    assert_eq!(other.get("/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_ends_cleanly_and_takes_its_neighbours_along() {
    let show = Show::start();
    let (proxy, weixin) = (show.demo.address(), show.demo.stand_in());
    assert_eq!(show.get("/").await.status, 200);
    show.demo.running().drain();
    let ending = tokio::task::spawn_blocking(|| show.demo.finish()).await.unwrap();
    assert_eq!(ending, ticketgate::app::Ending::Clean);
    for address in [proxy, weixin] {
        assert!(tokio::net::TcpStream::connect(address).await.is_err(), "{address} is closed");
    }
}

#[test]
fn the_address_for_people_can_be_visited() {
    let demo = Demo::start("0.0.0.0:0".parse().unwrap(), Surroundings::default()).unwrap();
    assert_eq!(demo.url(), format!("http://127.0.0.1:{}/", demo.address().port()));
}
