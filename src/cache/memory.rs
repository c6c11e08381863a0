//! Stores bounded by weight. This is the only module that knows moka.
//!
//! Freshness stays in the entries, where it can be asked with the time of the request; moka is told only the last moment
//! at which an entry can be of any use, so that dead ones give their memory back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;
use moka::policy::EvictionPolicy;

use super::Fullness;
use crate::sync::step;

/// Bytes that an entry costs beyond its payload and key, as `cargo bench --bench weight` measures it for images of WeChat's
/// size: key and entry allocations, moka's bookkeeping and the allocator's rounding (28,026 bytes become 28,672 under
/// mimalloc).
const OVERHEAD: usize = 1832;

/// A store of entries by ticket, least recently used first to go.
pub struct Memory<V>(moka::sync::Cache<Arc<str>, Kept<V>, RandomState>);

#[derive(Clone)]
struct Kept<V> {
    value: V,
    bytes: u32,
    useful_for: Duration,
}

impl<V: Clone + Send + Sync + 'static> Memory<V> {
    /// A store for at most `capacity` bytes.
    pub fn new(capacity: u64, on_evict: impl Fn() + Send + Sync + 'static) -> Self {
        let store = moka::sync::Cache::builder()
            .max_capacity(capacity)
            .weigher(|_: &Arc<str>, kept: &Kept<V>| kept.bytes)
            .eviction_policy(EvictionPolicy::lru())
            .expire_after(Usefulness)
            .eviction_listener(move |_, _, cause| {
                if cause == moka::notification::RemovalCause::Size {
                    on_evict();
                }
            })
            .build_with_hasher(RandomState::default());
        Self(store)
    }

    /// What is stored under `key`.
    pub fn get(&self, key: &str) -> Option<V> {
        step();
        self.0.get(key).map(|kept| kept.value)
    }

    /// Whether something is stored under `key`; does not count as a use.
    pub fn holds(&self, key: &str) -> bool {
        step();
        self.0.contains_key(key)
    }

    /// Everything that is stored, in no order; does not count as a use. What is stored or removed meanwhile may be missed or
    /// come twice.
    pub fn iter(&self) -> impl Iterator<Item = (Arc<str>, V)> {
        self.0.iter().map(|(key, kept)| (Arc::clone(&*key), kept.value))
    }

    /// Stores `value`, which has a payload of `bytes` and is of no use after `useful_for`. The store may let it go at any
    /// time, even at once: who needs it holds on to it.
    pub fn put(&self, key: Arc<str>, value: V, bytes: usize, useful_for: Duration) {
        step();
        let bytes = u32::try_from(bytes + key.len() + OVERHEAD).unwrap_or(u32::MAX);
        self.0.insert(key, Kept { value, bytes, useful_for });
    }

    /// Removes what is stored under `key`.
    pub fn remove(&self, key: &str) {
        step();
        self.0.invalidate(key);
    }

    /// Removes what is stored under `key`, and returns it.
    pub fn take(&self, key: &str) -> Option<V> {
        step();
        self.0.remove(key).map(|kept| kept.value)
    }

    /// Removes everything; returns how many entries there were.
    pub fn clear(&self) -> u64 {
        step();
        self.tend();
        let entries = self.0.entry_count();
        self.0.invalidate_all();
        self.tend();
        entries
    }

    /// Does the bookkeeping that is due: evictions, expired entries, counts.
    pub fn tend(&self) {
        self.0.run_pending_tasks();
    }

    /// How full it is, as of the last bookkeeping.
    pub fn fullness(&self) -> Fullness {
        let capacity = self.0.policy().max_capacity().unwrap_or(u64::MAX);
        Fullness { entries: self.0.entry_count(), bytes: self.0.weighted_size(), capacity }
    }
}

struct Usefulness;

impl<V> moka::Expiry<Arc<str>, Kept<V>> for Usefulness {
    fn expire_after_create(&self, _: &Arc<str>, kept: &Kept<V>, _: Instant) -> Option<Duration> {
        Some(kept.useful_for)
    }

    /// Without this a replaced entry would keep the deadline of the one it replaced.
    fn expire_after_update(&self, _: &Arc<str>, kept: &Kept<V>, _: Instant, _: Option<Duration>) -> Option<Duration> {
        Some(kept.useful_for)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Arc<str> {
        text.into()
    }

    #[test]
    fn a_replaced_entry_lives_by_its_own_deadline() {
        let store = Memory::new(1 << 20, || {});
        store.put(key("a"), 1, 10, Duration::ZERO);
        store.put(key("a"), 2, 10, Duration::from_secs(3600));
        store.tend();
        assert_eq!(store.get("a"), Some(2));
    }

    #[test]
    fn weight_stays_below_the_capacity_and_the_used_entries_stay() {
        let capacity = 100 * (1000 + OVERHEAD as u64 + 8);
        let store = Memory::new(capacity, || {});
        for n in 0..1000 {
            store.put(format!("{n:08}").into(), n, 1000, Duration::from_secs(3600));
            assert_eq!(store.get("00000000"), Some(0), "the one in use is never the least recently used");
            store.tend();
        }
        let fullness = store.fullness();
        assert!(fullness.bytes <= fullness.capacity && fullness.capacity == capacity);
        assert!(fullness.entries >= 99);
    }
}
