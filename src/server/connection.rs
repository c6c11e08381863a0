//! One client connection, from its first byte to a close that loses nothing.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::Timeouts;
use super::deadline_io::DeadlineIo;
use super::drain::Drain;
use super::progress::{Exchange, Progress};
use super::workers::Accepted;
use crate::body::Body;
use crate::body::timed::TimedBody;
use crate::exchange::Exchanges;
use crate::metrics::Metrics;

/// Header fields in one head; hyper answers 431 past it.
const MAX_HEADERS: usize = 128;

/// Bytes of one head: real apps carry big cookies.
const MAX_HEAD: usize = 32 * 1024;

/// Bytes hyper may read ahead, of an upload say; left alone it grows to some 400 KiB a connection.
const MAX_READ_AHEAD: usize = 64 * 1024;

/// Serves the connections of one worker.
pub struct Connections {
    exchanges: Exchanges,
    timeouts: Timeouts,
    drain: Drain,
    metrics: Arc<Metrics>,
    http1: http1::Builder,
}

impl Connections {
    /// Serves through `exchanges` under `timeouts` until `drain`.
    pub fn new(exchanges: Exchanges, timeouts: Timeouts, drain: Drain, metrics: Arc<Metrics>) -> Self {
        let mut http1 = http1::Builder::new();
        // `pipeline_flush` stays off: it would copy every body to put it behind its head. No timer: DeadlineIo has them.
        http1.max_headers(MAX_HEADERS).max_header_size(MAX_HEAD).max_buf_size(MAX_READ_AHEAD).half_close(false);
        Self { exchanges, timeouts, drain, metrics, http1 }
    }

    /// The drain these connections heed.
    pub fn drain(&self) -> &Drain {
        &self.drain
    }

    /// Serves one connection to its end. Dropping the future resets it.
    pub async fn serve(&self, accepted: Accepted) {
        let Accepted { stream, peer, place: _place } = accepted;
        let Ok(stream) = TcpStream::from_std(stream) else { return };
        let _open = self.metrics.connection_opened();
        if self.first_byte_came(&stream).await {
            self.exchange_all(stream, peer).await;
        }
    }

    /// A silent connection costs a socket and this future, no buffers.
    async fn first_byte_came(&self, stream: &TcpStream) -> bool {
        matches!(tokio::time::timeout(self.timeouts.first_byte, stream.readable()).await, Ok(Ok(())))
    }

    async fn exchange_all(&self, stream: TcpStream, peer: SocketAddr) {
        let progress = Progress::start();
        let io = TokioIo::new(DeadlineIo::new(stream, self.timeouts, Arc::clone(&progress)));
        // Begun here, not when it is first polled: hyper may see the client's end in between.
        let service = service_fn(|request| self.exchange(request, peer, progress.begin(), &progress));
        let mut connection = pin!(self.http1.serve_connection(io, service));
        let ended = tokio::select! {
            biased;
            ended = &mut connection => ended,
            () = self.drain.listener_gone() => {
                progress.hurry();
                connection.await
            }
        };
        if let Err(error) = ended {
            self.note(&error, peer);
        }
    }

    fn note(&self, error: &hyper::Error, peer: SocketAddr) {
        tracing::debug!(%error, %peer, "a connection broke");
        if error.is_parse() {
            let status = if error.is_parse_too_large() {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            } else {
                StatusCode::BAD_REQUEST
            };
            self.exchanges.malformed(status, peer);
        }
    }

    async fn exchange(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
        exchange: Exchange,
        progress: &Progress,
    ) -> Result<Response<SentBody>, Infallible> {
        let thinking = exchange.think();
        let request = request.map(|body| TimedBody::new(body, self.timeouts.body, progress.unread().clone()));
        let mut response = self.exchanges.serve(request, peer).await;
        drop(thinking);
        if progress.unread().is_left() || self.drain.is_announced() {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response.map(|body| SentBody { body, _exchange: exchange }))
    }
}

/// A response body that keeps its exchange open until it is sent or dropped.
pub struct SentBody {
    body: Body,
    _exchange: Exchange,
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
