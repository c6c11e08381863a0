//! Clients that speak HTTP/2 in order to harm: each is refused, or cut off, in a bounded number of frames, while others are
//! served at once (S5, S31; RFC 9113 §10.5).

use std::time::Duration;

use futures_util::future::join_all;
use ticketgate::config::Config;
use tokio::time::timeout;

use crate::support::app::{App, rest_of};
use crate::support::client::Connection;
use crate::support::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, Frames, HEADERS, INITIAL_WINDOW_SIZE, PING, PRIORITY,
    RST_STREAM, SETTINGS, WINDOW_UPDATE, block, frame, get, preface, request,
};
use crate::support::origin::{Answer, Origin, jpeg};
use crate::support::proxy::Proxy;
use crate::support::tls::{Authority, HTTP_1};
use crate::support::{eventually, tickets};

const SHORT: Duration = Duration::from_millis(150);

/// What takes some megabytes, however busy the machine is.
const LONG: Duration = Duration::from_secs(60);

/// Of deadlines that a good client has to keep as well, however busy the machine is.
const KEPT: Duration = Duration::from_secs(1);

/// Reasons (RFC 9113 §7).
const NO_ERROR: u32 = 0;
const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const CANCELLED: u32 = 8;
const ENHANCE_YOUR_CALM: u32 = 11;

struct Scene {
    /// WeChat, and the app as well.
    origin: Origin,
    authority: Authority,
    proxy: Proxy,
}

async fn scene(change: impl FnOnce(&mut Config)) -> Scene {
    scene_with(Answer::image(), change).await
}

async fn scene_with(answer: Answer, change: impl FnOnce(&mut Config)) -> Scene {
    let origin = Origin::answering(answer).await;
    let authority = Authority::new();
    authority.install();
    let proxy = Proxy::with(&origin, |config| {
        authority.configure(config);
        config.forward.app = Some(origin.url().parse().unwrap());
        change(config);
    });
    let scene = Scene { origin, authority, proxy };
    assert_eq!(scene.good_client().await, 200);
    scene
}

fn image() -> String {
    tickets::target(&tickets::permanent(1))
}

impl Scene {
    async fn frames(&self, settings: &[(u16, u32)]) -> Frames {
        Frames::open(&self.authority, self.proxy.tls(), settings).await
    }

    /// What somebody else gets, who comes now and wants an image that is there.
    async fn good_client(&self) -> u16 {
        let stream = self.authority.connect(self.proxy.tls(), &[HTTP_1]).await;
        let mut connection = Connection::over(stream);
        let answer = timeout(Duration::from_secs(5), connection.get(&image(), "Connection: close\r\n")).await;
        answer.expect("at once").status
    }

    /// How often the app was asked: the one other request was for the good client's image.
    fn asked(&self) -> usize {
        self.origin.count() - 1
    }

    /// Says `next` again and again until the connection is closed, and sees that others are served meanwhile; how often it
    /// was said, and what was heard.
    async fn insist(&self, most: u32, next: impl FnMut(u32) -> Vec<u8> + Send + 'static) -> (u32, Vec<Frame>) {
        self.others_are_served(self.frames(&[]).await.insist(most, next)).await
    }

    async fn others_are_served<T: Send + 'static>(&self, attack: impl Future<Output = T> + Send + 'static) -> T {
        let attack = tokio::spawn(attack);
        assert_eq!(self.good_client().await, 200);
        let outcome = attack.await.unwrap();
        assert_eq!(self.good_client().await, 200);
        outcome
    }
}

fn goaway(heard: &[Frame]) -> Option<u32> {
    heard.iter().rev().find_map(Frame::goaway)
}

/// The n-th stream of a client.
fn stream(n: u32) -> u32 {
    2 * n + 1
}

