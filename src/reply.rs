//! What the flow found out, turned into the answer that the client gets and the record that is kept of it. One exhaustive
//! match each: whatever can happen has a status, a text, a word for the log and a `Cache-Status`.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, Response, StatusCode, header};

use crate::body::Body;
use crate::cache::Found;
use crate::cache::entry::{Image, Instead, Negative};
use crate::cache::status::{self, Forward, Kept, Outcome};
use crate::fill::Filled;
use crate::fill::judge::{EXPIRED, ORIGIN_STATUS, STALE_ON_ARRIVAL, Storable, Verdict, negative_reason};
use crate::forward::ForwardFailure;
use crate::limit::{Admitted, Client, Refused, TooMany};
use crate::metrics::Source;
use crate::moment::Moment;
use crate::origin::Failure;
use crate::respond::{self, Asked, Responder};
use crate::route::{BadRequest, Kind};
use crate::ticket::{BadTicket, Ticket};

/// What is said where no app is configured.
const NO_APP: &str = "no such page here; set `app` to forward other paths";

/// What is said to a request that comes round.
const LOOP: &str =
    "this request has come through here before (see Via): `app` or `origin.url` leads back to this proxy";

const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// How an image request ended.
#[derive(Debug, Clone)]
pub enum Reply {
    /// The cache had something.
    Found(Found, Admitted),
    /// The cache had an image that is stale, and may be shown all the same.
    Stale {
        /// The image.
        image: Arc<Image>,
        /// Whether the origin was asked, and what it said.
        asked: status::Asked,
        /// The window that allows it, or why the origin's answer was of no use.
        detail: &'static str,
        /// Of which the origin took so long, if it was asked and ended in time.
        origin_took: Option<Duration>,
        /// The client's budget.
        admitted: Admitted,
    },
    /// A fill ended.
    Filled {
        /// With this.
        verdict: Verdict,
        /// The reason for asking.
        forward: Forward,
        /// Somebody else had begun it.
        collapsed: bool,
        /// Of which the origin took so long, if it was asked.
        origin_took: Option<Duration>,
        /// The client's budget.
        admitted: Admitted,
    },
    /// Nobody was asked.
    Refused(Refusal),
}

/// Why nobody was asked.
#[derive(Debug, Clone)]
pub enum Refusal {
    /// S9.
    BadTicket(BadTicket),
    /// `tickets.strict`.
    Unrecognised,
    /// `tickets.allow` is `"own"`, and the ticket is not.
    NotOwn,
    /// `tickets.expired` is `"gone"`, and the ticket's life is over.
    Expired,
    /// A budget of the client is spent.
    Budget(Refused),
    /// As many requests are under way as there may be.
    TooMany(TooMany),
}

impl From<TooMany> for Refusal {
    fn from(too_many: TooMany) -> Self {
        Self::TooMany(too_many)
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        Self::Budget(refused)
    }
}

/// An answer, with what is recorded of it.
pub struct Answered {
    /// The answer.
    pub response: Response<Body>,
    /// Its route.
    pub kind: Kind,
    /// How it fared with the cache; `None` off the image route.
    pub outcome: Option<Outcome>,
    /// The ticket, when there was one.
    pub ticket: Option<Ticket>,
    /// Who asked.
    pub client: Option<Client>,
    /// How long the origin took, when it was asked.
    pub origin_took: Option<Duration>,
    /// Where its body comes from.
    pub source: Source,
    /// Why there is no image, when there is none.
    pub reason: Option<&'static str>,
    /// The budget that refused.
    pub refused: Option<Refused>,
}

impl Reply {
    /// The cache had `found`.
    pub fn found(found: Found, admitted: Admitted) -> Self {
        Self::Found(found, admitted)
    }

    /// A fill ended.
    pub fn filled(filled: Filled, forward: Forward, collapsed: bool, admitted: Admitted) -> Self {
        let Filled { verdict, origin_took } = filled;
        Self::Filled { verdict, forward, collapsed, origin_took, admitted }
    }

