//! The one origin of all servers: answers every ticket with its image, after a delay if one is wanted, and counts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use ticketgate::clock::Clock;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::Outcome;
use crate::{tickets, wire};

/// How long an image may be kept.
const WEEK: &str = "max-age=604800";

/// A running origin; ends when dropped.
#[derive(Debug)]
pub struct Origin {
    /// Where it is.
    pub address: SocketAddr,
    calls: Arc<AtomicU64>,
    over: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

/// What it answers.
#[derive(Debug, Clone)]
struct Answers {
    size: usize,
    delay: Duration,
    calls: Arc<AtomicU64>,
    clock: Clock,
}

impl Origin {
    /// Answers with images of `size` bytes after `delay`, from a thread where the caller is.
    pub fn start(size: usize, delay: Duration) -> Outcome<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let (address, calls, over) = (listener.local_addr()?, Arc::default(), CancellationToken::new());
        let answers = Answers { size, delay, calls: Arc::clone(&calls), clock: Clock::system() };
        let end = over.clone();
        let thread = std::thread::Builder::new().name("origin".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(end.run_until_cancelled(accept(listener, answers)));
        })?;
        Ok(Self { address, calls, over, thread: Some(thread) })
    }

    /// The requests so far.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.over.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: std::net::TcpListener, answers: Answers) {
    let listener = TcpListener::from_std(listener).expect("it is a socket");
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answers.clone().serve(stream));
        }
    }
}

impl Answers {
    async fn serve(self, mut stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let mut head = Vec::with_capacity(1024);
        while let Some(target) = wire::next_target(&mut stream, &mut head).await {
            self.calls.fetch_add(1, Ordering::Relaxed);
            if !self.delay.is_zero() {
                tokio::time::sleep(self.delay).await;
            }
            if stream.write_all(&self.answer(&target)).await.is_err() {
                return;
            }
        }
    }

    fn answer(&self, target: &str) -> Vec<u8> {
        let mut answer = format!(
            "HTTP/1.1 200 OK\r\nDate: {}\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\nCache-Control: {WEEK}\r\n\
             ETag: \"{:016x}\"\r\nLast-Modified: Wed, 16 Oct 2013 06:37:10 GMT\r\n\r\n",
            wire::date(&self.clock),
            self.size,
            tickets::hash(target),
        )
        .into_bytes();
        answer.extend(tickets::image(target, self.size));
        answer
    }
}
