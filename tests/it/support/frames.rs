//! A client of HTTP/2 that says its frames by hand, whatever they mean, and reads what comes (RFC 9113 §4, §6).

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::PATIENCE;
use super::tls::{Authority, HTTP_2};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// Flags.
pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// A setting: the window that each stream begins with.
pub const INITIAL_WINDOW_SIZE: u16 = 4;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// Why, when it resets a stream.
    pub fn reset(&self) -> Option<u32> {
        (self.kind == RST_STREAM).then(|| number(&self.payload[..4]))
    }

    /// Why, when it ends the connection.
    pub fn goaway(&self) -> Option<u32> {
        (self.kind == GOAWAY).then(|| number(&self.payload[4..8]))
    }

    /// The last stream of which something is, or will be, done, when it ends the connection.
    pub fn last_stream(&self) -> Option<u32> {
        (self.kind == GOAWAY).then(|| number(&self.payload[..4]))
    }

    /// The status of the first answer on a connection (RFC 7541 §6.1, §6.2.1: an index, or digits compressed).
    pub fn status(&self) -> Option<u16> {
        let known = [(0x88, 200), (0x89, 204), (0x8a, 206), (0x8b, 304), (0x8c, 400), (0x8d, 404), (0x8e, 500)];
        match self.payload.as_slice() {
            _ if self.kind != HEADERS => None,
            [0x48, 0x82..=0x83, digits @ ..] => Some(decompressed(digits)),
            [first, ..] => known.iter().find(|(byte, _)| byte == first).map(|(_, status)| *status),
            [] => None,
        }
    }
}

/// Three digits: 0 to 2 take five bits, the others six (RFC 7541, appendix B).
fn decompressed(bytes: &[u8]) -> u16 {
    let bits = number(&[bytes, &[0, 0, 0]].concat()[..4]);
    let mut at = 32;
    (0..3).fold(0, |number, _| {
        let short = bits >> (at - 5) & 31;
        let digit = if short < 3 { short } else { (bits >> (at - 6) & 63) - 22 };
        at -= if short < 3 { 5 } else { 6 };
        number * 10 + u16::try_from(digit).unwrap()
    })
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// A frame as it stands on the wire.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header block of `fields`, each spelt out (RFC 7541 §6.2.2).
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            length(&mut block, text.len());
            block.extend(text.as_bytes());
        }
    }
    block
}

/// The length of a string that is not compressed (RFC 7541 §5.1).
fn length(block: &mut Vec<u8>, length: usize) {
    if length < 127 {
        return block.push(u8::try_from(length).unwrap());
    }
    block.push(127);
    let mut rest = length - 127;
    while rest >= 128 {
        block.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    block.push(u8::try_from(rest).unwrap());
}

/// The fields of a request without those of its own.
pub fn request<'a>(method: &'a str, target: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![(":method", method), (":scheme", "https"), (":authority", "localhost"), (":path", target)]
}

/// A whole request on `stream`.
pub fn get(stream: u32, target: &str) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(&request("GET", target)))
}

/// What a client begins with.
pub fn preface(settings: &[(u16, u32)]) -> Vec<u8> {
    let pairs: Vec<u8> =
        settings.iter().flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(SETTINGS, 0, 0, &pairs)[..]].concat()
}

pub struct Frames {
    read: ReadHalf<TlsStream<TcpStream>>,
    write: WriteHalf<TlsStream<TcpStream>>,
}

impl Frames {
    /// Connects, and says nothing yet.
    pub async fn silent(authority: &Authority, address: SocketAddr) -> Self {
        let (read, write) = split(authority.connect(address, &[HTTP_2]).await);
        Self { read, write }
    }

    pub async fn open(authority: &Authority, address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut frames = Self::silent(authority, address).await;
        frames.say(preface(settings)).await;
        frames
    }

    pub async fn say(&mut self, bytes: impl AsRef<[u8]>) {
        assert!(self.is_taken(bytes).await, "the peer is gone");
    }

    /// Says `bytes`; false when the peer has gone.
    pub async fn is_taken(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        is_taken(&mut self.write, bytes.as_ref()).await
    }

    /// The next frame; `None` when the connection ends first.
    pub async fn next(&mut self) -> Option<Frame> {
        timeout(PATIENCE, next(&mut self.read)).await.expect("a frame in time")
    }

