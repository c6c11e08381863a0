//! HTTPS towards the origin: a private authority is believed when it is named, a wrong name and an unknown authority are
//! not (S12).

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response, Version, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tempfile::TempDir;
use ticketgate::fault::Faults;
use ticketgate::relay::Host;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::support::client::Connection;
use crate::support::origin::jpeg;
use crate::support::proxy::Proxy;
use crate::support::relay::Relay;
use crate::support::tickets;
use crate::support::tls::{Authority, HTTP_1, HTTP_2};

struct TlsOrigin {
    address: SocketAddr,
    ca_file: PathBuf,
    seen: Arc<Seen>,
    _authority: Authority,
}

#[derive(Default)]
struct Seen {
    requests: Mutex<Vec<Asked>>,
    connections: AtomicUsize,
}

/// All of one request.
#[derive(Debug, Clone, PartialEq)]
struct Asked {
    version: Version,
    line: String,
    fields: Vec<(String, String)>,
    body: Bytes,
}

impl TlsOrigin {
    fn count(&self) -> usize {
        self.seen.requests.lock().unwrap().len()
    }

    fn requests(&self) -> Vec<Asked> {
        self.seen.requests.lock().unwrap().clone()
    }

    fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// A proxy before this origin, which it reaches at `port`.
    fn proxy_by(&self, port: u16) -> Proxy {
        Proxy::configured(Faults::default(), |config| {
            config.origin.url = format!("https://localhost:{port}").parse().unwrap();
            config.origin.ca_file = Some(self.ca_file.clone());
        })
    }
}

/// An origin whose certificate is for `name`, with an authority of its own.
async fn tls_origin(name: &str, alpn: &[&[u8]]) -> TlsOrigin {
    let authority = Authority::new();
    let ca_file = authority.ca_file();

    let acceptor = authority.acceptor(name, alpn);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(Seen::default());
    tokio::spawn(serve(listener, acceptor, Arc::clone(&seen)));
    TlsOrigin { address, ca_file, seen, _authority: authority }
}

/// Speaks what was negotiated.
async fn serve(listener: TcpListener, acceptor: TlsAcceptor, seen: Arc<Seen>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seen));
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            seen.connections.fetch_add(1, Ordering::SeqCst);
            let second = stream.get_ref().1.alpn_protocol() == Some(HTTP_2);
            let stream = TokioIo::new(stream);
            let service = service_fn(move |request| answer(request, Arc::clone(&seen)));
            let _ = if second {
                http2::Builder::new(TokioExecutor::new()).serve_connection(stream, service).await
            } else {
                http1::Builder::new().serve_connection(stream, service).await
            };
        });
    }
}

async fn answer(request: Request<Incoming>, seen: Arc<Seen>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let text = |value: &http::HeaderValue| value.to_str().unwrap().to_owned();
    let asked = Asked {
        version: head.version,
        line: format!("{} {}", head.method, head.uri),
        fields: head.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
        body: body.collect().await.unwrap().to_bytes(),
    };
    seen.requests.lock().unwrap().push(asked);
    Ok(Response::builder().header(header::CACHE_CONTROL, "max-age=604800").body(Full::from(jpeg())).unwrap())
}

