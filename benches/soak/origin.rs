//! The origin: an image for every ticket but rubbish, which it does not know; and it can be down in several ways.

use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use ticketgate::clock::Clock;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::guests::REST;
use crate::tickets::{self, IMAGE};
use crate::{Outcome, machine, strangers, wire};

/// How it fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Answers.
    Up,
    /// Takes no connection, and has closed those it had.
    Gone,
    /// Takes requests, and answers none.
    Silent,
    /// Answers 503.
    Failing,
}

impl Mood {
    /// The ways to be down.
    pub const DOWN: [Self; 3] = [Self::Gone, Self::Silent, Self::Failing];

    /// As tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Gone => "takes no connection",
            Self::Silent => "never answers",
            Self::Failing => "answers 503",
        }
    }
}

/// A running origin; ends when dropped.
#[derive(Debug)]
pub struct Origin {
    /// Where it is.
    pub address: SocketAddr,
    /// It ends with this.
    mood: watch::Sender<Mood>,
    _thread: std::thread::JoinHandle<()>,
}

/// What answers are made of.
#[derive(Debug, Clone)]
struct Answers {
    life: Duration,
    clock: Clock,
    mood: watch::Receiver<Mood>,
}

impl Origin {
    /// Answers with images that are fresh for `life`, from a thread where the caller is.
    pub fn start(life: Duration) -> Outcome<Self> {
        let address = machine::free_address()?;
        let (mood, seen) = watch::channel(Mood::Up);
        let answers = Answers { life, clock: Clock::system(), mood: seen };
        let (reserve, listener) = (reserve(address)?, listener(address)?);
        let thread = std::thread::Builder::new().name("origin".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(answers.come_and_go(listener));
            drop(reserve);
        })?;
        Ok(Self { address, mood, _thread: thread })
    }

    /// Is so from now on.
    pub fn is(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }
}

/// Keeps the port while nobody listens there: among thousands of connections one would have it as its own.
fn reserve(address: SocketAddr) -> Outcome<Socket> {
    let reserve = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    reserve.set_reuse_address(true)?;
    reserve.bind(&address.into())?;
    Ok(reserve)
}

/// A port that was ours is taken again.
fn listener(address: SocketAddr) -> Outcome<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

impl Answers {
    async fn come_and_go(mut self, mut listening: std::net::TcpListener) {
        loop {
            let address = listening.local_addr().expect("it listens");
            let open = TcpListener::from_std(listening).expect("it is a socket");
            let (answers, mut mood) = (self.clone(), self.mood.clone());
            let comes_back = tokio::select! {
                () = answers.accept(&open) => false,
                gone = mood.wait_for(|mood| *mood == Mood::Gone) => gone.is_ok(),
            };
            // Whoever says how it is has gone for good: nobody is to listen there again.
            if !comes_back {
                return;
            }
            drop(open);
            if self.mood.wait_for(|mood| *mood != Mood::Gone).await.is_err() {
                return;
            }
            listening = listener(address).expect("nobody takes the port meanwhile");
        }
    }

    /// Whoever is inside goes when this is dropped.
    async fn accept(&self, listener: &TcpListener) {
        let mut inside = JoinSet::new();
        loop {
            tokio::select! {
                coming = listener.accept() => match coming {
                    Ok((stream, _)) => drop(inside.spawn(self.clone().serve(stream))),
                    Err(_) => sleep(REST).await,
                },
                Some(_) = inside.join_next() => {}
            }
        }
    }

    async fn serve(mut self, mut stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let mut head = Vec::with_capacity(1024);
        while let Some(target) = wire::next_target(&mut stream, &mut head).await {
            let mood = *self.mood.borrow();
            if mood == Mood::Silent {
                let _ = self.mood.wait_for(|mood| *mood != Mood::Silent).await;
                return;
            }
            let answer = if mood == Mood::Failing { failure() } else { self.answer(&target) };
            if stream.write_all(&answer).await.is_err() {
                return;
            }
        }
    }

    fn answer(&self, target: &str) -> Vec<u8> {
        let date = wire::date(&self.clock);
        if strangers::is_rubbish(target) {
            return format!("HTTP/1.1 404 Not Found\r\nDate: {date}\r\nContent-Length: 0\r\n\r\n").into_bytes();
        }
        let mut answer = format!(
            "HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Type: image/jpeg\r\nContent-Length: {IMAGE}\r\n\
             Cache-Control: max-age={}\r\n\r\n",
            self.life.as_secs(),
        )
        .into_bytes();
        answer.extend(tickets::image(target, IMAGE));
        answer
    }
}

fn failure() -> Vec<u8> {
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n".to_vec()
}
