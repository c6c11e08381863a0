//! Thousands of slow connections, one kind after the other: good answers take no longer, and each is closed at its deadline.
//! First they come and stay, and the good load is looked at while all are there, again and again until it was for long enough;
//! then they come again and again, and it is looked at beside what that costs. Each time it is looked at without them too, as
//! long, half of it right before and half right after: a ratio is the middle one of such pairs, since the machine changes from
//! one to the next. How far two looks differ where nobody is slow stands beside them. In turn with us the same clients may go to
//! a bare server on the same core: what good answers then take longer is about what such clients cost whoever takes them in.

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::beside::{Beside, Compared};
use super::{Field, LOOK, Soak, WEEK, promise_closed, promise_hits};
use crate::Outcome;
use crate::aside::Aside;
use crate::awake::Awake;
use crate::bare::Bare;
use crate::crowd::{self, Coming};
use crate::good::Served;
use crate::report::{Report, Table};
use crate::slow::{Kind, Place};
use crate::watch::mebibytes;

/// How much longer a good answer may take.
const LONGER: f64 = 1.1;
/// Of a hundred slow connections so many are there where they come and go: the others are about to come, or to come again.
const THERE: u64 = 95;
/// All come in this part of the time that one is undisturbed, and are looked at for two more. What is left of it is for them to
/// settle, so that all are still there afterwards.
const PART: u32 = 4;

/// Where slow clients go.
enum Host<'field> {
    /// To the server that is soaked.
    Soaked(&'field Field),
    /// To one beside it that does no more than it must.
    Bare(Bare),
}

impl Host<'_> {
    /// How many of them are there.
    async fn connections(&self) -> Outcome<u64> {
        match self {
            Self::Soaked(field) => field.server.connections().await,
            Self::Bare(bare) => Ok(bare.connections()),
        }
    }

    fn place(&self, place: Place) -> Place {
        match self {
            Self::Soaked(_) => place,
            Self::Bare(bare) => Place { address: bare.address, tls: bare.address, ..place },
        }
    }
}

/// Where they go in turn.
type Hosts<'field> = (Host<'field>, Option<Host<'field>>);

/// What came of one kind.
struct Looked {
    /// While all are there.
    there: Compared,
    /// As they come and go.
    coming: Compared,
}

impl Looked {
    /// Who could not even come to the bare server, and why; the others' are told with their ends.
    fn who_never_came(&self, kind: Kind) -> impl Iterator<Item = String> {
        [(&self.there, "all there"), (&self.coming, "coming and going")].into_iter().filter_map(move |(looks, when)| {
            let ended = &looks.bare.as_ref()?.ended;
            let why = ended.why.as_ref()?;
            Some(format!("{}, {when} at the bare server: {} never came: {why}", kind.name(), ended.failed))
        })
    }
}

impl Soak {
    pub(super) async fn slow(&self, report: &mut Report) -> Outcome<()> {
        let field = self.field(WEEK).await?;
        let _awake = Awake::keep(&self.ground.cores.all)?;
        let columns = ["kind", "key", "there", "MiB more", "closed", "last s late"];
        let mut kinds = Table::new(format!("{} slow connections of each kind", self.scale.slow), &columns);
        let mut there = Table::new("A good answer's p99 while all are there", &Compared::COLUMNS);
        let mut coming = Table::new("A good answer's p99 as they come and go", &Compared::COLUMNS);
        let (mut all, mut nobody) = (Beside::default(), Compared::default());
        for &kind in &self.kinds {
            (self.progress)("nobody is slow");
            nobody.ours = nobody.ours.and(self.nobody(&field, kind).await?);
            (self.progress)(&format!("{} slow connections: {}", self.scale.slow, kind.name()));
            let looked = self.looked(&field, kind).await?;
            kinds.row(&self.told(&field, kind, &looked));
            there.row(&looked.there.told(kind.name()));
            coming.row(&looked.coming.told(kind.name()));
            self.promise_times(report, kind, &looked);
            self.left(&field).await?.promise(report, &format!("slow, {}", kind.name()), &field);
            kinds.notes.extend(looked.who_never_came(kind));
            all = all.and(looked.there.both()).and(looked.coming.both());
        }
        there.row(&nobody.told("nobody"));
        report.tables.extend([kinds, there, coming]);
        all = all.and(nobody.both());
        promise_hits(report, "slow", &all.alone.and(all.good));
        promise_closed(report, "slow", &all.ended);
        Ok(())
    }

    async fn looked(&self, field: &Field, kind: Kind) -> Outcome<Looked> {
        let cores = self.ground.cores.serving(1);
        let bare = || Bare::start(kind, &self.scale.timeouts, &self.ground.certificate, cores).map(Host::Bare);
        let hosts = (Host::Soaked(field), self.scale.at_bare.contains(&kind).then(bare).transpose()?);
        Ok(Looked { there: self.staying(field, kind, &hosts).await?, coming: self.coming(field, kind, &hosts).await? })
    }

