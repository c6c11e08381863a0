//! Fills: fetching an image that may be stored, once for everybody who asks (S13).
//!
//! A fill is a task of its own on the origin's runtime: admit → fetch → judge → store → free the ticket → tell those who
//! wait. A client that hangs up neither cancels nor restarts it. It ends by its own deadlines, or with the process.
//!
//! What is learned of own tickets (from the relay, the operator, the store's file, a predecessor) comes in here too: the end of
//! their lives by the origin's clock, and the wish to have their images before somebody asks.

mod flight;
#[cfg(test)]
pub mod interleavings;
pub mod judge;
mod own;
mod warm;

use std::sync::Arc;
use std::time::Duration;

use flight::{Boarding, Flights, Permit, Seat};
use judge::{Bench, Known, Rules, Storable, Verdict};
pub use own::Registration;
use tokio::runtime::Handle;
pub use warm::Warmed;

use crate::cache::entry::{Image, Instead, Negative, Validators};
use crate::cache::expiry::Expiry;
use crate::cache::{Cache, Found};
use crate::clock::Clock;
use crate::fault::{Faults, Stage};
use crate::limit::Limits;
use crate::metrics::Metrics;
use crate::moment::Moment;
use crate::origin::{Failure, Fetched, Origin};
use crate::store::Store;
use crate::ticket::Ticket;

/// A ticket that was made just now may not be known everywhere at WeChat yet: a prefetch that meets a 404 asks once more,
/// after so long.
const PREFETCH_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What a fill is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// Somebody asks for the image, or has asked before.
    Asked,
    /// Somebody is going to ask.
    Prefetch,
}

/// Starts fills and lets others join them.
pub struct Fills {
    flights: Arc<Flights<Filled>>,
    filler: Arc<Filler>,
    runtime: Handle,
}

/// What one fill works with.
pub struct Filler {
    /// Where images are kept.
    pub cache: Arc<Cache>,
    /// Where own tickets are kept for the next start, if anywhere.
    pub store: Option<Arc<Store>>,
    /// Who is asked.
    pub origin: Arc<Origin>,
    /// How often.
    pub limits: Arc<Limits>,
    /// Lifetimes where the origin names none, and what passes on.
    pub rules: Rules,
    /// The time.
    pub clock: Clock,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Faults that tests inject.
    pub faults: Faults,
}

/// How to get at an image that was not in the cache.
pub enum Joined {
    /// It has come in the meantime.
    Found(Found),
    /// Wait for a fill.
    Filling(Filling),
}

/// How a fill ended.
#[derive(Debug, Clone)]
pub struct Filled {
    /// With this.
    pub verdict: Verdict,
    /// How long the origin took, waits for budgets and places not counted; `None` when it was not asked.
    pub origin_took: Option<Duration>,
}

/// A fill to wait for. Dropping it gives up waiting, nothing else.
pub struct Filling {
    seat: Option<Seat<Filled>>,
    /// Whether somebody else began the fill.
    pub collapsed: bool,
}

impl Fills {
    /// Fills run on `runtime`, `most` at once.
    pub fn new(filler: Filler, most: usize, runtime: Handle) -> Self {
        Self { flights: Flights::new(most), filler: Arc::new(filler), runtime }
    }

    /// Fills by `filler` from now on, `most` at once; those under way go on, and are joined as before.
    #[must_use]
    pub fn renewed(&self, filler: Filler, most: usize) -> Self {
        self.flights.limit(most);
        Self { flights: Arc::clone(&self.flights), filler: Arc::new(filler), runtime: self.runtime.clone() }
    }

    /// The running fill of `ticket`.
    pub fn running(&self, ticket: &Ticket) -> Option<Filling> {
        let seat = self.flights.join(ticket.canonical())?;
        self.filler.metrics.joined();
        Some(Filling::joined(seat))
    }

    /// Joins or starts the fill of `ticket`, unless the cache has it by now.
    pub fn join_or_start(&self, ticket: &Ticket) -> Joined {
        let joined = self.join_or_start_for(Purpose::Asked, ticket);
        if matches!(&joined, Joined::Filling(filling) if filling.collapsed) {
            self.filler.metrics.joined();
        }
        joined
    }

    /// The same though the cache may have it.
    fn join_or_start_anew(&self, ticket: &Ticket) -> Joined {
        self.start(Purpose::Asked, ticket, self.flights.join_or_start(ticket.key(), || None))
    }

    fn join_or_start_for(&self, purpose: Purpose, ticket: &Ticket) -> Joined {
        self.start(purpose, ticket, self.board(ticket))
    }

