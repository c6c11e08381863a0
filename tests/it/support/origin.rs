//! An origin that does as it is told: counts, records, holds, cuts, resets, lies.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::eventually;

/// What the origin sends for one request, and what it does then.
#[derive(Clone)]
pub struct Answer {
    pub bytes: Vec<u8>,
    pub then: Then,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Then {
    KeepOpen,
    Close,
    Reset,
    Hang,
}

type Script = dyn Fn(usize, &str) -> Answer + Send + Sync;

pub struct Origin {
    pub address: SocketAddr,
    state: Arc<State>,
}

struct State {
    script: Box<Script>,
    heads: Mutex<Vec<String>>,
    connections: AtomicUsize,
    held: watch::Sender<bool>,
}

impl Origin {
    /// Answers the n-th request (from 0), whose head is given, by `script`.
    pub async fn start(script: impl Fn(usize, &str) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            script: Box::new(script),
            heads: Mutex::default(),
            connections: AtomicUsize::new(0),
            held: watch::channel(false).0,
        });
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                shared.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(converse(stream, Arc::clone(&shared)));
            }
        });
        Self { address, state }
    }

    /// Always answers the same.
    pub async fn answering(answer: Answer) -> Self {
        Self::start(move |_, _| answer.clone()).await
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many requests came.
    pub fn count(&self) -> usize {
        self.state.heads.lock().unwrap().len()
    }

    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// The heads of all requests, byte for byte.
    pub fn heads(&self) -> Vec<String> {
        self.state.heads.lock().unwrap().clone()
    }

    /// The first head, without what differs between one origin and proxy and another: the address and our hop.
    pub fn plain_head(&self) -> String {
        let head = self.heads().remove(0).replace(&self.address.to_string(), "ORIGIN");
        let (before, hop) = head.split_once("1.1 ticketgate (").expect("our hop");
        format!("{before}HOP{}", hop.split_once(')').unwrap().1)
    }

    /// From now on requests are read and not answered, until released.
    pub fn hold(&self) {
        self.state.held.send_replace(true);
    }

    pub fn release(&self) {
        self.state.held.send_replace(false);
    }

    pub async fn has_been_asked(&self, times: usize) {
        eventually(&format!("{times} requests at the origin"), || self.count() >= times).await;
    }
}

async fn converse(mut stream: TcpStream, state: Arc<State>) {
    let mut unread = Vec::new();
    while let Some(head) = read_head(&mut stream, &mut unread).await {
        let number = {
            let mut heads = state.heads.lock().unwrap();
            heads.push(head.clone());
            heads.len() - 1
        };
        let _ = state.held.subscribe().wait_for(|held| !held).await;
        let answer = (state.script)(number, &head);
        if stream.write_all(&answer.bytes).await.is_err() {
            return;
        }
        match answer.then {
            Then::KeepOpen => {}
            Then::Close => return,
            Then::Reset => {
                #[allow(deprecated, reason = "a zero linger is how a reset is sent")]
                let _ = stream.set_linger(Some(std::time::Duration::ZERO));
                return;
            }
            Then::Hang => std::future::pending().await,
        }
    }
}

pub async fn read_head<T: AsyncRead + Unpin>(stream: &mut T, unread: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = unread.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = unread.split_off(end + 4);
            let head = std::mem::replace(unread, rest);
            return String::from_utf8(head).ok();
        }
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return None,
            Ok(read) => unread.extend_from_slice(&buffer[..read]),
        }
    }
}

impl Answer {
    pub fn raw(bytes: impl Into<Vec<u8>>, then: Then) -> Self {
        Self { bytes: bytes.into(), then }
    }

    /// A complete answer with a length.
    pub fn of(status: u16, headers: &str, body: &[u8]) -> Self {
        let mut bytes =
            format!("HTTP/1.1 {status} Whatever\r\n{headers}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
        bytes.extend_from_slice(body);
        Self { bytes, then: Then::KeepOpen }
    }

    /// An image that may be kept for a week, as WeChat sends it.
    pub fn image() -> Self {
        Self::image_with("Cache-control: max-age=604800\r\nExpires: Wed, 23 Oct 2013 14:37:10 +0800\r\n")
    }

    /// One that is larger than what the kernel takes off a server's hands for who does not read.
    pub fn large_image() -> Self {
        let body: Vec<u8> = jpeg().into_iter().cycle().take(500_000).collect();
        Self::of(200, "Cache-Control: max-age=604800\r\n", &body)
    }

    pub fn image_with(headers: &str) -> Self {
        Self::of(200, &format!("Content-Type: image/jpg\r\n{headers}"), &jpeg())
    }
}

/// Bytes that start like a JPEG; 2,000 of them.
pub fn jpeg() -> Vec<u8> {
    let mut bytes = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00".to_vec();
    bytes.extend((0..1989u32).map(|n| (n % 251) as u8));
    bytes
}
