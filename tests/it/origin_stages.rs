//! An origin that fails in the middle of things: at each stage of an exchange there is a bound, a word for what went wrong, nothing
//! stored, and a ticket that is free for the next who asks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use ticketgate::config::Config;
use ticketgate::fault::Faults;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::support::origin::{Answer, Origin, Then, jpeg, read_head};
use crate::support::proxy::Proxy;
use crate::support::{eventually, tickets};

/// Of every deadline below; what an origin drips comes more often.
const SHORT: Duration = Duration::from_millis(200);
const DRIP: Duration = Duration::from_millis(10);

/// An origin whose connections are all `converse`'s.
async fn origin<F>(converse: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(converse(stream));
        }
    });
    address
}

/// An origin that reads a request and goes on with `begin`, and then `more` for ever, so often.
async fn endless(begin: &[u8], more: &[u8], every: Duration) -> SocketAddr {
    let (begin, more): (Arc<[u8]>, Arc<[u8]>) = (begin.into(), more.into());
    origin(move |mut stream| {
        let (begin, more) = (Arc::clone(&begin), Arc::clone(&more));
        async move {
            stream.set_nodelay(true).unwrap();
            read_head(&mut stream, &mut Vec::new()).await;
            let mut written = stream.write_all(&begin).await;
            while written.is_ok() {
                tokio::time::sleep(every).await;
                written = stream.write_all(&more).await;
            }
        }
    })
    .await
}

fn before(url: &str, change: impl FnOnce(&mut Config)) -> Proxy {
    Proxy::configured(Faults::default(), |config| {
        config.origin.url = url.parse().unwrap();
        change(config);
    })
}

/// Asks once, is told `reason`, and nothing is left of it.
async fn fails(proxy: &Proxy, status: u16, reason: &str) {
    let answer = proxy.image(&tickets::permanent(1)).await;
    assert_eq!(answer.status, status, "{reason}: {}", answer.cache_status());
    assert!(answer.cache_status().ends_with(&format!("detail={reason}")), "{reason}: {}", answer.cache_status());
    assert!(answer.header("proxy-status").is_some() && answer.header("cache-control") == Some("no-store"), "{reason}");
    let reading = proxy.running.reading();
    assert_eq!((reading.fills, reading.image_entries, reading.waiting_for_fills), (0, 0, 0), "{reason}");
}

