//! The cache: images in one store, what the origin said instead of an image in another, so that rubbish can never evict an
//! image (S17). Looking up decides by the entry's own freshness and its ticket's expiry; storing decides nothing
//! ([`crate::fill::judge`] did).

pub mod config;
pub mod control;
pub mod downstream;
pub mod entry;
pub mod expiry;
pub mod format;
pub mod freshness;
pub mod grace;
mod memory;
pub mod status;
pub mod targeted;

use std::sync::Arc;

pub use config::Config;
use entry::{Image, Negative};
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

/// What a lookup found.
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

    /// What can answer for `ticket` now, without the origin.
    pub fn lookup(&self, ticket: &Ticket, now: Moment) -> Option<Found> {
        if let Some(image) = self.images.get(ticket.canonical()).filter(|image| image.is_fresh(now)) {
            return Some(Found::Image(image));
        }
        let negative = self.negatives.get(ticket.canonical())?;
        negative.is_current(now.tick).then_some(Found::Negative(negative))
    }

    /// Keeps `image` while it can be served.
    pub fn keep_image(&self, ticket: &Ticket, image: Arc<Image>, now: Moment) {
        let useful_for = image.freshness.left(now.tick);
        let useful_for = image.expiry.map_or(useful_for, |expiry| useful_for.min(expiry.left(now)));
        self.negatives.remove(ticket.canonical());
        let bytes = image.bytes();
        self.images.put(Arc::clone(ticket.key()), image, bytes, useful_for);
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
