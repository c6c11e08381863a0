//! Thousands of slow connections, one kind after the other: good answers take no longer, and each is closed at its deadline.

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{Field, LOOK, Left, Soak, WEEK, promise_closed, promise_hits};
use crate::Outcome;
use crate::aside::Aside;
use crate::crowd::{self, Tally};
use crate::good::Served;
use crate::report::{Report, Table};
use crate::slow::Kind;
use crate::watch::mebibytes;

/// How much longer a good answer may take.
const LONGER: f64 = 1.1;
/// Of a hundred slow connections so many are there at any time: whoever was closed has to come again.
const THERE: u64 = 95;

/// What came of one kind.
struct Visit {
    alone: Served,
    good: Served,
    tally: Tally,
    open: u64,
    memory: f64,
    left: Left,
}

impl Soak {
    pub(super) async fn slow(&self, report: &mut Report) -> Outcome<()> {
        let field = self.field(WEEK).await?;
        let columns = ["kind", "key", "open", "closed", "last s late", "MiB more", "p99 alone ms", "p99 ms", "÷ alone"];
        let mut table = Table::new(format!("{} slow connections of each kind", self.scale.slow), &columns);
        let (mut good, mut tally, mut left) = (Served::default(), Tally::default(), Left { connections: 0, files: 0 });
        for kind in Kind::ALL {
            (self.progress)(&format!("{} slow connections: {}", self.scale.slow, kind.name()));
            let visit = self.visit(&field, kind).await?;
            let ratio = visit.good.p99() / visit.alone.p99();
            table.row(&[
                kind.name().to_owned(),
                format!("{} {}", kind.key(), humantime::format_duration(kind.deadline(&self.scale.timeouts))),
                visit.open.to_string(),
                visit.tally.closed.to_string(),
                format!("{:.2}", visit.tally.latest.as_secs_f64()),
                format!("{:.1}", visit.memory - field.memory),
                format!("{:.2}", visit.alone.p99()),
                format!("{:.2}", visit.good.p99()),
                format!("{ratio:.2}"),
            ]);
            report.time(format!("slow, {}: p99 ÷ alone", kind.name()), ratio, LONGER);
            (good, tally) = (good.and(visit.good), tally.and(visit.tally));
            left = Left {
                connections: left.connections.max(visit.left.connections),
                files: left.files.max(visit.left.files),
            };
        }
        report.tables.push(table);
        promise_hits(report, "slow", &good);
        promise_closed(report, "slow", &tally);
        left.promise(report, "slow", &field);
        Ok(())
    }

    async fn visit(&self, field: &Field, kind: Kind) -> Outcome<Visit> {
        let alone = self.measured(field).await?;
        let enough = CancellationToken::new();
        let (place, count, end) = (self.place(field)?, self.scale.slow, enough.clone());
        let crowd = Aside::begin("slow", move || crowd::gather(place, kind, count, end))?;
        let open = self.gathered(field, kind, count as u64).await?;
        let memory = mebibytes(&field.server.process);
        let good = self.measured(field).await?;
        let open = open.min(field.server.connections().await?);
        enough.cancel();
        let tally = crowd.end()?;
        Ok(Visit { alone, good, tally, open, memory, left: self.left(field).await? })
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
