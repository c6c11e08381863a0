//! The cache: images in one store, what the origin said instead of an image in another, so that rubbish can never evict an
//! image (S17). Where own tickets are expected, their images have a store of their own, so that tickets which only clients brought
//! cannot evict them (S18). Looking up decides by the entry's own freshness and its ticket's expiry; storing decides nothing
//! ([`crate::fill::judge`] did).

pub mod config;
pub mod control;
pub mod directives;
pub mod downstream;
pub mod entry;
pub mod expiry;
pub mod format;
pub mod freshness;
pub mod grace;
pub mod hits;
mod memory;
mod own;
pub mod pass_headers;
pub mod retry;
pub mod stale;
pub mod status;
pub mod targeted;

use std::sync::{Arc, PoisonError};

pub use config::Config;
use entry::{Image, Negative};
use expiry::Expiry;
use memory::Memory;
use own::Own;
pub use own::{REMEMBERED, Rank};

use crate::moment::Moment;
use crate::sync::{RwLock, RwLockReadGuard};
use crate::ticket::Ticket;

/// Bytes for remembered refusals (S17).
const NEGATIVE_CAPACITY: u64 = 16 * 1024 * 1024;

/// The share of `cache.memory` that own tickets have, where there can be any: one part of so many.
pub const OWN_SHARE: u64 = 2;

/// All stores.
pub struct Cache {
    images: Memory<Arc<Image>>,
    own: Owned,
    negatives: Memory<Negative>,
}

/// Own tickets and their images. Whoever stores an image holds the tickets' lock while it does, so that an image is never put
/// among strangers' while its ticket is learned; and whoever removes one, so that it is not put back by an image that moves.
/// Looking up takes no lock: an image that moves is in both stores for a moment.
struct Owned {
    tickets: RwLock<Own>,
    /// `None` where their images are among all others.
    images: Option<Memory<Arc<Image>>>,
}

/// What is known of a ticket.
#[derive(Debug, Clone)]
pub enum Known {
    /// Enough to answer.
    Answer(Found),
    /// An image that is stale.
    Stale {
        /// The image.
        image: Arc<Image>,
        /// The origin just refused to give a new one: it is not to be asked again at once.
        refused: bool,
    },
    /// Nothing.
    Nothing,
}

/// What can answer.
#[derive(Debug, Clone)]
pub enum Found {
    /// A fresh image of a living ticket.
    Image(Arc<Image>),
    /// A remembered refusal.
    Negative(Negative),
}

/// An image that is held.
#[derive(Debug, Clone)]
pub struct Held {
    /// The canonical text of its ticket.
    pub key: Arc<str>,
    /// The image.
    pub image: Arc<Image>,
}

/// One of the stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// Images, those of own tickets not among them.
    Images,
    /// Images of own tickets.
    Own,
    /// Refusals.
    Negatives,
}

/// How full a store is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fullness {
    /// Entries.
    pub entries: u64,
    /// Bytes, with overhead.
    pub bytes: u64,
    /// Bytes that there is room for.
    pub capacity: u64,
}

impl Cache {
    /// An empty cache that knows at most `most` own tickets, whose images are among all others. `on_evict` is called for each
    /// entry that goes for want of room.
    pub fn new(config: &Config, most: usize, on_evict: impl Fn(Store) + Clone + Send + Sync + 'static) -> Self {
        let of_negatives = on_evict.clone();
        let negatives = Memory::new(NEGATIVE_CAPACITY, move || of_negatives(Store::Negatives));
        let own = Owned { tickets: RwLock::new(Own::new(most)), images: None };
        Self { images: Memory::new(config.memory, move || on_evict(Store::Images)), own, negatives }
    }

    /// The same, where half of the room is for images of own tickets alone.
    pub fn with_own(config: &Config, most: usize, on_evict: impl Fn(Store) + Clone + Send + Sync + 'static) -> Self {
        let share = config.memory / OWN_SHARE;
        let of_own = on_evict.clone();
        let images = Memory::new(share, move || of_own(Store::Own));
        let rest = Self::new(&Config { memory: config.memory - share, ..config.clone() }, most, on_evict);
        Self { own: Owned { images: Some(images), ..rest.own }, ..rest }
    }

