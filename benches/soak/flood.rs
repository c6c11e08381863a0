//! A flood: requests of which no two are alike, as fast as the server takes them or at a steady pace, over connections that
//! are kept. Whoever is not answered soon hangs up, as no attacker waits, and comes again.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::Outcome;
use crate::client::{self, Ask};

/// Its connections.
const CONNECTIONS: usize = 256;
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_millis(500);
/// Before it is tried again to connect.
const PAUSE: Duration = Duration::from_millis(10);

/// A flood to be.
#[derive(Debug, Clone)]
pub struct Flood {
    /// Whom it comes over.
    pub address: SocketAddr,
    /// The request of each number.
    pub ask: fn(u64) -> Ask,
    /// So many.
    pub count: u64,
    /// So many a second; as fast as possible, if nothing is said.
    pub rate: Option<f64>,
    /// It ends after so long.
    pub longest: Duration,
    /// It ends then, too.
    pub until: CancellationToken,
}

/// What came of it.
#[derive(Debug, Default, Clone)]
pub struct Flooded {
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests whose answer was not waited for.
    pub given_up: u64,
    /// Requests whose connection failed.
    pub broken: u64,
    /// How long it took.
    pub took: Duration,
}

impl Flood {
    /// Floods.
    pub async fn run(self) -> Flooded {
        let begun = Instant::now();
        let (next, seen) = (Rc::new(Cell::new(0)), Rc::new(RefCell::new(Flooded::default())));
        let mut tasks = JoinSet::new();
        for _ in 0..CONNECTIONS.min(usize::try_from(self.count).unwrap_or(CONNECTIONS)) {
            let one = One { flood: self.clone(), begun, next: Rc::clone(&next), seen: Rc::clone(&seen) };
            tasks.spawn_local(one.go());
        }
        let all = async { while tasks.join_next().await.is_some() {} };
        let _ = timeout_at(begun + self.longest, self.until.run_until_cancelled(all)).await;
        tasks.shutdown().await;
        Flooded { took: begun.elapsed(), ..seen.take() }
    }
}

/// One connection of it.
struct One {
    flood: Flood,
    begun: Instant,
    next: Rc<Cell<u64>>,
    seen: Rc<RefCell<Flooded>>,
}

impl One {
    async fn go(self) {
        let (mut stream, mut body) = (None, Vec::new());
        while let number = self.next.get()
            && number < self.flood.count
        {
            self.next.set(number + 1);
            if let Some(rate) = self.flood.rate {
                sleep_until(self.begun + Duration::from_secs_f64(number as f64 / rate)).await;
            }
            let ask = (self.flood.ask)(number);
            let answer = timeout(PATIENCE, self.ask(&mut stream, &ask, &mut body)).await;
            match &answer {
                Ok(Ok(status)) => *self.seen.borrow_mut().statuses.entry(*status).or_default() += 1,
                Ok(Err(_)) => self.seen.borrow_mut().broken += 1,
                Err(_) => self.seen.borrow_mut().given_up += 1,
            }
            if !matches!(answer, Ok(Ok(_))) {
                stream = None;
            }
            if matches!(answer, Ok(Err(_))) {
                sleep(PAUSE).await;
            }
        }
    }

    async fn ask(&self, stream: &mut Option<TcpStream>, ask: &Ask, body: &mut Vec<u8>) -> Outcome<u16> {
        let stream = match stream {
            Some(stream) => stream,
            none => {
                let stream = none.insert(client::connect(self.flood.address).await?);
                // Or the ports of those who hung up would be missing.
                stream.set_zero_linger()?;
                stream
            }
        };
        Ok(client::ask(stream, ask, body).await?.status)
    }
}

impl Flooded {
    /// Requests in all.
    pub fn all(&self) -> u64 {
        self.statuses.values().sum::<u64>() + self.given_up + self.broken
    }

    /// In words.
    pub fn told(&self) -> String {
        let answers = self.statuses.iter().map(|(status, count)| format!("{status}: {count}")).collect::<Vec<_>>();
        let rate = self.all() as f64 / self.took.as_secs_f64();
        format!("{}; given up: {}; broken: {}; {rate:.0} a second", answers.join(", "), self.given_up, self.broken)
    }
}
