//! Connections to the app, each with a note of what came in over it: so a pooled connection that was closing while a request
//! met it can be told from one that broke off an answer.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use http::{Extensions, Uri};
use hyper_util::client::legacy::Error as PoolError;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tower_service::Service;

type Opened = Result<TokioIo<Noted>, <HttpConnector as Service<Uri>>::Error>;

/// Opens connections.
#[derive(Debug, Clone)]
pub struct Connector(pub HttpConnector);

/// What has come over one connection.
#[derive(Debug, Default)]
struct Wire {
    has_answered: AtomicBool,
    came_since_asked: AtomicBool,
}

/// A connection that notes what comes.
#[derive(Debug)]
pub struct Noted {
    stream: TcpStream,
    wire: Arc<Wire>,
}

/// Whether the connection of `error` had served before, and nothing came since the request was written.
pub fn died_idle(error: &PoolError) -> bool {
    let mut extras = Extensions::new();
    error.connect_info().inspect(|connected| connected.get_extras(&mut extras));
    extras
        .get::<Arc<Wire>>()
        .is_some_and(|wire| wire.has_answered.load(Ordering::Relaxed) && !wire.came_since_asked.load(Ordering::Relaxed))
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Noted>;
    type Error = <HttpConnector as Service<Uri>>::Error;
    type Future = Pin<Box<dyn Future<Output = Opened> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let opening = self.0.call(uri);
        Box::pin(async move {
            let stream = opening.await?.into_inner();
            Ok(TokioIo::new(Noted { stream, wire: Arc::default() }))
        })
    }
}

impl Connection for Noted {
    fn connected(&self) -> Connected {
        Connected::new().extra(Arc::clone(&self.wire))
    }
}

impl AsyncRead for Noted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.wire.has_answered.store(true, Ordering::Relaxed);
            self.wire.came_since_asked.store(true, Ordering::Relaxed);
        }
        polled
    }
}

impl AsyncWrite for Noted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.wire.came_since_asked.store(false, Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.wire.came_since_asked.store(false, Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