    /// Takes `ticket` as own, with the end of its life as far as it is known: an image that is held ends no later (S20) and
    /// moves to the store of own ones, and a remembered refusal is out of date.
    pub fn learn(&self, ticket: &Ticket, expiry: Option<Expiry>, now: Moment) {
        self.negatives.remove(ticket.canonical());
        let mut tickets = self.own.tickets.write().unwrap_or_else(PoisonError::into_inner);
        let expiry = tickets.learn(ticket, expiry, now);
        let Some(image) = self.image(ticket.canonical()) else { return };
        // Into the one before out of the other: whoever looks just now finds it.
        put(self.own_store(), ticket, &capped(image, expiry), now);
        if self.own.images.is_some() {
            self.images.remove(ticket.canonical());
        }
    }

    /// Where images of own tickets are kept.
    fn own_store(&self) -> &Memory<Arc<Image>> {
        self.own.images.as_ref().unwrap_or(&self.images)
    }

    /// Whether `ticket` is own, and has not ended.
    pub fn is_own(&self, ticket: &Ticket, now: Moment) -> bool {
        self.own.tickets().holds(ticket, now)
    }

    /// Whether `ticket` is own, or was until it ended. Where an image of it is held in the store of own ones, this takes no lock.
    pub fn knows(&self, ticket: &Ticket) -> bool {
        let is_held = self.own.images.as_ref().is_some_and(|images| images.holds(ticket.canonical()));
        is_held || self.own.tickets().get(ticket).is_some()
    }

    /// What is known of `ticket` now.
    pub fn lookup(&self, ticket: &Ticket, now: Moment) -> Known {
        let stale = match self.stored(ticket, now) {
            Some(image) if image.is_fresh(now) => return Known::Answer(Found::Image(image)),
            stale => stale,
        };
        let negative = self.refusal(ticket, now);
        let usable = |image: &Image| image.serves_while_revalidating(now) || image.serves_on_error(now);
        match (stale, negative) {
            (Some(image), Some(negative)) if !usable(&image) => Known::Answer(Found::Negative(negative)),
            (Some(image), refused) => Known::Stale { image, refused: refused.is_some() },
            (None, Some(negative)) => Known::Answer(Found::Negative(negative)),
            (None, None) => Known::Nothing,
        }
    }

    /// What can answer for `ticket` now without a word about staleness; asked once more before a fill starts.
    pub fn answer(&self, ticket: &Ticket, now: Moment) -> Option<Found> {
        match self.lookup(ticket, now) {
            Known::Answer(found) => Some(found),
            Known::Stale { .. } | Known::Nothing => None,
        }
    }

    /// The image of `ticket`, fresh or stale, unless its ticket's life is over.
    pub fn stored(&self, ticket: &Ticket, now: Moment) -> Option<Arc<Image>> {
        self.image(ticket.canonical()).filter(|image| !image.has_ended(now))
    }

    /// Strangers' first: there, an own ticket costs one look in vain, and without a store of own ones nobody pays.
    fn image(&self, key: &str) -> Option<Arc<Image>> {
        self.images.get(key).or_else(|| self.own.images.as_ref()?.get(key))
    }

    /// When the life of `ticket` ends, as far as it was learned or an entry remembers; asked for entries that have ended too.
    pub fn expiry(&self, ticket: &Ticket) -> Option<Expiry> {
        let learned = self.own.tickets().get(ticket).and_then(|known| known.expiry);
        Expiry::earliest([learned, self.image(ticket.canonical()).and_then(|image| image.expiry)])
    }

    /// Keeps `image` while it can be of use, and returns it as it is kept: its ticket may have been learned in the meantime.
    pub fn keep_image(&self, ticket: &Ticket, image: Arc<Image>, now: Moment) -> Arc<Image> {
        self.negatives.remove(ticket.canonical());
        // Held until the image is stored: whoever learns of the ticket next finds it.
        let tickets = self.own.tickets();
        let known = tickets.get(ticket);
        if let Some(before) = self.image(ticket.canonical()) {
            image.hits.carry_over(&before.hits);
        }
        let image = capped(image, known.and_then(|known| known.expiry));
        let store = if known.is_some() { self.own_store() } else { &self.images };
        put(store, ticket, &image, now);
        image
    }

    /// Forgets an image that must not be shown any more.
    pub fn forget_image(&self, ticket: &Ticket) {
        let _no_image_moves = self.own.tickets();
        self.images.remove(ticket.canonical());
        if let Some(images) = &self.own.images {
            images.remove(ticket.canonical());
        }
    }

