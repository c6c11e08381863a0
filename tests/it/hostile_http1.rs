//! Requests of which two servers could make two (S5, S31; RFC 9112 §11.2): each is refused before anybody is asked, or has
//! one reading, and then the app gets that one request whole, the client one answer, and nothing behind it is a request.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::support::origin::{Answer, Origin, read_head};
use crate::support::proxy::Proxy;
use crate::support::{PATIENCE, eventually, tickets};

/// What would be a request of its own, wherever a message is taken to end.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n";

/// An app that frames strictly by the one field that says how, and notes what it saw.
struct StrictApp {
    proxy: Proxy,
    /// What is noted of the case at hand.
    notes: Arc<Mutex<Notes>>,
    /// How many it ever had.
    connections: Arc<AtomicUsize>,
}

/// Each case has its own, so that what is late is noted where nobody looks.
type Notes = Arc<Mutex<Vec<Seen>>>;

/// One connection to the app, from its first byte to its end.
#[derive(Debug, Clone, Default)]
struct Seen {
    head: String,
    body: Vec<u8>,
    /// The message was whole.
    whole: bool,
    /// Bytes behind it.
    rest: Vec<u8>,
    ended: bool,
}

impl StrictApp {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let nobody = Origin::answering(Answer::image()).await;
        let proxy = Proxy::with(&nobody, |config| config.forward.app = Some(url.parse().unwrap()));
        let (notes, connections) = (Arc::<Mutex<Notes>>::default(), Arc::<AtomicUsize>::default());
        let (current, count) = (Arc::clone(&notes), Arc::clone(&connections));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let seen = Arc::clone(&current.lock().unwrap());
                let number = seen.lock().unwrap().len();
                seen.lock().unwrap().push(Seen::default());
                tokio::spawn(converse(stream, seen, number));
            }
        });
        Self { proxy, notes, connections }
    }

    /// All that comes back for `bytes`, and what the app saw of them.
    async fn outcome(&self, bytes: &[u8]) -> (String, Vec<Seen>) {
        let seen = Notes::default();
        *self.notes.lock().unwrap() = Arc::clone(&seen);
        let mut client = self.proxy.connect().await.into_stream();
        // Fails where we were refused already.
        let _ = client.write_all(bytes).await;
        let mut answers = Vec::new();
        let read = timeout(PATIENCE, client.read_to_end(&mut answers)).await;
        let _ = read.unwrap_or_else(|_| panic!("open: {:?}", String::from_utf8_lossy(bytes)));
        drop(client);
        eventually("the app has seen the end", || seen.lock().unwrap().iter().all(|seen| seen.ended)).await;
        let seen = seen.lock().unwrap().clone();
        (String::from_utf8_lossy(&answers).into_owned(), seen)
    }
}

async fn converse(mut stream: TcpStream, seen: Notes, number: usize) {
    let mut here = Seen::default();
    if let Some(head) = read_head(&mut stream, &mut here.rest).await {
        here.whole = read_body(&mut stream, &head, &mut here).await.is_some();
        here.head = head;
        if here.whole {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").await;
        }
        let _ = stream.read_to_end(&mut here.rest).await;
    }
    here.ended = true;
    seen.lock().unwrap()[number] = here;
}

/// Moves the body out of what is read; `None` when it does not end, or is framed in no one way.
async fn read_body(stream: &mut TcpStream, head: &str, seen: &mut Seen) -> Option<()> {
    let fields = |name: &str| head.lines().filter(|line| line.starts_with(name)).collect::<Vec<_>>();
    match (&fields("content-length: ")[..], &fields("transfer-encoding: ")[..]) {
        ([], []) => Some(()),
        ([length], []) => take(stream, seen, length["content-length: ".len()..].parse().ok()?).await,
        ([], ["transfer-encoding: chunked"]) => loop {
            let size = usize::from_str_radix(&take_line(stream, seen).await?, 16).ok()?;
            take(stream, seen, size).await?;
            if size == 0 {
                while !take_line(stream, seen).await?.is_empty() {}
                return Some(());
            }
            take_line(stream, seen).await?.is_empty().then_some(())?;
        },
        _ => None,
    }
}

async fn take(stream: &mut TcpStream, seen: &mut Seen, length: usize) -> Option<()> {
    while seen.rest.len() < length {
        (stream.read_buf(&mut seen.rest).await.ok()? > 0).then_some(())?;
    }
    seen.body.extend(seen.rest.drain(..length));
    Some(())
}

