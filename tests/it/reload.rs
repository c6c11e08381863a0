//! Another configuration is put in force without a restart, and loses nothing (S38). Who may ask for it, the operator's
//! listener says (see also `ticketgate::admin::guard`).

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use ticketgate::admin::token::Token;
use ticketgate::admin::{Operated as _, Reloaded};
use ticketgate::app::reload::NotReloaded;
use ticketgate::config::Config;
use ticketgate::limit::{Policy, Trusted};

use crate::support::api::Api;
use crate::support::client::{Connection, Response};
use crate::support::command::{Server, address};
use crate::support::load::{Load, Refused};
use crate::support::origin::{Answer, Origin, jpeg};
use crate::support::proxy::Proxy;
use crate::support::tickets;
use crate::support::tls::{Authority, HTTP_1};

/// A proxy, and the configuration that it was started with.
fn started(origin: &Origin, change: impl FnOnce(&mut Config)) -> (Proxy, Config) {
    let mut started = Config::default();
    let proxy = Proxy::with(origin, |config| {
        change(config);
        started = config.clone();
    });
    (proxy, started)
}

fn applied(proxy: &Proxy, config: &Config) -> Vec<&'static str> {
    let Reloaded { applied, restart } = proxy.running.reload().apply(config.clone()).unwrap();
    assert!(restart.is_empty(), "{restart:?}");
    applied
}

