//! What is measured, and on which scale.

use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use rustls::pki_types::ServerName;
use serde_json::json;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::client::TlsStream;

use crate::client::{self, Ask, End, Figures, Pace};
use crate::compare::{Protocol, Ratios, Setting};
use crate::machine::find;
use crate::median::median;
use crate::origin::Origin;
use crate::report::{Report, Row, Table};
use crate::server::{Ground, Kind, Server, Task};
use crate::tickets::{IMAGE, Order, target};
use crate::{Outcome, machine};

/// Tickets that are asked for in turn where nothing else is said.
const TICKETS: u64 = 100;
/// Tickets of the Zipf law, and how often one is drawn before the order repeats.
const ZIPF: (u64, usize) = (1000, 50_000);
/// Draws from a large cache before the order repeats; as many different tickets of it are touched at most.
const DRAWS: usize = 100_000;
/// A small image.
const SMALL: usize = 1024;
/// Peers keep no more small images than this: to nginx each is a file.
const MOST_OF_PEERS: u64 = 100_000;
/// What a slow origin takes.
const SLOW: Duration = Duration::from_millis(200);
/// Connections that ask at a steady pace.
const STEADY: usize = 64;
/// Connections for misses: twice as many as are under way at once.
const MISSING: usize = 160;
/// The first ticket that nobody has asked for yet.
const COLD: u64 = 1 << 40;
/// Idle connections are opened in batches, so that a server can do its housekeeping between them.
const BATCH: usize = 1500;
/// Files of our own, and of a server's, that are no connections.
const SPARE_FILES: usize = 500;
/// What a handshake, or an answer, may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Visits of each server.
    pub rounds: usize,
    /// Seconds of a visit.
    pub seconds: u64,
    /// Idle connections.
    pub idle: usize,
    /// The largest cache of small images.
    pub entries: u64,
    /// Images whose memory is weighed.
    pub images: u64,
    /// Clients that ask for one cold ticket at once.
    pub herd: usize,
    /// Hits a second beside which a ninth as many are misses.
    pub hits: f64,
    /// Starts of each server.
    pub starts: usize,
    /// Seconds until an idle connection is idle.
    pub rest: u64,
}

impl Scale {
    /// For figures.
    pub const USUAL: Self = Self {
        rounds: 5,
        seconds: 5,
        idle: 9_000,
        entries: 1_000_000,
        images: 10_000,
        herd: 1000,
        hits: 3600.0,
        starts: 11,
        rest: 5,
    };
    /// To see that everything works.
    pub const SMOKE: Self = Self {
        rounds: 1,
        seconds: 1,
        idle: 100,
        entries: 1000,
        images: 200,
        herd: 50,
        hits: 360.0,
        starts: 1,
        rest: 1,
    };
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Cached images over 16, 64 and 256 connections
    Hit,
    /// The same images, which the client has
    #[value(name = "304")]
    NotModified,
    /// Cached images over TLS 1.3
    Tls,
    /// Cached images over HTTP/2
    H2,
    /// 1,000 tickets by Zipf's law
    Zipf,
    /// Hits while one request in ten misses into an origin of 200 ms
    Misses,
    /// Many ask at once for one image that nobody has
    Herd,
    /// Memory of idle connections
    Idle,
    /// Memory of idle connections over TLS
    IdleTls,
    /// Memory of idle connections over HTTP/2
    IdleH2,
    /// Memory of cached images
    Memory,
    /// Caches of 1 thousand to 1 million small images
    Entries,
    /// Two server cores against one
    Cores,
    /// From the start to the first answer
    Start,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Hit,
        Self::NotModified,
        Self::Tls,
        Self::H2,
        Self::Zipf,
        Self::Misses,
        Self::Herd,
        Self::Idle,
        Self::IdleTls,
        Self::IdleH2,
        Self::Memory,
        Self::Entries,
        Self::Cores,
        Self::Start,
    ];

    /// The program that it needs beyond servers.
    fn needs(self) -> Option<&'static str> {
        match self {
            Self::Tls => Some("wrk"),
            Self::H2 => Some("h2load"),
            _ => None,
        }
    }
}

/// Everything that measuring needs.
#[derive(Debug)]
pub struct Bench {
    /// How servers are started.
    pub ground: Ground,
    /// Who is compared.
    pub servers: Vec<Kind>,
    /// How much is measured.
    pub scale: Scale,
    /// Tells what is being done.
    pub progress: fn(&str),
}

