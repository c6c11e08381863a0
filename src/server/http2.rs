//! One client connection that speaks HTTP/2, which only a TLS handshake can choose. [`super::deadline_io`] counts requests as
//! HTTP/1.1 frames them, one after the other; here they lie side by side, so that the waits are watched where they can be
//! seen:
//!
//! | the connection waits for | deadline | then |
//! |---|---|---|
//! | the first request, the preface before it included | `timeouts.head`, from its first byte | closed |
//! | another request | `timeouts.keep_alive`, from the end of the last answer | GOAWAY, closed |
//! | a request, for half a second | its place is needed ([`super::places`]) | GOAWAY, closed |
//! | the next piece of a request's body | `timeouts.body` ([`crate::body::timed`]) | 408, or the stream ends |
//! | a window for the next piece of an answer | `timeouts.write` | that stream is reset |
//! | windows for what is left of answers ([`Unsent`]) | twice `timeouts.write` | GOAWAY, closed |
//! | the peer to read at all | `timeouts.write` ([`super::write_deadline`]) | reset |
//! | an answer to a ping | 20 s | closed |
//!
//! A drain sends GOAWAY when it is announced, or behind the first request of a connection that comes later: what was sent
//! before the client heard of it is still answered. So does an answer that would close a connection of HTTP/1.1. A body
//! that nobody reads is told to stop, and its connection goes on.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use super::Timeouts;
use super::closing::LingeringIo;
use super::connection::{Connections, MAX_HEAD, MAX_HEADERS, SentBody};
use super::drain::Drain;
use super::listener::Entrance;
use super::parking::{LONGEST_REST, PARK_AFTER};
use super::places::Place;
use super::progress::{Exchange, Progress};
use crate::body::timed::Unread;
use crate::metrics::Metrics;
use crate::peer::Peer;
use crate::respond;

/// Requests under way on one connection.
const MAX_STREAMS: u32 = 100;
/// Bytes that a client may send ahead of whoever reads them, of one request
const STREAM_WINDOW: u32 = 64 * 1024;
/// and of all on a connection.
const CONNECTION_WINDOW: u32 = 256 * 1024;
/// Bytes of an answer that wait for a window.
const MAX_SEND_BUFFER: usize = 64 * 1024;
/// Streams reset by the client before we looked at them; past it the connection is closed (rapid reset).
const MAX_RESET_BEFORE_ACCEPT: usize = 20;
/// Streams that we had to reset for the client's mistakes; past it the connection is closed.
const MAX_RESET_BY_US: usize = 32;
/// Requests given up before their answer was found; past it a client is told to connect anew, and past it again it has to.
/// A page that is left gives up its images, but not so many again and again.
const MAX_GIVEN_UP: u32 = 200;
/// How long a client that idles, and is told to go because its place is needed, may take to say that it has heard of it. What
/// it asked for before that is answered.
const HEARS_WITHIN: Duration = Duration::from_secs(5);
/// Silence after which a peer is asked whether it is still there,
const PING_AFTER: Duration = Duration::from_secs(30);
/// and how long it has to answer.
const PONG_WITHIN: Duration = Duration::from_secs(20);

/// The settings, and their limits.
pub(super) fn builder(timeouts: &Timeouts, metrics: &Arc<Metrics>) -> Builder<Streams> {
    let mut http2 = Builder::new(Streams { write: timeouts.write, metrics: Arc::clone(metrics) });
    http2
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .max_pending_accept_reset_streams(MAX_RESET_BEFORE_ACCEPT)
        .max_local_error_reset_streams(MAX_RESET_BY_US)
        .keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PONG_WITHIN);
    http2
}

/// One connection, as its streams see it.
struct Conversation {
    connections: Arc<Connections>,
    peer: Peer,
    progress: Arc<Progress>,
    given_up: AtomicU32,
    unsent: Arc<Unsent>,
    /// There was a request.
    asked: Notify,
    /// An answer said that the connection closes.
    closes: Notify,
    /// Requests are given up again and again.
    too_much: Notify,
}

/// Why a client is told to go.
#[derive(Debug, Clone, Copy)]
enum Going {
    /// It, or its connection, has had its time.
    InDueTime,
    /// Its place is needed, and it idled when it had made so many requests.
    ForRoom { served: u32 },
}

impl Connections {
    /// Serves `socket`, whose handshake chose HTTP/2, to its end, or until it idles and `place` is needed. Dropping the future
    /// resets it.
    pub(super) async fn speak_http2<T>(self: Arc<Self>, socket: T, peer: Peer, progress: Arc<Progress>, place: &Place)
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        progress.note_idle();
        let conversation = Arc::new(Conversation::new(Arc::clone(&self), peer, progress));
        let service = service_fn(|request| {
            let conversation = Arc::clone(&conversation);
            let exchange = conversation.progress.begin();
            conversation.asked.notify_waiters();
            async move { Ok::<_, Infallible>(conversation.exchange(request, exchange).await) }
        });
        let mut connection = pin!(self.http2.serve_connection(TokioIo::new(LingeringIo::new(socket)), service));
        let ended = tokio::select! {
            biased;
            ended = &mut connection => ended,
            going = conversation.nears_its_end(place) => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    biased;
                    ended = connection => ended,
                    () = conversation.is_quiet(going) => Ok(()),
                    // Somebody who gives up requests is not one who heeds GOAWAY,
                    () = conversation.too_much.notified() => Ok(()),
                    // nor is somebody who reads no answers.
                    () = conversation.is_not_read() => Ok(()),
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, peer = %peer.address, "a connection broke");
        }
    }
}

