//! Thousands of slow connections, one kind after the other: good answers take no longer, and each is closed at its deadline.
//! First they come and stay, and the good load is looked at while all are there, again and again until it was for long enough;
//! then they come again and again, and it is looked at beside what that costs. Each time it is looked at without them too, as
//! long, half of it right before and half right after: a ratio is the middle one of such pairs, since the machine changes from
//! one to the next. How far two looks differ where nobody is slow stands beside them.

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{Field, LOOK, Soak, WEEK, promise_closed, promise_hits};
use crate::Outcome;
use crate::aside::Aside;
use crate::awake::Awake;
use crate::crowd::{self, Coming, Tally};
use crate::good::Served;
use crate::median::median;
use crate::report::{Report, Table};
use crate::slow::Kind;
use crate::watch::mebibytes;

/// How much longer a good answer may take.
const LONGER: f64 = 1.1;
/// Of a hundred slow connections so many are there where they come and go: the others are about to come, or to come again.
const THERE: u64 = 95;
/// All come in this part of the time that one is undisturbed, and are looked at for two more. What is left of it is for them to
/// settle, so that all are still there afterwards.
const PART: u32 = 4;

/// The good load beside some slow connections.
#[derive(Default)]
struct Beside {
    /// Without them, before and after.
    alone: Served,
    /// With them.
    good: Served,
    /// With them by without them, by pairs.
    ratios: Vec<f64>,
    /// How many were there, before and after; the fewest of all times.
    open: Option<u64>,
    /// MiB of the server when they had come, at most.
    memory: f64,
    /// How they ended.
    ended: Tally,
}

impl Beside {
    /// The good load between two looks at it alone; of these neither weighs more, however the machine changed in between.
    fn between(before: Served, good: Served, after: Served) -> Self {
        let ratios = vec![good.p99() / (before.p99() * after.p99()).sqrt()];
        Self { alone: before.and(after), good, ratios, ..Self::default() }
    }

    fn and(self, other: Self) -> Self {
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
    fn ratio(&self) -> f64 {
        median(self.ratios.iter().copied())
    }

    /// The same in words, and from where to where they were.
    fn told(&self) -> String {
        let least = self.ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.ratios.iter().copied().fold(0.0, f64::max);
        format!("{:.2} ({least:.2} to {most:.2})", self.ratio())
    }
}

fn nobody_told(all: &Beside) -> [String; 12] {
    let [alone, good] = [all.alone.p99(), all.good.p99()].map(|figure| format!("{figure:.2}"));
    let none = String::new;
    let (nobody, open) = ("nobody".to_owned(), "0".to_owned());
    [nobody, none(), open, none(), none(), none(), alone, good, all.told(), none(), none(), none()]
}

impl Soak {
    pub(super) async fn slow(&self, report: &mut Report) -> Outcome<()> {
        let field = self.field(WEEK).await?;
        let _awake = Awake::keep(&self.ground.cores.all)?;
        let columns = [
            "kind",
            "key",
            "there",
            "MiB more",
            "closed",
            "last s late",
            "p99 alone ms",
            "all there ms",
            "÷ alone",
            "p99 alone ms",
            "coming and going ms",
            "÷ alone",
        ];
        let mut table = Table::new(format!("{} slow connections of each kind", self.scale.slow), &columns);
        let (mut all, mut nobody) = (Beside::default(), Beside::default());
        for &kind in &self.kinds {
            (self.progress)("nobody is slow");
            nobody = nobody.and(self.nobody(&field, kind).await?);
            (self.progress)(&format!("{} slow connections: {}", self.scale.slow, kind.name()));
            let there = self.staying(&field, kind).await?;
            let coming = self.coming(&field, kind).await?;
            table.row(&self.told(&field, kind, &there, &coming));
            self.promise_times(report, kind, &there, &coming);
            self.left(&field).await?.promise(report, &format!("slow, {}", kind.name()), &field);
            all = all.and(there).and(coming);
        }
        table.row(&nobody_told(&nobody));
        report.tables.push(table);
        all = all.and(nobody);
        promise_hits(report, "slow", &all.alone.and(all.good));
        promise_closed(report, "slow", &all.ended);
        Ok(())
    }

    fn told(&self, field: &Field, kind: Kind, there: &Beside, coming: &Beside) -> [String; 12] {
        let deadline = humantime::format_duration(kind.deadline(&self.scale.timeouts));
        let late = there.ended.latest.max(coming.ended.latest);
        let figure = |figure: f64| format!("{figure:.2}");
        [
            kind.name().to_owned(),
            format!("{} {deadline}", kind.key()),
            there.open.unwrap_or(0).to_string(),
            format!("{:.1}", there.memory - field.memory),
            (there.ended.closed + coming.ended.closed).to_string(),
            figure(late.as_secs_f64()),
            figure(there.alone.p99()),
            figure(there.good.p99()),
            there.told(),
            figure(coming.alone.p99()),
            figure(coming.good.p99()),
            coming.told(),
        ]
    }

