//! With `proxy_protocol`, trusted peers say for whom they speak before anything else, and nobody else comes in (S30).

use std::num::NonZeroU32;
use std::time::Duration;

use ticketgate::config::Config;
use ticketgate::limit::{Policy, Trusted};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::client::Connection;
use crate::support::origin::{Answer, Origin};
use crate::support::proxy::Proxy;
use crate::support::tls::{Authority, HTTP_1, HTTP_2};
use crate::support::{PATIENCE, eventually, tickets};

const SHORT: Duration = Duration::from_millis(150);

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const REQUEST: &str = "GET /app HTTP/1.1\r\nHost: shop.example\r\n\r\n";

struct Scene {
    /// WeChat, and the app as well.
    origin: Origin,
    proxy: Proxy,
}

/// A proxy that expects headers of loopback, whose origin is its app too.
async fn scene(change: impl FnOnce(&mut Config)) -> Scene {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&origin, |config| {
        config.server.proxy_protocol = true;
        config.forward.app = Some(origin.url().parse().unwrap());
        change(config);
    });
    Scene { origin, proxy }
}

fn line(client: &str) -> Vec<u8> {
    let family = if client.contains(':') { "TCP6" } else { "TCP4" };
    let here = if client.contains(':') { "::1" } else { "127.0.0.1" };
    format!("PROXY {family} {client} {here} 40000 80\r\n").into_bytes()
}

fn binary(command: u8, family: u8, told: &[u8]) -> Vec<u8> {
    let length = u16::try_from(told.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &length, told].concat()
}

/// Version 2, of a client of IPv4, with a field (TLV) behind the addresses.
fn binary_of(client: [u8; 4]) -> Vec<u8> {
    binary(0x21, 0x11, &[&client[..], &[127, 0, 0, 1, 0x9c, 0x40, 0, 80], &[0xe0, 0, 3, b'a', b'b', b'c']].concat())
}

impl Scene {
    /// A connection that was introduced by `header`.
    async fn connect(&self, header: impl AsRef<[u8]>) -> Connection {
        let mut connection = self.proxy.connect().await;
        connection.send(header).await;
        connection
    }

    /// Closed without a word, and nothing reached anybody.
    async fn is_refused(&self, sent: impl AsRef<[u8]>) -> bool {
        self.connect(sent).await.is_closed().await && self.origin.connections() == 0
    }

    fn headers_refused(&self) -> u64 {
        self.proxy.running.metrics().proxy_headers_refused.get()
    }

    fn connections_refused(&self) -> u64 {
        self.proxy.running.metrics().connections_refused.get()
    }