    /// The next frame of which `wanted` is something; the others are passed over.
    pub async fn hear<T>(&mut self, wanted: impl Fn(&Frame) -> Option<T>) -> T {
        loop {
            let frame = self.next().await.expect("a frame before the end");
            if let Some(found) = wanted(&frame) {
                return found;
            }
        }
    }

    /// Answers the next ping. The one behind a GOAWAY asks whether that has arrived.
    pub async fn heeds_a_ping(&mut self) {
        let payload = self.hear(|frame| (frame.kind == PING).then(|| frame.payload.clone())).await;
        self.say(frame(PING, ACK, 0, &payload)).await;
    }

    /// Everything until the peer has said its end.
    pub async fn rest(mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(frame) = self.next().await {
            frames.push(frame);
        }
        frames
    }

    /// Says what `next` returns, at most `most` times, until the peer says GOAWAY or its end. How often, and all that was
    /// heard until the connection had ended.
    pub async fn flood(self, most: u32, next: impl FnMut(u32) -> Vec<u8>) -> (u32, Vec<Frame>) {
        self.flood_at(Pace::AsFastAsItGoes, most, next).await
    }

    /// The same, but each time waits until the peer has seen all that was said: so it is told at once what was too much.
    pub async fn insist(self, most: u32, next: impl FnMut(u32) -> Vec<u8>) -> (u32, Vec<Frame>) {
        self.flood_at(Pace::PingAfterEach, most, next).await
    }

    async fn flood_at(mut self, pace: Pace, most: u32, mut next: impl FnMut(u32) -> Vec<u8>) -> (u32, Vec<Frame>) {
        let (told, mut seen) = watch::channel(Seen::default());
        let heard = listen(self.read, told);
        let mut said = 0;
        while said < most && !seen.borrow().end {
            let mut bytes = next(said);
            if pace == Pace::PingAfterEach {
                bytes.extend(frame(PING, 0, 0, b"seen it?"));
            }
            let stopped = tokio::select! {
                biased;
                () = until(&mut seen, |seen| seen.end) => true,
                taken = is_taken(&mut self.write, &bytes) => !taken,
            };
            if stopped {
                break;
            }
            said += 1;
            if pace == Pace::PingAfterEach {
                let looked = until(&mut seen, |seen| seen.end || seen.pongs >= said);
                timeout(PATIENCE, looked).await.expect("a pong or the end in time");
            }
        }
        let _ = self.write.shutdown().await;
        (said, timeout(PATIENCE, heard).await.expect("the connection ends").unwrap())
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Pace {
    AsFastAsItGoes,
    PingAfterEach,
}

#[derive(Default)]
struct Seen {
    pongs: u32,
    /// A GOAWAY, or the end.
    end: bool,
}

async fn is_taken(write: &mut WriteHalf<TlsStream<TcpStream>>, bytes: &[u8]) -> bool {
    write.write_all(bytes).await.is_ok() && write.flush().await.is_ok()
}

async fn until(seen: &mut watch::Receiver<Seen>, condition: impl Fn(&Seen) -> bool) {
    // An error is the end too.
    let _ = seen.wait_for(|seen| condition(seen)).await;
}

/// Reads to the end, and tells of what decides whether to go on.
fn listen(mut read: ReadHalf<TlsStream<TcpStream>>, told: watch::Sender<Seen>) -> JoinHandle<Vec<Frame>> {
    tokio::spawn(async move {
        let mut frames = Vec::new();
        while let Some(frame) = next(&mut read).await {
            told.send_modify(|seen| {
                seen.pongs += u32::from(frame.kind == PING && frame.flags & ACK != 0);
                seen.end |= frame.kind == GOAWAY;
            });
            frames.push(frame);
        }
        told.send_modify(|seen| seen.end = true);
        frames
    })
}

async fn next(read: &mut ReadHalf<TlsStream<TcpStream>>) -> Option<Frame> {
    let mut head = [0; 9];
    read.read_exact(&mut head).await.ok()?;
    let mut payload = vec![0; usize::try_from(number(&head[..3])).unwrap()];
    read.read_exact(&mut payload).await.ok()?;
    Some(Frame { kind: head[3], flags: head[4], stream: number(&head[5..]), payload })
}
