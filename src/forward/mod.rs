//! The app behind us: whatever is no image is its to answer. Both bodies stream with back-pressure; nothing is cached.

pub mod config;
mod connect;
mod fields;
pub mod hop;
mod upgrade;
mod via;

use std::error::Error as StdError;
use std::time::Duration;

pub use config::Config;
use connect::Connector;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client as Pool, Error as PoolError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use upgrade::Upgrade;
pub use via::Via;

use crate::body::Body;
use crate::body::timed::{BodyError, TimedBody};
use crate::body::tunnel::Tunnel;
use crate::outbound::{self, Unanswered};
use crate::peer::Peer;
use crate::respond;

/// Shorter than the keep-alive of common app servers (Node: 5 s), so that we rarely meet a closing connection.
const POOL_IDLE: Duration = Duration::from_secs(4);

/// Connections that one thread keeps for later.
const MOST_IDLE: usize = 64;

const CHUNKED: HeaderValue = HeaderValue::from_static("chunked");

/// The way to the app. Each worker thread has its own: pooled connections live where they were opened.
pub struct Forward {
    pool: Pool<Connector, TimedBody>,
    app: Authority,
    first_byte_timeout: Duration,
    tunnel_idle: Duration,
    via: Via,
}

/// Why the app gave no answer.
#[derive(Debug)]
pub enum ForwardFailure {
    /// No connection.
    Unreachable(PoolError),
    /// The answer did not begin in time.
    TooSlow(Duration),
    /// The connection was there, and broke before the answer began.
    Lost(PoolError),
    /// The client's own body stopped coming.
    BodyOverdue,
    /// The client's own body is not what its framing promised.
    BodyBroken,
    /// The request target makes no sense to forward.
    BadTarget,
    /// It switched protocols, which was not asked of it, or to another one.
    Switched,
}

impl Forward {
    /// The way to the app of `config`, if there is one.
    pub fn new(config: &Config, via: Via) -> Option<Self> {
        let app = config.app.as_ref()?.authority()?.clone();
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(config.connect_timeout));
        connector.set_nodelay(true);
        let pool = Pool::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(MOST_IDLE)
            .set_host(false)
            .build(Connector(connector));
        let Config { first_byte_timeout, tunnel_idle, .. } = *config;
        Some(Self { pool, app, first_byte_timeout, tunnel_idle, via })
    }

    /// Sends `request` on and returns the app's answer as it begins; the body of a 101 is the tunnel that follows it.
    /// Dropping the future closes the app's connection.
    pub async fn send(
        &self,
        mut request: Request<TimedBody>,
        peer: Peer,
        trusted: bool,
    ) -> Result<Response<Body>, ForwardFailure> {
        let Some(upgrade) = Upgrade::wished(&mut request) else {
            let response = self.exchange(request, peer, trusted, None).await?;
            return if is_switch(&response) {
                Err(ForwardFailure::Switched)
            } else {
                Ok(finish(response).map(Body::App))
            };
        };
        let unread = request.body().unread().clone();
        let answered = self.exchange(request, peer, trusted, Some(&upgrade)).await;
        let tunnel = match answered {
            Ok(response) if is_switch(&response) => self.tunnel(response, upgrade),
            other => other.map(|response| finish(response).map(Body::App)),
        };
        if !tunnel.as_ref().is_ok_and(is_switch) {
            // What the client may have sent already was meant for the other protocol, and is no request.
            unread.leave();
        }
        tunnel
    }

    fn tunnel(&self, mut response: Response<Incoming>, upgrade: Upgrade) -> Result<Response<Body>, ForwardFailure> {
        let protocol = upgrade.granted(response.headers()).ok_or(ForwardFailure::Switched)?;
        let app = hyper::upgrade::on(&mut response);
        let mut response = finish(response);
        upgrade::write(response.headers_mut(), protocol);
        let tunnel = Tunnel::new(upgrade.into_client(), app, self.tunnel_idle);
        Ok(response.map(|_| Body::Tunnel(Box::new(tunnel))))
    }

    async fn exchange(
        &self,
        mut request: Request<TimedBody>,
        peer: Peer,
        trusted: bool,
        upgrade: Option<&Upgrade>,
    ) -> Result<Response<Incoming>, ForwardFailure> {
        let host = self.host(request.uri());
        // HTTP/1.0 may leave it out, and HTTP/1.1 to the app may not.
        request.headers_mut().entry(header::HOST).or_insert(host);
        hop::strip(request.headers_mut());
        if !request.body().is_end_stream() && !request.headers().contains_key(header::CONTENT_LENGTH) {
            // Said aloud, since hyper drops the body of a GET otherwise.
            request.headers_mut().insert(header::TRANSFER_ENCODING, CHUNKED);
        }
        if let Some(upgrade) = upgrade {
            upgrade.repeat(request.headers_mut());
        }
        fields::introduce(request.headers_mut(), peer, trusted);
        self.via.sign(request.headers_mut());
        *request.uri_mut() = self.target(request.uri())?;
        *request.version_mut() = Version::HTTP_11;
        let again = once_more(&request);
        match (self.attempt(request).await, again) {
            // The app was closing the connection that it had kept: the known race of every pool.
            (Err(Unanswered::Lost(error)), Some(again)) if connect::died_idle(&error) => self.attempt(again).await,
            (sent, _) => sent,
        }
        .map_err(|unanswered| self.failure(unanswered))
    }

    async fn attempt(&self, mut request: Request<TimedBody>) -> Result<Response<Incoming>, Unanswered> {
        let body = request.body_mut().watch();
        outbound::send(&self.pool, request, self.first_byte_timeout, || Some(body.at())).await
    }

    fn failure(&self, unanswered: Unanswered) -> ForwardFailure {
        match unanswered {
            Unanswered::TooSlow => ForwardFailure::TooSlow(self.first_byte_timeout),
            Unanswered::Lost(error) => ForwardFailure::of(error),
        }
    }

    /// For a request that names no host.
    fn host(&self, asked: &Uri) -> HeaderValue {
        let authority = asked.authority().unwrap_or(&self.app);
        HeaderValue::try_from(authority.as_str()).expect("an authority is visible ASCII")
    }

    /// The request target never chooses where we connect.
    fn target(&self, asked: &Uri) -> Result<Uri, ForwardFailure> {
        let path = asked.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let uri = Uri::builder().scheme(Scheme::HTTP).authority(self.app.clone()).path_and_query(path);
        uri.build().map_err(|_| ForwardFailure::BadTarget)
    }
}

