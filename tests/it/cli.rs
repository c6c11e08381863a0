//! The command as a user runs it: what it prints, where, and its exit codes (S2, S37–S40).

use std::collections::hash_map::RandomState;
use std::fmt::Write as _;
use std::hash::BuildHasher as _;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Output, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::api::{self, Api};
use crate::support::client::Connection;
use crate::support::command::{ON_FREE_PORTS, Server, address, ticketgate};
use crate::support::origin::{Answer, Origin, Then, read_head};
use crate::support::tickets;
use crate::support::tls::{Authority, HTTP_1};

const SAMPLE: &str = "gQH47joAAAAAAAAAASxodHRwOi8vd2VpeGluLnFxLmNvbS9xL2taZ2Z3TVRtNzJXV1Brb3ZhYmJJAAIEZ23sUwMEmm3sUw==";

fn output(arguments: &[&str]) -> Output {
    ticketgate(&TempDir::new().unwrap(), arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_where_it_listens_serves_and_ends_well_on_sigterm() {
    let origin = Origin::answering(Answer::image()).await;
    let url = origin.url();
    let mut arguments = ON_FREE_PORTS.to_vec();
    arguments.extend(["--origin", &url]);
    let mut server = Server::start(&arguments);
    let listening = server.log_line_saying("listening");
    assert_eq!((&listening["tls"], &listening["relay"]), (&"off".into(), &"off".into()));
    let public = address(&listening, "public");
    let target = tickets::target(SAMPLE);
    let answer = Connection::open(public).await.get(&target, "Connection: close\r\nX-Request-Id: mine-1\r\n").await;
    assert_eq!((answer.status, answer.header("x-request-id")), (200, Some("mine-1")));
    let ready =
        Connection::to_operator(address(&listening, "admin")).await.get("/readyz", "Connection: close\r\n").await;
    assert_eq!(ready.status, 200);

    let line = server.log_line();
    for (field, expected) in
        [("route", "image"), ("cache", "miss"), ("ticket", "a4516834"), ("client", "127.0.0.1"), ("id", "mine-1")]
    {
        assert_eq!(line[field], expected, "{line}");
    }
    assert_eq!(line["status"], 200);
    assert!(line["origin_ms"].is_number() && line["took_ms"].is_number(), "{line}");
    assert!(!line.to_string().contains(SAMPLE), "a ticket is a key to its code: {line}");

    server.signal(Signal::TERM);
    // A second signal ends the drain at once.
    server.log_line_saying("draining; a second signal ends it at once");
    server.signal(Signal::INT);
    assert_eq!(server.exit_code(), Some(0), "nothing was open");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_where_it_listens_with_tls_and_that_it_does_not_in_the_clear() {
    let authority = Authority::new();
    authority.install();
    let directory = TempDir::new().unwrap();
    let arguments = ["--listen", "off", "--admin-listen", "127.0.0.1:0"];
    let mut command = ticketgate(&directory, &arguments);
    let variables =
        [("LISTEN", "127.0.0.1:0".into()), ("CERT", authority.file("cert.pem")), ("KEY", authority.file("key.pem"))];
    command.envs(variables.map(|(name, value): (_, std::path::PathBuf)| (format!("TICKETGATE_TLS_{name}"), value)));
    let mut server = Server::run(command, directory);
    let listening = server.log_line_saying("listening");
    assert_eq!(listening["public"], "off");
    let stream = authority.connect(address(&listening, "tls"), &[HTTP_1]).await;
    assert_eq!(Connection::over(stream).get("/", "").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_prints_where_to_look_and_an_image_that_is_a_miss_and_then_a_hit() {
    let directory = TempDir::new().unwrap();
    let mut command = ticketgate(&directory, &["demo", "--listen", "127.0.0.1:0"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let lines: Vec<String> =
        BufReader::new(child.stdout.take().unwrap()).lines().take(11).map(Result::unwrap).collect();
    let after = |mark: &str| lines.iter().find_map(|line| line.split_once(mark)).expect(mark).1;
    let address: SocketAddr = after("http://").split_once('/').unwrap().0.parse().unwrap();
    let image = after("curl -si '").split_once('\'').unwrap().0;
    let target = image.strip_prefix(&format!("http://{address}")).unwrap();
    let mut connection = Connection::open(address).await;
    for expected in ["ticketgate; fwd=uri-miss; fwd-status=200; stored", "ticketgate; hit; ttl="] {
        let answer = connection.get(target, "").await;
        assert!(answer.cache_status().starts_with(expected), "{}", answer.cache_status());
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("image/jpeg")));
    }
    assert!(connection.get("/", "Connection: close\r\n").await.text().contains("<img"));
    let status: SocketAddr = after("status    http://").trim_end_matches('/').parse().unwrap();
    assert!(Connection::to_operator(status).await.get("/", "Connection: close\r\n").await.text().contains("<title>"));
    // A configuration of one's own before the same stand-in.
    let origin = after("TICKETGATE_ORIGIN_URL=").split_once(' ').unwrap().0;
    let program = after("TICKETGATE_RELAY_URL=").split_once(' ').unwrap().1;
    assert!(program.starts_with(concat!(env!("CARGO_BIN_EXE_ticketgate"), " ")), "as it was called: {program}");
    let own = TempDir::new().unwrap();
    let mut command = ticketgate(&own, &ON_FREE_PORTS);
    command.env("TICKETGATE_ORIGIN_URL", origin);
    let mut server = Server::run(command, own);
    let public = self::address(&server.log_line_saying("listening"), "public");
    assert_eq!(Connection::open(public).await.get(target, "Connection: close\r\n").await.status, 200);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn the_start_line_appears_whatever_the_level() {
    let directory = TempDir::new().unwrap();
    let mut command = ticketgate(&directory, &ON_FREE_PORTS);
    command.env("TICKETGATE_LOG_LEVEL", "error").env("TICKETGATE_LOG_FORMAT", "human");
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(line.contains("listening public=127.0.0.1:") && line.contains("tls=off admin=127.0.0.1:"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_names_the_client_that_a_trusted_peer_introduces_and_the_line_that_trusts_it() {
    for (trusted, introduced) in [("loopback", true), ("private", false)] {
        let directory = TempDir::new().unwrap();
        let mut command = ticketgate(&directory, &ON_FREE_PORTS);
        command.env("TICKETGATE_PROXY_PROTOCOL", "true").env("TICKETGATE_TRUSTED_PROXIES", trusted);
        let mut server = Server::run(command, directory);
        let public = address(&server.log_line_saying("listening"), "public");
        for _ in 0..3 {
            let mut connection = Connection::open(public).await;
            connection.send("PROXY TCP4 203.0.113.7 127.0.0.1 1 2\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            assert_eq!(connection.response().await.map(|answer| answer.status), introduced.then_some(404));
        }
        server.signal(Signal::TERM);
        let log = server.log_to_the_end();
        let told = [
            log.matches(r#""client":"203.0.113.7""#).count(),
            log.matches(r#"set trusted_proxies = [\"private\", \"127.0.0.1\"]"#).count(),
        ];
        assert_eq!(told, if introduced { [3, 0] } else { [0, 1] }, "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_access_token_sent_along_by_mistake_is_told_to_nobody() {
    const CANARY: &str = "CANARY_93_TOKEN";
    let origin =
        Origin::start(|number, _| if number == 0 { Answer::image() } else { Answer::of(404, "", b"no") }).await;
    let app = Origin::answering(Answer::of(200, "", b"ok")).await;
    let directory = TempDir::new().unwrap();
    let mut command = ticketgate(&directory, &ON_FREE_PORTS);
    command.args(["--origin", &origin.url(), "--app", &app.url()]).env("TICKETGATE_LOG_LEVEL", "trace");
    command.env("TICKETGATE_LIMITS_CLIENT_MISSES", "{ rate = 0.001, burst = 3, wait = \"0s\" }");
    let mut server = Server::run(command, directory);
    let listening = server.log_line_saying("listening");
    let public = address(&listening, "public");
    let mut told = String::new();
    let targets = [
        format!("/cgi-bin/showqrcode?access_token={CANARY}&ticket={SAMPLE}"),
        format!("/cgi-bin/showqrcode?ticket={SAMPLE}&access_token={CANARY}"),
        format!("/cgi-bin/showqrcode?access_token={CANARY}"),
        format!("/cgi-bin/showqrcode?access_token={CANARY}&ticket=unknown1"),
        format!("/cgi-bin/showqrcode?access_token={CANARY}&ticket=unknown2"),
        format!("/cgi-bin/showqrcode?access_token={CANARY}&ticket=unknown3"),
        format!("/app?access_token={CANARY}"),
        format!("/app&access_token={CANARY}"),
    ];
    for target in &targets {
        let answer = Connection::open(public).await.get(target, "Connection: close\r\n").await;
        write!(told, "{:?} {}", answer.headers, String::from_utf8_lossy(&answer.body)).unwrap();
    }
    let mut rubbish = Connection::open(public).await;
    rubbish.send(format!("GET /?access_token={CANARY} rubbish\r\n\r\n")).await;
    told.push_str(rubbish.response().await.unwrap().text());
    let page =
        Connection::to_operator(address(&listening, "admin")).await.get("/metrics", "Connection: close\r\n").await;
    told.push_str(page.text());
    server.signal(Signal::TERM);
    told.push_str(&server.log_to_the_end());
    assert_eq!(told.matches("\"route\":\"image\"").count(), 6, "the access lines are there: {told}");
    assert!(!told.contains(CANARY), "{told}");
    assert!(origin.heads().iter().all(|head| !head.contains(CANARY)), "nor to the origin");
    assert!(app.heads()[0].contains(CANARY), "the app gets what was sent to it");
}

/// A token that nothing else contains.
fn canary() -> String {
    format!("CANARY{:016x}", RandomState::new().hash_one(0))
}

/// Every way in which a relayed call can end; what was told of it by answers, the operator's pages, the log at its finest and the
/// file of own tickets.
async fn told_of_relaying(token: &str, url: &str, forward: &str) -> String {
    let origin = Origin::answering(Answer::image()).await;
    let directory = TempDir::new().unwrap();
    let mut command = ticketgate(&directory, &ON_FREE_PORTS);
    command.args(["--origin", &origin.url(), "--relay-listen", "127.0.0.1:0"]);
    for (key, value) in [
        ("LOG_LEVEL", "trace"),
        ("LOG_FORMAT", "json"),
        ("RELAY_URL", url),
        ("RELAY_FORWARD", forward),
        ("ORIGIN_FIRST_BYTE_TIMEOUT", "200ms"),
        ("ORIGIN_FILL_TIMEOUT", "400ms"),
        ("ORIGIN_CONNECT_TIMEOUT", "200ms"),
        ("DRAIN_DELAY", "0s"),
        ("TICKETS_STORE", "own.redb"),
    ] {
        command.env(format!("TICKETGATE_{key}"), value);
    }
    let mut server = Server::run(command, directory);
    let listening = server.log_line_saying("listening");
    let relay = address(&listening, "relay");
    let create = format!("/cgi-bin/qrcode/create?access_token={token}");
    let plain = "Content-Length: 2\r\n\r\n{}".to_owned();
    let mut requests: Vec<String> = (0..6).map(|_| format!("POST {create} HTTP/1.1\r\nHost: a\r\n{plain}")).collect();
    let long = "x".repeat(70_000);
    requests.extend([
        format!("GET {create} HTTP/1.1\r\nHost: a\r\n\r\n"),
        format!("GET /cgi-bin/user/get?access_token={token} HTTP/1.1\r\nHost: a\r\n\r\n"),
        format!("GET http://elsewhere.example/cgi-bin/x?access_token={token} HTTP/1.1\r\nHost: a\r\n\r\n"),
        format!("TRACE {create} HTTP/1.1\r\nHost: a\r\n\r\n"),
        format!("POST {create} HTTP/1.1\r\nHost: a\r\nContent-Length: 70000\r\n\r\n{long}"),
        format!("POST {create} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nrubbish\r\n"),
        format!("POST {create} HTTP/1.1\r\nHost: a\r\nVia: {}\r\n{plain}", ["1.1 ticketgate"; 8].join(", ")),
        format!("POST {create} rubbish\r\n\r\n"),
        format!("POST {} HTTP/1.1\r\nHost: a\r\n{plain}", create.replace('?', "&")),
        format!("POST {} HTTP/1.1\r\nHost: a\r\n{plain}", create.replace('?', "%3F")),
        format!("GET /cgi-bin/user/get/{token} HTTP/1.1\r\nHost: a\r\n\r\n").replace(token, &format!("token={token}")),
    ]);
    let mut told = String::new();
    for request in &requests {
        let mut connection = Connection::open(relay).await;
        connection.send(request).await;
        if let Some(answer) = connection.response().await {
            write!(told, "{:?} {}", answer.headers, String::from_utf8_lossy(&answer.body)).unwrap();
        }
    }
    let mut gone = Connection::open(relay).await;
    gone.send(format!("POST {create} HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{{")).await;
    drop(gone);
    let ticket = format!("/inspect?ticket={}", tickets::encode(SAMPLE));
    for page in ["/metrics", "/", "/status", "/failures", "/images", "/config", &ticket] {
        let page = Connection::to_operator(address(&listening, "admin")).await.get(page, "Connection: close\r\n").await;
        assert_eq!(page.status, 200, "{}", page.text());
        told.push_str(page.text());
    }
    server.signal(Signal::TERM);
    told.push_str(&server.log_to_the_end());
    told.push_str(&String::from_utf8_lossy(&std::fs::read(server.directory().join("own.redb")).unwrap()));
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn an_access_token_reaches_nobody_but_the_api() {
    let token = canary();
    let script = |number: usize| match number {
        0 => api::answer(&api::created(SAMPLE, Some(60))),
        1 => api::answer(r#"{"errcode":40001,"errmsg":"invalid credential"}"#),
        2 => Answer::raw("", Then::Close),
        3 => Answer::raw("rubbish\r\n\r\n", Then::Close),
        4 => Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{", Then::Hang),
        5 => Answer::raw("", Then::Hang),
        _ => Answer::raw("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", Then::Close),
    };
    let (one, all, gone) = (Api::start(script).await, Api::start(script).await, Api::saying("").await.stop().await);
    let runs = [
        (format!("http://{}", one.address), "create"),
        (format!("http://{}", all.address), "all"),
        (format!("http://{gone}"), "create"),
        (format!("https://{}", one.address), "create"),
        ("https://nowhere.invalid".to_owned(), "all"),
    ];
    for (url, forward) in &runs {
        let told = told_of_relaying(&token, url, forward).await;
        assert!(told.contains(r#""route":"relay","path":"/cgi-bin/qrcode/create","status":"#), "{told}");
        assert!(told.contains("ticketgate_relay_requests_total{status=\"4xx\"}"), "{told}");
        assert!(!told.contains(&token), "{told}");
        assert!(!told.contains("access_token"), "{told}");
        if url.contains(&one.address.to_string()) && url.starts_with("http:") {
            assert!(told.contains(r#","ticket":"a4516834""#), "{told}");
        }
    }
    for api in [&one, &all] {
        assert!(api.count() >= 6);
        assert!(api.requests().iter().all(|request| request.lines().next().unwrap().contains(&token)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_token_is_told_to_nobody_whatever_is_asked_with_it() {
    let token = canary();
    let directory = TempDir::new().unwrap();
    let mut command = ticketgate(&directory, &ON_FREE_PORTS);
    command.envs([
        ("TICKETGATE_LOG_LEVEL", "trace"),
        ("TICKETGATE_LOG_FORMAT", "json"),
        ("TICKETGATE_ADMIN_TOKEN", &token),
    ]);
    let mut server = Server::run(command, directory);
    let listening = server.log_line_saying("listening");
    let basic = STANDARD.encode(format!("operator:{token}"));
    let ways = [
        (format!("Authorization: Bearer {token}\r\n"), true),
        (format!("Authorization: Basic {basic}\r\n"), true),
        (format!("Authorization: Bearer {token}x\r\n"), false),
        (format!("Authorization: Digest {token}\r\n"), false),
        (format!("X-Token: {token}\r\n"), false),
        (format!("Authorization: Bearer {token}\r\nOrigin: http://{token}.example\r\n"), true),
    ];
    let calls =
        ["GET /", "GET /config", "GET /status", "GET /metrics", "GET /inspect?ticket=x", "POST /reload", "POST /purge"];
    let (mut told, mut let_in) = (String::new(), 0);
    for (way, _) in &ways {
        for call in calls {
            for listener in ["admin", "public"] {
                let mut connection = Connection::open(address(&listening, listener)).await;
                let fields = format!("Host: localhost\r\nConnection: close\r\nContent-Length: 0\r\n{way}");
                connection.send(format!("{call} HTTP/1.1\r\n{fields}\r\n")).await;
                let answer = connection.response().await.expect("an answer");
                let_in += usize::from(call == "GET /config" && answer.status == 200);
                write!(told, "{:?} {}", answer.headers, String::from_utf8_lossy(&answer.body)).unwrap();
            }
        }
    }
    assert_eq!(let_in, ways.iter().filter(|(_, good)| *good).count());
    server.signal(Signal::TERM);
    told.push_str(&server.log_to_the_end());
    assert!(!told.contains(&token) && !told.contains(&basic), "{told}");
}

#[test]
fn a_bad_configuration_exits_2_and_names_file_line_and_valid_values() {
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("ticketgate.toml"), "listen = \"nowhere\"\n[cache]\nmemry = 1\n").unwrap();
    for command in ["serve", "check"] {
        let output = ticketgate(&directory, &[command]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{command}");
        let told = text(&output.stderr);
        assert!(told.contains("ticketgate.toml:1: listen: \"nowhere\" is no address; valid: "), "{told}");
        assert!(told.contains("ticketgate.toml:3: unknown key cache.memry; did you mean cache.memory?"), "{told}");
        assert!(told.ends_with("2 mistakes in the configuration\n"), "{told}");
    }
}

#[test]
fn bad_usage_exits_2_and_a_port_in_use_1() {
    assert_eq!(output(&["--listn", "x"]).status.code(), Some(2));
    assert_eq!(output(&["frobnicate"]).status.code(), Some(2));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = output(&["--listen", &taken.local_addr().unwrap().to_string(), "--admin-listen", "off"]);
    assert_eq!(refused.status.code(), Some(1));
    let told = text(&refused.stderr);
    assert!(told.contains("cannot listen on 127.0.0.1:") && told.contains("(listen)"), "{told}");
}

#[test]
fn a_valid_configuration_is_said_to_be_so() {
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("own.toml"), "listen = \"127.0.0.1:81\"\n").unwrap();
    let named = ticketgate(&directory, &["check", "--config", "own.toml"]).output().unwrap();
    assert_eq!((named.status.code(), text(&named.stdout)), (Some(0), "own.toml: the configuration is valid\n"));
    let before = ticketgate(&directory, &["--config", "own.toml", "check"]).output().unwrap();
    assert_eq!((before.status.code(), &before.stdout), (Some(0), &named.stdout), "flags may stand before the command");
    let senseless = ticketgate(&directory, &["--config", "own.toml", "inspect", SAMPLE]).output().unwrap();
    assert_eq!(senseless.status.code(), Some(2));
    let by_variable = ticketgate(&directory, &["check"]).env("TICKETGATE_CONFIG", "missing.toml").output().unwrap();
    assert_eq!(by_variable.status.code(), Some(2));
}

#[test]
fn check_passes_on_what_a_start_would_warn_of() {
    let directory = TempDir::new().unwrap();
    let check = |flags: &[&str]| {
        let output = ticketgate(&directory, &[&["check"], flags].concat()).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        text(&output.stderr).to_owned()
    };
    assert_eq!(check(&["--listen", "127.0.0.1:81"]), "");
    let open = check(&["--listen", "192.0.2.1:81", "--admin-listen", "192.0.2.1:82", "--relay-listen", "192.0.2.1:83"]);
    for doubt in
        ["tickets.allow is \"any\"", "admin.listen is off loopback and has no token", "the relay is not on loopback"]
    {
        assert!(open.contains(doubt), "{open}");
    }
}

#[test]
fn check_tells_where_one_client_could_take_every_place() {
    let directory = TempDir::new().unwrap();
    // A client's share is 1024. Nobody is counted on loopback, where all are trusted.
    for (listen, most, told) in
        [("192.0.2.1:81", "1024", true), ("192.0.2.1:81", "1025", false), ("127.0.0.1:81", "1024", false)]
    {
        let mut command = ticketgate(&directory, &["check", "--listen", listen]);
        let output = command.env("TICKETGATE_LIMITS_MAX_CONNECTIONS", most).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        let doubts = text(&output.stderr);
        let tells = doubts.contains("limits.max_connections_per_client is not below limits.max_connections");
        assert_eq!(tells, told, "{listen}, {most}: {doubts}");
    }
}

#[test]
fn inspect_tells_people_and_programs() {
    let people = output(&["inspect", SAMPLE]);
    assert_eq!(people.status.code(), Some(0));
    assert!(text(&people.stdout).contains("url         http://weixin.qq.com/q/kZgfwMTm72WWPkovabbI\n"));
    let programs = output(&["inspect", "--json", SAMPLE]);
    let report: serde_json::Value = serde_json::from_slice(&programs.stdout).unwrap();
    assert_eq!(report["expires"], "2014-08-14T08:04:42Z");
    assert_eq!(report["short"], "a4516834");
    let bad = output(&["inspect", "a%00b"]);
    assert_eq!(bad.status.code(), Some(1));
    assert!(text(&bad.stderr).starts_with("ticketgate: the ticket contains control or non-ASCII characters"));
}

#[test]
fn help_shows_an_example_for_each_command() {
    assert!(text(&output(&["--help"]).stdout).contains("ticketgate --app http://127.0.0.1:3000"));
    for command in ["serve", "demo", "check", "inspect", "health", "register"] {
        let help = output(&[command, "--help"]);
        assert!(text(&help.stdout).contains("Example"), "{command}");
        assert_eq!(help.status.code(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_megabytes_pass_each_way_in_bounded_memory() {
    const LENGTH: u64 = 100_000_000;
    let app = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", app.local_addr().unwrap());
    let arguments = ["--listen=127.0.0.1:0", "--admin-listen=off", "--app", &url];
    let mut server = Server::start(&arguments);
    let public = address(&server.log_line_saying("listening"), "public");
    let before = server.peak();
    // Echoes: each piece is under way twice.
    let behind = tokio::spawn(async move {
        let (mut stream, _) = app.accept().await.unwrap();
        let mut body = Vec::new();
        read_head(&mut stream, &mut body).await.unwrap();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&body).await.unwrap();
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut (&mut read).take(LENGTH - body.len() as u64), &mut write).await.unwrap();
    });
    let mut client = tokio::net::TcpStream::connect(public).await.unwrap();
    let head = format!("POST /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {LENGTH}\r\n\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
    let (mut read, mut write) = client.into_split();
    let sending = tokio::spawn(async move {
        tokio::io::copy(&mut tokio::io::repeat(b'x').take(LENGTH), &mut write).await.unwrap();
        write
    });
    let came = tokio::io::copy(&mut read, &mut tokio::io::sink()).await.unwrap();
    assert!((LENGTH + 1..LENGTH + 2000).contains(&came), "a head and all of the body: {came}");
    sending.await.unwrap();
    behind.await.unwrap();
    let grown = server.peak() - before;
    assert!(grown < 8 * 1024, "{grown} kB");
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_the_rest_of_a_proxy_header_takes_no_processor_time() {
    let directory = TempDir::new().unwrap();
    let mut command = ticketgate(&directory, &ON_FREE_PORTS);
    command.env("TICKETGATE_PROXY_PROTOCOL", "true").env("TICKETGATE_TIMEOUTS_FIRST_BYTE", "1s");
    let mut server = Server::run(command, directory);
    let mut half = Connection::open(address(&server.log_line_saying("listening"), "public")).await;
    let before = server.processor_time();
    half.send("PROXY TCP4 203.0.113.7").await;
    assert!(half.is_closed().await, "after a second");
    let taken = server.processor_time() - before;
    assert!(taken < 30, "{taken} of 100");
}
