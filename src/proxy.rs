//! The way of a request, start to end.
//!
//! 1. **route** — method and path say what is asked ([`crate::route`]);
//! 2. **ticket** — the query's ticket in its one canonical form, or why there is none ([`crate::ticket`]);
//! 3. **admit** — the client's budget of requests ([`crate::limit`]);
//! 4. **look up** — a fresh image, or a remembered refusal, answers at once; so may a stale image, while it is refreshed or
//!    when that fails ([`crate::cache`]);
//!    A ticket whose life is over may end here, or is asked for sparingly;
//! 5. **join** — a fill of this ticket may be under way ([`crate::fill`]);
//! 6. **admit** — the client's budget of misses, which may make it wait; own tickets spend none;
//! 7. **look up and join again, else start** — the wait may have brought the image;
//! 8. **wait** for the fill, which spends the origin's budget itself, unless others need the place more;
//!    how many wait so, from 5 on, is bounded ([`crate::limit::requests`]);
//! 9. **respond** — from an allow-list ([`crate::reply`], [`crate::respond`]).

use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Version};
use tokio::time::timeout;

use crate::arrival::{Arrival, REQUEST_ID};
use crate::body::timed::TimedBody;
use crate::cache::entry::Image;
use crate::cache::stale::Plan;
use crate::cache::status::Forward;
use crate::cache::{Cache, Known};
use crate::clock::Clock;
use crate::fault::{Faults, Stage};
use crate::fill::{Filled, Fills, Joined};
use crate::forward::Forward as App;
use crate::limit::{Admitted, Client, Limits, Requests, Trust};
use crate::metrics::Reading;
use crate::moment::Moment;
use crate::origin::Failure;
use crate::reply::{Answered, Refusal, Reply};
use crate::respond::{Asked, Responder};
use crate::route::{self, Route, Routes};
use crate::ticket::{Allow, Expired, Ticket};
use crate::via::Via;

/// How long somebody waits for the origin who could be shown a stale image (S23).
const PATIENCE: Duration = Duration::from_millis(500);

/// Answers requests. One for each worker thread: what is shared is behind an `Arc`, the pool of connections to the app is
/// the thread's own.
pub struct Proxy {
    /// What all threads share.
    pub shared: Arc<Shared>,
    /// The app behind us, if there is one.
    pub forward: Option<Arc<App>>,
}

/// A request for an image.
#[derive(Clone, Copy)]
struct Wish<'a> {
    ticket: &'a Ticket,
    client: Client,
    /// Whose connection it came over.
    peer: IpAddr,
    /// Whether an answer that refuses it makes room for another connection: over HTTP/2 it does not.
    can_make_room: bool,
}

/// What all threads share.
pub struct Shared {
    /// Sorts requests.
    pub routes: Routes,
    /// Tells clients from proxies.
    pub trust: Trust,
    /// The budgets.
    pub limits: Arc<Limits>,
    /// How many requests are with the app,
    pub at_app: Arc<Requests>,
    /// and how many wait for an image: neither takes the other's room.
    pub awaiting: Arc<Requests>,
    /// `tickets.strict`.
    pub strict: bool,
    /// `tickets.expired`.
    pub expired: Expired,
    /// `tickets.allow`.
    pub allow: Allow,
    /// Images and refusals.
    pub cache: Arc<Cache>,
    /// Fetches what is not in the cache.
    pub fills: Fills,
    /// Builds answers.
    pub responder: Responder,
    /// The time.
    pub clock: Clock,
    /// Our own hop.
    pub via: Via,
    /// Faults that tests inject.
    pub faults: Faults,
}

impl Proxy {
    /// Answers `request`, which came by `arrival`; what goes to the app is taken out of it. Dropping the future gives up
    /// waiting; a fill it began goes on.
    pub async fn answer(&self, request: &mut Request<TimedBody>, arrival: Arrival<'_>) -> Answered {
        let Shared { routes, trust, responder, via, .. } = &*self.shared;
        let client = trust.client(arrival.peer.ip(), request.headers());
        let asked = Asked::of(request);
        let host = route::check_host(request.version(), request.uri(), request.headers());
        if let Err(bad) = host.and_then(|()| route::check_framing(request.headers())) {
            return Answered::bad_request(asked, bad, responder).by(client);
        }
        if via.is_loop(request.headers()) {
            return Answered::in_a_loop(asked, responder).by(client);
        }
        self.shared.faults.strike(Stage::Route); // 1
        match routes.of(request.method(), request.uri()) {
            Route::Image => self.image(request, client, &arrival).await,
            Route::Preflight => Answered::preflight(responder.preflight(request.headers())),
            Route::Health => Answered::healthy(request.method()),
            Route::App => {
                let request = std::mem::replace(request, Request::new(TimedBody::nothing()));
                // Boxed, so that a hit does not carry, and copy, the room that the rest takes.
                Box::pin(self.forward(request, arrival)).await
            }
            Route::NotAllowed(allow) => Answered::not_allowed(asked, allow, responder),
        }
        .by(client)
    }

