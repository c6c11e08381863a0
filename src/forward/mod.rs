//! The app behind us: whatever is no image is its to answer. Both bodies stream with back-pressure; nothing is cached.

pub mod config;
mod draft;
mod failure;
mod fields;
pub mod hop;
mod pool;
mod upgrade;

use std::sync::Arc;
use std::time::Duration;

pub use config::Config;
use draft::Draft;
pub use failure::ForwardFailure;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header, uri};
use http_body::Body as _;
use hyper::body::Incoming;
use pool::{Kept, Pool};
use tokio::time::Instant;
use upgrade::Upgrade;

use crate::body::counted::Counted;
use crate::body::timed::{TimedBody, Watch};
use crate::body::tunnel::Tunnel;
use crate::body::{Body, Held, Seat};
use crate::limit::{ClientHeader, Requests, UnderWay};
use crate::outbound::connect::ConnectError;
use crate::outbound::trouble::links;
use crate::outbound::{self, BadCaFile, trust};
use crate::peer::Peer;
use crate::route;
use crate::via::{self, Via};

/// Connections in a row that may close before a request was written to them.
const MOST_UNSENT: usize = 3;

/// The way to the app. Each worker thread has its own: pooled connections live where they were opened.
pub struct Forward {
    pool: Pool,
    app: uri::Authority,
    first_byte_timeout: Duration,
    tunnel_idle: Duration,
    via: Via,
}

/// Why no answer began.
enum Unanswered {
    Unconnected(ConnectError),
    TooSlow,
    /// The answer is coded for its transfer in a way that nobody asked for.
    Coded,
    /// Whether it certainly did nothing: the connection died idle, or the app refused the stream.
    Lost(hyper::Error, bool),
}

impl Forward {
    /// The way to the app of `config`, if there is one.
    pub fn new(config: &Config, via: Via) -> Result<Option<Self>, BadCaFile> {
        let Some((app, authority)) = config.app.as_ref().and_then(|app| Some((app, app.authority()?.clone()))) else {
            return Ok(None);
        };
        let tls = trust::client_config("forward.ca_file", config.ca_file.as_deref())?;
        let pool = Pool::new(app, tls, config.connect_timeout, config.first_byte_timeout);
        let Config { first_byte_timeout, tunnel_idle, .. } = *config;
        Ok(Some(Self { pool, app: authority, first_byte_timeout, tunnel_idle, via }))
    }

    /// Sends `request` on and returns the app's answer as it begins; the body of a 101 is the tunnel that follows it. It is one of
    /// `requests` until both bodies, or the tunnel, have ended. Dropping the future closes the app's connection.
    pub async fn send(
        &self,
        mut request: Request<TimedBody>,
        peer: Peer,
        believed: Option<ClientHeader>,
        requests: &Arc<Requests>,
    ) -> Result<Response<Body>, ForwardFailure> {
        let Some(upgrade) = Upgrade::wished(&mut request) else {
            let under_way = begin(requests, peer, &mut request)?;
            let (response, seat) = self.exchange(request, peer, believed, None).await?;
            return if is_switch(&response) {
                Err(ForwardFailure::Switched)
            } else {
                Ok(streamed(response, Held { under_way, seat }))
            };
        };
        let unread = request.body().unread().clone();
        let tunnel = match begin(requests, peer, &mut request) {
            Ok(under_way) => self.switch(request, upgrade, peer, believed, under_way).await,
            Err(failure) => Err(failure),
        };
        if !tunnel.as_ref().is_ok_and(is_switch) {
            // What the client may have sent already was meant for the other protocol, and is no request.
            unread.leave();
        }
        tunnel
    }

    /// Asks to switch protocols, and takes whatever the app makes of it.
    async fn switch(
        &self,
        request: Request<TimedBody>,
        upgrade: Upgrade,
        peer: Peer,
        believed: Option<ClientHeader>,
        under_way: UnderWay,
    ) -> Result<Response<Body>, ForwardFailure> {
        match self.exchange(request, peer, believed, Some(&upgrade)).await {
            Ok((response, _)) if is_switch(&response) => self.tunnel(response, upgrade, under_way),
            other => other.map(|(response, seat)| streamed(response, Held { under_way, seat })),
        }
    }

    fn tunnel(
        &self,
        mut response: Response<Incoming>,
        upgrade: Upgrade,
        under_way: UnderWay,
    ) -> Result<Response<Body>, ForwardFailure> {
        let protocol = upgrade.granted(response.headers()).ok_or(ForwardFailure::Switched)?;
        let app = hyper::upgrade::on(&mut response);
        let mut response = finish(response);
        upgrade::write(response.headers_mut(), protocol);
        let tunnel = Tunnel::new(upgrade.into_client(), app, self.tunnel_idle, under_way);
        Ok(response.map(|_| Body::Tunnel(Box::new(tunnel))))
    }