    /// Shows `image` without asking, as the window `detail` allows.
    pub fn stale(image: Arc<Image>, detail: &'static str, admitted: Admitted) -> Self {
        Self::Stale { image, asked: status::Asked::No, detail, origin_took: None, admitted }
    }

    /// Shows `image` in place of what asking the origin came to; `None` when nothing came in time.
    pub fn stale_instead(image: Arc<Image>, came: Option<&Self>, admitted: Admitted) -> Self {
        let origin_took = came.and_then(Self::origin_took);
        let (asked, detail) = match came {
            None => (status::Asked::InVain, "origin-slow"),
            Some(reply) => {
                let unanswered = if origin_took.is_some() { status::Asked::InVain } else { status::Asked::No };
                let asked = reply.origin_status().map_or(unanswered, status::Asked::Answered);
                (asked, reply.reason().unwrap_or("stale-if-error"))
            }
        };
        Self::Stale { image, asked, detail, origin_took, admitted }
    }

    /// Whether a stale image is better than this (S23): a 404 is not worse, it is news.
    pub fn is_failure(&self) -> bool {
        match self {
            Self::Found(Found::Negative(negative), _) => matches!(negative.instead, Instead::NotAnImage),
            Self::Filled { verdict, .. } => matches!(verdict, Verdict::Passed(_) | Verdict::Failed(..)),
            Self::Found(..) | Self::Stale { .. } | Self::Refused(_) => false,
        }
    }

    fn origin_status(&self) -> Option<StatusCode> {
        match self {
            Self::Filled { verdict: Verdict::Passed(passed), .. } => Some(passed.status),
            Self::Filled { verdict: Verdict::Failed(failure, _), .. } => failure.origin_status(),
            _ => None,
        }
    }

    /// Builds the answer.
    pub fn answer(self, asked: Asked<'_>, ticket: Option<Ticket>, responder: &Responder, now: Moment) -> Answered {
        self.count_hit();
        let outcome = self.outcome(now);
        let mut response = self.response(asked, &outcome, now, responder);
        if let Some(admitted) = self.admitted() {
            responder.tell_budget(&mut response, admitted);
        }
        let answered = Answered::of(Kind::Image, response);
        Answered {
            outcome: Some(outcome),
            ticket,
            origin_took: self.origin_took(),
            source: self.source(),
            reason: self.reason(),
            refused: self.into_refused(),
            ..answered
        }
    }

    fn count_hit(&self) {
        if let Self::Found(Found::Image(image), _) | Self::Stale { image, .. } = self {
            image.hits.count();
        }
    }

    fn outcome(&self, now: Moment) -> Outcome {
        match self {
            Self::Found(Found::Image(image), _) => Outcome::Hit { ttl: image.fresh_for(now) },
            Self::Found(Found::Negative(negative), _) => Outcome::Negative(negative_reason(negative)),
            Self::Stale { image, asked, detail, .. } => {
                Outcome::Stale { staleness: image.freshness.staleness(now.tick), asked: *asked, detail }
            }
            Self::Filled { verdict, forward, collapsed, .. } => miss(verdict, *forward, *collapsed),
            Self::Refused(refusal) => Outcome::Refused(refusal.reason()),
        }
    }

    fn response(&self, asked: Asked<'_>, outcome: &Outcome, now: Moment, respond: &Responder) -> Response<Body> {
        match self {
            Self::Found(Found::Image(image), _) | Self::Stale { image, .. } => {
                respond.image(asked, image, outcome, now, false)
            }
            Self::Filled { verdict: Verdict::Image(image, storable), .. } => {
                respond.image(asked, image, outcome, now, matches!(storable, Storable::ShowOnly(_)))
            }
            Self::Found(Found::Negative(negative), _) | Self::Filled { verdict: Verdict::Unknown(negative), .. } => {
                match &negative.instead {
                    Instead::Unknown(passed) => respond.passed(asked, passed, outcome),
                    Instead::NotAnImage => respond.failure(asked, &Failure::NotAnImage, outcome),
                    Instead::Late(image) => respond.image(asked, image, outcome, now, true),
                }
            }
            Self::Filled { verdict: Verdict::Passed(passed), .. } => respond.passed(asked, passed, outcome),
            Self::Filled { verdict: Verdict::Failed(failure, _), .. } => respond.failure(asked, failure, outcome),
            Self::Refused(refusal) => match refusal {
                Refusal::Budget(refused) => respond.limited(asked, refused, &refusal.to_string(), outcome),
                Refusal::TooMany(too_many) => respond.too_many(asked, *too_many, outcome),
                _ => respond.refusal(asked, refusal.status(), &refusal.to_string(), outcome),
            },
        }
    }

