//! A small HTTP/1.1 server for a few known peers: the operator's listener, the relay's, and the demo's made-up neighbours. It
//! keeps the bounds (connections, heads, the time they may take) and the end (S38); what is answered is its owner's to say.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::metrics::counter::Counter;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use super::connection::{MAX_HEAD, MAX_HEADERS};
use super::door::{self, Door, Keeper};
use super::drain::Drain;
use super::places::{Place, Places};
use crate::fault::{Faults, Stage};
use crate::limit::{ClientConfig, Trust};

/// For a head, and for an idle connection: scrapers come back every half minute or so.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Of a connection; its peer then opens another.
const LIFE: Duration = Duration::from_secs(600);
/// For the answer that is under way at its end.
const LAST_ANSWER: Duration = Duration::from_secs(30);
/// How long an idle connection may still send a request after the listener is gone (S38).
const LAST_REQUEST: Duration = Duration::from_secs(2);
/// Connections that the kernel may hold for us are no more than this.
const MOST_QUEUED: usize = 4096;

/// Somebody who answers requests.
pub trait Answers: Send + Sync + 'static {
    /// What is sent after a head.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static;
    /// Who asks, as the log calls them.
    const GUESTS: &'static str;

    /// Answers `request`. Dropped when the client hangs up.
    fn answer(&self, request: Request<Incoming>) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// How many connections there may be.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// At once; further ones wait in the kernel's queue.
    pub all: usize,
    /// Of one address at once, loopback aside; further ones are closed.
    pub per_address: usize,
}

/// Mistakes of ours while connections are accepted: each costs one connection.
#[derive(Debug, Clone, Default)]
pub struct Mishaps {
    /// Counts them.
    pub panics: Counter,
    /// Trouble that tests prepare.
    pub faults: Faults,
}

/// Lets `owner` answer what comes to `listener`, where there is `room`. Ends with its runtime.
pub async fn serve(owner: Arc<impl Answers>, listener: TcpListener, room: Room, mishaps: Mishaps) -> io::Result<()> {
    serve_until(owner, listener, room, mishaps, Drain::default()).await.map(drop)
}

/// The same until `drain`: answers then close their connections; with the public listeners this one closes, when its queue is
/// empty; what is under way is finished. Returns how many connections were left when the drain was over, which are cut.
pub async fn serve_until(
    owner: Arc<impl Answers>,
    listener: TcpListener,
    Room { all, per_address }: Room,
    mishaps: Mishaps,
    drain: Drain,
) -> io::Result<usize> {
    let places = Places::new(all, per_address, Trust::new(&ClientConfig::default()), Arc::default());
    let Mishaps { panics, faults } = mishaps;
    let keeper = Small { owner, drain: drain.clone(), tracker: TaskTracker::new(), cut: Arc::default(), faults };
    let door = Door { keeper, places, panics };
    let mut listener = tokio::net::TcpListener::from_std(listener)?;
    let in_hand = door.stand_open(&mut listener, closing(&drain)).await;
    tokio::select! {
        () = drain.over() => {}
        () = door.empty(in_hand, queued(listener.into_std()?)) => {}
    }
    let Small { tracker, cut, .. } = door.keeper;
    tracker.close();
    tracker.wait().await;
    Ok(cut.load(Ordering::Relaxed))
}

type Newcomer = door::Newcomer<TcpStream>;

struct Small<T> {
    owner: Arc<T>,
    drain: Drain,
    tracker: TaskTracker,
    /// Connections that the end of the drain cut.
    cut: Arc<AtomicUsize>,
    faults: Faults,
}

impl<T: Answers> Keeper for Small<T> {
    type Queue = tokio::net::TcpListener;
    type Stream = TcpStream;
    const GUESTS: &'static str = T::GUESTS;

    async fn next(&self, listener: &mut tokio::net::TcpListener) -> io::Result<Newcomer> {
        listener.accept().await.map(|(stream, peer)| Newcomer { stream, peer })
    }

    async fn welcome(&self, Newcomer { stream, .. }: Newcomer, place: Option<Place>) {
        self.faults.strike(Stage::Welcome);
        let Some(place) = place else { return };
        let (owner, drain, cut) = (Arc::clone(&self.owner), self.drain.clone(), Arc::clone(&self.cut));
        // Answers are written whole: waiting for more to send would only delay them.
        let _ = stream.set_nodelay(true);
        // Ends by its own deadlines, when the drain is over, or with the runtime.
        self.tracker.spawn(async move {
            let _place = place;
            tokio::select! {
                ended = converse(&*owner, stream, &drain) => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a connection broke");
                    }
                }
                () = drain.over() => drop(cut.fetch_add(1, Ordering::Relaxed)),
            }
        });
    }
}

async fn closing(drain: &Drain) {
    tokio::select! {
        () = drain.listener_gone() => {}
        // A second signal may end the drain before the listeners are gone.
        () = drain.over() => {}
    }
}

/// Whom the kernel has accepted for us. It is asked itself: the runtime may not have heard yet of the last connection. The listener
/// closes with the iterator.
fn queued(listener: TcpListener) -> impl Iterator<Item = Newcomer> {
    let accepted = (0..MOST_QUEUED).map_while(move |_| listener.accept().ok());
    // One that is of no use takes nobody along.
    accepted.filter_map(|(stream, peer)| {
        stream.set_nonblocking(true).ok()?;
        Some(Newcomer { stream: TcpStream::from_std(stream).ok()?, peer })
    })
}

/// A peer that stops reading an answer has no deadline of its own; the connection as a whole has.
async fn converse<T: Answers>(owner: &T, stream: TcpStream, drain: &Drain) -> hyper::Result<()> {
    let answer = |request| async {
        let mut response = owner.answer(request).await;
        if drain.is_announced() {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok::<_, Infallible>(response)
    };
    let mut http1 = http1::Builder::new();
    http1.max_headers(MAX_HEADERS).max_header_size(MAX_HEAD);
    http1.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).title_case_headers(true);
    let mut connection = pin!(http1.serve_connection(TokioIo::new(stream), service_fn(answer)));
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = sleep(LIFE) => {}
        () = last_request_due(drain) => {}
    }
    connection.as_mut().graceful_shutdown();
    timeout(LAST_ANSWER, connection).await.unwrap_or(Ok(()))
}

async fn last_request_due(drain: &Drain) {
    drain.listener_gone().await;
    sleep(LAST_REQUEST).await;
}
