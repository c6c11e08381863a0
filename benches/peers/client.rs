//! Our own client: fills caches, looks at what is answered, and asks at a steady pace; also the load where wrk is missing.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::Outcome;

/// Bytes of an answer's head at most.
const LONGEST_HEAD: usize = 16 * 1024;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A question.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The path and the query.
    pub target: String,
    /// For `If-None-Match`.
    pub tag: Option<String>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its entity tag.
    pub tag: Option<String>,
    /// Bytes in all.
    pub bytes: usize,
}

/// What came of many questions.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// Answers.
    pub requests: u64,
    /// How long it took.
    pub seconds: f64,
    /// Bytes of all answers, heads included.
    pub bytes: u64,
    /// Half of the answers took less, in milliseconds.
    pub p50: f64,
    /// Of a hundred answers one took longer.
    pub p99: f64,
    /// The longest.
    pub longest: f64,
}

impl Figures {
    fn of(mut latencies: Vec<Duration>, bytes: u64, took: Duration) -> Self {
        latencies.sort_unstable();
        let at = |share: f64| {
            let index = (latencies.len() as f64 * share) as usize;
            latencies.get(index.min(latencies.len().saturating_sub(1))).map_or(0.0, |took| took.as_secs_f64() * 1e3)
        };
        let (requests, seconds) = (latencies.len() as u64, took.as_secs_f64());
        Self { requests, seconds, bytes, p50: at(0.5), p99: at(0.99), longest: at(1.0) }
    }
}

impl Ask {
    /// Asks for `target` without conditions.
    pub fn plain(target: String) -> Self {
        Self { target, tag: None }
    }

    fn written(&self) -> Vec<u8> {
        let condition = self.tag.as_ref().map(|tag| format!("If-None-Match: {tag}\r\n")).unwrap_or_default();
        format!("GET {} HTTP/1.1\r\nHost: localhost\r\n{condition}\r\n", self.target).into_bytes()
    }
}

/// Asks once; `body` gets what came.
pub async fn ask<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, ask: &Ask, body: &mut Vec<u8>) -> Outcome<Answer> {
    stream.write_all(&ask.written()).await?;
    body.clear();
    let end = loop {
        let from = body.len().saturating_sub(3);
        if stream.read_buf(body).await? == 0 {
            return Err("the connection was closed".into());
        }
        if let Some(at) = body[from..].windows(4).position(|four| four == b"\r\n\r\n") {
            break from + at + 4;
        }
        if body.len() > LONGEST_HEAD {
            return Err("a head without an end".into());
        }
    };
    let head = String::from_utf8_lossy(&body[..end]).into_owned();
    let status = head.get(9..12).and_then(|status| status.parse().ok()).ok_or("no status")?;
    let field = |name: &str| {
        let mut fields = head.lines().filter_map(|line| line.split_once(':'));
        fields.find(|(is, _)| is.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
    };
    let length = match status {
        304 => 0,
        _ => field("content-length").and_then(|length| length.parse().ok()).ok_or("no length")?,
    };
    body.drain(..end);
    body.reserve(length);
    while body.len() < length {
        if stream.read_buf(body).await? == 0 {
            return Err("an answer was cut short".into());
        }
    }
    if body.len() > length {
        return Err("more than was promised".into());
    }
    Ok(Answer { status, tag: field("etag"), bytes: end + length })
}

/// A connection in the clear.
pub async fn connect(address: SocketAddr) -> Outcome<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// How a load ends.
#[derive(Debug, Clone, Copy)]
pub enum End {
    /// After so long.
    After(Duration),
    /// When everything was asked once.
    Once,
}

/// How fast questions are asked.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// On each connection the next when the last is answered.
    AsFastAsPossible,
    /// So many a second, over all connections. A question that has to wait for the last one's answer waits too long.
    Steady(f64),
}

/// Asks on so many connections, each of which takes every so-many-th of `asks`; every answer must have `status`.
pub async fn load(
    address: SocketAddr,
    asks: Rc<[Ask]>,
    connections: usize,
    pace: Pace,
    end: End,
    status: u16,
) -> Outcome<Figures> {
    let local = tokio::task::LocalSet::new();
    let begun = Instant::now();
    let work = async {
        let mut tasks = JoinSet::new();
        for number in 0..connections {
            let asks = Rc::clone(&asks);
            tasks.spawn_local(async move {
                let mut one = One { begun, number, connections, pace, latencies: Vec::new(), bytes: 0 };
                one.go(address, &asks, end, status).await.map(|()| one)
            });
        }
        let (mut latencies, mut bytes) = (Vec::new(), 0);
        while let Some(one) = tasks.join_next().await {
            let one = one??;
            latencies.extend(one.latencies);
            bytes += one.bytes;
        }
        Ok(Figures::of(latencies, bytes, begun.elapsed()))
    };
    local.run_until(work).await
}

/// One connection of a load.
struct One {
    begun: Instant,
    number: usize,
    connections: usize,
    pace: Pace,
    latencies: Vec<Duration>,
    bytes: u64,
}

impl One {
    async fn go(&mut self, address: SocketAddr, asks: &[Ask], end: End, status: u16) -> Outcome<()> {
        let mut stream = connect(address).await?;
        let mut body = Vec::new();
        let mut count = 0;
        loop {
            let at = self.number + count * self.connections;
            let is_over = match end {
                End::After(time) => self.begun.elapsed() >= time,
                End::Once => at >= asks.len(),
            };
            if is_over {
                return Ok(());
            }
            let asked = self.turn(count).await;
            let question = &asks[at % asks.len()];
            let answer = timeout(PATIENCE, ask(&mut stream, question, &mut body)).await??;
            if answer.status != status {
                return Err(format!("{} was answered {}", question.target, answer.status).into());
            }
            self.latencies.push(asked.elapsed());
            self.bytes += answer.bytes as u64;
            count += 1;
        }
    }

    /// Waits for its turn; tells from when the answer's time counts.
    async fn turn(&self, count: usize) -> Instant {
        let now = Instant::now();
        let Pace::Steady(rate) = self.pace else { return now };
        let turn = (self.number + count * self.connections) as f64 / rate;
        let due = self.begun + Duration::from_secs_f64(turn);
        if due < now {
            return due;
        }
        sleep_until(due).await;
        Instant::now()
    }
}
