//! The origin: who is asked for images, with which request, within which deadlines and how many at once. What an answer
//! means for the cache is [`crate::fill`]'s to judge.

mod circuit;
pub mod client;
pub mod config;
pub mod failure;
pub mod probe;
mod skew;
mod template;

use std::time::Duration;

use circuit::{Circuit, PROBE_EVERY, TOLERATED};
use client::Client;
pub use client::{Answer, Read, classify};
pub use config::Config;
pub use failure::Failure;
use http::{HeaderMap, StatusCode, header};
pub use skew::FURTHEST_BEHIND;
use skew::Skew;
use template::Template;
use tokio::sync::Semaphore;

use crate::cache::entry::Validators;
use crate::cache::freshness::Exchange;
use crate::cache::{control, freshness};
use crate::clock::Clock;
use crate::fault::{Faults, Stage};
use crate::moment::{Moment, Wall};
use crate::outbound::BadCaFile;
use crate::ticket::Ticket;
use crate::via::Via;

/// A 429 that names no time.
const DEFAULT_PAUSE: Duration = Duration::from_secs(1);

/// The origin, asked with care.
pub struct Origin {
    template: Template,
    client: Client,
    circuit: Circuit,
    slots: Semaphore,
    patience: Duration,
    skew: Skew,
    clock: Clock,
    faults: Faults,
}

/// What asking the origin came to.
#[derive(Debug)]
pub struct Fetched {
    /// Its answer, or why there is none.
    pub answer: Result<Answer, Failure>,
    /// Until it was read.
    pub took: Duration,
}

impl Origin {
    /// The origin of `config`, asked with `via` as our hop; images of more than `max_image` bytes are not read.
    pub fn new(config: &Config, max_image: u64, clock: Clock, via: Via, faults: Faults) -> Result<Self, BadCaFile> {
        let max_image = usize::try_from(max_image).unwrap_or(usize::MAX);
        Ok(Self {
            template: Template::new(&config.url, via),
            client: Client::new(config, max_image, clock.clone())?,
            circuit: Circuit::default(),
            slots: Semaphore::new(config.max_concurrent),
            patience: config.fill_timeout,
            skew: Skew::default(),
            clock,
            faults,
        })
    }

    /// Fails at once when the origin is not to be asked just now: before any waiting.
    pub fn check(&self) -> Result<(), Failure> {
        self.circuit.check(self.clock.tick())
    }

    /// Asks for the image of `ticket`, unless it still is what `validators` describe. Waits for one of
    /// `origin.max_concurrent` places, at most `origin.fill_timeout`; then the exchange has deadlines of its own. An error
    /// means that the origin was not asked.
    pub async fn fetch(&self, ticket: &Ticket, validators: &Validators) -> Result<Fetched, Failure> {
        let place = tokio::time::timeout(self.patience, self.slots.acquire()).await.map_err(|_| Failure::Busy)?;
        let _place = place.expect("the semaphore is never closed");
        let asked = self.clock.tick();
        self.circuit.enter(asked)?;
        self.faults.strike(Stage::Ask);
        let answer = self.client.fetch(|| self.template.request(ticket, validators)).await;
        let took = self.clock.tick().since(asked);
        Ok(Fetched { answer: self.learn(answer), took })
    }

    /// The last skew between the origin's clock and ours, in milliseconds: positive when its clock shows more than ours.
    pub fn skew_millis(&self) -> i64 {
        self.skew.millis()
    }

    /// Learns the skew from an answer of the origin's kin with `status` and `headers`: WeChat's API.
    pub fn learn_skew(&self, status: StatusCode, headers: &HeaderMap, exchange: Exchange) {
        self.skew.learn(status, headers, exchange);
    }

    /// Whether the circuit holds requests back.
    pub fn circuit_is_open(&self) -> bool {
        self.circuit.is_open()
    }

    fn learn(&self, answer: Result<Answer, Failure>) -> Result<Answer, Failure> {
        let now = self.clock.now();
        match &answer {
            Err(failure) if failure.counts_against_origin() => self.note_failure(now, failure.reason()),
            Err(_) => {}
            Ok(answer) => {
                self.skew.learn(answer.status, &answer.headers, answer.exchange);
                if answer.status.is_server_error() {
                    self.note_failure(now, "origin-status");
                } else if self.circuit.succeeded().0 {
                    tracing::info!("the origin answers again");
                }
                self.heed_retry_after(answer, now)?;
            }
        }
        answer
    }

    fn note_failure(&self, now: Moment, reason: &'static str) {
        if self.circuit.failed(now.tick).0 {
            tracing::warn!(
                reason,
                "{TOLERATED} failures in a row: the origin is asked once every {PROBE_EVERY:?} until it answers"
            );
        }
    }

    /// RFC 9110 §10.2.3. A 429 limits us, not the client, and becomes a failure of ours (S17).
    fn heed_retry_after(&self, answer: &Answer, now: Moment) -> Result<(), Failure> {
        let limited = answer.status == StatusCode::TOO_MANY_REQUESTS;
        let asked = retry_after(&answer.headers, now.wall).or(limited.then_some(DEFAULT_PAUSE));
        let heeded = limited || answer.status == StatusCode::SERVICE_UNAVAILABLE;
        let granted = asked.filter(|_| heeded).map(|asked| self.circuit.pause(now.tick, asked));
        if limited { Err(Failure::Limited(granted.unwrap_or(DEFAULT_PAUSE))) } else { Ok(()) }
    }
}

fn retry_after(headers: &HeaderMap, now: Wall) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?;
    let seconds = control::delta_seconds(value.as_bytes().trim_ascii()).map(Duration::from_secs);
    seconds.or_else(|| freshness::http_date(value).map(|at| at.since(now)))
}
