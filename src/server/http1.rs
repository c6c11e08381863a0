//! HTTP/1.1 with one client: requests one after the other, each answered before the next is read; between two of them the
//! connection may be parked ([`super::parking`]).

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use http::{HeaderValue, Request, Response, header};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::{Connections, SentBody};
use super::deadline_io::{DeadlineIo, Readable};
use super::listener::Entrance;
use super::parking::{Lot, Parkable};
use super::places::Place;
use super::progress::{Exchange, Progress};
use crate::body::Body;
use crate::body::tunnel::Tunnel;
use crate::peer::Peer;

impl Connections {
    /// Speaks until the connection ends, a tunnel included.
    pub(super) async fn speak_http1<T>(
        &self,
        socket: T,
        peer: Peer,
        progress: Arc<Progress>,
        entrance: Entrance,
        place: &Place,
    ) where
        T: AsyncRead + AsyncWrite + Readable + Unpin + Send + 'static,
    {
        let mut io = DeadlineIo::new(socket, self.timeouts, Arc::clone(&progress));
        loop {
            // Boxed, so that a parked connection does not carry the room that hyper takes.
            let Some(parked) = Box::pin(self.converse(io, peer, &progress, entrance, place)).await else { return };
            io = parked;
            let wakes = tokio::select! {
                biased;
                wakes = self.wakes(&mut io, &progress) => wakes,
                () = self.gives_up(place) => false,
            };
            if !wakes {
                return;
            }
        }
    }

    /// Waits for a parked client's next word; false when it is overdue.
    async fn wakes(&self, parked: &mut DeadlineIo<impl Readable>, progress: &Progress) -> bool {
        let _parked = self.exchanges.tally().parked();
        if progress.hurried_since().is_some() {
            return parked.wakes().await;
        }
        tokio::select! {
            biased;
            wakes = parked.wakes() => return wakes,
            () = self.drain.listener_gone() => progress.hurry(),
        }
        parked.wakes().await
    }

    /// Speaks until the connection ends, or is parked: then its socket is returned.
    async fn converse<T>(
        &self,
        io: DeadlineIo<T>,
        peer: Peer,
        progress: &Arc<Progress>,
        entrance: Entrance,
        place: &Place,
    ) -> Option<DeadlineIo<T>>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let switched = Mutex::new(None);
        // Begun here, not when it is first polled: hyper may see the client's end in between.
        let service = service_fn(|request| {
            self.exchange(request, peer, entrance, progress.begin(), (progress, &switched, place))
        });
        let lot = Lot::default();
        let io = TokioIo::new(Parkable::new(io, lot.clone()));
        let mut connection = pin!(self.http1.serve_connection(io, service).with_upgrades());
        let ended = tokio::select! {
            biased;
            ended = &mut connection => ended,
            () = self.drain.listener_gone() => {
                progress.hurry();
                connection.await
            }
        };
        let tunnel = switched.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (ended, tunnel) {
            (Err(error), _) => self.note(&error, peer),
            (Ok(()), None) => return lot.take(),
            (Ok(()), Some(tunnel)) => self.carry(tunnel, peer).await,
        }
        None
    }

    /// Has `request` answered, at once if that can be: hyper keeps what it is given in memory of the connection, which has
    /// grown cold since its last request, and reads on before it asks, for which it takes another buffer while the request
    /// still lies in the first.
    fn exchange<'a>(
        &'a self,
        request: Request<Incoming>,
        peer: Peer,
        entrance: Entrance,
        exchange: Exchange,
        (progress, switched, place): (&'a Progress, &'a Mutex<Option<Tunnel>>, &'a Place),
    ) -> Answering<'a> {
        let has_body = !request.body().is_end_stream();
        let mut answer = Box::pin(self.answer(request, peer, entrance, progress.unread().clone()));
        let finish = move |mut response: Response<Body>, exchange| {
            if let Some(tunnel) = response.body_mut().take_tunnel() {
                progress.switch();
                *switched.lock().unwrap_or_else(PoisonError::into_inner) = Some(tunnel);
            } else if progress.unread().is_left() || self.drain.is_announced() || place.is_wanted() {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            response.map(|body| SentBody::new(body, exchange))
        };
        // Nobody is to be woken: hyper polls what is not ready in the same turn.
        let mut nobody = Context::from_waker(Waker::noop());
        if !has_body && let Poll::Ready(response) = answer.as_mut().poll(&mut nobody) {
            return Answering::Done(Some(finish(response, exchange)));
        }
        Answering::Awaited(Box::pin(async move {
            let thinking = exchange.think();
            let response = answer.await;
            drop(thinking);
            finish(response, exchange)
        }))
    }
}

/// An answer, as hyper gets it.
enum Answering<'a> {
    /// `None` once it was given away.
    Done(Option<Response<SentBody>>),
    Awaited(Pin<Box<dyn Future<Output = Response<SentBody>> + Send + 'a>>),
}

impl Future for Answering<'_> {
    type Output = Result<Response<SentBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::Done(response) => Poll::Ready(Ok(response.take().expect("nobody polls what is over"))),
            Self::Awaited(answer) => answer.as_mut().poll(cx).map(Ok),
        }
    }
}
