//! No more requests are with the app, or wait for an image, than there may be connections, though over HTTP/2 many come over
//! one. Whoever is refused is told so, and reaches nobody.

use std::time::Duration;

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{RecvStream, SendStream};
use http::{Method, Request, Response};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::app::{App, say};
use crate::support::origin::{Answer, Origin, jpeg, read_head};
use crate::support::proxy::Proxy;
use crate::support::tls::{Authority, HTTP_2};
use crate::support::{PATIENCE, eventually, tickets};

/// A client of HTTP/2 that may have as many requests under way as it likes.
struct Client(h2::client::SendRequest<Bytes>);

impl Client {
    async fn of(proxy: &Proxy, authority: &Authority) -> Self {
        let stream = authority.connect(proxy.tls(), &[HTTP_2]).await;
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    fn begin(&mut self, method: Method, target: &str, is_whole: bool) -> (ResponseFuture, SendStream<Bytes>) {
        let request = Request::builder().method(method).uri(format!("https://localhost{target}")).body(()).unwrap();
        self.0.send_request(request, is_whole).unwrap()
    }

    async fn get(&mut self, target: &str) -> Response<RecvStream> {
        answer(self.begin(Method::GET, target, true).0).await
    }
}

async fn answer(response: ResponseFuture) -> Response<RecvStream> {
    timeout(PATIENCE, response).await.expect("an answer in time").unwrap()
}

async fn body_of(response: Response<RecvStream>) -> Vec<u8> {
    let (mut body, mut bytes) = (response.into_body(), Vec::new());
    while let Some(piece) = timeout(PATIENCE, body.data()).await.expect("in time") {
        let piece = piece.unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        bytes.extend(piece);
    }
    bytes
}

/// That `refused` says why: too many in all, or of one client.
async fn assert_refused(refused: Response<RecvStream>, all_or_client: u16) {
    let (reason, key) = match all_or_client {
        503 => ("crowded", "limits.max_connections)"),
        _ => ("client-share", "limits.max_connections_per_client)"),
    };
    assert_eq!(refused.status(), all_or_client);
    let field = |name: &str| refused.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(field("retry-after").unwrap(), "1");
    let of_the_next_hop = format!("ticketgate; error=connection_limit_reached; details=\"{reason}\"");
    assert_eq!(field("proxy-status"), (all_or_client == 503).then_some(of_the_next_hop));
    assert_eq!(field("connection"), None);
    let text = String::from_utf8(body_of(refused).await).unwrap();
    assert!(text.contains(key), "{text}");
}

fn image(number: u32) -> String {
    tickets::target(&tickets::permanent(number))
}

/// An app whose proxy has room for `all` connections, `per_client` of each address.
async fn app_with(all: usize, per_client: usize) -> (App, Authority) {
    let authority = Authority::new();
    authority.install();
    let app = App::with(|config| {
        authority.configure(config);
        (config.server.max_connections, config.server.max_connections_per_client) = (all, per_client);
    })
    .await;
    (app, authority)
}

/// An upload of `client` that goes on, and its connection to the app.
async fn upload(client: &mut Client, app: &App) -> (TcpStream, (ResponseFuture, SendStream<Bytes>)) {
    let upload = client.begin(Method::POST, "/upload", false);
    (app.accept().await.0, upload)
}

async fn are_at_app(proxy: &Proxy, requests: u64) {
    eventually("so many requests are with the app", || proxy.running.reading().at_app == requests).await;
}

async fn ends_with_ok(app: &mut TcpStream) {
    say(app, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_uploads_reach_the_app_than_there_may_be_connections() {
    let (app, authority) = app_with(3, 3).await;
    let mut client = Client::of(&app.proxy, &authority).await;
    let mut under_way = Vec::new();
    for _ in 0..3 {
        under_way.push(upload(&mut client, &app).await);
    }
    let (refused, _body) = client.begin(Method::POST, "/upload", false);
    assert_refused(answer(refused).await, 503).await;
    let mut other = Client::of(&app.proxy, &authority).await;
    assert_refused(other.get("/page").await, 503).await;
    assert!(app.is_alone().await, "the app hears of none of them");
    assert_eq!(other.get(&image(1)).await.status(), 200, "images have room of their own");

    let (mut app_end, (response, mut body)) = under_way.pop().unwrap();
    body.send_data(Bytes::from_static(b"the end"), true).unwrap();
    ends_with_ok(&mut app_end).await;
    assert_eq!(answer(response).await.status(), 200);
    are_at_app(&app.proxy, 2).await;
    let (response, _body) = other.begin(Method::GET, "/page", true);
    ends_with_ok(&mut app.accept().await.0).await;
    assert_eq!(answer(response).await.status(), 200);

    drop((under_way, client));
    are_at_app(&app.proxy, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_has_its_share_of_requests_at_the_app_gets_images_and_no_more() {
    let (app, authority) = app_with(100, 2).await;
    let limit = |all, per_client| {
        app.proxy.reconfigure(|config| {
            config.clients.trusted_proxies.clear();
            (config.server.max_connections, config.server.max_connections_per_client) = (all, per_client);
        });
    };
    limit(100, 2);
    let mut client = Client::of(&app.proxy, &authority).await;
    let mut under_way = vec![upload(&mut client, &app).await, upload(&mut client, &app).await];
    assert_refused(client.get("/page").await, 429).await;
    assert_eq!(client.get(&image(1)).await.status(), 200);
    assert!(app.is_alone().await);

    limit(100, 3);
    under_way.push(upload(&mut client, &app).await);
    assert_refused(client.get("/page").await, 429).await;
    limit(2, 100);
    assert_refused(client.get("/page").await, 503).await;
    assert!(app.is_alone().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_behind_an_upgrade_that_is_refused_is_no_request() {
    let (app, authority) = app_with(2, 2).await;
    let mut client = Client::of(&app.proxy, &authority).await;
    let _under_way = [upload(&mut client, &app).await, upload(&mut client, &app).await];
    let mut over_http_1 = app.proxy.connect().await;
    let upgrade = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    over_http_1.send(format!("{upgrade}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")).await;
    assert_eq!(over_http_1.response().await.unwrap().status, 503);
    assert!(over_http_1.is_closed().await, "what follows was meant for the other protocol");
    assert!(app.is_alone().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_goes_on_and_a_tunnel_are_under_way_until_their_ends() {
    let (app, authority) = app_with(1, 9).await;
    let mut client = Client::of(&app.proxy, &authority).await;
    let (response, _body) = client.begin(Method::GET, "/events", true);
    let (mut app_end, ..) = app.accept().await;
    say(&mut app_end, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n1").await;
    let events = answer(response).await;
    assert_refused(client.get("/page").await, 503).await;
    say(&mut app_end, "2").await;
    assert_eq!(body_of(events).await, b"12");
    are_at_app(&app.proxy, 0).await;

    app.proxy.reconfigure(|config| config.server.max_connections = 2);
    let mut in_tunnel = TcpStream::connect(app.proxy.address()).await.unwrap();
    say(&mut in_tunnel, "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n").await;
    let (mut app_end, ..) = app.accept().await;
    say(&mut app_end, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\nhello").await;
    assert!(read_head(&mut in_tunnel, &mut Vec::new()).await.unwrap().starts_with("HTTP/1.1 101 "));
    assert_eq!(app.proxy.running.reading().at_app, 1);
    drop(app_end);
    drop(in_tunnel);
    are_at_app(&app.proxy, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_outlasts_its_answer_is_under_way_until_its_end() {
    let (app, authority) = app_with(1, 9).await;
    let mut client = Client::of(&app.proxy, &authority).await;
    let (response, mut body) = client.begin(Method::POST, "/upload", false);
    let (mut app_end, ..) = app.accept().await;
    say(&mut app_end, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(answer(response).await.status(), 200);
    let refused = client.get("/page").await;
    assert_refused(refused, 503).await;
    body.send_data(Bytes::from_static(b"the end"), true).unwrap();
    are_at_app(&app.proxy, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_wait_for_the_origin_than_there_may_be_connections() {
    for (all, per_client, status) in [(2, 9, 503), (9, 2, 429)] {
        let origin = Origin::answering(Answer::image()).await;
        let authority = Authority::new();
        authority.install();
        let proxy = Proxy::with(&origin, |config| {
            authority.configure(config);
            config.clients.trusted_proxies.clear();
            (config.server.max_connections, config.server.max_connections_per_client) = (all, per_client);
        });
        let mut client = Client::of(&proxy, &authority).await;
        assert_eq!(client.get(&image(1)).await.status(), 200);
        origin.hold();
        let waiting = [2, 3].map(|number| client.begin(Method::GET, &image(number), true).0);
        origin.has_been_asked(3).await;
        assert_refused(client.get(&image(4)).await, status).await;
        assert_refused(client.get(&image(3)).await, status).await;
        assert_eq!(client.get(&image(1)).await.status(), 200, "a hit waits for nobody");
        assert_eq!(origin.count(), 3, "nobody was asked for those who are refused");
        origin.release();
        for response in waiting {
            assert_eq!(body_of(answer(response).await).await, jpeg());
        }
        eventually("nobody waits", || proxy.running.reading().awaiting == 0).await;
        assert_eq!(client.get(&image(4)).await.status(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_wait_for_the_origin_is_shown_a_stale_image_where_there_is_one() {
    let origin = Origin::answering(Answer::image_with(
        "Cache-Control: max-age=10, stale-while-revalidate=0, stale-if-error=60\r\n",
    ))
    .await;
    let authority = Authority::new();
    authority.install();
    let proxy = Proxy::with(&origin, |config| {
        authority.configure(config);
        config.server.max_connections = 1;
    });
    let mut client = Client::of(&proxy, &authority).await;
    assert_eq!(client.get(&image(1)).await.status(), 200);
    proxy.hands.advance(Duration::from_secs(20));
    origin.hold();
    let (waiting, _) = client.begin(Method::GET, &image(2), true);
    origin.has_been_asked(2).await;
    let stale = client.get(&image(1)).await;
    let cache_status = stale.headers()["cache-status"].to_str().unwrap().to_owned();
    assert!(stale.status() == 200 && cache_status.ends_with("; detail=crowded"), "{cache_status}");
    assert_eq!(body_of(stale).await, jpeg());
    origin.has_been_asked(3).await;
    origin.release();
    assert_eq!(answer(waiting).await.status(), 200);
}
