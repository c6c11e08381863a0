//! The origin is down in several ways: what is held is shown, stale or not, and what is new is there soon after it is back.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::{Field, LOOK, PATIENCE, Soak, promise_hits};
use crate::awake::Awake;
use crate::good::Served;
use crate::origin::Mood;
use crate::report::{Report, Table};
use crate::{Outcome, client, strangers};

/// How much longer a good answer may take.
const LONGER: f64 = 1.2;
/// Seconds until the first fresh image.
const FRESH: f64 = 5.0;
/// New tickets asked for after each outage, at most.
const NEW: u64 = 1000;

impl Soak {
    pub(super) async fn outage(&self, report: &mut Report) -> Outcome<()> {
        let field = self.field(self.scale.life).await?;
        let _awake = Awake::keep(&self.ground.cores.all)?;
        let columns = ["the origin", "served", "of them stale", "p99 up ms", "p99 ms", "÷ up", "fresh again s"];
        let [down, life] = [self.scale.outage, self.scale.life].map(humantime::format_duration);
        let mut table = Table::new(format!("The origin is down for {down}; its images are fresh for {life}"), &columns);
        let mut all = Served::default();
        for (turn, mood) in (0..).zip(Mood::DOWN) {
            (self.progress)(&format!("the origin {}", mood.name()));
            let up = self.measured(&field).await?;
            field.origin.is(mood);
            let begun = Instant::now();
            let down = self.windows(&field, |_| begun.elapsed() >= self.scale.outage).await?;
            field.origin.is(Mood::Up);
            let fresh = first_fresh(&field, turn * NEW).await;
            let (ratio, took) = (down.p99() / up.p99(), fresh.map_or(f64::INFINITY, |took| took.as_secs_f64()));
            table.row(&[
                mood.name().to_owned(),
                format!("{} of {}", down.hits(), down.all()),
                down.stale.to_string(),
                format!("{:.2}", up.p99()),
                format!("{:.2}", down.p99()),
                format!("{ratio:.2}"),
                format!("{took:.2}"),
            ]);
            report.time(format!("outage, {}: p99 ÷ up", mood.name()), ratio, LONGER);
            report.time(format!("outage, {}: s to the first fresh fill", mood.name()), took, FRESH);
            let (stale, name) = (down.stale, mood.name());
            report.promise(format!("outage, {name}: stale images shown"), stale.to_string(), "some", stale > 0);
            let is = if fresh.is_some() { "yes" } else { "no" };
            report.promise(format!("outage, {name}: filled again afterwards"), is, "yes", fresh.is_some());
            all = all.and(down);
        }
        report.tables.push(table);
        let resting = field.resting.once(field.server.address).await?;
        promise_hits(report, "outage", &all.and(resting));
        self.left(&field).await?.promise(report, "outage", &field);
        Ok(())
    }
}

/// How long it takes until a ticket that nobody had asked for has its image.
async fn first_fresh(field: &Field, first: u64) -> Option<Duration> {
    let begun = Instant::now();
    let mut body = Vec::new();
    for number in first..first + NEW {
        let ask = strangers::cold(number);
        let asked = async {
            let mut stream = client::connect(field.server.address).await?;
            client::ask(&mut stream, &ask, &mut body).await
        };
        let status = timeout(PATIENCE, asked).await.ok().and_then(Result::ok).map(|answer| answer.status);
        if status == Some(200) {
            return Some(begun.elapsed());
        }
        if begun.elapsed() > PATIENCE {
            break;
        }
        sleep(LOOK).await;
    }
    None
}
