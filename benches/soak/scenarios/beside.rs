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
        let [alone, good] = [&self.alone, &self.good].map(|served| format!("{:.3}", served.p99()));
        [alone, good, told(&self.ratios)]
    }
}

/// The good load beside the same clients at the server that is soaked, and at a bare one, in turn.
#[derive(Default)]
pub struct Compared {
    /// Where they go to the server that is soaked.
    pub ours: Beside,
    /// Where they go to a bare one, if they did.
    pub bare: Option<Beside>,
}

impl Compared {
    /// The columns of [`Self::told`].
    pub const COLUMNS: [&str; 8] =
        ["kind", "alone ms", "beside them ms", "÷ alone", "alone ms", "at a bare server ms", "÷ alone", "÷ ÷"];

    /// How much longer a good answer takes than where they go to the bare server: the middle one of all pairs.
    pub fn ratio(&self) -> Option<f64> {
        self.bare.as_ref().map(|bare| median(self.ratios(bare)))
    }

    fn ratios(&self, bare: &Beside) -> Vec<f64> {
        self.ours.ratios.iter().zip(&bare.ratios).map(|(ours, bare)| ours / bare).collect()
    }

    /// A row of a table.
    pub fn told(&self, name: &str) -> Vec<String> {
        let of_bare = |bare: &Beside| [&bare.told()[..], &[told(&self.ratios(bare))]].concat();
        let bare = self.bare.as_ref().map_or_else(|| vec![String::new(); 4], of_bare);
        [&[name.to_owned()][..], &self.ours.told(), &bare].concat()
    }

    /// All of it as one; how a bare server ended its clients is no promise of ours.
    pub fn both(self) -> Beside {
        let bare = self.bare.map(|bare| Beside { ended: Tally::default(), ..bare });
        self.ours.and(bare.unwrap_or_default())
    }
}

/// The middle one of `ratios`, and from where to where they are.
fn told(ratios: &[f64]) -> String {
    let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let most = ratios.iter().copied().fold(0.0, f64::max);
    format!("{:.2} ({least:.2} to {most:.2})", median(ratios.iter().copied()))
}