/// The same request again, when it may be sent twice: it asks for nothing to be done, and its body is none.
fn once_more(request: &Request<TimedBody>) -> Option<Request<TimedBody>> {
    let harmless = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let is_plain = !request.headers().contains_key(header::UPGRADE) && request.body().is_end_stream();
    (harmless && is_plain).then(|| {
        let mut again = Request::new(TimedBody::nothing());
        *again.method_mut() = request.method().clone();
        *again.uri_mut() = request.uri().clone();
        *again.headers_mut() = request.headers().clone();
        again
    })
}

fn is_switch<B>(response: &Response<B>) -> bool {
    response.status() == StatusCode::SWITCHING_PROTOCOLS
}

/// Makes the app's answer ours to give.
fn finish(mut response: Response<Incoming>) -> Response<Incoming> {
    hop::strip(response.headers_mut());
    response.headers_mut().append(header::VIA, via::ANSWERS);
    *response.version_mut() = Version::HTTP_11;
    response
}

impl ForwardFailure {
    fn of(error: PoolError) -> Self {
        let mut cause = error.source();
        while let Some(link) = cause {
            match link.downcast_ref::<BodyError>() {
                Some(BodyError::Overdue(_)) => return Self::BodyOverdue,
                Some(BodyError::Broken(_)) => return Self::BodyBroken,
                None => cause = link.source(),
            }
        }
        if error.is_connect() { Self::Unreachable(error) } else { Self::Lost(error) }
    }

    /// The word for logs and metrics.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "app-unreachable",
            Self::TooSlow(_) => "app-too-slow",
            Self::Lost(_) => "app-lost",
            Self::BodyOverdue => "body-overdue",
            Self::BodyBroken => "body-broken",
            Self::BadTarget => "bad-target",
            Self::Switched => "app-switched-protocols",
        }
    }

    /// What the client is told.
    pub fn response(&self, method: &Method) -> Response<Body> {
        let (status, error) = match self {
            Self::Unreachable(_) => (StatusCode::BAD_GATEWAY, Some("connection_refused")),
            Self::TooSlow(_) => (StatusCode::GATEWAY_TIMEOUT, Some("http_response_timeout")),
            Self::Lost(_) => (StatusCode::BAD_GATEWAY, Some("connection_terminated")),
            Self::BodyOverdue => (StatusCode::REQUEST_TIMEOUT, None),
            Self::BodyBroken | Self::BadTarget => (StatusCode::BAD_REQUEST, None),
            Self::Switched => (StatusCode::BAD_GATEWAY, Some("http_upgrade_failed")),
        };
        let mut response = respond::text(method, status, &self.to_string());
        let headers = response.headers_mut();
        if let Some(error) = error {
            let value = format!("ticketgate; error={error}; details=\"{}\"", self.reason());
            headers.insert(
                HeaderName::from_static("proxy-status"),
                HeaderValue::try_from(value).expect("tokens are visible ASCII"),
            );
        } else {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl std::fmt::Display for ForwardFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unreachable(_) => "the app behind this proxy cannot be reached",
            Self::TooSlow(_) => "the app behind this proxy did not answer in time",
            Self::Lost(_) => "the app behind this proxy closed the connection before it answered",
            Self::BodyOverdue => "the request body stopped coming",
            Self::BodyBroken => "the request body is not framed as HTTP wants it; check Content-Length or the chunks",
            Self::BadTarget => "the request target cannot be forwarded",
            Self::Switched => "the app behind this proxy switched to a protocol that nobody asked for",
        })
    }
}

impl StdError for ForwardFailure {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Unreachable(cause) | Self::Lost(cause) => Some(cause),
            _ => None,
        }
    }
}
