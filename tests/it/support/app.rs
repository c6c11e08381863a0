//! An app whose every byte the test says itself, and the real proxy before it.

use std::future::poll_fn;
use std::task::Poll;

use ticketgate::config::Config;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::PATIENCE;
use super::origin::{Answer, Origin, read_head};
use super::proxy::Proxy;

pub struct App {
    pub proxy: Proxy,
    listener: TcpListener,
}

impl App {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let nobody = Origin::answering(Answer::image()).await;
        let proxy = Proxy::with(&nobody, |config| {
            config.forward.app = Some(url.parse().unwrap());
            change(config);
        });
        Self { proxy, listener }
    }

    /// The next connection, the head that came over it, and what had come after it.
    pub async fn accept(&self) -> (TcpStream, String, Vec<u8>) {
        let (mut stream, _) = timeout(PATIENCE, self.listener.accept()).await.expect("a connection in time").unwrap();
        let mut rest = Vec::new();
        let head = timeout(PATIENCE, read_head(&mut stream, &mut rest)).await.expect("a head in time").unwrap();
        (stream, head, rest)
    }

    /// A connection that has come already.
    pub async fn queued(&self) -> Option<TcpStream> {
        let accepted = poll_fn(|cx| match self.listener.poll_accept(cx) {
            Poll::Ready(accepted) => Poll::Ready(Some(accepted)),
            Poll::Pending => Poll::Ready(None),
        });
        Some(accepted.await?.unwrap().0)
    }

    /// Whether nobody has come.
    pub async fn is_alone(&self) -> bool {
        self.queued().await.is_none()
    }
}

/// Says `bytes`.
pub async fn say(stream: &mut TcpStream, bytes: impl AsRef<[u8]>) {
    stream.write_all(bytes.as_ref()).await.unwrap();
}

/// Reads exactly `bytes`.
pub async fn hear(stream: &mut TcpStream, bytes: impl AsRef<[u8]>) {
    let mut heard = vec![0; bytes.as_ref().len()];
    let read = timeout(PATIENCE, stream.read_exact(&mut heard)).await;
    read.expect("in time").unwrap_or_else(|error| panic!("{error} in {:?}", String::from_utf8_lossy(&heard)));
    assert_eq!(String::from_utf8_lossy(&heard), String::from_utf8_lossy(bytes.as_ref()));
}

/// Everything until the peer has said its end.
pub async fn rest_of(stream: &mut TcpStream) -> String {
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("an end in time");
    String::from_utf8(rest).unwrap()
}
