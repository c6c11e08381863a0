//! Plays WeChat: `qrcode/create` and `showqrcode` as they are documented, with its headers, its error codes and its way
//! of reading a query, which is why a ticket that was not encoded, or encoded twice, is unknown to it. Knows only what it
//! issued itself. An `access_token` is looked at and forgotten.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use percent_encoding::percent_decode;
use serde::{Deserialize, Serialize};
use serde_json::error::Category;

use super::issued::{Issue, Issued, OutOfTickets, Scene, Term};
use super::loopback;
use super::qr;
use crate::clock::Clock;
use crate::moment::Wall;
use crate::server::small::Answers;
use crate::ticket::Ticket;

/// Where tickets are made.
pub const CREATE: &str = "/cgi-bin/qrcode/create";
/// Where their pictures are.
pub const SHOW: &str = "/cgi-bin/showqrcode";

/// 30 days, the longest life of a temporary ticket.
const LONGEST_LIFE: u32 = 2_592_000;
/// What a temporary ticket lives when nobody says.
const DEFAULT_LIFE: u32 = 60;
/// The highest `scene_id` of a permanent ticket.
const HIGHEST_PERMANENT: u32 = 100_000;
/// Characters of a `scene_str`.
const LONGEST_SCENE: usize = 64;

/// How long WeChat says its pictures keep, whatever the ticket says.
const WEEK: Duration = Duration::from_secs(604_800);
/// WeChat writes `Expires` in its local time, which no RFC date has.
const BEIJING: Duration = Duration::from_secs(8 * 3600);

/// WeChat, played.
#[derive(Debug)]
pub struct StandIn {
    clock: Clock,
    issued: Mutex<Issued>,
    create_calls: AtomicU64,
    image_calls: AtomicU64,
}

/// The calls that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Calls {
    /// For a ticket.
    pub create: u64,
    /// For a picture.
    pub image: u64,
}

/// What WeChat objects to. Told with status 200.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Objection {
    Token,
    NotGet,
    NotPost,
    NoBody,
    TooLong,
    NotJson,
    ActionName,
    ActionInfo,
    OutOfTickets,
}

/// The body of `qrcode/create`.
#[derive(Debug, Deserialize)]
struct Asked {
    #[serde(default)]
    action_name: String,
    expire_seconds: Option<u32>,
    action_info: ActionInfo,
}

#[derive(Debug, Deserialize)]
struct ActionInfo {
    scene: AskedScene,
}

#[derive(Debug, Deserialize)]
struct AskedScene {
    scene_id: Option<u32>,
    scene_str: Option<String>,
}

#[derive(Debug, Serialize)]
struct Created<'a> {
    ticket: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expire_seconds: Option<u32>,
    url: &'a str,
}

impl StandIn {
    /// One that has not issued anything.
    pub fn new(clock: Clock) -> Self {
        let (create_calls, image_calls) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { clock, issued: Mutex::default(), create_calls, image_calls }
    }

    /// The calls so far.
    pub fn calls(&self) -> Calls {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Calls { create: read(&self.create_calls), image: read(&self.image_calls) }
    }

    /// A permanent ticket to try things with.
    pub fn example(&self) -> Ticket {
        let scene = Scene::Text("example".to_owned());
        let issue = self.issued().issue(scene, &Term::Permanent, self.clock.now().wall);
        let ticket = issue.expect("the first ticket is within the bound").ticket;
        Ticket::from_text(&ticket).expect("the ticket is well formed")
    }

    async fn create(&self, request: Request<Incoming>) -> Result<String, Objection> {
        self.create_calls.fetch_add(1, Ordering::Relaxed);
        if request.method() != Method::POST {
            return Err(Objection::NotPost);
        }
        if form_value(request.uri().query(), "access_token").is_none_or(|token| token.is_empty()) {
            return Err(Objection::Token);
        }
        let body = loopback::read(request.into_body()).await.ok_or(Objection::TooLong)?;
        let (scene, term) = wanted(&body)?;
        let issue = self.issued().issue(scene, &term, self.clock.now().wall)?;
        Ok(created(&issue, &term))
    }

    fn show(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        self.image_calls.fetch_add(1, Ordering::Relaxed);
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return self.json(Objection::NotGet.told());
        }
        let now = self.clock.now().wall;
        let ticket = form_value(request.uri().query(), "ticket").unwrap_or_default();
        let url = self.issued().url(&ticket, now).map(str::to_owned);
        match url.and_then(|url| qr::draw(&url)) {
            Some(jpeg) => image(jpeg, now),
            None => self.unknown(),
        }
    }

    fn json(&self, text: String) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::from(text));
        *response.headers_mut() = server_fields(self.clock.now().wall);
        let kind = HeaderValue::from_static("application/json; encoding=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }

    /// An empty body without a type, as such failures were seen.
    fn unknown(&self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::NOT_FOUND;
        *response.headers_mut() = server_fields(self.clock.now().wall);
        response
    }

    fn issued(&self) -> MutexGuard<'_, Issued> {
        self.issued.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answers for StandIn {
    type Body = Full<Bytes>;
    const GUESTS: &'static str = "the stand-in";

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        match request.uri().path() {
            CREATE => self.json(self.create(request).await.unwrap_or_else(Objection::told)),
            SHOW => self.show(&request),
            _ => self.unknown(),
        }
    }
}

