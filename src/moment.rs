//! Points in time, as values: arithmetic only. Nothing here reads a clock (see [`crate::clock`]), so whatever decides
//! about freshness and expiry can be tested at any moment of any year.

use std::ops::Add;
use std::time::{Duration, SystemTime};

/// One instant, seen by both clocks at once.
///
/// Freshness counts in ticks, which nobody can turn back; ticket expiry and HTTP dates count on the wall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// What a clock on the wall shows.
    pub wall: Wall,
    /// What the monotonic clock shows.
    pub tick: Tick,
}

/// Wall-clock time in milliseconds since 1970-01-01 UTC; negative before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wall(i64);

impl Wall {
    /// The wall time `seconds` after the epoch.
    pub const fn from_unix(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// The wall time `millis` milliseconds after the epoch.
    pub const fn from_unix_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Whole seconds since the epoch, rounded down.
    pub const fn unix(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// Milliseconds since the epoch.
    pub const fn unix_millis(self) -> i64 {
        self.0
    }

    /// Time from `earlier` to `self`; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Signed milliseconds from `earlier` to `self`.
    pub const fn millis_since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// This time moved by `millis`, which may be negative.
    #[must_use]
    pub const fn shifted(self, millis: i64) -> Self {
        Self(self.0.saturating_add(millis))
    }
}

impl Add<Duration> for Wall {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        self.shifted(i64::try_from(rhs.as_millis()).unwrap_or(i64::MAX))
    }
}

impl From<SystemTime> for Wall {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => Self(i64::try_from(after.as_millis()).unwrap_or(i64::MAX)),
            Err(before) => Self(i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms)),
        }
    }
}

impl From<Wall> for SystemTime {
    /// Times before 1970 become 1970: no HTTP date of ours lies there.
    fn from(wall: Wall) -> Self {
        Self::UNIX_EPOCH + wall.since(Wall(0))
    }
}

/// Monotonic time since the clock was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(Duration);

impl Tick {
    /// The end of time: a deadline that never comes.
    pub const NEVER: Self = Self(Duration::MAX);

    /// The tick `since_start` after the clock was made.
    pub const fn from_start(since_start: Duration) -> Self {
        Self(since_start)
    }

    /// Time since the clock was made.
    pub const fn since_start(self) -> Duration {
        self.0
    }

    /// Time from `earlier` to `self`; zero when `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Tick {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(rhs))
    }
}
