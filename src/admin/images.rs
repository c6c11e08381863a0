//! `GET /images?search=…&order=…&after=…&limit=…`: the images that are held, a page of rows at a time. There is no index: each page
//! is one look at all of them, away from the threads that serve, in memory for one page. Two such looks run at once, others wait.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use prometheus_client::metrics::counter::Counter;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::answer::{self, Answer};
use super::call::BadCall;
use super::query;
use crate::cache::entry::Image;
use crate::cache::{Cache, Held};
use crate::fault::Stage;
use crate::mishap::outlived_aside;
use crate::moment::Moment;
use crate::proxy::Shared;
use crate::ticket::Ticket;

/// Rows of a page, unless fewer are asked for, and at most.
const ROWS: usize = 50;
const MOST_ROWS: usize = 200;

/// Bytes of a search: a URL whose ticket is encoded twice, at most, fits.
const LONGEST_SEARCH: usize = 4096;

/// Looks at once.
const AT_ONCE: usize = 2;

/// Digits of a shortened ticket.
const SHORT: usize = 8;

/// Looks at everything that is held, few at a time.
pub struct Scans(Arc<Semaphore>);

/// What is asked for.
#[derive(Debug)]
struct Wanted {
    search: Option<Search>,
    order: Order,
    after: Option<Place>,
    rows: usize,
}

/// Which images.
#[derive(Debug)]
struct Search {
    /// As it was pasted: part of a ticket, or of what its code says.
    text: String,
    /// The ticket that it is, or contains.
    ticket: Option<Ticket>,
    /// The beginning of a shortened ticket.
    short: Option<String>,
}

/// Which come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Hits,
    Newest,
    Ending,
    Largest,
}

/// Where an image stands: the smallest first.
type Place = (u64, Arc<str>);

/// A page of them.
#[derive(Debug, Default)]
struct Listing {
    held: u64,
    matching: u64,
    rows: BTreeMap<Place, Held>,
    is_cut: bool,
}

impl Scans {
    /// None under way.
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }

    /// Tells the rows that `query` asks for; a mistake of ours is a 500 that `panics` counts. Dropped, it gives up its turn; a look
    /// under way ends by itself.
    pub async fn images(&self, shared: Arc<Shared>, query: Option<&str>, panics: &Counter) -> Answer {
        let wanted = match Wanted::of(query) {
            Ok(wanted) => wanted,
            Err(bad) => return bad.answer(),
        };
        let turn = Arc::clone(&self.0).acquire_owned().await.expect("the semaphore is never closed");
        let look = move || {
            let _turn = turn;
            shared.faults.strike(Stage::Scan);
            wanted.told(&shared)
        };
        match outlived_aside(look, panics).await {
            Some(told) => answer::compact_json(&told),
            None => answer::text(StatusCode::INTERNAL_SERVER_ERROR, "looking through the cache failed; see the log\n"),
        }
    }
}

impl Wanted {
    fn of(query: Option<&str>) -> Result<Self, BadCall> {
        let [search, order, after, limit] = query::parameters(query, ["search", "order", "after", "limit"])?;
        Ok(Self {
            search: search.as_deref().map(Search::of).transpose()?.flatten(),
            order: order.as_deref().map_or(Ok(Order::Hits), Order::of)?,
            after: after.as_deref().filter(|after| !after.is_empty()).map(place).transpose()?,
            rows: limit.as_deref().map_or(Ok(ROWS), rows)?,
        })
    }

    fn told(&self, shared: &Shared) -> Value {
        let (began, now) = (shared.clock.tick(), shared.clock.now());
        let listing = self.list(shared.cache.held(now));
        let took = shared.clock.tick().since(began);
        let last = listing.rows.last_key_value().filter(|_| listing.is_cut);
        json!({
            "now_ms": now.wall.unix_millis(),
            "held": listing.held,
            "matching": listing.matching,
            "took_ms": millis(took),
            "rows": listing.rows.values().map(|held| row(held, &shared.cache, now)).collect::<Vec<_>>(),
            "next": last.map(|((rank, key), _)| format!("{rank}:{key}")),
        })
    }

