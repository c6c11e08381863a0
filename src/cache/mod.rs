//! The cache: images in one store, what the origin said instead of an image in another, so that rubbish can never evict an
//! image (S17). Looking up decides by the entry's own freshness and its ticket's expiry; storing decides nothing
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
mod memory;
pub mod pass_headers;
pub mod retry;
pub mod stale;
pub mod status;
pub mod targeted;

use std::sync::Arc;

pub use config::Config;
use entry::{Image, Negative};
use expiry::Expiry;
use memory::Memory;

use crate::moment::Moment;
use crate::ticket::Ticket;

/// Bytes for remembered refusals (S17).
const NEGATIVE_CAPACITY: u64 = 16 * 1024 * 1024;

/// Both stores.
pub struct Cache {
    images: Memory<Arc<Image>>,
    negatives: Memory<Negative>,
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

/// How full a store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fullness {
    /// Entries.
    pub entries: u64,
    /// Bytes, with overhead.
    pub bytes: u64,
}

impl Cache {
    /// An empty cache. `on_evict` is called for each image that goes for want of room.
    pub fn new(config: &Config, on_evict: impl Fn() + Send + Sync + 'static) -> Self {
        Self { images: Memory::new(config.memory, on_evict), negatives: Memory::new(NEGATIVE_CAPACITY, || {}) }
    }

    /// What is known of `ticket` now.
    pub fn lookup(&self, ticket: &Ticket, now: Moment) -> Known {
        let stale = match self.stored(ticket, now) {
            Some(image) if image.is_fresh(now) => return Known::Answer(Found::Image(image)),
            stale => stale,
        };
        let negative = self.negatives.get(ticket.canonical()).filter(|negative| negative.is_current(now.tick));
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
        self.images.get(ticket.canonical()).filter(|image| !image.has_ended(now))
    }

    /// When the life of `ticket` ends, as far as an entry remembers; asked for entries that have ended too.
    pub fn expiry(&self, ticket: &Ticket) -> Option<Expiry> {
        self.images.get(ticket.canonical()).and_then(|image| image.expiry)
    }

    /// Keeps `image` while it can be of use.
    pub fn keep_image(&self, ticket: &Ticket, image: Arc<Image>, now: Moment) {
        self.negatives.remove(ticket.canonical());
        let (bytes, useful_for) = (image.bytes(), image.useful_for(now));
        self.images.put(Arc::clone(ticket.key()), image, bytes, useful_for);
    }

    /// Forgets an image that must not be shown any more.
    pub fn forget_image(&self, ticket: &Ticket) {
        self.images.remove(ticket.canonical());
    }

    /// Remembers a refusal; the image that it contradicts goes (S24).
    pub fn keep_negative(&self, ticket: &Ticket, negative: Negative, now: Moment) {
        if matches!(negative.instead, entry::Instead::Unknown(_)) {
            self.images.remove(ticket.canonical());
        }
        let (bytes, useful_for) = (negative.bytes(), negative.until.since(now.tick));
        self.negatives.put(Arc::clone(ticket.key()), negative, bytes, useful_for);
    }

    /// Does the stores' bookkeeping; due once a second.
    pub fn tend(&self) {
        self.images.tend();
        self.negatives.tend();
    }

    /// How full the store of images is.
    pub fn images(&self) -> Fullness {
        Fullness { entries: self.images.entries(), bytes: self.images.weight() }
    }

    /// How full the store of refusals is.
    pub fn negatives(&self) -> Fullness {
        Fullness { entries: self.negatives.entries(), bytes: self.negatives.weight() }
    }
}