async fn take_line(stream: &mut TcpStream, seen: &mut Seen) -> Option<String> {
    loop {
        if let Some(end) = seen.rest.windows(2).position(|window| window == b"\r\n") {
            let line = seen.rest.drain(..end + 2).collect::<Vec<_>>();
            return String::from_utf8(line[..end].to_vec()).ok();
        }
        (stream.read_buf(&mut seen.rest).await.ok()? > 0).then_some(())?;
    }
}

/// How `answers` say no: one refusal and nothing else.
fn is_one_refusal(answers: &str) -> bool {
    let refused = answers.get(9..12).is_some_and(|status| ["400", "405", "413", "414", "431"].contains(&status));
    refused && answers.matches("HTTP/1.").count() == 1 && answers.contains("\r\nconnection: close\r\n")
}

/// One answer of the app to one whole request, whose body was `body`.
fn is_one_exchange(answers: &str, seen: &[Seen], body: &[u8]) -> bool {
    let [seen] = seen else { return false };
    answers.get(8..13) == Some(" 200 ")
        && answers.matches("HTTP/1.").count() == 1
        && seen.whole
        && seen.rest.is_empty()
        && seen.body == body
        && !seen.head.contains("smuggled")
}

fn post(fields: &str, body: &str) -> Vec<u8> {
    format!("POST /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n{body}{SMUGGLED}").into_bytes()
}

fn chunked(body: &str) -> Vec<u8> {
    post("Transfer-Encoding: chunked\r\n", body)
}

fn line(line: &str) -> Vec<u8> {
    format!("{line}\r\nHost: a\r\nConnection: close\r\n\r\n{SMUGGLED}").into_bytes()
}

/// Sends each of `cases`, behind which another request stands.
async fn are_refused_and_reach_nobody(cases: impl IntoIterator<Item = Vec<u8>>) {
    let app = StrictApp::start().await;
    for case in cases {
        let (answers, seen) = app.outcome(&case).await;
        let case = String::from_utf8_lossy(&case);
        assert!(is_one_refusal(&answers) && seen.is_empty(), "{case:?} was answered {answers:?}; the app saw {seen:?}");
    }
    // Connections are accepted in turn: once a good request has come, so has every one before it.
    let (answers, seen) = app.outcome(&post("Content-Length: 5\r\n", "hello")).await;
    assert!(is_one_exchange(&answers, &seen, b"hello"), "answered {answers:?}; the app saw {seen:?}");
    assert_eq!(app.connections.load(Ordering::SeqCst), 1, "no case reached the app, however late");
}

