//! Many slow clients of a kind: they come once, or as many are there at any time, since whoever was closed comes again.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::slow::{End, Kind, Place};

/// Whoever is closed so much before its deadline was not closed by it: an eighth of it, for a busy machine's sake.
const EARLY: u32 = 8;
/// Before somebody comes again who could not come.
const PAUSE: Duration = Duration::from_millis(100);

/// When they come.
#[derive(Debug, Clone, Copy)]
pub enum Coming {
    /// Once, at an even pace within so long.
    Once(Duration),
    /// Again and again, spread over the time that they stay.
    Again,
}

/// How the connections of a kind ended.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    /// At their deadline.
    pub closed: u64,
    /// Long before it.
    pub early: u64,
    /// Not at all.
    pub open: u64,
    /// They were not even begun.
    pub failed: u64,
    /// The longest time after a deadline.
    pub latest: Duration,
    /// What made one fail.
    pub why: Option<String>,
}

/// Has `count` slow clients of `kind` stay at `place`. `enough` ends their coming; it is waited until all are gone.
pub async fn gather(place: Place, kind: Kind, count: usize, coming: Coming, enough: CancellationToken) -> Tally {
    let tally = Rc::new(RefCell::new(Tally::default()));
    let (within, comes_again) = match coming {
        Coming::Once(within) => (within, false),
        Coming::Again => (kind.stay(&place.timeouts), true),
    };
    let mut clients = JoinSet::new();
    for number in 0..count {
        let (place, tally, enough) = (place.clone(), Rc::clone(&tally), enough.clone());
        clients.spawn_local(async move {
            enough.run_until_cancelled(sleep(within.mul_f64(number as f64 / count as f64))).await;
            while !enough.is_cancelled() {
                match place.stay(kind, number).await {
                    Ok(end) => tally.borrow_mut().note(end, kind.deadline(&place.timeouts)),
                    Err(why) => {
                        tally.borrow_mut().fail(why.to_string());
                        sleep(PAUSE).await;
                    }
                }
                if !comes_again {
                    return;
                }
            }
        });
    }
    while clients.join_next().await.is_some() {}
    tally.take()
}

impl Tally {
    fn note(&mut self, end: End, deadline: Duration) {
        match end {
            End::Late(late) => {
                self.closed += 1;
                self.latest = self.latest.max(late);
            }
            End::Early(early) if early > deadline / EARLY => self.early += 1,
            End::Early(_) => self.closed += 1,
            End::Open => self.open += 1,
        }
    }

    fn fail(&mut self, why: String) {
        self.failed += 1;
        self.why = Some(why);
    }

    /// With how others ended.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            closed: self.closed + other.closed,
            early: self.early + other.early,
            open: self.open + other.open,
            failed: self.failed + other.failed,
            latest: self.latest.max(other.latest),
            why: self.why.or(other.why),
        }
    }

    /// Whether somebody was closed by a deadline, and everybody was.
    pub fn holds(&self) -> bool {
        self.closed > 0 && self.open == 0 && self.early == 0
    }
}
