//! One client connection, from its first byte to a close that loses nothing. What is spoken on it, its listener says, and
//! over TLS the handshake; nothing is ever guessed from the first bytes.

use std::error::Error as _;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::server::TlsStream;

use super::Timeouts;
use super::deadline_io::Readable;
use super::drain::Drain;
use super::http2::Streams;
use super::introduction::Introductions;
use super::listener::Entrance;
use super::parking::PARK_AFTER;
use super::places::Place;
use super::progress::{Exchange, Progress};
use super::tls::{self, Tls};
use super::workers::Accepted;
use super::write_deadline::WriteDeadline;
use crate::body::Body;
use crate::body::timed::{TimedBody, Unread};
use crate::body::tunnel::Tunnel;
use crate::exchange::Exchanges;
use crate::metrics::Metrics;
use crate::peer::{Peer, Scheme};

/// Header fields in one head; hyper answers 431 past it.
pub(super) const MAX_HEADERS: usize = 128;

/// Bytes of one head: real apps carry big cookies.
pub(super) const MAX_HEAD: usize = 32 * 1024;

/// Bytes hyper may read ahead, of an upload say; left alone it grows to some 400 KiB a connection.
const MAX_READ_AHEAD: usize = 64 * 1024;

/// Serves the connections of one worker.
#[derive(Clone)]
pub struct Connections {
    pub(super) exchanges: Arc<Exchanges>,
    pub(super) timeouts: Timeouts,
    pub(super) drain: Drain,
    pub(super) metrics: Arc<Metrics>,
    introductions: Option<Arc<Introductions>>,
    tls: Option<Arc<Tls>>,
    pub(super) http1: http1::Builder,
    pub(super) http2: http2::Builder<Streams>,
    tunnels: Arc<AtomicUsize>,
}

/// A client's socket.
type Socket = WriteDeadline<TcpStream>;

impl Connections {
    /// Serves through `exchanges` under `timeouts` until `drain`, with `introductions` if every connection begins with one;
    /// `tls` is for those that come to its listener.
    pub fn new(
        exchanges: Arc<Exchanges>,
        timeouts: Timeouts,
        drain: Drain,
        metrics: Arc<Metrics>,
        introductions: Option<Arc<Introductions>>,
        tls: Option<Arc<Tls>>,
    ) -> Self {
        let mut http1 = http1::Builder::new();
        // `pipeline_flush` stays off: it would copy every body to put it behind its head. No timer: DeadlineIo has them.
        http1.max_headers(MAX_HEADERS).max_header_size(MAX_HEAD).max_buf_size(MAX_READ_AHEAD).half_close(false);
        let http2 = super::http2::builder(&timeouts, &metrics);
        Self { exchanges, timeouts, drain, metrics, introductions, tls, http1, http2, tunnels: Arc::default() }
    }

    /// Serves those that come from now on under `timeouts`, and with `introductions` and `tls`.
    #[must_use]
    pub fn with(&self, timeouts: Timeouts, introductions: Option<Arc<Introductions>>, tls: Option<Arc<Tls>>) -> Self {
        let http2 = super::http2::builder(&timeouts, &self.metrics);
        Self { timeouts, introductions, tls, http2, ..self.clone() }
    }

    /// Has requests answered.
    pub fn exchanges(&self) -> &Exchanges {
        &self.exchanges
    }

    /// The drain these connections heed.
    pub fn drain(&self) -> &Drain {
        &self.drain
    }

    /// How many connections have become tunnels, which have no end of their own to wait for.
    pub fn tunnels(&self) -> usize {
        self.tunnels.load(Ordering::Relaxed)
    }

    /// Serves one connection to its end, a tunnel included. Dropping the future resets it.
    pub async fn serve(self: Arc<Self>, accepted: Accepted) {
        // Before its place, which is free again when it is no longer counted as open.
        let (_open, _witness) = (self.metrics.connection_opened(), self.metrics.witness());
        let Accepted { stream, entrance, peer, mut place } = accepted;
        let Ok(mut stream) = TcpStream::from_std(stream) else { return };
        let Some(address) = self.who_comes(&mut stream, peer, &mut place).await else { return };
        match entrance {
            Entrance::Clear | Entrance::Redirect => {
                self.serve_clear(stream, Peer { address, scheme: Scheme::Http }, entrance, &place).await;
            }
            Entrance::Tls => {
                Arc::clone(&self).serve_tls(stream, Peer { address, scheme: Scheme::Https }, &place).await;
            }
        }
    }

    /// The peer, or the client that it introduces; `None` when that may not come in.
    async fn who_comes(&self, stream: &mut TcpStream, peer: SocketAddr, place: &mut Place) -> Option<SocketAddr> {
        let Some(introductions) = &self.introductions else { return Some(peer) };
        // Boxed, so that connections without one do not carry the room that it takes.
        let client = Box::pin(introductions.hear(stream, peer)).await?;
        let has_room = place.count_for(client.ip());
        if !has_room {
            self.metrics.connections_refused.inc();
        }
        has_room.then_some(client)
    }