    fn list(&self, all: impl Iterator<Item = Held>) -> Listing {
        let mut listing = Listing::default();
        for held in all {
            listing.held += 1;
            if !self.search.as_ref().is_none_or(|search| search.finds(&held.key)) {
                continue;
            }
            listing.matching += 1;
            let place = (self.order.rank(&held.image), Arc::clone(&held.key));
            if self.after.as_ref().is_none_or(|after| place > *after) {
                listing.keep(place, held, self.rows);
            }
        }
        listing
    }
}

impl Listing {
    fn keep(&mut self, place: Place, held: Held, most: usize) {
        if self.rows.len() == most {
            self.is_cut = true;
            if self.rows.last_key_value().is_some_and(|(last, _)| place > *last) {
                return;
            }
            self.rows.pop_last();
        }
        self.rows.insert(place, held);
    }
}

impl Search {
    /// `None` finds everything.
    fn of(text: &str) -> Result<Option<Self>, BadCall> {
        if text.len() > LONGEST_SEARCH {
            return Err(BadCall::Senseless(
                "`search` has more than 4096 bytes; search for a ticket, a URL or a part of one",
            ));
        }
        let text = text.trim();
        let is_short = text.len() <= SHORT && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let search = Self {
            text: text.to_owned(),
            ticket: Ticket::find(text).ok(),
            short: is_short.then(|| text.to_ascii_lowercase()),
        };
        Ok((!text.is_empty()).then_some(search))
    }

    fn finds(&self, key: &Arc<str>) -> bool {
        let Self { text, ticket, short } = self;
        if ticket.as_ref().is_some_and(|ticket| ticket.canonical() == &**key) || key.contains(text) {
            return true;
        }
        let ticket = Ticket::of_key(Arc::clone(key));
        short.as_ref().is_some_and(|short| ticket.short().to_string().starts_with(short))
            || ticket.facts().is_some_and(|facts| facts.url.contains(text))
    }
}

impl Order {
    fn of(word: &str) -> Result<Self, BadCall> {
        match word {
            "hits" => Ok(Self::Hits),
            "newest" => Ok(Self::Newest),
            "ending" => Ok(Self::Ending),
            "largest" => Ok(Self::Largest),
            _ => Err(BadCall::Senseless("`order` is one of hits, newest, ending, largest")),
        }
    }

    /// The same at any time, but for hits.
    fn rank(self, image: &Image) -> u64 {
        match self {
            Self::Hits => u64::MAX - image.hits.get(),
            Self::Newest => u64::MAX - millis(image.freshness.answered().since_start()),
            Self::Ending => {
                image.expiry.map_or(u64::MAX, |expiry| u64::try_from(expiry.stated.unix_millis()).unwrap_or(0))
            }
            Self::Largest => u64::MAX - image.body.len() as u64,
        }
    }
}

fn rows(text: &str) -> Result<usize, BadCall> {
    let rows = text.parse().ok().filter(|rows| (1..=MOST_ROWS).contains(rows));
    rows.ok_or(BadCall::Senseless("`limit` is a number from 1 to 200"))
}

fn place(text: &str) -> Result<Place, BadCall> {
    let (rank, key) = text.split_once(':').unwrap_or_default();
    let rank = rank.parse().map_err(|_| BadCall::Senseless("`after` is the `next` of another answer"))?;
    Ok((rank, Arc::from(key)))
}

fn row(Held { key, image }: &Held, cache: &Cache, now: Moment) -> Value {
    let ticket = Ticket::of_key(Arc::clone(key));
    json!({
        "ticket": ticket.canonical(),
        "short": ticket.short().to_string(),
        "kind": kind(&ticket, image),
        "own": cache.is_own(&ticket, now),
        "state": if image.is_fresh(now) { "fresh" } else { "stale" },
        "expires_ms": image.expiry.map(|expiry| expiry.stated.unix_millis()),
        "remaining_ms": image.expiry.map(|expiry| millis(expiry.left(now))),
        "hits": image.hits.get(),
        "age_seconds": image.freshness.age(now.tick).as_secs(),
        "fresh_for_seconds": image.fresh_for(now).as_secs(),
        "bytes": image.body.len(),
        "content_type": image.format().media_type(),
    })
}

/// What is known of the ticket's life.
fn kind(ticket: &Ticket, image: &Image) -> &'static str {
    match (image.expiry, ticket.facts()) {
        (Some(_), _) => "temporary",
        (None, Some(_)) => "permanent",
        (None, None) => "unknown",
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
