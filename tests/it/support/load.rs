//! Keep-alive clients that go on asking, and forgive nothing: whatever is sent on a connection that had not said that it
//! closes must be answered 200.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::client::Connection;
use super::eventually;

/// What it means that nobody takes a new connection.
#[derive(Clone, Copy, PartialEq)]
pub enum Refused {
    /// The server is gone, and so is the client.
    Ends,
    /// A failure.
    Fails,
}

pub struct Load {
    state: Arc<State>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    answered: AtomicUsize,
    over: AtomicBool,
}

impl Load {
    /// `clients` of them ask for `target` at `address`; every 50th request is the last on its connection.
    pub fn start(address: SocketAddr, target: &str, clients: usize, refused: Refused) -> Self {
        let state = Arc::new(State::default());
        let client = |_| tokio::spawn(ask(address, target.to_owned(), refused, Arc::clone(&state)));
        Self { clients: (0..clients).map(client).collect(), state }
    }

    pub fn answered(&self) -> usize {
        self.state.answered.load(Ordering::Relaxed)
    }

    /// Waits for `more` answers.
    pub async fn goes_on_for(&self, more: usize) {
        let all = self.answered() + more;
        eventually("more answers", || self.answered() >= all).await;
    }

    /// Ends when its clients have; tells how many answers they got. Panics where one was missed.
    pub async fn ended(self) -> usize {
        for client in self.clients {
            client.await.expect("every request was answered");
        }
        self.state.answered.load(Ordering::Relaxed)
    }

    /// Stops asking.
    pub async fn stop(self) -> usize {
        self.state.over.store(true, Ordering::Relaxed);
        self.ended().await
    }
}

async fn ask(address: SocketAddr, target: String, refused: Refused, state: Arc<State>) {
    while !state.over.load(Ordering::Relaxed) {
        let stream = match TcpStream::connect(address).await {
            Ok(stream) => stream,
            Err(_) if refused == Refused::Ends => return,
            Err(error) => panic!("nobody takes connections: {error}"),
        };
        let mut connection = Connection::over(stream);
        for number in 1..=50 {
            let last = if number == 50 || state.over.load(Ordering::Relaxed) { "Connection: close\r\n" } else { "" };
            connection.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n{last}\r\n")).await;
            let answer = connection.response().await.expect("an answer to what was sent");
            assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
            state.answered.fetch_add(1, Ordering::Relaxed);
            if answer.header("connection") == Some("close") {
                break;
            }
        }
    }
}
