//! Connections to the app, kept for the next request. There is one app, and nothing that a client says chooses among them:
//! over HTTP/2 `:authority` is the client's host (RFC 9113 §8.3.1), by which hyper-util's pool would sort its connections,
//! one for each name that a stranger makes up. In the clear and for upgrades HTTP/1.1 is spoken, else what TLS agrees on.
//!
//! | | bound |
//! |---|---|
//! | requests at once on a connection of HTTP/2 | the app's own, [`MOST_STREAMS`] at most; then there is another connection |
//! | connections of HTTP/1.1 kept idle | [`MOST_IDLE`], [`IDLE`] each |
//! | connections of HTTP/2 kept idle | [`IDLE_HTTP2`] each |

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use http::{Request, Response, Uri, Version, uri};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::client::legacy::connect::Connection as _;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::{Instant, sleep, timeout};

use crate::body::Seat;
use crate::body::timed::TimedBody;
use crate::outbound::Connector;
use crate::outbound::connect::{ConnectError, ConnectTimedOut};
use crate::outbound::wire::{Wire, Wired};

/// A connection of HTTP/2 over which an answer is awaited in silence is pinged after this part of `forward.first_byte_timeout`, and
/// ended when for twice as long no echo comes: a middlebox may have dropped it without a word. Far longer, as shipped, than an
/// app's event loop is ever busy: it carries others' answers too.
const PING_AFTER: u32 = 6;

/// Shorter than the keep-alive of common app servers (Node: 5 s), so that we rarely meet a closing connection.
const IDLE: Duration = Duration::from_secs(4);
/// HTTP/2 says GOAWAY before it closes; this only ends what nobody uses.
const IDLE_HTTP2: Duration = Duration::from_secs(30);
/// How often idle connections are looked at, while there are some.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Connections of HTTP/1.1 that one thread keeps for later.
const MOST_IDLE: usize = 64;

/// Requests at once on one connection of HTTP/2.
const MOST_STREAMS: usize = 100;
/// Bytes of an answer that wait for a slow client,
const STREAM_WINDOW: u32 = 256 * 1024;
/// and of all of them on a connection: clients that do not read must not leave others without a window.
const CONNECTION_WINDOW: u32 = 100 * STREAM_WINDOW;
const _: () = assert!(CONNECTION_WINDOW as usize == MOST_STREAMS * STREAM_WINDOW as usize);
/// Bytes of an upload that wait for a window.
const MAX_SEND_BUFFER: usize = 64 * 1024;
/// Fields of an answer in HTTP/1.1: twice as many as clients may send, for apps that set a cookie for everything.
const MOST_FIELDS: usize = 256;

/// Bytes of the fields of an answer.
const MAX_HEAD: u32 = 64 * 1024;

/// Which versions of HTTP will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Versions {
    /// Whatever the app's TLS chooses.
    Any,
    /// HTTP/1.1: only there connections switch protocols.
    Http1,
}

/// Whether a connection that was kept will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Yes.
    Too,
    /// No: one of HTTP/1.1 that was kept has just died, and others may have with it.
    Not,
}

/// The connections of one thread.
pub struct Pool {
    app: Uri,
    any: Connector,
    http1: Connector,
    connect_timeout: Duration,
    ping_after: Duration,
    kept: Arc<Mutex<Held>>,
    /// Held while a connection is opened that may become one of HTTP/2, for all who wait.
    opening: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Held {
    http1: Vec<Idle>,
    http2: Vec<Shared>,
    /// What the last handshake chose: then connections are opened side by side.
    is_http1: bool,
    is_tended: bool,
}

struct Idle {
    line: Line<http1::SendRequest<TimedBody>>,
    since: Instant,
}

struct Shared {
    line: Line<http2::SendRequest<TimedBody>>,
    /// One more is taken by each request on it.
    seat: Seat,
    /// Streams that the app allows: 100 before it has said so.
    room: Box<dyn Fn() -> usize + Send>,
    used: Instant,
}

/// A connection, and what came over it.
#[derive(Clone)]
struct Line<S> {
    sender: S,
    wire: Arc<Wire>,
}

/// A connection to send one request over. Dropping it before the answer closes it, or ends the stream.
pub struct Lease {
    kept: Weak<Mutex<Held>>,
    over: Over,
}

enum Over {
    Http1(Line<http1::SendRequest<TimedBody>>),
    Http2(Line<http2::SendRequest<TimedBody>>, Seat),
}

impl Pool {
    /// No connections yet to `app`, a scheme and an authority; a lease is there within `connect_timeout` or fails. Answers may take
    /// `first_byte` to begin.
    pub fn new(app: &Uri, tls: rustls::ClientConfig, connect_timeout: Duration, first_byte: Duration) -> Self {
        let is_clear = app.scheme() != Some(&uri::Scheme::HTTPS);
        Self {
            app: app.clone(),
            http1: Connector::of_http1(tls.clone(), connect_timeout),
            any: Connector::new(tls, connect_timeout),
            connect_timeout,
            ping_after: first_byte / PING_AFTER,
            kept: Arc::new(Mutex::new(Held { is_http1: is_clear, ..Held::default() })),
            opening: tokio::sync::Mutex::default(),
        }
    }