    fn board(&self, ticket: &Ticket) -> Boarding<Filled, Found> {
        self.flights.join_or_start(ticket.key(), || self.filler.cache.answer(ticket, self.filler.clock.now()))
    }

    fn start(&self, purpose: Purpose, ticket: &Ticket, boarding: Boarding<Filled, Found>) -> Joined {
        match boarding {
            Boarding::Found(found) => Joined::Found(found),
            Boarding::Joined(seat) => Joined::Filling(Filling::joined(seat)),
            Boarding::Start(permit, seat) => {
                self.runtime.spawn(Arc::clone(&self.filler).run(purpose, ticket.clone(), permit));
                Joined::Filling(Filling { seat: Some(seat), collapsed: false })
            }
            Boarding::Full => Joined::Filling(Filling { seat: None, collapsed: false }),
        }
    }

    /// Has `ticket` filled anew, unless that is under way: nobody waits for it here.
    pub fn refresh(&self, ticket: &Ticket) {
        drop(self.join_or_start_for(Purpose::Asked, ticket));
    }

    /// Has `ticket`, which was made just now, filled before somebody asks, unless its image is held or under way. Spends the
    /// origin's budget alone (S13). A 404 is not remembered.
    pub fn prefetch(&self, ticket: &Ticket) {
        drop(self.join_or_start_for(Purpose::Prefetch, ticket));
    }

    /// Forgets what the cache holds of `ticket`, and has a running fill of it store nothing; those who wait for that fill are
    /// still shown what it brings. What was learned of the ticket stays. Returns whether anything was held.
    pub fn purge(&self, ticket: &Ticket) -> bool {
        self.flights.spoil(ticket.canonical());
        self.filler.cache.purge(ticket)
    }

    /// The same of all tickets; returns of how many something was held.
    pub fn purge_all(&self) -> u64 {
        self.flights.spoil_all();
        self.filler.cache.purge_all()
    }

    /// Whether the life of `ticket` is over, as far as anybody knows.
    pub fn is_over(&self, ticket: &Ticket) -> bool {
        self.filler.is_over(ticket)
    }

    /// How many fills are under way.
    pub fn under_way(&self) -> usize {
        self.flights.len()
    }

    /// How many requests wait for a fill.
    pub fn waiting(&self) -> usize {
        self.flights.waiting()
    }

    /// The origin that is asked.
    pub fn origin(&self) -> &Arc<Origin> {
        &self.filler.origin
    }
}

impl Filling {
    fn joined(seat: Seat<Filled>) -> Self {
        Self { seat: Some(seat), collapsed: true }
    }

    /// Waits for the fill's end.
    pub async fn end(self) -> Filled {
        match self.seat {
            None => Filled::unasked(Failure::Busy),
            Some(seat) => seat.result().await.unwrap_or_else(|| Filled::unasked(Failure::Panicked)),
        }
    }
}

impl Filled {
    /// The origin was not asked, because of `failure`.
    pub fn unasked(failure: Failure) -> Self {
        Self { verdict: Verdict::Failed(failure, None), origin_took: None }
    }
}

impl Filler {
    async fn run(self: Arc<Self>, purpose: Purpose, ticket: Ticket, permit: Permit<Filled>) {
        let _witness = self.metrics.witness();
        let attempt = Attempt { filler: &self, ticket: &ticket };
        let filled = match purpose {
            Purpose::Asked => self.fill(&ticket).await,
            Purpose::Prefetch => self.fill_soon(&ticket).await,
        };
        attempt.end(purpose, filled.unwrap_or_else(Filled::unasked), permit);
    }

    async fn fill(&self, ticket: &Ticket) -> Result<Filled, Failure> {
        self.admit(ticket).await?;
        self.faults.strike(Stage::Fetch);
        let stored = self.cache.stored(ticket, self.clock.now());
        let validators = stored.as_deref().map(Image::validators).unwrap_or_default();
        let filled = self.ask(ticket, stored.as_deref(), &validators).await?;
        if validators != Validators::default() && filled.verdict.is_of_another_version() {
            // RFC 9111 §4.3.3: what a 304 does not renew is asked for without conditions.
            self.admit(ticket).await?;
            return self.ask(ticket, None, &Validators::default()).await;
        }
        Ok(filled)
    }

    /// Whoever joins in the meantime waits for the second answer.
    async fn fill_soon(&self, ticket: &Ticket) -> Result<Filled, Failure> {
        let first = self.fill(ticket).await?;
        if !matches!(first.verdict, Verdict::Unknown(_)) {
            return Ok(first);
        }
        tokio::time::sleep(PREFETCH_AGAIN_AFTER).await;
        self.fill(ticket).await
    }