    async fn exchange(
        &self,
        mut request: Request<TimedBody>,
        peer: Peer,
        believed: Option<ClientHeader>,
        upgrade: Option<&Upgrade>,
    ) -> Result<(Response<Incoming>, Option<Seat>), ForwardFailure> {
        let draft = Draft::of(&mut request, &self.app, upgrade).ok_or(ForwardFailure::BadTarget)?;
        hop::strip(request.headers_mut());
        fields::introduce(request.headers_mut(), peer, believed);
        let version = request.version();
        self.via.sign(request.headers_mut(), version);
        let watch = request.body_mut().watch();
        let again = once_more(&request, upgrade);
        match (self.attempt(&draft, request, &watch, Kept::Too).await, again) {
            // The app was closing the connection that it had kept: the known race of every pool.
            (Err(Unanswered::Lost(_, true)), Some(again)) => self.attempt(&draft, again, &watch, Kept::Not).await,
            (sent, _) => sent,
        }
        .map_err(|unanswered| self.failure(unanswered, &watch))
    }

    /// Sends `request` once; over another connection when one closes before anything was written to it.
    async fn attempt(
        &self,
        draft: &Draft<'_>,
        mut request: Request<TimedBody>,
        watch: &Watch,
        kept: Kept,
    ) -> Result<(Response<Incoming>, Option<Seat>), Unanswered> {
        let mut unsent = 0;
        loop {
            let mut lease = self.pool.lease(draft.versions(), kept).await.map_err(Unanswered::Unconnected)?;
            draft.write(&mut request, lease.version());
            let connected = Instant::now();
            let quiet_since = || watch.last_piece().max(connected);
            let head = outbound::head(lease.send(request), quiet_since, self.first_byte_timeout).await;
            let mut failed = match head.ok_or(Unanswered::TooSlow)? {
                Ok(response) if route::is_coded(response.headers()) => return Err(Unanswered::Coded),
                Ok(response) => return Ok((response, lease.keep())),
                Err(failed) => failed,
            };
            match failed.take_message() {
                Some(back) if unsent < MOST_UNSENT => request = back,
                _ => {
                    let error = failed.into_error();
                    let harmless = lease.wire().died_idle() || was_refused(&error);
                    return Err(Unanswered::Lost(error, harmless));
                }
            }
            unsent += 1;
        }
    }

    fn failure(&self, unanswered: Unanswered, watch: &Watch) -> ForwardFailure {
        match (unanswered, watch.failure()) {
            (Unanswered::Unconnected(error), _) => ForwardFailure::unconnected(error),
            (Unanswered::TooSlow, _) => ForwardFailure::TooSlow(self.first_byte_timeout),
            (Unanswered::Coded, _) => ForwardFailure::Coded,
            (Unanswered::Lost(..), Some(failure)) => failure.into(),
            (Unanswered::Lost(error, _), None) if error.is_parse() => {
                ForwardFailure::Malformed(error.is_parse_too_large())
            }
            (Unanswered::Lost(error, _), None) => ForwardFailure::Lost(error),
        }
    }
}

/// Counts `request`, which came from `peer`, for as long as its body is held.
fn begin(requests: &Arc<Requests>, peer: Peer, request: &mut Request<TimedBody>) -> Result<UnderWay, ForwardFailure> {
    let under_way = requests.begin(peer.ip()).map_err(ForwardFailure::TooMany)?;
    request.body_mut().holds(under_way.clone());
    Ok(under_way)
}

/// Whether the app said of an HTTP/2 stream that it did nothing with it (RFC 9113 §8.7).
fn was_refused(error: &hyper::Error) -> bool {
    links(error)
        .filter_map(|link| link.downcast_ref::<h2::Error>())
        .any(|error| error.is_remote() && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM)))
}

/// The same request again, when it may be sent twice: it asks for nothing to be done, and its body is none.
fn once_more(request: &Request<TimedBody>, upgrade: Option<&Upgrade>) -> Option<Request<TimedBody>> {
    let harmless = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let is_plain = upgrade.is_none() && request.body().is_end_stream();
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

/// The app's answer, with its body as it comes.
fn streamed(response: Response<Incoming>, held: Held) -> Response<Body> {
    finish(response).map(|body| Body::App(Counted::new(body), held))
}

/// Makes the app's answer ours to give.
fn finish(mut response: Response<Incoming>) -> Response<Incoming> {
    let wished =
        (response.status() == StatusCode::UPGRADE_REQUIRED).then(|| response.headers().get(header::UPGRADE).cloned());
    hop::strip(response.headers_mut());
    if let Some(wished) = wished.flatten() {
        // RFC 9110 §15.5.22: without it nobody knows what is required.
        response.headers_mut().insert(header::UPGRADE, wished);
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    let via = via::of_answer(response.version());
    response.headers_mut().append(header::VIA, via);
    *response.version_mut() = Version::HTTP_11;
    response
}