    /// Forgets whatever is held of `ticket` but that it is own; returns whether anything was.
    pub fn purge(&self, ticket: &Ticket) -> bool {
        let _no_image_moves = self.own.tickets();
        let key = ticket.canonical();
        let held = [
            self.images.take(key).is_some(),
            self.own.images.as_ref().is_some_and(|images| images.take(key).is_some()),
            self.negatives.take(key).is_some(),
        ];
        held.contains(&true)
    }

    /// Forgets every image and every refusal; returns how many there were.
    pub fn purge_all(&self) -> u64 {
        let _no_image_moves = self.own.tickets();
        let own = self.own.images.as_ref().map_or(0, Memory::clear);
        own + self.images.clear() + self.negatives.clear()
    }

    /// The refusal of `ticket` that is remembered now.
    pub fn refusal(&self, ticket: &Ticket, now: Moment) -> Option<Negative> {
        self.negatives.get(ticket.canonical()).filter(|negative| negative.is_current(now.tick))
    }

    /// Remembers a refusal; the image that it contradicts goes (S24).
    pub fn keep_negative(&self, ticket: &Ticket, negative: Negative, now: Moment) {
        if matches!(negative.instead, entry::Instead::Unknown(_)) {
            self.forget_image(ticket);
        }
        let (bytes, useful_for) = (negative.bytes(), negative.until.since(now.tick));
        self.negatives.put(Arc::clone(ticket.key()), negative, bytes, useful_for);
    }

    /// Does the stores' bookkeeping; due once a second.
    pub fn tend(&self) {
        self.images.tend();
        self.negatives.tend();
        if let Some(images) = &self.own.images {
            images.tend();
        }
    }

    /// Every image that can still be of use, in no order; looking counts as no use. Takes no lock: what is stored or moves
    /// meanwhile may be missed or come twice.
    pub fn held(&self, now: Moment) -> impl Iterator<Item = Held> {
        let own = self.own.images.iter().flat_map(Memory::iter);
        let all = self.images.iter().chain(own).map(|(key, image)| Held { key, image });
        all.filter(move |held| !held.image.has_ended(now))
    }

    /// At most `most` own tickets and their ends, in the order in which they would go for want of room; those after `after` if it
    /// is given. Learning waits meanwhile.
    pub fn own_after(&self, after: Option<Rank>, most: usize) -> Vec<(Rank, Ticket, Option<Expiry>)> {
        self.own.tickets().after(after, most)
    }

    /// How many tickets are own.
    pub fn own_tickets(&self) -> u64 {
        self.own.tickets().len() as u64
    }

    /// Whether the store that images of own tickets go to has room for `bytes` more, as of the last bookkeeping.
    pub fn has_room_for_own(&self, bytes: u64) -> bool {
        let store = self.own_store().fullness();
        store.bytes + bytes <= store.capacity
    }

    /// How full the store of own tickets' images is, where they have one.
    pub fn own_images(&self) -> Fullness {
        self.own.images.as_ref().map(Memory::fullness).unwrap_or_default()
    }

    /// How full the store of all other images is.
    pub fn images(&self) -> Fullness {
        self.images.fullness()
    }

    /// How full the store of refusals is.
    pub fn negatives(&self) -> Fullness {
        self.negatives.fullness()
    }
}

impl Store {
    /// Every store, in the order of the discriminants.
    pub const ALL: [Self; 3] = [Self::Images, Self::Own, Self::Negatives];

    /// The word for metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Images => "image",
            Self::Own => "own",
            Self::Negatives => "negative",
        }
    }
}

