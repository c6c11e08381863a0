//! A request body that comes back when nothing of it was read: so a call that found no connection can go to the next host
//! without its body having been kept in memory.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::body::timed::{BodyError, TimedBody, Watch};

/// Where a body is while it is not lent.
#[derive(Clone)]
pub struct Home(Arc<Mutex<Option<TimedBody>>>);

/// A body on its way.
pub struct Lent {
    body: Option<TimedBody>,
    home: Home,
    is_read: bool,
}

impl Home {
    /// The home of `body`.
    pub fn of(body: TimedBody) -> Self {
        Self(Arc::new(Mutex::new(Some(body))))
    }

    /// Lends the body, and lets the caller see how it moves; `None` when it did not come back.
    pub fn lend(&self) -> Option<(Lent, Watch)> {
        let mut body = self.body().take()?;
        let last_piece = body.watch();
        Some((Lent { body: Some(body), home: self.clone(), is_read: false }, last_piece))
    }

    fn body(&self) -> std::sync::MutexGuard<'_, Option<TimedBody>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if !self.is_read {
            *self.home.body() = self.body.take();
        }
    }
}

impl Body for Lent {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.is_read = true;
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        Pin::new(body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_body_comes_back_unless_it_was_read() {
        let home = Home::of(TimedBody::nothing());
        drop(home.lend().expect("it is there"));
        let (mut lent, _) = home.lend().expect("it came back");
        assert!(home.lend().is_none(), "it is lent");
        assert!(lent.frame().await.is_none());
        drop(lent);
        assert!(home.lend().is_none(), "it was read");
    }
}
