//! The relay: apps make their calls of WeChat's API through us, and from the answers to `qrcode/create` we learn which tickets
//! are the app's own and when they end (S33–S35). Requests and answers pass byte for byte; all that changes is the connection's
//! own fields, `Host`, and `Via` on the way there. On a listener of its own, for the app alone.
//!
//! The `access_token` in the query never leaves `target::SecretTarget` but in the request to the API.

mod api;
pub mod config;
pub(crate) mod created;
mod failure;
mod lent;
mod record;
mod target;

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use api::{Api, Call};
use arc_swap::ArcSwap;
use bytes::Bytes;
pub use config::{Config, Forwarded, Host};
use created::Created;
use failure::Failure;
use http::{Method, Request, Response, StatusCode, Version, header, request, response};
use http_body::Body as _;
use http_body_util::{BodyExt, Either, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use lent::Home;
pub use record::Books;
use record::Record;
use target::SecretTarget;
use tokio::time::timeout;

use crate::arrival::REQUEST_ID;
use crate::body::counted::Counted;
use crate::body::timed::{TimedBody, Unread};
use crate::body::{Body, whole};
use crate::cache::freshness::Exchange;
use crate::exchange::Records;
use crate::fault::Stage;
use crate::forward::hop;
use crate::metrics::Source;
use crate::origin;
use crate::outbound::BadCaFile;
use crate::proxy::Shared;
use crate::server::drain::Drain;
use crate::server::small::{self, Answers, Mishaps, Room};
use crate::ticket::Ticket;

/// Connections at once: the threads of an app, or of a few.
const ROOM: Room = Room { all: 512, per_address: 512 };

/// Bytes of a body of `qrcode/create`, and of its answer; WeChat's own have a few hundred.
const MOST_BYTES: usize = 64 * 1024;

/// An answer: ours or one that was read, or one that streams.
type Answer = Either<Body, Counted<TimedBody>>;

/// Relays calls.
pub struct Relay {
    api: Api,
    forwarded: Forwarded,
    prefetch: bool,
    /// `timeouts.body`: for the body of a `qrcode/create` to come whole, and between two pieces of any other.
    body_timeout: Duration,
    /// For a whole exchange about a ticket.
    exchange_timeout: Duration,
    /// Between two pieces of an answer that streams.
    piece_timeout: Duration,
    shared: Arc<ArcSwap<Shared>>,
    records: Arc<Records>,
    books: Arc<Books>,
}

/// The relay in force: another may take its place between two calls.
pub struct Current(ArcSwap<Relay>);

impl Current {
    /// `relay`, for now.
    pub fn new(relay: Relay) -> Self {
        Self(ArcSwap::from_pointee(relay))
    }

    /// Puts `relay` in its place; calls under way end by the one they began with.
    pub fn replace(&self, relay: Relay) {
        self.0.store(Arc::new(relay));
    }
}

impl Answers for Current {
    type Body = Answer;
    const GUESTS: &'static str = "the app at the relay";

    async fn answer(&self, request: Request<Incoming>) -> Response<Answer> {
        self.0.load_full().answer(request).await
    }
}

/// What came of a call.
struct Relayed {
    response: Response<Answer>,
    ticket: Option<Ticket>,
}

/// Serves `relay` on `listener` until `drain`; returns how many connections were cut then.
pub async fn serve(relay: Arc<Current>, listener: TcpListener, mishaps: Mishaps, drain: Drain) -> io::Result<usize> {
    small::serve_until(relay, listener, ROOM, mishaps, drain).await
}

impl Relay {
    /// The relay of `config`, under the deadlines and the trust of `origin`; apps may keep a body back for `body_timeout`.
    pub fn new(
        config: &Config,
        origin: &origin::Config,
        body_timeout: Duration,
        shared: Arc<ArcSwap<Shared>>,
        records: Arc<Records>,
        books: Arc<Books>,
    ) -> Result<Self, BadCaFile> {
        let (forwarded, prefetch) = (config.forward, config.prefetch);
        let (exchange_timeout, piece_timeout) = (origin.fill_timeout, origin.first_byte_timeout);
        let api = Api::new(config, origin)?;
        Ok(Self { api, forwarded, prefetch, body_timeout, exchange_timeout, piece_timeout, shared, records, books })
    }

    async fn answer(&self, mut request: Request<Incoming>) -> Response<Answer> {
        let _witness = self.books.metrics.witness();
        let target = SecretTarget::take(&mut request);
        let method = request.method().clone();
        let id = self.records.request_id(request.headers().get(REQUEST_ID));
        let record = Record::begin(&self.books, method.clone(), &target, request.headers(), id.clone());
        match self.relay(request, &target).await {
            Ok(Relayed { mut response, ticket }) => {
                let record = record.answered(response.status(), None, ticket.as_ref().map(Ticket::short));
                match response.body_mut() {
                    Either::Left(body) => record.sent(Source::Relay, body.size_hint().lower()),
                    Either::Right(stream) => stream.show(Box::new(record)),
                }
                response
            }
            Err(failure) => {
                let mut response = failure.response(&method);
                response.headers_mut().insert(REQUEST_ID, id);
                let record = record.answered(response.status(), Some(failure.reason()), None);
                record.sent(Source::Own, response.body().size_hint().lower());
                response.map(Either::Left)
            }
        }
    }

    async fn relay(&self, request: Request<Incoming>, target: &SecretTarget) -> Result<Relayed, Failure> {
        self.shared.load().faults.strike(Stage::Relay);
        if self.shared.load().via.is_loop(request.headers()) {
            return Err(Failure::Loop);
        }
        match (request.method(), target.is_create(), self.forwarded) {
            (&Method::CONNECT | &Method::TRACE, ..) => Err(Failure::NotAllowed),
            (&Method::POST, true, _) => self.create(request, target).await,
            (_, _, Forwarded::All) => self.pass(request, target).await,
            (_, true, Forwarded::Create) => Err(Failure::NotPost),
            (_, false, Forwarded::Create) => Err(Failure::NotRelayed),
        }
    }

    /// Both bodies are read whole: the request's before anything is sent, the answer's to be learned from.
    async fn create(&self, request: Request<Incoming>, target: &SecretTarget) -> Result<Relayed, Failure> {
        let (parts, body) = request.into_parts();
        let body = whole::read(body, MOST_BYTES, self.body_timeout).await?;
        let parts = self.outgoing(parts);
        let clock = self.shared.load().clock.clone();
        let asked = clock.now();
        let exchange = async {
            let call = |host: &Host| {
                let request = addressed(&parts, target, host, Either::Left(Full::new(body.clone())))?;
                Ok(Call { request, last_piece: None })
            };
            let (parts, body) = self.api.send(call).await?.into_parts();
            let answered = clock.now();
            Ok((parts, read_answer(body).await?, answered))
        };
        let exchanged = timeout(self.exchange_timeout, exchange).await;
        let (parts, body, answered) = exchanged.unwrap_or(Err(Failure::Unanswered(origin::Failure::FillTimeout)))?;
        if Created::is_coded(parts.status, &parts.headers) && !self.books.warned_of_coding.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                "nothing is learned from answers of qrcode/create that are packed as this one is: have the app offer gzip, or nothing"
            );
        }
        let created = Created::read(parts.status, &parts.headers, &body);
        if created.is_some() {
            let exchange = Exchange { asked, answered };
            self.shared.load().fills.origin().learn_skew(parts.status, &parts.headers, exchange);
        }
        let ticket = self.learn(created);
        Ok(Relayed { response: incoming(parts, Either::Left(Body::Bytes(body)))?, ticket })
    }

    /// Both bodies stream.
    async fn pass(&self, request: Request<Incoming>, target: &SecretTarget) -> Result<Relayed, Failure> {
        let (parts, body) = request.into_parts();
        let home = Home::of(TimedBody::new(body, self.body_timeout, Unread::default()));
        let parts = self.outgoing(parts);
        let call = |host: &Host| {
            let (body, last_piece) = home.lend().ok_or(Failure::BodyBroken)?;
            let request = addressed(&parts, target, host, Either::Right(body))?;
            Ok(Call { request, last_piece: Some(last_piece) })
        };
        let (parts, body) = self.api.send(call).await?.into_parts();
        let body = TimedBody::new(body, self.piece_timeout, Unread::default());
        Ok(Relayed { response: incoming(parts, Either::Right(Counted::new(body)))?, ticket: None })
    }

    /// The ticket that was made becomes own, and its image is fetched.
    fn learn(&self, created: Option<Created>) -> Option<Ticket> {
        let Created { ticket, lifetime } = created?;
        let shared = self.shared.load();
        shared.faults.strike(Stage::Learn);
        let fills = &shared.fills;
        fills.learn(&ticket, lifetime);
        self.books.metrics.tickets_learned.inc();
        if self.prefetch && !fills.is_over(&ticket) {
            fills.prefetch(&ticket);
        }
        Some(ticket)
    }

    /// The head as it goes to the API, whichever host it will be.
    fn outgoing(&self, mut parts: request::Parts) -> request::Parts {
        let headers = &mut parts.headers;
        hop::strip(headers);
        // The API's own, which the client writes from the URI.
        headers.remove(header::HOST);
        // Met here: the body is being read.
        headers.remove(header::EXPECT);
        self.shared.load().via.sign(headers, parts.version);
        parts
    }
}

/// The call as `host` gets it.
fn addressed<B>(parts: &request::Parts, target: &SecretTarget, host: &Host, body: B) -> Result<Request<B>, Failure> {
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = target.at(host).ok_or(Failure::BadTarget)?;
    *request.headers_mut() = parts.headers.clone();
    Ok(request)
}

/// The answer as the app gets it.
fn incoming(parts: response::Parts, body: Answer) -> Result<Response<Answer>, Failure> {
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Failure::Switched);
    }
    let mut response = Response::from_parts(parts, body);
    hop::strip(response.headers_mut());
    *response.version_mut() = Version::HTTP_11;
    *response.extensions_mut() = http::Extensions::new();
    Ok(response)
}

async fn read_answer(body: Incoming) -> Result<Bytes, Failure> {
    match Limited::new(body, MOST_BYTES).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Failure::AnswerTooLong),
        Err(_) => Err(Failure::Unanswered(origin::Failure::Cut)),
    }
}
