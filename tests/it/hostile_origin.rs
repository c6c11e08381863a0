//! Origins, pages and caches that would have us keep or show what is no image of that ticket (S3, S11, S15, S17).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ticketgate::config::Config;
use ticketgate::fault::Faults;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::support::client::Response;
use crate::support::origin::{Answer, Origin, jpeg, read_head};
use crate::support::proxy::Proxy;
use crate::support::{eventually, tickets};

const SHORT: Duration = Duration::from_millis(300);

/// An origin that begins with `head` and then says `piece`, every `pause`, for as long as somebody listens.
struct Endless {
    proxy: Proxy,
    said: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
}

impl Endless {
    async fn saying(head: &'static [u8], piece: Vec<u8>, pause: Duration, change: impl FnOnce(&mut Config)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (said, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (counted, over) = (Arc::clone(&said), Arc::clone(&ended));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                read_head(&mut stream, &mut Vec::new()).await;
                let _ = stream.write_all(head).await;
                while stream.write_all(&piece).await.is_ok() {
                    counted.fetch_add(piece.len(), Ordering::SeqCst);
                    tokio::time::sleep(pause).await;
                }
                over.fetch_add(1, Ordering::SeqCst);
            }
        });
        let proxy = Proxy::configured(Faults::default(), |config| {
            config.origin.url = url.parse().unwrap();
            change(config);
        });
        Self { proxy, said, ended }
    }

    /// What a client is told, when the origin has been left.
    async fn outcome(&self) -> (u16, String) {
        let answer = self.proxy.image(&tickets::permanent(1)).await;
        eventually("the origin is left", || self.ended.load(Ordering::SeqCst) == 1).await;
        assert_eq!(self.proxy.running.reading().image_entries, 0);
        (answer.status, answer.cache_status().rsplit_once("detail=").unwrap_or_default().1.to_owned())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_never_ends_is_left_at_its_cap_and_nothing_of_it_is_kept() {
    let chunk = [&b"4000\r\n"[..], &[0xff; 0x4000], b"\r\n"].concat();
    let begun =
        b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n\xff\xd8\xff\r\n";
    let long =
        b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: 18446744073709551615\r\n\r\n\xff\xd8\xff";
    let refused = b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n";
    let cases: [(&'static [u8], Vec<u8>, u16); 5] = [
        (begun, chunk.clone(), 502),
        (long, chunk.clone(), 502),
        (refused, chunk, 404),
        (
            b"HTTP/1.1 200 OK\r\n",
            b"X-Filler: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n".repeat(100),
            502,
        ),
        (b"HTTP/1.1 200 OK\r\nX-Filler: ", vec![b'y'; 10_000], 502),
    ];
    for (head, piece, status) in cases {
        // With the deadlines as they are shipped: it is the cap that ends it.
        let endless = Endless::saying(head, piece, Duration::ZERO, |_| {}).await;
        let (told, reason) = endless.outcome().await;
        let head = String::from_utf8_lossy(head);
        assert_eq!(told, status, "{head}: {reason}");
        let said = endless.said.load(Ordering::SeqCst);
        assert!(said < 16 * 1024 * 1024, "{head}: {said} bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_only_promises_answers_is_too_slow() {
    let hint = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
    let endless = Endless::saying(b"", hint.to_vec(), Duration::from_millis(5), |config| {
        config.origin.first_byte_timeout = SHORT;
    })
    .await;
    assert_eq!(endless.outcome().await, (504, "first-byte-timeout".to_owned()));
}

/// A proxy that holds an image, with an app behind it that says what it is.
async fn before_app() -> (Origin, Origin, Proxy) {
    let origin = Origin::answering(Answer::image()).await;
    let app = Origin::answering(Answer::of(200, "Content-Type: text/plain\r\n", b"the app")).await;
    let proxy = Proxy::with(&origin, |config| config.forward.app = Some(app.url().parse().unwrap()));
    assert_eq!(proxy.image(&tickets::permanent(1)).await.status, 200);
    (origin, app, proxy)
}

/// A cache in front of us that goes by endings, or that tidies paths, must never take the one for the other.
#[tokio::test(flavor = "multi_thread")]
async fn no_path_but_the_one_is_an_image_and_none_leads_a_page_into_the_cache() {
    let (origin, app, proxy) = before_app().await;
    let ticket = tickets::encode(&tickets::permanent(1));
    let paths = [
        "/cgi-bin/showqrcode/",
        "/cgi-bin/showqrcode/x.css",
        "/cgi-bin/showqrcode.jpg",
        "/cgi-bin/showqrcode;x=.css",
        "/cgi-bin/showqrcode%3F.css",
        "/cgi-bin/showqrcode%23.css",
        "/cgi-bin/showqrcode%00.css",
        "/cgi-bin/showqrcode%0A.css",
        "/cgi-bin/showqrcode%2F",
        "/cgi-bin/showqrcode/%2e%2e/account",
        "/cgi-bin/../cgi-bin/showqrcode",
        "/cgi-bin/./showqrcode",
        "/cgi-bin//showqrcode",
        "//cgi-bin/showqrcode",
        "/./cgi-bin/showqrcode",
        "/cgi-bin%2Fshowqrcode",
        "/%63gi-bin/showqrcode",
        "/cgi-bin/showqrcod%65",
        "/CGI-BIN/showqrcode",
        "/cgi-bin\\showqrcode",
        "/account/../cgi-bin/showqrcode",
        "/account%2F..%2Fcgi-bin%2Fshowqrcode",
    ];
    for path in paths {
        let answer = proxy.get(&format!("{path}?ticket={ticket}")).await;
        assert_eq!(answer.text(), "the app", "{path}");
        assert_eq!(answer.header("cache-status"), None, "{path}");
        let seen = app.heads().pop().unwrap();
        assert!(seen.starts_with(&format!("GET {path}?ticket=")), "{path} became {seen}");
    }
    assert_eq!((origin.count(), app.count()), (1, paths.len()));
    assert_eq!(proxy.running.reading().image_entries, 1);
}

/// An answer without what differs from one to the next.
fn constant(answer: Response) -> (Vec<(String, String)>, Vec<u8>) {
    let passing = ["date", "age", "x-request-id", "expires", "cache-status"];
    let fields = answer.headers.into_iter().filter(|(name, _)| !passing.contains(&name.as_str())).collect();
    (fields, answer.body)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_request_that_filled_the_cache_is_shown_to_the_next() {
    let hostile = [
        "X-Forwarded-Host: evil.example\r\nX-Host: evil.example\r\nForwarded: host=evil.example\r\n",
        "X-Forwarded-Proto: http\r\nX-Forwarded-Scheme: nothttps\r\nX-Forwarded-Port: 1\r\n",
        "X-Original-URL: /account\r\nX-Rewrite-URL: /account\r\nX-HTTP-Method-Override: POST\r\n",
        "Origin: https://evil.example\r\nReferer: https://evil.example/\r\n",
        "Range: bytes=0-1\r\nIf-Range: \"x\"\r\n",
        "If-None-Match: *\r\nIf-Modified-Since: Thu, 01 Jan 2099 00:00:00 GMT\r\n",
        "Accept: text/html\r\nAccept-Encoding: gzip, br\r\nAccept-Language: x\r\nCookie: a=b\r\n",
        "X-Request-Id: evil\r\nTraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n",
        "Cache-Control: no-store\r\nPragma: no-cache\r\nSurrogate-Control: no-store\r\nCDN-Cache-Control: no-store\r\n",
        "Connection: close, Cache-Control, ETag\r\nTE: trailers\r\nUpgrade: h2c\r\n",
    ];
    let origin = Origin::answering(Answer::image_with("Cache-Control: max-age=60\r\nETag: \"a\"\r\n")).await;
    let plain = Proxy::before(&origin).image(&tickets::permanent(1)).await;
    assert_eq!(plain.body, jpeg());
    let plain = constant(plain);
    for headers in hostile {
        for target in ["", "&download=evil.html"] {
            let proxy = Proxy::before(&origin);
            let image = tickets::target(&tickets::permanent(1));
            proxy.get_with(&format!("{image}{target}"), headers).await;
            let before = origin.count();
            assert_eq!(constant(proxy.get(&image).await), plain, "{headers}");
            assert_eq!(origin.count(), before, "a hit: {headers}");
        }
    }
}
