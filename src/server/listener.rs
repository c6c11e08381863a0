//! The public sockets and who stands at their one door. Accepting in one place keeps a second start on the same port impossible,
//! the caps exact and the queues empty at the end; the connections themselves are spread over the workers.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use super::door::{self, Door, Keeper};
use super::drain::Drain;
use super::inheritance::Legacy;
use super::places::Place;
use super::workers::{Accepted, Workers};
use crate::fault::{Faults, Stage};
use crate::metrics::Metrics;

/// Connections the kernel may hold for us before they are accepted.
const BACKLOG: i32 = 4096;

/// Silence after which the kernel probes a peer, well below the minutes after which middleboxes forget a connection,
const KEEP_ALIVE_AFTER: Duration = Duration::from_secs(60);
/// and how often then.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(15);

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

/// Accepts until the drain has been announced for `drain_delay`, then empties the queues and closes the sockets, of which `legacy`
/// has second descriptors.
pub async fn accept(listeners: Vec<Listener>, door: Door<Public>, legacy: Arc<Legacy>, drain: Drain) -> io::Result<()> {
    let mut open = Queues { listeners: watched(listeners)?, turn: 0 };
    let in_hand = tokio::select! {
        // Cuts even a hand-over that cannot proceed.
        () = drain.over() => return Ok(()),
        in_hand = door.stand_open(&mut open, delayed(&drain)) => in_hand,
    };
    // First, since idle connections may hold the places that those in the queues wait for.
    drain.lose_listener();
    legacy.close();
    // After a hand-over the queues are a successor's.
    let queues = if drain.is_handed_over() { Vec::new() } else { unwatched(open.listeners)? };
    tokio::select! {
        () = drain.over() => {}
        // What was accepted is answered before the sockets close.
        () = door.empty(in_hand, queued(&queues)) => {}
    }
    Ok(())
}

async fn delayed(drain: &Drain) {
    drain.announcement().await;
    tokio::time::sleep(drain.times().delay).await;
}

type Watched = Listener<tokio::net::TcpListener>;

type Newcomer = door::Newcomer<(TcpStream, Entrance)>;

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
pub struct Queues {
    listeners: Vec<Watched>,
    turn: usize,
}

impl Queues {
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

/// What stands at the public door.
pub struct Public {
    /// Where connections go.
    pub workers: Workers,
    /// Counts who is refused.
    pub metrics: Arc<Metrics>,
    /// Trouble that tests prepare.
    pub faults: Faults,
}

impl Keeper for Public {
    type Queue = Queues;
    type Stream = (TcpStream, Entrance);
    const GUESTS: &'static str = "clients";

    async fn next(&self, queues: &mut Queues) -> io::Result<Newcomer> {
        let (accepted, entrance) = std::future::poll_fn(|cx| queues.poll_next(cx)).await;
        let (stream, peer) = accepted?;
        Ok(Newcomer { stream: (stream.into_std()?, entrance), peer })
    }

    async fn welcome(&self, Newcomer { stream: (stream, entrance), peer }: Newcomer, place: Option<Place>) {
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

    fn failed(&self) {
        self.metrics.accept_failures.inc();
    }
}

/// Whom the kernel has accepted for us. It is asked itself: the runtime may not have heard yet of the last connection.
fn queued(queues: &[Listener]) -> impl Iterator<Item = Newcomer> {
    queues.iter().flat_map(|Listener { socket, entrance }| {
        let accepted = (0..BACKLOG).map_while(|_| socket.accept().ok());
        accepted.map(|(stream, peer)| Newcomer { stream: (stream, *entrance), peer })
    })
}