    /// A connection, `kept` or new. Dropping the future gives up what it opens.
    pub async fn lease(&self, versions: Versions, kept: Kept) -> Result<Lease, ConnectError> {
        timeout(self.connect_timeout, self.find(versions, kept)).await.map_err(|_| ConnectTimedOut)?
    }

    async fn find(&self, versions: Versions, kept: Kept) -> Result<Lease, ConnectError> {
        if let Some(lease) = self.take(versions, kept) {
            return Ok(lease);
        }
        if versions == Versions::Http1 || self.kept().is_http1 {
            return self.open(versions).await;
        }
        let opening = self.opening.lock().await;
        if let Some(lease) = self.take(versions, kept) {
            return Ok(lease);
        }
        if self.kept().is_http1 {
            drop(opening);
        }
        self.open(versions).await
    }

    fn take(&self, versions: Versions, kept: Kept) -> Option<Lease> {
        let held = &mut *self.kept();
        let over = match (versions, kept) {
            (Versions::Any, Kept::Too) => held.take_http2().or_else(|| held.take_http1())?,
            (Versions::Any, Kept::Not) => held.take_http2()?,
            (Versions::Http1, Kept::Too) => held.take_http1()?,
            (Versions::Http1, Kept::Not) => return None,
        };
        over.wire().settle();
        Some(self.leased(over))
    }

    async fn open(&self, versions: Versions) -> Result<Lease, ConnectError> {
        let connector = if versions == Versions::Any { &self.any } else { &self.http1 };
        let io = connector.open(self.app.clone()).await?;
        let wire = Arc::clone(io.inner().wire());
        if io.inner().connected().is_negotiated_h2() {
            let shared = shake_hands(io, wire, self.ping_after).await?;
            let over = shared.take();
            {
                let mut kept = self.kept();
                kept.is_http1 = false;
                kept.http2.push(shared);
            }
            Held::tend(&self.kept);
            return Ok(self.leased(over));
        }
        if versions == Versions::Any {
            self.kept().is_http1 = true;
        }
        let (sender, connection) = http1::Builder::new().max_headers(MOST_FIELDS).handshake(io).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to the app broke");
            }
        });
        Ok(self.leased(Over::Http1(Line { sender, wire })))
    }

    fn leased(&self, over: Over) -> Lease {
        Lease { kept: Arc::downgrade(&self.kept), over }
    }

    fn kept(&self) -> MutexGuard<'_, Held> {
        lock(&self.kept)
    }
}

/// What is kept changes in whole steps: a panic in between leaves nothing half done. A connection that panicked is not polled
/// again.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn shake_hands(io: TokioIo<Wired>, wire: Arc<Wire>, ping_after: Duration) -> Result<Shared, hyper::Error> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .max_header_list_size(MAX_HEAD)
        .keep_alive_interval(ping_after)
        .keep_alive_timeout(2 * ping_after);
    let (sender, connection) = builder.handshake(io).await?;
    let connection = Arc::new(Mutex::new(connection));
    let told = Arc::downgrade(&connection);
    tokio::spawn(async move {
        if let Err(error) = poll_fn(|cx| Pin::new(&mut *lock(&connection)).poll(cx)).await {
            tracing::debug!(%error, "a connection to the app broke");
        }
    });
    let room = move || told.upgrade().map_or(0, |connection| lock(&connection).current_max_send_streams());
    Ok(Shared { line: Line { sender, wire }, seat: Seat::default(), room: Box::new(room), used: Instant::now() })
}