    fn admitted(&self) -> Option<&Admitted> {
        match self {
            Self::Found(_, admitted) | Self::Stale { admitted, .. } | Self::Filled { admitted, .. } => Some(admitted),
            Self::Refused(_) => None,
        }
    }

    fn origin_took(&self) -> Option<Duration> {
        match self {
            Self::Filled { origin_took, .. } | Self::Stale { origin_took, .. } => *origin_took,
            _ => None,
        }
    }

    fn source(&self) -> Source {
        match self {
            Self::Found(Found::Negative(Negative { instead: Instead::NotAnImage, .. }), _)
            | Self::Filled { verdict: Verdict::Failed(..), .. }
            | Self::Refused(_) => Source::Own,
            Self::Found(..) | Self::Stale { .. } => Source::Cache,
            Self::Filled { .. } => Source::Origin,
        }
    }

    fn reason(&self) -> Option<&'static str> {
        let (Self::Filled { verdict: Verdict::Unknown(negative), .. } | Self::Found(Found::Negative(negative), _)) =
            self
        else {
            return match self {
                Self::Refused(refusal) => Some(refusal.reason()),
                Self::Filled { verdict: Verdict::Failed(failure, _), .. } => Some(failure.reason()),
                Self::Filled { verdict: Verdict::Passed(_), .. } => Some(ORIGIN_STATUS),
                _ => None,
            };
        };
        Some(negative_reason(negative))
    }

    fn into_refused(self) -> Option<Refused> {
        match self {
            Self::Refused(Refusal::Budget(refused))
            | Self::Filled { verdict: Verdict::Failed(Failure::Budget(refused), _), .. } => Some(refused),
            _ => None,
        }
    }
}

fn miss(verdict: &Verdict, forward: Forward, collapsed: bool) -> Outcome {
    let (status, kept) = match verdict {
        Verdict::Image(image, Storable::Yes) => (Some(image.answered_by()), Kept::Stored),
        Verdict::Image(image, Storable::ShowOnly(reason)) => (Some(image.answered_by()), Kept::NotStored(reason)),
        Verdict::Image(image, Storable::Stale) => (Some(image.answered_by()), Kept::NotStored(STALE_ON_ARRIVAL)),
        Verdict::Unknown(negative) => match &negative.instead {
            Instead::Unknown(passed) => (Some(passed.status), Kept::NotStored("unknown-ticket")),
            Instead::NotAnImage | Instead::Late(_) => {
                (Some(StatusCode::OK), Kept::NotStored(negative_reason(negative)))
            }
        },
        Verdict::Passed(passed) => (Some(passed.status), Kept::NotStored(ORIGIN_STATUS)),
        Verdict::Failed(failure, _) => (failure.origin_status(), Kept::NotStored(failure.reason())),
    };
    Outcome::Miss { forward, collapsed, status, kept }
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::BadTicket(_) => StatusCode::BAD_REQUEST,
            Self::Unrecognised => StatusCode::NOT_FOUND,
            Self::NotOwn => StatusCode::FORBIDDEN,
            Self::Expired => StatusCode::GONE,
            Self::Budget(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::TooMany(too_many) => too_many.status(),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::BadTicket(bad) => bad.reason(),
            Self::Unrecognised => "unrecognised-ticket",
            Self::NotOwn => "foreign-ticket",
            Self::Expired => EXPIRED,
            Self::Budget(refused) => refused.budget.name(),
            Self::TooMany(too_many) => too_many.reason(),
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::BadTicket(bad) => bad.fmt(f),
            Self::Unrecognised => f.write_str("this is not a ticket that WeChat issues (tickets.strict is on)"),
            Self::NotOwn => f.write_str(
                "this ticket is not one of this site's own (tickets.allow is \"own\"); create it through the relay, or register it",
            ),
            Self::Expired => f.write_str("this ticket has expired; create a new one (tickets.expired is \"gone\")"),
            Self::TooMany(too_many) => f.write_str(too_many.text()),
            Self::Budget(_) => f.write_str("too many requests from this client; try again after Retry-After"),
        }
    }
}

