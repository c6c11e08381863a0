//! Puts deadlines under hyper, which has none of its own for a peer that stops writing or reading (hyper's only one, for
//! the head, also counts idle time). Wraps the socket, or TLS over it; vectored writes pass through unchanged.
//!
//! | the connection waits for | deadline | then |
//! |---|---|---|
//! | the rest of a head | `timeouts.head`, from its first byte | closed |
//! | the next request | `timeouts.keep_alive`, from the end of the last answer; 2 s once the listener is gone | closed |
//! | the peer to read | `timeouts.write`, without any progress: see [`super::write_deadline`], below us | reset |
//! | the app, an event, a tunnel's peer | none here | |
//! | the peer to stop sending, after we closed with something of its unread | 5 s, 4 MiB | closed |
//!
//! hyper asks for the next byte when it awaits one, and does not ask again when an exchange ends. So a ring is always set:
//! what it finds then decides. Part of a head that came along with the request before it counts as idle.
//!
//! A client that closes its end while it waits is gone, and its answer is dropped: only so is a hang-up noticed in time. One
//! that closes its end right behind its request still gets what can be answered at once, and all of what is being sent, as long
//! as something is: after 5 s of silence it counts as gone.
//!
//! The first byte of a connection, its TLS handshake, and the first byte behind that are awaited before this wrapper exists (see
//! [`super::connection`]); pieces of a request body are timed where they are read (see [`crate::body::timed`]).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;

use super::Timeouts;
use super::closing::Closing;
use super::progress::Progress;
use super::timer::Timer;

/// How long an idle connection may still send a request after the listener is gone (S38).
const LAST_REQUEST: Duration = Duration::from_secs(2);

/// How long the end of a client's words is overlooked at a time while an answer is being sent: at first, and at last.
const FIRST_HOLD: Duration = Duration::from_millis(20);
const LAST_HOLD: Duration = Duration::from_secs(1);

/// How long it is overlooked while nothing is sent: an idle stream of events tells nobody that its client is gone.
const HOLD_FOR: Duration = Duration::from_secs(5);

/// A socket whose silent peer is dropped in time.
#[derive(Debug)]
pub struct DeadlineIo<T> {
    inner: T,
    timeouts: Timeouts,
    progress: Arc<Progress>,
    reading: Waiting,
    timer: Timer,
    closing: Closing,
    /// The client has said its end while an answer is being sent.
    held: Option<Held>,
}

/// An end that is overlooked.
#[derive(Debug)]
struct Held {
    /// When something was last sent, or the end was seen.
    since: Instant,
    step: Duration,
    sent: bool,
}

/// What the next byte would be, and since when it is awaited.
#[derive(Debug, Clone, Copy)]
enum Waiting {
    /// Nothing read since the last answer, or a part of its request's body.
    Idle,
    /// Part of a head was read while `served` requests had been begun; `since` when, once more of it is waited for.
    Head { since: Option<Instant>, served: u32 },
}

impl<T> DeadlineIo<T> {
    /// Wraps a socket, or TLS over it, whose first byte has just become readable.
    pub fn new(inner: T, timeouts: Timeouts, progress: Arc<Progress>) -> Self {
        let reading = Waiting::Head { since: Some(Instant::now()), served: progress.served() };
        Self { inner, timeouts, progress, reading, timer: Timer::default(), closing: Closing::default(), held: None }
    }

    /// Since when it idles between two requests, with nothing of the next one read; `None` while it does not.
    pub fn idle_since(&mut self) -> Option<Instant> {
        let idles = self.progress.served() > 0 && self.read_deadline().is_some();
        (idles && matches!(self.reading, Waiting::Idle)).then(|| self.progress.idle_since())
    }

    /// Whether the peer may still be sending something that nobody will read: a body, or what follows a head that was
    /// no HTTP.
    fn leaves_unread(&self) -> bool {
        let served = self.progress.served();
        let half_a_head = matches!(self.reading, Waiting::Head { served: at, .. } if at == served);
        half_a_head || self.progress.unread().is_left()
    }

    fn note_bytes_read(&mut self) {
        let served = self.progress.served();
        match self.reading {
            Waiting::Head { served: at, .. } if at == served => {}
            _ if self.progress.in_exchange() => self.reading = Waiting::Idle,
            _ => self.reading = Waiting::Head { since: None, served },
        }
    }

