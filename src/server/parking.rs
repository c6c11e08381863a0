//! An idle connection needs none of hyper's buffers, which take 16 KiB. So, when a client has asked for nothing for half a
//! second, hyper is told that the client's words have ended; it lets go, and the socket, with its deadlines, waits alone. What
//! comes next wakes a new hyper over the same socket.
//!
//! hyper must not hold a byte then, or it would be lost. Nothing here can look into its buffer. But a message
//! that ends with its head leaves nothing behind when what was read last ends with that head too: then hyper has taken all.
//! Everything else (a part of the next head that came along, a body) keeps hyper, and costs memory, not correctness.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::deadline_io::DeadlineIo;
use super::timer::Timer;

/// How long a connection idles before it is parked: a page's further images come within it.
pub(super) const PARK_AFTER: Duration = Duration::from_millis(500);

/// How long a long exchange is left alone before it is looked at again.
pub(super) const LONGEST_REST: Duration = Duration::from_secs(4);

/// What ends a head (RFC 9112 §2.1).
const END_OF_HEAD: [u8; 4] = *b"\r\n\r\n";

/// Where a socket is left when its connection is parked.
#[derive(Debug)]
pub struct Lot<T>(Arc<Mutex<Option<DeadlineIo<T>>>>);

/// A socket under hyper that can be parked.
#[derive(Debug)]
pub struct Parkable<T> {
    /// `None` once it is parked.
    io: Option<DeadlineIo<T>>,
    lot: Lot<T>,
    timer: Timer,
    /// When an exchange is looked at next, and how long it is left alone then.
    look_at: Option<Instant>,
    rest: Duration,
    /// The last bytes that were read.
    tail: [u8; END_OF_HEAD.len()],
}

impl<T> Default for Lot<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Lot<T> {
    /// Takes out what was parked.
    pub fn take(&self) -> Option<DeadlineIo<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn park(&self, io: Option<DeadlineIo<T>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = io;
    }
}

impl<T> Clone for Lot<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Parkable<T> {
    /// Wraps `io`, which is left in `lot` when it has idled.
    pub fn new(io: DeadlineIo<T>, lot: Lot<T>) -> Self {
        Self {
            io: Some(io),
            lot,
            timer: Timer::default(),
            look_at: None,
            rest: PARK_AFTER,
            tail: [0; END_OF_HEAD.len()],
        }
    }

    fn note_read(&mut self, read: &[u8]) {
        if let Some((_, last)) = read.split_last_chunk() {
            self.tail = *last;
        } else {
            self.tail.rotate_left(read.len());
            let kept = self.tail.len() - read.len();
            self.tail[kept..].copy_from_slice(read);
        }
    }

    /// Ready when it has idled long enough, and may be parked.
    fn poll_idled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.tail != END_OF_HEAD {
            // Only what is read next changes that.
            return Poll::Pending;
        }
        if let Some(since) = self.io.as_mut().and_then(DeadlineIo::idle_since) {
            self.rest = PARK_AFTER;
            return self.timer.poll_at(since + PARK_AFTER, cx);
        }
        // hyper does not ask again when an exchange ends: it is looked at, less and less often where one takes long.
        while self.look_at.is_none_or(|at| self.timer.poll_at(at, cx).is_ready()) {
            self.look_at = Some(Instant::now() + self.rest);
            self.rest = (self.rest * 2).min(LONGEST_REST);
        }
        Poll::Pending
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Parkable<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(io) = &mut self.io else { return Poll::Ready(Ok(())) };
        let before = buf.filled().len();
        if let Poll::Ready(read) = Pin::new(io).poll_read(cx, buf) {
            self.note_read(&buf.filled()[before..]);
            return Poll::Ready(read);
        }
        ready!(self.poll_idled(cx));
        let parked = self.io.take();
        self.lot.park(parked);
        Poll::Ready(Ok(()))
    }
}

/// hyper writes nothing to what is parked: it only says its end, which is not the socket's.
impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Parkable<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Some(io) => Pin::new(io).poll_write(cx, buf),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Some(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.io.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.as_mut().map_or(Poll::Ready(Ok(())), |io| Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.as_mut().map_or(Poll::Ready(Ok(())), |io| Pin::new(io).poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::metrics::Metrics;
    use crate::moment::Wall;
    use crate::server::Timeouts;
    use crate::server::progress::Progress;

    proptest! {
        #[test]
        fn the_end_of_what_was_read_is_known_in_whatever_pieces_it_came(pieces: Vec<Vec<u8>>) {
            let progress = Progress::start(&Metrics::new(Wall::from_unix(0)).tally());
            let mut parkable = Parkable::new(DeadlineIo::new((), Timeouts::default(), progress), Lot::default());
            for piece in &pieces {
                parkable.note_read(piece);
            }
            let whole = [vec![0; END_OF_HEAD.len()], pieces.concat()].concat();
            prop_assert_eq!(&parkable.tail[..], &whole[whole.len() - END_OF_HEAD.len()..]);
        }
    }
}
