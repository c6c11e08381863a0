//! A request body whose pieces must keep coming: `timeouts.body` bounds the time between two of them, counted only while
//! somebody waits for one. A body promised and not sent ends in an error instead of holding the app's connection; a body
//! that nobody read to its end is reported, since its connection cannot serve another request.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep};

/// A request body with a deadline between its pieces.
#[derive(Debug)]
pub struct TimedBody {
    incoming: Incoming,
    between_pieces: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
    unread: Unread,
}

/// Tells whether a request body was dropped before its end.
#[derive(Debug, Clone, Default)]
pub struct Unread(Arc<AtomicBool>);

impl Unread {
    /// Whether the body was dropped with something of it unread.
    pub fn is_left(&self) -> bool {
        self.0.load(Ordering::Relaxed)
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
        Self { incoming, between_pieces, timer: None, waiting: false, unread }
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
        if !self.incoming.is_end_stream() {
            self.unread.0.store(true, Ordering::Relaxed);
        }
    }
}

impl Body for TimedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(piece) => {
                self.waiting = false;
                Poll::Ready(piece.map(|frame| frame.map_err(BodyError::Broken)))
            }
            Poll::Pending => self.poll_overdue(cx).map(|overdue| Some(Err(overdue))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
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