impl Conversation {
    fn new(connections: Arc<Connections>, peer: Peer, progress: Arc<Progress>) -> Self {
        let (asked, closes, too_much) = (Notify::new(), Notify::new(), Notify::new());
        let (given_up, unsent) = (AtomicU32::new(0), Arc::default());
        Self { connections, peer, progress, given_up, unsent, asked, closes, too_much }
    }

    /// Ends when the client should be told to go.
    async fn nears_its_end(&self, place: &Place) -> Going {
        let Connections { drain, timeouts, .. } = &*self.connections;
        tokio::select! {
            () = self.has_asked_in(drain) => {}
            () = self.closes.notified() => {}
            () = self.too_much.notified() => {}
            () = self.is_not_read() => {}
            () = self.idles(self.progress.idle_since(), timeouts.keep_alive, timeouts.head) => {}
            () = self.makes_room(place) => return Going::ForRoom { served: self.progress.served() },
        }
        Going::InDueTime
    }

    /// Ends when it idles, as one that speaks HTTP/1.1 and would be parked, and `place` is needed.
    async fn makes_room(&self, place: &Place) {
        let mut rest = PARK_AFTER;
        loop {
            let asked = self.asked.notified();
            match self.rests_since() {
                // Nothing tells when it rests again: it is looked at, less and less often.
                None => {
                    sleep(rest).await;
                    rest = (rest * 2).min(LONGEST_REST);
                }
                Some(since) if Instant::now() < since + PARK_AFTER => {
                    rest = PARK_AFTER;
                    sleep_until(since + PARK_AFTER).await;
                }
                Some(_) => tokio::select! {
                    biased;
                    () = asked => {}
                    () = self.connections.gives_up(place) => return,
                },
            }
        }
    }

    /// Since when nothing has been under way; `None` while something is, or is left to be sent.
    fn rests_since(&self) -> Option<Instant> {
        let Self { progress, unsent, .. } = self;
        let is_busy = progress.in_exchange() || progress.is_stalled() || unsent.since().is_some();
        (!is_busy).then(|| progress.idle_since())
    }

    /// Ends in a drain; for a connection that came in it, when it has asked: told to go at once, it would never ask.
    async fn has_asked_in(&self, drain: &Drain) {
        drain.announcement().await;
        let asked = self.asked.notified();
        if self.progress.served() == 0 {
            tokio::select! {
                () = asked => {}
                () = drain.listener_gone() => {}
            }
        }
    }

    /// Ends when a client that was told to go has nothing under way any more, and does not go. What is still in buffers
    /// must be read in the time of a write; a connection that came in the drain may ask once. One that idled has nothing there,
    /// unless it has asked since.
    async fn is_quiet(&self, going: Going) {
        if let Going::ForRoom { served } = going {
            sleep(HEARS_WITHIN).await;
            if self.progress.served() == served {
                return;
            }
        }
        let Timeouts { write, first_byte, .. } = self.connections.timeouts;
        self.idles(Instant::now(), write, first_byte).await;
    }

    /// Ends when nothing has been under way for `limit`, counted from `beginning` at the earliest; for `at_first` when
    /// nothing ever was.
    async fn idles(&self, beginning: Instant, limit: Duration, at_first: Duration) {
        loop {
            let asked = self.progress.served() > 0;
            let idle_since = self.progress.idle_since().max(beginning);
            let since = if self.progress.in_exchange() { Instant::now() } else { idle_since };
            let end = since + if asked { limit } else { at_first };
            if Instant::now() >= end {
                return;
            }
            // Until then it may have asked, and idle again for as long as it may.
            sleep_until(if asked { end } else { end.min(Instant::now() + limit) }).await;
        }
    }

    /// Ends when there are answers to send and the client made no room for any of them for twice `timeouts.write`: a stream
    /// that can be reset has been by then. A socket that takes nothing has a deadline of its own.
    async fn is_not_read(&self) {
        let limit = 2 * self.connections.timeouts.write;
        loop {
            let now = Instant::now();
            let since = self.unsent.since().filter(|_| !self.progress.is_stalled()).unwrap_or(now);
            if now >= since + limit {
                return;
            }
            sleep_until(since + limit).await;
        }
    }

