//! Our own client: fills caches, looks at what is answered, and asks at a steady pace; also the load where wrk is missing.

use std::net::{Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::Outcome;
use crate::alarm::Alarm;
use crate::arrival::Arriving;

/// Bytes of an answer's head at most.
const LONGEST_HEAD: usize = 16 * 1024;
/// The fractions of its multiples are spread evenly.
const GOLDEN: f64 = 0.618_033_988_749_894_9;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A question.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The path and the query.
    pub target: String,
    /// For `If-None-Match`.
    pub tag: Option<String>,
    /// For whom a proxy would say that it asks.
    pub client: Option<Ipv6Addr>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its head.
    pub head: String,
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
    fn of(mut latencies: Vec<Duration>, requests: u64, bytes: u64, took: Duration) -> Self {
        latencies.sort_unstable();
        let at = |share: f64| {
            let index = (latencies.len() as f64 * share) as usize;
            latencies.get(index.min(latencies.len().saturating_sub(1))).map_or(0.0, |took| took.as_secs_f64() * 1e3)
        };
        Self { requests, seconds: took.as_secs_f64(), bytes, p50: at(0.5), p99: at(0.99), longest: at(1.0) }
    }
}

impl Ask {
    /// Asks for `target` without conditions.
    pub fn plain(target: String) -> Self {
        Self { target, tag: None, client: None }
    }

    fn written(&self) -> Vec<u8> {
        let condition = self.tag.as_ref().map(|tag| format!("If-None-Match: {tag}\r\n")).unwrap_or_default();
        let client = self.client.map(|client| format!("X-Forwarded-For: {client}\r\n")).unwrap_or_default();
        format!("GET {} HTTP/1.1\r\nHost: localhost\r\n{client}{condition}\r\n", self.target).into_bytes()
    }
}

impl Answer {
    /// The value of the field of this name.
    pub fn field(&self, name: &str) -> Option<&str> {
        field(&self.head, name)
    }
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(is, _)| is.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
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
    let length = match status {
        304 => 0,
        _ => field(&head, "content-length").and_then(|length| length.parse().ok()).ok_or("no length")?,
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
    Ok(Answer { status, head, bytes: end + length })
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
    /// The same, and the first on each connection is asked and not timed: what is measured are connections that are kept, as
    /// a proxy before us does. An answer has come when the kernel has the last of it, and not when it is read: those who
    /// make trouble on this core hold up whoever reads.
    Settled(f64),
}

impl Pace {
    /// Questions a second, where that is given.
    fn rate(self) -> Option<f64> {
        match self {
            Self::AsFastAsPossible => None,
            Self::Steady(rate) | Self::Settled(rate) => Some(rate),
        }
    }

