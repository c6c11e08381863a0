//! Connections that count what comes in over them, so that a kept connection that was closing while a request met it can be
//! told from one that broke off an answer.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use hyper_rustls::MaybeHttpsStream;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::transcript::Transcript;

/// What has come over one connection. Rides along with every answer that hyper's pool has from it.
#[derive(Debug, Default)]
pub struct Wire {
    read: AtomicU64,
    /// `read` when the connection was last known to owe nothing; 0 while it has not served yet.
    settled: AtomicU64,
}

/// A connection, in the clear or over TLS, whose incoming bytes are counted.
#[derive(Debug)]
pub struct Wired {
    stream: TokioIo<MaybeHttpsStream<TokioIo<TcpStream>>>,
    wire: Arc<Wire>,
    /// The peer takes no more.
    is_deaf: bool,
    transcript: Option<Arc<Transcript>>,
}

impl Wire {
    /// Whatever has come so far belongs to answers that were whole; the connection may serve again.
    pub fn settle(&self) {
        self.settled.store(self.read.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Whether it had served before and nothing came since: then the request met a connection that was already closing.
    pub fn died_idle(&self) -> bool {
        let settled = self.settled.load(Ordering::Relaxed);
        settled > 0 && self.read.load(Ordering::Relaxed) == settled
    }
}

impl Wired {
    /// Counts what comes over `stream`, and notes what passes where there is a `transcript`.
    pub fn noting(stream: MaybeHttpsStream<TokioIo<TcpStream>>, transcript: Option<Arc<Transcript>>) -> Self {
        if let Some(transcript) = &transcript {
            let (socket, tls) = match &stream {
                MaybeHttpsStream::Http(socket) => (socket.inner(), None),
                MaybeHttpsStream::Https(stream) => {
                    let (socket, tls) = stream.inner().get_ref();
                    (socket.inner().inner(), Some(tls))
                }
            };
            transcript.connected(socket.peer_addr().ok(), tls);
        }
        Self { stream: TokioIo::new(stream), wire: Arc::default(), is_deaf: false, transcript }
    }

    /// The count.
    pub fn wire(&self) -> &Arc<Wire> {
        &self.wire
    }

    /// The socket itself, where there is no TLS on it.
    pub fn into_clear(self) -> Result<TcpStream, Box<Self>> {
        match self.stream.into_inner() {
            MaybeHttpsStream::Http(socket) => Ok(socket.into_inner()),
            stream @ MaybeHttpsStream::Https(_) => Err(Box::new(Self { stream: TokioIo::new(stream), ..self })),
        }
    }
}

impl Wired {
    /// A peer that answers an upload before it has read it, and closes, may still have been read by nobody: its answer lies in
    /// front of the reset. So what cannot be written any more counts as written, and whoever reads decides.
    fn heard(&mut self, written: Poll<io::Result<usize>>, offered: usize) -> Poll<io::Result<usize>> {
        let lost = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
        match written {
            Poll::Ready(Err(error)) if lost.contains(&error.kind()) => {
                self.is_deaf = true;
                Poll::Ready(Ok(offered))
            }
            written => written,
        }
    }
}

impl Connection for Wired {
    fn connected(&self) -> Connected {
        self.stream.connected().extra(Arc::clone(&self.wire))
    }
}

impl AsyncRead for Wired {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.wire.read.fetch_add((buf.filled().len() - before) as u64, Ordering::Relaxed);
        if let Some(transcript) = &self.transcript {
            transcript.received(&buf.filled()[before..]);
        }
        polled
    }
}

impl AsyncWrite for Wired {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_deaf {
            return Poll::Ready(Ok(buf.len()));
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let (Some(transcript), Poll::Ready(Ok(written))) = (&self.transcript, &written) {
            transcript.sent(&buf[..*written]);
        }
        self.heard(written, buf.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let offered = bufs.iter().map(|buf| buf.len()).sum();
        if self.is_deaf {
            return Poll::Ready(Ok(offered));
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        if let (Some(transcript), Poll::Ready(Ok(written))) = (&self.transcript, &written) {
            transcript.sent_pieces(bufs, *written);
        }
        self.heard(written, offered)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_deaf {
            return Poll::Ready(Ok(()));
        }
        let flushed = Pin::new(&mut self.stream).poll_flush(cx).map_ok(|()| 0);
        self.heard(flushed, 0).map_ok(drop)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn came(wire: &Wire, bytes: u64) {
        wire.read.fetch_add(bytes, Ordering::Relaxed);
    }

    #[test]
    fn only_what_served_before_and_is_silent_since_died_idle() {
        let wire = Wire::default();
        assert!(!wire.died_idle(), "new");
        came(&wire, 10);
        assert!(!wire.died_idle(), "an answer was cut");
        wire.settle();
        assert!(wire.died_idle());
        came(&wire, 1);
        assert!(!wire.died_idle(), "the next answer was cut");
    }
}