/// Nobody takes connections there: its queue is full.
async fn black_hole() -> (SocketAddr, Vec<TcpStream>, Socket) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut queued = Vec::new();
    while let Ok(connected) = timeout(SHORT, TcpStream::connect(address)).await {
        queued.push(connected.unwrap());
    }
    (address, queued, socket)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_takes_no_connection_or_no_handshake_is_waited_for_only_so_long() {
    let patience = |config: &mut Config| config.origin.connect_timeout = SHORT;
    let (nowhere, _queued, _socket) = black_hole().await;
    fails(&before(&format!("http://{nowhere}"), patience), 504, "connect-timeout").await;

    let silent = origin(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    fails(&before(&format!("https://{silent}"), patience), 504, "connect-timeout").await;

    // A record of a handshake that never comes to its end.
    let dripping = origin(|mut stream| async move {
        let mut written = stream.write_all(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc").await;
        while written.is_ok() {
            tokio::time::sleep(DRIP).await;
            written = stream.write_all(b"\0").await;
        }
    })
    .await;
    fails(&before(&format!("https://{dripping}"), patience), 504, "connect-timeout").await;

    let no_tls = origin(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    fails(&before(&format!("https://{no_tls}"), patience), 502, "tls-handshake").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_drips_or_never_ends_is_left_however_steadily_something_comes() {
    let whole = "HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n";
    let with = |field: &str, body: &[u8]| [whole.as_bytes(), field.as_bytes(), b"\r\n\r\n", body].concat();
    let chunked = |body: &[u8]| with("Transfer-Encoding: chunked", body);
    let interim: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
    let (large, fields, chunks) = (vec![b'a'; 64 * 1024], b"X: y\r\n".repeat(1000), b"8\r\naaaaaaaa\r\n".repeat(1000));
    let at_once = Duration::ZERO;
    let cases = [
        (Vec::new(), &b"H"[..], DRIP, 504, "first-byte-timeout"),
        (b"HTTP/1.1 200 OK\r\nX-Long: ".to_vec(), &b"a"[..], DRIP, 504, "first-byte-timeout"),
        (Vec::new(), interim, DRIP, 504, "first-byte-timeout"),
        (b"HTTP/1.1 200 OK\r\nX-Long: ".to_vec(), &large[..], at_once, 502, "malformed"),
        (b"HTTP/1.1 200 OK\r\n".to_vec(), &fields[..], at_once, 502, "malformed"),
        (with("Content-Length: 2000", &jpeg()[..100]), &b"a"[..], DRIP, 504, "fill-timeout"),
        (chunked(b"2\r\n\xff\xd8\r\n"), &b"1\r\na\r\n"[..], DRIP, 504, "fill-timeout"),
        (with("Content-Length: 9999999999", &jpeg()), &large[..], at_once, 502, "too-large"),
        (chunked(b""), &chunks[..], at_once, 502, "too-large"),
        (chunked(b"1;"), &large[..], at_once, 502, "cut"),
        (chunked(b"0\r\nX-Long: "), &large[..], at_once, 502, "cut"),
    ];
    for (begin, more, every, status, reason) in cases {
        let text = String::from_utf8_lossy(&begin).into_owned();
        let proxy = before(&format!("http://{}", endless(&begin, more, every).await), |config| {
            // Whatever else ends has long deadlines: it is the cap that ends it.
            match reason {
                "first-byte-timeout" => config.origin.first_byte_timeout = SHORT,
                "fill-timeout" => config.origin.fill_timeout = 2 * SHORT,
                _ => {}
            }
            config.cache.max_image = 64 * 1024;
        });
        let told = timeout(Duration::from_secs(10), fails(&proxy, status, reason)).await;
        assert!(told.is_ok(), "it does not end: {reason} of {text:?}");
    }
}

/// An origin that sends `image` and `forged` behind it, for each request; in one piece, or when the image has been read. Tells how
/// many of its connections were closed on it.
async fn forging(image: &[u8], forged: &[u8], at_once: bool) -> (SocketAddr, Arc<AtomicUsize>) {
    let (image, forged): (Arc<[u8]>, Arc<[u8]>) = (image.into(), forged.into());
    let closed = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&closed);
    let address = origin(move |mut stream| {
        let (image, forged, count) = (Arc::clone(&image), Arc::clone(&forged), Arc::clone(&count));
        async move {
            let mut unread = Vec::new();
            while read_head(&mut stream, &mut unread).await.is_some() {
                if at_once {
                    let _ = stream.write_all(&[&image[..], &forged].concat()).await;
                } else {
                    let _ = stream.write_all(&image).await;
                    tokio::time::sleep(2 * DRIP).await;
                    let _ = stream.write_all(&forged).await;
                }
            }
            count.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    (address, closed)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_behind_an_answer_is_nobodys_answer() {
    let forged =
        Answer::of(200, "Content-Type: image/gif\r\nCache-Control: max-age=60\r\n", b"GIF89a: another's").bytes;
    let fields = "Content-Type: image/jpeg\r\nCache-Control: max-age=60\r\n";
    let good = Answer::of(200, fields, &jpeg()).bytes;
    // Half of it is all that its length speaks of: the other half is the first of what comes behind.
    let short = [&Answer::of(200, fields, &jpeg()[..1000]).bytes[..], &jpeg()[1000..]].concat();
    for (image, length, at_once) in [(&good, 2000, true), (&good, 2000, false), (&short, 1000, true)] {
        let (address, closed) = forging(image, &forged, at_once).await;
        let proxy = before(&format!("http://{address}"), |_| {});
        for number in 0..10 {
            let answer = proxy.image(&tickets::permanent(number)).await;
            assert_eq!((answer.status, &*answer.body), (200, &jpeg()[..length]), "{length} {at_once} {number}");
            let is_closed = || closed.load(Ordering::SeqCst) == number as usize + 1;
            eventually("a connection that says more than it was asked for is closed", is_closed).await;
        }
        for number in 0..10 {
            assert_eq!(proxy.image(&tickets::permanent(number)).await.body, jpeg()[..length]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lengths_that_are_none_or_disagree_are_no_answer() {
    // Where chunks are not the last coding, the body ends with the connection: a cut would be taken for an image.
    let fields = [
        "Content-Length: 2000\r\nContent-Length: 1000",
        "Content-Length: 2000, 1000",
        "Content-Length: -2000",
        "Content-Length: +2000",
        "Content-Length: 0x7d0",
        "Content-Length: two thousand",
        "Content-Length:",
        "Content-Length: 99999999999999999999999",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: identity\r\nContent-Length: 2000",
        "Transfer-Encoding: chunked, identity",
    ];
    for field in fields {
        let bytes = [b"HTTP/1.1 200 OK\r\n", field.as_bytes(), b"\r\n\r\n", &jpeg()].concat();
        let origin = Origin::answering(Answer::raw(bytes, Then::Close)).await;
        let proxy = Proxy::before(&origin);
        let answer = proxy.image(&tickets::permanent(1)).await;
        assert_eq!(
            (answer.status, proxy.running.reading().image_entries),
            (502, 0),
            "{field}: {}",
            answer.cache_status()
        );
        assert_ne!(answer.header("content-type"), Some("image/jpeg"), "{field}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_at_any_stage_is_a_502_and_the_next_who_asks_is_shown_the_image() {
    let whole = Answer::image().bytes;
    for sent in [0, 1, 12, 30, 100, 130, 1000, whole.len() - 1] {
        let first = Answer::raw(&whole[..sent], Then::Reset);
        let origin = Origin::start(move |number, _| if number == 0 { first.clone() } else { Answer::image() }).await;
        let proxy = Proxy::before(&origin);
        fails(&proxy, 502, "cut").await;
        assert_eq!(proxy.image(&tickets::permanent(1)).await.status, 200, "{sent}");
        assert_eq!(origin.count(), 2, "{sent}: a new connection that breaks is not tried again");
    }
    // Before a byte of the request was read.
    let first = AtomicBool::new(true);
    let address = origin(move |mut stream| {
        let resets = first.swap(false, Ordering::SeqCst);
        async move {
            if resets {
                #[allow(deprecated, reason = "a zero linger is how a reset is sent")]
                stream.set_linger(Some(Duration::ZERO)).unwrap();
                return;
            }
            read_head(&mut stream, &mut Vec::new()).await;
            let _ = stream.write_all(&Answer::image().bytes).await;
        }
    })
    .await;
    let proxy = before(&format!("http://{address}"), |_| {});
    // It may break before it counts as made.
    assert_eq!(proxy.image(&tickets::permanent(1)).await.status, 502);
    assert_eq!(proxy.image(&tickets::permanent(1)).await.status, 200);
}

/// As good as random, and the same in every run.
fn rubbish(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let length = usize::try_from(next() % 600).unwrap();
    // Some are damaged answers, which come further.
    let mut bytes = if seed.is_multiple_of(2) { Answer::image().bytes } else { vec![0; length] };
    let damages = if seed.is_multiple_of(2) { 1 + seed % 5 } else { length as u64 };
    for damage in 0..damages {
        let at = if seed.is_multiple_of(2) {
            usize::try_from(next() % 150).unwrap()
        } else {
            usize::try_from(damage).unwrap()
        };
        bytes[at] = next().to_le_bytes()[0];
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn rubbish_is_never_an_image_and_never_stops_anything() {
    const PIECES: u32 = 300;
    let origin = Origin::start(|number, _| Answer::raw(rubbish(number as u64), Then::Close)).await;
    let proxy = Proxy::with(&origin, |config| {
        (config.limits.client_misses, config.limits.client_requests) = (None, None);
        config.origin.fill_timeout = 10 * SHORT;
    });
    for number in 0..PIECES {
        let answer = proxy.image(&tickets::permanent(number)).await;
        let is_image = answer.header("content-type").is_some_and(|kind| kind.starts_with("image/"));
        assert!(!is_image || answer.body.starts_with(b"\xff\xd8\xff"), "{number}: {:?}", answer.headers);
        // Past the circuit and a pause that a damaged answer may ask for.
        proxy.hands.advance(Duration::from_secs(60));
    }
    assert_eq!((origin.count(), proxy.running.reading().fills), (300, 0));
    assert_eq!(proxy.running.metrics().panics.get(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_flaps_never_blanks_an_image_that_is_held() {
    let answer = |number: usize, _: &str| match number {
        _ if number.is_multiple_of(2) => Answer::image_with("Cache-Control: max-age=1\r\n"),
        _ if number % 4 == 1 => Answer::raw("", Then::Reset),
        _ => Answer::of(500, "", b""),
    };
    let origin = Origin::start(answer).await;
    let proxy = Proxy::before(&origin);
    let held = tickets::permanent(0);
    assert_eq!(proxy.image(&held).await.status, 200);
    let mut refused = 0;
    for number in 1..60 {
        proxy.hands.advance(Duration::from_secs(5));
        refused += usize::from(proxy.image(&tickets::permanent(number)).await.status != 200);
        let answer = proxy.image(&held).await;
        assert_eq!((answer.status, answer.body), (200, jpeg()), "{number}");
        eventually("the refresh ends", || proxy.running.reading().fills == 0).await;
        assert!(!proxy.running.reading().circuit_open, "never twenty in a row");
    }
    assert!((10..50).contains(&refused), "it flapped: {refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_is_down_for_days_blanks_no_image_and_is_found_again_within_seconds() {
    const IMAGES: u32 = 30;
    let (down, ask) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (is_down, asked) = (Arc::clone(&down), Arc::clone(&ask));
    let origin = Origin::start(move |_, _| {
        asked.fetch_add(1, Ordering::SeqCst);
        let down = Answer::raw("", Then::Reset);
        if is_down.load(Ordering::SeqCst) { down } else { Answer::image_with("Cache-Control: max-age=60\r\n") }
    })
    .await;
    let proxy = Proxy::with(&origin, |config| config.limits.client_requests = None);
    for number in 0..IMAGES {
        assert_eq!(proxy.image(&tickets::permanent(number)).await.status, 200);
    }
    let (temporary, life) = (tickets::temporary(IMAGES, Duration::from_secs(86_400)), Duration::from_secs(86_400));
    assert_eq!(proxy.image(&temporary).await.status, 200);
    down.store(true, Ordering::SeqCst);
    let (hour, hours) = (Duration::from_secs(3600), 72);
    let before = ask.load(Ordering::SeqCst);
    for passed in 1..=hours {
        proxy.hands.advance(hour);
        for number in 0..IMAGES {
            let answer = proxy.image(&tickets::permanent(number)).await;
            assert_eq!((answer.status, answer.body), (200, jpeg()), "hour {passed}");
        }
        let lives = passed * hour < life;
        let status = proxy.image(&temporary).await.status;
        assert!((status == 200) == lives, "hour {passed}: {status}");
        eventually("the refreshes end", || proxy.running.reading().fills == 0).await;
    }
    let calls = ask.load(Ordering::SeqCst) - before;
    assert!((hours as usize..=hours as usize * 2 + 20).contains(&calls), "twenty, and a probe now and then: {calls}");
    assert!(proxy.running.reading().circuit_open);

    down.store(false, Ordering::SeqCst);
    let mut waited = 0;
    while proxy.image(&tickets::permanent(IMAGES + 1)).await.status != 200 {
        proxy.hands.advance(Duration::from_secs(1));
        waited += 1;
    }
    assert!(waited <= 5 && !proxy.running.reading().circuit_open, "{waited} s until the first fresh image");
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_have_a_budget() {
    // The second request on each connection meets a close before any byte.
    let asked = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&asked);
    let address = origin(move |mut stream| {
        let count = Arc::clone(&count);
        async move {
            let mut unread = Vec::new();
            for answer in [&*Answer::image().bytes, b""] {
                read_head(&mut stream, &mut unread).await;
                count.fetch_add(1, Ordering::SeqCst);
                let _ = stream.write_all(answer).await;
            }
        }
    })
    .await;
    let proxy = before(&format!("http://{address}"), |config| config.limits.client_misses = None);
    let mut images = 0;
    for number in 0..100 {
        images += usize::from(proxy.image(&tickets::permanent(number)).await.status == 200);
    }
    let retries = asked.load(Ordering::SeqCst) - 100;
    assert!((10..=20).contains(&retries), "ten in hand, and one for ten answers: {retries}");
    assert!((50..100).contains(&images), "{images}");
}
