//! A body that streams, of which somebody wants to know what was sent, and how it ended.

use std::fmt::Debug;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// How a body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With its last byte.
    Whole,
    /// Whoever sends it failed.
    Cut,
    /// Whoever reads it went away.
    GivenUp,
}

/// Sees a body go by.
pub trait Onlooker: Debug + Send + Sync {
    /// `bytes` more were handed to the connection.
    fn passed(&self, bytes: u64);

    /// That was all: `bytes` together.
    fn ended(self: Box<Self>, end: End, bytes: u64);
}

/// A body, and who looks on.
#[derive(Debug)]
pub struct Counted<B: Body> {
    body: B,
    bytes: u64,
    end: Option<End>,
    onlooker: Option<Box<dyn Onlooker>>,
}

impl<B: Body> Counted<B> {
    /// Nobody looks on yet.
    pub fn new(body: B) -> Self {
        Self { body, bytes: 0, end: None, onlooker: None }
    }

    /// Has `onlooker` see what goes by from now on. It hears of the end when the body is dropped.
    pub fn show(&mut self, onlooker: Box<dyn Onlooker>) {
        self.onlooker = Some(onlooker);
    }
}

impl<B: Body> Drop for Counted<B> {
    fn drop(&mut self) {
        let Some(onlooker) = self.onlooker.take() else { return };
        let left = if self.body.is_end_stream() { End::Whole } else { End::GivenUp };
        onlooker.ended(self.end.unwrap_or(left), self.bytes);
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Counted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Pending => {}
            Poll::Ready(None) => self.end = Some(End::Whole),
            Poll::Ready(Some(Err(_))) => self.end = Some(End::Cut),
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
                self.bytes += bytes;
                if let Some(onlooker) = &self.onlooker {
                    onlooker.passed(bytes);
                }
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
