//! Looks at the server's memory once a second.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::Outcome;
use crate::aside::Aside;
use crate::process::Process;

const EVERY: Duration = Duration::from_secs(1);

/// A watch under way.
#[derive(Debug)]
pub struct Watch {
    over: CancellationToken,
    samples: Aside<Vec<Sample>>,
}

/// What was seen.
#[derive(Debug, Clone)]
pub struct Seen(Vec<Sample>);

/// When, in seconds, and how much, in MiB.
type Sample = (f64, f64);

impl Watch {
    /// Begins to look at `process`.
    pub fn begin(process: &Arc<Process>) -> Outcome<Self> {
        let (over, process) = (CancellationToken::new(), Arc::clone(process));
        let end = over.clone();
        let samples = Aside::begin("watch", move || async move {
            let (begun, mut samples) = (Instant::now(), Vec::new());
            let mut due = interval(EVERY);
            due.set_missed_tick_behavior(MissedTickBehavior::Skip);
            while end.run_until_cancelled(due.tick()).await.is_some() {
                samples.push((begun.elapsed().as_secs_f64(), mebibytes(&process)));
            }
            samples.push((begun.elapsed().as_secs_f64(), mebibytes(&process)));
            samples
        })?;
        Ok(Self { over, samples })
    }

    /// Ends looking.
    pub fn end(self) -> Outcome<Seen> {
        self.over.cancel();
        self.samples.end().map(Seen)
    }
}

/// What `process` holds.
pub fn mebibytes(process: &Process) -> f64 {
    process.memory().now as f64 / 1024.0
}

impl Seen {
    /// The most.
    pub fn most(&self) -> f64 {
        self.0.iter().map(|(_, memory)| *memory).fold(0.0, f64::max)
    }

    /// MiB an hour in the second half, by least squares.
    pub fn slope(&self) -> f64 {
        let half = &self.0[self.0.len() / 2..];
        let count = half.len() as f64;
        let mean = |of: fn(&Sample) -> f64| half.iter().map(of).sum::<f64>() / count;
        let (time, memory) = (mean(|sample| sample.0), mean(|sample| sample.1));
        let product: f64 = half.iter().map(|sample| (sample.0 - time) * (sample.1 - memory)).sum();
        let square: f64 = half.iter().map(|sample| (sample.0 - time).powi(2)).sum();
        product / square * 3600.0
    }
}
