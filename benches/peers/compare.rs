//! Servers under the same load, visited in turn, round by round, so that a slow spell of the machine hits all alike.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::Outcome;
use crate::client::{self, Ask, End, Figures, Pace};
use crate::machine::find;
use crate::median::median;
use crate::modes::Bench;
use crate::origin::Origin;
use crate::report::{Row, Table};
use crate::server::{Kind, Server, Task};
use crate::tickets::{self, Order};
use crate::tools::{self, Load, STREAMS};

/// Connections that fill a cache.
const FILLERS: usize = 64;
/// Of so many answers that should be hits one may be a miss: more is no comparison.
const MOST_MISSES: u64 = 100;
/// A head has no more bytes.
const HEAD: f64 = 2048.0;

/// How servers are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 in the clear.
    Clear,
    /// HTTP/1.1 over TLS 1.3.
    Tls,
    /// HTTP/2 over TLS 1.3.
    Http2,
}

/// What each figure is also told as a ratio to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ratios {
    /// The same figure of every other server.
    ToOthers,
    /// That of the first row of the same server.
    ToFirst,
}

/// A load that all contenders get.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// As flags and files call it.
    pub mode: &'static str,
    /// How servers are asked.
    pub protocol: Protocol,
    /// Connections at once.
    pub connections: usize,
    /// Bytes of an image.
    pub size: usize,
    /// Whether conditions are sent that end in a 304.
    pub not_modified: bool,
    /// What figures are compared with.
    pub ratios: Ratios,
}

/// A server with what it is asked.
#[derive(Debug)]
pub struct Contender {
    server: Server,
    asks: Rc<[Ask]>,
    file: PathBuf,
}

/// What a visit cost, in microseconds for each request.
#[derive(Debug, Clone)]
struct Visit {
    user: f64,
    system: f64,
    figures: Figures,
}

impl Visit {
    fn cpu(&self) -> f64 {
        self.user + self.system
    }
}

impl Bench {
    /// A server of `task` that has all `count` tickets in its cache, and is to be asked for some of them in `order`.
    pub fn contender(&self, task: Task, setting: &Setting, count: u64, order: Order) -> Outcome<Contender> {
        let server = self.ground.start(task)?;
        let asks: Rc<[Ask]> = (0..count).map(|number| Ask::plain(tickets::target(number))).collect();
        if server.kind.caches() {
            self.fill(&server, &asks)?;
        }
        let numbers = order.numbers(count);
        let mut sample = numbers.clone();
        sample.sort_unstable();
        sample.dedup();
        sample.truncate(1000);
        let tags = self.look(&server, &asks, &sample, setting.size)?;
        let ask = |number: u64| {
            let plain = asks[number as usize].clone();
            let tag = sample.binary_search(&number).ok().and_then(|at| tags[at].clone());
            Ask { tag: tag.filter(|_| setting.not_modified), ..plain }
        };
        let asks: Rc<[Ask]> = numbers.into_iter().map(ask).collect();
        let name = format!("asks-{}-{}-{count}", server.kind, task.cores);
        let file = tools::write_asks(&asks, self.ground.directory.join(name))?;
        Ok(Contender { server, asks, file })
    }

    /// Asks for everything once.
    pub fn fill(&self, server: &Server, asks: &Rc<[Ask]>) -> Outcome<Figures> {
        let filling = client::load(server.address, Rc::clone(asks), FILLERS, Pace::AsFastAsPossible, End::Once, 200);
        self.wait(filling).map_err(|why| format!("{} could not be filled: {why}", server.kind).into())
    }

    /// Looks at what is answered; tells the entity tags.
    fn look(&self, server: &Server, asks: &[Ask], sample: &[u64], size: usize) -> Outcome<Vec<Option<String>>> {
        if !server.kind.caches() {
            return Ok(vec![Some("\"0123456789abcdef\"".to_owned()); sample.len()]);
        }
        self.wait(async {
            let mut stream = client::connect(server.address).await?;
            let (mut body, mut tags) = (Vec::new(), Vec::new());
            for number in sample {
                let ask = &asks[*number as usize];
                let answer = client::ask(&mut stream, ask, &mut body).await?;
                if answer.status != 200 || body != tickets::image(&ask.target, size) {
                    return Err(format!("{} answers something else ({})", server.kind, answer.status).into());
                }
                tags.push(answer.field("etag").map(str::to_owned));
            }
            Ok(tags)
        })
    }

    /// Visits `contenders` in turn, as often as there are rounds.
    pub fn compare(
        &self,
        setting: &Setting,
        title: String,
        contenders: &[Contender],
        origin: &Origin,
    ) -> Outcome<Table> {
        let mut visits: Vec<Vec<Visit>> = vec![Vec::new(); contenders.len()];
        for contender in contenders {
            self.load(setting, contender, 1)?;
        }
        let mut notes = Vec::new();
        for round in 1..=self.scale.rounds {
            (self.progress)(&format!("{title}: round {round} of {}", self.scale.rounds));
            for (contender, visits) in contenders.iter().zip(&mut visits) {
                let calls = origin.calls();
                let visit = self.visit(setting, contender)?;
                let (missed, requests) = (origin.calls() - calls, visit.figures.requests);
                if missed * MOST_MISSES > requests {
                    let name = &contender.server.name;
                    return Err(format!("{title}: {name} asked the origin {missed} times for {requests}").into());
                }
                if missed > 0 {
                    notes.push(format!("{}: {missed} of {requests} were no hits", contender.server.name));
                }
                visits.push(visit);
            }
        }
        let mut table = table(setting, title, contenders, &visits);
        table.notes = notes;
        Ok(table)
    }

