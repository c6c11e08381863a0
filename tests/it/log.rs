//! Access lines (S39): what they say of each request, and what they never say (S35).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

use crate::support::app::say;
use crate::support::client::Connection;
use crate::support::command::{Server, address};
use crate::support::origin::{Answer, Origin, jpeg, read_head};
use crate::support::tickets;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

struct Scene {
    server: Server,
    public: SocketAddr,
    client: Connection,
    origin: Origin,
    app: TcpListener,
    toml: String,
}

/// A server before an origin and an app whose every byte the test says, with this in `[log]`.
async fn scene(log: &str) -> Scene {
    let origin = Origin::answering(Answer::image()).await;
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (at, url) = (app.local_addr().unwrap(), origin.url());
    let toml = format!(
        "listen = \"127.0.0.1:0\"\napp = \"http://{at}\"\ntrusted_proxies = [\"loopback\"]\n\
         [admin]\nlisten = \"off\"\n[origin]\nurl = \"{url}\"\n[log]\n{log}\n"
    );
    let mut server = Server::configured(&toml);
    let public = address(&server.log_line_saying("listening"), "public");
    Scene { server, public, client: Connection::open(public).await, origin, app, toml }
}

impl Scene {
    /// The next access line.
    fn line(&mut self) -> Value {
        self.server.log_line_that("an access line", |line| line.get("status").is_some())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bytes_of_a_line_are_those_that_were_sent() {
    let mut scene = scene("").await;
    let target = tickets::target(&tickets::permanent(1));
    let whole = jpeg().len();
    for (method, headers, cache, bytes) in [
        ("GET", "", "miss", whole),
        ("GET", "", "hit", whole),
        ("GET", "Range: bytes=0-9\r\n", "hit", 10),
        ("HEAD", "", "hit", 0),
        ("GET", "If-None-Match: *\r\n", "hit", 0),
    ] {
        scene.client.request(method, &target, headers).await;
        let line = scene.line();
        assert_eq!((&line["cache"], &line["bytes"]), (&cache.into(), &bytes.into()), "{line}");
        assert_eq!(line["path"], "/cgi-bin/showqrcode", "{line}");
    }
    let refused = scene.client.get("/cgi-bin/showqrcode?ticket=", "").await;
    assert_eq!(scene.line()["bytes"], refused.body.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_line_of_what_the_app_streams_is_written_at_its_end() {
    let mut scene = scene("").await;
    scene.client.send("GET /events?secret=1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (mut app, _) = scene.app.accept().await.unwrap();
    read_head(&mut app, &mut Vec::new()).await.unwrap();
    say(&mut app, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
    // Another request is logged first, though its answer came later.
    let mut other = Connection::open(scene.public).await;
    other.get("/cgi-bin/showqrcode?ticket=", "").await;
    assert_eq!(scene.line()["route"], "image");
    say(&mut app, "6\r\n world\r\n0\r\n\r\n").await;
    assert_eq!(scene.client.response().await.unwrap().text(), "hello world");
    let line = scene.line();
    assert_eq!(
        (&line["route"], &line["path"], &line["bytes"]),
        (&"app".into(), &"/events".into(), &11.into()),
        "{line}"
    );
    assert!(line["app_ms"].as_f64().unwrap() <= line["took_ms"].as_f64().unwrap(), "{line}");
    assert!(line.get("reason").is_none() && !line.to_string().contains("secret"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_off_says_how_far_it_came_and_on_which_side() {
    let mut scene = scene("").await;
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhello";
    for (gone, reason) in [(true, "client-gone"), (false, "cut")] {
        let mut client = tokio::net::TcpStream::connect(scene.public).await.unwrap();
        say(&mut client, "GET /long HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let (mut app, _) = scene.app.accept().await.unwrap();
        read_head(&mut app, &mut Vec::new()).await.unwrap();
        say(&mut app, head).await;
        let mut answer = Vec::new();
        while !answer.ends_with(b"hello") {
            client.read_buf(&mut answer).await.unwrap();
        }
        // The other side stays.
        let (gone, kept) = if gone { (client, app) } else { (app, client) };
        #[allow(deprecated, reason = "a zero linger is how a reset is sent")]
        gone.set_linger(Some(Duration::ZERO)).unwrap();
        drop(gone);
        let line = scene.line();
        drop(kept);
        assert_eq!((&line["status"], &line["bytes"]), (&200.into(), &5.into()), "{line}");
        assert_eq!(line["reason"], reason, "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_is_named_in_the_line_passed_on_to_the_app_and_never_told_to_wechat() {
    let mut scene = scene("").await;
    let trace = format!("traceparent: 00-{TRACE}-00f067aa0ba902b7-01\r\ntracestate: a=b\r\n");
    scene.client.get(&tickets::target(&tickets::permanent(1)), &trace).await;
    assert_eq!(scene.line()["trace"], TRACE);
    let head = scene.origin.heads().remove(0).to_ascii_lowercase();
    assert!(!head.contains("trace") && !head.contains(TRACE), "{head}");
    scene.client.send(format!("GET /a HTTP/1.1\r\nHost: a\r\n{trace}\r\n")).await;
    let (mut app, _) = scene.app.accept().await.unwrap();
    let head = read_head(&mut app, &mut Vec::new()).await.unwrap();
    assert!(trace.lines().all(|field| head.contains(&format!("\r\n{field}\r\n"))), "{head}");
    say(&mut app, "HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(scene.client.response().await.unwrap().status, 204);
    let line = scene.line();
    assert_eq!((&line["trace"], &line["bytes"]), (&TRACE.into(), &0.into()), "{line}");
    scene.client.get("/cgi-bin/showqrcode?ticket=", "traceparent: 00-rubbish\r\n").await;
    assert!(scene.line().get("trace").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_told_as_much_of_as_the_configuration_says_and_a_reload_changes_it() {
    let mut scene = scene("client = \"anonymised\"").await;
    let ask = "/cgi-bin/showqrcode?ticket=";
    for (client, told) in [("203.0.113.77", "203.0.113.0"), ("2001:db8:1:2::3", "2001:db8:1::")] {
        scene.client.get(ask, &format!("X-Forwarded-For: {client}\r\n")).await;
        assert_eq!(scene.line()["client"], told);
    }
    scene.client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (mut app, _) = scene.app.accept().await.unwrap();
    read_head(&mut app, &mut Vec::new()).await.unwrap();
    for (value, told) in [("off", Value::Null), ("full", "127.0.0.1".into())] {
        let file = scene.server.directory().join("ticketgate.toml");
        std::fs::write(file, scene.toml.replace("anonymised", value)).unwrap();
        scene.server.signal(Signal::HUP);
        scene.server.log_line_saying("the configuration was reloaded");
        let mut other = Connection::open(scene.public).await;
        other.get(ask, "Connection: close\r\n").await;
        assert_eq!(scene.line()["client"], told, "{value}");
    }
    say(&mut app, "HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(scene.client.response().await.unwrap().status, 204);
    assert_eq!(scene.line()["client"], "127.0.0.1", "also of a line that was begun before");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_of_a_line_is_documented_and_every_documented_key_is_written() {
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/log.md")).unwrap();
    let keys = |row: &str| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2).map(str::to_owned).collect();
    let documented: BTreeSet<String> =
        document.lines().filter(|line| line.starts_with("| `")).flat_map(|row| -> Vec<String> { keys(row) }).collect();
    let mut scene = scene("").await;
    let mut written = BTreeSet::new();
    let trace = format!("traceparent: 00-{TRACE}-00f067aa0ba902b7-01\r\n");
    scene.client.get(&tickets::target(&tickets::permanent(1)), &trace).await;
    scene.client.get("/cgi-bin/showqrcode?ticket=", "").await;
    scene.client.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (mut app, _) = scene.app.accept().await.unwrap();
    read_head(&mut app, &mut Vec::new()).await.unwrap();
    say(&mut app, "HTTP/1.1 204 No Content\r\n\r\n").await;
    scene.client.response().await.unwrap();
    for _ in 0..3 {
        written.extend(scene.line().as_object().unwrap().keys().cloned());
    }
    assert_eq!(written, documented);
}