impl Bench {
    /// Measures `modes` into `report`; false when one failed. The others are measured all the same.
    pub fn run(&self, modes: &[Mode], report: &mut Report) -> bool {
        let mut is_whole = true;
        for mode in modes {
            if let Some(program) = mode.needs().filter(|program| find(program).is_none()) {
                report.notes.push(format!("{mode:?} needs {program}, which is not installed"));
                continue;
            }
            match self.mode(*mode) {
                Ok(tables) => report.tables.extend(tables),
                Err(trouble) => {
                    is_whole = false;
                    report.notes.push(format!("{mode:?} failed: {trouble}"));
                }
            }
        }
        is_whole
    }

    /// Waits for `work` on a runtime of its own, where the load generator is.
    pub fn wait<T>(&self, work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
        machine::pin(&self.ground.cores.load);
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
    }

    fn mode(&self, mode: Mode) -> Outcome<Vec<Table>> {
        let hit = Setting {
            mode: "hit",
            protocol: Protocol::Clear,
            connections: 64,
            size: IMAGE,
            not_modified: false,
            ratios: Ratios::ToOthers,
        };
        let one = |table: Outcome<Table>| table.map(|table| vec![table]);
        match mode {
            Mode::Hit => [(16, "hit-16"), (64, "hit-64"), (256, "hit-256")]
                .map(|(connections, mode)| {
                    let title = format!("A hit of {IMAGE} bytes, {connections} connections");
                    self.loaded(&Setting { mode, connections, ..hit }, title, TICKETS, Order::Round)
                })
                .into_iter()
                .collect(),
            Mode::NotModified => {
                let setting = Setting { mode: "304", not_modified: true, ..hit };
                one(self.loaded(&setting, "A 304, 64 connections".to_owned(), TICKETS, Order::Round))
            }
            Mode::Tls => {
                let setting = Setting { mode: "tls", protocol: Protocol::Tls, ..hit };
                one(self.loaded(&setting, "A hit over TLS 1.3, 64 connections".to_owned(), TICKETS, Order::Round))
            }
            Mode::H2 => {
                let setting = Setting { mode: "h2", protocol: Protocol::Http2, connections: 16, ..hit };
                let title = "A hit over HTTP/2, 16 connections with 10 requests at once".to_owned();
                one(self.loaded(&setting, title, TICKETS, Order::Round))
            }
            Mode::Zipf => {
                let (count, draws) = ZIPF;
                let title = format!("{count} tickets by Zipf's law, 64 connections");
                one(self.loaded(&Setting { mode: "zipf", ..hit }, title, count, Order::Zipf(draws)))
            }
            Mode::Misses => one(self.misses()),
            Mode::Herd => one(self.herd()),
            Mode::Idle => one(self.idle("idle", Protocol::Clear)),
            Mode::IdleTls => one(self.idle("idle-tls", Protocol::Tls)),
            Mode::IdleH2 => one(self.idle("idle-h2", Protocol::Http2)),
            Mode::Memory => one(self.memory()),
            Mode::Entries => {
                one(self.entries(&Setting { mode: "entries", size: SMALL, ratios: Ratios::ToFirst, ..hit }))
            }
            Mode::Cores => one(self.cores(&Setting { mode: "cores", ratios: Ratios::ToFirst, ..hit })),
            Mode::Start => one(self.starts()),
        }
    }

    /// Those that can be asked over `protocol`.
    fn able(&self, protocol: Protocol) -> impl Iterator<Item = Kind> {
        self.servers.iter().copied().filter(move |kind| protocol == Protocol::Clear || kind.speaks_tls())
    }

    /// Those that keep images.
    fn caches(&self) -> impl Iterator<Item = Kind> {
        self.servers.iter().copied().filter(|kind| kind.caches())
    }

    fn task(kind: Kind, size: usize, origin: &Origin) -> Task {
        Task { kind, size, not_modified: false, cores: 1, origin: origin.address }
    }

    fn loaded(&self, setting: &Setting, title: String, count: u64, order: Order) -> Outcome<Table> {
        let origin = Origin::start(setting.size, Duration::ZERO)?;
        let contender = |kind| {
            let task = Task { not_modified: setting.not_modified, ..Self::task(kind, setting.size, &origin) };
            self.contender(task, setting, count, order)
        };
        let contenders: Vec<_> = self.able(setting.protocol).map(contender).collect::<Outcome<_>>()?;
        self.compare(setting, title, &contenders, &origin)
    }

