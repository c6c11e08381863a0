//! An app behind TLS, in HTTP/1.1 or HTTP/2 as it chooses (S31): the same promises as in the clear, over either.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::poll_fn;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use ticketgate::config::Config;
use ticketgate::fault::Faults;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::support::app::{hear, say};
use crate::support::client::{Connection, Response as Answer};
use crate::support::origin::read_head;
use crate::support::proxy::Proxy;
use crate::support::relay::Relay;
use crate::support::tls::{Authority, HTTP_1, HTTP_2};
use crate::support::{PATIENCE, eventually, tickets};

type Said = UnsyncBoxBody<Bytes, Infallible>;

struct TlsApp {
    address: SocketAddr,
    ca_file: PathBuf,
    visits: mpsc::UnboundedReceiver<Visit>,
    connections: Arc<AtomicUsize>,
    _authority: Authority,
}

/// A request, and what waits for the answer.
struct Visit {
    request: Request<Incoming>,
    server_name: Option<String>,
    answer: oneshot::Sender<Response<Said>>,
}

impl Visit {
    fn say(self, text: &str) {
        let body = Full::from(text.to_owned()).boxed_unsync();
        let _ = self.answer.send(Response::new(body));
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.request.headers().get(name).map(|value| value.to_str().unwrap())
    }
}

impl TlsApp {
    /// An app whose certificate is for `name`.
    async fn start(name: &str, alpn: &[&[u8]]) -> Self {
        Self::with(name, alpn, |http2| http2).await
    }

    async fn with(
        name: &str,
        alpn: &[&[u8]],
        change: impl Fn(&mut http2::Builder<TokioExecutor>) -> &mut http2::Builder<TokioExecutor>,
    ) -> Self {
        let authority = Authority::new();
        let (acceptor, ca_file) = (authority.acceptor(name, alpn), authority.ca_file());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, visits) = mpsc::unbounded_channel();
        let connections = Arc::new(AtomicUsize::new(0));
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        change(&mut http2);
        let counted = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, acceptor.clone(), http2.clone(), sender.clone(), Arc::clone(&counted)));
            }
        });
        Self { address, ca_file, visits, connections, _authority: authority }
    }

    fn proxy(&self) -> Proxy {
        self.proxy_by(self.address.port(), |_| {})
    }

    fn proxy_by(&self, port: u16, change: impl FnOnce(&mut Config)) -> Proxy {
        before(port, Some(&self.ca_file), change)
    }

    async fn visit(&mut self) -> Visit {
        timeout(PATIENCE, self.visits.recv()).await.expect("a request in time").unwrap()
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Answers everything with the version that it came in.
    fn answer_all(&mut self) {
        let mut visits = std::mem::replace(&mut self.visits, mpsc::unbounded_channel().1);
        tokio::spawn(async move {
            while let Some(visit) = visits.recv().await {
                let version = format!("{:?}", visit.request.version());
                visit.say(&version);
            }
        });
    }
}

/// A proxy whose app is `https://localhost:port`.
fn before(port: u16, ca_file: Option<&PathBuf>, change: impl FnOnce(&mut Config)) -> Proxy {
    Proxy::configured(Faults::default(), |config| {
        config.forward.app = Some(format!("https://localhost:{port}").parse().unwrap());
        config.forward.ca_file = ca_file.cloned();
        change(config);
    })
}

/// Speaks what was negotiated.
async fn serve(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    http2: http2::Builder<TokioExecutor>,
    visits: mpsc::UnboundedSender<Visit>,
    connections: Arc<AtomicUsize>,
) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    connections.fetch_add(1, Ordering::SeqCst);
    let tls = stream.get_ref().1;
    let (second, server_name) = (tls.alpn_protocol() == Some(HTTP_2), tls.server_name().map(str::to_owned));
    let service = service_fn(move |request| {
        let (answer, answered) = oneshot::channel();
        let _ = visits.send(Visit { request, server_name: server_name.clone(), answer });
        answered
    });
    let stream = TokioIo::new(stream);
    let _ = if second {
        http2.serve_connection(stream, service).await
    } else {
        http1::Builder::new().serve_connection(stream, service).with_upgrades().await
    };
}

