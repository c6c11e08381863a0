//! In front of an app: whatever is no image is the app's to answer (S4, S31).

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::app::{App, hear, rest_of, say};
use crate::support::client::Connection;
use crate::support::origin::{Answer, Origin, Then, read_head};
use crate::support::proxy::Proxy;
use crate::support::{PATIENCE, eventually, tickets};

async fn before_app(app: &Origin, change: impl FnOnce(&mut ticketgate::config::Config)) -> Proxy {
    let nobody = Origin::answering(Answer::image()).await;
    Proxy::with(&nobody, |config| {
        config.forward.app = Some(app.url().parse().unwrap());
        change(config);
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_app_other_paths_are_not_found() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::before(&origin);
    assert_eq!(proxy.get("/index.html").await.status, 404);
    assert_eq!(origin.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_app_gets_the_request_and_the_client_its_answer() {
    let app =
        Origin::answering(Answer::of(201, "X-App: yes\r\nSet-Cookie: a=b\r\nCache-Control: max-age=60\r\n", b"made"))
            .await;
    let proxy = before_app(&app, |_| {}).await;
    for _ in 0..2 {
        let answer = proxy.get_with("/a/b?c=d", "Cookie: s=1\r\nAuthorization: Bearer x\r\n").await;
        assert_eq!((answer.status, answer.text(), answer.header("x-app")), (201, "made", Some("yes")));
        assert_eq!(answer.header("set-cookie"), Some("a=b"));
        assert_eq!(answer.header("via"), Some("1.1 ticketgate"));
    }
    let heads = app.heads();
    assert_eq!(heads.len(), 2, "never cached");
    for wanted in [
        "GET /a/b?c=d HTTP/1.1\r\n",
        "host: shop.example\r\n",
        "cookie: s=1\r\n",
        "authorization: Bearer x\r\n",
        "via: 1.1 ticketgate (",
        "x-forwarded-for: 127.0.0.1\r\n",
        "x-forwarded-proto: http\r\n",
        "x-forwarded-host: shop.example\r\n",
        "forwarded: for=127.0.0.1;host=\"shop.example\";proto=http\r\n",
    ] {
        assert!(heads[0].contains(wanted), "{wanted} in {}", heads[0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_round_is_a_508_before_anybody_is_asked() {
    let app = Origin::answering(Answer::of(200, "", b"ok")).await;
    let proxy = before_app(&app, |_| {}).await;
    proxy.get("/").await;
    let via = app.heads()[0].lines().find(|line| line.starts_with("via: ")).unwrap().to_owned();
    for target in ["/", &tickets::target(&tickets::permanent(1))] {
        let answer = proxy.get_with(target, &format!("{via}, 1.1 nginx\r\n")).await;
        assert_eq!((answer.status, answer.text().lines().count()), (508, 1), "{}", answer.text());
        assert!(answer.text().contains("leads back to this proxy"));
    }
    assert_eq!(app.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_its_own_app_says_so_at_once() {
    let nobody = Origin::answering(Answer::image()).await;
    let proxy = Proxy::before(&nobody);
    proxy.reconfigure(|config| config.forward.app = Some(format!("http://{}", proxy.address()).parse().unwrap()));
    assert_eq!(proxy.get("/").await.status, 508);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_proxies_in_a_row_are_no_loop() {
    let app = Origin::answering(Answer::of(200, "", b"ok")).await;
    let inner = before_app(&app, |_| {}).await;
    let outer = before_app(&app, |config| {
        config.forward.app = Some(format!("http://{}", inner.address()).parse().unwrap());
    })
    .await;
    assert_eq!(outer.get("/").await.status, 200);
    assert_eq!(app.heads()[0].matches("via: 1.1 ticketgate (").count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn hop_by_hop_fields_end_here_both_ways() {
    let app = Origin::answering(Answer::of(200, "Connection: X-Inner\r\nX-Inner: 1\r\nKeep-Alive: 5\r\n", b"")).await;
    let proxy = before_app(&app, |_| {}).await;
    let answer = proxy.connect().await.get("/", "Connection: X-Mine, Host\r\nX-Mine: 1\r\nTE: trailers\r\n").await;
    assert_eq!((answer.header("x-inner"), answer.header("keep-alive")), (None, None));
    let head = &app.heads()[0];
    assert!(!head.contains("x-mine") && !head.contains("\r\nte:") && !head.contains("\r\nconnection:"), "{head}");
    assert!(head.contains("host: shop.example"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_is_down_is_a_502_and_a_slow_one_a_504() {
    let down = Origin::answering(Answer::image()).await;
    let proxy = before_app(&down, |config| {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        config.forward.app = Some(format!("http://{free}").parse().unwrap());
    })
    .await;
    let answer = proxy.get("/").await;
    assert_eq!(answer.status, 502);
    assert!(answer.header("proxy-status").unwrap().contains("error=connection_refused"));
    let slow = Origin::answering(Answer::raw("", Then::Hang)).await;
    let proxy = before_app(&slow, |config| config.forward.first_byte_timeout = Duration::from_millis(100)).await;
    let answer = proxy.get("/").await;
    assert_eq!(answer.status, 504);
    assert!(answer.header("proxy-status").unwrap().contains("error=http_response_timeout"));
}

/// An app that sends pieces when told to, before which clients may take no longer than `patience` for anything.
async fn app_stream(patience: Duration) -> (Proxy, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let nobody = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&nobody, |config| {
        config.forward.app = Some(url.parse().unwrap());
        config.server.timeouts.write = patience;
        config.server.timeouts.keep_alive = patience;
        config.server.timeouts.head = patience;
        config.server.timeouts.body = patience;
    });
    (proxy, listener)
}

/// The next connection, the head that came over it, and what had come after it.
async fn accept(listener: &TcpListener) -> (TcpStream, String, Vec<u8>) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut body = Vec::new();
    let head = read_head(&mut stream, &mut body).await.unwrap();
    (stream, head, body)
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_idle_longer_than_every_client_timeout_still_come() {
    let (proxy, listener) = app_stream(Duration::from_millis(100)).await;
    let mut client = proxy.connect().await.into_stream();
    client.write_all(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let (mut app, _, _) = accept(&listener).await;
    app.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await
        .unwrap();
    let mut seen = Vec::new();
    for event in 0..3 {
        // Longer than any of the client's timeouts.
        tokio::time::sleep(Duration::from_millis(250)).await;
        app.write_all(format!("9\r\ndata: {event}\n\n\r\n").as_bytes()).await.unwrap();
        let wanted = format!("data: {event}\n\n");
        while !String::from_utf8_lossy(&seen).contains(&wanted) {
            let mut buffer = [0; 1024];
            let read = client.read(&mut buffer).await.unwrap();
            assert!(read > 0, "closed before event {event}");
            seen.extend_from_slice(&buffer[..read]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_promised_and_not_sent_ends_at_its_deadline() {
    let (proxy, listener) = app_stream(Duration::from_millis(100)).await;
    let mut client = proxy.connect().await;
    client.send("POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf").await;
    let (mut app, head, mut rest) = accept(&listener).await;
    assert!(head.contains("content-length: 10"));
    let answer = client.response().await.expect("an answer");
    assert_eq!(answer.status, 408, "{}", answer.text());
    let _ = app.read_to_end(&mut rest).await;
    assert!(rest.len() < 10, "the app saw no complete body");
    assert!(client.is_closed().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_stream_both_ways_before_they_end() {
    let (proxy, listener) = app_stream(PATIENCE).await;
    let mut client = proxy.connect().await.into_stream();
    client
        .write_all(b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nping\r\n")
        .await
        .unwrap();
    let (mut app, _, mut seen) = accept(&listener).await;
    while seen.len() < 9 {
        assert_ne!(app.read_buf(&mut seen).await.unwrap(), 0, "closed early");
    }
    assert_eq!(seen, b"4\r\nping\r\n", "the first piece comes before the body's end");
    app.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npong\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"pong\r\n") {
        let mut buffer = [0; 1024];
        let read = client.read(&mut buffer).await.unwrap();
        assert!(read > 0, "closed early");
        answer.extend_from_slice(&buffer[..read]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn app_traffic_spends_no_budget() {
    let app = Origin::answering(Answer::of(200, "", b"ok")).await;
    let proxy = before_app(&app, |config| {
        config.limits.client_requests =
            Some(ticketgate::limit::Policy { rate: 0.1, burst: 1.try_into().unwrap(), wait: Duration::ZERO });
    })
    .await;
    let mut connection = Connection::open(proxy.address()).await;
    for _ in 0..10 {
        assert_eq!(connection.get("/page", "").await.status, 200);
    }
    assert_eq!(proxy.image(&tickets::permanent(1)).await.status, 200);
    assert_eq!(proxy.image(&tickets::permanent(1)).await.status, 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_upload_that_was_read_to_its_end_keeps_its_connection() {
    let (proxy, listener) = app_stream(PATIENCE).await;
    let mut client = proxy.connect().await;
    client.send("POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nping\r\n0\r\n\r\n").await;
    let (mut app, _, mut seen) = accept(&listener).await;
    for _ in 0..2 {
        while !seen.ends_with(b"0\r\n\r\n") {
            assert_ne!(app.read_buf(&mut seen).await.unwrap(), 0, "closed early");
        }
        app.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        let answer = client.response().await.expect("an answer");
        assert_eq!((answer.status, answer.header("connection")), (200, None));
        seen.clear();
        client.send("POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_may_take_longer_than_the_apps_first_byte() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let nobody = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&nobody, |config| {
        config.forward.app = Some(url.parse().unwrap());
        config.forward.first_byte_timeout = Duration::from_millis(300);
    });
    let mut client = proxy.connect().await;
    client.send("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n").await;
    let (mut app, _, mut seen) = accept(&listener).await;
    for _ in 0..10 {
        client.send("x").await;
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    while seen.len() < 10 {
        assert_ne!(app.read_buf(&mut seen).await.unwrap(), 0, "closed early");
    }
    app.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    assert_eq!(client.response().await.expect("an answer").status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_stops_reading_an_upload_is_a_504() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let nobody = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&nobody, |config| {
        config.forward.app = Some(url.parse().unwrap());
        config.forward.first_byte_timeout = Duration::from_millis(300);
    });
    let (mut read, mut write) = proxy.connect().await.into_stream().into_split();
    // Until all buffers on the way are full.
    let flood = tokio::spawn(async move {
        write.write_all(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n").await.unwrap();
        while write.write_all(&[b'x'; 10_000]).await.is_ok() {}
    });
    let (_app, _) = listener.accept().await.unwrap();
    let mut answer = [0; 12];
    tokio::time::timeout(PATIENCE, read.read_exact(&mut answer)).await.expect("in time").unwrap();
    assert_eq!(&answer, b"HTTP/1.1 504");
    flood.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_names_no_host_gets_the_apps() {
    let app = Origin::answering(Answer::of(200, "", b"ok")).await;
    let proxy = before_app(&app, |_| {}).await;
    let mut client = proxy.connect().await;
    client.send("GET /old HTTP/1.0\r\n\r\n").await;
    assert_eq!(client.response().await.expect("an answer").status, 200);
    assert!(app.heads()[0].contains(&format!("\r\nhost: {}\r\n", app.address)), "{}", app.heads()[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_its_framing_is_the_clients_mistake() {
    let (proxy, listener) = app_stream(PATIENCE).await;
    let mut client = proxy.connect().await;
    client.send("POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n").await;
    let answer = client.response().await.expect("an answer");
    assert_eq!((answer.status, answer.header("connection")), (400, Some("close")), "{}", answer.text());
    drop(listener);
}

/// A connection in the pool that has served once, and its app.
async fn pooled() -> (App, TcpStream) {
    let app = App::start().await;
    let mut client = app.proxy.connect().await;
    client.send("GET /first HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    let (mut behind, _, _) = app.accept().await;
    say(&mut behind, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert_eq!(client.response().await.expect("an answer").status, 200);
    (app, behind)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooled_connection_that_dies_on_a_harmless_request_is_tried_once_more() {
    for method in ["GET", "HEAD", "OPTIONS"] {
        let (app, mut behind) = pooled().await;
        let mut client = on_the_worker_of(&app, &mut behind, &format!("{method} /x HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        drop(behind);
        let (mut behind, head, _) = app.accept().await;
        assert!(head.starts_with(&format!("{method} /x ")), "{head}");
        say(&mut behind, "HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(client.response_to(method).await.expect("an answer").status, 204, "{method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_have_been_done_or_answered_is_not_tried_again() {
    for (request, then) in [
        ("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", ""),
        ("DELETE /x HTTP/1.1\r\nHost: a\r\n\r\n", ""),
        ("GET /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", ""),
        ("GET /x HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 2"),
    ] {
        let (app, mut behind) = pooled().await;
        let mut client = on_the_worker_of(&app, &mut behind, request).await;
        say(&mut behind, then).await;
        drop(behind);
        let answer = client.response().await.expect("an answer");
        assert_eq!(answer.status, 502, "{request}");
        assert!(app.is_alone().await, "{request}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_connection_that_dies_is_a_502_at_once() {
    let app = App::start().await;
    let mut client = app.proxy.connect().await;
    client.send("GET /x HTTP/1.1\r\nHost: a\r\n\r\n").await;
    drop(app.accept().await);
    assert_eq!(client.response().await.expect("an answer").status, 502);
    assert!(app.is_alone().await);
}

/// Sends `request` so that it arrives over `behind`: by the worker whose pool has it.
async fn on_the_worker_of(app: &App, behind: &mut TcpStream, request: &str) -> Connection {
    eventually("its worker is free", || app.proxy.running.metrics().open_connections() == 0).await;
    let mut client = app.proxy.connect().await;
    client.send(request).await;
    let head = tokio::time::timeout(PATIENCE, read_head(behind, &mut Vec::new())).await;
    assert!(head.expect("over the pooled connection").unwrap().contains(" /x "));
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_names_away_nothing_that_the_app_decides_by() {
    let app = App::start().await;
    for line in [
        "Host: shop.example",
        "Content-Length: 4",
        "Authorization: Bearer x",
        "Cookie: s=1",
        "Via: 1.1 fred",
        "X-Forwarded-For: 192.0.2.1",
        "X-Forwarded-Host: shop.example",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Port: 443",
        "X-Real-IP: 192.0.2.1",
        "X-Request-Id: abc",
    ] {
        let name = line.split(':').next().unwrap();
        let others = match name {
            "Host" => "Content-Length: 4\r\n",
            "Content-Length" => "Host: a\r\n",
            _ => "Host: a\r\nContent-Length: 4\r\n",
        };
        let mut client = app.proxy.connect().await;
        client.send(format!("POST /x HTTP/1.1\r\n{others}{line}\r\nConnection: {name}, close\r\n\r\nbody")).await;
        let (mut behind, head, _) = app.accept().await;
        let (name, value) = line.split_once(": ").unwrap();
        assert!(head.contains(&format!("\r\n{}: {value}", name.to_lowercase())), "{line} in {head}");
        say(&mut behind, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
        assert_eq!(client.response().await.expect("an answer").status, 200, "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_wechat_pushes_reaches_the_app_byte_for_byte() {
    let target = "/wx?signature=f7c3bc1d&timestamp=1700000000&nonce=%2B1+2&openid=o_6&echostr=%E4%BD%A0//%2f";
    let xml = "<xml><ToUserName><![CDATA[gh_1]]></ToUserName><Event><![CDATA[SCAN]]></Event>\r\n\
               <EventKey><![CDATA[场景 &<>\u{1f600}]]></EventKey><Ticket><![CDATA[gQ==]]></Ticket></xml>\n";
    let app = App::start().await;
    let mut client = app.proxy.connect().await;
    let fields = format!("Content-Type: text/xml\r\nContent-Length: {}\r\n", xml.len());
    client.send(format!("POST {target} HTTP/1.1\r\nHost: shop.example\r\n{fields}\r\n{xml}")).await;
    let (mut behind, head, rest) = app.accept().await;
    assert!(head.starts_with(&format!("POST {target} HTTP/1.1\r\n")), "{head}");
    assert!(head.contains("\r\ncontent-type: text/xml\r\n"), "{head}");
    assert!(head.contains(&format!("\r\ncontent-length: {}\r\n", xml.len())), "{head}");
    hear(&mut behind, &xml.as_bytes()[rest.len()..]).await;
    assert_eq!(rest, xml.as_bytes()[..rest.len()]);
    say(&mut behind, "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nsuccess").await;
    assert_eq!(client.response().await.expect("an answer").text(), "success");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_for_100_is_asked_when_the_app_takes_its_body() {
    let app = App::start().await;
    let mut client = app.proxy.connect().await.into_stream();
    let fields = "Expect: 100-continue\r\nContent-Length: 4\r\n";
    say(&mut client, format!("POST /x HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).await;
    let (mut behind, _, rest) = app.accept().await;
    assert!(rest.is_empty());
    hear(&mut client, "HTTP/1.1 100 Continue\r\n\r\n").await;
    say(&mut client, "body").await;
    hear(&mut behind, "body").await;
    say(&mut behind, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    hear(&mut client, "HTTP/1.1 200 OK\r\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn early_hints_are_dropped_and_answers_without_bodies_have_none() {
    let app = App::start().await;
    for (method, answer) in [
        ("GET", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
    ] {
        let mut client = app.proxy.connect().await;
        client.send(format!("{method} /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await;
        let (mut behind, _, _) = app.accept().await;
        say(&mut behind, answer).await;
        drop(behind);
        let status = answer.rsplit("HTTP/1.1 ").next().unwrap()[..3].parse().unwrap();
        let got = client.response_to(method).await.expect("an answer");
        assert_eq!((got.status, got.header("link")), (status, None), "{answer}");
        assert!(client.is_closed().await, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn announced_trailers_pass_both_ways() {
    let app = App::start().await;
    let mut client = app.proxy.connect().await.into_stream();
    let fields = "Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\nTE: trailers\r\nConnection: TE, close\r\n";
    say(&mut client, format!("POST /x HTTP/1.1\r\nHost: a\r\n{fields}\r\n2\r\nhi\r\n0\r\nX-Sum: 1\r\n\r\n")).await;
    let (mut behind, head, rest) = app.accept().await;
    assert!(head.contains("\r\ntrailer: X-Sum\r\n"), "{head}");
    hear(&mut behind, &b"2\r\nhi\r\n0\r\nx-sum: 1\r\n\r\n"[rest.len()..]).await;
    let fields = "Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n";
    say(&mut behind, format!("HTTP/1.1 200 OK\r\n{fields}\r\n2\r\nho\r\n0\r\nX-Sum: 2\r\n\r\n")).await;
    let answer = rest_of(&mut client).await;
    assert!(answer.ends_with("\r\n\r\n2\r\nho\r\n0\r\nx-sum: 2\r\n\r\n"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_closes_an_idle_stream_of_events_is_noticed() {
    let app = App::start().await;
    let mut client = app.proxy.connect().await.into_stream();
    say(&mut client, "GET /events HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (mut behind, ..) = app.accept().await;
    say(&mut behind, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
    hear(&mut client, "HTTP/1.1 200 OK\r\n").await;
    drop(client);
    assert_eq!(rest_of(&mut behind).await, "", "the app hears of it while it has nothing to say");
    eventually("its place is free", || app.proxy.running.metrics().open_connections() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_has_said_its_end_gets_all_of_an_answer_that_keeps_coming() {
    let app = App::start().await;
    let mut client = app.proxy.connect().await.into_stream();
    say(&mut client, "GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (mut behind, ..) = app.accept().await;
    say(&mut behind, "HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n").await;
    hear(&mut client, "HTTP/1.1 200 OK\r\n").await;
    client.shutdown().await.unwrap();
    for _ in 0..60 {
        say(&mut behind, "x").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(rest_of(&mut client).await.ends_with(&"x".repeat(60)), "for longer than an idle one would have been kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_false_length_beside_chunks_cuts_no_answer() {
    for length in [0, 1, 3] {
        let app = App::start().await;
        let mut client = app.proxy.connect().await;
        client.send("GET /x HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let (mut behind, ..) = app.accept().await;
        let fields = format!("Content-Length: {length}\r\nTransfer-Encoding: chunked");
        say(&mut behind, format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n2\r\nhi\r\n0\r\n\r\n")).await;
        let answer = client.response().await.expect("an answer");
        assert_eq!((answer.text(), answer.header("content-length")), ("hi", None), "{length}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_comes_before_its_upload_was_read_is_never_lost() {
    let app = App::start().await;
    for attempt in 0..30 {
        let mut client = app.proxy.connect().await.into_stream();
        let (mut reader, mut writer) = client.split();
        let upload = async {
            let head = "POST /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 50000000\r\n\r\n";
            let _ = writer.write_all(head.as_bytes()).await;
            for _ in 0..50 {
                if writer.write_all(&vec![b'x'; 1_000_000]).await.is_err() {
                    return;
                }
            }
        };
        let refusal = async {
            let (mut behind, ..) = app.accept().await;
            let head = "HTTP/1.1 413 Too Much\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno\n";
            behind.write_all(head.as_bytes()).await.unwrap();
        };
        let mut heard = [0; 12];
        let ((), (), read) = tokio::join!(upload, refusal, reader.read_exact(&mut heard));
        read.unwrap();
        assert_eq!(String::from_utf8_lossy(&heard), "HTTP/1.1 413", "attempt {attempt}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_may_have_many_fields_and_one_that_is_none_is_said_so() {
    let cookies = "Set-Cookie: a=b\r\n".repeat(200);
    let many = format!("HTTP/1.1 200 OK\r\n{cookies}Content-Length: 0\r\n\r\n");
    let too_many = format!("HTTP/1.1 200 OK\r\n{}Content-Length: 0\r\n\r\n", cookies.repeat(2));
    let coded = "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n".to_owned();
    for (said, status, reason) in [
        (many, 200, None),
        (too_many, 502, Some("http_response_header_section_size")),
        ("HTTP/1.1 200 OK\r\nno field: x\r\n\r\n".to_owned(), 502, Some("http_protocol_error")),
        ("SSH-2.0-OpenSSH\r\n".to_owned(), 502, Some("http_protocol_error")),
        (coded, 502, Some("http_response_transfer_coding")),
    ] {
        let app = App::start().await;
        let mut client = app.proxy.connect().await;
        client.send("GET /x HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let (mut behind, ..) = app.accept().await;
        say(&mut behind, &said).await;
        let answer = client.response().await.expect("an answer");
        assert_eq!(answer.status, status, "{said:.60}: {}", answer.text());
        let told = answer.header("proxy-status").unwrap_or("");
        assert!(reason.is_none_or(|reason| told.contains(reason)), "{said:.60}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_names_its_own_answer_and_the_protocol_that_it_requires() {
    let app = App::start().await;
    let mut client = app.proxy.connect().await;
    client.send("GET /x HTTP/1.1\r\nHost: a\r\nX-Request-Id: mine\r\n\r\n").await;
    let (mut behind, head, _) = app.accept().await;
    assert!(head.contains("\r\nx-request-id: mine\r\n"), "{head}");
    let fields = "X-Request-Id: app-own\r\nUpgrade: chat\r\nConnection: upgrade";
    say(&mut behind, format!("HTTP/1.1 426 Upgrade Required\r\n{fields}\r\nContent-Length: 0\r\n\r\n")).await;
    let answer = client.response().await.expect("an answer");
    let told = (answer.status, answer.header("x-request-id"), answer.header("upgrade"));
    assert_eq!(told, (426, Some("app-own"), Some("chat")));
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_kept_connections_have_died_a_harmless_request_gets_a_new_one() {
    let app = App::start().await;
    let mut kept = Vec::new();
    let mut clients = Vec::new();
    // Several kept by the one worker that all of these are on.
    for _ in 0..4 {
        let mut client = app.proxy.connect().await;
        client.send("GET /x HTTP/1.1\r\nHost: a\r\n\r\n").await;
        kept.push(app.accept().await.0);
        clients.push(client);
    }
    for (client, behind) in clients.iter_mut().zip(&mut kept) {
        say(behind, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(client.response().await.expect("an answer").status, 200);
    }
    let closing = tokio::spawn(async move {
        for mut behind in kept {
            // Read, and closed without a word, as an app does whose keep-alive is just over.
            let _ = read_head(&mut behind, &mut Vec::new()).await;
        }
    });
    let asked = async {
        for client in &mut clients {
            client.send("GET /again HTTP/1.1\r\nHost: a\r\n\r\n").await;
            assert_eq!(client.response().await.expect("an answer").status, 200);
        }
    };
    let answering = async {
        loop {
            let (mut behind, ..) = app.accept().await;
            say(&mut behind, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
        }
    };
    tokio::select! {
        () = asked => {}
        () = answering => unreachable!("it goes on"),
    }
    closing.abort();
}
