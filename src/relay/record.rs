//! What is kept of a relayed call: one access line and the counts. Method and path, never the query: it holds the
//! `access_token` (S35).

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::target::SecretTarget;
use crate::body::counted::{End, Onlooker};
use crate::clock::Clock;
use crate::log::access::{self, Line};
use crate::metrics::{Metrics, Source, Tally};
use crate::moment::Tick;
use crate::ticket::Short;
use crate::trace::Context;

/// Where calls are recorded.
#[derive(Debug)]
pub struct Books {
    pub(super) metrics: Arc<Metrics>,
    pub(super) tally: Arc<Tally>,
    pub(super) clock: Clock,
    /// Said once for all relays of this process.
    pub(super) warned_of_coding: AtomicBool,
}

impl Books {
    /// Kept in `metrics` and in the log, for every relay of this process.
    pub fn new(metrics: Arc<Metrics>, clock: Clock) -> Self {
        Self { tally: metrics.tally(), metrics, clock, warned_of_coding: AtomicBool::new(false) }
    }
}

/// A call that is not answered yet, or not to its end. Dropped in this state it was given up: its app hung up, or we panicked.
#[derive(Debug)]
pub struct Record {
    books: Arc<Books>,
    method: Method,
    path: String,
    id: HeaderValue,
    trace: Option<Context>,
    began: Tick,
    answered: Option<Answered>,
}

#[derive(Debug, Clone, Copy)]
struct Answered {
    status: StatusCode,
    reason: Option<&'static str>,
    ticket: Option<Short>,
}

impl Record {
    /// Begins a record.
    pub fn begin(
        books: &Arc<Books>,
        method: Method,
        target: &SecretTarget,
        headers: &HeaderMap,
        id: HeaderValue,
    ) -> Self {
        let (books, began) = (Arc::clone(books), books.clock.tick());
        let (path, trace) = (access::shortened(target.path()).to_owned(), Context::of(headers));
        Self { books, method, path, id, trace, began, answered: None }
    }

    /// Notes the answer; `ticket` is what was made.
    #[must_use]
    pub fn answered(mut self, status: StatusCode, reason: Option<&'static str>, ticket: Option<Short>) -> Self {
        self.books.metrics.relayed(status, reason);
        self.answered = Some(Answered { status, reason, ticket });
        self
    }

    /// Ends with a body of `bytes`, which came from `source`.
    pub fn sent(self, source: Source, bytes: u64) {
        self.books.tally.sent(source, bytes);
        self.write(bytes, None);
    }

    fn write(&self, bytes: u64, end: Option<&'static str>) {
        let answered = self.answered;
        let (unanswered, why) = access::unanswered();
        let line = Line {
            status: answered.map_or(unanswered, |answered| answered.status.as_u16()),
            bytes: answered.map(|_| bytes),
            reason: answered.map_or(why, |answered| answered.reason).or(end),
            ticket: answered.as_ref().and_then(|answered| answered.ticket.as_ref()).map(|ticket| ticket as _),
            took: Some(self.took()),
            ..self.line()
        };
        line.write();
    }

    fn took(&self) -> Duration {
        self.books.clock.tick().since(self.began)
    }

    fn line(&self) -> Line<'_> {
        Line {
            method: Some(self.method.as_str()),
            route: Some("relay"),
            path: Some(&self.path),
            id: self.id.to_str().ok(),
            trace: self.trace.as_ref().map(|trace| trace as _),
            ..Line::default()
        }
    }
}

impl Onlooker for Record {
    fn passed(&self, bytes: u64) {
        self.books.tally.sent(Source::Relay, bytes);
    }

    fn ended(self: Box<Self>, end: End, bytes: u64) {
        let reason = match end {
            End::Whole => None,
            End::Cut => Some("cut"),
            End::GivenUp => Some("client-gone"),
        };
        self.write(bytes, reason);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.answered.is_none() {
            if !std::thread::panicking() {
                self.books.metrics.abandoned.inc();
            }
            self.write(0, None);
        }
    }
}