    /// Ready when an end that was overlooked is to be heard after all.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let now = Instant::now();
        let held = self.held.get_or_insert(Held { since: now, step: FIRST_HOLD, sent: false });
        if std::mem::take(&mut held.sent) {
            held.since = now;
        }
        let left = (held.since + HOLD_FOR).saturating_duration_since(now);
        if left.is_zero() {
            return Poll::Ready(());
        }
        // The end is there to stay, and no event tells of more: it is looked at again.
        let again = held.step.min(left);
        held.step = (held.step * 2).min(LAST_HOLD);
        let _ = self.timer.poll_at(now + again, cx);
        Poll::Pending
    }

    fn note_sent(&mut self, sent: &Poll<io::Result<usize>>) {
        if let (Some(held), Poll::Ready(Ok(_))) = (&mut self.held, sent) {
            held.sent = true;
        }
    }

    /// When the awaited byte is overdue; `None` while an answer is made or sent.
    fn read_deadline(&mut self) -> Option<Instant> {
        if self.progress.in_exchange() || self.progress.is_stalled() {
            self.reading = Waiting::Idle;
            return None;
        }
        match &mut self.reading {
            Waiting::Head { since, served } if *served == self.progress.served() => {
                Some(*since.get_or_insert_with(Instant::now) + self.timeouts.head)
            }
            _ => {
                self.reading = Waiting::Idle;
                Some(self.end_of_idling())
            }
        }
    }

    fn end_of_idling(&self) -> Instant {
        let since = self.progress.idle_since();
        let end = since + self.timeouts.keep_alive;
        self.progress.hurried_since().map_or(end, |hurried| end.min(hurried.max(since) + LAST_REQUEST))
    }

    /// Ready when the awaited byte is overdue.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.read_deadline() else {
            // Rings early enough for whatever deadline begins when this exchange ends. Counted from the last one's end, since
            // that was noted, and reading the time takes longer than all of this.
            let shortest = self.shortest_idling();
            if self.timer.poll_at(self.progress.idle_since() + shortest, cx).is_ready() {
                let _ = self.timer.poll_at(Instant::now() + shortest, cx);
            }
            return Poll::Pending;
        };
        if let Waiting::Head { since: Some(since), .. } = self.reading {
            // The same: this head may become a request, and idle again, before the head would be overdue.
            ready!(self.timer.poll_at(deadline.min(since + self.shortest_idling()), cx));
        }
        self.timer.poll_at(deadline, cx)
    }

    fn shortest_idling(&self) -> Duration {
        let hurried = self.progress.hurried_since().is_some();
        if hurried { self.timeouts.keep_alive.min(LAST_REQUEST) } else { self.timeouts.keep_alive }
    }
}

impl<T: Readable> DeadlineIo<T> {
    /// Waits, while nothing reads, until something can be read; false when that is overdue.
    pub async fn wakes(&mut self) -> bool {
        std::future::poll_fn(|cx| {
            if self.inner.poll_readable(cx).is_ready() {
                return Poll::Ready(true);
            }
            self.poll_overdue(cx).map(|()| false)
        })
        .await
    }
}

/// A socket that can say whether there is something to read.
pub trait Readable {
    /// Ready when there is, an end or an error included.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// Looked at, since a socket of which all was read may still count as readable.
impl Readable for TcpStream {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_peek(cx, &mut ReadBuf::new(&mut [0])).map_ok(drop)
    }
}

/// The first words may have come along with the end of the handshake: then rustls has them, and wants no more.
impl<T: Readable> Readable for TlsStream<T> {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (socket, session) = self.get_ref();
        if session.wants_read() { socket.poll_readable(cx) } else { Poll::Ready(Ok(())) }
    }
}

impl<T: Readable> Readable for Box<T> {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        (**self).poll_readable(cx)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for DeadlineIo<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let filled = buf.filled().len();
        if let Poll::Ready(result) = Pin::new(&mut self.inner).poll_read(cx, buf) {
            if buf.filled().len() > filled {
                self.note_bytes_read();
            } else if result.is_ok() && !self.progress.can_be_given_up() {
                ready!(self.poll_held(cx));
            }
            return Poll::Ready(result);
        }
        ready!(self.poll_overdue(cx));
        // An end of file: hyper closes an idle connection silently and drops half a head.
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for DeadlineIo<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.note_sent(&sent);
        sent
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.note_sent(&sent);
        sent
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let leaves_unread = self.leaves_unread();
        let Self { inner, timer, closing, .. } = &mut *self;
        closing.poll(inner, timer, leaves_unread, cx)
    }
}
