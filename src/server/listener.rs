//! The public sockets and their one accept loop. Accepting in one place keeps a second start on the same port impossible,
//! the caps exact and the queues empty at the end; the connections themselves are spread over the workers.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use super::drain::Drain;
use super::inheritance::Legacy;
use super::places::{Place, Places};
use super::workers::{Accepted, Workers};
use crate::fault::{Faults, Stage};
use crate::metrics::Metrics;
use crate::mishap::outlived;

/// Connections the kernel may hold for us before they are accepted.
const BACKLOG: i32 = 4096;

/// Silence after which the kernel probes a peer, well below the minutes after which middleboxes forget a connection,
const KEEP_ALIVE_AFTER: Duration = Duration::from_secs(60);
/// and how often then.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(15);

/// How long accepting rests after it failed (out of descriptors, say): long enough not to spin, short enough to be back
/// when a descriptor is.
const REST: Duration = Duration::from_millis(100);

/// A public socket.
#[derive(Debug)]
pub struct Listener<T = TcpListener> {
    /// The socket.
    pub socket: T,
    /// What is spoken there.
    pub entrance: Entrance,
}

/// What is spoken on a connection, by the listener that it came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entrance {
    /// HTTP in the clear.
    Clear,
    /// HTTP over TLS.
    Tls,
    /// HTTP in the clear, from which everybody is sent to TLS.
    Redirect,
}

/// Binds and listens; port 0 picks a free one. No `SO_REUSEPORT`: a second start on a port in use fails (S2).
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Lets a restart take over while old connections are in TIME_WAIT; never shares a listening port on Linux.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let socket = socket.into();
    prepare(&socket).map(|()| socket)
}

/// Makes a socket that listens ours, whoever opened it.
pub fn prepare(socket: &TcpListener) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    // Accepted sockets inherit it: a client that vanished from an idle stream of events is noticed.
    let keep_alive = TcpKeepalive::new().with_time(KEEP_ALIVE_AFTER).with_interval(KEEP_ALIVE_EVERY);
    SockRef::from(socket).set_tcp_keepalive(&keep_alive)
}

/// Accepts until the drain has been announced for `drain_delay`, then empties the queues and closes the sockets.
pub async fn accept(listeners: Vec<Listener>, door: Door, drain: Drain) -> io::Result<()> {
    let mut open = Queues { listeners: watched(listeners)?, turn: 0 };
    let in_hand = tokio::select! {
        // Cuts even a hand-over that cannot proceed.
        () = drain.over() => return Ok(()),
        in_hand = door.go_on(&mut open, &drain) => in_hand,
    };
    // First, since idle connections may hold the places that those in the queues wait for.
    drain.lose_listener();
    door.legacy.close();
    // After a hand-over the queues are a successor's.
    let queues = if drain.is_handed_over() { Vec::new() } else { unwatched(open.listeners)? };
    tokio::select! {
        () = drain.over() => {}
        () = door.empty(in_hand, &queues) => {}
    }
    Ok(())
}

async fn delayed(drain: &Drain) {
    drain.announcement().await;
    tokio::time::sleep(drain.times().delay).await;
}

type Watched = Listener<tokio::net::TcpListener>;

/// A connection that the kernel gave us.
type Newcomer = (TcpStream, SocketAddr, Entrance);

fn watched(listeners: Vec<Listener>) -> io::Result<Vec<Watched>> {
    let watch =
        |Listener { socket, entrance }| Ok(Listener { socket: tokio::net::TcpListener::from_std(socket)?, entrance });
    listeners.into_iter().map(watch).collect()
}

fn unwatched(listeners: Vec<Watched>) -> io::Result<Vec<Listener>> {
    let unwatch = |Watched { socket, entrance }| Ok(Listener { socket: socket.into_std()?, entrance });
    listeners.into_iter().map(unwatch).collect()
}

