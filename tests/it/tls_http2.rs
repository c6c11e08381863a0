//! HTTP/2 towards clients: chosen by ALPN alone, bounded, and ended without losing a request (S5, S32, S38).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use ticketgate::app::Ending;
use ticketgate::config::Config;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::support::client::Connection;
use crate::support::origin::{Answer, Origin, jpeg};
use crate::support::proxy::Proxy;
use crate::support::tls::{Authority, HTTP_1, HTTP_2};
use crate::support::{PATIENCE, eventually, tickets};

const SHORT: Duration = Duration::from_millis(150);

struct Scene {
    /// WeChat, and the app as well.
    origin: Origin,
    authority: Authority,
    proxy: Proxy,
}

/// A proxy with a TLS listener, whose origin is its app too.
async fn scene(change: impl FnOnce(&mut Config)) -> Scene {
    let origin = Origin::answering(Answer::image()).await;
    let authority = Authority::new();
    authority.install();
    let proxy = Proxy::with(&origin, |config| {
        authority.configure(config);
        config.forward.app = Some(origin.url().parse().unwrap());
        change(config);
    });
    Scene { origin, authority, proxy }
}

/// A client's connection; its task ends with an error when the server's end was not a good one.
struct Client {
    sender: SendRequest<Full<Bytes>>,
    connection: JoinHandle<hyper::Result<()>>,
}

impl Client {
    async fn over(stream: TlsStream<TcpStream>) -> Self {
        let io = TokioIo::new(stream);
        let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        Self { sender, connection: tokio::spawn(connection) }
    }

    fn send(&self, request: Request<Full<Bytes>>) -> JoinHandle<hyper::Result<Response<Incoming>>> {
        let mut sender = self.sender.clone();
        tokio::spawn(async move {
            sender.ready().await?;
            sender.send_request(request).await
        })
    }

    async fn get(&self, target: &str) -> Response<Incoming> {
        timeout(PATIENCE, self.send(get(target))).await.expect("an answer in time").unwrap().expect("an answer")
    }

    async fn closes(self) -> bool {
        timeout(PATIENCE, self.connection).await.expect("closed in time").is_ok()
    }
}

impl Scene {
    async fn client(&self) -> Client {
        Client::over(self.authority.connect(self.proxy.tls(), &[HTTP_2]).await).await
    }

    /// The frames' own client, for what hyper's would not do.
    async fn frames(
        &self,
        change: impl FnOnce(&mut h2::client::Builder) -> &mut h2::client::Builder,
    ) -> (h2::client::SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>) {
        let stream = self.authority.connect(self.proxy.tls(), &[HTTP_2]).await;
        let mut builder = h2::client::Builder::new();
        change(&mut builder);
        let (sender, connection) = builder.handshake(stream).await.unwrap();
        (sender, tokio::spawn(connection))
    }
}

fn get(target: &str) -> Request<Full<Bytes>> {
    Request::get(format!("https://localhost{target}")).body(Full::default()).unwrap()
}

fn image(number: u32) -> String {
    tickets::target(&tickets::permanent(number))
}

async fn body(response: Response<Incoming>) -> Bytes {
    timeout(PATIENCE, response.collect()).await.expect("in time").unwrap().to_bytes()
}

