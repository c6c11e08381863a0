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
        Self::restored(stated, wall, now)
    }

    /// A ticket that ends `lifetime` after `now`, as the issuer has just said; its clock shows `skew_millis` more than ours.
    pub fn after(lifetime: Duration, now: Moment, skew_millis: i64) -> Self {
        Self::new((now.wall + lifetime).shifted(skew_millis), now, skew_millis)
    }

    /// A deadline that was written down: `stated` by the issuer, which is `wall` on our clock.
    pub fn restored(stated: Wall, wall: Wall, now: Moment) -> Self {
        Self { stated, wall, tick: now.tick + wall.since(now.wall) }
    }

    /// When our wall clock shows the end, as far as both clocks are known now.
    pub fn wall(&self) -> Wall {
        self.wall
    }

    /// The earliest of this deadline and another of the same ticket, on each clock: neither a second source nor a clock that
    /// was turned since may lengthen a life.
    #[must_use]
    pub fn no_later_than(self, other: Option<Self>) -> Self {
        let Some(Self { stated, wall, tick }) = other else { return self };
        Self { stated: self.stated.min(stated), wall: self.wall.min(wall), tick: self.tick.min(tick) }
    }

    /// The earliest of what several sources know; `None` when none knows anything.
    pub fn earliest(sources: impl IntoIterator<Item = Option<Self>>) -> Option<Self> {
        sources.into_iter().flatten().reduce(|one, other| one.no_later_than(Some(other)))
    }

    /// When it ends on the monotonic clock, if no other clock ends it before.
    pub(super) fn tick(&self) -> Tick {
        self.tick
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
    fn of_several_sources_the_earliest_counts_on_each_clock() {
        let said = Expiry::new(Wall::from_unix(1060), at(1000, 5), 0);
        let learned = Expiry::after(Duration::from_secs(61), at(1000, 4), 0);
        let both = Expiry::earliest([None, Some(said), Some(learned)]).unwrap();
        assert_eq!((both.stated, both.left(at(1000, 5))), (Wall::from_unix(1060), Duration::from_secs(60)));
        assert_eq!(both, learned.no_later_than(Some(said)));
        assert_eq!(Expiry::earliest([None, None]), None);
    }

    #[test]
    fn a_lifetime_counts_on_our_clock_and_is_told_on_the_origins() {
        let expiry = Expiry::after(Duration::from_secs(60), at(1000, 5), 30_000);
        assert_eq!(expiry.left(at(1000, 5)), Duration::from_secs(60));
        assert_eq!(expiry.stated, Wall::from_unix(1090));
    }

    #[test]
    fn the_ends_of_time_do_not_panic() {
        for wall in [i64::MIN / 2000, -1, 0, 2_147_483_648, i64::MAX / 2000] {
            let expiry = Expiry::new(Wall::from_unix(wall), at(0, 0), i64::MIN);
            let _ = expiry.left(at(i64::MAX / 1000, u64::MAX));
            let _ = Expiry::after(Duration::MAX, at(wall, 0), i64::MAX);
        }
    }
}
