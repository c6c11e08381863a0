//! Clients that come in numbers, and do nothing or next to nothing: they cost what they may, for as long as they may, and
//! nobody else anything (S2; `[timeouts]`).

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

use crate::support::client::Connection;
use crate::support::command::{ON_FREE_PORTS, Server, address, metric, ticketgate};
use crate::support::frames::{END_HEADERS, END_STREAM, Frames, HEADERS, INITIAL_WINDOW_SIZE, block, frame, request};
use crate::support::origin::{Answer, Origin};
use crate::support::proxy::Proxy;
use crate::support::tls::{Authority, HTTP_1, HTTP_2};
use crate::support::{PATIENCE, eventually, tickets};

/// An upload that has begun.
const UPLOAD: &[u8] = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx";
/// The head of a record that is said to hold 16 KiB of a handshake.
const HANDSHAKE: &[u8] = b"\x16\x03\x01\x40\x00";

fn target() -> String {
    tickets::target(&tickets::permanent(1))
}

/// A client that says `bytes`, and then one more of `drip` now and then, until it is closed.
async fn lingers(address: SocketAddr, bytes: Vec<u8>, drip: Option<u8>) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(&bytes).await;
    let (mut read, mut write) = stream.split();
    let mut answer = Vec::new();
    let drips = async {
        while let Some(byte) = drip {
            sleep(Duration::from_millis(20)).await;
            if write.write_all(&[byte]).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = read.read_to_end(&mut answer) => {}
        () = drips => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_of_every_kind_are_closed_at_their_deadlines_while_others_are_served() {
    const LIMIT: Duration = Duration::from_secs(2);
    const OF_EACH: usize = 40;
    let (origin, app) = (Origin::answering(Answer::image()).await, Origin::answering(Answer::of(200, "", b"ok")).await);
    app.hold();
    let authority = Authority::new();
    authority.install();
    let proxy = Proxy::with(&origin, |config| {
        authority.configure(config);
        config.forward.app = Some(app.url().parse().unwrap());
        let timeouts = &mut config.server.timeouts;
        (timeouts.first_byte, timeouts.head, timeouts.body) = (LIMIT, LIMIT, LIMIT);
        (timeouts.write, timeouts.keep_alive, timeouts.tls_handshake) = (LIMIT, LIMIT, LIMIT);
    });
    assert_eq!(proxy.get(&target()).await.status, 200);
    let chunks = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5".to_vec();
    let idle = format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", target()).into_bytes();
    let kinds = [
        (proxy.address(), Vec::new(), None),
        (proxy.address(), b"GET / HTTP/1.1\r\nHost: a\r\nX: ".to_vec(), Some(b'y')),
        (proxy.address(), b"G".to_vec(), None),
        (proxy.address(), UPLOAD.to_vec(), None),
        (proxy.address(), chunks, None),
        (proxy.address(), idle, None),
        (proxy.tls(), Vec::new(), None),
        (proxy.tls(), HANDSHAKE.to_vec(), Some(0)),
    ];
    let slow = kinds
        .iter()
        .flat_map(|(address, bytes, drip)| (0..OF_EACH).map(|_| tokio::spawn(lingers(*address, bytes.clone(), *drip))));
    let slow: Vec<_> = slow.collect();
    eventually("all have come", || proxy.running.metrics().open_connections() >= 100).await;
    for _ in 0..50 {
        let stream = authority.connect(proxy.tls(), &[HTTP_1]).await;
        let mut good = Connection::over(stream);
        let answer = timeout(Duration::from_secs(2), good.get(&target(), "Connection: close\r\n")).await;
        assert_eq!(answer.expect("at once").status, 200);
    }
    let closed = timeout(Duration::from_secs(10), join_all(slow)).await.expect("all are closed at their deadlines");
    assert!(closed.iter().all(Result::is_ok));
    eventually("no place is held", || proxy.running.metrics().open_connections() == 0).await;
    app.release();
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_nobody_reads_are_held_once_however_many_ask_for_them() {
    const CONNECTIONS: usize = 20;
    let origin = Origin::answering(Answer::large_image()).await;
    let authority = Authority::new();
    authority.install();
    let directory = TempDir::new().unwrap();
    let mut command = ticketgate(&directory, &ON_FREE_PORTS);
    command.args(["--origin", &origin.url()]);
    command.env("TICKETGATE_TLS_LISTEN", "127.0.0.1:0");
    command.env("TICKETGATE_TLS_CERT", authority.file("cert.pem")).env("TICKETGATE_TLS_KEY", authority.file("key.pem"));
    command.env("TICKETGATE_LOG_ACCESS", "false").env("TICKETGATE_LIMITS_CLIENT_REQUESTS", "off");
    let mut server = Server::run(command, directory);
    let tls = address(&server.log_line_saying("listening"), "tls");
    let good = async || {
        let mut good = Connection::over(authority.connect(tls, &[HTTP_1]).await);
        good.get(&target(), "Connection: close\r\n").await.status
    };
    assert_eq!(good().await, 200);
    let before = server.resident();
    let ask = block(&request("GET", &target()));
    let burst: Vec<u8> = (0..100).flat_map(|n| frame(HEADERS, END_STREAM | END_HEADERS, 2 * n + 1, &ask)).collect();
    let mut stalled = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut frames = Frames::open(&authority, tls, &[(INITIAL_WINDOW_SIZE, 0)]).await;
        frames.say(&burst).await;
        for _ in 0..100 {
            frames.hear(|frame| (frame.kind == HEADERS).then_some(())).await;
        }
        stalled.push(frames);
    }
    // Copied they would take 1 GB.
    let grown = server.resident().saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} kB");
    assert_eq!(timeout(PATIENCE, good()).await.expect("at once"), 200);
    assert_eq!(origin.count(), 1);
}

/// A server whose deadlines are far away, and where it listens: in the clear, for TLS, and for its operator.
fn patient(origin: &Origin, app: &Origin, authority: &Authority) -> (Server, [SocketAddr; 3]) {
    authority.install();
    let (cert, key) = (authority.file("cert.pem"), authority.file("key.pem"));
    let mut server = Server::configured(&format!(
        r#"
        listen = "127.0.0.1:0"
        app = "{}"
        origin.url = "{}"
        admin.listen = "127.0.0.1:0"
        log.access = false
        limits.client_requests = "off"
        tls = {{ listen = "127.0.0.1:0", cert = "{}", key = "{}" }}
        [timeouts]
        first_byte = "1h"
        head = "1h"
        body = "1h"
        write = "1h"
        tls_handshake = "1h"
        "#,
        app.url(),
        origin.url(),
        cert.display(),
        key.display(),
    ));
    let listening = server.log_line_saying("listening");
    let addresses = ["public", "tls", "admin"].map(|listener| address(&listening, listener));
    (server, addresses)
}

/// A client that says `words` and then waits. It has little room for what it does not read.
async fn waits(address: SocketAddr, words: impl AsRef<[u8]>) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    stream.write_all(words.as_ref()).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_silent_stops_half_way_or_does_not_read_makes_no_thread_that_serves_run_even_once() {
    const OF_EACH: usize = 30;
    /// Images that each of them asks for who does not read: more than the kernel takes off the server's hands.
    const IMAGES: usize = 20;
    /// For so long no such thread may run; whatever is looked at again and again is so every 4 s at least.
    const WATCHED: Duration = Duration::from_secs(5);
    let origin = Origin::answering(Answer::large_image()).await;
    let (app, authority) = (Origin::answering(Answer::of(200, "", b"ok")).await, Authority::new());
    app.hold();
    let (server, [public, tls, admin]) = patient(&origin, &app, &authority);
    let ask = format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", target());
    assert_eq!(Connection::open(public).await.get(&target(), "Connection: close\r\n").await.status, 200);

    let (mut in_the_clear, mut over_tls) = (Vec::new(), Vec::new());
    for _ in 0..OF_EACH {
        let kinds = [
            (public, Vec::new()),
            (public, b"GET / HTTP/1.1\r\nHost: a\r\nX: ".to_vec()),
            (public, UPLOAD.to_vec()),
            (public, ask.repeat(IMAGES).into_bytes()),
            (tls, Vec::new()),
            (tls, HANDSHAKE.to_vec()),
        ];
        for (address, words) in kinds {
            in_the_clear.push(waits(address, words).await);
        }
        let mut half_a_preface = authority.connect(tls, &[HTTP_2]).await;
        half_a_preface.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
        over_tls.push(half_a_preface);
    }
    let all = (in_the_clear.len() + over_tls.len()) as u64;
    app.has_been_asked(OF_EACH).await;
    let quiet = async {
        loop {
            let turns = server.turns();
            sleep(WATCHED).await;
            if server.turns() == turns {
                return turns;
            }
        }
    };
    let turns = timeout(PATIENCE, quiet).await.expect("somebody who waits makes a thread run again and again");
    assert_eq!(metric(admin, "ticketgate_connections_open").await, all, "none of them was closed");
    let answered = metric(admin, "ticketgate_requests_total").await;
    assert!(answered <= (OF_EACH * IMAGES / 2) as u64, "{answered}: there was room for what is not read");
    let mut silent = Connection::over(in_the_clear.swap_remove(0));
    assert_eq!(silent.get(&target(), "Connection: close\r\n").await.status, 200);
    let after = server.turns();
    assert!(after[0] > turns[0] && after[1] > turns[1], "whoever goes on is served, and was seen to be: {after:?}");
    app.release();
}
