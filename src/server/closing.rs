//! A close that does not overtake our last words. With something unread in the socket a plain close would become a reset,
//! and what was written before it might never be read.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::timer::Timer;

/// What still comes after our end is read and dropped for so long,
const LINGER: Duration = Duration::from_secs(5);
/// and so many bytes of it.
const LINGER_BYTES: usize = 4 * 1024 * 1024;

/// How far the close has come.
#[derive(Debug, Clone, Copy, Default)]
pub enum Closing {
    /// Nothing of it has begun.
    #[default]
    Open,
    /// Our end is said; what the peer still sends is dropped.
    Lingering {
        /// How long.
        until: Instant,
        /// Bytes so far.
        dropped: usize,
    },
    /// The socket may go.
    Done,
}

impl Closing {
    /// Says our end, and lingers when the peer `may_send` more.
    pub fn poll<T: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        socket: &mut T,
        timer: &mut Timer,
        may_send: bool,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if matches!(self, Self::Open) {
            ready!(Pin::new(&mut *socket).poll_shutdown(cx))?;
            *self = if may_send { Self::Lingering { until: Instant::now() + LINGER, dropped: 0 } } else { Self::Done };
        }
        self.poll_linger(socket, timer, cx).map(Ok)
    }

    fn poll_linger<T: AsyncRead + Unpin>(
        &mut self,
        socket: &mut T,
        timer: &mut Timer,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let mut buffer = [0; 4096];
        while let Self::Lingering { until, dropped } = *self {
            let mut dropping = ReadBuf::new(&mut buffer);
            let read = match Pin::new(&mut *socket).poll_read(cx, &mut dropping) {
                Poll::Pending => {
                    ready!(timer.poll_at(until, cx));
                    0
                }
                Poll::Ready(Ok(())) => dropping.filled().len(),
                Poll::Ready(Err(_)) => 0,
            };
            let dropped = dropped + read;
            let over = read == 0 || dropped > LINGER_BYTES || Instant::now() > until;
            *self = if over { Self::Done } else { Self::Lingering { until, dropped } };
        }
        Poll::Ready(())
    }
}

/// A socket that always lingers, since its peer may send at any time.
#[derive(Debug)]
pub struct LingeringIo<T> {
    inner: T,
    timer: Timer,
    closing: Closing,
}

impl<T> LingeringIo<T> {
    /// Wraps `inner`.
    pub fn new(inner: T) -> Self {
        Self { inner, timer: Timer::default(), closing: Closing::default() }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for LingeringIo<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for LingeringIo<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { inner, timer, closing } = &mut *self;
        closing.poll(inner, timer, true, cx)
    }
}
