//! Connections to the origin: name, TCP and TLS under one deadline, and a count of what came in over each, so that a
//! pooled connection that died unused can be told from an answer that was cut.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tower_service::Service;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Opening = Pin<Box<dyn Future<Output = Result<TokioIo<Counted>, BoxError>> + Send>>;

/// Opens connections.
#[derive(Debug, Clone)]
pub struct Connector {
    https: HttpsConnector<HttpConnector>,
    timeout: Duration,
}

/// What has come over one connection. Rides along with every answer on it.
#[derive(Debug, Default)]
pub struct Wire {
    bytes_read: AtomicU64,
    settled_at: AtomicU64,
    answers: AtomicU32,
}

/// The connection was not there in time.
#[derive(Debug)]
pub struct ConnectTimedOut;

impl Connector {
    /// A connector that verifies by `tls` and gives up after `timeout`.
    pub fn new(tls: rustls::ClientConfig, timeout: Duration) -> Self {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
        Self { https: https.enable_all_versions().wrap_connector(http), timeout }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Counted>;
    type Error = BoxError;
    type Future = Opening;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.https.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Opening {
        let opening = tokio::time::timeout(self.timeout, self.https.call(uri));
        Box::pin(async move {
            let stream = opening.await.map_err(|_| ConnectTimedOut)??;
            Ok(TokioIo::new(Counted { stream: TokioIo::new(stream), wire: Arc::default() }))
        })
    }
}

impl Wire {
    /// An answer has come whole; the connection may serve again.
    pub fn settle(&self) {
        self.answers.fetch_add(1, Ordering::Relaxed);
        self.settled_at.store(self.bytes_read.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Whether it had served before and nothing came since: then the request met a connection that was already closing.
    pub fn died_idle(&self) -> bool {
        self.answers.load(Ordering::Relaxed) > 0
            && self.bytes_read.load(Ordering::Relaxed) == self.settled_at.load(Ordering::Relaxed)
    }
}

/// A connection whose incoming bytes are counted.
#[derive(Debug)]
pub struct Counted {
    stream: TokioIo<MaybeHttpsStream<TokioIo<TcpStream>>>,
    wire: Arc<Wire>,
}

impl Connection for Counted {
    fn connected(&self) -> Connected {
        self.stream.connected().extra(Arc::clone(&self.wire))
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.wire.bytes_read.fetch_add((buf.filled().len() - before) as u64, Ordering::Relaxed);
        polled
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl std::fmt::Display for ConnectTimedOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no connection in time")
    }
}

impl std::error::Error for ConnectTimedOut {}
