//! The public socket and its one accept loop. Accepting in one place keeps a second start on the same port impossible,
//! the caps exact and the queue empty at the end; the connections themselves are spread over the workers.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::sync::OwnedSemaphorePermit;

use super::drain::Drain;
use super::places::Places;
use super::workers::{Accepted, Workers};
use crate::metrics::Metrics;

/// Connections the kernel may hold for us before they are accepted.
const BACKLOG: i32 = 4096;

/// Silence after which the kernel probes a peer, well below the minutes after which middleboxes forget a connection,
const KEEP_ALIVE_AFTER: Duration = Duration::from_secs(60);
/// and how often then.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(15);

/// How long accepting rests after it failed (out of descriptors, say): long enough not to spin, short enough to be back
/// when a descriptor is.
const REST: Duration = Duration::from_millis(100);

/// Binds and listens; port 0 picks a free one. No `SO_REUSEPORT`: a second start on a port in use fails (S2).
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Lets a restart take over while old connections are in TIME_WAIT; never shares a listening port on Linux.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    // Accepted sockets inherit it: a client that vanished from an idle stream of events is noticed.
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEP_ALIVE_AFTER).with_interval(KEEP_ALIVE_EVERY))?;
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
    let door = Door { places, workers, metrics };
    tokio::select! {
        // Cuts even a hand-over that cannot proceed.
        () = drain.over() => return Ok(()),
        () = door.stand_open(&listener, delayed(&drain, drain_delay)) => {}
    }
    // First, since idle connections may hold the places that those in the queue wait for.
    drain.lose_listener();
    let queue = listener.into_std()?;
    tokio::select! {
        () = drain.over() => {}
        () = door.empty(&queue) => {}
    }
    Ok(())
}

async fn delayed(drain: &Drain, delay: Duration) {
    drain.announcement().await;
    tokio::time::sleep(delay).await;
}

struct Door {
    places: Arc<Places>,
    workers: Workers,
    metrics: Arc<Metrics>,
}

impl Door {
    /// Accepts until `closing`; a connection once accepted is always handed over.
    async fn stand_open(&self, listener: &tokio::net::TcpListener, closing: impl Future<Output = ()>) {
        tokio::pin!(closing);
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut closing => return,
                accepted = self.next(listener) => accepted,
            };
            match accepted {
                Ok((permit, stream, peer)) => self.welcome(permit, stream, peer).await,
                Err(error) => self.rest(&error).await,
            }
        }
    }

    async fn next(
        &self,
        listener: &tokio::net::TcpListener,
    ) -> io::Result<(OwnedSemaphorePermit, TcpStream, SocketAddr)> {
        let permit = self.places.permit().await;
        let (stream, peer) = listener.accept().await?;
        Ok((permit, stream.into_std()?, peer))
    }

    /// What the kernel has accepted for us is answered before the socket closes. The kernel is asked itself: the runtime
    /// may not have heard yet of the last connection.
    async fn empty(&self, queue: &TcpListener) {
        for _ in 0..BACKLOG {
            let permit = self.places.permit().await;
            let Ok((stream, peer)) = queue.accept() else { return };
            self.welcome(permit, stream, peer).await;
        }
    }

    async fn welcome(&self, permit: OwnedSemaphorePermit, stream: TcpStream, peer: SocketAddr) {
        let Some(place) = self.places.take(permit, peer.ip()) else {
            self.metrics.connections_refused.inc();
            return;
        };
        // Answers are written whole: waiting for more to send would only delay them.
        if stream.set_nodelay(true).and_then(|()| stream.set_nonblocking(true)).is_ok() {
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