    fn told(&self, field: &Field, kind: Kind, looked: &Looked) -> [String; 6] {
        let deadline = humantime::format_duration(kind.deadline(&self.scale.timeouts));
        let (there, again) = (&looked.there.ours, &looked.coming.ours);
        let late = there.ended.latest.max(again.ended.latest);
        [
            kind.name().to_owned(),
            format!("{} {deadline}", kind.key()),
            there.open.unwrap_or(0).to_string(),
            format!("{:.1}", there.memory - field.memory),
            (there.ended.closed + again.ended.closed).to_string(),
            format!("{:.2}", late.as_secs_f64()),
        ]
    }

    fn promise_times(&self, report: &mut Report, kind: Kind, looked: &Looked) {
        let (count, name) = (self.scale.slow as u64, kind.name());
        for (when, looks, fewest) in
            [("all there", &looked.there, count), ("coming and going", &looked.coming, count * THERE / 100)]
        {
            for (beside, host) in [(Some(&looks.ours), ""), (looks.bare.as_ref(), " at a bare server")] {
                let Some(open) = beside.map(|beside| beside.open.unwrap_or(0)) else { continue };
                let says = format!("slow, {name}, {when}{host}: how many, before and after");
                report.in_time(says, open.to_string(), fewest.to_string(), open >= fewest);
            }
            report.time(format!("slow, {name}, {when}: p99 ÷ alone"), looks.ours.ratio(), LONGER);
            if let Some(ratio) = looks.ratio() {
                report.time(format!("slow, {name}, {when}: the same ÷ at a bare server"), ratio, LONGER);
            }
        }
    }

    /// The good load while all are there, as often as it takes.
    async fn staying(&self, field: &Field, kind: Kind, hosts: &Hosts<'_>) -> Outcome<Compared> {
        let part = kind.undisturbed(&self.scale.timeouts) / PART;
        let look = ((part * 2).div_duration_f64(self.scale.glance) as usize).clamp(1, self.scale.slow_look);
        let looks = self.scale.slow_glances.div_ceil(look).max(self.scale.slow_pairs);
        self.compared(field, kind, hosts, Coming::Once(part), (looks, look)).await
    }

    /// The good load while they come again and again.
    async fn coming(&self, field: &Field, kind: Kind, hosts: &Hosts<'_>) -> Outcome<Compared> {
        let looks = self.scale.slow_glances.div_ceil(self.scale.slow_look);
        self.compared(field, kind, hosts, Coming::Again, (looks, self.scale.slow_look)).await
    }

    /// So many looks, of so many windows each, beside those who come to one host and then to the other, or the other way round.
    async fn compared(
        &self,
        field: &Field,
        kind: Kind,
        (ours, bare): &Hosts<'_>,
        coming: Coming,
        (looks, look): (usize, usize),
    ) -> Outcome<Compared> {
        let mut hosts: Vec<_> = [Some(ours), bare.as_ref()].into_iter().flatten().collect();
        let mut all = Compared::default();
        for _ in 0..looks {
            for host in &hosts {
                let looked = self.beside(field, kind, host, coming, look).await?;
                match host {
                    Host::Soaked(_) => all.ours = all.ours.and(looked),
                    Host::Bare(_) => all.bare = Some(all.bare.unwrap_or_default().and(looked)),
                }
            }
            // None of them always finds what the other has left.
            hosts.reverse();
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
    async fn beside(
        &self,
        field: &Field,
        kind: Kind,
        host: &Host<'_>,
        coming: Coming,
        glances: usize,
    ) -> Outcome<Beside> {
        let before = self.alone(field, glances.div_ceil(2)).await?;
        let enough = CancellationToken::new();
        let (place, count, end) = (host.place(self.place(field)?), self.scale.slow, enough.clone());
        let crowd = Aside::begin("slow", move || crowd::gather(place, kind, count, coming, end))?;
        let open = self.gathered(host, kind, coming).await?;
        let memory = mebibytes(&field.server.process);
        let good = self.glances(field, glances).await?;
        let open = Some(open.min(settled(host).await?));
        enough.cancel();
        let ended = crowd.end()?;
        let after = self.alone(field, glances.div_ceil(2)).await?;
        Ok(Beside { open, memory, ended, ..Beside::between(before, good, after) })
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
    async fn gathered(&self, host: &Host<'_>, kind: Kind, coming: Coming) -> Outcome<u64> {
        let (share, longest) = match coming {
            Coming::Once(within) => (100, within + self.scale.glance),
            Coming::Again => (THERE, kind.stay(&self.scale.timeouts) + self.scale.window),
        };
        let begun = Instant::now();
        loop {
            let open = host.connections().await?;
            if open * 100 >= self.scale.slow as u64 * share || begun.elapsed() > longest {
                return Ok(open);
            }
            sleep(LOOK).await;
        }
    }
}

/// How many connections there are once those of the good load have gone: two looks that are the same, of ten at most.
async fn settled(host: &Host<'_>) -> Outcome<u64> {
    let mut open = host.connections().await?;
    for _ in 0..10 {
        sleep(LOOK).await;
        let was = std::mem::replace(&mut open, host.connections().await?);
        if was == open {
            break;
        }
    }
    Ok(open)
}
