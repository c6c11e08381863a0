//! Who comes to a listener of ours: each is taken in by a task of its own on this thread, and what it says can be read out.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

/// Bytes read at once.
const PIECE: usize = 1024;
/// After an accept that failed: it must not spin beside those who are measured.
pub const REST: Duration = Duration::from_millis(100);

/// Has `host` take in whoever comes. Who cannot come is missed by whoever counts those who are there.
pub async fn take_in<F: Future<Output = ()> + 'static>(listener: std::net::TcpListener, host: impl Fn(TcpStream) -> F) {
    let listener = TcpListener::from_std(listener).expect("it is a socket");
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::task::spawn_local(host(stream))),
            Err(_) => sleep(REST).await,
        }
    }
}

/// Reads until the end, and keeps nothing.
pub async fn read_out(mut stream: impl AsyncRead + Unpin) {
    let mut piece = [0; PIECE];
    while stream.read(&mut piece).await.is_ok_and(|read| read > 0) {}
}
