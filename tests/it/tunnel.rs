//! Connections that switch protocols, `WebSockets` above all (S4, S31).

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use ticketgate::app::Ending;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{accept_async, client_async};

use crate::support::app::{App, hear, rest_of, say};
use crate::support::origin::{Answer, Origin, read_head};
use crate::support::proxy::Proxy;
use crate::support::{PATIENCE, eventually};

const ASK: &str = "GET /ws HTTP/1.1\r\nHost: shop.example\r\nConnection: keep-alive, Upgrade\r\nUpgrade: chat\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: chat\r\nX-App: yes\r\n\r\n";
const SHORT: Duration = Duration::from_millis(100);

/// A tunnel's two ends.
async fn tunnel(app: &App) -> (TcpStream, TcpStream) {
    let mut client = app.proxy.connect().await.into_stream();
    say(&mut client, ASK).await;
    let (mut behind, _, rest) = app.accept().await;
    assert!(rest.is_empty());
    say(&mut behind, SWITCH).await;
    assert!(read_head(&mut client, &mut Vec::new()).await.unwrap().starts_with("HTTP/1.1 101 "));
    (client, behind)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_library_talks_to_another_through_the_proxy() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let nobody = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&nobody, |config| config.forward.app = Some(url.parse().unwrap()));
    let echo = tokio::spawn(async move {
        let mut socket = accept_async(listener.accept().await.unwrap().0).await.unwrap();
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() || message.is_binary() {
                socket.send(message).await.unwrap();
            }
        }
    });
    let stream = TcpStream::connect(proxy.address()).await.unwrap();
    let (mut socket, answer) = client_async("ws://shop.example/ws?room=1", stream).await.unwrap();
    assert_eq!(answer.status(), 101);
    for message in [
        Message::text("你好"),
        Message::binary(Vec::new()),
        Message::binary((0..3_000_000u32).map(|n| (n % 251) as u8).collect::<Vec<_>>()),
    ] {
        socket.send(message.clone()).await.unwrap();
        let echoed = timeout(PATIENCE, socket.next()).await.expect("in time").unwrap().unwrap();
        assert!(echoed == message, "changed on its way");
    }
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = socket.next().await {}
    drop(socket);
    echo.await.unwrap();
    eventually("the tunnel is gone", || proxy.running.metrics().open_connections() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_fields_of_an_upgrade_pass_and_no_other_of_the_hop() {
    let app = App::start().await;
    let mut client = app.proxy.connect().await.into_stream();
    let fields = "Connection: Upgrade, X-Mine\r\nUpgrade: chat/2, chat\r\nX-Mine: 1\r\nKeep-Alive: 5\r\n";
    say(&mut client, format!("GET /ws HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).await;
    let (mut behind, head, _) = app.accept().await;
    assert!(head.contains("\r\nconnection: upgrade\r\n") && head.contains("\r\nupgrade: chat/2, chat\r\n"), "{head}");
    assert!(!head.contains("x-mine") && !head.contains("keep-alive"), "{head}");
    assert!(head.contains("\r\nx-forwarded-for: 127.0.0.1\r\n"), "{head}");
    say(&mut behind, SWITCH.replace("upgrade\r\n", "Upgrade, X-Inner\r\nX-Inner: 1\r\n")).await;
    let answer = read_head(&mut client, &mut Vec::new()).await.unwrap();
    assert!(answer.contains("\r\nconnection: upgrade\r\n") && answer.contains("\r\nupgrade: chat\r\n"), "{answer}");
    assert!(answer.contains("\r\nx-app: yes\r\n") && !answer.contains("x-inner"), "{answer}");
    assert!(!answer.contains("content-length") && !answer.contains("transfer-encoding"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_one_side_is_passed_on_and_the_other_may_finish() {
    let app = App::start().await;
    for client_first in [true, false] {
        let (client, behind) = tunnel(&app).await;
        let (mut first, mut second) = if client_first { (client, behind) } else { (behind, client) };
        say(&mut first, "last words").await;
        first.shutdown().await.unwrap();
        assert_eq!(rest_of(&mut second).await, "last words", "client first: {client_first}");
        say(&mut second, "and still an answer").await;
        hear(&mut first, "and still an answer").await;
        second.shutdown().await.unwrap();
        assert_eq!(rest_of(&mut first).await, "");
        eventually("the tunnel is gone", || app.proxy.running.metrics().open_connections() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_vanishes_takes_the_other_side_along() {
    let app = App::start().await;
    for client_first in [true, false] {
        let (client, behind) = tunnel(&app).await;
        let (gone, mut left) = if client_first { (client, behind) } else { (behind, client) };
        #[allow(deprecated, reason = "a zero linger is how a reset is sent")]
        gone.set_linger(Some(Duration::ZERO)).unwrap();
        drop(gone);
        assert_eq!(rest_of(&mut left).await, "", "client first: {client_first}");
        eventually("the tunnel is gone", || app.proxy.running.metrics().open_connections() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_said_its_end_and_is_gone_ends_the_tunnel_with_the_next_byte_for_it() {
    let app = App::start().await;
    let (mut client, behind) = tunnel(&app).await;
    drop(behind);
    assert_eq!(rest_of(&mut client).await, "", "its end is passed on");
    assert_eq!(app.proxy.running.metrics().open_connections(), 1, "it may still be reading");
    // The only word, and no end behind it.
    say(&mut client, "hello?").await;
    eventually("the tunnel is gone", || app.proxy.running.metrics().open_connections() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_before_the_101_waits_for_it() {
    let app = App::start().await;
    let mut client = app.proxy.connect().await.into_stream();
    say(&mut client, format!("{ASK}early")).await;
    let (mut behind, _, rest) = app.accept().await;
    assert!(rest.is_empty(), "before anybody switched");
    say(&mut behind, SWITCH).await;
    hear(&mut behind, "early").await;
    say(&mut behind, "late").await;
    let mut unread = Vec::new();
    read_head(&mut client, &mut unread).await.unwrap();
    hear(&mut client, &b"late"[unread.len()..]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_other_answer_is_an_ordinary_one_and_what_was_meant_for_the_tunnel_is_dropped() {
    let app = App::start().await;
    for answer in ["HTTP/1.1 200 OK", "HTTP/1.1 403 Forbidden", "HTTP/1.1 426 Upgrade Required"] {
        let mut client = app.proxy.connect().await;
        client.send(format!("{ASK}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        let (mut behind, _, rest) = app.accept().await;
        say(&mut behind, format!("{answer}\r\nContent-Length: 2\r\n\r\nno")).await;
        let got = client.response().await.expect("an answer");
        assert_eq!((got.text(), got.header("connection")), ("no", Some("close")), "{answer}");
        assert!(client.is_closed().await, "{answer}");
        drop(behind);
        assert!(rest.is_empty() && app.is_alone().await, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_refuses_by_hanging_up_is_a_502_and_the_connection_ends() {
    let app = App::start().await;
    let mut client = app.proxy.connect().await;
    client.send(format!("{ASK}early")).await;
    drop(app.accept().await);
    let answer = client.response().await.expect("an answer");
    assert_eq!((answer.status, answer.header("connection")), (502, Some("close")));
    assert!(client.is_closed().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_that_nobody_asked_for_is_a_502() {
    let app = App::start().await;
    let plain = "GET /ws HTTP/1.1\r\nHost: a\r\n\r\n".to_owned();
    let other = ASK.replace("Upgrade: chat", "Upgrade: talk");
    for (ask, switch) in [(plain, SWITCH), (other, SWITCH), (ASK.to_owned(), "HTTP/1.1 101 Whatever\r\n\r\n")] {
        let mut client = app.proxy.connect().await;
        client.send(&ask).await;
        let (mut behind, _, _) = app.accept().await;
        say(&mut behind, switch).await;
        let answer = client.response().await.expect("an answer");
        assert_eq!(answer.status, 502, "{ask}");
        assert!(answer.header("proxy-status").unwrap().contains("error=http_upgrade_failed"), "{ask}");
        assert_eq!(rest_of(&mut behind).await, "", "{ask}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_clear_upgrade_is_passed_on_as_an_ordinary_request() {
    let app = App::start().await;
    for fields in [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n",
        "Connection: Upgrade\r\nUpgrade: chat, HTTP/2.0\r\n",
        "Connection: Upgrade\r\nUpgrade: TLS/1.0\r\n",
        "Connection: Upgrade\r\nUpgrade: chat\r\nUpgrade: talk\r\n",
        "Connection: Upgrade\r\nUpgrade: ,\r\n",
        "Connection: Upgrade\r\n",
        "Upgrade: chat\r\n",
        "Connection: Upgrade\r\nUpgrade: chat\r\nTransfer-Encoding: chunked\r\n",
    ] {
        let mut client = app.proxy.connect().await;
        let body = if fields.contains("chunked") { "1\r\nx\r\n0\r\n\r\n" } else { "" };
        client.send(format!("GET /ws HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}")).await;
        let (mut behind, head, rest) = app.accept().await;
        hear(&mut behind, &body[rest.len()..]).await;
        assert!(!head.contains("\r\nupgrade:") && !head.contains("\r\nconnection:"), "{head}");
        assert!(!head.contains("http2-settings"), "{head}");
        say(&mut behind, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").await;
        let answer = client.response().await.expect("an answer");
        assert_eq!((answer.status, answer.text(), answer.header("connection")), (200, "ok", None), "{fields}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_idles_longer_than_every_client_timeout() {
    let app = App::with(|config| {
        let timeouts = &mut config.server.timeouts;
        (timeouts.head, timeouts.body, timeouts.write, timeouts.keep_alive) = (SHORT, SHORT, SHORT, SHORT);
    })
    .await;
    let (mut client, mut behind) = tunnel(&app).await;
    for _ in 0..2 {
        tokio::time::sleep(3 * SHORT).await;
        say(&mut behind, "ping").await;
        hear(&mut client, "ping").await;
        say(&mut client, "pong").await;
        hear(&mut behind, "pong").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_in_which_nothing_moves_ends_at_tunnel_idle() {
    let app = App::with(|config| config.forward.tunnel_idle = 5 * SHORT).await;
    let (mut client, mut behind) = tunnel(&app).await;
    let began = tokio::time::Instant::now();
    for _ in 0..4 {
        tokio::time::sleep(2 * SHORT).await;
        say(&mut client, "x").await;
        hear(&mut behind, "x").await;
    }
    assert_eq!((rest_of(&mut client).await, rest_of(&mut behind).await), (String::new(), String::new()));
    assert!(began.elapsed() > 12 * SHORT, "what moved counted");
    eventually("the tunnel is gone", || app.proxy.running.metrics().open_connections() == 0).await;
}

/// How much a side can say until nothing is taken from it any more.
async fn fill(stream: &mut TcpStream) -> usize {
    let mut said = 0;
    while let Ok(wrote) = timeout(10 * SHORT, stream.write(&[b'x'; 16 * 1024])).await {
        said += wrote.unwrap();
        assert!(said < 64 * 1024 * 1024, "somebody collects it");
    }
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_does_not_read_is_not_written_to() {
    let app = App::start().await;
    for from_client in [true, false] {
        let (client, behind) = tunnel(&app).await;
        let (mut one, mut other) = if from_client { (client, behind) } else { (behind, client) };
        let said = fill(&mut one).await;
        one.shutdown().await.unwrap();
        assert_eq!(rest_of(&mut other).await.len(), said, "and nothing of it is lost");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_reading_a_tunnel_is_cut_off() {
    let app = App::with(|config| config.server.timeouts.write = SHORT).await;
    let (_client, mut behind) = tunnel(&app).await;
    let flooded = timeout(PATIENCE, async { while behind.write_all(&[b'x'; 16 * 1024]).await.is_ok() {} });
    assert!(flooded.await.is_ok(), "the proxy waited for ever");
    eventually("the tunnel is gone", || app.proxy.running.metrics().open_connections() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_lives_on_in_the_drain_and_ends_with_it_as_it_should() {
    let app = App::with(|config| {
        config.server.drain_delay = Duration::from_millis(10);
        config.server.drain = Duration::from_secs(3);
    })
    .await;
    let (mut client, mut behind) = tunnel(&app).await;
    let App { proxy, .. } = app;
    let address = proxy.address();
    proxy.running.drain();
    while TcpStream::connect(address).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    say(&mut client, "still here").await;
    hear(&mut behind, "still here").await;
    let ending = tokio::task::spawn_blocking(move || proxy.running.finish()).await.unwrap();
    assert_eq!(ending, Ending::Clean, "nothing that has an end was cut");
    assert_eq!((rest_of(&mut client).await, rest_of(&mut behind).await), (String::new(), String::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_with_the_last_tunnel() {
    let app = App::with(|config| {
        config.server.drain_delay = Duration::from_millis(10);
        config.server.drain = 10 * PATIENCE;
    })
    .await;
    let (client, behind) = tunnel(&app).await;
    let App { proxy, .. } = app;
    proxy.running.drain();
    drop((client, behind));
    let ending = timeout(PATIENCE, tokio::task::spawn_blocking(move || proxy.running.finish())).await;
    assert_eq!(ending.expect("long before `drain`").unwrap(), Ending::Clean);
}