impl Answered {
    fn of(kind: Kind, response: Response<Body>) -> Self {
        let (outcome, ticket, client, origin_took) = (None, None, None, None);
        let source = Source::Own;
        Self { response, kind, outcome, ticket, client, origin_took, source, reason: None, refused: None }
    }

    /// Notes who asked.
    #[must_use]
    pub fn by(self, client: Client) -> Self {
        Self { client: Some(client), ..self }
    }

    /// S5: says what is wrong, and closes.
    pub fn bad_request(asked: Asked<'_>, bad: BadRequest, responder: &Responder) -> Self {
        let mut response = responder.objection(asked, StatusCode::BAD_REQUEST, &bad.to_string());
        response.headers_mut().insert(header::CONNECTION, CLOSE);
        Self { reason: Some(bad.reason()), ..Self::of(Kind::Refused, response) }
    }

    /// 508: the request was sent on by this very process.
    pub fn in_a_loop(asked: Asked<'_>, responder: &Responder) -> Self {
        let response = responder.objection(asked, StatusCode::LOOP_DETECTED, LOOP);
        Self { reason: Some("loop"), ..Self::of(Kind::Refused, response) }
    }

    /// 405, with what is allowed.
    pub fn not_allowed(asked: Asked<'_>, allow: &'static str, responder: &Responder) -> Self {
        let text = format!("this path takes {allow}");
        let mut response = responder.objection(asked, StatusCode::METHOD_NOT_ALLOWED, &text);
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
        if asked.method == Method::CONNECT {
            // What follows was meant for a tunnel, and is no request.
            response.headers_mut().insert(header::CONNECTION, CLOSE);
        }
        Self::of(Kind::Refused, response)
    }

    /// The answer to a preflight.
    pub fn preflight(response: Response<Body>) -> Self {
        Self::of(Kind::Preflight, response)
    }

    /// The load balancer's `ok`.
    pub fn healthy(method: &Method) -> Self {
        Self::of(Kind::Health, respond::text(method, StatusCode::OK, "ok"))
    }

    /// The way to https, or why there is none.
    pub fn redirected(method: &Method, location: Result<HeaderValue, BadRequest>) -> Self {
        match location {
            Ok(location) => {
                let mut response = respond::text(method, StatusCode::PERMANENT_REDIRECT, "this is served over https");
                response.headers_mut().remove(header::CACHE_CONTROL);
                response.headers_mut().insert(header::LOCATION, location);
                Self::of(Kind::Redirect, response)
            }
            Err(bad) => {
                let mut response = respond::text(method, StatusCode::BAD_REQUEST, &bad.to_string());
                response.headers_mut().insert(header::CONNECTION, CLOSE);
                Self { reason: Some(bad.reason()), ..Self::of(Kind::Refused, response) }
            }
        }
    }

    /// Another path, and no app.
    pub fn no_app(method: &Method) -> Self {
        Self::of(Kind::App, respond::text(method, StatusCode::NOT_FOUND, NO_APP))
    }

    /// What the app said, or why it did not.
    pub fn forwarded(method: &Method, result: Result<Response<Body>, ForwardFailure>) -> Self {
        match result {
            Ok(response) => Self { source: Source::App, ..Self::of(Kind::App, response) },
            Err(failure) => {
                let response = failure.response(method);
                Self { reason: Some(failure.reason()), ..Self::of(Kind::App, response) }
            }
        }
    }
}
