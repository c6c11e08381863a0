//! Millions of rubbish tickets from a million networks, as fast as the server takes them: its memory stays, and so do the
//! good images.

use tokio_util::sync::CancellationToken;

use super::{Soak, WEEK, promise_hits};
use crate::aside::Aside;
use crate::flood::Flood;
use crate::report::{Report, Table};
use crate::watch::Watch;
use crate::{Outcome, strangers};

/// MiB by which rubbish may make the server grow.
const ROOM: f64 = 64.0;

impl Soak {
    pub(super) async fn rubbish(&self, report: &mut Report) -> Outcome<()> {
        (self.progress)(&format!("{} rubbish tickets", self.scale.rubbish));
        let field = self.field(WEEK).await?;
        let alone = self.measured(&field).await?;
        let watch = Watch::begin(&field.server.process)?;
        let flood = Flood {
            address: field.server.address,
            ask: strangers::rubbish,
            count: self.scale.rubbish,
            rate: None,
            longest: self.scale.flood,
            until: CancellationToken::new(),
        };
        let flood = Aside::begin("flood", || flood.run())?;
        let good = self.windows(&field, |_| flood.is_over()).await?;
        let (flooded, seen) = (flood.end()?, watch.end()?);
        let grown = seen.most() - field.memory;
        let columns =
            ["tickets", "networks", "MiB before", "most MiB", "slope MiB/h", "p99 alone ms", "p99 ms", "÷ alone"];
        let mut table = Table::new("Rubbish tickets, as fast as the server takes them", &columns);
        table.row(&[
            flooded.all().to_string(),
            strangers::NETWORKS.min(flooded.all()).to_string(),
            format!("{:.1}", field.memory),
            format!("{:.1}", seen.most()),
            format!("{:.1}", seen.slope()),
            format!("{:.2}", alone.p99()),
            format!("{:.2}", good.p99()),
            format!("{:.2}", good.p99() / alone.p99()),
        ]);
        table.notes.push(format!("What the flood got: {}", flooded.told()));
        report.tables.push(table);
        let resting = field.resting.once(field.server.address).await?;
        promise_hits(report, "rubbish", &good.and(resting));
        report.promise("rubbish: MiB grown", format!("{grown:.1}"), format!("{ROOM:.0}"), grown <= ROOM);
        self.left(&field).await?.promise(report, "rubbish", &field);
        Ok(())
    }
}