    fn promise_times(&self, report: &mut Report, kind: Kind, there: &Beside, coming: &Beside) {
        let (open, count, name) = (there.open.unwrap_or(0), self.scale.slow as u64, kind.name());
        let says = format!("slow, {name}, all there: how many, before and after");
        report.in_time(says, open.to_string(), count.to_string(), open >= count);
        let (open, count) = (coming.open.unwrap_or(0), count * THERE / 100);
        let says = format!("slow, {name}, coming and going: how many, before and after");
        report.in_time(says, open.to_string(), count.to_string(), open >= count);
        report.time(format!("slow, {name}, all there: p99 ÷ alone"), there.ratio(), LONGER);
        report.time(format!("slow, {name}, coming and going: p99 ÷ alone"), coming.ratio(), LONGER);
    }

    /// The good load while all are there, as often as it takes.
    async fn staying(&self, field: &Field, kind: Kind) -> Outcome<Beside> {
        let part = kind.undisturbed(&self.scale.timeouts) / PART;
        let look = ((part * 2).div_duration_f64(self.scale.glance) as usize).clamp(1, self.scale.slow_look);
        let mut all = Beside::default();
        for _ in 0..self.scale.slow_glances.div_ceil(look) {
            all = all.and(self.beside(field, kind, Coming::Once(part), look).await?);
        }
        Ok(all)
    }

    /// The good load while they come again and again.
    async fn coming(&self, field: &Field, kind: Kind) -> Outcome<Beside> {
        let mut all = Beside::default();
        for _ in 0..self.scale.slow_glances.div_ceil(self.scale.slow_look) {
            all = all.and(self.beside(field, kind, Coming::Again, self.scale.slow_look).await?);
        }
        Ok(all)
    }

    /// The good load while nobody comes, with the pauses in which this kind would come and go.
    async fn nobody(&self, field: &Field, kind: Kind) -> Outcome<Beside> {
        let (look, pause) = (self.scale.slow_look, kind.undisturbed(&self.scale.timeouts) / PART);
        let before = self.alone(field, look.div_ceil(2)).await?;
        sleep(pause).await;
        let good = self.alone(field, look).await?;
        sleep(pause).await;
        Ok(Beside::between(before, good, self.alone(field, look.div_ceil(2)).await?))
    }

    /// The good load in so many windows once they have come, and in as many without them.
    async fn beside(&self, field: &Field, kind: Kind, coming: Coming, glances: usize) -> Outcome<Beside> {
        let before = self.alone(field, glances.div_ceil(2)).await?;
        let enough = CancellationToken::new();
        let (place, count, end) = (self.place(field)?, self.scale.slow, enough.clone());
        let crowd = Aside::begin("slow", move || crowd::gather(place, kind, count, coming, end))?;
        let open = self.gathered(field, kind, coming).await?;
        let memory = mebibytes(&field.server.process);
        let good = self.glances(field, glances).await?;
        let open = Some(open.min(self.settled(field).await?));
        enough.cancel();
        let ended = crowd.end()?;
        let after = self.alone(field, glances.div_ceil(2)).await?;
        Ok(Beside { open, memory, ended, ..Beside::between(before, good, after) })
    }

    /// How many connections there are once those of the good load have gone: two looks that are the same, of ten at most.
    async fn settled(&self, field: &Field) -> Outcome<u64> {
        let mut open = field.server.connections().await?;
        for _ in 0..10 {
            sleep(LOOK).await;
            let was = std::mem::replace(&mut open, field.server.connections().await?);
            if was == open {
                break;
            }
        }
        Ok(open)
    }

    /// The good load in so many windows when nobody else is left.
    async fn alone(&self, field: &Field, glances: usize) -> Outcome<Served> {
        let left = self.left(field).await?;
        if !left.holds(field) {
            return Err(format!("it is not alone: {left:?}").into());
        }
        self.glances(field, glances).await
    }

    /// Waits until they have come; tells how many are there.
    async fn gathered(&self, field: &Field, kind: Kind, coming: Coming) -> Outcome<u64> {
        let (share, longest) = match coming {
            Coming::Once(within) => (100, within + self.scale.glance),
            Coming::Again => (THERE, kind.stay(&self.scale.timeouts) + self.scale.window),
        };
        let begun = Instant::now();
        loop {
            let open = field.server.connections().await?;
            if open * 100 >= self.scale.slow as u64 * share || begun.elapsed() > longest {
                return Ok(open);
            }
            sleep(LOOK).await;
        }
    }
}
