//! A request body whose pieces must keep coming: `timeouts.body` bounds the time between two of them, counted only while
//! somebody waits for one. A body promised and not sent ends in an error instead of holding the app's connection; a body
//! that nobody read to its end is reported, since its connection cannot serve another request.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep};

use crate::limit::UnderWay;

/// A request body with a deadline between its pieces.
#[derive(Debug)]
pub struct TimedBody {
    incoming: Option<Incoming>,
    between_pieces: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
    ended: bool,
    unread: Unread,
    watch: Option<Watch>,
    under_way: Option<UnderWay>,
}

/// When the last piece of something that moves, such as a request body, was passed on.
#[derive(Debug, Clone)]
pub struct LastPiece(Arc<Mutex<Instant>>);

impl LastPiece {
    /// Begins to watch.
    pub fn now() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    /// When that was; when the watch began, if there was none.
    pub fn at(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a piece moves just now.
    pub fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

/// Sees a request body after it was handed on: over HTTP/2 its failure is a reset stream, which does not say why.
#[derive(Debug, Clone)]
pub struct Watch {
    last_piece: LastPiece,
    failure: Arc<OnceLock<BodyFailure>>,
}

/// How a request body failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFailure {
    /// The next piece did not come in time.
    Overdue,
    /// The connection failed.
    Broken,
}

impl Watch {
    fn begin() -> Self {
        Self { last_piece: LastPiece::now(), failure: Arc::default() }
    }

    /// When its last piece was passed on.
    pub fn last_piece(&self) -> Instant {
        self.last_piece.at()
    }

    /// How it failed, if it did.
    pub fn failure(&self) -> Option<BodyFailure> {
        self.failure.get().copied()
    }
}

/// Tells whether something that a connection's client sent is left unread: the rest of a body, or what was meant for a
/// protocol that nobody switched to.
#[derive(Debug, Clone, Default)]
pub struct Unread(Arc<AtomicBool>);

impl Unread {
    /// Whether something is, or may be.
    pub fn is_left(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Notes that it is: the connection then ends with the answer.
    pub fn leave(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Why a request body ended before its end.
#[derive(Debug)]
pub enum BodyError {
    /// The next piece did not come in time.
    Overdue(Duration),
    /// The connection failed.
    Broken(hyper::Error),
}

impl TimedBody {
    /// Wraps `incoming`; `unread` learns when it is dropped early.
    pub fn new(incoming: Incoming, between_pieces: Duration, unread: Unread) -> Self {
        Self::of(Some(incoming), between_pieces, unread)
    }

    /// No body.
    pub fn nothing() -> Self {
        Self::of(None, Duration::ZERO, Unread::default())
    }

    fn of(incoming: Option<Incoming>, between_pieces: Duration, unread: Unread) -> Self {
        let ended = incoming.is_none();
        Self { incoming, between_pieces, timer: None, waiting: false, ended, unread, watch: None, under_way: None }
    }

    /// Lets the caller see how the body moves after it was handed on.
    pub fn watch(&mut self) -> Watch {
        self.watch.get_or_insert_with(Watch::begin).clone()
    }

    /// Its request is under way until it ends, though its answer may have ended before.
    pub fn holds(&mut self, under_way: UnderWay) {
        self.under_way = Some(under_way);
    }

    /// Tells what of this body's connection is left unread.
    pub fn unread(&self) -> &Unread {
        &self.unread
    }

    /// A chunked body does not know its end until it was read; trailers are the end as well.
    fn note(&mut self, piece: Option<&Frame<Bytes>>) {
        self.waiting = false;
        self.ended = piece.is_none_or(Frame::is_trailers);
        if let Some(watch) = &self.watch {
            watch.last_piece.note();
        }
    }

    fn fail(&self, error: BodyError) -> BodyError {
        if let Some(watch) = &self.watch {
            // The first is what it failed of.
            let _ = watch.failure.set(match error {
                BodyError::Overdue(_) => BodyFailure::Overdue,
                BodyError::Broken(_) => BodyFailure::Broken,
            });
        }
        error
    }

    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        let limit = self.between_pieces;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        if !std::mem::replace(&mut self.waiting, true) {
            timer.as_mut().reset(Instant::now() + limit);
        }
        timer.as_mut().poll(cx).map(|()| BodyError::Overdue(limit))
    }
}

impl Drop for TimedBody {
    fn drop(&mut self) {
        if !self.ended && !self.is_end_stream() {
            self.unread.leave();
        }
    }
}

impl Body for TimedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        match Pin::new(incoming).poll_frame(cx) {
            Poll::Ready(Some(Err(broken))) => Poll::Ready(Some(Err(self.fail(BodyError::Broken(broken))))),
            Poll::Ready(piece) => {
                let piece = piece.and_then(Result::ok);
                self.note(piece.as_ref());
                Poll::Ready(piece.map(Ok))
            }
            Poll::Pending => self.poll_overdue(cx).map(|overdue| Some(Err(self.fail(overdue)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint)
    }
}

impl std::fmt::Display for BodyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Overdue(limit) => write!(f, "no piece of the request body came within {limit:?}"),
            Self::Broken(_) => f.write_str("the request body broke off"),
        }
    }
}

impl std::error::Error for BodyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Overdue(_) => None,
            Self::Broken(cause) => Some(cause),
        }
    }
}