fn cache_status(response: &Response<Incoming>) -> String {
    response.headers()["cache-status"].to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_a_miss_and_then_a_hit_over_http_2() {
    let scene = scene(|_| {}).await;
    let stream = scene.authority.connect(scene.proxy.tls(), &[HTTP_1, HTTP_2]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(HTTP_2), "preferred");
    let client = Client::over(stream).await;
    for expected in ["fwd=uri-miss", "hit"] {
        let answer = client.get(&image(1)).await;
        assert_eq!((answer.status(), answer.version()), (StatusCode::OK, Version::HTTP_2));
        assert!(cache_status(&answer).contains(expected), "{answer:?}");
        assert_eq!(body(answer).await, jpeg());
    }
    assert_eq!(scene.origin.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_handshake_chooses_http_2() {
    let scene = scene(|_| {}).await;
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut clear = scene.proxy.connect().await;
    clear.send(preface).await;
    assert!(clear.response().await.is_none_or(|answer| answer.status == 400));
    let mut tls = Connection::over(scene.authority.connect(scene.proxy.tls(), &[HTTP_1]).await);
    tls.send(preface).await;
    assert!(tls.response().await.is_none_or(|answer| answer.status == 400));
    assert_eq!(scene.origin.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_app_gets_a_request_of_http_1() {
    let scene = scene(|_| {}).await;
    let request = Request::post("https://shop.example/order?a=b")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("te", "trailers")
        .body(Full::from("body"))
        .unwrap();
    let answer = scene.client().await.send(request).await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    let head = scene.origin.heads().remove(0);
    assert!(head.starts_with("POST /order?a=b HTTP/1.1\r\n"), "{head}");
    let fields = ["host: shop.example", "cookie: a=1; b=2", "x-forwarded-proto: https", "content-length: 4"];
    for line in fields.into_iter().chain(["te: trailers", "connection: TE"]) {
        assert_eq!(head.matches(&format!("\r\n{line}\r\n")).count(), 1, "{line}: {head}");
    }
    for name in ["\r\n:", "upgrade:"] {
        assert!(!head.contains(name), "{name}: {head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_differs_from_the_authority_is_refused_and_the_client_has_to_connect_anew() {
    let scene = scene(|_| {}).await;
    let client = scene.client().await;
    let mut request = get("/");
    request.headers_mut().insert("host", "other.example".parse().unwrap());
    let answer = client.send(request).await.unwrap().unwrap();
    assert_eq!(answer.status(), 400);
    assert!(!answer.headers().contains_key("connection"));
    assert!(client.closes().await);
    let mut request = get("/");
    request.headers_mut().insert("host", "localhost".parse().unwrap());
    assert_eq!(scene.client().await.send(request).await.unwrap().unwrap().status(), 200);
    assert_eq!(scene.origin.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_are_bounded_and_the_connection_goes_on() {
    let scene = scene(|_| {}).await;
    let client = scene.client().await;
    let mut many = get("/");
    for n in 0..200 {
        many.headers_mut().append("x-many", n.into());
    }
    let mut long = get("/");
    long.headers_mut().insert("x-long", "y".repeat(40_000).parse().unwrap());
    for request in [many, long] {
        // A client that heeds our limit refuses to send it.
        let answer = client.send(request).await.unwrap();
        assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status() == 431));
    }
    let mut crumbs = get("/");
    for n in 0..200 {
        crumbs.headers_mut().append("cookie", format!("a{n}=b").parse().unwrap());
    }
    assert_eq!(client.send(crumbs).await.unwrap().unwrap().status(), 200, "cookies are one field");
    assert_eq!(scene.origin.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_requests_at_once_are_answered_a_hundred_at_a_time() {
    let scene = scene(|_| {}).await;
    scene.origin.hold();
    let client = scene.client().await;
    let requests: Vec<_> = (0..200).map(|n| client.send(get(&format!("/{n}")))).collect();
    scene.origin.has_been_asked(100).await;
    assert_eq!(scene.origin.count(), 100);
    scene.origin.release();
    for request in requests {
        assert_eq!(timeout(PATIENCE, request).await.unwrap().unwrap().unwrap().status(), 200);
    }
    assert_eq!(scene.origin.count(), 200);
}

/// Says `GET /` on a stream, byte for byte.
fn get_on(stream: u32) -> Vec<u8> {
    let fields = b"\x82\x87\x84\x41\x09localhost";
    let mut frame = vec![0, 0, u8::try_from(fields.len()).unwrap(), 1, 5];
    frame.extend(stream.to_be_bytes());
    frame.extend(fields);
    frame
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_beyond_the_limit_are_refused_to_a_client_that_does_not_heed_it() {
    const REFUSED: [u8; 4] = 7u32.to_be_bytes();
    let scene = scene(|_| {}).await;
    scene.origin.hold();
    let mut stream = scene.authority.connect(scene.proxy.tls(), &[HTTP_2]).await;
    let mut burst = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00".to_vec();
    (0..130).for_each(|n| burst.extend(get_on(2 * n + 1)));
    stream.write_all(&burst).await.unwrap();
    let mut refused = 0;
    while refused < 30 {
        let mut head = [0; 9];
        timeout(PATIENCE, stream.read_exact(&mut head)).await.expect("a frame in time").unwrap();
        let mut payload = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
        stream.read_exact(&mut payload).await.unwrap();
        assert_ne!(head[3], 7, "GOAWAY");
        refused += usize::from(head[3] == 3 && payload == REFUSED);
    }
    scene.origin.has_been_asked(100).await;
    assert_eq!(scene.origin.count(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn rapid_resets_end_the_connection() {
    let scene = scene(|_| {}).await;
    scene.origin.hold();
    let (mut sender, connection) = scene.frames(|builder| builder).await;
    let mut sent = 0;
    while sent < 20_000 && std::future::poll_fn(|cx| sender.poll_ready(cx)).await.is_ok() {
        let request = Request::get("https://localhost/app").body(()).unwrap();
        let Ok((_, mut stream)) = sender.send_request(request, true) else { break };
        stream.send_reset(h2::Reason::CANCEL);
        sent += 1;
        if sent % 10 == 0 {
            tokio::task::yield_now().await;
        }
    }
    assert!(sent < 20_000, "never stopped");
    drop(sender);
    let _ = timeout(PATIENCE, connection).await.expect("the connection ends");
    assert!(scene.proxy.running.metrics().abandoned.get() <= 600, "{}", scene.proxy.running.metrics().abandoned.get());
    scene.origin.release();
    assert_eq!(scene.client().await.get(&image(1)).await.status(), 200, "others are served");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_nobody_reads_ends_and_the_connection_goes_on() {
    let scene = scene(|_| {}).await;
    let (mut sender, _connection) = scene.frames(|builder| builder).await;
    let request = Request::post(format!("https://localhost{}", image(1))).body(()).unwrap();
    let (answer, mut stream) = sender.send_request(request, false).unwrap();
    stream.reserve_capacity(1000);
    let _ = stream.send_data(Bytes::from(vec![b'x'; 1000]), false);
    assert_eq!(timeout(PATIENCE, answer).await.unwrap().unwrap().status(), 405);
    let stopped = std::future::poll_fn(|cx| stream.poll_reset(cx));
    assert_eq!(timeout(PATIENCE, stopped).await.unwrap().unwrap(), h2::Reason::NO_ERROR);
    let request = Request::get(format!("https://localhost{}", image(1))).body(()).unwrap();
    let (answer, _) = sender.send_request(request, true).unwrap();
    assert_eq!(timeout(PATIENCE, answer).await.unwrap().unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_promised_and_not_sent_ends_at_its_deadline() {
    let scene = scene(|config| config.server.timeouts.body = SHORT).await;
    scene.origin.hold();
    let (mut sender, _connection) = scene.frames(|builder| builder).await;
    let request = Request::post("https://localhost/upload").header("content-length", "100").body(()).unwrap();
    let (answer, _stream) = sender.send_request(request, false).unwrap();
    assert_eq!(timeout(PATIENCE, answer).await.unwrap().unwrap().status(), 408);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_client_makes_no_room_is_reset_and_the_others_go_on() {
    let scene = scene(|config| config.server.timeouts.write = SHORT).await;
    let (mut sender, _connection) = scene.frames(|builder| builder.initial_window_size(0)).await;
    let ask = |path: &str| Request::get(format!("https://localhost{path}")).body(()).unwrap();
    let (answer, _) = sender.send_request(ask("/app"), true).unwrap();
    let mut stalled = timeout(PATIENCE, answer).await.unwrap().unwrap().into_body();
    let error = timeout(PATIENCE, stalled.data()).await.expect("reset in time").expect("an end").unwrap_err();
    assert!(error.is_reset(), "{error}");
    let request = Request::head(format!("https://localhost{}", image(1))).body(()).unwrap();
    let (answer, _) = sender.send_request(request, true).unwrap();
    assert_eq!(timeout(PATIENCE, answer).await.unwrap().unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_preface_and_an_idle_connection_are_closed() {
    let scene = scene(|config| {
        config.server.timeouts.head = SHORT;
        config.server.timeouts.first_byte = SHORT;
        config.server.timeouts.keep_alive = 2 * SHORT;
    })
    .await;
    let mut stream = scene.authority.connect(scene.proxy.tls(), &[HTTP_2]).await;
    stream.write_all(b"PRI * HT").await.unwrap();
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("closed in time");
    assert!(scene.client().await.closes().await, "it never asked");
    let client = scene.client().await;
    assert_eq!(client.get(&image(1)).await.status(), 200);
    assert!(client.closes().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_sends_goaway_and_answers_what_is_under_way() {
    let scene = scene(|config| config.server.drain_delay = Duration::ZERO).await;
    scene.origin.hold();
    let (idle, busy) = (scene.client().await, scene.client().await);
    let answer = busy.send(get(&image(1)));
    scene.origin.has_been_asked(1).await;
    scene.proxy.running.drain();
    assert!(idle.closes().await);
    assert!(!answer.is_finished());
    scene.origin.release();
    let answer = timeout(PATIENCE, answer).await.unwrap().unwrap().expect("a request under way is finished");
    assert_eq!(body(answer).await, jpeg());
    assert!(busy.closes().await);
    let ending = tokio::task::spawn_blocking(move || scene.proxy.running.finish()).await.unwrap();
    assert_eq!(ending, Ending::Clean);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_comes_in_the_drain_is_served_and_then_told_to_go() {
    let scene = scene(|config| config.server.drain_delay = PATIENCE).await;
    scene.proxy.running.drain();
    for _ in 0..20 {
        // hyper's client reports a GOAWAY now and then for a request that is answered all the same.
        let (sender, connection) = scene.frames(|builder| builder).await;
        let mut sender = timeout(PATIENCE, sender.ready()).await.unwrap().unwrap();
        let request = Request::get(format!("https://localhost{}", image(1))).body(()).unwrap();
        let (answer, _) = sender.send_request(request, true).unwrap();
        assert_eq!(timeout(PATIENCE, answer).await.unwrap().unwrap().status(), 200);
        drop(sender);
        assert!(timeout(PATIENCE, connection).await.expect("closed in time").unwrap().is_ok());
    }
}

/// Asks until the server sends GOAWAY; how many requests were answered. One that the server says it has not seen is for
/// another connection (RFC 9113 §6.8).
async fn answers_until_goaway(stream: TlsStream<TcpStream>) -> u64 {
    let Ok((mut sender, connection)) = h2::client::handshake(stream).await else { return 0 };
    let connection = tokio::spawn(connection);
    let mut answered = 0;
    while std::future::poll_fn(|cx| sender.poll_ready(cx)).await.is_ok() {
        let request = Request::get(format!("https://localhost{}", image(1))).body(()).unwrap();
        let Ok((answer, _)) = sender.send_request(request, true) else { break };
        match answer.await {
            Ok(answer) => {
                let (mut pieces, mut length) = (answer.into_body(), 0);
                while let Some(piece) = pieces.data().await {
                    length += piece.expect("a whole answer").len();
                }
                assert_eq!(length, jpeg().len());
                answered += 1;
            }
            Err(error) => assert!(error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR), "{error}"),
        }
    }
    drop(sender);
    let _ = connection.await;
    answered
}

/// What counts is each request that the server saw.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_over_http_2_is_lost_in_a_drain() {
    let scene = scene(|config| {
        config.limits.client_requests = None;
        config.server.drain_delay = Duration::from_millis(300);
    })
    .await;
    let address = scene.proxy.tls();
    let connector = scene.authority.client(rustls::DEFAULT_VERSIONS, &[HTTP_2]);
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let connector = connector.clone();
            tokio::spawn(async move {
                let mut answered = 0;
                while let Ok(stream) = TcpStream::connect(address).await {
                    let name = "localhost".try_into().unwrap();
                    let Ok(stream) = connector.connect(name, stream).await else { break };
                    answered += answers_until_goaway(stream).await;
                }
                answered
            })
        })
        .collect();
    eventually("there is load", || scene.proxy.running.metrics().totals().hits > 300).await;
    let metrics = Arc::clone(scene.proxy.running.metrics());
    scene.proxy.running.drain();
    let ending = tokio::task::spawn_blocking(move || scene.proxy.running.finish()).await.unwrap();
    assert_eq!(ending, Ending::Clean);
    let mut answered = 0;
    for client in clients {
        answered += client.await.unwrap();
    }
    assert_eq!((metrics.totals().hits + metrics.totals().misses, metrics.abandoned.get()), (answered, 0));
}

/// `curl` with `arguments`, in an environment that leads it nowhere else: what it fetched, and what it says of that.
async fn curl(arguments: Vec<String>) -> std::process::Output {
    let mut curl = std::process::Command::new("curl");
    curl.args(["-q", "-sS", "--max-time", "20", "--noproxy", "*", "-w", "%{stderr}%{http_version} %{http_code}"]);
    curl.args(arguments);
    tokio::task::spawn_blocking(move || curl.output().expect("curl is installed")).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs curl"]
async fn curl_gets_the_image_in_http_2_and_in_http_1_when_it_asks_for_that() {
    let scene = scene(|_| {}).await;
    let (port, ca) = (scene.proxy.tls().port(), scene.authority.ca_file());
    for (flag, said) in [("--http2", "2 200"), ("--http1.1", "1.1 200")] {
        let resolve = format!("localhost:{port}:127.0.0.1");
        let url = format!("https://localhost:{port}{}", image(1));
        let arguments = [flag, "--cacert", ca.to_str().unwrap(), "--resolve", &resolve, &url];
        let output = curl(arguments.map(str::to_owned).to_vec()).await;
        assert_eq!(String::from_utf8_lossy(&output.stderr), said);
        assert!(output.status.success() && output.stdout == jpeg(), "{flag}");
    }
    assert_eq!(scene.origin.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs curl"]
async fn curl_is_refused_http_2_in_the_clear_and_its_upgrade_is_passed_over() {
    let scene = scene(|_| {}).await;
    let url = format!("http://{}{}", scene.proxy.address(), image(1));
    let output = curl(vec!["--http2-prior-knowledge".to_owned(), url.clone()]).await;
    assert!(!output.status.success() && output.stdout != jpeg(), "{output:?}");
    assert_eq!(scene.origin.count(), 0);
    eventually("it is counted", || scene.proxy.running.metrics().malformed.get() == 1).await;
    let output = curl(vec!["--http2".to_owned(), url]).await;
    assert_eq!(String::from_utf8_lossy(&output.stderr), "1.1 200", "an offer of h2c is no more than that");
    assert_eq!(output.stdout, jpeg());
}
