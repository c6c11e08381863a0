//! WeChat's API as a test wants it: keeps every request byte for byte, body included, and says what it is told.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use ticketgate::config::Config;
use ticketgate::relay::Host;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::origin::{Answer, Then, read_head};

type Script = dyn Fn(usize) -> Answer + Send + Sync;

pub struct Api {
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    serving: JoinHandle<()>,
}

impl Api {
    /// Answers the n-th request, from 0, by `script`.
    pub async fn start(script: impl Fn(usize) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let (kept, script): (_, Arc<Script>) = (Arc::clone(&requests), Arc::new(script));
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(stream, Arc::clone(&kept), Arc::clone(&script)));
            }
        });
        Self { address, requests, serving }
    }

    /// Always answers `body` as WeChat does.
    pub async fn saying(body: &str) -> Self {
        let answer = answer(body);
        Self::start(move |_| answer.clone()).await
    }

    /// Nobody listens at its address any more.
    pub async fn stop(self) -> SocketAddr {
        self.serving.abort();
        let _ = self.serving.await;
        self.address
    }

    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    /// Has `config` relay to here.
    pub fn configure(&self, config: &mut Config) {
        config.relay.listen = Some("127.0.0.1:0".parse().unwrap());
        config.relay.url = host(self.address);
    }
}

pub fn host(address: SocketAddr) -> Host {
    Host::of(&format!("http://{address}").parse().unwrap()).unwrap()
}

/// A good answer about `ticket`; without an end when `seconds` is none.
pub fn created(ticket: &str, seconds: Option<u64>) -> String {
    let life = seconds.map_or_else(String::new, |seconds| format!("\"expire_seconds\":{seconds},"));
    format!("{{\"ticket\":\"{}\",{life}\"url\":\"http:\\/\\/weixin.qq.com\\/q\\/x\"}}", ticket.replace('/', "\\/"))
}

/// `body` in WeChat's fields.
pub fn answer(body: &str) -> Answer {
    Answer::of(200, "Content-Type: application/json; encoding=utf-8\r\n", body.as_bytes())
}

async fn converse(mut stream: TcpStream, requests: Arc<Mutex<Vec<String>>>, script: Arc<Script>) {
    let mut unread = Vec::new();
    while let Some(head) = read_head(&mut stream, &mut unread).await {
        let length = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
        let length: usize = length.unwrap_or(0);
        while unread.len() < length {
            if stream.read_buf(&mut unread).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let rest = unread.split_off(length);
        let body = String::from_utf8(std::mem::replace(&mut unread, rest)).unwrap();
        let number = {
            let mut requests = requests.lock().unwrap();
            requests.push(head + &body);
            requests.len() - 1
        };
        let answer = script(number);
        if stream.write_all(&answer.bytes).await.is_err() {
            return;
        }
        match answer.then {
            Then::KeepOpen => {}
            Then::Close | Then::Reset => return,
            Then::Hang => std::future::pending().await,
        }
    }
}
