//! TLS towards clients: versions, deadlines, caps and a drain as in the clear (S2, S32, S38).

use std::time::Duration;

use rustls::ProtocolVersion;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use ticketgate::app::{App, Ending, Surroundings};
use ticketgate::config::{Config, Sources};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::client::Connection;
use crate::support::origin::{Answer, Origin, jpeg};
use crate::support::proxy::Proxy;
use crate::support::tls::{Authority, HTTP_1, Issued};
use crate::support::{PATIENCE, eventually, tickets};

const SHORT: Duration = Duration::from_millis(150);

/// The first bytes of a `ClientHello`; the rest never comes.
const HALF_A_HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01";

struct Scene {
    origin: Origin,
    authority: Authority,
    proxy: Proxy,
}

/// A proxy with a TLS listener, and an origin behind it.
async fn scene(change: impl FnOnce(&mut Config)) -> Scene {
    let origin = Origin::answering(Answer::image()).await;
    let authority = Authority::new();
    authority.install();
    let proxy = Proxy::with(&origin, |config| {
        authority.configure(config);
        change(config);
    });
    Scene { origin, authority, proxy }
}

impl Scene {
    async fn http1(&self) -> Connection<tokio_rustls::client::TlsStream<TcpStream>> {
        Connection::over(self.authority.connect(self.proxy.tls(), &[HTTP_1]).await)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_of_tls_serve_an_image_as_in_the_clear() {
    let scene = scene(|_| {}).await;
    let versions =
        [(&rustls::version::TLS12, ProtocolVersion::TLSv1_2), (&rustls::version::TLS13, ProtocolVersion::TLSv1_3)];
    let target = tickets::target(&tickets::permanent(1));
    for (number, (offered, spoken)) in versions.into_iter().enumerate() {
        let client = scene.authority.client(&[offered], &[HTTP_1]);
        let stream = TcpStream::connect(scene.proxy.tls()).await.unwrap();
        let stream = client.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(spoken));
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(HTTP_1));
        let mut connection = Connection::over(stream);
        for _ in 0..2 {
            let answer = connection.get(&target, "").await;
            assert_eq!((answer.status, answer.body), (200, jpeg()));
        }
        assert_eq!(scene.origin.count(), 1, "{number}");
    }
    assert!(scene.proxy.get(&target).await.cache_status().contains("hit"), "the clear listener is there too");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_names_no_protocol_is_spoken_to_in_http_1() {
    let scene = scene(|_| {}).await;
    let stream = scene.authority.connect(scene.proxy.tls(), &[]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), None);
    assert_eq!(Connection::over(stream).get("/", "").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clear_listener_can_be_off() {
    let scene = scene(|config| config.server.listen = None).await;
    assert_eq!(scene.proxy.running.addresses().public, None);
    assert_eq!(scene.http1().await.get("/", "").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_does_not_end_is_closed() {
    let scene = scene(|config| config.server.timeouts.tls_handshake = SHORT).await;
    for beginning in [&b""[..], HALF_A_HELLO] {
        let mut connection = Connection::open(scene.proxy.tls()).await;
        connection.send(beginning).await;
        assert!(connection.is_closed().await, "{beginning:?}");
    }
    eventually("both are counted", || scene.proxy.running.metrics().tls_handshakes_failed.get() == 2).await;
    assert_eq!(scene.http1().await.get("/", "").await.status, 404, "others are served");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_silent_after_its_handshake_is_closed() {
    let scene = scene(|config| config.server.timeouts.head = SHORT).await;
    assert!(scene.http1().await.is_closed().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_tls_is_closed_and_counted() {
    let scene = scene(|_| {}).await;
    let mut stream = TcpStream::connect(scene.proxy.tls()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("closed in time");
    assert!(!rest.starts_with(b"HTTP/"), "nothing is said in the clear");
    eventually("it is counted", || scene.proxy.running.metrics().tls_handshakes_failed.get() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_at_once_are_capped_and_the_next_waits() {
    let scene = scene(|config| {
        (config.server.max_connections, config.server.max_connections_per_client) = (8, 1);
    })
    .await;
    // Twice the share of a client, a quarter of all: two.
    let mut halves = [Connection::open(scene.proxy.tls()).await, Connection::open(scene.proxy.tls()).await];
    for half in &mut halves {
        half.send(HALF_A_HELLO).await;
    }
    eventually("they are open", || scene.proxy.running.metrics().open_connections() == 2).await;
    // Until the half ones have the room, others still get it.
    let mut next = Box::pin(scene.authority.connect(scene.proxy.tls(), &[HTTP_1]));
    let mut waits = false;
    for _ in 0..100 {
        waits = timeout(SHORT, next.as_mut()).await.is_err();
        if waits {
            break;
        }
        next = Box::pin(scene.authority.connect(scene.proxy.tls(), &[HTTP_1]));
    }
    assert!(waits, "the next waits");
    drop(halves);
    let stream = timeout(PATIENCE, next).await.expect("its turn");
    assert_eq!(Connection::over(stream).get("/", "").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_listeners_share_the_places_and_none_is_lost_on_an_idle_listener() {
    let scene = scene(|config| config.server.max_connections = 1).await;
    for _ in 0..2 {
        assert_eq!(scene.proxy.get("/").await.status, 404);
        let mut connection = scene.http1().await;
        assert_eq!(connection.get("/", "").await.status, 404);
        let mut waiting = scene.proxy.connect().await;
        waiting.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(scene.proxy.running.metrics().open_connections(), 1);
        drop(connection);
        assert_eq!(waiting.response().await.unwrap().status, 404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_app_hears_that_the_client_spoke_tls() {
    let app = Origin::answering(Answer::of(200, "", b"ok")).await;
    let scene = scene(|config| config.forward.app = Some(app.url().parse().unwrap())).await;
    assert_eq!(scene.http1().await.get("/secure", "").await.status, 200);
    assert_eq!(scene.proxy.get("/clear").await.status, 200);
    let heads = app.heads();
    assert!(heads[0].contains("x-forwarded-proto: https\r\n"), "{}", heads[0]);
    assert!(heads[0].contains(";proto=https\r\n"), "{}", heads[0]);
    assert!(heads[1].contains("x-forwarded-proto: http\r\n"), "{}", heads[1]);
    assert!(heads[1].contains(";proto=http\r\n"), "{}", heads[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_is_cut_off_over_tls_too() {
    let scene = scene(|config| config.server.timeouts.write = SHORT).await;
    let target = tickets::target(&tickets::permanent(1));
    let mut stream = scene.authority.connect(scene.proxy.tls(), &[HTTP_1]).await;
    let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").repeat(20);
    let flooded = timeout(PATIENCE, async { while stream.write_all(request.as_bytes()).await.is_ok() {} });
    assert!(flooded.await.is_ok(), "the proxy waited for ever");
    eventually("the connection is gone", || scene.proxy.running.metrics().open_connections() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_over_tls_answers_and_closes() {
    let scene = scene(|config| {
        config.server.drain_delay = Duration::ZERO;
        config.server.drain = PATIENCE;
    })
    .await;
    let target = tickets::target(&tickets::permanent(1));
    let (mut idle, mut idle_for_good) = (scene.http1().await, scene.http1().await);
    assert_eq!((idle.get(&target, "").await.status, idle_for_good.get(&target, "").await.status), (200, 200));
    scene.proxy.running.drain();
    let answer = idle.get(&target, "").await;
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    assert!(idle_for_good.is_closed().await);
    let ending = tokio::task::spawn_blocking(move || scene.proxy.running.finish()).await.unwrap();
    assert_eq!(ending, Ending::Clean);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_beside_an_unread_body_arrives_over_tls() {
    let scene = scene(|_| {}).await;
    let mut connection = scene.http1().await;
    let target = tickets::target(&tickets::permanent(1));
    connection.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")).await;
    let answer = connection.response().await.expect("an answer before the body");
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    let mut stream = connection.into_stream();
    let _ = stream.write_all(&vec![b'x'; 200_000]).await;
    let _ = stream.shutdown().await;
    let mut rest = Vec::new();
    assert!(stream.read_to_end(&mut rest).await.is_ok());
    assert!(rest.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_redirecting_listener_sends_everybody_to_https_and_serves_nothing() {
    let scene = scene(|config| {
        config.server.tls.redirect = Some("127.0.0.1:0".parse().unwrap());
        config.server.timeouts.first_byte = SHORT;
        config.server.timeouts.keep_alive = SHORT;
    })
    .await;
    let address = scene.proxy.running.addresses().redirect.unwrap();
    let target = tickets::target(&tickets::permanent(1));
    let mut connection = Connection::open(address).await;
    for method in ["GET", "HEAD", "POST"] {
        let answer = connection.request(method, &target, "").await;
        assert_eq!(answer.status, 308);
        assert_eq!(answer.header("location"), Some(format!("https://shop.example{target}").as_str()));
    }
    assert!(connection.is_closed().await, "idle");
    assert!(Connection::open(address).await.is_closed().await, "silent");
    let mut named = Connection::open(address).await;
    named.send(format!("GET /a HTTP/1.1\r\nHost: localhost:{}\r\n\r\n", address.port())).await;
    let expected = format!("https://localhost:{}/a", scene.proxy.tls().port());
    assert_eq!(named.response().await.unwrap().header("location"), Some(expected.as_str()));
    for head in ["GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n"] {
        let mut connection = Connection::open(address).await;
        connection.send(head).await;
        assert_eq!(connection.response().await.unwrap().status, 400, "{head}");
        assert!(connection.is_closed().await);
    }
    assert_eq!(scene.origin.count(), 0);
}

impl Scene {
    /// Waits until newcomers are shown `issued`.
    async fn shows(&self, issued: &Issued) {
        let wanted = CertificateDer::from_pem_slice(issued.cert.as_bytes()).unwrap();
        let shown = async {
            loop {
                let stream = self.authority.connect(self.proxy.tls(), &[HTTP_1]).await;
                if stream.get_ref().1.peer_certificates().unwrap()[0] == wanted {
                    return;
                }
            }
        };
        timeout(PATIENCE, shown).await.expect("it is shown");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_shown_without_a_restart_and_open_connections_go_on() {
    let scene = scene(|_| {}).await;
    let mut open = scene.http1().await;
    assert_eq!(open.get("/", "").await.status, 404);
    let renewed = scene.authority.install();
    scene.shows(&renewed).await;
    assert_eq!(open.get("/", "").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_behind_links_that_are_swapped_are_found_as_kubernetes_leaves_them() {
    let authority = Authority::new();
    let write = |directory: &str| {
        std::fs::create_dir(authority.file(directory)).unwrap();
        let issued = authority.issue(|_| {});
        authority.write(&format!("{directory}/cert.pem"), &issued.cert);
        authority.write(&format!("{directory}/key.pem"), &issued.key);
        issued
    };
    let (one, other) = (write("one"), write("other"));
    std::os::unix::fs::symlink("one", authority.file("data")).unwrap();
    for name in ["cert.pem", "key.pem"] {
        std::os::unix::fs::symlink(format!("data/{name}"), authority.file(name)).unwrap();
    }
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&origin, |config| authority.configure(config));
    let scene = Scene { origin, authority, proxy };
    scene.shows(&one).await;
    std::os::unix::fs::symlink("other", scene.authority.file("data.new")).unwrap();
    std::fs::rename(scene.authority.file("data.new"), scene.authority.file("data")).unwrap();
    scene.shows(&other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_no_use_leave_the_old_certificate_in_force_and_are_told_once() {
    let scene = scene(|_| {}).await;
    let old = scene.authority.install();
    scene.shows(&old).await;
    let refused = || scene.proxy.running.metrics().tls_certificates_refused.get();
    for (number, rubbish) in ["rubbish", "other rubbish"].into_iter().enumerate() {
        scene.authority.write("key.pem", rubbish);
        eventually("it is told", || refused() > number as u64).await;
        scene.shows(&old).await;
        assert_eq!(refused(), number as u64 + 1, "once");
    }
    let renewed = scene.authority.install();
    scene.shows(&renewed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_certificate_is_a_metric() {
    let scene = scene(|_| {}).await;
    let page = async || Connection::to_operator(scene.proxy.admin()).await.get("/metrics", "").await.text().to_owned();
    let issued = scene.authority.issue(|params| params.not_after = rcgen::date_time_ymd(2090, 2, 3));
    scene.authority.write("cert.pem", &issued.cert);
    scene.authority.write("key.pem", &issued.key);
    scene.shows(&issued).await;
    let expected = "ticketgate_tls_certificate_expiry_timestamp_seconds{file=\"tls.cert\"} 3789763200\n";
    let told = async { while !page().await.contains(expected) {} };
    timeout(PATIENCE, told).await.expect("the metric is there");
    let without = Proxy::before(&scene.origin);
    let page = Connection::to_operator(without.admin()).await.get("/metrics", "").await;
    assert!(!page.text().contains("tls_certificate_expiry_timestamp_seconds{"), "no value without TLS");
}

/// What is told of `[tls]` with these files.
fn mistakes(authority: &Authority, cert: &str, key: &str) -> String {
    let (cert, key) = (authority.write("bad-cert.pem", cert), authority.write("bad-key.pem", key));
    let toml = format!("[tls]\nlisten = \"127.0.0.1:0\"\ncert = '{}'\nkey = '{}'\n", cert.display(), key.display());
    let file = Some(authority.write("ticketgate.toml", &toml));
    Config::load(Sources { file, ..Sources::default() }).map_or_else(|mistakes| mistakes.to_string(), |_| String::new())
}

#[test]
fn a_certificate_or_key_of_no_use_is_a_mistake_with_its_line() {
    let authority = Authority::new();
    let (one, other) = (authority.issue(|_| {}), authority.issue(|_| {}));
    assert_eq!(mistakes(&authority, &one.cert, &one.key), "");
    let cases = [
        ("no certificate", one.key.as_str(), "ticketgate.toml:3: tls.cert ", "holds no PEM certificate"),
        (&one.cert, "no key", "ticketgate.toml:4: tls.key ", "holds no PEM private key"),
        (&one.cert, &other.key, "ticketgate.toml:4: tls.key ", "is not the key of the first certificate in tls.cert"),
        (&one.key, &one.key, "ticketgate.toml:3: tls.cert ", "holds no PEM certificate"),
    ];
    for (cert, key, place, cause) in cases {
        let told = mistakes(&authority, cert, key);
        assert!(told.contains(place) && told.contains(cause), "{told}");
        assert!(told.ends_with("1 mistake in the configuration"), "{told}");
    }
}

#[test]
fn without_its_files_the_listener_is_not_opened() {
    let authority = Authority::new();
    let mut config = Config::default();
    authority.configure(&mut config);
    let error = App::bind(config, Surroundings::default()).err().expect("an error");
    assert!(error.to_string().contains("tls.cert"), "{error}");
}
