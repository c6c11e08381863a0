//! When a ticket's life ends, as a deadline on both clocks: whichever comes first ends it (S20).

use std::time::Duration;

use crate::moment::{Moment, Tick, Wall};

/// The end of a temporary ticket's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry {
    /// As the issuer says it, on the issuer's clock: what clients are told.
    pub stated: Wall,
    wall: Wall,
    tick: Tick,
}

impl Expiry {
    /// A ticket that ends at `stated` on the origin's clock, which shows `skew_millis` more than ours.
    pub fn new(stated: Wall, now: Moment, skew_millis: i64) -> Self {
        let wall = stated.shifted(skew_millis.saturating_neg());
        Self { stated, wall, tick: now.tick + wall.since(now.wall) }
    }

    /// The earlier of this deadline and one that was set before for the same end: a clock that was turned since must not
    /// lengthen a life.
    #[must_use]
    pub fn no_later_than(self, before: Option<Self>) -> Self {
        match before.filter(|before| before.stated == self.stated) {
            None => self,
            Some(before) => Self { wall: self.wall.min(before.wall), tick: self.tick.min(before.tick), ..self },
        }
    }

    /// Time left; zero once either clock says that it is over.
    pub fn left(&self, now: Moment) -> Duration {
        self.wall.since(now.wall).min(self.tick.since(now.tick))
    }

    /// Whether the ticket's life is over.
    pub fn is_over(&self, now: Moment) -> bool {
        self.left(now).is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(wall: i64, tick: u64) -> Moment {
        Moment { wall: Wall::from_unix(wall), tick: Tick::from_start(Duration::from_secs(tick)) }
    }

    #[test]
    fn either_clock_ends_it() {
        let expiry = Expiry::new(Wall::from_unix(1060), at(1000, 5), 0);
        assert_eq!(expiry.left(at(1010, 15)), Duration::from_secs(50));
        assert!(expiry.is_over(at(1060, 6)), "the wall clock says so");
        assert!(expiry.is_over(at(900, 65)), "the wall clock was turned back, the monotonic one was not");
    }

    #[test]
    fn the_origins_clock_decides_when_ours_is_wrong() {
        // The origin shows 30 s more than we do: its ticket ends 30 s earlier on our wall.
        let expiry = Expiry::new(Wall::from_unix(1060), at(1000, 5), 30_000);
        assert_eq!(expiry.left(at(1000, 5)), Duration::from_secs(30));
        assert_eq!(expiry.stated, Wall::from_unix(1060));
    }

    #[test]
    fn the_ends_of_time_do_not_panic() {
        for wall in [i64::MIN / 2000, -1, 0, 2_147_483_648, i64::MAX / 2000] {
            let expiry = Expiry::new(Wall::from_unix(wall), at(0, 0), i64::MIN);
            let _ = expiry.left(at(i64::MAX / 1000, u64::MAX));
        }
    }
}