/// The first value of `name`, form-decoded once: `+` is a space.
fn form_value(query: Option<&str>, name: &str) -> Option<String> {
    let mut pairs = query?.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(found, _)| *found == name)?;
    let spaced = value.replace('+', " ");
    percent_decode(spaced.as_bytes()).decode_utf8().ok().map(Into::into)
}

fn wanted(body: &[u8]) -> Result<(Scene, Term), Objection> {
    if body.is_empty() {
        return Err(Objection::NoBody);
    }
    let asked: Asked = serde_json::from_slice(body).map_err(|error| match error.classify() {
        Category::Data => Objection::ActionInfo,
        _ => Objection::NotJson,
    })?;
    let scene = asked.action_info.scene;
    match asked.action_name.as_str() {
        "QR_SCENE" => Ok((scene.id(u32::MAX)?, temporary(asked.expire_seconds)?)),
        "QR_STR_SCENE" => Ok((scene.text()?, temporary(asked.expire_seconds)?)),
        "QR_LIMIT_SCENE" => Ok((scene.id(HIGHEST_PERMANENT)?, Term::Permanent)),
        "QR_LIMIT_STR_SCENE" => Ok((scene.text()?, Term::Permanent)),
        _ => Err(Objection::ActionName),
    }
}

fn temporary(life: Option<u32>) -> Result<Term, Objection> {
    let life = life.unwrap_or(DEFAULT_LIFE);
    (1..=LONGEST_LIFE).contains(&life).then_some(Term::Temporary(life)).ok_or(Objection::ActionInfo)
}

impl AskedScene {
    fn id(self, highest: u32) -> Result<Scene, Objection> {
        self.scene_id.filter(|id| (1..=highest).contains(id)).map(Scene::Id).ok_or(Objection::ActionInfo)
    }

    fn text(self) -> Result<Scene, Objection> {
        let fits = |text: &String| (1..=LONGEST_SCENE).contains(&text.chars().count());
        self.scene_str.filter(fits).map(Scene::Text).ok_or(Objection::ActionInfo)
    }
}

/// Slashes are escaped, as in the documented answer.
fn created(issue: &Issue, term: &Term) -> String {
    let expire_seconds = match term {
        Term::Temporary(seconds) => Some(*seconds),
        Term::Permanent => None,
    };
    let created = Created { ticket: &issue.ticket, expire_seconds, url: &issue.url };
    serde_json::to_string(&created).expect("texts and a number are JSON").replace('/', "\\/")
}

fn image(jpeg: Vec<u8>, now: Wall) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(jpeg));
    let expires = date(now + WEEK + BEIJING).replace("GMT", "+0800");
    let fields = [
        (header::CONTENT_TYPE, HeaderValue::from_static("image/jpg")),
        (header::CONNECTION, HeaderValue::from_static("keep-alive")),
        (header::EXPIRES, HeaderValue::try_from(expires).expect("dates are visible ASCII")),
        (header::CACHE_CONTROL, HeaderValue::from_static("max-age=604800")),
        (header::ACCEPT_RANGES, HeaderValue::from_static("bytes")),
    ];
    *response.headers_mut() = server_fields(now);
    response.headers_mut().extend(fields);
    response
}

fn server_fields(now: Wall) -> HeaderMap {
    let date = HeaderValue::try_from(date(now)).expect("dates are visible ASCII");
    HeaderMap::from_iter([(header::SERVER, HeaderValue::from_static("nginx/1.4.1")), (header::DATE, date)])
}

fn date(at: Wall) -> String {
    httpdate::fmt_http_date(SystemTime::from(at))
}

impl Objection {
    const fn code(self) -> (i32, &'static str) {
        match self {
            Self::Token => (40001, "invalid credential, access_token is invalid or not latest"),
            Self::NotGet => (43001, "require GET method"),
            Self::NotPost => (43002, "require POST method"),
            Self::NoBody => (44002, "empty post data"),
            Self::TooLong => (45002, "content size out of limit"),
            Self::NotJson => (47001, "data format error"),
            Self::ActionName => (40052, "invalid action name"),
            Self::ActionInfo => (40053, "invalid action info"),
            Self::OutOfTickets => (45029, "qrcode count out of limit"),
        }
    }

    fn told(self) -> String {
        let (errcode, errmsg) = self.code();
        serde_json::json!({ "errcode": errcode, "errmsg": errmsg }).to_string()
    }
}

impl From<OutOfTickets> for Objection {
    fn from(OutOfTickets: OutOfTickets) -> Self {
        Self::OutOfTickets
    }
}