    async fn exchange(&self, mut request: Request<Incoming>, exchange: Exchange) -> Response<PacedBody> {
        join_cookies(request.headers_mut());
        let unanswered = Unanswered(Some(self));
        let mut response = if request.headers().len() > MAX_HEADERS {
            self.connections.exchanges.malformed(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, self.peer);
            let text = "the request has too many header fields";
            respond::text(request.method(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, text)
        } else {
            self.connections.answer(request, self.peer, Entrance::Tls, Unread::default()).await
        };
        unanswered.was_answered();
        // What would close a connection of HTTP/1.1, which knows the field only as a mistake (RFC 9113 §8.2.2).
        if response.headers_mut().remove(header::CONNECTION).is_some() {
            self.closes.notify_one();
        }
        let pace = PACE.try_with(Arc::clone).unwrap_or_default();
        pace.client_owes();
        let unsent = Arc::clone(&self.unsent);
        response.map(|body| PacedBody { body: SentBody::new(body, exchange), pace, unsent })
    }
}

/// Clients may part cookies for the sake of compression; elsewhere there is one field (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1 {
        let cookies = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])).expect("joined from values by visible ASCII");
        headers.insert(header::COOKIE, cookies);
    }
}

/// A request without its answer; dropped in this state it was given up.
struct Unanswered<'a>(Option<&'a Conversation>);

impl Unanswered<'_> {
    fn was_answered(mut self) {
        self.0 = None;
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        let Some(conversation) = self.0 else { return };
        let before = conversation.given_up.fetch_add(1, Ordering::Relaxed);
        if before % MAX_GIVEN_UP == MAX_GIVEN_UP - 1 {
            conversation.too_much.notify_one();
        }
    }
}

tokio::task_local! {
    /// Of the stream whose task runs.
    static PACE: Arc<Pace>;
}

/// Runs the streams of a connection, and resets those whose answer finds no window in time.
#[derive(Debug, Clone)]
pub(super) struct Streams {
    write: Duration,
    metrics: Arc<Metrics>,
}

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, stream: F) {
        let (write, metrics) = (self.write, Arc::clone(&self.metrics));
        let pace = Arc::new(Pace::default());
        // Ends with its stream, which ends with its connection.
        tokio::spawn(async move {
            let _witness = metrics.witness();
            tokio::select! {
                biased;
                _ = PACE.scope(Arc::clone(&pace), stream) => {}
                // Dropping the stream resets it.
                () = pace.is_lost(write) => {}
            }
        });
    }
}

/// Who has to move for an answer to go on.
#[derive(Debug, Default)]
struct Pace {
    /// Since when the client has to make room for a piece; `None` while it is ours to bring one.
    owed_since: Mutex<Option<Instant>>,
}

impl Pace {
    fn client_owes(&self) {
        self.set(Some(Instant::now()));
    }

    fn we_owe(&self) {
        self.set(None);
    }

    fn set(&self, since: Option<Instant>) {
        *self.owed_since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    /// Ends when the client has made no room for `limit`.
    async fn is_lost(&self, limit: Duration) {
        loop {
            let owed = *self.owed_since.lock().unwrap_or_else(PoisonError::into_inner);
            let since = owed.unwrap_or_else(Instant::now);
            if Instant::now() >= since + limit {
                return;
            }
            sleep_until(since + limit).await;
        }
    }
}

/// What is left of the answers of a connection. The last piece of one is handed on as soon as its window has room for a byte,
/// and then its stream can no longer be reset from here.
#[derive(Debug, Default)]
struct Unsent(Mutex<Left>);

#[derive(Debug, Default)]
struct Left {
    pieces: usize,
    /// When one of them was last sent, in part or whole, or the only one was added.
    moved: Option<Instant>,
}

impl Unsent {
    /// Since when nothing of it moved; `None` when nothing is left.
    fn since(&self) -> Option<Instant> {
        let left = self.left();
        left.moved.filter(|_| left.pieces > 0)
    }

    fn add(self: &Arc<Self>, bytes: Bytes) -> Piece {
        let mut left = self.left();
        left.pieces += 1;
        if left.pieces == 1 {
            left.moved = Some(Instant::now());
        }
        Piece { bytes, unsent: Arc::clone(self) }
    }

    fn left(&self) -> MutexGuard<'_, Left> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A piece of an answer, counted until it is sent or dropped.
struct Piece {
    bytes: Bytes,
    unsent: Arc<Unsent>,
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.unsent.left().moved = Some(Instant::now());
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.unsent.left().pieces -= 1;
    }
}

/// A response body whose pieces are watched until they are sent.
struct PacedBody {
    body: SentBody,
    pace: Arc<Pace>,
    unsent: Arc<Unsent>,
}

impl http_body::Body for PacedBody {
    type Data = Piece;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if polled.is_ready() {
            self.pace.client_owes();
        } else {
            self.pace.we_owe();
        }
        polled.map_ok(|frame| frame.map_data(|bytes| self.unsent.add(bytes)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parted_cookies_become_one_field() {
        let mut headers = HeaderMap::new();
        for crumb in ["a=1", "b=2", "c=\u{e9}"] {
            headers.append(header::COOKIE, HeaderValue::from_bytes(crumb.as_bytes()).unwrap());
        }
        join_cookies(&mut headers);
        let all: Vec<_> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
        assert_eq!(all, ["a=1; b=2; c=\u{e9}".as_bytes()]);
    }
}