    fn entries(&self, setting: &Setting) -> Outcome<Table> {
        let origin = Origin::start(setting.size, Duration::ZERO)?;
        let sizes = [1000, 10_000, 100_000, 1_000_000].into_iter().filter(|size| *size <= self.scale.entries.max(1000));
        let sizes: Vec<u64> = sizes.collect();
        let mut contenders = Vec::new();
        for kind in self.servers.iter().copied() {
            let most = match kind {
                Kind::Floor => 1000,
                Kind::Ticketgate | Kind::Other => u64::MAX,
                Kind::Nginx | Kind::Haproxy | Kind::Varnish => MOST_OF_PEERS,
            };
            for count in sizes.iter().copied().filter(|count| *count <= most) {
                (self.progress)(&format!("{kind} is filled with {count} images"));
                let task = Self::task(kind, setting.size, &origin);
                let contender = self.contender(task, setting, count, Order::Uniform(DRAWS))?;
                contenders.push(contender.named(format!("{kind}, {count}")));
            }
        }
        let title = format!("Images of {SMALL} bytes, as many in the cache as the name says, 64 connections");
        self.compare(setting, title, &contenders, &origin)
    }

    fn cores(&self, setting: &Setting) -> Outcome<Table> {
        let origin = Origin::start(setting.size, Duration::ZERO)?;
        let mut contenders = Vec::new();
        for kind in self.caches() {
            for cores in 1..=2 {
                let task = Task { cores, ..Self::task(kind, setting.size, &origin) };
                let contender = self.contender(task, setting, TICKETS, Order::Round)?;
                contenders.push(contender.named(format!("{kind}, {cores}")));
            }
        }
        let mut table =
            self.compare(setting, "One server core and two, 64 connections".to_owned(), &contenders, &origin)?;
        if self.ground.cores.all.len() < 3 {
            table.notes.push("with two cores the server shares one with the load generator".to_owned());
        }
        Ok(table)
    }

    fn misses(&self) -> Outcome<Table> {
        let origin = Origin::start(IMAGE, SLOW)?;
        let title = format!(
            "{:.0} hits a second, alone and while one request in ten misses into an origin of {} ms",
            self.scale.hits,
            SLOW.as_millis()
        );
        let mut table = Table::new("misses", title);
        for (name, decimals) in [("p50 alone", 2), ("p99 alone", 2), ("p50 ms", 2), ("p99 ms", 2), ("p99 ÷ alone", 2)]
        {
            table.column(name, decimals);
        }
        let servers: Vec<Server> =
            self.caches().map(|kind| self.ground.start(Self::task(kind, IMAGE, &origin))).collect::<Outcome<_>>()?;
        let hot: Rc<[Ask]> = (0..TICKETS).map(|number| Ask::plain(target(number))).collect();
        let mut rounds: Vec<Vec<(Figures, Figures)>> = vec![Vec::new(); servers.len()];
        for server in &servers {
            self.fill(server, &hot)?;
        }
        let mut cold = COLD;
        for round in 1..=self.scale.rounds {
            (self.progress)(&format!("misses: round {round} of {}", self.scale.rounds));
            for (server, rounds) in servers.iter().zip(&mut rounds) {
                let end = End::After(Duration::from_secs(self.scale.seconds));
                let hits =
                    || client::load(server.address, Rc::clone(&hot), STEADY, Pace::Steady(self.scale.hits), end, 200);
                let alone = self.wait(hits())?;
                let rate = self.scale.hits / 9.0;
                let count = (rate * self.scale.seconds as f64 * 1.1) as u64 + MISSING as u64;
                let asks: Rc<[Ask]> = (cold..cold + count).map(|number| Ask::plain(target(number))).collect();
                cold += count;
                let misses = client::load(server.address, asks, MISSING, Pace::Steady(rate), end, 200);
                let (beside, misses) = self.wait(async { tokio::try_join!(hits(), misses) })?;
                if misses.p50 < SLOW.as_secs_f64() * 900.0 {
                    return Err(format!("{}: what should be misses took {} ms", server.name, misses.p50).into());
                }
                rounds.push((alone, beside));
            }
        }
        for (server, rounds) in servers.iter().zip(rounds) {
            let of = |what: fn(&(Figures, Figures)) -> f64| Some(median(rounds.iter().map(what)));
            let cells = vec![
                of(|(alone, _)| alone.p50),
                of(|(alone, _)| alone.p99),
                of(|(_, beside)| beside.p50),
                of(|(_, beside)| beside.p99),
                of(|(alone, beside)| beside.p99 / alone.p99),
            ];
            let told = rounds.iter().map(|(alone, beside)| json!({ "p99 alone": alone.p99, "p99": beside.p99 }));
            table.rows.push(Row { name: server.name.clone(), cells, rounds: told.collect() });
        }
        Ok(table)
    }

