//! Cuts off a peer that reads nothing: `timeouts.write` bounds a write that makes no progress. Lies right on the socket,
//! below TLS, since only there progress can be seen: what rustls holds back may leave it in many small pieces. Vectored
//! writes pass through unchanged. Such a peer is reset: behind an ordinary close the kernel would keep what it does not read,
//! for minutes after the connection has given its place back.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::deadline_io::Readable;
use super::progress::Progress;
use super::timer::Timer;

/// A socket that is given up when its peer stops reading.
#[derive(Debug)]
pub struct WriteDeadline<T> {
    inner: T,
    limit: Duration,
    progress: Arc<Progress>,
    timer: Timer,
    /// When the write that cannot proceed began to wait.
    stalled_since: Option<Instant>,
}

/// A socket whose close can be a reset.
pub trait Reset {
    /// Makes it one.
    fn reset_when_closed(&self);
}

impl Reset for TcpStream {
    fn reset_when_closed(&self) {
        let _ = self.set_zero_linger();
    }
}

impl<T> WriteDeadline<T> {
    /// Wraps `inner`; `progress` learns of writes that cannot proceed.
    pub fn new(inner: T, limit: Duration, progress: Arc<Progress>) -> Self {
        Self { inner, limit, progress, timer: Timer::default(), stalled_since: None }
    }
}

impl<T: Reset> WriteDeadline<T> {
    fn note<R>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        match outcome {
            Poll::Ready(result) => {
                if self.stalled_since.take().is_some() {
                    self.progress.go_on();
                }
                Poll::Ready(result)
            }
            Poll::Pending => self.poll_overdue(cx).map(Err),
        }
    }

    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let since = *self.stalled_since.get_or_insert_with(|| {
            self.progress.stall();
            Instant::now()
        });
        ready!(self.timer.poll_at(since + self.limit, cx));
        self.inner.reset_when_closed();
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "the client reads nothing: timeouts.write is over"))
    }
}

impl<T: Readable> Readable for WriteDeadline<T> {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.poll_readable(cx)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for WriteDeadline<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Reset + Unpin> AsyncWrite for WriteDeadline<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.note(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.note(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
