//! How much is done, and for how long.

use std::time::Duration;

use crate::server::Timeouts;
use crate::slow::Kind;

/// How much is done, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Good requests a second.
    pub good: f64,
    /// A piece of good load beside trouble: its p99 is one figure.
    pub window: Duration,
    /// A shorter one, beside those who are not there for long.
    pub glance: Duration,
    /// Rubbish tickets of the flood.
    pub rubbish: u64,
    /// The flood's longest time, whatever is left.
    pub flood: Duration,
    /// Slow connections of each kind.
    pub slow: usize,
    /// In how many short windows, at least, the good load is looked at beside them, and without them.
    pub slow_glances: usize,
    /// In how many looks at those who stay, at least: each is a pair, of which a ratio is the middle one.
    pub slow_pairs: usize,
    /// Kinds that go to a bare server too: for times, which tell something in a longer run alone.
    pub at_bare: &'static [Kind],
    /// In how many windows at once, where nothing ends a look earlier.
    pub slow_look: usize,
    /// How long the origin is down in each way.
    pub outage: Duration,
    /// How long the origin's images are fresh where it goes down.
    pub life: Duration,
    /// How long everything happens at once.
    pub together: Duration,
    /// The slow connections of each kind then.
    pub slow_together: usize,
    /// How long the origin stays as it is then: up twice as long as down.
    pub spell: Duration,
    /// The server's deadlines.
    pub timeouts: Timeouts,
}

impl Scale {
    /// For figures.
    pub const USUAL: Self = Self {
        good: 1000.0,
        window: Duration::from_secs(5),
        glance: Duration::from_secs(1),
        rubbish: 10_000_000,
        flood: Duration::from_secs(20 * 60),
        slow: 5000,
        slow_glances: 30,
        slow_pairs: 5,
        at_bare: &Kind::ALL,
        slow_look: 10,
        outage: Duration::from_secs(20),
        life: Duration::from_secs(5),
        together: Duration::from_secs(15 * 60),
        slow_together: 500,
        spell: Duration::from_secs(15),
        timeouts: Timeouts::USUAL,
    };
    /// All of it in a minute and a half.
    pub const SMOKE: Self = Self {
        good: 500.0,
        window: Duration::from_millis(300),
        glance: Duration::from_millis(100),
        rubbish: 30_000,
        flood: Duration::from_secs(5),
        slow: 200,
        slow_glances: 3,
        slow_pairs: 1,
        at_bare: &[Kind::Preface],
        slow_look: 3,
        outage: Duration::from_secs(2),
        life: Duration::from_secs(1),
        together: Duration::from_secs(5),
        slow_together: 30,
        spell: Duration::from_secs(1),
        timeouts: Timeouts::SHORT,
    };
}