    /// What the app heard of the last client.
    fn forwarded_for(&self) -> Vec<String> {
        let head = self.origin.heads().pop().expect("a request");
        head.lines().filter_map(|line| line.strip_prefix("x-forwarded-for: ")).map(str::to_owned).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_app_hears_of_the_client_that_the_header_tells() {
    let scene = scene(|_| {}).await;
    let headers = [
        (line("203.0.113.7"), "203.0.113.7"),
        (line("2001:db8::7"), "2001:db8::7"),
        (binary_of([203, 0, 113, 8]), "203.0.113.8"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (binary(0x20, 0x00, &[]), "127.0.0.1"),
        (binary(0x20, 0x11, &[9; 12]), "127.0.0.1"),
        (binary(0x21, 0x00, &[]), "127.0.0.1"),
        (binary(0x21, 0x31, &[b'/'; 216]), "127.0.0.1"),
    ];
    for (header, client) in headers {
        let mut connection = scene.connect(&header).await;
        for _ in 0..2 {
            assert_eq!(connection.get("/app", "").await.status, 200);
            assert_eq!(scene.forwarded_for(), [client], "{}", header.escape_ascii());
        }
    }
    assert_eq!((scene.headers_refused(), scene.connections_refused()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_taken_at_its_own_word_only_when_it_is_a_trusted_proxy_itself() {
    let scene = scene(|config| config.clients.trusted_proxies.push(Trusted::Private)).await;
    for (client, heard) in [("203.0.113.7", "203.0.113.7"), ("10.1.2.3", "198.51.100.1, 10.1.2.3")] {
        let mut connection = scene.connect(line(client)).await;
        assert_eq!(connection.get("/app", "X-Forwarded-For: 198.51.100.1\r\n").await.status, 200);
        assert_eq!(scene.forwarded_for(), [heard]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn budgets_count_the_clients_that_are_told() {
    let scene = scene(|config| {
        let burst = NonZeroU32::new(1).unwrap();
        config.limits.client_requests = Some(Policy { rate: 0.01, burst, wait: Duration::ZERO });
    })
    .await;
    let target = tickets::target(&tickets::permanent(1));
    let told = [
        (line("203.0.113.1"), 200),
        (binary_of([203, 0, 113, 2]), 200),
        (binary_of([203, 0, 113, 1]), 429),
        (binary(0x20, 0, &[]), 200),
        (line("2001:db8:1:2::1"), 200),
        (line("2001:db8:1:2::2"), 429),
    ];
    for (header, status) in told {
        let answer = scene.connect(&header).await.get(&target, "").await;
        assert_eq!(answer.status, status, "{}", header.escape_ascii());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_counted_by_the_client_that_is_told() {
    let scene = scene(|config| config.server.max_connections_per_client = 2).await;
    let mut open = Vec::new();
    for client in ["203.0.113.1", "203.0.113.1", "203.0.113.2", "127.0.0.1", "127.0.0.1", "127.0.0.1"] {
        let mut connection = scene.connect(line(client)).await;
        assert_eq!(connection.get("/app", "").await.status, 200, "{client}");
        open.push(connection);
    }
    assert!(scene.connect(line("203.0.113.1")).await.is_closed().await, "the third of one client");
    assert_eq!(scene.connections_refused(), 1);
    drop(open.remove(0));
    eventually("a place is free", || scene.proxy.running.metrics().open_connections() == 5).await;
    assert_eq!(scene.connect(line("203.0.113.1")).await.get("/app", "").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_not_trusted_is_closed_whatever_it_says() {
    let scene = scene(|config| {
        config.clients.trusted_proxies = vec![Trusted::Private];
        config.server.timeouts.first_byte = PATIENCE * 2;
    })
    .await;
    let introduced = [line("10.1.2.3"), REQUEST.into()].concat();
    for (number, said) in [introduced, binary_of([10, 1, 2, 3]), REQUEST.into(), Vec::new()].into_iter().enumerate() {
        assert!(scene.is_refused(said).await, "{number}");
        assert_eq!(scene.connections_refused(), number as u64 + 1);
    }
    assert_eq!(scene.headers_refused(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_header_is_closed_unanswered_and_counted() {
    let scene = scene(|config| config.server.timeouts.first_byte = PATIENCE * 2).await;
    let endless = format!("PROXY UNKNOWN {}", "f".repeat(107));
    let table: [Vec<u8>; 12] = [
        REQUEST.into(),
        b"\x16\x03\x01\x02\x00\x01".to_vec(),
        b"\r\n\r\n\0\r\nQUIT\r".to_vec(),
        b"PROXY\r\n".to_vec(),
        [&b"PROXY TCP4 203.0.113.7 127.0.0.1 80\r\n"[..], REQUEST.as_bytes()].concat(),
        b"PROXY TCP4 2001:db8::7 ::1 1 2\r\n".to_vec(),
        b"PROXY TCP4 203.0.113.7 127.0.0.1 1 65536\r\n".to_vec(),
        endless.into(),
        [binary(0x31, 0x11, &[1; 12]), REQUEST.into()].concat(),
        binary(0x21, 0x51, &[1; 12]),
        binary(0x21, 0x11, &[1; 11]),
        [SIGNATURE, &[0x21, 0x11, 0xff, 0xff]].concat(),
    ];
    for (number, bad) in table.iter().enumerate() {
        assert!(scene.is_refused(bad).await, "{}", bad.escape_ascii());
        assert_eq!(scene.headers_refused(), number as u64 + 1, "{}", bad.escape_ascii());
    }
    assert_eq!(scene.connect(line("203.0.113.7")).await.get("/app", "").await.status, 200, "others are served");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_in_pieces_is_whole_in_the_end() {
    let scene = scene(|_| {}).await;
    for header in [line("203.0.113.7"), binary_of([203, 0, 113, 7])] {
        let mut connection = scene.proxy.connect().await;
        for byte in &header {
            connection.send([*byte]).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(connection.get("/app", "").await.status, 200);
        assert_eq!(scene.forwarded_for(), ["203.0.113.7"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_right_behind_the_header_are_all_answered() {
    let scene = scene(|_| {}).await;
    for header in [line("203.0.113.7"), binary_of([203, 0, 113, 7]), b"PROXY UNKNOWN\r\n".to_vec()] {
        for cut in [0, 1, header.len() - 1, header.len(), header.len() + 3] {
            let said = [&header, REQUEST.as_bytes(), REQUEST.as_bytes()].concat();
            let mut connection = scene.connect(&said[..cut]).await;
            connection.send(&said[cut..]).await;
            for _ in 0..2 {
                assert_eq!(connection.response().await.expect("an answer").status, 200, "{cut}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_header_ends_at_its_deadline_however_steadily_it_drips() {
    let scene = scene(|config| config.server.timeouts.first_byte = SHORT).await;
    for half in [&b"PROXY TCP4 203.0"[..], SIGNATURE, &binary_of([203, 0, 113, 7])[..20], b""] {
        assert!(scene.is_refused(half).await, "{}", half.escape_ascii());
    }
    assert_eq!(scene.headers_refused(), 4);
    let mut dripping = scene.connect("PROXY UNKNOWN ").await.into_stream();
    let drip = async {
        while dripping.write_all(b"f").await.is_ok() {
            tokio::time::sleep(SHORT / 10).await;
        }
    };
    tokio::time::timeout(PATIENCE, drip).await.expect("closed in time");
    assert_eq!((scene.headers_refused(), scene.origin.connections()), (5, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_with_nothing_behind_it_is_a_silent_connection() {
    let scene = scene(|config| {
        config.server.timeouts.first_byte = SHORT;
        config.server.timeouts.head = PATIENCE * 2;
        config.server.timeouts.keep_alive = PATIENCE * 2;
    })
    .await;
    for header in [line("203.0.113.7"), binary_of([203, 0, 113, 7])] {
        assert!(scene.is_refused(header).await);
    }
    assert_eq!(scene.headers_refused(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_hangs_up_without_a_byte_is_no_trouble() {
    let scene = scene(|_| {}).await;
    let mut probe = TcpStream::connect(scene.proxy.address()).await.unwrap();
    probe.shutdown().await.unwrap();
    assert!(Connection::over(probe).is_closed().await);
    let mut cut = TcpStream::connect(scene.proxy.address()).await.unwrap();
    cut.write_all(b"PROXY TCP4 203").await.unwrap();
    cut.shutdown().await.unwrap();
    assert!(Connection::over(cut).is_closed().await);
    assert_eq!((scene.headers_refused(), scene.connections_refused()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_the_header_comes_before_the_handshake() {
    let authority = Authority::new();
    authority.install();
    let scene = scene(|config| {
        authority.configure(config);
        config.server.tls.redirect = Some("127.0.0.1:0".parse().unwrap());
    })
    .await;
    for (header, protocol) in [(line("203.0.113.7"), HTTP_1), (binary_of([203, 0, 113, 7]), HTTP_2)] {
        let mut stream = TcpStream::connect(scene.proxy.tls()).await.unwrap();
        stream.write_all(&header).await.unwrap();
        let stream = authority.over(stream, &[protocol]).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol));
        if protocol == HTTP_1 {
            assert_eq!(Connection::over(stream).get("/app", "").await.status, 200);
            assert_eq!(scene.forwarded_for(), ["203.0.113.7"]);
        }
    }
    let bare = TcpStream::connect(scene.proxy.tls()).await.unwrap();
    assert!(authority.over(bare, &[HTTP_1]).await.is_err(), "a handshake is no header");
    assert_eq!((scene.headers_refused(), scene.proxy.running.metrics().tls_handshakes_failed.get()), (1, 0));
    let mut redirected = Connection::open(scene.proxy.running.addresses().redirect.unwrap()).await;
    redirected.send(line("203.0.113.7")).await;
    assert_eq!(redirected.get("/app", "").await.status, 308);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_proxy_protocol_a_header_is_rubbish_like_any_other() {
    let scene = scene(|config| config.server.proxy_protocol = false).await;
    for header in [line("203.0.113.7"), binary_of([203, 0, 113, 7])] {
        let mut connection = scene.connect([header, REQUEST.into()].concat()).await;
        assert_eq!(connection.response().await.expect("an answer").status, 400);
        assert!(connection.is_closed().await);
    }
    assert_eq!(scene.origin.connections(), 0);
    assert_eq!(scene.proxy.get("/app").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_listener_is_spoken_to_as_ever() {
    let scene = scene(|_| {}).await;
    assert!(scene.is_refused("GET / HTTP/1.1\r\n").await);
    let page = Connection::to_operator(scene.proxy.admin()).await.get("/metrics", "").await;
    assert!(page.text().contains("\nticketgate_proxy_headers_refused_total 1\n"), "{}", page.text());
}