    /// `now` is read once for a hit, whose every step takes less than a clock can tell; whoever waits reads it again.
    async fn image(&self, request: &Request<TimedBody>, client: Client, arrival: &Arrival<'_>) -> Answered {
        let (mut now, peer) = (arrival.at, arrival.peer.ip());
        let asked = Asked::of(request);
        self.shared.faults.strike(Stage::Ticket);
        let ticket = Ticket::from_query(request.uri().query()); // 2
        let reply = match &ticket {
            Ok(ticket) => {
                let can_make_room = request.version() < Version::HTTP_2;
                self.find(Wish { ticket, client, peer, can_make_room }, &mut now).await
            }
            Err(bad) => Err(Refusal::BadTicket(*bad)),
        };
        self.shared.faults.strike(Stage::Respond);
        reply.unwrap_or_else(Reply::Refused).answer(asked, ticket.ok(), &self.shared.responder, now) // 9
    }

    /// Steps 3 and 4: the order is S13's.
    async fn find(&self, wish: Wish<'_>, now: &mut Moment) -> Result<Reply, Refusal> {
        let Shared { limits, cache, clock, .. } = &*self.shared;
        self.shared.check(wish.ticket)?;
        self.shared.faults.strike(Stage::Admit);
        let admitted = limits.request(&wish.client, now.tick).await?; // 3
        if !admitted.delay.is_zero() {
            *now = clock.now();
        }
        self.shared.faults.strike(Stage::LookUp);
        match cache.lookup(wish.ticket, *now) {
            Known::Answer(found) => Ok(Reply::found(found, admitted)), // 4
            known => {
                let reply = Box::pin(self.find_otherwise(known, wish, admitted, *now)).await;
                *now = clock.now();
                reply
            }
        }
    }

    /// Beyond step 4: what the cache has is no answer by itself.
    async fn find_otherwise(
        &self,
        known: Known,
        wish: Wish<'_>,
        admitted: Admitted,
        now: Moment,
    ) -> Result<Reply, Refusal> {
        match known {
            Known::Answer(found) => Ok(Reply::found(found, admitted)),
            Known::Stale { image, refused } => {
                let plan = Plan::of(&image, refused, now);
                self.beside(image, plan, wish, admitted).await
            }
            Known::Nothing if !self.shared.fills.is_over(wish.ticket) => {
                self.fetch(wish, admitted, Forward::UriMiss).await
            }
            Known::Nothing if self.shared.expired == Expired::Gone => Err(Refusal::Expired),
            Known::Nothing => self.fetch(wish, admitted, Forward::Bypass).await,
        }
    }

    /// S23: whoever has a stale image to show waits little, or not at all.
    async fn beside(
        &self,
        image: Arc<Image>,
        plan: Plan,
        wish: Wish<'_>,
        admitted: Admitted,
    ) -> Result<Reply, Refusal> {
        match plan {
            Plan::Ask => self.fetch(wish, admitted, Forward::Stale).await,
            Plan::AskBriefly => Ok(match self.shared.awaiting.begin(wish.peer) {
                Ok(_under_way) => self.ask_briefly(image, wish.ticket, admitted).await,
                Err(too_many) => {
                    // Nobody waits for it, so that it takes no room.
                    self.shared.fills.refresh(wish.ticket);
                    Reply::stale(image, too_many.reason(), admitted)
                }
            }),
            Plan::ShowAndRefresh => {
                self.shared.fills.refresh(wish.ticket);
                Ok(Reply::stale(image, "stale-while-revalidate", admitted))
            }
            Plan::Show => Ok(Reply::stale(image, "stale-if-error", admitted)),
        }
    }