    fn herd(&self) -> Outcome<Table> {
        let count = self.scale.herd;
        let title = format!("{count} clients ask at once for one image that takes the origin {} ms", SLOW.as_millis());
        let mut table = Table::new("herd", title);
        for (name, decimals) in [("calls to the origin", 0), ("first half ms", 0), ("last ms", 0)] {
            table.column(name, decimals);
        }
        for kind in self.caches() {
            (self.progress)(&format!("herd: {kind}"));
            let origin = Origin::start(IMAGE, SLOW)?;
            let server = self.ground.start(Self::task(kind, IMAGE, &origin))?;
            let asks: Rc<[Ask]> = (0..count).map(|_| Ask::plain(target(COLD))).collect();
            let figures =
                self.wait(client::load(server.address, asks, count, Pace::AsFastAsPossible, End::Once, 200))?;
            let cells = vec![Some(origin.calls() as f64), Some(figures.p50), Some(figures.longest)];
            table.rows.push(Row { name: server.name.clone(), cells, rounds: Vec::new() });
        }
        Ok(table)
    }

    fn idle(&self, mode: &'static str, protocol: Protocol) -> Outcome<Table> {
        let count = self.scale.idle.min(self.ground.files.saturating_sub(SPARE_FILES)).min(9_500);
        let over = match protocol {
            Protocol::Clear => "",
            Protocol::Tls => " over TLS 1.3",
            Protocol::Http2 => " over HTTP/2",
        };
        let mut table = Table::new(mode, format!("{count} idle connections{over}, after a request on each"));
        table.column("KiB each", 2);
        table.column("MiB in all", 0);
        let origin = Origin::start(IMAGE, Duration::ZERO)?;
        for kind in self.able(protocol).filter(|kind| kind.caches()) {
            (self.progress)(&format!("{mode}: {kind}"));
            let server = self.ground.start(Self::task(kind, IMAGE, &origin))?;
            let grown = self.wait(self.idle_at(&server, protocol, count))? as f64;
            let cells = vec![Some(grown / count as f64), Some(grown / 1024.0)];
            table.rows.push(Row { name: server.name.clone(), cells, rounds: Vec::new() });
        }
        Ok(table)
    }

    /// KiB by which the server has grown with `count` idle connections.
    async fn idle_at(&self, server: &Server, protocol: Protocol, count: usize) -> Outcome<u64> {
        let offered: &[&[u8]] = if protocol == Protocol::Http2 { &[b"h2"] } else { &[] };
        let tls = self.ground.certificate.connector(offered)?;
        let ask = Ask::plain(target(0));
        let mut body = Vec::new();
        client::ask(&mut client::connect(server.address).await?, &ask, &mut body).await?;
        sleep(Duration::from_secs(1)).await;
        let before = server.process.memory().now;
        let mut open: Vec<Idle> = Vec::with_capacity(count);
        for number in 0..count {
            let wrong = |why| format!("{}, connection {number}: {why}", server.name);
            let (idle, status) = timeout(PATIENCE, async {
                if protocol == Protocol::Clear {
                    return Idle::http1(Box::new(from_another_address(number, server.address)?), &ask, &mut body).await;
                }
                let socket = from_another_address(number, server.tls.ok_or("it has no TLS")?)?;
                let name = ServerName::try_from("localhost").expect("it is a name");
                let stream = tls.connect(name, socket).await?;
                match protocol {
                    Protocol::Http2 => Idle::http2(stream, &ask).await,
                    _ => Idle::http1(Box::new(stream), &ask, &mut body).await,
                }
            })
            .await?
            .map_err(wrong)?;
            if status != 200 {
                return Err(format!("{}, connection {number}: {status}", server.name).into());
            }
            open.push(idle);
            if open.len().is_multiple_of(BATCH) {
                sleep(Duration::from_secs(3)).await;
            }
        }
        sleep(Duration::from_secs(self.scale.rest)).await;
        let grown = server.process.memory().now.saturating_sub(before);
        for (number, idle) in open.iter_mut().enumerate() {
            // A server that hung up on them has nothing to be proud of.
            if idle.has_ended().await {
                return Err(format!("{}: idle connection {number} was closed", server.name).into());
            }
        }
        Ok(grown)
    }

