//! A slow client: what it says before it says no more, and when the server has to have closed it.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;

use crate::Outcome;
use crate::guests::read_out;
use crate::server::Timeouts;

/// A connection that is open so long after its deadline is broken, however busy the machine is.
const LONG_AFTER: Duration = Duration::from_secs(10);
/// What a connection, and a handshake, may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Pieces in the time of a deadline.
const PIECES: u32 = 5;
/// Pieces of a body before there are no more: one that goes on coming is no silent one.
const BODY: u32 = 3;
/// Images that are asked for and not read; more than the buffers between us hold.
const IMAGES: usize = 16;
/// What a client that does not read has room for.
const ROOM: u32 = 4096;
/// A segment of the internet's, since loopback's of 64 KiB come with buffers of megabytes.
const SEGMENT: u32 = 1460;
/// The head of a record that is said to hold 16 KiB of a handshake.
const RECORD: [u8; 5] = *b"\x16\x03\x01\x40\x00";
/// Addresses that slow clients come from.
const ADDRESSES: usize = 100;

/// A way to be slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Says nothing.
    Silent,
    /// Says a head bit by bit, without an end.
    Head,
    /// Begins a body for the app.
    Body,
    /// Asks for images and does not read.
    Reader,
    /// Begins a handshake of TLS, and says no more.
    Handshake,
    /// Says half of what HTTP/2 begins with, over TLS.
    Preface,
}

/// Where slow clients go.
#[derive(Clone)]
pub struct Place {
    /// The listener in the clear.
    pub address: SocketAddr,
    /// The one for TLS.
    pub tls: SocketAddr,
    /// Speaks HTTP/2 over TLS.
    pub connector: TlsConnector,
    /// Its deadlines.
    pub timeouts: Timeouts,
    /// An image that is in the cache.
    pub target: String,
}

/// How a connection ended.
#[derive(Debug, Clone, Copy)]
pub enum End {
    /// So long after its deadline.
    Late(Duration),
    /// So long before it.
    Early(Duration),
    /// Not, long after it.
    Open,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Silent, Self::Head, Self::Body, Self::Reader, Self::Handshake, Self::Preface];

    /// As tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Head => "head dripped",
            Self::Body => "body dripped",
            Self::Reader => "does not read",
            Self::Handshake => "silent handshake",
            Self::Preface => "half a preface",
        }
    }

    /// The keys that end it.
    pub fn key(self) -> &'static str {
        match self {
            Self::Silent => "first_byte",
            Self::Head => "head",
            Self::Preface => "head, first_byte",
            Self::Body => "body",
            Self::Reader => "write",
            Self::Handshake => "tls_handshake",
        }
    }

    /// How long it may go on.
    pub fn deadline(self, timeouts: &Timeouts) -> Duration {
        match self {
            Self::Silent => timeouts.first_byte,
            Self::Head => timeouts.head,
            // It is told to go, and may.
            Self::Preface => timeouts.head + timeouts.first_byte,
            Self::Body => timeouts.body,
            Self::Reader => timeouts.write,
            Self::Handshake => timeouts.tls_handshake,
        }
    }

    /// How long it stays before the server first does something about it.
    pub fn undisturbed(self, timeouts: &Timeouts) -> Duration {
        if self == Self::Preface { timeouts.head } else { self.stay(timeouts) }
    }

    /// From its first byte to its end.
    pub fn stay(self, timeouts: &Timeouts) -> Duration {
        let deadline = self.deadline(timeouts);
        if self == Self::Body { deadline + deadline / PIECES * BODY } else { deadline }
    }
}

impl Place {
    /// Comes, is slow, and is closed, one hopes.
    pub async fn stay(&self, kind: Kind, number: usize) -> Outcome<End> {
        let mut began = Began::at(Instant::now());
        let mut stream = timeout(PATIENCE, self.connect(kind, number)).await??;
        if kind == Kind::Preface {
            return self.stay_in_tls(began, stream).await;
        }
        let words = match kind {
            Kind::Silent | Kind::Preface => Vec::new(),
            Kind::Head => b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ".to_vec(),
            Kind::Body => b"POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n".to_vec(),
            Kind::Reader => format!("GET {} HTTP/1.1\r\nHost: localhost\r\n\r\n", self.target).repeat(IMAGES).into(),
            Kind::Handshake => RECORD.to_vec(),
        };
        stream.write_all(&words).await?;
        began.last = Instant::now();
        let deadline = kind.deadline(&self.timeouts);
        let mut pieces = match kind {
            Kind::Head => u32::MAX,
            Kind::Body => BODY,
            _ => 0,
        };
        while pieces > 0 {
            let dripped = timeout(deadline / PIECES, closed(kind, &mut stream)).await;
            let before = Instant::now();
            if dripped.is_ok() || before > began.last + deadline + LONG_AFTER || stream.write_all(b"x").await.is_err() {
                break;
            }
            pieces -= 1;
            if kind == Kind::Body {
                began = Began { first: before, last: Instant::now() };
            }
        }
        Ok(began.ended(deadline, closed(kind, &mut stream)).await)
    }

    async fn stay_in_tls(&self, mut began: Began, stream: TcpStream) -> Outcome<End> {
        let name = ServerName::try_from("localhost").expect("it is a name");
        let mut stream = timeout(PATIENCE, self.connector.connect(name, stream)).await??;
        stream.write_all(b"PRI * HTTP/2.0\r\n").await?;
        began.last = Instant::now();
        Ok(began.ended(Kind::Preface.deadline(&self.timeouts), read_out(&mut stream)).await)
    }

    /// From one of a hundred addresses of this machine.
    async fn connect(&self, kind: Kind, number: usize) -> Outcome<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        let last = u8::try_from(number % ADDRESSES + 1).expect("it is small");
        socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 1, last), 0)))?;
        if kind == Kind::Reader {
            socket.set_recv_buffer_size(ROOM)?;
            SockRef::from(&socket).set_tcp_mss(SEGMENT)?;
        }
        let is_tls = matches!(kind, Kind::Handshake | Kind::Preface);
        let stream = socket.connect(if is_tls { self.tls } else { self.address }).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// Waits until the server has closed the connection.
async fn closed(kind: Kind, stream: &mut TcpStream) {
    if kind == Kind::Reader {
        // It is reset. To look for an end would be to read.
        let _ = stream.ready(Interest::ERROR).await;
        return;
    }
    read_out(stream).await;
}

/// When a deadline began: the server saw it at some time between these.
#[derive(Debug, Clone, Copy)]
struct Began {
    first: Instant,
    last: Instant,
}

impl Began {
    fn at(now: Instant) -> Self {
        Self { first: now, last: now }
    }

    /// Waits until the connection is closed, or has been open for long after `deadline`.
    async fn ended(self, deadline: Duration, closed: impl Future<Output = ()>) -> End {
        let (first, last) = (self.first + deadline, self.last + deadline);
        if timeout_at(last + LONG_AFTER, closed).await.is_err() {
            return End::Open;
        }
        let now = Instant::now();
        if now < first { End::Early(first - now) } else { End::Late(now.saturating_duration_since(last)) }
    }
}
