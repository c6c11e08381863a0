//! Messages that two servers could read differently (S5): one answer each, and nothing smuggled to the app.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::support::PATIENCE;
use crate::support::app::{App, rest_of, say};

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// All that comes back for `bytes`, until the proxy closes.
async fn all_answers(app: &App, bytes: &str) -> String {
    let mut client = app.proxy.connect().await.into_stream();
    client.write_all(bytes.as_bytes()).await.unwrap();
    let mut answers = Vec::new();
    let _ = timeout(PATIENCE, client.read_to_end(&mut answers)).await.unwrap_or_else(|_| panic!("open: {bytes:?}"));
    String::from_utf8(answers).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_unclear_gets_one_refusal_and_a_close_and_reaches_nobody() {
    let app = App::start().await;
    let head = |fields: &str| format!("POST /x HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let cases = [
        // Lengths.
        head("Content-Length: 1\r\nContent-Length: 2\r\n"),
        head("Content-Length: 1, 2\r\n"),
        head("Content-Length: 1,1\r\n"),
        head("Content-Length: +1\r\n"),
        head("Content-Length: -1\r\n"),
        head("Content-Length: 0x1\r\n"),
        head("Content-Length: 1 1\r\n"),
        head("Content-Length: 1.0\r\n"),
        head("Content-Length: 99999999999999999999\r\n"),
        head("Content-Length: \r\n"),
        // Codings.
        head("Transfer-Encoding: gzip\r\n"),
        head("Transfer-Encoding: chunked, gzip\r\n"),
        head("Transfer-Encoding: chunkedx\r\n"),
        head("Transfer-Encoding: \x0bchunked\r\n"),
        head("Transfer-Encoding: identity\r\n"),
        head("Transfer-Encoding: gzip, chunked\r\n"),
        head("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n"),
        head("Transfer-Encoding: chunked, chunked\r\n"),
        head("Content-Length: 4\r\nTransfer-Encoding: xchunked\r\n"),
        "POST /x HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        // Lines.
        head("Transfer-Encoding : chunked\r\n"),
        head("Content-Length : 1\r\n"),
        head("X: a\r\n b\r\n"),
        head(" X: a\r\n"),
        head("X: a\0b\r\n"),
        head("X: a\rb\r\n"),
        head("X\0: a\r\n"),
        head("no colon\r\n"),
        head(": no name\r\n"),
        // Hosts.
        "GET /x HTTP/1.1\r\n\r\n".to_owned(),
        head("Host: b\r\n"),
        head("Host: a\r\n"),
        "GET /x HTTP/1.1\r\nHost: a b\r\n\r\n".to_owned(),
        "GET /x HTTP/1.1\r\nHost: a@b\r\n\r\n".to_owned(),
        "GET http://user@b.example/x HTTP/1.0\r\n\r\n".to_owned(),
        "GET http://b.example/x HTTP/1.1\r\nHost: a.example\r\n\r\n".to_owned(),
        // Targets, methods and versions.
        "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n".to_owned(),
        "GET /x y HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "G\0T /x HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET /x HTTP/1.2\r\nHost: a\r\n\r\n".to_owned(),
        "GET /x HTTP/3.0\r\nHost: a\r\n\r\n".to_owned(),
        "GET /x\r\n\r\n".to_owned(),
    ];
    for case in cases {
        let answers = all_answers(&app, &format!("{case}{SMUGGLED}")).await;
        assert_eq!(
            answers.lines().filter(|line| line.starts_with("HTTP/1.1 4") || line.starts_with("HTTP/1.0 4")).count(),
            1,
            "{case:?}: {answers}"
        );
        let status = answers.get(9..12).unwrap();
        assert!(["400", "405", "413", "431"].contains(&status), "{case:?}: {answers}");
        assert!(app.is_alone().await, "{case:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_in_the_clear_is_closed_without_a_word() {
    let app = App::start().await;
    assert_eq!(all_answers(&app, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await, "");
    assert!(app.is_alone().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_are_none_get_a_400_and_the_app_no_whole_message() {
    let app = App::start().await;
    for chunks in
        ["zz\r\n", "-1\r\nx\r\n", "0x1\r\nx\r\n", "ffffffffffffffffff\r\n", "1\r\nxy\r\n0\r\n\r\n", "1;\nx\r\n", "\r\n"]
    {
        let mut client = app.proxy.connect().await;
        client
            .send(format!("POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}{SMUGGLED}"))
            .await;
        let answer = client.response().await.unwrap_or_else(|| panic!("no answer to {chunks:?}"));
        assert_eq!((answer.status, answer.header("connection")), (400, Some("close")), "{chunks:?}");
        assert!(client.is_closed().await, "{chunks:?}");
        // The app may have been connected to; what it saw of the message never ends.
        if let Some(mut behind) = app.queued().await {
            let seen = rest_of(&mut behind).await;
            assert!(seen.is_empty() || seen.starts_with("POST /x "), "{chunks:?}: {seen}");
            assert!(!seen.ends_with("0\r\n\r\n") && !seen.contains("smuggled"), "{chunks:?}: {seen}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_one_reading_reaches_the_app_in_that_one() {
    let app = App::start().await;
    let close = "Connection: close\r\n";
    let chunked = "5\r\nhello\r\n0\r\n\r\n";
    let cases = [
        ("Content-Length: 5\r\nContent-Length: 5\r\n", "hello", "hello"),
        ("Content-Length: 05\r\n", "hello", "hello"),
        ("Transfer-Encoding: Chunked\r\n", "5;ext=\"a;b\"\r\nhello\r\n0\r\n\r\n", chunked),
        ("Transfer-Encoding: chunked\r\n", "005\r\nhello\r\n000\r\n\r\n", chunked),
        ("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", chunked, chunked),
        ("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", chunked, chunked),
    ];
    for (framing, body, seen) in cases {
        let mut client = app.proxy.connect().await;
        client.send(format!("POST /x HTTP/1.1\r\nHost: a\r\n{close}{framing}\r\n{body}{SMUGGLED}")).await;
        let (mut behind, head, mut rest) = app.accept().await;
        while rest.len() < seen.len() {
            let read = timeout(PATIENCE, behind.read_buf(&mut rest)).await.expect("the body in time").unwrap();
            assert_ne!(read, 0, "{framing:?}");
        }
        assert_eq!(String::from_utf8_lossy(&rest), seen, "{framing:?}");
        let lengths = head.matches("content-length:").count() + head.matches("transfer-encoding:").count();
        assert_eq!(lengths, 1, "{head}");
        say(&mut behind, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").await;
        let answer = client.response().await.expect("an answer");
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")), "{framing:?}");
        assert!(client.is_closed().await, "{framing:?}");
        drop(behind);
        assert!(app.is_alone().await, "{framing:?}");
    }
}