    fn memory(&self) -> Outcome<Table> {
        let count = self.scale.images;
        let mut table = Table::new("memory", format!("{count} cached images of {IMAGE} bytes"));
        for (name, decimals) in [("images MiB", 0), ("grown MiB", 0), ("over %", 1)] {
            table.column(name, decimals);
        }
        let origin = Origin::start(IMAGE, Duration::ZERO)?;
        let asks: Rc<[Ask]> = (0..count).map(|number| Ask::plain(target(number))).collect();
        for kind in self.caches().filter(|kind| !matches!(kind, Kind::Nginx | Kind::Haproxy)) {
            (self.progress)(&format!("memory: {kind}"));
            let server = self.ground.start(Self::task(kind, IMAGE, &origin))?;
            let ahead: Rc<[Ask]> = (COLD..COLD + 100).map(|number| Ask::plain(target(number))).collect();
            self.fill(&server, &ahead)?;
            let before = server.process.memory().now;
            // What was served costs more than what was only stored.
            self.fill(&server, &asks)?;
            self.fill(&server, &asks)?;
            std::thread::sleep(Duration::from_secs(self.scale.rest));
            let grown = server.process.memory().now.saturating_sub(before) as f64 / 1024.0;
            let images = (count * IMAGE as u64) as f64 / 1_048_576.0;
            let cells = vec![Some(images), Some(grown), Some((grown / images - 1.0) * 100.0)];
            table.rows.push(Row { name: server.name.clone(), cells, rounds: Vec::new() });
        }
        let others = "nginx keeps images in files, which the kernel's page cache holds; HAProxy takes all its memory at the start";
        table.notes.push(others.to_owned());
        Ok(table)
    }

    fn starts(&self) -> Outcome<Table> {
        let title = format!("From the start to the first answer, {} starts", self.scale.starts);
        let mut table = Table::new("start", title);
        for (name, decimals) in [("ms", 1), ("slowest ms", 1), ("listening ms", 1)] {
            table.column(name, decimals);
        }
        let origin = Origin::start(IMAGE, Duration::ZERO)?;
        let mut times: Vec<Vec<(f64, f64)>> = vec![Vec::new(); self.servers.len()];
        for _ in 0..self.scale.starts {
            for (kind, times) in self.servers.iter().zip(&mut times) {
                let server = self.ground.start(Self::task(*kind, IMAGE, &origin))?;
                let listens = Instant::now();
                self.wait(async {
                    let mut stream = client::connect(server.address).await?;
                    client::ask(&mut stream, &Ask::plain(target(0)), &mut Vec::new()).await
                })?;
                times.push(((server.took + listens.elapsed()).as_secs_f64() * 1e3, server.took.as_secs_f64() * 1e3));
            }
        }
        for (kind, times) in self.servers.iter().zip(times) {
            let slowest = times.iter().map(|(answered, _)| *answered).fold(0.0, f64::max);
            let cells = vec![
                Some(median(times.iter().map(|(answered, _)| *answered))),
                Some(slowest),
                Some(median(times.iter().map(|(_, listens)| *listens))),
            ];
            table.rows.push(Row { name: kind.name().to_owned(), cells, rounds: Vec::new() });
        }
        Ok(table)
    }
}

/// What bytes come and go by.
trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// A connection that is kept open after a request.
enum Idle {
    Http1(Box<dyn Stream>),
    Http2 {
        task: JoinHandle<Result<(), h2::Error>>,
        /// Dropped, it would end the connection.
        _sender: SendRequest<Bytes>,
    },
}

impl Idle {
    /// What became of it, and the status of its answer.
    async fn http1(mut stream: Box<dyn Stream>, ask: &Ask, body: &mut Vec<u8>) -> Outcome<(Self, u16)> {
        let answer = client::ask(&mut stream, ask, body).await?;
        Ok((Self::Http1(stream), answer.status))
    }

    async fn http2(stream: TlsStream<TcpStream>, ask: &Ask) -> Outcome<(Self, u16)> {
        let (mut sender, connection) = h2::client::handshake(stream).await?;
        let task = tokio::spawn(connection);
        let request = Request::get(format!("https://localhost{}", ask.target)).body(())?;
        let answer = sender.send_request(request, true)?.0.await?;
        let (status, mut body) = (answer.status().as_u16(), answer.into_body());
        while let Some(piece) = body.data().await {
            // An image is smaller than the window.
            piece?;
        }
        Ok((Self::Http2 { task, _sender: sender }, status))
    }

    async fn has_ended(&mut self) -> bool {
        match self {
            Self::Http1(stream) => timeout(Duration::ZERO, stream.read(&mut [0])).await.is_ok(),
            Self::Http2 { task, .. } => task.is_finished(),
        }
    }
}

/// A connection from one of a hundred addresses of this machine, as of many clients.
fn from_another_address(number: usize, to: SocketAddr) -> Outcome<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    let last = u8::try_from(number % 100 + 1).expect("it is small");
    socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 1, last), 0)).into())?;
    socket.connect(&to.into())?;
    socket.set_nonblocking(true)?;
    Ok(TcpStream::from_std(socket.into())?)
}