    async fn admit(&self, ticket: &Ticket) -> Result<(), Failure> {
        self.origin.check()?;
        let admitted = if self.is_over(ticket) { self.limits.late_fill().await } else { self.limits.fill().await };
        admitted.map(drop).map_err(Failure::Budget)
    }

    async fn ask(&self, ticket: &Ticket, stored: Option<&Image>, validators: &Validators) -> Result<Filled, Failure> {
        let Fetched { answer, took } = self.origin.fetch(ticket, validators).await?;
        self.metrics.origin_answered(took);
        self.faults.strike(Stage::Judge);
        let bench = Bench { now: self.clock.now(), skew_millis: self.origin.skew_millis() };
        let facts = ticket.facts();
        let known = Known { facts: facts.as_ref(), stored, expiry: self.cache.expiry(ticket) };
        let verdict = match answer {
            Ok(answer) => judge::judge(answer, known, &self.rules, bench),
            Err(failure) => Verdict::Failed(failure, None),
        };
        Ok(Filled { verdict, origin_took: Some(took) })
    }

    /// Stores before the ticket is free again, and returns what those who wait are told.
    fn keep(&self, purpose: Purpose, ticket: &Ticket, verdict: Verdict) -> Verdict {
        self.faults.strike(Stage::Store);
        let now = self.clock.now();
        match verdict {
            Verdict::Image(image, Storable::Yes) => {
                return Verdict::Image(self.cache.keep_image(ticket, image, now), Storable::Yes);
            }
            Verdict::Unknown(_) if purpose == Purpose::Prefetch => self.cache.forget_image(ticket),
            _ => self.keep_other(ticket, &verdict, now),
        }
        verdict
    }

    fn keep_other(&self, ticket: &Ticket, verdict: &Verdict, now: Moment) {
        match verdict {
            Verdict::Image(image, Storable::ShowOnly(judge::EXPIRED)) if self.rules.remember_late => {
                self.cache.forget_image(ticket);
                let until = now.tick + self.rules.negative_ttl;
                let late = Negative { instead: Instead::Late(Arc::clone(image)), until };
                self.cache.keep_negative(ticket, late, now);
            }
            // What was stored is superseded by what may not be.
            Verdict::Image(..) => self.cache.forget_image(ticket),
            Verdict::Unknown(negative) => self.cache.keep_negative(ticket, negative.clone(), now),
            Verdict::Passed(_) | Verdict::Failed(..) => self.put_off(ticket, verdict, now),
        }
    }

    /// Whether the ticket's life is over: by its own word and the origin's clock, or by what was learned.
    fn is_over(&self, ticket: &Ticket) -> bool {
        let now = self.clock.now();
        let known = [self.stated(ticket, now), self.cache.expiry(ticket)];
        Expiry::earliest(known).is_some_and(|expiry| expiry.is_over(now))
    }

    /// When the ticket's life ends, as it says itself.
    fn stated(&self, ticket: &Ticket, now: Moment) -> Option<Expiry> {
        let end = ticket.facts()?.expires()?;
        Some(Expiry::new(end, now, self.origin.skew_millis()))
    }

    /// A stale image stays, and is not refreshed again at once.
    fn put_off(&self, ticket: &Ticket, verdict: &Verdict, now: Moment) {
        if let Some(image) = self.cache.stored(ticket, now) {
            image.retry.failed(now.tick);
        }
        if let Verdict::Failed(_, Some(negative)) = verdict {
            self.cache.keep_negative(ticket, negative.clone(), now);
        }
    }
}

/// A fill that is under way. Dropped in this state it panicked, which puts the next refresh off like any other failure.
struct Attempt<'a> {
    filler: &'a Filler,
    ticket: &'a Ticket,
}

impl Attempt<'_> {
    /// Stores what came, frees the ticket and tells those who wait.
    fn end(self, purpose: Purpose, filled: Filled, permit: Permit<Filled>) {
        let Filled { verdict, origin_took } = filled;
        permit.land(|is_spoiled| {
            let Self { filler, ticket } = self;
            let verdict =
                if is_spoiled { verdict.shown_only(judge::PURGED) } else { filler.keep(purpose, ticket, verdict) };
            std::mem::forget(self);
            filler.metrics.filled(verdict.not_stored(), verdict.failed());
            Filled { verdict, origin_took }
        });
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let Self { filler, ticket } = self;
        filler.metrics.filled(None, Some(Failure::Panicked.reason()));
        let now = filler.clock.now();
        if let Some(image) = filler.cache.stored(ticket, now) {
            image.retry.failed(now.tick);
        }
    }
}
