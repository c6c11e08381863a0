//! Message bodies. Here: the body of an answer, which is cached bytes, nothing, or the app's own stream. Cached bytes go
//! out as they lie in the cache, in one frame that shares them. In [`counted`]: what of a stream was sent; in [`timed`]: the
//! body of a request; in [`tunnel`]: what follows when protocols are switched; in [`whole`]: small bodies, read to their ends.

pub mod counted;
pub mod timed;
pub mod tunnel;
pub mod whole;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use counted::Counted;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tunnel::Tunnel;

use crate::limit::UnderWay;

/// What is sent after the head.
#[derive(Debug, Default)]
pub enum Body {
    /// Nothing (more) to send.
    #[default]
    Empty,
    /// These bytes, whole.
    Bytes(Bytes),
    /// The app's answer, as it comes, and what it holds meanwhile.
    App(Counted<Incoming>, Held),
    /// No body: what follows a 101. Whoever owns the connection takes it out and carries it.
    Tunnel(Box<Tunnel>),
}

/// What an answer holds until it has ended.
#[derive(Debug)]
pub struct Held {
    /// Its request is under way.
    pub under_way: UnderWay,
    /// On a connection to the app that it shares, if it does.
    pub seat: Option<Seat>,
}

/// One of the exchanges on a connection that many share; held until its answer has ended.
#[derive(Debug, Clone, Default)]
pub struct Seat(Arc<()>);

impl Seat {
    /// How many others there are.
    pub fn taken(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }
}

impl Body {
    /// The app's answer, when it is one.
    pub fn stream(&mut self) -> Option<&mut Counted<Incoming>> {
        if let Self::App(incoming, _) = self { Some(incoming) } else { None }
    }

    /// Takes the tunnel out; nothing is left to send then.
    pub fn take_tunnel(&mut self) -> Option<Tunnel> {
        match std::mem::take(self) {
            Self::Tunnel(tunnel) => Some(*tunnel),
            other => {
                *self = other;
                None
            }
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Self::App(incoming, _) = &mut *self {
            return Pin::new(incoming).poll_frame(cx);
        }
        Poll::Ready(match std::mem::take(&mut *self) {
            Self::Bytes(bytes) if !bytes.is_empty() => Some(Ok(Frame::data(bytes))),
            _ => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty | Self::Tunnel(_) => true,
            Self::Bytes(bytes) => bytes.is_empty(),
            Self::App(incoming, _) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Tunnel(_) => SizeHint::with_exact(0),
            Self::Bytes(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::App(incoming, _) => incoming.size_hint(),
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}
