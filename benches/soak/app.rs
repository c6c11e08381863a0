//! The app behind: it takes every upload and never answers, so that whoever uploads slowly is the server's to end.

use std::net::SocketAddr;

use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::Outcome;
use crate::aside::Aside;

/// Bytes read at once.
const PIECE: usize = 1024;

/// A running app; ends when dropped.
#[derive(Debug)]
pub struct App {
    /// Where it is.
    pub address: SocketAddr,
    _over: DropGuard,
    _thread: Aside<()>,
}

impl App {
    /// Starts it where the caller is.
    pub fn start() -> Outcome<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let (address, over) = (listener.local_addr()?, CancellationToken::new());
        let end = over.clone();
        let thread = Aside::begin("app", move || async move {
            end.run_until_cancelled(accept(listener)).await;
        })?;
        Ok(Self { address, _over: over.drop_guard(), _thread: thread })
    }
}

async fn accept(listener: std::net::TcpListener) {
    let listener = TcpListener::from_std(listener).expect("it is a socket");
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            tokio::task::spawn_local(read(stream));
        }
    }
}

async fn read(mut stream: TcpStream) {
    let mut piece = [0; PIECE];
    while stream.read(&mut piece).await.is_ok_and(|read| read > 0) {}
}
