//! The small app behind the demo's proxy: a page with codes on it. It asks for tickets as an app would, through the relay, and
//! writes them into its `<img>` tags in the ways that apps do. Its policy lets the browser load nothing but the pictures.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::issued::older;
use super::loopback;
use super::stand_in::{CREATE, SHOW};
use crate::clock::Clock;
use crate::inline::Inline;
use crate::moment::Wall;
use crate::server::small::Answers;
use crate::ticket::{Validity, mint};

const PAGE: &str = include_str!("page.html");
const ICON: &str = include_str!("../admin/icon.svg");

/// A week and two minutes: what the ticket's `+` needs, and longer than WeChat lets its pictures be kept.
const LASTING: u32 = 604_920;
/// The app asks for a new lasting ticket when the old one is so old, a day before its end.
const RENEW: Duration = Duration::from_secs(6 * 24 * 3600);
/// Of the code that dies while one looks at it.
const BRIEF: u32 = 30;
/// WeChat never issued it.
const UNKNOWN: &str = "http://weixin.qq.com/q/NeverIssuedByAnybody";
/// For one call of the stand-in.
const PATIENCE: Duration = Duration::from_secs(10);

const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const SVG: HeaderValue = HeaderValue::from_static("image/svg+xml");
const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// What the live view shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// Image requests answered from the cache.
    pub hits: u64,
    /// Image requests for which the origin was asked or a fill was joined.
    pub misses: u64,
    /// Requests over a budget.
    pub refused: u64,
    /// Pictures that the stand-in was asked for.
    pub origin_images: u64,
    /// Tickets that the stand-in was asked for.
    pub origin_creates: u64,
}

/// Reads the figures.
pub type Read = Arc<dyn Fn() -> Figures + Send + Sync>;

/// The app.
pub struct Page {
    relay: SocketAddr,
    calls: Client<HttpConnector, Full<Bytes>>,
    lasting: Mutex<Option<Lasting>>,
    clock: Clock,
    read: Read,
    inline: Inline,
}

/// A ticket that is shown until it is a day from its end, so that a reload finds its picture in the cache.
#[derive(Debug, Clone)]
struct Lasting {
    ticket: String,
    renew: Wall,
}

#[derive(Debug, Deserialize)]
struct Created {
    ticket: Option<String>,
    errcode: Option<i64>,
}

/// Why there is no ticket to show.
#[derive(Debug)]
enum NoTicket {
    Unreachable,
    Unreadable,
    Refused(i64),
}

impl Page {
    /// The app that asks for its tickets through `relay`.
    pub fn new(relay: SocketAddr, clock: Clock, read: Read) -> Self {
        let calls = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build_http();
        Self { relay, calls, lasting: Mutex::default(), clock, read, inline: Inline::of(PAGE) }
    }

    async fn page(&self, headers: &HeaderMap) -> Response<Full<Bytes>> {
        match self.write().await {
            Ok(text) => {
                let mut page = answer(StatusCode::OK, HTML, text);
                page.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy(&self.inline, port(headers)));
                page
            }
            Err(error) => answer(StatusCode::BAD_GATEWAY, PLAIN, format!("{error}\n")),
        }
    }

    async fn write(&self) -> Result<String, NoTicket> {
        let lasting = self.lasting().await?;
        let permanent = self.create(&permanent("door")).await?;
        let brief = self.create(&temporary(BRIEF, "login")).await?;
        let unknown = mint(UNKNOWN, self.clock.now().wall, Validity::Permanent).expect("so short a url fits");
        let values = [
            ("{{bare}}", target(&lasting)),
            ("{{encoded}}", target(&encode(&lasting))),
            ("{{twice}}", target(&encode(&encode(&lasting)))),
            ("{{permanent}}", target(&encode(&permanent))),
            ("{{brief}}", target(&encode(&brief))),
            ("{{brief-seconds}}", BRIEF.to_string()),
            ("{{broken}}", target(&encode(&older(&unknown)))),
        ];
        Ok(values.iter().fold(PAGE.to_owned(), |page, (name, value)| page.replace(name, value)))
    }

    async fn lasting(&self) -> Result<String, NoTicket> {
        let mut kept = self.lasting.lock().await;
        let now = self.clock.now().wall;
        if let Some(lasting) = kept.as_ref().filter(|lasting| now < lasting.renew) {
            return Ok(lasting.ticket.clone());
        }
        let ticket = self.create(&temporary(LASTING, "poster")).await?;
        *kept = Some(Lasting { ticket: ticket.clone(), renew: now + RENEW });
        Ok(ticket)
    }

    async fn create(&self, body: &Value) -> Result<String, NoTicket> {
        let uri = format!("http://{}{CREATE}?access_token=demo", self.relay);
        let request = Request::post(uri).body(Full::from(body.to_string())).expect("an address makes a URI");
        let call = timeout(PATIENCE, self.calls.request(request)).await;
        let response = call.map_err(|_| NoTicket::Unreachable)?.map_err(|_| NoTicket::Unreachable)?;
        let body = loopback::read(response.into_body()).await.ok_or(NoTicket::Unreadable)?;
        let created: Created = serde_json::from_slice(&body).map_err(|_| NoTicket::Unreadable)?;
        created.ticket.ok_or(created.errcode.map_or(NoTicket::Unreadable, NoTicket::Refused))
    }
}

impl Answers for Page {
    type Body = Full<Bytes>;
    const GUESTS: &'static str = "the demo's page";

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refusal = answer(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "the demo takes GET and HEAD\n");
            refusal.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refusal;
        }
        match request.uri().path() {
            "/" => self.page(request.headers()).await,
            "/demo/figures" => {
                answer(StatusCode::OK, JSON, serde_json::to_string(&(self.read)()).expect("numbers are JSON"))
            }
            "/demo/icon.svg" => answer(StatusCode::OK, SVG, ICON),
            _ => answer(StatusCode::NOT_FOUND, PLAIN, "the demo's page is at /\n"),
        }
    }
}

/// The poster's picture comes from the other name of this machine, hence from another origin.
fn policy(inline: &Inline, port: u16) -> HeaderValue {
    let field = inline.policy(&format!("'self' http://localhost:{port} http://127.0.0.1:{port}"));
    HeaderValue::try_from(field).expect("hashes and a number are visible ASCII")
}

fn answer(status: StatusCode, kind: HeaderValue, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    let fields = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    *response.headers_mut() = HeaderMap::from_iter(fields);
    response
}

/// The port by which the browser reached the proxy, which may not be ours when something maps ports.
fn port(headers: &HeaderMap) -> u16 {
    let host = headers.get(header::HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
    host.and_then(|host| host.port_u16()).unwrap_or(80)
}

fn temporary(seconds: u32, scene: &str) -> Value {
    json!({
        "expire_seconds": seconds,
        "action_name": "QR_STR_SCENE",
        "action_info": { "scene": { "scene_str": scene } },
    })
}

fn permanent(scene: &str) -> Value {
    json!({ "action_name": "QR_LIMIT_STR_SCENE", "action_info": { "scene": { "scene_str": scene } } })
}

fn target(ticket: &str) -> String {
    format!("{SHOW}?ticket={ticket}")
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

impl fmt::Display for NoTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable => f.write_str("the stand-in for WeChat does not answer"),
            Self::Unreadable => f.write_str("the stand-in for WeChat answered something that is no ticket"),
            Self::Refused(code) => write!(f, "the stand-in for WeChat gives no ticket: errcode {code}"),
        }
    }
}