    fn visit(&self, setting: &Setting, contender: &Contender) -> Outcome<Visit> {
        let before = contender.server.process.cpu();
        let figures = self.load(setting, contender, self.scale.seconds)?;
        let after = contender.server.process.cpu();
        let requests = figures.requests as f64;
        let each = figures.bytes as f64 / requests;
        let least = if setting.not_modified { 0.0 } else { setting.size as f64 };
        if figures.requests == 0 {
            return Err(format!("{} was visited and answered nothing", contender.server.name).into());
        }
        // Answers that are under way at the end count as bytes, not as requests.
        let unfinished = (setting.connections * STREAMS * setting.size) as f64 / requests;
        if !(least..=least + HEAD + unfinished).contains(&each) {
            let name = &contender.server.name;
            return Err(format!("{name} answers {each:.0} bytes a request, which is not what was asked").into());
        }
        let micros = |from: f64, to: f64| (to - from) * 1e6 / requests;
        Ok(Visit { user: micros(before.user, after.user), system: micros(before.system, after.system), figures })
    }

    fn load(&self, setting: &Setting, contender: &Contender, seconds: u64) -> Outcome<Figures> {
        let (server, connections) = (&contender.server, setting.connections);
        let (address, scheme) = match setting.protocol {
            Protocol::Clear => (server.address, "http"),
            Protocol::Tls | Protocol::Http2 => (server.tls.ok_or("it has no TLS")?, "https"),
        };
        let directory = self.ground.directory.as_path();
        let load = Load { address, scheme, connections, seconds, asks: &contender.file, directory };
        let status = if setting.not_modified { 304 } else { 200 };
        let done = match setting.protocol {
            Protocol::Http2 => tools::h2load(&load),
            Protocol::Clear if find("wrk").is_none() => {
                let (asks, end) = (Rc::clone(&contender.asks), End::After(Duration::from_secs(seconds)));
                self.wait(client::load(address, asks, connections, Pace::AsFastAsPossible, end, status))
            }
            Protocol::Clear | Protocol::Tls => tools::wrk(&load),
        };
        done.map_err(|why| format!("{}: {why}", server.name).into())
    }
}

impl Contender {
    /// The same under another name.
    #[must_use]
    pub fn named(mut self, name: String) -> Self {
        self.server.name = name;
        self
    }
}

fn table(setting: &Setting, title: String, contenders: &[Contender], visits: &[Vec<Visit>]) -> Table {
    let mut table = Table::new(setting.mode, title);
    for (name, decimals) in [("CPU µs", 2), ("user", 2), ("system", 2)] {
        table.column(name, decimals);
    }
    let kinds: Vec<Kind> = contenders.iter().map(|contender| contender.server.kind).collect();
    let others: Vec<usize> = match setting.ratios {
        Ratios::ToOthers => (0..kinds.len()).filter(|at| kinds[*at] != Kind::Ticketgate).collect(),
        Ratios::ToFirst => Vec::new(),
    };
    for other in &others {
        table.column(&format!("÷ {}", kinds[*other]), 2);
    }
    let with_user = kinds.iter().position(|kind| *kind == Kind::Nginx).filter(|_| !others.is_empty());
    match setting.ratios {
        Ratios::ToOthers if with_user.is_some() => table.column("user ÷ nginx", 2),
        Ratios::ToOthers => {}
        Ratios::ToFirst => table.column("÷ first", 2),
    }
    for (name, decimals) in [("requests/s", 0), ("p50 ms", 2), ("p99 ms", 2), ("peak MiB", 0)] {
        table.column(name, decimals);
    }
    for (at, contender) in contenders.iter().enumerate() {
        let own = &visits[at];
        let of = |what: fn(&Visit) -> f64| Some(median(own.iter().map(what)));
        let ratio = |to: usize, what: fn(&Visit) -> f64| {
            Some(median(own.iter().zip(&visits[to]).map(|(own, other)| what(own) / what(other))))
        };
        let mut cells = vec![of(Visit::cpu), of(|visit| visit.user), of(|visit| visit.system)];
        cells.extend(others.iter().map(|other| ratio(*other, Visit::cpu)));
        match setting.ratios {
            Ratios::ToOthers => cells.extend(with_user.map(|nginx| ratio(nginx, |visit| visit.user))),
            Ratios::ToFirst => {
                let first = kinds.iter().position(|kind| *kind == kinds[at]).unwrap_or(at);
                cells.push(ratio(first, Visit::cpu));
            }
        }
        cells.push(of(|visit| visit.figures.requests as f64 / visit.figures.seconds));
        cells.extend([of(|visit| visit.figures.p50), of(|visit| visit.figures.p99)]);
        cells.push(Some(contender.server.process.memory().peak as f64 / 1024.0));
        let rounds = own.iter().map(told).collect();
        table.rows.push(Row { name: contender.server.name.clone(), cells, rounds });
    }
    table
}

fn told(visit: &Visit) -> Value {
    let Figures { requests, seconds, p50, p99, .. } = visit.figures;
    json!({ "user": visit.user, "system": visit.system, "requests": requests, "seconds": seconds, "p50": p50, "p99": p99 })
}