/// The listeners' queues, of which none waits for ever because another is never empty.
struct Queues {
    listeners: Vec<Watched>,
    turn: usize,
}

impl Queues {
    async fn next(&mut self) -> io::Result<Newcomer> {
        let (accepted, entrance) = std::future::poll_fn(|cx| self.poll_next(cx)).await;
        let (stream, peer) = accepted?;
        Ok((stream.into_std()?, peer, entrance))
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<(io::Result<(tokio::net::TcpStream, SocketAddr)>, Entrance)> {
        self.turn = self.turn.wrapping_add(1);
        let (before, first) = self.listeners.split_at(self.turn % self.listeners.len());
        for Listener { socket, entrance } in first.iter().chain(before) {
            if let Poll::Ready(accepted) = socket.poll_accept(cx) {
                return Poll::Ready((accepted, *entrance));
            }
        }
        Poll::Pending
    }
}

/// What decides who comes in.
pub struct Door {
    /// Who gets a place.
    pub places: Arc<Places>,
    /// Where connections go.
    pub workers: Workers,
    /// Counts who is refused.
    pub metrics: Arc<Metrics>,
    /// Second descriptors of the sockets, which are closed with them.
    pub legacy: Arc<Legacy>,
    /// Trouble that tests prepare.
    pub faults: Faults,
}

impl Door {
    /// Accepts until the drain has been announced for long enough. A mistake of ours costs the connection in hand: nobody else
    /// accepts.
    async fn go_on(&self, queues: &mut Queues, drain: &Drain) -> Option<Newcomer> {
        let mut closing = pin!(delayed(drain));
        loop {
            if let Some(in_hand) = outlived(self.stand_open(queues, closing.as_mut()), &self.metrics.panics).await {
                return in_hand;
            }
        }
    }

    /// Accepts until `closing`; a connection once accepted is always handed over, or returned where `closing` came before its
    /// place. It is accepted first: nobody is asked to make room for somebody who has not come.
    async fn stand_open(
        &self,
        queues: &mut Queues,
        mut closing: Pin<&mut impl Future<Output = ()>>,
    ) -> Option<Newcomer> {
        loop {
            let newcomer = tokio::select! {
                biased;
                () = &mut closing => return None,
                newcomer = queues.next() => newcomer,
            };
            match newcomer {
                Ok(newcomer) => tokio::select! {
                    biased;
                    place = self.places.take(newcomer.1.ip()) => self.welcome(place, newcomer).await,
                    () = &mut closing => return Some(newcomer),
                },
                Err(error) => self.rest(&error).await,
            }
        }
    }

    /// What the kernel has accepted for us is answered before the sockets close, `in_hand` first. The kernel is asked itself:
    /// the runtime may not have heard yet of the last connection.
    async fn empty(&self, in_hand: Option<Newcomer>, queues: &[Listener]) {
        if let Some(newcomer) = in_hand {
            self.let_in(newcomer).await;
        }
        for Listener { socket, entrance } in queues {
            for _ in 0..BACKLOG {
                let Ok((stream, peer)) = socket.accept() else { break };
                self.let_in((stream, peer, *entrance)).await;
            }
        }
    }

    /// A mistake of ours costs this newcomer, and nobody behind.
    async fn let_in(&self, newcomer: Newcomer) {
        let taken_in = async { self.welcome(self.places.take(newcomer.1.ip()).await, newcomer).await };
        let _ = outlived(taken_in, &self.metrics.panics).await;
    }

    async fn welcome(&self, place: Option<Place>, (stream, peer, entrance): Newcomer) {
        self.faults.strike(Stage::Welcome);
        let Some(place) = place else {
            self.metrics.connections_refused.inc();
            return;
        };
        // Answers are written whole: waiting for more to send would only delay them.
        if stream.set_nodelay(true).and_then(|()| stream.set_nonblocking(true)).is_ok() {
            self.workers.hand_over(Accepted { stream, entrance, peer, place }).await;
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
