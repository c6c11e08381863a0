//! A client that says exactly what it is told, byte for byte, and reads what comes.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::PATIENCE;

#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// The one value of `name`; `None` when absent. Panics when there are several.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str());
        let first = values.next();
        assert_eq!(values.next(), None, "several {name}");
        first
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub fn cache_status(&self) -> &str {
        self.header("cache-status").unwrap_or("")
    }
}

pub struct Connection<T = TcpStream> {
    stream: T,
    unread: Vec<u8>,
    host: String,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap())
    }

    /// To the operator's listener, which knows no shop.
    pub async fn to_operator(address: SocketAddr) -> Self {
        Self { host: address.to_string(), ..Self::open(address).await }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Connection<T> {
    pub fn over(stream: T) -> Self {
        Self { stream, unread: Vec::new(), host: "shop.example".to_owned() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    pub async fn get(&mut self, target: &str, headers: &str) -> Response {
        self.request("GET", target, headers).await
    }

    pub async fn request(&mut self, method: &str, target: &str, headers: &str) -> Response {
        self.send(format!("{method} {target} HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", self.host)).await;
        self.response_to(method).await.expect("an answer")
    }

    /// Sends `body` with its length.
    pub async fn post(&mut self, target: &str, body: &str) -> Response {
        let head = format!("POST {target} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n", self.host, body.len());
        self.send(head + body).await;
        self.response_to("POST").await.expect("an answer")
    }

    /// The next answer; `None` when the connection ends first.
    pub async fn response(&mut self) -> Option<Response> {
        self.response_to("GET").await
    }

    pub async fn response_to(&mut self, method: &str) -> Option<Response> {
        timeout(PATIENCE, self.read_response(method)).await.expect("an answer in time")
    }

    /// Whether the peer closes now without another byte.
    pub async fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        self.unread.is_empty()
            && matches!(timeout(PATIENCE, self.stream.read(&mut byte)).await.expect("a close in time"), Ok(0) | Err(_))
    }

    pub fn into_stream(self) -> T {
        self.stream
    }

    async fn read_response(&mut self, method: &str) -> Option<Response> {
        let head = super::origin::read_head(&mut self.stream, &mut self.unread).await?;
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers: Vec<_> = lines
            .take_while(|line| !line.is_empty())
            .map(|line| line.split_once(':').expect("a header field"))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        let mut response = Response { status, headers, body: Vec::new() };
        if method != "HEAD" && status != 304 && status != 204 {
            response.body = self.read_body(&response).await?;
        }
        Some(response)
    }

    async fn read_body(&mut self, response: &Response) -> Option<Vec<u8>> {
        if response.header("transfer-encoding").is_some() {
            return self.read_chunks().await;
        }
        if let Some(length) = response.header("content-length") {
            return self.take(length.parse().unwrap()).await;
        }
        let mut rest = std::mem::take(&mut self.unread);
        self.stream.read_to_end(&mut rest).await.ok()?;
        Some(rest)
    }

    async fn read_chunks(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let size = self.take_line().await?;
            let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
            body.extend(self.take(size).await?);
            self.take_line().await?;
            if size == 0 {
                return Some(body);
            }
        }
    }

    async fn take_line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.unread.windows(2).position(|window| window == b"\r\n") {
                let rest = self.unread.split_off(end + 2);
                let line = std::mem::replace(&mut self.unread, rest);
                return String::from_utf8(line[..end].to_vec()).ok();
            }
            self.read_more().await?;
        }
    }

    async fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.unread.len() < length {
            self.read_more().await?;
        }
        let rest = self.unread.split_off(length);
        Some(std::mem::replace(&mut self.unread, rest))
    }

    async fn read_more(&mut self) -> Option<()> {
        let mut buffer = vec![0; 16 * 1024];
        let read = self.stream.read(&mut buffer).await.ok().filter(|read| *read > 0)?;
        self.unread.extend_from_slice(&buffer[..read]);
        Some(())
    }
}