    /// A connection that tells when an answer came as this pace has it.
    async fn connect(self, address: SocketAddr) -> Outcome<Arriving> {
        let stream = connect(address).await?;
        if matches!(self, Self::Settled(_)) { Arriving::stamped(stream) } else { Ok(Arriving::plain(stream)) }
    }
}

/// Looks at what became of a question, and at the body of its answer; an error ends the load.
pub type Judge = Rc<dyn Fn(&Ask, Outcome<Answer>, &[u8]) -> Outcome<()>>;

/// Asks on so many connections, each of which takes every so-many-th of `asks`; every answer must have `status`.
pub async fn load(
    address: SocketAddr,
    asks: Rc<[Ask]>,
    connections: usize,
    pace: Pace,
    end: End,
    status: u16,
) -> Outcome<Figures> {
    let has_status = move |ask: &Ask, answer: Outcome<Answer>, _: &[u8]| match answer?.status {
        is if is == status => Ok(()),
        other => Err(format!("{} was answered {other}", ask.target).into()),
    };
    judged(address, asks, connections, pace, end, Rc::new(has_status)).await
}

/// The same with answers that `judge` looks at. A connection that failed is made anew.
pub async fn judged(
    address: SocketAddr,
    asks: Rc<[Ask]>,
    connections: usize,
    pace: Pace,
    end: End,
    judge: Judge,
) -> Outcome<Figures> {
    let local = tokio::task::LocalSet::new();
    let begun = Instant::now();
    let work = async {
        let mut tasks = JoinSet::new();
        for number in 0..connections {
            let (asks, judge) = (Rc::clone(&asks), Rc::clone(&judge));
            tasks.spawn_local(async move {
                let alarm = pace.rate().map(|_| Alarm::new()).transpose()?;
                let latencies = Vec::new();
                let mut one = One {
                    begun,
                    number,
                    connections,
                    pace,
                    alarm,
                    stream: None,
                    came: None,
                    latencies,
                    requests: 0,
                    bytes: 0,
                };
                one.go(address, &asks, end, &judge).await.map(|()| one)
            });
        }
        let (mut latencies, mut requests, mut bytes) = (Vec::new(), 0, 0);
        while let Some(one) = tasks.join_next().await {
            let one = one??;
            latencies.extend(one.latencies);
            requests += one.requests;
            bytes += one.bytes;
        }
        Ok(Figures::of(latencies, requests, bytes, begun.elapsed()))
    };
    local.run_until(work).await
}

/// One connection of a load.
struct One {
    begun: Instant,
    number: usize,
    connections: usize,
    pace: Pace,
    /// Where it keeps a pace.
    alarm: Option<Alarm>,
    stream: Option<Arriving>,
    /// When the last answer had come.
    came: Option<Instant>,
    latencies: Vec<Duration>,
    requests: u64,
    bytes: u64,
}

impl One {
    async fn go(&mut self, address: SocketAddr, asks: &[Ask], end: End, judge: &Judge) -> Outcome<()> {
        self.stream = Some(self.pace.connect(address).await?);
        let mut body = Vec::new();
        let mut count = 0;
        let mut is_timed = self.is_timed_from_the_first();
        loop {
            let at = self.number + count * self.connections;
            let due = self.due(at);
            let is_over = match end {
                End::After(time) => due.max(Instant::now()) >= self.begun + time,
                End::Once => at >= asks.len(),
            };
            if is_over {
                return Ok(());
            }
            let asked = self.turn(due).await?;
            let question = &asks[at % asks.len()];
            let answer = timeout(PATIENCE, self.ask(address, question, &mut body))
                .await
                .unwrap_or_else(|_| Err("no answer".into()));
            if let Ok(answer) = &answer {
                let came = self.came()?;
                self.came = Some(came);
                if is_timed {
                    self.latencies.push(came.saturating_duration_since(asked));
                }
                self.requests += 1;
                self.bytes += answer.bytes as u64;
                is_timed = true;
            } else {
                (self.stream, self.came) = (None, None);
                is_timed = self.is_timed_from_the_first();
            }
            judge(question, answer, &body)?;
            count += 1;
        }
    }

    async fn ask(&mut self, address: SocketAddr, question: &Ask, body: &mut Vec<u8>) -> Outcome<Answer> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => none.insert(self.pace.connect(address).await?),
        };
        ask(stream, question, body).await
    }

    /// Whether what is asked first on a connection counts too.
    fn is_timed_from_the_first(&self) -> bool {
        !matches!(self.pace, Pace::Settled(_))
    }

    /// When it is the turn of the question of this number.
    fn due(&self, number: usize) -> Instant {
        let Some(rate) = self.pace.rate() else { return Instant::now() };
        // Somewhere in its part of a second, or it came with every wave of whoever comes as steadily, or with none.
        let somewhere = (number as f64 * GOLDEN).fract();
        self.begun + Duration::from_secs_f64((number as f64 + somewhere) / rate)
    }

    /// When the answer that was read last had come.
    fn came(&self) -> Outcome<Instant> {
        let now = Instant::now();
        let lain = self.stream.as_ref().and_then(Arriving::lain);
        let came = lain.and_then(|lain| now.checked_sub(lain)).filter(|came| *came >= self.begun);
        came.ok_or_else(|| "the kernel does not say when an answer came, or the clock was set: begin anew".into())
    }

    /// Waits until it is `due`; tells from when the answer's time counts: where it had to wait for the last one, since then.
    async fn turn(&self, due: Instant) -> Outcome<Instant> {
        match &self.alarm {
            Some(alarm) if due > Instant::now() => alarm.at(due).await?,
            Some(_) if self.came.is_some_and(|came| came < due) => {}
            _ => return Ok(due),
        }
        Ok(Instant::now())
    }
}