/// A request whose answer is waited for elsewhere.
async fn ask(proxy: &Proxy, request: impl AsRef<[u8]>) -> Connection {
    let mut client = proxy.connect().await;
    client.send(request).await;
    client
}

async fn answer(mut client: Connection) -> Answer {
    client.response().await.expect("an answer")
}

/// A body that is said piece by piece.
fn pieces() -> (mpsc::UnboundedSender<Frame<Bytes>>, Said) {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let frames = poll_fn(move |cx| receiver.poll_recv(cx).map(|frame| frame.map(Ok::<_, Infallible>)));
    (sender, StreamBody::new(frames).boxed_unsync())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_app_chooses_the_version_and_sees_the_host_that_the_client_named() {
    for (alpn, version) in [
        (&[HTTP_1][..], Version::HTTP_11),
        (&[], Version::HTTP_11),
        (&[HTTP_1, HTTP_2], Version::HTTP_11),
        (&[HTTP_2], Version::HTTP_2),
        (&[HTTP_2, HTTP_1], Version::HTTP_2),
    ] {
        let mut app = TlsApp::start("localhost", alpn).await;
        let proxy = app.proxy();
        let client = ask(&proxy, "GET /a?b=%2f HTTP/1.1\r\nHost: shop.example:81\r\n\r\n").await;
        let visit = app.visit().await;
        assert_eq!(visit.request.version(), version, "{alpn:?}");
        assert_eq!(visit.server_name.as_deref(), Some("localhost"), "the app's name, not the client's");
        let uri = visit.request.uri().to_string();
        let seen = (uri.as_str(), visit.field("host"));
        let expected = if version == Version::HTTP_2 {
            ("https://shop.example:81/a?b=%2f", None)
        } else {
            ("/a?b=%2f", Some("shop.example:81"))
        };
        assert_eq!(seen, expected);
        assert_eq!(visit.field("x-forwarded-host"), Some("shop.example:81"));
        assert_eq!(visit.field("forwarded"), Some("for=127.0.0.1;host=\"shop.example:81\";proto=http"));
        assert!(visit.field("via").unwrap().starts_with("1.1 ticketgate ("));
        visit.say("hello");
        let answer = answer(client).await;
        let via = if version == Version::HTTP_2 { "2 ticketgate" } else { "1.1 ticketgate" };
        assert_eq!((answer.status, answer.text(), answer.header("via")), (200, "hello", Some(via)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_hosts_clients_name_they_share_the_connections_to_the_app() {
    let mut app = TlsApp::start("localhost", &[HTTP_2]).await;
    let proxy = app.proxy();
    app.answer_all();
    for number in 0..50 {
        let client = ask(&proxy, format!("GET / HTTP/1.1\r\nHost: {number}.example\r\n\r\n")).await;
        assert_eq!(answer(client).await.text(), "HTTP/2.0");
    }
    assert!(app.connections() <= workers(), "{}", app.connections());
}

fn workers() -> usize {
    std::thread::available_parallelism().unwrap().get()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_requests_at_once_share_one_connection_of_each_worker() {
    let mut app = TlsApp::start("localhost", &[HTTP_2, HTTP_1]).await;
    let proxy = app.proxy();
    let mut clients = Vec::new();
    for number in 0..100 {
        clients.push(ask(&proxy, format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n")).await);
    }
    let mut visits = Vec::new();
    for _ in 0..100 {
        visits.push(app.visit().await);
    }
    // All are under way at this moment.
    assert!(app.connections() <= workers(), "{}", app.connections());
    for visit in visits {
        let path = visit.request.uri().path().to_owned();
        visit.say(&path);
    }
    for (number, client) in clients.into_iter().enumerate() {
        assert_eq!(answer(client).await.text(), format!("/{number}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_beyond_what_the_app_allows_on_a_connection_get_another() {
    let mut app = TlsApp::with("localhost", &[HTTP_2], |http2| http2.max_concurrent_streams(1)).await;
    let proxy = app.proxy();
    let mut clients = Vec::new();
    let mut visits = Vec::new();
    for _ in 0..6 {
        clients.push(ask(&proxy, "GET /events HTTP/1.1\r\nHost: a\r\n\r\n").await);
        // None is answered, and each arrives.
        visits.push(app.visit().await);
    }
    for visit in visits {
        visit.say("ok");
    }
    for client in clients {
        assert_eq!(answer(client).await.status, 200);
    }
    assert!(app.connections() <= 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_stream_both_ways_and_trailers_pass_over_http_2() {
    let mut app = TlsApp::start("localhost", &[HTTP_2]).await;
    let proxy = app.proxy();
    let fields = "Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\nTE: trailers\r\nConnection: TE, close\r\n";
    let mut client = proxy.connect().await.into_stream();
    say(&mut client, format!("POST /x HTTP/1.1\r\nHost: a\r\n{fields}\r\n4\r\nping\r\n")).await;
    let mut visit = app.visit().await;
    assert_eq!(visit.field("te"), Some("trailers"));
    let piece = visit.request.body_mut().frame().await.unwrap().unwrap();
    assert_eq!(piece.into_data().unwrap(), "ping", "before the body's end");
    let (sender, body) = pieces();
    let mut response = Response::new(body);
    response.headers_mut().insert("trailer", HeaderValue::from_static("x-sum"));
    let (_, mut upload) = visit.request.into_parts();
    visit.answer.send(response).unwrap();
    sender.send(Frame::data(Bytes::from("pong"))).unwrap();
    let mut unread = Vec::new();
    let head = read_head(&mut client, &mut unread).await.unwrap();
    assert!(head.contains("\r\ntrailer: x-sum\r\n"), "{head}");
    hear(&mut client, &b"4\r\npong\r\n"[unread.len()..]).await;
    say(&mut client, "0\r\nX-Sum: 1\r\n\r\n").await;
    let trailers = upload.frame().await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(trailers["x-sum"], "1");
    let trailers: HeaderMap = [("x-sum".parse().unwrap(), HeaderValue::from_static("2"))].into_iter().collect();
    sender.send(Frame::trailers(trailers)).unwrap();
    drop(sender);
    hear(&mut client, "0\r\nx-sum: 2\r\n\r\n").await;
}

/// How much is taken of what is said, until nothing is.
async fn fill(stream: &mut TcpStream) -> usize {
    let mut said = 0;
    while let Ok(wrote) = timeout(Duration::from_secs(1), stream.write(&[b'x'; 16 * 1024])).await {
        said += wrote.unwrap();
        assert!(said < 64 * 1024 * 1024, "somebody collects it");
    }
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_waits_for_an_app_that_does_not_read_over_http_2() {
    let mut app = TlsApp::start("localhost", &[HTTP_2]).await;
    let proxy = app.proxy();
    let mut client = proxy.connect().await.into_stream();
    say(&mut client, "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n").await;
    let mut visit = app.visit().await;
    let said = fill(&mut client).await;
    let mut read = 0;
    while read < said {
        read += visit.request.body_mut().frame().await.unwrap().unwrap().into_data().unwrap().len();
    }
    assert_eq!(read, said, "and nothing of it is lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_do_not_read_leave_windows_for_others() {
    let mut app = TlsApp::start("localhost", &[HTTP_2]).await;
    let proxy = app.proxy();
    let mut asleep = Vec::new();
    for _ in 0..10 {
        asleep.push(ask(&proxy, "GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await);
        let (sender, body) = pieces();
        app.visit().await.answer.send(Response::new(body)).unwrap();
        for _ in 0..640 {
            sender.send(Frame::data(Bytes::from_static(&[b'x'; 16 * 1024]))).unwrap();
        }
    }
    app.answer_all();
    for _ in 0..10 {
        let client = ask(&proxy, "GET /small HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(answer(client).await.text(), "HTTP/2.0");
    }
    // They get everything when they wake up.
    for mut client in asleep {
        let answer = client.response().await.expect("an answer");
        assert_eq!(answer.body.len(), 640 * 16 * 1024);
    }
    assert!(app.connections() <= workers(), "{}", app.connections());
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_of_the_clients_hop_do_not_reach_an_app_over_http_2_nor_the_apps_the_client() {
    let mut app = TlsApp::start("localhost", &[HTTP_2]).await;
    let proxy = app.proxy();
    let fields = "Connection: X-Mine, keep-alive\r\nX-Mine: 1\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\n\
                  Upgrade: h2c\r\nTE: gzip\r\n";
    let client = ask(&proxy, format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).await;
    let visit = app.visit().await;
    for name in ["connection", "x-mine", "keep-alive", "proxy-connection", "upgrade", "te", "host", "transfer-encoding"]
    {
        assert_eq!(visit.field(name), None, "{name}");
    }
    visit.say("ok");
    assert_eq!(answer(client).await.header("connection"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn te_passes_when_the_hop_says_that_it_is_meant_for_it() {
    for alpn in [HTTP_1, HTTP_2] {
        let mut app = TlsApp::start("localhost", &[alpn]).await;
        let proxy = app.proxy();
        for (fields, passes) in [
            ("TE: trailers\r\nConnection: TE\r\n", true),
            ("TE: deflate;q=0.5, Trailers\r\nConnection: te\r\n", true),
            ("TE: trailers\r\n", false),
            ("TE: gzip\r\nConnection: TE\r\n", false),
        ] {
            let client = ask(&proxy, format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).await;
            let visit = app.visit().await;
            assert_eq!(visit.field("te"), passes.then_some("trailers"), "{fields}");
            let connection = (passes && alpn == HTTP_1).then_some("TE");
            assert_eq!(visit.field("connection"), connection, "{fields}");
            visit.say("ok");
            answer(client).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_goes_by_http_1_though_the_app_prefers_http_2() {
    let mut app = TlsApp::start("localhost", &[HTTP_2, HTTP_1]).await;
    let proxy = app.proxy();
    let client = ask(&proxy, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    app.visit().await.say("over HTTP/2");
    assert_eq!(answer(client).await.status, 200);
    let fields = "Connection: Upgrade, TE\r\nUpgrade: chat\r\nTE: trailers\r\n";
    let mut client = proxy.connect().await.into_stream();
    say(&mut client, format!("GET /ws HTTP/1.1\r\nHost: shop.example\r\n{fields}\r\n")).await;
    let mut visit = app.visit().await;
    assert_eq!(visit.request.version(), Version::HTTP_11);
    assert_eq!((visit.field("connection"), visit.field("upgrade")), (Some("upgrade"), Some("chat")));
    assert_eq!((visit.field("host"), visit.field("te")), (Some("shop.example"), None));
    let switched = hyper::upgrade::on(&mut visit.request);
    let mut response = Response::new(pieces().1);
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert("connection", HeaderValue::from_static("upgrade"));
    response.headers_mut().insert("upgrade", HeaderValue::from_static("chat"));
    visit.answer.send(response).unwrap();
    assert!(read_head(&mut client, &mut Vec::new()).await.unwrap().starts_with("HTTP/1.1 101 "));
    let mut behind = TokioIo::new(switched.await.unwrap());
    say(&mut client, "ping").await;
    let mut heard = [0; 4];
    behind.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"ping");
    behind.write_all(b"pong").await.unwrap();
    behind.flush().await.unwrap();
    hear(&mut client, "pong").await;
    drop(behind);
    drop(client);
    eventually("the tunnel is gone", || proxy.running.metrics().open_connections() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_nobody_vouches_for_is_told_nothing() {
    let mut stranger = TlsApp::start("localhost", &[HTTP_2, HTTP_1]).await;
    let mut other = TlsApp::start("other.example", &[HTTP_2, HTTP_1]).await;
    let unknown = before(stranger.address.port(), None, |_| {});
    let misnamed = other.proxy();
    let reasons = ["nobody whom we believe has issued it", "it is for another host"];
    for ((proxy, app), why) in [(unknown, &mut stranger), (misnamed, &mut other)].into_iter().zip(reasons) {
        for fields in ["", "Connection: Upgrade\r\nUpgrade: chat\r\n"] {
            let client = ask(&proxy, format!("GET /x HTTP/1.1\r\nHost: other.example\r\n{fields}\r\n")).await;
            let answer = answer(client).await;
            let status = answer.header("proxy-status");
            let expected = "ticketgate; error=tls_certificate_error; details=\"app-certificate\"";
            assert_eq!((answer.status, status), (502, Some(expected)), "{}", answer.text());
            assert!(answer.text().contains(why), "{}", answer.text());
        }
        assert!(app.visits.try_recv().is_err(), "nothing was said");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_tls_and_what_never_answers_it_is_said_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let clear = before(listener.local_addr().unwrap().port(), None, |_| {});
    let client = ask(&clear, "GET /x HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (mut behind, _) = listener.accept().await.unwrap();
    say(&mut behind, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
    let got = answer(client).await;
    let status = "ticketgate; error=tls_protocol_error; details=\"app-tls-handshake\"";
    assert_eq!((got.status, got.header("proxy-status")), (502, Some(status)), "{}", got.text());

    let patience = Duration::from_millis(100);
    let silent =
        before(listener.local_addr().unwrap().port(), None, |config| config.forward.connect_timeout = patience);
    // All who wait for one connection hear of it in the same time.
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(ask(&silent, "GET /x HTTP/1.1\r\nHost: a\r\n\r\n").await);
    }
    let began = tokio::time::Instant::now();
    for client in clients {
        let got = answer(client).await;
        let status = "ticketgate; error=connection_timeout; details=\"app-connect-timeout\"";
        assert_eq!((got.status, got.header("proxy-status")), (504, Some(status)), "{}", got.text());
    }
    assert!(began.elapsed() < 10 * patience, "one after the other: {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_went_silent_is_replaced_and_a_harmless_request_with_it() {
    let mut app = TlsApp::start("localhost", &[HTTP_2]).await;
    let relay = Relay::to(app.address).await;
    let proxy = app.proxy_by(relay.address.port(), |config| {
        config.forward.first_byte_timeout = Duration::from_secs(6);
    });
    app.answer_all();
    let get = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    // So that every worker has one.
    for _ in 0..4 * workers() {
        assert_eq!(answer(ask(&proxy, get).await).await.status, 200);
    }
    let before = app.connections();
    relay.dead.send_replace(before);
    let began = tokio::time::Instant::now();
    assert_eq!(answer(ask(&proxy, get).await).await.status, 200);
    assert!(began.elapsed() > Duration::from_secs(2), "over the dead one");
    assert!(app.connections() > before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stops_coming_is_the_clients_mistake_over_http_2_as_well() {
    let mut app = TlsApp::start("localhost", &[HTTP_2]).await;
    let proxy = app.proxy_by(app.address.port(), |config| {
        config.server.timeouts.body = Duration::from_millis(100);
    });
    for (body, status) in [("4\r\nping\r\n", 408), ("4\r\nping\r\nzz\r\n", 400)] {
        let request = format!("POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        let client = ask(&proxy, request).await;
        let visit = app.visit().await;
        assert!(visit.request.into_body().collect().await.is_err(), "the app saw no complete body");
        let answer = answer(client).await;
        assert_eq!((answer.status, answer.header("connection")), (status, Some("close")), "{}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_ends_its_stream_and_no_other() {
    let mut app = TlsApp::start("localhost", &[HTTP_2]).await;
    let proxy = app.proxy();
    let gone = ask(&proxy, "GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut slow = app.visit().await;
    drop(gone);
    timeout(PATIENCE, slow.answer.closed()).await.expect("the app hears of it");
    let client = ask(&proxy, "GET /x HTTP/1.1\r\nHost: a\r\n\r\n").await;
    app.visit().await.say("ok");
    assert_eq!(answer(client).await.status, 200);
}

/// An app in frames.
async fn frames() -> (Proxy, TcpListener, TlsAcceptor) {
    let authority = Authority::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = before(listener.local_addr().unwrap().port(), Some(&authority.ca_file()), |_| {});
    (proxy, listener, authority.acceptor("localhost", &[HTTP_2]))
}

type Frames = h2::server::Connection<TlsStream<TcpStream>, Bytes>;

async fn accept(listener: &TcpListener, acceptor: &TlsAcceptor) -> Frames {
    let (stream, _) = timeout(PATIENCE, listener.accept()).await.expect("a connection in time").unwrap();
    h2::server::handshake(acceptor.accept(stream).await.unwrap()).await.unwrap()
}

async fn next(connection: &mut Frames) -> (Request<h2::RecvStream>, h2::server::SendResponse<Bytes>) {
    timeout(PATIENCE, connection.accept()).await.expect("a request in time").expect("a request").unwrap()
}

/// Keeps a connection going.
fn drive(mut connection: Frames) {
    tokio::spawn(async move { while connection.accept().await.is_some() {} });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_stream_is_tried_once_more_when_it_asks_for_nothing_to_be_done() {
    for (method, expected) in [("GET", 204), ("POST", 502)] {
        let (proxy, listener, acceptor) = frames().await;
        let body = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
        let mut client =
            ask(&proxy, format!("{method} /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{body}\r\n")).await;
        let mut connection = accept(&listener, &acceptor).await;
        let (_, mut refused) = next(&mut connection).await;
        refused.send_reset(h2::Reason::REFUSED_STREAM);
        if method == "GET" {
            let (again, mut respond) = next(&mut connection).await;
            assert_eq!(again.uri().path(), "/x");
            respond.send_response(Response::builder().status(204).body(()).unwrap(), true).unwrap();
        }
        drive(connection);
        assert_eq!(client.response_to(method).await.expect("an answer").status, expected, "{method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_goes_away_answers_what_it_has_and_the_rest_goes_elsewhere() {
    let (proxy, listener, acceptor) = frames().await;
    let mut client = ask(&proxy, "GET /first HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    let mut connection = accept(&listener, &acceptor).await;
    let (_, mut respond) = next(&mut connection).await;
    connection.graceful_shutdown();
    let ended = tokio::spawn(async move {
        // What was sent before the proxy heard of it.
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            respond.send_response(Response::builder().status(204).body(()).unwrap(), true).unwrap();
        }
    });
    let (mut other, mut anew) = loop {
        let mut other = ask(&proxy, "GET /second HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        tokio::select! {
            anew = accept(&listener, &acceptor) => break (other, anew),
            early = other.response() => assert_eq!(early.expect("an answer").status, 204),
        }
    };
    let (second, mut respond_second) = next(&mut anew).await;
    assert_eq!(second.uri().path(), "/second");
    for respond in [&mut respond, &mut respond_second] {
        respond.send_response(Response::builder().status(204).body(()).unwrap(), true).unwrap();
    }
    drive(anew);
    assert_eq!(client.response().await.expect("an answer").status, 204, "under way when it was said");
    assert_eq!(other.response().await.expect("an answer").status, 204);
    timeout(PATIENCE, ended).await.expect("its last answer was its end").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_its_own_origin_by_a_detour_says_so_at_once() {
    let proxy = Proxy::configured(Faults::default(), |_| {});
    // The detour: configuration knows of loops only where it can see them.
    let relay = Relay::to(proxy.address()).await;
    proxy.reconfigure(|config| config.origin.url = format!("http://{}", relay.address).parse().unwrap());
    let began = tokio::time::Instant::now();
    let answer = proxy.image(&tickets::permanent(1)).await;
    assert_eq!(answer.status, 508, "{}", answer.text());
    assert!(answer.text().contains("leads back to this proxy"), "{}", answer.text());
    assert!(answer.cache_status().contains("fwd-status=508"), "{}", answer.cache_status());
    assert!(began.elapsed() < Duration::from_secs(5), "long before origin.first_byte_timeout");
    assert_eq!(proxy.running.reading().image_entries, 0);
}