/// A body in chunks behind one field line, whatever bytes that has.
fn raw(name: &[u8], value: &[u8]) -> Vec<u8> {
    let begun = b"POST /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n";
    [begun, name, b":", value, b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n", SMUGGLED.as_bytes()].concat()
}

const CODINGS: &[&str] = &[
    " xchunked",
    " chunked;q=1",
    " \"chunked\"",
    " 'chunked'",
    " chunk",
    " chunked chunked",
    " ch\u{fc}nked",
    " chunked, identity",
    " identity, chunked",
    " deflate, chunked",
    " chunked, x",
    " ,chunked",
    " chunked,",
    " [chunked]",
    " chunked\\",
    " x;chunked",
    " chunked=1",
    " \u{b}chunked",
    " \u{c}chunked",
    " chunked\u{b}",
    "\u{a0}chunked",
    " \0chunked",
    " chunked\0",
    " chu\0nked",
];
const CODINGS_OF_BYTES: &[&[u8]] = &[b" chunked\xff", b" \xa0chunked", b"\x01chunked", b" \x7fchunked", b" chunked\r"];
const NAMES: &[&[u8]] = &[
    b"Transfer-Encoding ",
    b"Transfer-Encoding\t",
    b" Transfer-Encoding",
    b"\tTransfer-Encoding",
    b"Transfer Encoding",
    b"Transfer-Encoding\0",
    b"\0Transfer-Encoding",
    b"Transfer-Encoding\r",
    b"\x0bTransfer-Encoding",
    b"Transfer-Enc\xf6ding",
    b"(Transfer-Encoding)",
    b"\"Transfer-Encoding\"",
    b"X\r\n Transfer-Encoding",
    b"X: y\r\n\tTransfer-Encoding",
    b"X: y\rTransfer-Encoding",
    b"Content-Length: 5\rTransfer-Encoding",
];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_quite_chunked_is_refused_and_reaches_nobody() {
    let alone = CODINGS.iter().map(|coding| raw(b"Transfer-Encoding", coding.as_bytes()));
    let bytes = CODINGS_OF_BYTES.iter().map(|coding| raw(b"Transfer-Encoding", coding));
    let beside = |coding: &&str| post(&format!("Content-Length: 5\r\nTransfer-Encoding:{coding}\r\n"), "hello");
    let names = NAMES.iter().map(|name| raw(name, b" chunked"));
    are_refused_and_reach_nobody(alone.chain(bytes).chain(CODINGS.iter().map(beside)).chain(names)).await;
}

const LENGTHS: &[&str] = &[
    "5 5",
    "5,6",
    "5, 5",
    ",5",
    "5,",
    "5;",
    "5; a=b",
    "\"5\"",
    "+5",
    "-5",
    "-0",
    "5e0",
    "5.",
    "0x5",
    "0b101",
    "5h",
    "5\u{b}",
    "5\0",
    "\u{ff15}",
    "_5",
    "5_0",
    "18446744073709551616",
    "18446744073709551615",
    "99999999999999999999999999999999999999",
    "",
    " ",
    "NaN",
    "infinity",
    "five",
];

#[tokio::test(flavor = "multi_thread")]
async fn lengths_that_are_none_or_two_are_refused_and_reach_nobody() {
    let one = LENGTHS.iter().map(|length| post(&format!("Content-Length: {length}\r\n"), "hello"));
    let pairs = [("5", "0"), ("0", "5"), ("5", "+5"), ("5", "6"), ("5", ""), ("", "5"), ("5", "x")];
    let two =
        pairs.map(|(one, two)| post(&format!("Content-Length: {one}\r\nX: y\r\ncontent-length: {two}\r\n"), "hello"));
    are_refused_and_reach_nobody(one.chain(two)).await;
}

const HOSTS: &[&str] = &[
    "a\r\nHost: a",
    "a\r\nhost: b",
    "a, b",
    "a b",
    "a\tb",
    "a/b",
    "a?b",
    "a#b",
    "a@b",
    "a\\b",
    "a:b",
    "a:99999",
    "a:80:80",
    "[::1",
    "::1",
    "a\0",
    "a%00",
    "<a>",
];

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_are_none_or_two_are_refused_and_reach_nobody() {
    let alone = HOSTS
        .iter()
        .map(|host| format!("GET /x HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n{SMUGGLED}").into_bytes());
    let targets = ["http://b/x", "http://a@b/x", "http://a:80/x", "https://b/x", "http:///x", "http://a b/x"];
    let absolute = targets.map(|target| line(&format!("GET {target} HTTP/1.1")));
    are_refused_and_reach_nobody(alone.chain(absolute)).await;
}

const FIRST_LINES: &[&str] = &[
    "GET  /x HTTP/1.1",
    "GET /x  HTTP/1.1",
    "GET\t/x\tHTTP/1.1",
    " GET /x HTTP/1.1",
    "GET /x HTTP/1.1 ",
    "GET /x\tHTTP/1.1",
    "GET /x\u{b}HTTP/1.1",
    "GET /x",
    "GET /x HTTP/0.9",
    "GET /x HTTP/2.0",
    "GET /x HTTP/1.2",
    "GET /x HTTP/1.10",
    "GET /x HTTP/01.1",
    "GET /x HTTP/1,1",
    "GET /x http/1.1",
    "GET /x HTTP /1.1",
    "GET /x XTTP/1.1",
    "GET /x HTTP/1.1\rX: y",
    "GET /x\0 HTTP/1.1",
    "GET /x HTTP/1.1\0",
    "GET /x y HTTP/1.1",
    "GET /x\u{7f} HTTP/1.1",
    "GET x HTTP/1.1",
    "GET HTTP/1.1",
    "GET:/x HTTP/1.1",
    "G(T /x HTTP/1.1",
    "\u{feff}GET /x HTTP/1.1",
    "GET  HTTP/1.1",
];
const FIELDS: &[&str] = &[
    "X",
    "X y",
    ": y",
    " : y",
    "X y: z",
    "X: y\rZ: z",
    "X: \u{1}",
    "X: \u{7f}",
    "X: y\r\n z",
    "X: y\r\n\tz",
    "X(: y",
    "X,: y",
    "\u{e9}: y",
];

#[tokio::test(flavor = "multi_thread")]
async fn lines_that_one_server_would_mend_are_refused_and_reach_nobody() {
    let first = FIRST_LINES.iter().map(|first| line(first));
    let fields = FIELDS.iter().map(|field| post(&format!("{field}\r\nContent-Length: 5\r\n"), "hello"));
    are_refused_and_reach_nobody(first.chain(fields)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_two_servers_could_read_differently_are_refused_and_no_whole_message() {
    let app = StrictApp::start().await;
    let cases = [
        // Sizes.
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5h\r\nhello\r\n0\r\n\r\n",
        "5_\r\nhello\r\n0\r\n\r\n",
        "5.\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        ";a\r\nhello\r\n0\r\n\r\n",
        "5 5\r\nhello\r\n0\r\n\r\n",
        "5,5\r\nhello\r\n0\r\n\r\n",
        "5\0\r\nhello\r\n0\r\n\r\n",
        "\u{ff15}\r\nhello\r\n0\r\n\r\n",
        "10000000000000000\r\nhello\r\n0\r\n\r\n",
        "ffffffffffffffff5\r\nhello\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        // Line ends.
        "5\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5\r\rhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\r\n\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\n\r\n",
        // Lengths of data.
        "4\r\nhello\r\n0\r\n\r\n",
        "6\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        // Extensions.
        "5;\nhello\r\n0\r\n\r\n",
        "5;a\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "5;a=\"\n\"\r\nhello\r\n0\r\n\r\n",
        // Trailers.
        "5\r\nhello\r\n0\r\nX\r\n\r\n",
        "5\r\nhello\r\n0\r\nX : y\r\n\r\n",
        "5\r\nhello\r\n0\r\n X: y\r\n\r\n",
        "5\r\nhello\r\n0\r\nX: a\0b\r\n\r\n",
        "5\r\nhello\r\n0\r\nX: a\rb\r\n\r\n",
    ];
    for case in cases {
        let (answers, seen) = app.outcome(&chunked(case)).await;
        let whole = seen.iter().any(|seen| seen.whole);
        assert!(is_one_refusal(&answers) && !whole, "{case:?} was answered {answers:?}; the app saw {seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_one_reading_is_one_request_to_the_app_and_one_answer() {
    let app = StrictApp::start().await;
    let five = "5\r\nhello\r\n0\r\n\r\n";
    let odd = |line: &str, rest: &str| format!("{line}{rest}{SMUGGLED}").into_bytes();
    let head = "Host: a\r\nConnection: close\r\n\r\n";
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (post("Content-Length: 5\r\n", "hello"), "hello"),
        (post("Content-Length:5\r\n", "hello"), "hello"),
        (post("Content-Length: \t 5 \t\r\n", "hello"), "hello"),
        (post("Content-Length: 00000000000000005\r\n", "hello"), "hello"),
        (post("Content-Length: 0\r\n", ""), ""),
        (post("", ""), ""),
        (post(&format!("Content-Length: {}\r\n", SMUGGLED.len()), SMUGGLED), SMUGGLED),
        (post("Content-Length: 5\r\nX: y\r\ncontent-length: 05\r\n", "hello"), "hello"),
        (post("Transfer-Encoding:chunked\r\n", five), "hello"),
        (post("Transfer-Encoding: \t chunked \t\r\n", five), "hello"),
        (post("tRANSFER-eNCODING: cHUNKED\r\n", five), "hello"),
        (post("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", five), "hello"),
        (post("Content-Length: 999999\r\nTransfer-Encoding: chunked\r\n", five), "hello"),
        (post("Transfer_Encoding: chunked\r\nContent-Length: 5\r\n", "hello"), "hello"),
        (post("Content-Length: 5\r\nContent_Length: 0\r\n", "hello"), "hello"),
        (post("Content-Length: 5\r\nX-Transfer-Encoding: chunked\r\n", "hello"), "hello"),
        (post("Content-Length: 5\r\nTE: chunked\r\n", "hello"), "hello"),
        (post("Content-Length: 5\r\nTrailer: Transfer-Encoding\r\n", "hello"), "hello"),
        (post("Content-Length: 5\r\nConnection: Content-Length\r\n", "hello"), "hello"),
        (post("Transfer-Encoding: chunked\r\nConnection: Transfer-Encoding\r\n", five), "hello"),
        (chunked("5;a\r\nhello\r\n0\r\n\r\n"), "hello"),
        (chunked("5 ;a=b\r\nhello\r\n0\r\n\r\n"), "hello"),
        (chunked("5;a=\"b;c\"\r\nhello\r\n0;d\r\n\r\n"), "hello"),
        // Extensions end here.
        (chunked("5;a\0\r\nhello\r\n0\r\n\r\n"), "hello"),
        (chunked("5\r\nhello\r\n0\r\n\n"), "hello"),
        (chunked("5 \r\nhello\r\n0\r\n\r\n"), "hello"),
        (chunked("00000005\r\nhello\r\n0000\r\n\r\n"), "hello"),
        (chunked("A\r\nhellohello\r\n0\r\n\r\n"), "hellohello"),
        (chunked("2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"), "hello"),
        (chunked(&format!("{:x}\r\n{SMUGGLED}\r\n0\r\n\r\n", SMUGGLED.len())), SMUGGLED),
        (chunked("5\r\nhello\r\n0\r\nX-Trailer: y\r\n\r\n"), "hello"),
        (chunked("5\r\nhello\r\n0\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\nHost: b\r\n\r\n"), "hello"),
        (odd("\r\n\r\nGET /x HTTP/1.1\r\n", head), ""),
        (odd("GET /x HTTP/1.1\n", "Host: a\nConnection: close\n\n"), ""),
        (odd("POST /x HTTP/1.1\n", "Host: a\nConnection: close\nContent-Length: 5\n\nhello"), "hello"),
        (odd("GET /x HTTP/1.0\r\n", "\r\n"), ""),
        (odd("POST /x HTTP/1.0\r\n", "Content-Length: 5\r\n\r\nhello"), "hello"),
        (odd("GET http://a/x HTTP/1.1\r\n", head), ""),
        (odd("GET http://a HTTP/1.1\r\n", head), ""),
        (odd("GET //b/x HTTP/1.1\r\n", head), ""),
        (odd("GET /x#y HTTP/1.1\r\n", head), ""),
        (odd("GET * HTTP/1.1\r\n", head), ""),
        (odd("OPTIONS * HTTP/1.1\r\n", head), ""),
        (odd("GET /x HTTP/1.1\r\n", &format!("Content-Length: 5\r\n{head}hello")), "hello"),
        (odd("GET /x HTTP/1.1\r\n", &format!("Expect: 100-continue, x\r\n{head}")), ""),
        (odd("GET /x HTTP/1.1\r\n", &format!("X:\r\nX-Long: {}\r\n{head}", "y".repeat(20_000))), ""),
    ];
    for (case, body) in cases {
        let (answers, seen) = app.outcome(&case).await;
        let case = String::from_utf8_lossy(&case);
        let good = is_one_exchange(&answers, &seen, body.as_bytes());
        assert!(good, "{case:?} was answered {answers:?}; the app saw {seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_host_nor_target_nor_any_field_chooses_where_we_connect() {
    let elsewhere = Origin::answering(Answer::of(200, "", b"elsewhere")).await;
    let (origin, app) =
        (Origin::answering(Answer::image()).await, Origin::answering(Answer::of(200, "", b"app")).await);
    let proxy = Proxy::with(&origin, |config| config.forward.app = Some(app.url().parse().unwrap()));
    let there = elsewhere.address;
    let image = tickets::target(&tickets::permanent(1));
    for path in ["/x", &image] {
        let cases = [
            format!("GET {path} HTTP/1.1\r\nHost: {there}\r\n"),
            format!("GET http://{there}{path} HTTP/1.1\r\nHost: {there}\r\n"),
            format!("GET http://{there}{path} HTTP/1.0\r\n"),
            format!("GET {path} HTTP/1.1\r\nHost: a\r\nForwarded: host={there}\r\nX-Forwarded-Host: {there}\r\n"),
            format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-Original-URL: http://{there}/\r\nX-Host: {there}\r\n"),
            format!("GET {path}&x=http://{there}/ HTTP/1.1\r\nHost: a\r\nReferer: http://{there}/\r\n"),
        ];
        for case in cases {
            let mut client = proxy.connect().await;
            client.send(format!("{case}Connection: close\r\n\r\n")).await;
            assert_eq!(client.response().await.expect("an answer").status, 200, "{case}");
        }
    }
    assert_eq!((elsewhere.connections(), origin.count(), app.count()), (0, 1, 6));
}