/// So many requests at a time, each reset at once.
fn bursts(size: u32) -> impl FnMut(u32) -> Vec<u8> {
    move |burst| {
        let pairs = (size * burst..size * burst + size).map(stream);
        pairs.flat_map(|id| [get(id, "/app"), frame(RST_STREAM, 0, id, &CANCELLED.to_be_bytes())].concat()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_reset_as_soon_as_they_are_made_end_the_connection() {
    let scene = scene(|_| {}).await;
    scene.origin.hold();
    let (said, heard) = scene.insist(1000, bursts(5)).await;
    assert_eq!(goaway(&heard), Some(NO_ERROR), "{said}: told to go, and then closed");
    assert!((40..100).contains(&said), "{said}");
    assert!(scene.asked() <= 430, "{}", scene.asked());
    let before = scene.asked();
    // More than may wait to be looked at, in one piece.
    let (said, heard) = scene.others_are_served(scene.frames(&[]).await.flood(1000, bursts(30))).await;
    assert_eq!(goaway(&heard), Some(ENHANCE_YOUR_CALM), "{said}: faster than they are looked at");
    assert!(scene.asked() - before <= 430, "{}", scene.asked());
    scene.origin.release();
}

/// What makes the server reset a stream, or end the connection.
type Provoke = fn(u32) -> Vec<u8>;

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_makes_us_reset_its_requests_again_and_again_is_cut_off() {
    let scene = scene(|_| {}).await;
    scene.origin.hold();
    let provoked: [(&str, Provoke); 5] = [
        ("no window", |id| frame(WINDOW_UPDATE, 0, id, &[0; 4])),
        ("too much of a window", |id| frame(WINDOW_UPDATE, 0, id, &[0x7f, 0xff, 0xff, 0xff])),
        ("depending on itself", |id| frame(PRIORITY, 0, id, &[&id.to_be_bytes()[..], &[0]].concat())),
        ("a priority cut short", |id| frame(PRIORITY, 0, id, &[0; 4])),
        ("data behind the end", |id| frame(DATA, 0, id, b"x")),
    ];
    for (what, provoke) in provoked {
        let before = scene.asked();
        let (said, heard) = scene.insist(1000, move |n| [get(stream(n), "/app"), provoke(stream(n))].concat()).await;
        assert!(matches!(goaway(&heard), Some(reason) if reason != NO_ERROR), "{what}: {said}, {heard:?}");
        assert!(scene.asked() - before <= 100, "{what}: {}", scene.asked() - before);
    }
    scene.origin.release();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_goes_on_and_on_ends_the_connection() {
    let scene = scene(|_| {}).await;
    let piece = block(&[("x-filler", &"y".repeat(1000))]);
    for (what, piece) in [("empty pieces", Vec::new()), ("pieces of a kilobyte", piece)] {
        let next = move |n| {
            let begun = frame(HEADERS, END_STREAM, 1, &block(&request("GET", "/app")));
            if n == 0 { begun } else { frame(CONTINUATION, 0, 1, &piece) }
        };
        let (said, heard) = scene.others_are_served(scene.frames(&[]).await.flood(20_000, next)).await;
        assert!(said < 20_000, "{what}: never stopped");
        assert!(goaway(&heard).is_some_and(|reason| reason != NO_ERROR), "{what}: {said}, {heard:?}");
    }
    assert_eq!(scene.asked(), 0);
}

/// The field that was put into the table last (RFC 7541 §2.3.3, §6.1).
const LAST_ADDED: u8 = 0xbe;

/// A header block in which a field of `length` bytes is put into the table once, and then pointed at `times`.
fn bomb(length: usize, times: usize) -> Vec<u8> {
    let mut spelt = block(&[("x-bomb", &"y".repeat(length))]);
    spelt[0] = 0x40;
    [block(&request("GET", "/app")), spelt, vec![LAST_ADDED; times]].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_that_unfold_into_more_than_32_kib_are_refused_and_reach_nobody() {
    let scene = scene(|_| {}).await;
    let mut frames = scene.frames(&[(INITIAL_WINDOW_SIZE, 0)]).await;
    frames.say(frame(HEADERS, END_STREAM | END_HEADERS, 1, &bomb(3900, 9))).await;
    assert_eq!(frames.hear(Frame::status).await, 431, "somewhat more");
    let bombs = |n| frame(HEADERS, END_STREAM | END_HEADERS, stream(n), &bomb(3900, 12_000));
    let (said, heard) = scene.insist(100, bombs).await;
    assert!(said <= 2 && goaway(&heard).is_some_and(|reason| reason != NO_ERROR), "much more: {said}, {heard:?}");
    assert_eq!(scene.asked(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_has_us_answer_and_does_not_read_is_cut_off() {
    let scene = scene(|config| {
        config.server.timeouts.write = SHORT;
        // Longer than is waited here, so that nothing else ends it.
        (config.server.timeouts.head, config.server.timeouts.keep_alive) = (2 * LONG, 2 * LONG);
    })
    .await;
    let floods = [
        ("settings", frame(SETTINGS, 0, 0, &[])),
        ("pings", frame(PING, 0, 0, b"are you?")),
        ("requests to reset", frame(WINDOW_UPDATE, 0, 1, &[0; 4])),
    ];
    for (what, piece) in floods {
        let mut frames = scene.frames(&[]).await;
        if what == "requests to reset" {
            frames.say(get(1, &image())).await;
        }
        let flood = async {
            let mut said = 0;
            while frames.is_taken(piece.repeat(1000)).await {
                said += 1000 * piece.len();
            }
            said
        };
        let (said, good) = tokio::join!(timeout(LONG, flood), scene.good_client());
        let said = said.unwrap_or_else(|_| panic!("{what} for ever"));
        assert!(said < 64 * 1024 * 1024, "{what}: {said} bytes were taken");
        assert_eq!(good, 200, "{what}");
    }
    eventually("all are gone", || scene.proxy.running.metrics().open_connections() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_begun_and_never_ends_is_closed_at_its_deadline() {
    let scene = scene(|config| {
        config.server.timeouts.head = KEPT;
        config.server.timeouts.keep_alive = KEPT;
        config.server.timeouts.first_byte = KEPT;
        config.server.timeouts.write = KEPT;
    })
    .await;
    let open = frame(HEADERS, END_STREAM, 1, &block(&request("GET", "/app")));
    let begun = [
        ("nothing", Vec::new()),
        ("half a preface", b"PRI * HTTP/2.0\r\n".to_vec()),
        ("a preface without settings", preface(&[])[..24].to_vec()),
        ("half a frame", [preface(&[]), open[..12].to_vec()].concat()),
        ("a head to be continued", [preface(&[]), open].concat()),
        ("pings alone", [preface(&[]), frame(PING, 0, 0, b"are you?")].concat()),
        ("behind an answer, half a head", [preface(&[]), get(1, &image()), frame(HEADERS, 0, 3, b"\x82")].concat()),
    ];
    let closed = begun.map(async |(what, bytes)| {
        let mut frames = Frames::silent(&scene.authority, scene.proxy.tls()).await;
        frames.say(bytes).await;
        let heard = frames.rest().await;
        let answered = heard.iter().filter(|frame| frame.kind == HEADERS).count();
        assert_eq!(answered, usize::from(what.starts_with("behind an answer")), "{what}: {heard:?}");
    });
    join_all(closed).await;
    assert_eq!(scene.asked(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_find_no_window_are_given_up_and_the_connection_is_closed() {
    let large: Vec<u8> = jpeg().into_iter().cycle().take(28_000).collect();
    let answer = Answer::of(200, "Cache-Control: max-age=604800\r\n", &large);
    for window in [0, 1] {
        let scene = scene_with(answer.clone(), |config| {
            config.server.timeouts.write = SHORT;
            config.server.timeouts.keep_alive = 4 * SHORT;
        })
        .await;
        let mut frames = scene.frames(&[(INITIAL_WINDOW_SIZE, window)]).await;
        frames.say((0..100).flat_map(|n| get(stream(n), &image())).collect::<Vec<_>>()).await;
        assert_eq!(scene.good_client().await, 200);
        // Sooner than a client that never asked is closed.
        let heard = timeout(Duration::from_secs(5), frames.rest()).await.expect("closed when it idles");
        let sent: usize = heard.iter().filter(|frame| frame.kind == DATA).map(|frame| frame.payload.len()).sum();
        assert_eq!(sent, 100 * usize::try_from(window).unwrap());
        assert_eq!(heard.iter().filter(|frame| frame.kind == HEADERS).count(), 100);
        assert_eq!(scene.asked(), 0, "all were hits");
        eventually("it is gone", || scene.proxy.running.metrics().open_connections() == 0).await;
    }
}

/// Asks for the head of an image now and then, which needs no window, until all of `answers` were given up, or the
/// connection was.
async fn goes_on_asking(mut frames: Frames, answers: u32) {
    let mut given_up = 0;
    for n in answers.. {
        let head = frame(HEADERS, END_STREAM | END_HEADERS, stream(n), &block(&request("HEAD", &image())));
        if !frames.is_taken(head).await {
            return;
        }
        while let Some(frame) = frames.next().await {
            given_up += u32::from(frame.kind == RST_STREAM);
            if given_up == answers {
                return;
            }
            if (frame.kind, frame.stream) == (HEADERS, stream(n)) {
                break;
            }
        }
        tokio::time::sleep(SHORT / 3).await;
    }
}

/// Else a request now and then would keep for ever what its client never reads.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_not_read_are_given_up_whatever_else_their_client_asks_for() {
    for window in [0, 1, 1999] {
        let scene = scene(|config| config.server.timeouts.write = SHORT).await;
        let mut frames = scene.frames(&[(INITIAL_WINDOW_SIZE, window)]).await;
        frames.say((0..30).flat_map(|n| get(stream(n), &image())).collect::<Vec<_>>()).await;
        let given_up = timeout(Duration::from_secs(10), goes_on_asking(frames, 30)).await;
        assert!(given_up.is_ok(), "a window of {window}: kept for ever");
        assert_eq!(scene.asked(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_http_1_would_read_differently_is_refused_and_reaches_nobody() {
    let scene = scene(|_| {}).await;
    let plain = request("GET", "/app");
    let with = |field: (&'static str, &'static str)| [&plain[..], &[field]].concat();
    let replaced = |name: &str, value: &'static str| {
        let mut fields = plain.clone();
        fields.iter_mut().filter(|(known, _)| *known == name).for_each(|field| field.1 = value);
        fields
    };
    let without = |name: &str| plain.iter().copied().filter(|(known, _)| *known != name).collect::<Vec<_>>();
    let cases = [
        // Fields of a hop, which HTTP/2 does not have.
        with(("connection", "close")),
        with(("connection", "x-forwarded-for")),
        with(("keep-alive", "timeout=5")),
        with(("proxy-connection", "keep-alive")),
        with(("transfer-encoding", "chunked")),
        with(("upgrade", "websocket")),
        with(("te", "gzip")),
        // Fields that would be more than one in a text.
        with(("x", "a\r\ntransfer-encoding: chunked")),
        with(("x", "a\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a")),
        with(("x", "a\nb")),
        with(("x", "a\0b")),
        with(("x\r\ny", "a")),
        with(("x: y", "a")),
        with(("x y", "a")),
        with(("X-Upper", "a")),
        with(("", "a")),
        with(("content-length", "+1")),
        with(("content-length", "1, 1")),
        with(("content-length", "1")),
        // Fields of the request's own.
        with((":path", "/smuggled")),
        with((":method", "POST")),
        with((":protocol", "websocket")),
        with((":status", "200")),
        with((":unknown", "a")),
        [&[("x", "a")], &plain[..]].concat(),
        without(":method"),
        without(":path"),
        without(":scheme"),
        replaced(":path", ""),
        replaced(":path", "app"),
        replaced(":path", "/app HTTP/1.1\r\nx: y"),
        replaced(":path", "/app smuggled"),
        replaced(":path", "/app\0"),
        replaced(":method", "GET /smuggled HTTP/1.1\r\nx:"),
        replaced(":method", "GE T"),
        replaced(":method", ""),
        replaced(":scheme", "https://a/smuggled?"),
        replaced(":authority", "a b"),
        replaced(":authority", "user@localhost"),
        replaced(":authority", "localhost\r\nx: y"),
        replaced(":authority", "localhost/smuggled"),
        [replaced(":authority", "a.example"), vec![("host", "b.example")]].concat(),
        [plain.clone(), vec![("host", "localhost"), ("host", "localhost")]].concat(),
        [without(":authority"), vec![("host", "a"), ("host", "b")]].concat(),
    ];
    for fields in cases {
        let mut frames = scene.frames(&[]).await;
        frames.say(frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(&fields))).await;
        let refusal = |frame: &Frame| frame.reset().or(frame.goaway()).or(frame.status().map(u32::from));
        let refused = frames.hear(refusal).await;
        assert!(refused == PROTOCOL_ERROR || refused == 400, "{fields:?}: {refused}");
        assert_eq!(scene.asked(), 0, "{fields:?}");
    }
    assert_eq!(scene.good_client().await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_little_at_a_time_gets_all_of_its_image() {
    let scene = scene(|config| config.server.timeouts.write = KEPT).await;
    let mut frames = scene.frames(&[(INITIAL_WINDOW_SIZE, 200)]).await;
    frames.say(get(1, &image())).await;
    let mut read = 0;
    while read < jpeg().len() {
        read += frames.hear(|frame| (frame.kind == DATA).then_some(frame.payload.len())).await;
        // All ten together are longer than the connection would go on if nothing of it were read.
        tokio::time::sleep(KEPT / 4).await;
        frames.say(frame(WINDOW_UPDATE, 0, 1, &200u32.to_be_bytes())).await;
    }
    assert_eq!(read, jpeg().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_stops_is_reset_and_the_others_go_on() {
    let scene = scene_with(Answer::of(200, "Cache-Control: max-age=604800\r\n", &jpeg().repeat(200)), |config| {
        config.server.timeouts.write = KEPT;
    })
    .await;
    let mut frames = scene.frames(&[(INITIAL_WINDOW_SIZE, 1000)]).await;
    frames.say(get(1, "/app")).await;
    assert_eq!(frames.hear(Frame::reset).await, CANCELLED);
    // Longer than a connection goes on of which nothing is read.
    tokio::time::sleep(4 * KEPT).await;
    frames.say(frame(HEADERS, END_STREAM | END_HEADERS, 3, &block(&request("HEAD", &image())))).await;
    assert_eq!(frames.hear(|frame| (frame.stream == 3).then_some(frame.kind)).await, HEADERS);
}

/// An app whose every byte the test says itself, behind a listener that speaks HTTP/2.
async fn before_app(change: impl FnOnce(&mut Config)) -> (App, Authority) {
    let authority = Authority::new();
    authority.install();
    let app = App::with(|config| {
        authority.configure(config);
        change(config);
    })
    .await;
    (app, authority)
}

/// A request whose body is to come.
fn upload(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, 1, &block(&[&request("POST", "/app"), fields].concat()))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_not_of_its_length_is_refused_and_never_whole_at_the_app() {
    let (app, authority) = before_app(|_| {}).await;
    let of_four = upload(&[("content-length", "4")]);
    let smuggled = b"bodyGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    let cases = [
        ("longer", [of_four.clone(), frame(DATA, 0, 1, smuggled)].concat()),
        ("longer in two", [&of_four[..], &frame(DATA, 0, 1, b"bo"), &frame(DATA, 0, 1, smuggled)].concat()),
        ("longer by an end", [&of_four[..], &frame(DATA, 0, 1, b"bod"), &frame(DATA, END_STREAM, 1, b"yG")].concat()),
        ("shorter", [of_four.clone(), frame(DATA, END_STREAM, 1, b"bo")].concat()),
        ("shorter with trailers", [&of_four[..], &frame(DATA, 0, 1, b"bo"), &trailers()].concat()),
    ];
    for (what, bytes) in cases {
        let mut frames = Frames::open(&authority, app.proxy.tls(), &[]).await;
        frames.say(bytes).await;
        assert_eq!(frames.hear(|frame| frame.reset().or(frame.goaway())).await, PROTOCOL_ERROR, "{what}");
        // The app may have been connected to; what it saw of the message never ends.
        if let Some(mut behind) = app.queued().await {
            let seen = rest_of(&mut behind).await;
            let (_, body) = seen.split_once("\r\n\r\n").unwrap_or(("", ""));
            assert!(body.len() < 4 && "body".starts_with(body), "{what}: {seen}");
        }
    }
}

/// A field behind a body.
fn trailers() -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(&[("x-trailer", "a")]))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_heeds_no_window_is_refused() {
    let (app, authority) = before_app(|_| {}).await;
    let mut frames = Frames::open(&authority, app.proxy.tls(), &[]).await;
    frames.say(upload(&[])).await;
    // The app reads nothing; its socket holds some megabytes before we do.
    let piece = [frame(DATA, 0, 1, &[b'x'; 16 * 1024]), frame(PING, 0, 0, b"seen it?")].concat();
    for _ in 0..2000 {
        frames.say(&piece).await;
        let refused = |frame: &Frame| frame.reset().or(frame.goaway());
        let told = frames.hear(|frame| refused(frame).map(Some).or((frame.kind == PING).then_some(None))).await;
        if let Some(reason) = told {
            return assert_eq!(reason, FLOW_CONTROL_ERROR);
        }
    }
    panic!("all of it was taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_byte_by_byte_that_nobody_reads_is_cut_off() {
    let (app, authority) = before_app(|_| {}).await;
    let frames = Frames::open(&authority, app.proxy.tls(), &[]).await;
    let piece = frame(DATA, 0, 1, b"x").repeat(1000);
    let next = move |n| if n == 0 { upload(&[]) } else { piece.clone() };
    let (said, heard) = frames.insist(1000, next).await;
    assert_eq!((said < 70, goaway(&heard)), (true, Some(ENHANCE_YOUR_CALM)), "{said}: {heard:?}");
}
