//! The last image requests that ended without an image, for whoever is told that "some codes are blank". A bounded list and a
//! count by reason; a good answer never comes here. Takes the time as an argument.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::moment::Wall;
use crate::ticket::Short;

/// Failures that are kept: a page of blank codes is in there several times.
pub const KEPT: usize = 200;

/// An image request that ended without an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFailure {
    /// When.
    pub at: Wall,
    /// Why: the word of the log and the metrics.
    pub reason: &'static str,
    /// The status that it was answered with.
    pub status: u16,
    /// What connects it with its log line.
    pub request_id: String,
    /// The ticket, shortened; `None` when there was none.
    pub ticket: Option<Short>,
    /// Who asked, as the log tells it.
    pub client: Option<String>,
}

/// What is known of failures after some number of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// How many there were since the start.
    pub all: u64,
    /// For what reasons.
    pub by_reason: BTreeMap<&'static str, u64>,
    /// The last of them, the oldest first, each with its number from 1.
    pub last: Vec<(u64, ImageFailure)>,
}

/// The failures of one proxy.
#[derive(Debug, Default)]
pub struct Failures(Mutex<Ring>);

#[derive(Debug, Default)]
struct Ring {
    all: u64,
    /// Reasons are words of the program: there are a few dozen.
    by_reason: BTreeMap<&'static str, u64>,
    last: VecDeque<ImageFailure>,
}

impl Failures {
    /// Keeps `failure`, and lets the oldest go.
    pub fn keep(&self, failure: ImageFailure) {
        let gone = self.ring().push(failure);
        // Freed without the lock.
        drop(gone);
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.ring().all
    }

    /// Those that came after the first `known`, as far as they are kept.
    pub fn after(&self, known: u64) -> Told {
        let ring = self.ring();
        let oldest = ring.all - ring.last.len() as u64 + 1;
        let numbered = (oldest..).zip(&ring.last).filter(|(number, _)| *number > known);
        let last = numbered.map(|(number, failure)| (number, failure.clone())).collect();
        Told { all: ring.all, by_reason: ring.by_reason.clone(), last }
    }

    /// A panic under the lock leaves a failure counted and not kept, at worst.
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn push(&mut self, failure: ImageFailure) -> Option<ImageFailure> {
        *self.by_reason.entry(failure.reason).or_default() += 1;
        let gone = if self.last.len() == KEPT { self.last.pop_front() } else { None };
        self.last.push_back(failure);
        self.all += 1;
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(reason: &'static str, second: i64) -> ImageFailure {
        let (request_id, ticket, client) = (second.to_string(), None, None);
        ImageFailure { at: Wall::from_unix(second), reason, status: 502, request_id, ticket, client }
    }

    #[test]
    fn the_last_are_kept_and_all_are_counted() {
        let failures = Failures::default();
        assert_eq!(failures.after(0), Told { all: 0, by_reason: BTreeMap::new(), last: Vec::new() });
        let many = KEPT as u64 + 50;
        for number in 1..=many {
            failures.keep(failure(if number % 2 == 0 { "cut" } else { "busy" }, number.cast_signed()));
        }
        let told = failures.after(0);
        assert_eq!((told.all, told.last.len(), failures.count()), (many, KEPT, many));
        assert_eq!(told.by_reason, BTreeMap::from([("busy", 125), ("cut", 125)]));
        for (number, failure) in told.last {
            assert_eq!(failure.at, Wall::from_unix(number.cast_signed()));
        }
    }

    #[test]
    fn whoever_knows_some_is_told_the_others() {
        let failures = Failures::default();
        (1..=10).for_each(|number| failures.keep(failure("cut", number)));
        let numbers = |known| failures.after(known).last.iter().map(|(number, _)| *number).collect::<Vec<_>>();
        assert_eq!(numbers(7), [8, 9, 10]);
        assert_eq!(numbers(10), [0u64; 0]);
        assert_eq!(numbers(u64::MAX), [0u64; 0]);
    }
}