async fn status(origin: &TlsOrigin, host: &str, ca_file: Option<PathBuf>) -> (u16, String) {
    let proxy = Proxy::configured(Faults::default(), |config| {
        config.origin.url = format!("https://{host}:{}", origin.address.port()).parse().unwrap();
        config.origin.ca_file = ca_file;
    });
    let answer = proxy.image(&tickets::permanent(1)).await;
    (answer.status, answer.cache_status().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_of_a_named_authority_is_believed() {
    let origin = tls_origin("localhost", &[HTTP_1]).await;
    let (status, cache) = status(&origin, "localhost", Some(origin.ca_file.clone())).await;
    assert_eq!((status, cache.as_str()), (200, "ticketgate; fwd=uri-miss; fwd-status=200; stored"));
    assert_eq!(origin.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_for_another_name_is_refused() {
    let origin = tls_origin("other.example", &[HTTP_1]).await;
    let (status, cache) = status(&origin, "localhost", Some(origin.ca_file.clone())).await;
    assert_eq!((status, cache.as_str()), (502, "ticketgate; fwd=uri-miss; detail=certificate"));
    assert_eq!(origin.count(), 0, "nothing was said to a stranger");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_authority_is_refused() {
    let origin = tls_origin("localhost", &[HTTP_1]).await;
    let (status, cache) = status(&origin, "localhost", None).await;
    assert_eq!((status, cache.as_str()), (502, "ticketgate; fwd=uri-miss; detail=certificate"));
    assert_eq!(origin.count(), 0);
}

/// S11, as HTTP/2 carries it: `Host` is `:authority`.
fn template(ticket: &str, authority: &str, via: &str) -> Asked {
    let agent = concat!("ticketgate/", env!("CARGO_PKG_VERSION"));
    let fields =
        [("user-agent", agent), ("accept", "image/*, */*;q=0.1"), ("accept-encoding", "identity"), ("via", via)];
    Asked {
        version: Version::HTTP_2,
        line: format!("GET https://{authority}{}", tickets::target(ticket)),
        fields: fields.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        body: Bytes::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_2_every_origin_request_equals_the_template_too() {
    let origin = tls_origin("localhost", &[HTTP_2]).await;
    let proxy = origin.proxy_by(origin.address.port());
    let ticket = tickets::permanent(1);
    let headers = "Cookie: a=b\r\nReferer: http://shop.example/\r\nTE: trailers\r\nX-Forwarded-Host: evil.example\r\n";
    let answer = proxy.get_with(&format!("{}&access_token=SECRET", tickets::target(&ticket)), headers).await;
    assert_eq!((answer.status, answer.body), (200, jpeg()));
    let requests = origin.requests();
    let (_, via) = requests[0].fields.iter().find(|(name, _)| name == "via").expect("our hop");
    assert!(via.starts_with("1.1 ticketgate (") && via.len() == "1.1 ticketgate (0123456789abcdef)".len(), "{via}");
    assert_eq!(requests, [template(&ticket, &format!("localhost:{}", origin.address.port()), via)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_origin_chooses_the_version_and_one_connection_serves_many_tickets() {
    let choices = [
        (&[HTTP_1][..], Version::HTTP_11),
        (&[], Version::HTTP_11),
        (&[HTTP_2], Version::HTTP_2),
        (&[HTTP_1, HTTP_2], Version::HTTP_11),
        (&[HTTP_2, HTTP_1], Version::HTTP_2),
    ];
    for (offered, version) in choices {
        let origin = tls_origin("localhost", offered).await;
        let proxy = origin.proxy_by(origin.address.port());
        for number in 0..5 {
            assert_eq!(proxy.image(&tickets::permanent(number)).await.status, 200, "{offered:?}");
        }
        assert!(origin.requests().iter().all(|asked| asked.version == version), "{offered:?}");
        // One of HTTP/1.1 may still be on its way back to the pool when the next ticket comes.
        let most = if version == Version::HTTP_2 { 1 } else { 4 };
        assert!(origin.connections() <= most, "{offered:?}: {}", origin.connections());
        assert_eq!(origin.count(), 5, "{offered:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_went_silent_is_given_up() {
    let origin = tls_origin("localhost", &[HTTP_2]).await;
    let relay = Relay::to(origin.address).await;
    let proxy = origin.proxy_by(relay.address.port());
    assert_eq!(proxy.image(&tickets::permanent(1)).await.status, 200);
    relay.dead.send_replace(1);
    // Whether this one can still be saved depends on what the connection had carried.
    proxy.image(&tickets::permanent(2)).await;
    assert_eq!(proxy.image(&tickets::permanent(3)).await.status, 200);
    assert_eq!(origin.connections(), 2);
}

#[test]
fn a_ca_file_without_a_certificate_is_an_error_at_start() {
    let directory = TempDir::new().unwrap();
    let empty = directory.path().join("ca.pem");
    std::fs::write(&empty, "no certificate").unwrap();
    let mut config = ticketgate::config::Config::default();
    config.server.listen = Some("127.0.0.1:0".parse().unwrap());
    config.admin.listen = None;
    config.origin.ca_file = Some(empty);
    let error = ticketgate::app::App::bind(config, ticketgate::app::Surroundings::default()).err().expect("an error");
    assert!(error.to_string().contains("origin.ca_file"), "{error}");
}

/// A call of the relay whose API is this origin, and what came of it.
async fn relayed(origin: &TlsOrigin, ca_file: Option<PathBuf>) -> (u16, String) {
    let proxy = Proxy::configured(Faults::default(), |config| {
        let url = format!("https://localhost:{}", origin.address.port()).parse().unwrap();
        config.relay.listen = Some("127.0.0.1:0".parse().unwrap());
        config.relay.url = Host::of(&url).unwrap();
        config.origin.ca_file = ca_file;
    });
    let mut app = Connection::open(proxy.relay()).await;
    let fields = "Host: relay\r\nConnection: keep-alive\r\nX-Mine: 1\r\nContent-Length: 2\r\n\r\n{}";
    app.send(format!("POST /cgi-bin/qrcode/create?access_token=a%2F HTTP/1.1\r\n{fields}")).await;
    let answer = app.response().await.unwrap();
    (answer.status, answer.header("proxy-status").unwrap_or("").to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_relay_believes_whom_the_origin_would_and_speaks_what_the_api_speaks() {
    for (alpn, version) in [(HTTP_1, Version::HTTP_11), (HTTP_2, Version::HTTP_2)] {
        let origin = tls_origin("localhost", &[alpn]).await;
        assert_eq!(relayed(&origin, Some(origin.ca_file.clone())).await, (200, String::new()));
        let asked = origin.requests().remove(0);
        assert_eq!((asked.version, &asked.body[..]), (version, &b"{}"[..]));
        assert!(asked.line.ends_with("/cgi-bin/qrcode/create?access_token=a%2F"), "{}", asked.line);
        let field = |name: &str| asked.fields.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str());
        assert_eq!((field("x-mine"), field("content-length"), field("connection")), (Some("1"), Some("2"), None));
        let host = (version == Version::HTTP_11).then(|| format!("localhost:{}", origin.address.port()));
        assert_eq!(field("host"), host.as_deref());
    }
    let stranger = tls_origin("localhost", &[HTTP_1]).await;
    let error = "ticketgate; error=tls_certificate_error; details=\"certificate\"";
    assert_eq!(relayed(&stranger, None).await, (502, error.to_owned()));
    assert_eq!(stranger.count(), 0, "no token is told to a stranger");
}
