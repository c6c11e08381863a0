//! No more requests are under way than there may be connections, though over HTTP/2 many come over one: with the app, or waiting
//! for an image. Whoever is refused is told so, and reaches nobody.

use std::time::Duration;

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{RecvStream, SendStream};
use http::{Method, Request, Response};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::app::{App, say};
use crate::support::origin::{Answer, Origin, jpeg};
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

/// That `refused` says so with `status`, naming `key`.
async fn assert_refused(refused: Response<RecvStream>, status: u16, reason: &str, key: &str) {
    assert_eq!(refused.status(), status);
    assert_eq!(refused.headers()["retry-after"], "1");
    let told = ["proxy-status", "cache-status"].iter().find_map(|name| refused.headers().get(*name)).unwrap();
    assert!(told.to_str().unwrap().contains(reason), "{told:?}");
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

async fn are_under_way(proxy: &Proxy, requests: u64) {
    eventually("so many requests are under way", || proxy.running.reading().requests == requests).await;
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
        let upload = client.begin(Method::POST, "/upload", false);
        under_way.push((app.accept().await.0, upload));
    }
    let (refused, _body) = client.begin(Method::POST, "/upload", false);
    assert_refused(answer(refused).await, 503, "crowded", "limits.max_connections)").await;
    let mut other = Client::of(&app.proxy, &authority).await;
    assert_refused(other.get("/page").await, 503, "crowded", "limits.max_connections)").await;
    assert!(app.is_alone().await, "the app hears of none of them");
    assert_eq!(other.get(&image(1)).await.status(), 503, "it would have to be fetched");

    let (mut app_end, (response, mut body)) = under_way.pop().unwrap();
    body.send_data(Bytes::from_static(b"the end"), true).unwrap();
    ends_with_ok(&mut app_end).await;
    assert_eq!(answer(response).await.status(), 200);
    are_under_way(&app.proxy, 2).await;
    let (response, _body) = other.begin(Method::GET, "/page", true);
    ends_with_ok(&mut app.accept().await.0).await;
    assert_eq!(answer(response).await.status(), 200);

    drop((under_way, client));
    are_under_way(&app.proxy, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_has_its_share_of_requests_under_way_gets_hits_and_no_more() {
    let (app, authority) = app_with(100, 2).await;
    app.proxy.reconfigure(|config| config.clients.trusted_proxies.clear());
    let mut client = Client::of(&app.proxy, &authority).await;
    assert_eq!(client.get(&image(1)).await.status(), 200);
    let uploads = [0; 2].map(|_| client.begin(Method::POST, "/upload", false));
    let in_app = (app.accept().await, app.accept().await);
    let refused = client.get("/page").await;
    assert_refused(refused, 429, "client-share", "limits.max_connections_per_client)").await;
    assert_refused(client.get(&image(2)).await, 429, "client-share", "limits.max_connections_per_client)").await;
    assert_eq!(client.get(&image(1)).await.status(), 200, "what is answered at once is not counted");
    assert!(app.is_alone().await);

    app.proxy.reconfigure(|config| config.server.max_connections_per_client = 3);
    assert_eq!(client.get(&image(2)).await.status(), 200);
    app.proxy.reconfigure(|config| config.server.max_connections = 2);
    assert_refused(client.get("/page").await, 503, "crowded", "limits.max_connections)").await;
    assert!(app.is_alone().await);
    drop((uploads, in_app));
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
    assert_refused(refused, 503, "crowded", "limits.max_connections)").await;
    body.send_data(Bytes::from_static(b"the end"), true).unwrap();
    are_under_way(&app.proxy, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_wait_for_the_origin_than_there_may_be_connections() {
    let origin = Origin::answering(Answer::image_with("Cache-Control: max-age=10\r\n")).await;
    let authority = Authority::new();
    authority.install();
    let proxy = Proxy::with(&origin, |config| {
        authority.configure(config);
        config.server.max_connections = 2;
    });
    let mut client = Client::of(&proxy, &authority).await;
    assert_eq!(client.get(&image(1)).await.status(), 200);
    origin.hold();
    let waiting = [2, 3].map(|number| client.begin(Method::GET, &image(number), true).0);
    origin.has_been_asked(3).await;
    assert_refused(client.get(&image(4)).await, 503, "crowded", "limits.max_connections)").await;
    assert_refused(client.get(&image(3)).await, 503, "crowded", "limits.max_connections)").await;
    assert_eq!(client.get(&image(1)).await.status(), 200, "a hit waits for nobody");
    assert_eq!(origin.count(), 3, "nobody was asked for those who are refused");
    origin.release();
    for response in waiting {
        assert_eq!(body_of(answer(response).await).await, jpeg());
    }
    are_under_way(&proxy, 0).await;
    assert_eq!(client.get(&image(4)).await.status(), 200);
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
    assert_eq!(origin.count(), 2, "it was not asked");
    origin.release();
    assert_eq!(answer(waiting).await.status(), 200);
}