    /// Waits a little for a refresh, which spends the origin's budget alone (S13).
    async fn ask_briefly(&self, image: Arc<Image>, ticket: &Ticket, admitted: Admitted) -> Reply {
        let filling = match self.shared.fills.join_or_start(ticket) {
            Joined::Found(found) => return Reply::found(found, admitted),
            Joined::Filling(filling) => filling,
        };
        let collapsed = filling.collapsed;
        let reply = |filled| Reply::filled(filled, Forward::Stale, collapsed, admitted);
        let mut end = pin!(filling.end());
        let came = timeout(PATIENCE, &mut end).await.ok().map(reply);
        if let Some(reply) = came.as_ref().filter(|reply| !reply.is_failure()) {
            return reply.clone();
        }
        // The wait may have outlasted the window, or the ticket.
        if image.serves_on_error(self.shared.clock.now()) {
            return Reply::stale_instead(image, came.as_ref(), admitted);
        }
        match came {
            Some(reply) => reply,
            None => reply(end.await),
        }
    }

    /// Steps 5 to 8, given up when the place is needed for somebody who may be answered at once. What was begun goes on.
    async fn fetch(&self, wish: Wish<'_>, admitted: Admitted, forward: Forward) -> Result<Reply, Refusal> {
        let _under_way = self.shared.awaiting.begin(wish.peer)?;
        tokio::select! {
            biased;
            reply = self.wait(wish, admitted, forward) => reply,
            () = self.shared.limits.crowd().needs_miss(), if wish.can_make_room => {
                Ok(Reply::filled(Filled::unasked(Failure::Crowded), forward, false, admitted))
            }
        }
    }

    async fn wait(
        &self,
        Wish { ticket, client, .. }: Wish<'_>,
        admitted: Admitted,
        forward: Forward,
    ) -> Result<Reply, Refusal> {
        let Shared { limits, fills, cache, clock, .. } = &*self.shared;
        let filling = if let Some(filling) = fills.running(ticket) {
            filling // 5
        } else {
            if !cache.is_own(ticket, clock.now()) || fills.is_over(ticket) {
                limits.miss(&client, clock.tick()).await?; // 6
            }
            self.shared.faults.strike(Stage::Join);
            match fills.join_or_start(ticket) {
                Joined::Found(found) => return Ok(Reply::found(found, admitted)), // 7
                Joined::Filling(filling) => filling,
            }
        };
        let collapsed = filling.collapsed;
        Ok(Reply::filled(filling.end().await, forward, collapsed, admitted)) // 8
    }

    async fn forward(&self, mut request: Request<TimedBody>, Arrival { peer, id, .. }: Arrival<'_>) -> Answered {
        let method = request.method().clone();
        request.headers_mut().insert(REQUEST_ID, id.clone());
        match &self.forward {
            None => Answered::no_app(&method),
            Some(forward) => {
                let believed = self.shared.trust.believed(peer.ip());
                self.shared.faults.strike(Stage::Forward);
                let sent = forward.send(request, peer, believed, &self.shared.at_app).await;
                self.shared.faults.strike(Stage::Forwarded);
                Answered::forwarded(&method, sent)
            }
        }
    }
}

impl Shared {
    /// Whether `ticket` may be asked for here at all: what is refused costs nothing, so that it spends no budget.
    fn check(&self, ticket: &Ticket) -> Result<(), Refusal> {
        match self.allow {
            _ if self.strict && ticket.facts().is_none() => Err(Refusal::Unrecognised),
            Allow::Own if !self.cache.knows(ticket) => Err(Refusal::NotOwn),
            Allow::Any | Allow::Own => Ok(()),
        }
    }

    /// Whether `ticket` may be shown, as far as `tickets.allow` goes.
    pub fn serves(&self, ticket: &Ticket) -> bool {
        self.allow == Allow::Any || self.cache.knows(ticket)
    }

    /// Measures what nobody counts.
    pub fn reading(&self) -> Reading {
        let (images, own, negatives) = (self.cache.images(), self.cache.own_images(), self.cache.negatives());
        Reading {
            image_entries: images.entries,
            image_bytes: images.bytes,
            image_capacity: images.capacity,
            own_entries: own.entries,
            own_bytes: own.bytes,
            own_capacity: own.capacity,
            own_tickets: self.cache.own_tickets(),
            negative_entries: negatives.entries,
            negative_bytes: negatives.bytes,
            negative_capacity: negatives.capacity,
            fills: self.fills.under_way() as u64,
            waiting: self.limits.waiting() as u64,
            at_app: self.at_app.under_way() as u64,
            awaiting: self.awaiting.under_way() as u64,
            waiting_for_fills: self.fills.waiting() as u64,
            circuit_open: self.fills.origin().circuit_is_open(),
            skew_millis: self.fills.origin().skew_millis(),
            ..Reading::default()
        }
    }
}
