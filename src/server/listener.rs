//! The public socket and its one accept loop. Accepting in one place keeps a second start on the same port impossible,
//! the caps exact and the queue empty at the end; the connections themselves are spread over the workers.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;

use super::drain::Drain;
use super::places::Places;
use super::workers::{Accepted, Workers};
use crate::metrics::Metrics;

/// Connections the kernel may hold for us before they are accepted.
const BACKLOG: i32 = 4096;

/// How long accepting rests after it failed (out of descriptors, say): long enough not to spin, short enough to be back
/// when a descriptor is.
const REST: Duration = Duration::from_millis(100);

/// Binds and listens; port 0 picks a free one. No `SO_REUSEPORT`: a second start on a port in use fails (S2).
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Lets a restart take over while old connections are in TIME_WAIT; never shares a listening port on Linux.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts until the drain has been announced for `drain_delay`, then empties the queue and closes the socket.
pub async fn accept(
    listener: TcpListener,
    places: Arc<Places>,
    workers: Workers,
    drain: Drain,
    drain_delay: Duration,
    metrics: Arc<Metrics>,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let door = Door { listener, places, workers, metrics };
    door.stand_open(delayed(&drain, drain_delay)).await;
    door.empty_queue().await;
    drain.lose_listener();
    Ok(())
}

async fn delayed(drain: &Drain, delay: Duration) {
    drain.announcement().await;
    tokio::time::sleep(delay).await;
}

struct Door {
    listener: tokio::net::TcpListener,
    places: Arc<Places>,
    workers: Workers,
    metrics: Arc<Metrics>,
}

impl Door {
    /// Accepts until `closing`; a connection once accepted is always handed over.
    async fn stand_open(&self, closing: impl Future<Output = ()>) {
        tokio::pin!(closing);
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut closing => return,
                accepted = self.next() => accepted,
            };
            match accepted {
                Ok((permit, stream, peer)) => self.welcome(permit, stream, peer).await,
                Err(error) => self.rest(&error).await,
            }
        }
    }

    async fn next(&self) -> io::Result<(OwnedSemaphorePermit, TcpStream, SocketAddr)> {
        let permit = self.places.permit().await;
        let (stream, peer) = self.listener.accept().await?;
        Ok((permit, stream, peer))
    }

    /// What the kernel has accepted for us is answered before the socket closes.
    async fn empty_queue(&self) {
        let mut bound = BACKLOG;
        while bound > 0 {
            let permit = self.places.permit().await;
            let next = std::future::poll_fn(|cx| match self.listener.poll_accept(cx) {
                std::task::Poll::Ready(Ok(next)) => std::task::Poll::Ready(Some(next)),
                _ => std::task::Poll::Ready(None),
            });
            let Some((stream, peer)) = next.await else { return };
            self.welcome(permit, stream, peer).await;
            bound -= 1;
        }
    }

    async fn welcome(&self, permit: OwnedSemaphorePermit, stream: TcpStream, peer: SocketAddr) {
        let Some(place) = self.places.take(permit, peer.ip()) else {
            self.metrics.connections_refused.inc();
            return;
        };
        // Answers are written whole: waiting for more to send would only delay them.
        let stream = stream.set_nodelay(true).and_then(|()| stream.into_std());
        if let Ok(stream) = stream {
            self.workers.hand_over(Accepted { stream, peer, place }).await;
        }
    }

    async fn rest(&self, error: &io::Error) {
        // The peer was gone before we looked: nothing is wrong here.
        if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
            return;
        }
        self.metrics.accept_failures.inc();
        tracing::warn!(%error, "cannot accept connections; trying again in {REST:?} (too few open files? see ulimit -n)");
        tokio::time::sleep(REST).await;
    }
}