impl Shared {
    fn take(&self) -> Over {
        Over::Http2(self.line.clone(), self.seat.clone())
    }

    fn has_room(&self) -> bool {
        self.seat.taken() < MOST_STREAMS.min((self.room)())
    }

    fn is_of_use(&mut self, now: Instant) -> bool {
        if self.seat.taken() > 0 {
            self.used = now;
        }
        !self.line.sender.is_closed() && now < self.used + IDLE_HTTP2
    }
}

impl Held {
    fn take_http2(&mut self) -> Option<Over> {
        self.http2.retain(|shared| !shared.line.sender.is_closed());
        let shared = self.http2.iter_mut().find(|shared| shared.has_room())?;
        shared.used = Instant::now();
        Some(shared.take())
    }

    /// The one that was used last: the others may go.
    fn take_http1(&mut self) -> Option<Over> {
        let now = Instant::now();
        while let Some(Idle { line, since }) = self.http1.pop() {
            if line.sender.is_ready() && now < since + IDLE {
                return Some(Over::Http1(line));
            }
        }
        None
    }

    fn keep(kept: &Arc<Mutex<Self>>, line: Line<http1::SendRequest<TimedBody>>) {
        {
            let mut kept = lock(kept);
            if kept.http1.len() >= MOST_IDLE {
                return;
            }
            kept.http1.push(Idle { line, since: Instant::now() });
        }
        Self::tend(kept);
    }

    /// Looks after what is kept until there is nothing, or nobody to keep it for.
    fn tend(kept: &Arc<Mutex<Self>>) {
        if std::mem::replace(&mut lock(kept).is_tended, true) {
            return;
        }
        let kept = Arc::downgrade(kept);
        tokio::spawn(async move {
            loop {
                sleep(LOOK_EVERY).await;
                let Some(kept) = kept.upgrade() else { return };
                if !lock(&kept).sweep(Instant::now()) {
                    return;
                }
            }
        });
    }

    /// Drops what is of no use any more; whether anything is left.
    fn sweep(&mut self, now: Instant) -> bool {
        self.http1.retain(|idle| !idle.line.sender.is_closed() && now < idle.since + IDLE);
        self.http2.retain_mut(|shared| shared.is_of_use(now));
        self.is_tended = !(self.http1.is_empty() && self.http2.is_empty());
        self.is_tended
    }
}

impl Over {
    fn wire(&self) -> &Arc<Wire> {
        match self {
            Self::Http1(line) => &line.wire,
            Self::Http2(line, _) => &line.wire,
        }
    }
}

/// What a sent request comes to.
pub type Sent = Result<Response<Incoming>, TrySendError<Request<TimedBody>>>;

impl Lease {
    /// The version of HTTP that the connection speaks.
    pub fn version(&self) -> Version {
        match &self.over {
            Over::Http1(_) => Version::HTTP_11,
            Over::Http2(..) => Version::HTTP_2,
        }
    }

    /// What came over the connection.
    pub fn wire(&self) -> &Wire {
        self.over.wire()
    }

    /// Sends `request`, which is made for this version. Dropping the future closes the connection, or resets the stream.
    pub fn send(&mut self, request: Request<TimedBody>) -> Pin<Box<dyn Future<Output = Sent> + Send>> {
        match &mut self.over {
            Over::Http1(line) => Box::pin(line.sender.try_send_request(request)),
            Over::Http2(line, _) => Box::pin(line.sender.try_send_request(request)),
        }
    }

    /// The answer has begun: the connection may serve again when it has ended. A seat on a shared connection is to be held
    /// until then.
    pub fn keep(self) -> Option<Seat> {
        let Self { kept, over } = self;
        match over {
            Over::Http2(_, seat) => Some(seat),
            Over::Http1(mut line) => {
                // Ends with the answer, or with the connection.
                tokio::spawn(async move {
                    if let (Ok(()), Some(kept)) = (line.sender.ready().await, kept.upgrade()) {
                        Held::keep(&kept, line);
                    }
                });
                None
            }
        }
    }
}