    async fn serve_clear(&self, stream: TcpStream, peer: Peer, entrance: Entrance, place: &Place) {
        if self.first_byte_came(&stream, place).await {
            let progress = Progress::start(self.exchanges.tally());
            let socket = WriteDeadline::new(stream, self.timeouts.write, Arc::clone(&progress));
            self.speak_http1(socket, peer, progress, entrance, place).await;
        }
    }

    async fn serve_tls(self: Arc<Self>, stream: TcpStream, peer: Peer, place: &Place) {
        let progress = Progress::start(self.exchanges.tally());
        let Some(stream) = self.shake_hands(stream, peer, &progress, place).await else { return };
        if !self.first_byte_came(&stream, place).await {
            return;
        }
        if tls::speaks_http2(&stream) {
            Box::pin(self.speak_http2(stream, peer, progress, place)).await;
        } else {
            self.speak_http1(stream, peer, progress, Entrance::Tls, place).await;
        }
    }

    /// A silent connection costs a socket and this future, no buffers. Where its place is needed it is closed sooner.
    async fn first_byte_came(&self, socket: &impl Readable, place: &Place) -> bool {
        let came = timeout(self.timeouts.first_byte, poll_fn(|cx| socket.poll_readable(cx)));
        tokio::select! {
            biased;
            came = came => matches!(came, Ok(Ok(()))),
            () = self.silence_makes_room(place) => false,
        }
    }

    async fn silence_makes_room(&self, place: &Place) {
        sleep(PARK_AFTER).await;
        self.gives_up(place).await;
    }

    /// Ends when the connection, which must idle all the while, is to give up `place`.
    pub(super) async fn gives_up(&self, place: &Place) {
        place.is_needed().await;
        self.metrics.connections_given_up.inc();
    }

    async fn shake_hands(
        &self,
        stream: TcpStream,
        peer: Peer,
        progress: &Arc<Progress>,
        place: &Place,
    ) -> Option<Box<TlsStream<Socket>>> {
        let tls = self.tls.as_ref()?;
        let handshake = async {
            if !self.first_byte_came(&stream, place).await {
                return Ok(None);
            }
            let socket = WriteDeadline::new(stream, self.timeouts.write, Arc::clone(progress));
            // Boxed, and its session too: an idle connection carries neither the room that a handshake takes, nor that of a
            // session once for each future that it goes through.
            Box::pin(tls.accept(socket)).await.map(|stream| Some(Box::new(stream)))
        };
        let limit = self.timeouts.tls_handshake;
        let shaken = timeout(limit, handshake).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
        shaken.unwrap_or_else(|error| {
            self.metrics.tls_handshakes_failed.inc();
            tracing::debug!(%error, peer = %peer.address, "a TLS handshake failed");
            None
        })
    }

    /// A tunnel lives in its connection's task: it keeps its place, counts as open, and is closed with the worker's runtime
    /// when `drain` is over.
    pub(super) async fn carry(&self, tunnel: Tunnel, peer: Peer) {
        let _counted = Carrying::one_of(&self.tunnels);
        if let Err(broken) = tunnel.carry().await {
            tracing::debug!(%broken, cause = broken.source(), peer = %peer.address, "a tunnel broke");
        }
    }

    pub(super) fn note(&self, error: &hyper::Error, peer: Peer) {
        tracing::debug!(%error, peer = %peer.address, "a connection broke");
        if error.is_parse() {
            let status = if error.is_parse_too_large() {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            } else {
                StatusCode::BAD_REQUEST
            };
            self.exchanges.malformed(status, peer);
        }
    }

    /// Has `request` answered; `unread` learns when its body is dropped early.
    pub(super) fn answer(
        &self,
        request: Request<Incoming>,
        peer: Peer,
        entrance: Entrance,
        unread: Unread,
    ) -> impl Future<Output = Response<Body>> {
        let request = request.map(|body| TimedBody::new(body, self.timeouts.body, unread));
        let https_port = match (&self.tls, entrance) {
            (Some(tls), Entrance::Redirect) => Some(tls.port()),
            _ => None,
        };
        self.exchanges.serve(request, peer, https_port)
    }
}

/// Counts a tunnel until dropped.
struct Carrying<'a>(&'a AtomicUsize);

impl<'a> Carrying<'a> {
    fn one_of(tunnels: &'a AtomicUsize) -> Self {
        tunnels.fetch_add(1, Ordering::Relaxed);
        Self(tunnels)
    }
}

impl Drop for Carrying<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A response body that keeps its exchange open until it is sent or dropped.
pub struct SentBody {
    body: Body,
    _exchange: Exchange,
}

impl SentBody {
    pub(super) fn new(body: Body, exchange: Exchange) -> Self {
        Self { body, _exchange: exchange }
    }
}

impl http_body::Body for SentBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