impl Owned {
    /// A panic under the lock leaves the tickets usable: at worst one is in the order and not among them.
    fn tickets(&self) -> RwLockReadGuard<'_, Own> {
        self.tickets.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn put(images: &Memory<Arc<Image>>, ticket: &Ticket, image: &Arc<Image>, now: Moment) {
    images.put(Arc::clone(ticket.key()), Arc::clone(image), image.bytes(), image.useful_for(now));
}

/// `image`, ending no later than `expiry`.
fn capped(image: Arc<Image>, expiry: Option<Expiry>) -> Arc<Image> {
    let sooner = Expiry::earliest([image.expiry, expiry]);
    if sooner == image.expiry { image } else { Arc::new(image.ending(sooner)) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue, header};

    use super::directives::Directives;
    use super::entry::{Instead, Life, Passed};
    use super::format::Format;
    use super::freshness::{Exchange, Freshness};
    use super::grace::Grace;
    use super::*;
    use crate::interleavings::explore;
    use crate::interleavings::threads::{Act, run};
    use crate::moment::{Tick, Wall};

    const IMAGE: usize = 10_000;

    fn at(seconds: u64) -> Moment {
        let tick = Tick::from_start(Duration::from_secs(seconds));
        Moment { wall: Wall::from_unix(1_700_000_000) + tick.since_start(), tick }
    }

    fn within(seconds: u64) -> Option<Expiry> {
        (seconds > 0).then(|| Expiry::after(Duration::from_secs(seconds), at(0), 0))
    }

    fn ticket(number: u32) -> Ticket {
        Ticket::from_text(&format!("ticket{number}")).unwrap()
    }

    /// An image for a week, of a ticket without a known end.
    fn image() -> Arc<Image> {
        let headers = HeaderMap::from_iter([(header::CACHE_CONTROL, HeaderValue::from_static("max-age=604800"))]);
        let said = Directives::of(&headers);
        let freshness = Freshness::of(&headers, &said, Exchange { asked: at(0), answered: at(0) }, Duration::ZERO);
        let life = Life { said, freshness, grace: Grace::NONE, expiry: None };
        Arc::new(Image::new(Bytes::from(vec![0; IMAGE]), Format::Jpeg, &headers, &life))
    }

    fn cache() -> Cache {
        Cache::with_own(&Config { memory: 1024 * 1024, ..Config::default() }, 10, |_| {})
    }

    fn entries(cache: &Cache) -> (u64, u64) {
        cache.tend();
        (cache.own_images().entries, cache.images().entries)
    }

    #[test]
    fn what_is_stored_after_its_ticket_was_learned_ends_with_it() {
        let cache = cache();
        cache.learn(&ticket(0), within(60), at(0));
        // As by a fill that was judged just before.
        let kept = cache.keep_image(&ticket(0), image(), at(1));
        assert_eq!(kept.expiry, within(60), "those who wait are told as well");
        assert_eq!(entries(&cache), (1, 0));
        assert!(cache.answer(&ticket(0), at(59)).is_some());
        assert!(cache.answer(&ticket(0), at(60)).is_none());
        assert_eq!(cache.expiry(&ticket(0)), within(60));
    }

    #[test]
    fn what_is_stored_before_moves_and_ends_with_its_ticket() {
        let cache = cache();
        cache.keep_image(&ticket(0), image(), at(0));
        assert_eq!(entries(&cache), (0, 1));
        cache.learn(&ticket(0), None, at(0));
        cache.learn(&ticket(0), within(60), at(0));
        assert_eq!(entries(&cache), (1, 0));
        assert!(cache.answer(&ticket(0), at(60)).is_none());
        cache.learn(&ticket(1), None, at(0));
        assert!(
            cache.is_own(&ticket(1), at(0)) && !cache.is_own(&ticket(0), at(60)) && !cache.is_own(&ticket(2), at(0))
        );
    }

    #[test]
    fn a_new_ticket_is_unknown_no_more_and_what_is_forgotten_is_in_no_store() {
        let cache = cache();
        let passed = Passed::new(http::StatusCode::NOT_FOUND, &HeaderMap::new(), None);
        let unknown = Negative { instead: Instead::Unknown(Arc::new(passed)), until: Tick::NEVER };
        cache.keep_negative(&ticket(0), unknown.clone(), at(0));
        cache.learn(&ticket(0), None, at(0));
        assert!(matches!(cache.lookup(&ticket(0), at(0)), Known::Nothing));
        cache.keep_image(&ticket(0), image(), at(0));
        cache.keep_negative(&ticket(0), unknown, at(0));
        assert!(cache.stored(&ticket(0), at(0)).is_none(), "a 404 removes an own image too");
    }

    #[test]
    fn hits_are_those_of_the_ticket_whichever_entry_answered() {
        let cache = cache();
        let hit = |times: u64| {
            let image = cache.stored(&ticket(0), at(0)).unwrap();
            (0..times).for_each(|_| image.hits.count());
            image.hits.get()
        };
        cache.keep_image(&ticket(0), image(), at(0));
        assert_eq!(hit(3), 3);
        cache.keep_image(&ticket(0), image(), at(0));
        assert_eq!(hit(1), 4, "filled anew");
        cache.learn(&ticket(0), within(60), at(0));
        assert_eq!(hit(1), 5, "moved, and ending sooner");
        cache.purge(&ticket(0));
        cache.keep_image(&ticket(0), image(), at(0));
        assert_eq!(hit(0), 0);
    }

    #[test]
    fn what_is_held_in_any_store_is_listed_until_it_ends() {
        let cache = cache();
        cache.learn(&ticket(0), within(60), at(0));
        cache.keep_image(&ticket(0), image(), at(0));
        cache.keep_image(&ticket(1), image(), at(0));
        let listed = |now| {
            let mut all: Vec<_> = cache.held(now).map(|held| held.key.to_string()).collect();
            all.sort_unstable();
            all
        };
        assert_eq!(listed(at(59)), ["ticket0", "ticket1"]);
        assert_eq!(listed(at(60)), ["ticket1"]);
    }

    #[test]
    fn neither_store_takes_the_others_room() {
        let cache = cache();
        for number in 0..5 {
            cache.learn(&ticket(number), None, at(0));
            cache.keep_image(&ticket(number), image(), at(0));
        }
        for number in 100..1000 {
            cache.keep_image(&ticket(number), image(), at(0));
            cache.tend();
        }
        assert_eq!(entries(&cache).0, 5);
        assert!(cache.images().bytes <= 512 * 1024 && entries(&cache).1 > 30);
    }

    #[test]
    fn without_a_store_of_their_own_own_tickets_end_all_the_same() {
        let cache = Cache::new(&Config::default(), 10, |_| {});
        cache.keep_image(&ticket(0), image(), at(0));
        cache.learn(&ticket(0), within(60), at(0));
        cache.learn(&ticket(1), within(60), at(0));
        cache.keep_image(&ticket(1), image(), at(0));
        assert_eq!(entries(&cache), (0, 2), "among all others, which lose no room to them");
        for number in 0..2 {
            assert!(cache.is_own(&ticket(number), at(0)) && cache.answer(&ticket(number), at(59)).is_some());
            assert!(cache.answer(&ticket(number), at(60)).is_none());
        }
        assert!(cache.purge(&ticket(0)) && cache.stored(&ticket(0), at(0)).is_none());
    }

    #[test]
    fn who_is_known_is_own_or_has_ended_and_a_strangers_image_makes_nobody_known() {
        let cache = cache();
        cache.learn(&ticket(0), within(60), at(0));
        cache.keep_image(&ticket(1), image(), at(0));
        assert!(cache.knows(&ticket(0)) && !cache.knows(&ticket(1)));
        cache.keep_image(&ticket(0), image(), at(0));
        cache.learn(&ticket(1), None, at(0));
        assert!(cache.knows(&ticket(0)) && cache.knows(&ticket(1)));
    }

    #[test]
    fn what_is_removed_while_its_ticket_is_learned_does_not_come_back() {
        let unknown = || {
            let passed = Passed::new(http::StatusCode::NOT_FOUND, &HeaderMap::new(), None);
            Negative { instead: Instead::Unknown(Arc::new(passed)), until: Tick::NEVER }
        };
        let remove = move |cache: &Cache, how: u32| match how {
            0 => drop(cache.purge(&ticket(0))),
            1 => drop(cache.purge_all()),
            2 => cache.forget_image(&ticket(0)),
            _ => cache.keep_negative(&ticket(0), unknown(), at(0)),
        };
        for how in 0..4 {
            explore(&format!("removed by {how}"), 9, |choices| {
                let cache = Arc::new(cache());
                cache.keep_image(&ticket(0), image(), at(0));
                let (learns, removes) = (Arc::clone(&cache), Arc::clone(&cache));
                let learn: Act = Box::new(move || learns.learn(&ticket(0), within(60), at(0)));
                let remove: Act = Box::new(move || remove(&removes, how));
                run(choices, vec![("learns", learn), ("removes", remove)]);
                assert!(cache.stored(&ticket(0), at(0)).is_none());
            });
        }
    }

    #[test]
    fn storing_and_learning_at_once_never_leaves_an_image_without_its_end() {
        explore("stored and learned", 9, |choices| {
            let cache = Arc::new(cache());
            let (keeps, learns) = (Arc::clone(&cache), Arc::clone(&cache));
            let keep: Act = Box::new(move || drop(keeps.keep_image(&ticket(0), image(), at(0))));
            let learn: Act = Box::new(move || learns.learn(&ticket(0), within(60), at(0)));
            run(choices, vec![("keeps", keep), ("learns", learn)]);
            let image = cache.stored(&ticket(0), at(0)).expect("it is stored");
            assert_eq!(image.expiry, within(60));
        });
    }
}
