//! The threads that serve clients: one single-threaded runtime each, so that a connection stays on one core and needs no
//! lock on its way. The origin's work runs elsewhere and never delays them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::connection::Connections;
use super::drain::Drain;
use super::listener::Entrance;
use super::places::Place;

/// Connections a busy worker may have waiting; past it, accepting waits.
const LANE: usize = 1024;

/// A connection on its way to a worker.
#[derive(Debug)]
pub struct Accepted {
    /// The socket, bound to no runtime yet.
    pub stream: std::net::TcpStream,
    /// The listener it came to.
    pub entrance: Entrance,
    /// Who is at its other end.
    pub peer: SocketAddr,
    /// Its place among all connections.
    pub place: Place,
}

/// The way to the workers. When the last clone is dropped, they finish what they have and end.
#[derive(Debug, Clone)]
pub struct Workers(Arc<[Lane]>);

#[derive(Debug)]
struct Lane {
    sender: mpsc::Sender<Accepted>,
    load: Arc<AtomicUsize>,
}

/// Who serves the connections that come to a worker; another may take its place between two of them.
pub type Service = Arc<ArcSwap<Connections>>;

/// A running worker; joining it tells how many connections were cut when the drain was over.
pub type Worker = JoinHandle<usize>;

impl Workers {
    /// Starts one worker for each of `services`.
    pub fn start(services: &[Service]) -> io::Result<(Self, Vec<Worker>)> {
        let mut lanes = Vec::with_capacity(services.len());
        let mut threads = Vec::with_capacity(services.len());
        for (number, service) in services.iter().map(Arc::clone).enumerate() {
            let (sender, receiver) = mpsc::channel(LANE);
            let load = Arc::new(AtomicUsize::new(0));
            lanes.push(Lane { sender, load: Arc::clone(&load) });
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let name = format!("ticketgate-{number}");
            threads.push(std::thread::Builder::new().name(name).spawn(move || {
                let cut = runtime.block_on(work(receiver, load, service));
                runtime.shutdown_background();
                cut
            })?);
        }
        Ok((Self(lanes.into()), threads))
    }

    /// Gives a connection to the worker that has the fewest.
    pub async fn hand_over(&self, accepted: Accepted) {
        let lane = self.0.iter().min_by_key(|lane| lane.load.load(Ordering::Relaxed)).expect("there is a worker");
        lane.load.fetch_add(1, Ordering::Relaxed);
        // Fails only when the worker is gone, and then the drain is over.
        let _ = lane.sender.send(accepted).await;
    }
}

async fn work(mut lane: mpsc::Receiver<Accepted>, load: Arc<AtomicUsize>, service: Service) -> usize {
    let drain = service.load().drain().clone();
    let tracker = TaskTracker::new();
    while let Some(accepted) = next(&mut lane, &drain).await {
        let (connections, load) = (service.load_full(), Arc::clone(&load));
        // Ends with its connection; counted by the tracker, cut when the runtime goes.
        tracker.spawn(async move {
            let _counted = Counted(load);
            connections.serve(accepted).await;
        });
    }
    tracker.close();
    tokio::select! {
        () = tracker.wait() => 0,
        // A tunnel has no end to wait for: closing it now is as good as later.
        () = drain.over() => tracker.len() - service.load().tunnels(),
    }
}

/// The next connection; `None` when the listener is gone or the drain is over.
async fn next(lane: &mut mpsc::Receiver<Accepted>, drain: &Drain) -> Option<Accepted> {
    tokio::select! {
        biased;
        () = drain.over() => None,
        accepted = lane.recv() => accepted,
    }
}

/// Counts a connection of this worker until dropped, a panic included.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
