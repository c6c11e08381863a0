//! The good load beside somebody, and without: what one costs the other.

use crate::crowd::Tally;
use crate::good::Served;
use crate::median::median;

/// The good load beside some slow connections.
#[derive(Default)]
pub struct Beside {
    /// Without them, before and after.
    pub alone: Served,
    /// With them.
    pub good: Served,
    /// With them by without them, by pairs.
    pub ratios: Vec<f64>,
    /// How many were there, before and after; the fewest of all times.
    pub open: Option<u64>,
    /// MiB of the server when they had come, at most.
    pub memory: f64,
    /// How they ended.
    pub ended: Tally,
}

impl Beside {
    /// The good load between two looks at it alone; of these neither weighs more, however the machine changed in between.
    pub fn between(before: Served, good: Served, after: Served) -> Self {
        let ratios = vec![good.p99() / (before.p99() * after.p99()).sqrt()];
        Self { alone: before.and(after), good, ratios, ..Self::default() }
    }

    /// With another look at the same.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            alone: self.alone.and(other.alone),
            good: self.good.and(other.good),
            ratios: [self.ratios, other.ratios].concat(),
            open: self.open.into_iter().chain(other.open).min(),
            memory: self.memory.max(other.memory),
            ended: self.ended.and(other.ended),
        }
    }

    /// The p99 with them by the one without them: the middle one of all pairs.
    pub fn ratio(&self) -> f64 {
        median(self.ratios.iter().copied())
    }

    /// The p99 alone, the one beside them, and the ratio with from where to where its pairs were.
    pub fn told(&self) -> [String; 3] {
        let least = self.ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.ratios.iter().copied().fold(0.0, f64::max);
        let [alone, good] = [&self.alone, &self.good].map(|served| format!("{:.2}", served.p99()));
        [alone, good, format!("{:.2} ({least:.2} to {most:.2})", self.ratio())]
    }
}
