//! Thousands of slow connections, one kind after the other: good answers take no longer, and each is closed at its deadline.
//! First they come and stay, and the good load is measured in turn without them and while all are there, until it was for
//! long enough; then they come again and again, and it is measured beside what that costs.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{Field, LOOK, Soak, WEEK, promise_closed, promise_hits};
use crate::Outcome;
use crate::aside::Aside;
use crate::crowd::{self, Coming, Tally};
use crate::good::Served;
use crate::report::{Report, Table};
use crate::slow::Kind;
use crate::watch::mebibytes;

/// How much longer a good answer may take.
const LONGER: f64 = 1.1;
/// Of a hundred slow connections so many have to be there before the good load is looked at: some are about to come, or to come
/// again.
const THERE: u64 = 95;
/// All come in this part of the time that one stays, and are looked at for the next two: only after both is the first gone.
const PART: u32 = 4;

/// The good load beside some slow connections.
#[derive(Default)]
struct Beside {
    good: Served,
    /// How many were there, before and after; the fewest of all times.
    open: Option<u64>,
    /// MiB of the server when they had come, at most.
    memory: f64,
}

impl Beside {
    fn and(self, other: Self) -> Self {
        Self {
            good: self.good.and(other.good),
            open: self.open.into_iter().chain(other.open).min(),
            memory: self.memory.max(other.memory),
        }
    }
}

impl Soak {
    pub(super) async fn slow(&self, report: &mut Report) -> Outcome<()> {
        let field = self.field(WEEK).await?;
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
            "coming and going ms",
            "÷ alone",
        ];
        let mut table = Table::new(format!("{} slow connections of each kind", self.scale.slow), &columns);
        let (mut served, mut tally) = (Served::default(), Tally::default());
        for kind in Kind::ALL {
            (self.progress)(&format!("{} slow connections: {}", self.scale.slow, kind.name()));
            let stay = kind.stay(&self.scale.timeouts);
            let (part, look) = (stay / PART, (stay / PART * 2).min(self.scale.slow_look));
            let rounds = self.scale.slow_look.div_duration_f64(look).ceil() as usize;
            let (mut alone, mut there, mut closed) = (Served::default(), Beside::default(), Tally::default());
            for _ in 0..rounds {
                alone = alone.and(self.glances(&field, look).await?);
                let (beside, ended) = self.beside(&field, kind, Coming::Once(part), look).await?;
                (there, closed) = (there.and(beside), closed.and(ended));
            }
            let (coming, ended) = self.beside(&field, kind, Coming::Again, self.scale.slow_look).await?;
            closed = closed.and(ended);
            let left = self.left(&field).await?;
            let ratio = |beside: &Beside| beside.good.p99() / alone.p99();
            table.row(&[
                kind.name().to_owned(),
                format!("{} {}", kind.key(), humantime::format_duration(kind.deadline(&self.scale.timeouts))),
                there.open.unwrap_or(0).to_string(),
                format!("{:.1}", there.memory - field.memory),
                closed.closed.to_string(),
                format!("{:.2}", closed.latest.as_secs_f64()),
                format!("{:.2}", alone.p99()),
                format!("{:.2}", there.good.p99()),
                format!("{:.2}", ratio(&there)),
                format!("{:.2}", coming.good.p99()),
                format!("{:.2}", ratio(&coming)),
            ]);
            report.time(format!("slow, {}, all there: p99 ÷ alone", kind.name()), ratio(&there), LONGER);
            report.time(format!("slow, {}, coming and going: p99 ÷ alone", kind.name()), ratio(&coming), LONGER);
            left.promise(report, &format!("slow, {}", kind.name()), &field);
            served = served.and(alone).and(there.good).and(coming.good);
            tally = tally.and(closed);
        }
        report.tables.push(table);
        promise_hits(report, "slow", &served);
        promise_closed(report, "slow", &tally);
        Ok(())
    }

    /// The good load, for so long, once they have come; and how they ended.
    async fn beside(&self, field: &Field, kind: Kind, coming: Coming, time: Duration) -> Outcome<(Beside, Tally)> {
        let enough = CancellationToken::new();
        let (place, count, end) = (self.place(field)?, self.scale.slow, enough.clone());
        let crowd = Aside::begin("slow", move || crowd::gather(place, kind, count, coming, end))?;
        let open = self.gathered(field, kind, count as u64).await?;
        let memory = mebibytes(&field.server.process);
        let good = self.glances(field, time).await?;
        let open = open.min(field.server.connections().await?);
        enough.cancel();
        Ok((Beside { good, open: Some(open), memory }, crowd.end()?))
    }

    /// Waits until they have come; tells how many are there.
    async fn gathered(&self, field: &Field, kind: Kind, count: u64) -> Outcome<u64> {
        let longest = kind.stay(&self.scale.timeouts) + self.scale.window;
        let begun = Instant::now();
        loop {
            let open = field.server.connections().await?;
            if open * 100 >= count * THERE || begun.elapsed() > longest {
                return Ok(open);
            }
            sleep(LOOK).await;
        }
    }
}
