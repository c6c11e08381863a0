//! Puts deadlines under hyper, which has none of its own for a peer that stops writing or reading (hyper's only one, for
//! the head, also counts idle time). Wraps the socket; vectored writes pass through unchanged.
//!
//! | the connection waits for | deadline | then |
//! |---|---|---|
//! | the rest of a head | `timeouts.head`, from its first byte | closed |
//! | the next request | `timeouts.keep_alive`, from the end of the last answer; 2 s once the listener is gone | closed |
//! | the peer to read | `timeouts.write`, without any progress | reset |
//! | the app, an event, a tunnel's peer | none here | |
//! | the peer to stop sending, after we closed with something of its unread | 5 s, 4 MiB | closed |
//!
//! hyper asks for the next byte when it awaits one, and does not ask again when an exchange ends. So a ring is always set:
//! what it finds then decides. Part of a head that came along with the request before it counts as idle.
//!
//! A client that closes its end while it waits is gone, and its answer is dropped: only so is a hang-up noticed in time. One
//! that closes its end right behind its request still gets what can be answered at once, and all of what is being sent.
//!
//! The first byte of a connection is awaited before this wrapper exists (see [`super::connection`]); pieces of a request
//! body are timed where they are read (see [`crate::body::timed`]).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::Timeouts;
use super::progress::Progress;

/// How long an idle connection may still send a request after the listener is gone (S38).
const LAST_REQUEST: Duration = Duration::from_secs(2);

/// How long the end of a client's words is overlooked at a time while an answer is on its way.
const HOLD_END: Duration = Duration::from_millis(20);

/// With something unread in the socket a plain close would become a reset, which overtakes our last answer: what still
/// comes is read and dropped for so long,
const LINGER: Duration = Duration::from_secs(5);
/// and so many bytes of it.
const LINGER_BYTES: usize = 4 * 1024 * 1024;

/// A socket whose silent peer is dropped in time.
#[derive(Debug)]
pub struct DeadlineIo<T> {
    inner: T,
    timeouts: Timeouts,
    progress: Arc<Progress>,
    reading: Waiting,
    read_timer: Timer,
    write_timer: Timer,
    /// When the write that cannot proceed began to wait.
    stalled_since: Option<Instant>,
    /// When the last such write went on.
    went_on: Option<Instant>,
    closing: Closing,
}

/// How far the close has come.
#[derive(Debug, Clone, Copy)]
enum Closing {
    Open,
    /// Our end is said; what the peer still sends is dropped.
    Lingering {
        until: Instant,
        dropped: usize,
    },
    Done,
}

/// What the next byte would be, and since when it is awaited.
#[derive(Debug, Clone, Copy)]
enum Waiting {
    /// Nothing read since the last answer, or a part of its request's body.
    Idle,
    /// Part of a head was read while `served` requests had been begun.
    Head { since: Instant, served: u32 },
}

impl<T> DeadlineIo<T> {
    /// Wraps a socket whose first byte has just become readable.
    pub fn new(inner: T, timeouts: Timeouts, progress: Arc<Progress>) -> Self {
        let reading = Waiting::Head { since: Instant::now(), served: progress.served() };
        let (read_timer, write_timer) = (Timer::default(), Timer::default());
        Self {
            inner,
            timeouts,
            progress,
            reading,
            read_timer,
            write_timer,
            stalled_since: None,
            went_on: None,
            closing: Closing::Open,
        }
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
            _ => self.reading = Waiting::Head { since: Instant::now(), served },
        }
    }

    /// When the awaited byte is overdue; `None` while an answer is made or sent.
    fn read_deadline(&mut self) -> Option<Instant> {
        if self.progress.in_exchange() || self.stalled_since.is_some() {
            self.reading = Waiting::Idle;
            return None;
        }
        match self.reading {
            Waiting::Head { since, served } if served == self.progress.served() => Some(since + self.timeouts.head),
            _ => {
                self.reading = Waiting::Idle;
                Some(self.end_of_idling())
            }
        }
    }

    fn end_of_idling(&self) -> Instant {
        let since = self.went_on.map_or(self.progress.idle_since(), |went_on| went_on.max(self.progress.idle_since()));
        let end = since + self.timeouts.keep_alive;
        self.progress.hurried_since().map_or(end, |hurried| end.min(hurried.max(since) + LAST_REQUEST))
    }

    /// Ready when the awaited byte is overdue.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.read_deadline() else {
            // Rings early enough for whatever deadline begins when this exchange ends.
            let _ = self.read_timer.poll_at(Instant::now() + self.shortest_idling(), cx);
            return Poll::Pending;
        };
        if let Waiting::Head { since, .. } = self.reading {
            // The same: this head may become a request, and idle again, before the head would be overdue.
            ready!(self.read_timer.poll_at(deadline.min(since + self.shortest_idling()), cx));
        }
        self.read_timer.poll_at(deadline, cx)
    }

    fn shortest_idling(&self) -> Duration {
        let hurried = self.progress.hurried_since().is_some();
        if hurried { self.timeouts.keep_alive.min(LAST_REQUEST) } else { self.timeouts.keep_alive }
    }

    fn poll_stall(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let since = *self.stalled_since.get_or_insert_with(Instant::now);
        ready!(self.write_timer.poll_at(since + self.timeouts.write, cx));
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "the client reads nothing: timeouts.write is over"))
    }

    fn note_write<R>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        match outcome {
            Poll::Ready(result) => {
                if self.stalled_since.take().is_some() {
                    self.went_on = Some(Instant::now());
                }
                Poll::Ready(result)
            }
            Poll::Pending => self.poll_stall(cx).map(Err),
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for DeadlineIo<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let filled = buf.filled().len();
        if let Poll::Ready(result) = Pin::new(&mut self.inner).poll_read(cx, buf) {
            if buf.filled().len() > filled {
                self.note_bytes_read();
            } else if result.is_ok() && !self.progress.can_be_given_up() {
                // The end is there to stay: it is looked at again.
                let _ = self.read_timer.poll_at(Instant::now() + HOLD_END, cx);
                return Poll::Pending;
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
        let outcome = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.note_write(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.note_write(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if matches!(self.closing, Closing::Open) {
            ready!(Pin::new(&mut self.inner).poll_shutdown(cx))?;
            let lingering = Closing::Lingering { until: Instant::now() + LINGER, dropped: 0 };
            self.closing = if self.leaves_unread() { lingering } else { Closing::Done };
        }
        self.poll_linger(cx).map(Ok)
    }
}

impl<T: AsyncRead + Unpin> DeadlineIo<T> {
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut buffer = [0; 4096];
        while let Closing::Lingering { until, dropped } = self.closing {
            let mut dropping = ReadBuf::new(&mut buffer);
            let read = match Pin::new(&mut self.inner).poll_read(cx, &mut dropping) {
                Poll::Pending => {
                    ready!(self.read_timer.poll_at(until, cx));
                    0
                }
                Poll::Ready(Ok(())) => dropping.filled().len(),
                Poll::Ready(Err(_)) => 0,
            };
            let dropped = dropped + read;
            let over = read == 0 || dropped > LINGER_BYTES || Instant::now() > until;
            self.closing = if over { Closing::Done } else { Closing::Lingering { until, dropped } };
        }
        Poll::Ready(())
    }
}

/// A timer that is made when first needed and set anew only when it would ring too late: on the way of a request, moving
/// a deadline back costs nothing.
#[derive(Debug, Default)]
struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    fn poll_at(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline || sleep.is_elapsed() {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}
