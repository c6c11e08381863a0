//! Everything at once, for minutes: two floods, slow clients of every kind, and an origin that comes and goes.

use std::cell::Cell;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{Field, Soak, promise_closed, promise_hits};
use crate::aside::Aside;
use crate::client::Ask;
use crate::crowd::{self, Coming, Tally};
use crate::flood::{Flood, Flooded};
use crate::good::Served;
use crate::origin::Mood;
use crate::report::{Report, Table};
use crate::slow::Kind;
use crate::watch::{Seen, Watch};
use crate::{Outcome, strangers};

/// MiB that the server may have in all: `cache.memory` and what the README says that it needs beside it.
const MEMORY: f64 = 256.0 + 128.0;
/// Rubbish and foreign tickets a second.
const RUBBISH: f64 = 2000.0;
const FOREIGN: f64 = 1000.0;

/// What came of it.
struct Soaked {
    good: Served,
    rubbish: Flooded,
    foreign: Flooded,
    tallies: Vec<Tally>,
    seen: Seen,
    /// Connections, at most.
    open: u64,
}

impl Soak {
    pub(super) async fn together(&self, report: &mut Report) -> Outcome<()> {
        let time = humantime::format_duration(self.scale.together);
        (self.progress)(&format!("everything at once, {time}"));
        let field = self.field(self.scale.spell).await?;
        let alone = self.measured(&field).await?;
        let Soaked { good, rubbish, foreign, tallies, seen, open } = self.soaked(&field).await?;
        let columns = [
            "good",
            "of them stale",
            "p99 alone ms",
            "p99 ms",
            "÷ alone",
            "longest ms",
            "most MiB",
            "slope MiB/h",
            "most connections",
        ];
        let mut table = Table::new(format!("Everything at once, for {time}"), &columns);
        let most = seen.most();
        table.row(&[
            good.all().to_string(),
            good.stale.to_string(),
            format!("{:.2}", alone.p99()),
            format!("{:.2}", good.p99()),
            format!("{:.2}", good.p99() / alone.p99()),
            format!("{:.1}", good.longest()),
            format!("{most:.1}"),
            format!("{:.1}", seen.slope()),
            open.to_string(),
        ]);
        table.notes.push(format!("What rubbish got: {}", rubbish.told()));
        table.notes.push(format!("What valid tickets of strangers got: {}", foreign.told()));
        report.tables.push(table);
        let resting = field.resting.once(field.server.address).await?;
        promise_hits(report, "together", &good.and(resting));
        report.promise("together: MiB in all", format!("{most:.1}"), format!("{MEMORY:.0}"), most <= MEMORY);
        promise_closed(report, "together", &tallies.into_iter().fold(Tally::default(), Tally::and));
        self.left(&field).await?.promise(report, "together", &field);
        Ok(())
    }

    async fn soaked(&self, field: &Field) -> Outcome<Soaked> {
        let until = CancellationToken::new();
        let watch = Watch::begin(&field.server.process)?;
        let flood = |ask, rate| self.flood(field, ask, rate, &until);
        let (rubbish, foreign) = (flood(strangers::rubbish, RUBBISH), flood(strangers::foreign, FOREIGN));
        let floods = Aside::begin("floods", || async { tokio::join!(rubbish.run(), foreign.run()) })?;
        let (place, count, enough) = (self.place(field)?, self.scale.slow_together, until.clone());
        let crowds = Aside::begin("crowds", move || async move {
            let gather = |kind| crowd::gather(place.clone(), kind, count, Coming::Again, enough.clone());
            futures_util::future::join_all(Kind::ALL.map(gather)).await
        })?;
        let (begun, open) = (Instant::now(), Cell::new(0));
        let good = tokio::select! {
            good = self.windows(field, |_| begun.elapsed() >= self.scale.together) => good?,
            never = self.come_and_go(field, &open) => match never {},
        };
        field.origin.is(Mood::Up);
        until.cancel();
        let (seen, (rubbish, foreign), tallies) = (watch.end()?, floods.end()?, crowds.end()?);
        Ok(Soaked { good, rubbish, foreign, tallies, seen, open: open.get() })
    }

    fn flood(&self, field: &Field, ask: fn(u64) -> Ask, rate: f64, until: &CancellationToken) -> Flood {
        Flood {
            address: field.server.address,
            ask,
            count: u64::MAX,
            rate: Some(rate),
            longest: self.scale.together * 2,
            until: until.clone(),
        }
    }

    /// The origin is up for two spells, and down for one, each time in another way.
    async fn come_and_go(&self, field: &Field, open: &Cell<u64>) -> std::convert::Infallible {
        loop {
            for mood in Mood::DOWN {
                field.origin.is(Mood::Up);
                sleep(self.scale.spell * 2).await;
                field.origin.is(mood);
                sleep(self.scale.spell).await;
                open.set(open.get().max(field.server.connections().await.unwrap_or(0)));
            }
        }
    }
}