fn policy(rate: f64, burst: u32) -> Policy {
    Policy { rate, burst: NonZeroU32::new(burst).unwrap(), wait: Duration::ZERO }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_changed_holds_for_the_next_request_of_an_open_connection() {
    let (origin, other) = (Origin::answering(Answer::image()).await, Origin::answering(Answer::image()).await);
    let (proxy, mut config) = started(&origin, |_| {});
    let (first, second) = (tickets::target(&tickets::permanent(1)), tickets::target(&tickets::permanent(2)));
    let mut client = proxy.connect().await;
    assert_eq!(
        client.get(&first, "Origin: https://a.example\r\n").await.header("access-control-allow-origin"),
        Some("*")
    );
    config.cors.allow_origins = vec!["https://shop.example".to_owned()];
    config.tickets.strict = true;
    config.routes.health_path = Some("/up".to_owned());
    config.origin.url = other.url().parse().unwrap();
    config.limits.client_requests = Some(policy(0.001, 3));
    let keys = ["cors.allow_origins", "health_path", "limits.client_requests", "origin.url", "tickets.strict"];
    assert_eq!(applied(&proxy, &config), keys);

    assert_eq!(client.get("/up", "").await.text(), "ok\n");
    assert_eq!(client.get("/cgi-bin/showqrcode?ticket=opaque", "").await.status, 404, "tickets.strict");
    let answer = client.get(&first, "Origin: https://a.example\r\n").await;
    assert_eq!(answer.header("access-control-allow-origin"), None);
    assert!(answer.cache_status().contains("hit"), "the cache is the same: {}", answer.cache_status());
    assert_eq!(client.get(&second, "").await.status, 200);
    assert_eq!((origin.count(), other.count()), (1, 1), "the other origin is asked");
    let answers = [client.get(&first, "").await.status, client.get(&first, "").await.status];
    assert_eq!(answers, [200, 429], "three at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_that_stays_is_not_refilled() {
    let origin = Origin::answering(Answer::image()).await;
    let (proxy, mut config) = started(&origin, |config| config.limits.client_requests = Some(policy(0.001, 2)));
    let target = tickets::target(&tickets::permanent(1));
    for _ in 0..2 {
        assert_eq!(proxy.get(&target).await.status, 200);
    }
    config.cors.allow_origins = vec![];
    applied(&proxy, &config);
    assert_eq!(proxy.get(&target).await.status, 429);
    config.limits.client_requests = Some(policy(0.001, 1));
    applied(&proxy, &config);
    assert_eq!((proxy.get(&target).await.status, proxy.get(&target).await.status), (200, 429));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_under_way_is_joined_across_a_reload() {
    let (origin, other) = (Origin::answering(Answer::image()).await, Origin::answering(Answer::image()).await);
    let (proxy, mut config) = started(&origin, |_| {});
    origin.hold();
    let ask = format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", tickets::target(&tickets::permanent(1)));
    let (mut before, mut after) = (proxy.connect().await, proxy.connect().await);
    before.send(&ask).await;
    origin.has_been_asked(1).await;
    config.origin.url = other.url().parse().unwrap();
    applied(&proxy, &config);
    after.send(&ask).await;
    crate::support::eventually("the second waits too", || proxy.running.reading().waiting_for_fills == 2).await;
    origin.release();
    let answers = [before.response().await.unwrap(), after.response().await.unwrap()];
    assert!(answers.iter().all(|answer| answer.body == jpeg()));
    assert_eq!((origin.count(), other.count()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_app_is_another_one_from_the_next_request_on() {
    let nobody = Origin::answering(Answer::image()).await;
    let (old, new) =
        (Origin::answering(Answer::of(200, "", b"old")).await, Origin::answering(Answer::of(200, "", b"new")).await);
    let (proxy, mut config) = started(&nobody, |config| config.forward.app = Some(old.url().parse().unwrap()));
    let (mut client, mut waiting) = (proxy.connect().await, proxy.connect().await);
    assert_eq!(client.get("/page", "").await.text(), "old");
    old.hold();
    waiting.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
    old.has_been_asked(2).await;
    config.forward.app = Some(new.url().parse().unwrap());
    assert_eq!(applied(&proxy, &config), ["app"]);
    assert_eq!(client.get("/page", "").await.text(), "new");
    old.release();
    assert_eq!(waiting.response().await.unwrap().text(), "old", "what is under way ends where it began");
    config.forward.app = None;
    applied(&proxy, &config);
    assert_eq!(client.get("/page", "").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn timeouts_caps_and_trust_hold_for_connections_that_come_later() {
    let origin = Origin::answering(Answer::image()).await;
    let app = Origin::answering(Answer::of(200, "", b"ok")).await;
    let (proxy, mut config) = started(&origin, |config| config.forward.app = Some(app.url().parse().unwrap()));
    let mut open = proxy.connect().await;
    assert_eq!(open.get("/a", "X-Forwarded-For: 203.0.113.9\r\n").await.status, 200);
    config.server.timeouts.keep_alive = Duration::from_millis(50);
    config.clients.trusted_proxies = vec![Trusted::Net("10.0.0.0/8".parse().unwrap())];
    (config.server.max_connections, config.server.max_connections_per_client) = (77, 2);
    let keys =
        ["limits.max_connections", "limits.max_connections_per_client", "timeouts.keep_alive", "trusted_proxies"];
    let most = || proxy.running.metrics().exposition(proxy.running.reading()).lines().find_map(most_connections);
    assert_eq!(most(), Some(10_000));
    assert_eq!(applied(&proxy, &config), keys);
    assert_eq!(most(), Some(77));
    let mut later = proxy.connect().await;
    assert_eq!(later.get("/b", "X-Forwarded-For: 203.0.113.9\r\n").await.status, 200);
    let forwarded = |number: usize| app.heads()[number].to_ascii_lowercase().contains("203.0.113.9");
    assert!(forwarded(0) && !forwarded(1), "loopback is not trusted any more");
    assert!(later.is_closed().await, "by the shorter keep_alive");
    assert_eq!(open.get("/c", "").await.status, 200, "the one before it has its own");
    let (mut second, mut third) = (proxy.connect().await, proxy.connect().await);
    second.send("GET /d HTTP/1.1\r\nHost: a\r\n").await;
    assert!(third.is_closed().await, "loopback is counted now");
}

fn most_connections(line: &str) -> Option<u64> {
    line.strip_prefix("ticketgate_connections_max ")?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_a_restart_is_named_and_stays() {
    let origin = Origin::answering(Answer::image()).await;
    let (proxy, mut config) = started(&origin, |_| {});
    config.server.listen = Some("127.0.0.1:1".parse().unwrap());
    config.server.tls.redirect = Some("127.0.0.1:2".parse().unwrap());
    config.server.tls.cert = Some("cert.pem".into());
    config.cache.memory = 1 << 20;
    config.cache.default_ttl = Duration::from_secs(1);
    let reloaded = proxy.running.reload().apply(config).unwrap();
    assert_eq!(reloaded.applied, ["cache.default_ttl"]);
    assert_eq!(reloaded.restart, ["cache.memory", "listen", "tls.cert", "tls.redirect"]);
    let shown = proxy.running.reload().shown();
    assert_eq!((&shown["listen"], &shown["cache.memory"]), (&json!("127.0.0.1:0"), &json!(256 << 20)));
    assert_eq!(shown["cache.default_ttl"], "1s");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_make_no_sense_without_the_restart_it_needs_is_refused_as_a_whole() {
    let origin = Origin::answering(Answer::image()).await;
    let (proxy, mut config) = started(&origin, |config| config.cache.memory = 16 << 20);
    (config.cache.memory, config.cache.max_image) = (256 << 20, 32 << 20);
    config.tickets.strict = true;
    let refused = proxy.running.reload().apply(config).unwrap_err();
    assert!(matches!(refused, NotReloaded::Mixture(_)) && refused.to_string().contains("cache.max_image"), "{refused}");
    assert_eq!(proxy.get("/cgi-bin/showqrcode?ticket=opaque").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_relay_calls_another_host_from_the_next_call_on() {
    let origin = Origin::answering(Answer::image()).await;
    let (one, two) = (Api::saying("{}").await, Api::saying("{}").await);
    let (proxy, mut config) = started(&origin, |config| one.configure(config));
    let mut app = Connection::open(proxy.relay()).await;
    let call = "POST /cgi-bin/qrcode/create?access_token=a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}";
    app.send(call).await;
    assert_eq!(app.response().await.unwrap().status, 200);
    two.configure(&mut config);
    config.relay.listen = Some("127.0.0.1:0".parse().unwrap());
    assert_eq!(applied(&proxy, &config), ["relay.url"]);
    app.send(call).await;
    assert_eq!(app.response().await.unwrap().status, 200);
    assert_eq!((one.count(), two.count()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_certificate_is_shown_and_a_bad_pair_changes_nothing_at_all() {
    let origin = Origin::answering(Answer::image()).await;
    let (authority, other) = (Authority::new(), Authority::new());
    authority.install();
    other.install();
    let (proxy, mut config) = started(&origin, |config| authority.configure(config));
    config.server.tls.key = Some(other.file("key.pem"));
    config.tickets.strict = true;
    let refused = proxy.running.reload().apply(config.clone()).unwrap_err();
    assert!(matches!(refused, NotReloaded::Certificate(_)), "{refused}");
    assert!(refused.to_string().contains("it is not the key of the first certificate"), "{refused}");
    let mut old = Connection::over(authority.connect(proxy.tls(), &[HTTP_1]).await);
    let opaque = "/cgi-bin/showqrcode?ticket=opaque";
    assert_eq!(old.get(opaque, "").await.status, 200, "tickets.strict is not in force either");

    config.server.tls.cert = Some(other.file("cert.pem"));
    assert_eq!(applied(&proxy, &config), ["tickets.strict", "tls.cert", "tls.key"]);
    let mut new = Connection::over(other.connect(proxy.tls(), &[HTTP_1]).await);
    assert_eq!(new.get(opaque, "").await.status, 404);
    assert_eq!(old.get(opaque, "").await.status, 404, "the connection is still open");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_twenty_thousand_requests_a_reload_loses_none() {
    let origin = Origin::answering(Answer::image()).await;
    let apps =
        [Origin::answering(Answer::of(200, "", b"one")).await, Origin::answering(Answer::of(200, "", b"two")).await];
    let (proxy, mut config) = started(&origin, |config| {
        config.limits.client_requests = None;
        config.forward.app = Some(apps[0].url().parse().unwrap());
    });
    let load = Load::start(proxy.address(), &tickets::target(&tickets::permanent(1)), 12, Refused::Fails);
    let beside = Load::start(proxy.address(), "/app", 4, Refused::Fails);
    let mut reloads = 0;
    while load.answered() < 20_000 {
        load.goes_on_for(500).await;
        config.tickets.strict = !config.tickets.strict;
        config.origin.max_concurrent = 65 - config.origin.max_concurrent % 2;
        config.server.max_connections = 10_001 - config.server.max_connections % 2;
        config.cors.allow_origins = vec![format!("https://{reloads}.example")];
        config.forward.app = Some(apps[reloads % 2].url().parse().unwrap());
        config.log.level = [tracing::Level::INFO, tracing::Level::WARN][reloads % 2];
        applied(&proxy, &config);
        reloads += 1;
    }
    assert!(load.stop().await >= 20_000 && reloads >= 20, "{reloads} reloads");
    assert!(beside.stop().await > 100 && apps.iter().all(|app| app.count() > 10), "both apps were asked");
    assert_eq!(origin.count(), 1);
}

async fn get(public: SocketAddr, path: &str) -> Response {
    Connection::open(public).await.get(path, "Connection: close\r\n").await
}

async fn post_reload(admin: SocketAddr) -> Response {
    Connection::to_operator(admin).await.request("POST", "/reload", "Connection: close\r\n").await
}

fn listening(server: &mut Server) -> (SocketAddr, SocketAddr) {
    let line = server.log_line_saying("listening");
    (address(&line, "public"), address(&line, "admin"))
}

const FREE_PORTS: &str = "listen = \"127.0.0.1:0\"\nadmin.listen = \"127.0.0.1:0\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_and_the_operator_have_the_file_read_again() {
    let mut server = Server::configured(FREE_PORTS);
    let (public, admin) = listening(&mut server);
    assert_eq!(get(public, "/up").await.status, 404);
    let file = server.directory().join("ticketgate.toml");
    std::fs::write(&file, format!("{FREE_PORTS}health_path = \"/up\"\n[log]\nformat = \"human\"\n")).unwrap();
    server.signal(Signal::HUP);
    let line = server.log_line_saying("the configuration was reloaded");
    assert_eq!((&line["applied"], &line["needs_restart"]), (&json!("health_path"), &json!("log.format")));
    assert_eq!(get(public, "/up").await.status, 200);

    std::fs::write(&file, format!("{FREE_PORTS}[log]\naccess = false\n")).unwrap();
    let answer = post_reload(admin).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let told: Value = serde_json::from_str(answer.text()).unwrap();
    assert_eq!(told, json!({ "applied": ["health_path", "log.access"], "restart": [] }));
    assert_eq!(get(public, "/up").await.status, 404);
    server.signal(Signal::TERM);
    let log = server.log_to_the_end();
    assert_eq!(log.matches("\"path\":\"/up\"").count(), 1, "the last request has no access line: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_keeps_the_old_configuration_and_says_why() {
    let mut server = Server::configured(&format!("{FREE_PORTS}health_path = \"/up\"\n"));
    let (public, admin) = listening(&mut server);
    let file = server.directory().join("ticketgate.toml");
    std::fs::write(&file, format!("{FREE_PORTS}health_path = \"/down\"\n[cache]\nmemry = 1\n")).unwrap();
    server.signal(Signal::HUP);
    let line = server.log_line_that("why", |line| line["level"] == "WARN");
    let why = line["message"].as_str().unwrap();
    assert!(
        why.starts_with("the configuration stays as it was: ") && why.contains("did you mean cache.memory?"),
        "{why}"
    );
    let answer = post_reload(admin).await;
    assert_eq!(answer.status, 422);
    let told: Value = serde_json::from_str(answer.text()).unwrap();
    assert!(told["error"].as_str().unwrap().contains("ticketgate.toml:5: unknown key cache.memry"), "{told}");
    assert_eq!(get(public, "/up").await.status, 200);
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    assert_eq!(post_reload(admin).await.status, 422);
    assert_eq!(get(public, "/up").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_operator_may_change_or_read_the_configuration() {
    let origin = Origin::answering(Answer::image()).await;
    let (proxy, mut config) = started(&origin, |config| config.admin.token = Token::of("s3cret-one"));
    let admin = proxy.admin();
    let host = format!("Host: {admin}\r\n");
    let ask = async |method: &str, path: &str, headers: &str| {
        let mut connection = Connection::open(admin).await;
        connection.send(format!("{method} {path} HTTP/1.1\r\n{headers}\r\n")).await;
        connection.response_to(method).await.expect("an answer")
    };
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(ask("GET", path, &host).await.status, 200, "{path}");
        assert_eq!(ask("GET", path, "Host: evil.example\r\n").await.status, 403, "{path}");
    }
    let refused = ask("GET", "/config", &host).await;
    assert_eq!(refused.status, 401);
    assert!(refused.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("www-authenticate")));
    let with = |token: &str| format!("{host}Authorization: Bearer {token}\r\n");
    let foreign = format!("{}Origin: http://evil.example\r\n", with("s3cret-one"));
    assert_eq!(ask("POST", "/reload", &foreign).await.status, 403);
    assert_eq!(ask("POST", "/reload", &with("s3cret-two")).await.status, 401);
    let wrong = ask("GET", "/reload", &with("s3cret-one")).await;
    assert_eq!((wrong.status, wrong.header("allow")), (405, Some("POST")));
    assert_eq!(ask("POST", "/reload", &with("s3cret-one")).await.status, 422, "started without sources");

    config.admin.token = Token::of("s3cret-two");
    assert_eq!(applied(&proxy, &config), ["admin.token"]);
    assert_eq!(ask("GET", "/config", &with("s3cret-one")).await.status, 401);
    let shown = ask("GET", "/config", &with("s3cret-two")).await;
    let shown: Value = serde_json::from_str(shown.text()).unwrap();
    assert_eq!((&shown["admin.token"], &shown["origin.url"]), (&json!("***"), &json!(format!("{}/", origin.url()))));
}
