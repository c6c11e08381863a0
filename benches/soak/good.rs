//! The good load: a steady pace of requests for a few tickets, from a hundred networks over a few connections, as a proxy
//! before us brings them. Every answer is compared with what the origin said.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use crate::Outcome;
use crate::client::{self, Answer, Ask, End, Figures, Judge, Pace};
use crate::median::median;
use crate::strangers::good_client;
use crate::tickets::{self, IMAGE};

/// Networks that it comes from.
const NETWORKS: u64 = 100;
/// Its connections.
const CONNECTIONS: usize = 32;

/// Some tickets that are asked for.
#[derive(Debug)]
pub struct Good {
    asks: Rc<[Ask]>,
    images: Rc<HashMap<String, Vec<u8>>>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Served {
    /// Of each piece of it.
    pub windows: Vec<Figures>,
    /// Fresh images from the cache.
    pub fresh: u64,
    /// Stale ones.
    pub stale: u64,
    /// What else came, and how often: none of it should.
    pub others: BTreeMap<String, u64>,
}

impl Good {
    /// Asks for the tickets of these numbers.
    pub fn of(numbers: Range<u64>) -> Self {
        let ask = |number| Ask { client: Some(good_client(number % NETWORKS)), ..Ask::plain(tickets::target(number)) };
        let asks: Rc<[Ask]> = numbers.map(ask).collect();
        let image = |ask: &Ask| (ask.target.clone(), tickets::image(&ask.target, IMAGE));
        let images = Rc::new(asks.iter().map(image).collect());
        Self { asks, images }
    }

    /// Asks for everything once, whether it is in the cache or not.
    pub async fn fill(&self, address: SocketAddr) -> Outcome<()> {
        let asks = Rc::clone(&self.asks);
        client::load(address, asks, CONNECTIONS, Pace::AsFastAsPossible, End::Once, 200).await.map(drop)
    }

    /// Asks for everything once; all of it should be in the cache.
    pub async fn once(&self, address: SocketAddr) -> Outcome<Served> {
        let mut served = Served::default();
        self.add(address, Pace::AsFastAsPossible, End::Once, &mut served).await?;
        Ok(served)
    }

    /// Asks `rate` times a second, in windows of this length, until `is_over` after one.
    pub async fn windows(
        &self,
        address: SocketAddr,
        rate: f64,
        window: Duration,
        is_over: impl Fn(usize) -> bool,
    ) -> Outcome<Served> {
        let mut served = Served::default();
        while !is_over(served.windows.len()) {
            self.add(address, Pace::Settled(rate), End::After(window), &mut served).await?;
        }
        Ok(served)
    }

    async fn add(&self, address: SocketAddr, pace: Pace, end: End, served: &mut Served) -> Outcome<()> {
        let seen = Rc::new(RefCell::new(std::mem::take(served)));
        let asks = Rc::clone(&self.asks);
        let figures = client::judged(address, asks, CONNECTIONS, pace, end, self.judge(Rc::clone(&seen))).await;
        *served = seen.take();
        served.windows.push(figures?);
        Ok(())
    }

    fn judge(&self, seen: Rc<RefCell<Served>>) -> Judge {
        let images = Rc::clone(&self.images);
        Rc::new(move |ask, answer, body| {
            let is_image = images.get(&ask.target).is_some_and(|image| image == body);
            seen.borrow_mut().note(answer, is_image);
            Ok(())
        })
    }
}

impl Served {
    fn note(&mut self, answer: Outcome<Answer>, is_image: bool) {
        let answer = match answer {
            Ok(answer) => answer,
            Err(trouble) => return self.other(trouble.to_string()),
        };
        let cache = answer.field("cache-status").unwrap_or_default();
        match (answer.status, is_image) {
            (200, true) if cache.contains("ttl=-") => self.stale += 1,
            (200, true) if cache.contains("; hit;") => self.fresh += 1,
            (200, false) => self.other("another image".to_owned()),
            (status, _) => self.other(format!("{status}, {cache}")),
        }
    }

    fn other(&mut self, what: String) {
        *self.others.entry(what).or_default() += 1;
    }

    /// With what else came.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.windows.extend(other.windows);
        self.fresh += other.fresh;
        self.stale += other.stale;
        for (what, count) in other.others {
            *self.others.entry(what).or_default() += count;
        }
        self
    }

    /// Answers, and attempts at one.
    pub fn all(&self) -> u64 {
        self.hits() + self.others.values().sum::<u64>()
    }

    /// Answers from the cache, with the right image.
    pub fn hits(&self) -> u64 {
        self.fresh + self.stale
    }

    /// The p99 of a window, in milliseconds: the middle one of all.
    pub fn p99(&self) -> f64 {
        median(self.windows.iter().map(|figures| figures.p99))
    }

    /// The longest answer, in milliseconds.
    pub fn longest(&self) -> f64 {
        self.windows.iter().map(|figures| figures.longest).fold(0.0, f64::max)
    }
}
