//! HTTP/1.1 with one client: requests one after the other, each answered before the next is read; between two of them the
//! connection may be parked ([`super::parking`]).

use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use http::{HeaderValue, Request, Response, header};
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

    // No `async fn`: see [`crate::exchange::Exchanges::serve`].
    fn exchange(
        &self,
        request: Request<Incoming>,
        peer: Peer,
        entrance: Entrance,
        exchange: Exchange,
        (progress, switched, place): (&Progress, &Mutex<Option<Tunnel>>, &Place),
    ) -> impl Future<Output = Result<Response<SentBody>, Infallible>> {
        let answer = self.answer(request, peer, entrance, progress.unread().clone());
        async move {
            let thinking = exchange.think();
            let mut response = answer.await;
            if let Some(tunnel) = response.body_mut().take_tunnel() {
                progress.switch();
                *switched.lock().unwrap_or_else(PoisonError::into_inner) = Some(tunnel);
            } else if progress.unread().is_left() || self.drain.is_announced() || place.is_wanted() {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            drop(thinking);
            Ok(response.map(|body| SentBody::new(body, exchange)))
        }
    }
}
