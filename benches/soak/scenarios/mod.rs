//! What is done to the server, one scenario after the other, and what must hold meanwhile.

mod beside;
mod outage;
mod rubbish;
mod slow;
mod together;

use std::fmt::Write as _;
use std::ops::Range;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::app::App;
use crate::crowd::Tally;
use crate::good::{Good, Served};
use crate::origin::Origin;
use crate::report::Report;
use crate::scale::Scale;
use crate::server::{Ground, Server};
use crate::slow::{Kind, Place};
use crate::stamps::Stamps;
use crate::watch::mebibytes;
use crate::{Outcome, tickets};

/// Tickets of the good load, of which those are own.
const HOT: Range<u64> = 0..200;
/// Own ones that nobody asks for until the end.
const RESTING: Range<u64> = 200..300;
const OWN: [Range<u64>; 2] = [0..100, RESTING];
/// A week, in which nothing becomes stale.
const WEEK: Duration = Duration::from_secs(7 * 86_400);
/// Idle connections that pools keep to the origin (`origin.max_concurrent`) and to the app.
const POOLED: usize = 128;
/// Windows of good load alone, and beside slow clients and outages.
const WINDOWS: usize = 4;
/// How long descriptors, or the origin after an outage, may take to come back.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(100);

/// What can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Scenario {
    /// Millions of rubbish tickets from a million networks
    Rubbish,
    /// Thousands of slow connections of each kind
    Slow,
    /// The origin is down in several ways, and comes back
    Outage,
    /// Everything at once, for minutes
    Together,
}

impl Scenario {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Rubbish, Self::Slow, Self::Outage, Self::Together];
}

/// Everything that is needed.
#[derive(Debug)]
pub struct Soak {
    /// How servers are started.
    pub ground: Ground,
    /// How much is done.
    pub scale: Scale,
    /// Who is slow, where thousands are.
    pub kinds: Vec<Kind>,
    /// Tells what is being done.
    pub progress: fn(&str),
}

/// A server that has every good image, and who is around it.
struct Field {
    server: Server,
    origin: Origin,
    _app: App,
    hot: Good,
    resting: Good,
    /// MiB and descriptors, before trouble begins.
    memory: f64,
    files: usize,
    _stamps: Stamps,
}

impl Soak {
    /// Does `scenario`, and tells `report` what came of it.
    pub fn run(&self, scenario: Scenario, report: &mut Report) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let done = runtime.block_on(async {
            match scenario {
                Scenario::Rubbish => self.rubbish(report).await,
                Scenario::Slow => self.slow(report).await,
                Scenario::Outage => self.outage(report).await,
                Scenario::Together => self.together(report).await,
            }
        });
        if let Err(trouble) = done {
            report.failures.push(format!("{scenario:?}: {trouble}"));
        }
    }

    async fn field(&self, life: Duration) -> Outcome<Field> {
        let (origin, app) = (Origin::start(life)?, App::start()?);
        let server = self.ground.start(origin.address, app.address, &self.scale.timeouts)?;
        let (hot, resting) = (Good::of(HOT), Good::of(RESTING));
        server.register(&OWN.into_iter().flatten().map(tickets::ticket).fold(String::new(), |mut lines, ticket| {
            let _ = writeln!(lines, "{ticket}");
            lines
        }))?;
        hot.fill(server.address).await?;
        resting.fill(server.address).await?;
        hot.once(server.address).await?;
        let (memory, files) = (mebibytes(&server.process), server.open_files());
        Ok(Field { server, origin, _app: app, hot, resting, memory, files, _stamps: Stamps::begin().await? })
    }

    /// Good load in a few windows.
    async fn measured(&self, field: &Field) -> Outcome<Served> {
        self.windows(field, |count| count == WINDOWS).await
    }

    /// Good load in so many short windows, after one that is judged and not timed: whoever came or went just before is settled.
    async fn glances(&self, field: &Field, count: usize) -> Outcome<Served> {
        let glances = |count| {
            let (address, window) = (field.server.address, self.scale.glance);
            field.hot.windows(address, self.scale.good, window, move |taken| taken >= count)
        };
        let mut settling = glances(1).await?;
        settling.windows.clear();
        Ok(settling.and(glances(count).await?))
    }

    async fn windows(&self, field: &Field, is_over: impl Fn(usize) -> bool) -> Outcome<Served> {
        field.hot.windows(field.server.address, self.scale.good, self.scale.window, is_over).await
    }

    fn place(&self, field: &Field) -> Outcome<Place> {
        Ok(Place {
            address: field.server.address,
            tls: field.server.tls,
            connector: self.ground.certificate.connector(&[b"h2"])?,
            timeouts: self.scale.timeouts,
            target: tickets::target(HOT.start),
        })
    }

    /// Waits until connections have ended with their clients, and descriptors with them; tells how many are left.
    async fn left(&self, field: &Field) -> Outcome<Left> {
        let begun = Instant::now();
        loop {
            let left = Left { connections: field.server.connections().await?, files: field.server.open_files() };
            if left.holds(field) || begun.elapsed() > PATIENCE {
                return Ok(left);
            }
            sleep(LOOK).await;
        }
    }
}

/// What is left when trouble has gone.
#[derive(Debug, Clone, Copy)]
struct Left {
    connections: u64,
    files: usize,
}

impl Left {
    fn holds(self, field: &Field) -> bool {
        self.connections == 0 && self.files <= field.files + POOLED
    }

    /// Connections end with their clients, and descriptors with them, but for those of pools.
    fn promise(self, report: &mut Report, what: &str, field: &Field) {
        let most = field.files + POOLED;
        let (connections, files) = (self.connections, self.files);
        report.promise(format!("{what}: connections that stay"), connections.to_string(), "0", connections == 0);
        report.promise(format!("{what}: descriptors afterwards"), files.to_string(), most.to_string(), files <= most);
    }
}

/// All that is good is answered from the cache.
fn promise_hits(report: &mut Report, what: &str, served: &Served) {
    let (all, hits) = (served.all(), served.hits());
    let others: Vec<String> = served.others.iter().take(3).map(|(other, count)| format!("{other}: {count}")).collect();
    let beside = if others.is_empty() { String::new() } else { format!(" ({})", others.join("; ")) };
    let is = format!("{hits} of {all}{beside}");
    report.promise(format!("{what}: good requests answered from the cache"), is, "all", hits == all && all > 0);
}

/// Whoever is slow is closed at its deadline.
fn promise_closed(report: &mut Report, what: &str, tally: &Tally) {
    let all = tally.open + tally.early + tally.closed;
    let is = format!("{} open, {} early of {all}", tally.open, tally.early);
    let is = tally.why.as_ref().map_or(is.clone(), |why| format!("{is}; {} never came: {why}", tally.failed));
    let says = format!("{what}: slow connections closed long before their deadline, or open long after it");
    report.promise(says, is, "none", tally.holds());
}
