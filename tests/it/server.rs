//! Connections: deadlines, caps, refusals that arrive, and an end that loses nothing (S2, S5, S38).

use std::time::Duration;

use ticketgate::app::Ending;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::support::client::Connection;
use crate::support::load::{Load, Refused};
use crate::support::origin::{Answer, Origin, read_head};
use crate::support::proxy::Proxy;
use crate::support::{PATIENCE, eventually, tickets};

const SHORT: Duration = Duration::from_millis(150);

async fn proxy_with(change: impl FnOnce(&mut ticketgate::config::Config)) -> (Origin, Proxy) {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&origin, change);
    (origin, proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_connection_is_closed() {
    let (_origin, proxy) = proxy_with(|config| config.server.timeouts.first_byte = SHORT).await;
    assert!(proxy.connect().await.is_closed().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_never_ends_is_closed_however_steadily_it_drips() {
    let (_origin, proxy) = proxy_with(|config| config.server.timeouts.head = SHORT).await;
    let stream = proxy.connect().await.into_stream();
    let (mut read, mut write) = stream.into_split();
    let drip = tokio::spawn(async move {
        // Ends when the proxy has closed; bounded by the test's patience.
        for _ in 0..2000 {
            if write.write_all(b"x").await.is_err() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    });
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, read.read_to_end(&mut rest)).await.expect("closed in time");
    assert!(rest.is_empty());
    drop(read);
    assert!(drip.await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_closed_after_keep_alive_and_not_after_the_head_timeout() {
    let (_origin, proxy) = proxy_with(|config| {
        config.server.timeouts.head = Duration::from_millis(50);
        config.server.timeouts.first_byte = Duration::from_millis(50);
        config.server.timeouts.keep_alive = Duration::from_millis(600);
    })
    .await;
    let target = tickets::target(&tickets::permanent(1));
    let mut connection = proxy.connect().await;
    assert_eq!(connection.get(&target, "").await.status, 200);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(connection.get(&target, "").await.status, 200, "idle, not slow");
    assert!(connection.is_closed().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_is_cut_off() {
    let (_origin, proxy) = proxy_with(|config| config.server.timeouts.write = SHORT).await;
    let target = tickets::target(&tickets::permanent(1));
    let mut stream = proxy.connect().await.into_stream();
    let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").repeat(20);
    // Writing ends in an error when the proxy has given up on us; until then both directions fill up.
    let flooded = tokio::time::timeout(PATIENCE, async { while stream.write_all(request.as_bytes()).await.is_ok() {} });
    assert!(flooded.await.is_ok(), "the proxy waited for ever");
    eventually("the connection is gone", || proxy.running.metrics().open_connections() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_and_is_read_to_its_last_word_is_reset_so_that_the_kernel_keeps_nothing_for_it() {
    let origin = Origin::answering(Answer::large_image()).await;
    let proxy = Proxy::with(&origin, |config| config.server.timeouts.write = SHORT);
    let target = tickets::target(&tickets::permanent(1));
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(proxy.address()).await.unwrap();
    stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").repeat(20).as_bytes()).await.unwrap();
    // To look for an end would be to read.
    let reset = tokio::time::timeout(PATIENCE, stream.ready(Interest::ERROR)).await;
    assert!(reset.is_ok(), "what it does not read waits for it still");
    eventually("the connection is gone", || proxy.running.metrics().open_connections() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_order() {
    let (_origin, proxy) = proxy_with(|_| {}).await;
    let target = tickets::target(&tickets::permanent(1));
    let mut connection = proxy.connect().await;
    let get = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
    connection.send(format!("{get}GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n{get}")).await;
    for expected in [200, 404, 200] {
        assert_eq!(connection.response().await.unwrap().status, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unclear_messages_get_one_400_and_a_closed_connection() {
    let (origin, proxy) = proxy_with(|_| {}).await;
    let target = tickets::target(&tickets::permanent(1));
    let cases = [
        format!("GET {target} HTTP/1.1\r\n\r\n"),
        format!("GET {target} HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        format!("GET {target} HTTP/1.1\r\nHost: a/b\r\n\r\n"),
        format!("GET http://a.example{target} HTTP/1.1\r\nHost: b.example\r\n\r\n"),
        format!("GET {target} HTTP/1.1\r\nHost : a\r\n\r\n"),
        format!("GET {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx"),
        format!("GET {target} HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx"),
        format!("GET {target} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n"),
        format!("GET {target} HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n"),
        format!("GET {target} HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n"),
        "rubbish\r\n\r\n".to_owned(),
    ];
    for case in cases {
        let mut connection = proxy.connect().await;
        connection.send(format!("{case}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        let answer = connection.response().await.unwrap_or_else(|| panic!("no answer to {case:?}"));
        assert_eq!(answer.status, 400, "{case:?}");
        assert!(connection.is_closed().await, "{case:?}");
    }
    assert_eq!(origin.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_that_open_tunnels_or_echo_are_not_allowed() {
    let (_origin, proxy) = proxy_with(|_| {}).await;
    assert_eq!(proxy.connect().await.request("TRACE", "/", "").await.status, 405);
    let mut connection = proxy.connect().await;
    connection
        .send("CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    assert_eq!(connection.response().await.expect("an answer").status, 405);
    assert!(connection.is_closed().await, "what was meant for the tunnel is no request");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_on_an_image_request_is_not_read_and_the_answer_arrives() {
    let (_origin, proxy) = proxy_with(|_| {}).await;
    let target = tickets::target(&tickets::permanent(1));
    for method in ["GET", "POST"] {
        let mut connection = proxy.connect().await;
        connection.send(format!("{method} {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")).await;
        let answer = connection.response().await.expect("an answer before the body");
        assert_eq!(answer.status, if method == "GET" { 200 } else { 405 });
        assert_eq!(answer.header("connection"), Some("close"), "{method}");
        // What we still send is swallowed, not answered with a reset that would overtake the answer.
        let mut stream = connection.into_stream();
        let _ = stream.write_all(&vec![b'x'; 200_000]).await;
        drop(stream.shutdown().await);
        let mut rest = Vec::new();
        assert!(stream.read_to_end(&mut rest).await.is_ok(), "{method}");
        assert!(rest.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_are_bounded() {
    let (_origin, proxy) = proxy_with(|_| {}).await;
    let many = "X-Many: y\r\n".repeat(200);
    let long = format!("X: {}\r\n", "y".repeat(40_000));
    for headers in [many, long] {
        let mut connection = proxy.connect().await;
        connection.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{headers}\r\n")).await;
        assert_eq!(connection.response().await.expect("an answer").status, 431);
        assert!(connection.is_closed().await);
    }
    let cookie = format!("Cookie: {}\r\n", "y".repeat(20_000));
    assert_eq!(proxy.get_with("/", &cookie).await.status, 404, "real apps carry big cookies");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_may_not_take_all_connections() {
    let (_origin, proxy) = proxy_with(|config| {
        config.clients.trusted_proxies.clear();
        config.server.max_connections_per_client = 3;
    })
    .await;
    let target = tickets::target(&tickets::permanent(1));
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut connection = proxy.connect().await;
        assert_eq!(connection.get(&target, "").await.status, 200);
        open.push(connection);
    }
    assert!(proxy.connect().await.is_closed().await, "the fourth");
    open.pop();
    eventually("a place is free", || proxy.running.metrics().open_connections() == 2).await;
    assert_eq!(proxy.get(&target).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn past_max_connections_newcomers_wait_for_a_place() {
    let (_origin, proxy) = proxy_with(|config| config.server.max_connections = 2).await;
    let target = tickets::target(&tickets::permanent(1));
    let (mut one, mut two) = (proxy.connect().await, proxy.connect().await);
    assert_eq!((one.get(&target, "").await.status, two.get(&target, "").await.status), (200, 200));
    let mut three = proxy.connect().await;
    three.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
    assert_eq!(proxy.running.metrics().open_connections(), 2);
    drop(one);
    assert_eq!(three.response().await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_not_shared() {
    let (origin, proxy) = proxy_with(|_| {}).await;
    let mut config = ticketgate::config::Config::default();
    config.server.listen = Some(proxy.address());
    config.origin.url = origin.url().parse().unwrap();
    assert!(ticketgate::app::App::bind(config, ticketgate::app::Surroundings::default()).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_health_path_is_opt_in() {
    let (_origin, proxy) = proxy_with(|_| {}).await;
    assert_eq!(proxy.get("/up").await.status, 404);
    let (_origin, proxy) = proxy_with(|config| config.routes.health_path = Some("/up".to_owned())).await;
    let answer = proxy.get("/up").await;
    assert_eq!((answer.status, answer.text()), (200, "ok\n"));
}

async fn refuses_connections(address: std::net::SocketAddr) -> bool {
    TcpStream::connect(address).await.is_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_answers_everybody_and_then_closes() {
    let (origin, proxy) = proxy_with(|config| {
        config.server.drain_delay = Duration::from_millis(300);
        config.server.drain = Duration::from_secs(10);
    })
    .await;
    let (address, admin) = (proxy.address(), proxy.admin());
    let target = tickets::target(&tickets::permanent(1));
    let mut idle = proxy.connect().await;
    assert_eq!(idle.get(&target, "").await.status, 200);
    let mut idle_for_good = proxy.connect().await;
    assert_eq!(idle_for_good.get(&target, "").await.status, 200);
    origin.hold();
    let mut busy = proxy.connect().await;
    busy.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", tickets::target(&tickets::permanent(2)))).await;
    origin.has_been_asked(2).await;

    proxy.running.drain();
    assert_eq!(Connection::to_operator(admin).await.get("/readyz", "").await.status, 503);
    assert_eq!(Connection::to_operator(admin).await.get("/healthz", "").await.status, 200);
    let announced = Connection::open(address).await.get(&target, "").await;
    assert_eq!((announced.status, announced.header("connection")), (200, Some("close")), "still accepting");

    let gone = async {
        while !refuses_connections(address).await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("the listener closes");
    assert_eq!(idle.get(&target, "").await.status, 200, "an idle connection may make one more request");
    origin.release();
    assert_eq!(busy.response().await.unwrap().status, 200, "a request under way is finished");
    assert!(idle_for_good.is_closed().await);
    let ending = tokio::task::spawn_blocking(move || proxy.running.finish()).await.unwrap();
    assert_eq!(ending, Ending::Clean);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_in_time_even_when_a_request_does_not() {
    let (origin, proxy) = proxy_with(|config| {
        config.server.drain_delay = Duration::from_millis(10);
        config.server.drain = Duration::from_millis(300);
    })
    .await;
    origin.hold();
    let mut stuck = proxy.connect().await;
    stuck.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", tickets::target(&tickets::permanent(1)))).await;
    origin.has_been_asked(1).await;
    proxy.running.drain();
    let ending = tokio::task::spawn_blocking(move || proxy.running.finish()).await.unwrap();
    assert_eq!(ending, Ending::Cut(1));
}

/// An app that is told when to answer, and a proxy before it.
async fn before_patient_app(change: impl FnOnce(&mut ticketgate::config::Config)) -> (Proxy, TcpListener) {
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", app.local_addr().unwrap());
    let (_origin, proxy) = proxy_with(|config| {
        config.forward.app = Some(url.parse().unwrap());
        change(config);
    })
    .await;
    (proxy, app)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_closed_after_an_exchange_longer_than_every_timeout() {
    let (proxy, listener) = before_patient_app(|config| {
        config.server.timeouts.head = SHORT;
        config.server.timeouts.keep_alive = SHORT;
        config.server.timeouts.write = SHORT;
    })
    .await;
    let mut client = proxy.connect().await;
    client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (mut app, _) = listener.accept().await.unwrap();
    read_head(&mut app, &mut Vec::new()).await.unwrap();
    tokio::time::sleep(3 * SHORT).await;
    app.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    assert_eq!(client.response().await.expect("the answer comes, however late").status, 200);
    assert!(client.is_closed().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keep_alive_shorter_than_the_head_timeout_is_kept_to() {
    let (_origin, proxy) = proxy_with(|config| {
        config.server.timeouts.head = 10 * PATIENCE;
        config.server.timeouts.keep_alive = SHORT;
    })
    .await;
    let mut connection = proxy.connect().await;
    assert_eq!(connection.get(&tickets::target(&tickets::permanent(1)), "").await.status, 200);
    assert!(connection.is_closed().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_at_max_connections_lets_idle_connections_go_and_answers_the_queue() {
    let (_origin, proxy) = proxy_with(|config| {
        config.server.max_connections = 2;
        config.server.drain_delay = Duration::ZERO;
        config.server.drain = PATIENCE;
    })
    .await;
    let target = tickets::target(&tickets::permanent(1));
    let (mut one, mut two) = (proxy.connect().await, proxy.connect().await);
    assert_eq!((one.get(&target, "").await.status, two.get(&target, "").await.status), (200, 200));
    let mut queued = proxy.connect().await;
    queued.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
    proxy.running.drain();
    assert!(one.is_closed().await, "idle");
    let answer = queued.response().await.expect("it was accepted by the kernel, so it is answered");
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    let ending = tokio::task::spawn_blocking(move || proxy.running.finish()).await.unwrap();
    assert_eq!(ending, Ending::Clean);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_twenty_thousand_requests_of_keep_alive_clients_a_drain_loses_none() {
    let (_origin, proxy) = proxy_with(|config| {
        config.limits.client_requests = None;
        config.server.drain_delay = Duration::from_millis(300);
        config.server.drain = PATIENCE;
    })
    .await;
    let target = tickets::target(&tickets::permanent(1));
    let load = Load::start(proxy.address(), &target, 16, Refused::Ends);
    load.goes_on_for(20_000).await;
    proxy.running.drain();
    let ending = tokio::task::spawn_blocking(move || proxy.running.finish()).await.unwrap();
    assert_eq!(ending, Ending::Clean);
    assert!(load.ended().await >= 20_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_length_beside_chunks_gets_one_answer_and_reaches_nobody_twice() {
    let app = Origin::answering(Answer::of(200, "", b"ok")).await;
    let (_origin, proxy) = proxy_with(|config| config.forward.app = Some(app.url().parse().unwrap())).await;
    let body = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let image = tickets::target(&tickets::permanent(1));
    for target in ["/app", image.as_str()] {
        let mut connection = proxy.connect().await;
        let framing = format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", body.len());
        connection.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n{framing}\r\n{body}")).await;
        let answer = connection.response().await.expect("one answer");
        assert!(answer.status == 200 || answer.status == 400, "{target}: {}", answer.status);
        assert!(connection.is_closed().await, "{target}: nothing is read after it");
    }
    let heads = app.heads();
    assert!(heads[0].starts_with("GET /app ") && !heads[0].contains("content-length"), "{}", heads[0]);
    // This app knows no bodies, and takes the one empty chunk for a head.
    assert!(heads.len() == 1 || heads[1..] == ["0\r\n\r\n"], "{heads:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hangs_up_and_what_is_no_http_are_counted() {
    let (origin, proxy) = proxy_with(|_| {}).await;
    origin.hold();
    let mut gone = proxy.connect().await;
    gone.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", tickets::target(&tickets::permanent(1)))).await;
    origin.has_been_asked(1).await;
    drop(gone);
    eventually("the hang-up is counted", || proxy.running.metrics().abandoned.get() == 1).await;
    origin.release();
    let mut rubbish = proxy.connect().await;
    rubbish.send("rubbish\r\n\r\n").await;
    assert_eq!(rubbish.response().await.unwrap().status, 400);
    eventually("the rubbish is counted", || proxy.running.metrics().malformed.get() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_closes_its_end_behind_the_request_gets_what_is_there_and_all_of_it() {
    let (origin, proxy) = proxy_with(|_| {}).await;
    let target = tickets::target(&tickets::permanent(1));
    proxy.get(&target).await;
    for _ in 0..20 {
        let mut stream = proxy.connect().await.into_stream();
        stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("closed in time").unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200") && answer.ends_with(&crate::support::origin::jpeg()));
    }
    assert_eq!(proxy.running.metrics().abandoned.get(), 0);
    origin.hold();
    let mut waiting = proxy.connect().await.into_stream();
    let cold = tickets::target(&tickets::permanent(2));
    waiting.write_all(format!("GET {cold} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await.unwrap();
    waiting.shutdown().await.unwrap();
    eventually("it is taken for gone", || proxy.running.metrics().abandoned.get() == 1).await;
    origin.release();
}
