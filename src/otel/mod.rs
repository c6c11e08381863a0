//! Traces for OpenTelemetry, by the feature `otel`: a span for each request that is traced, and one below it for what the
//! app or WeChat did. They wait in a bounded queue and go to a collector in batches, as OTLP over HTTP in JSON
//! ([`otlp`]): our own client and encoder do, where the usual crates would bring two dozen more. A request never waits for
//! any of it; what finds the queue full, or no collector, is dropped and counted.

mod export;
pub mod otlp;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use export::{Exporter, Item};
use otlp::Span;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::clock::Clock;
use crate::log::access::Line;
use crate::metrics::{Fate, Metrics};
use crate::moment::Wall;
use crate::outbound::BadCaFile;
use crate::trace::{Config, Context};

/// Spans that wait to be sent.
const QUEUE: usize = 4096;

/// What an end of the process waits for the last of them.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Says which requests are traced, and takes their spans.
#[derive(Debug)]
pub struct Tracer {
    queue: mpsc::Sender<Item>,
    clock: Clock,
    metrics: Arc<Metrics>,
    /// Of 2^32 requests without a trace, those that begin one.
    sample: u64,
    seed: RandomState,
    count: AtomicU64,
}

/// A request that is traced.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    trace: u128,
    parent: Option<u64>,
    span: u64,
    /// What the app or WeChat does for it.
    child: u64,
}

impl Tracer {
    /// Sends spans to the collector of `config` on `runtime`, if there is one.
    pub fn start(
        config: &Config,
        runtime: &Handle,
        clock: &Clock,
        metrics: &Arc<Metrics>,
    ) -> Result<Option<Arc<Self>>, BadCaFile> {
        let Some(endpoint) = config.endpoint.clone() else { return Ok(None) };
        let (queue, waiting) = mpsc::channel(QUEUE);
        // Ends with its runtime.
        runtime.spawn(Exporter::new(endpoint, Arc::clone(metrics))?.run(waiting));
        let (clock, metrics) = (clock.clone(), Arc::clone(metrics));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of 2^32")]
        let sample = (config.sample * f64::from(u32::MAX)).round() as u64;
        let (seed, count) = (RandomState::new(), AtomicU64::new(0));
        Ok(Some(Arc::new(Self { queue, clock, metrics, sample, seed, count })))
    }

    /// The step of a request that `parent` made; `None` when it is not traced: whoever began its trace decides.
    pub fn begin(&self, parent: Option<Context>) -> Option<Step> {
        let (trace, parent) = match parent {
            Some(Context { sampled: false, .. }) => return None,
            Some(Context { trace, span, .. }) => (trace, Some(span)),
            None => (self.new_trace()?, None),
        };
        Some(Step { trace, parent, span: self.random(), child: self.random() })
    }

    fn new_trace(&self) -> Option<u128> {
        let (high, low) = (self.random(), self.random());
        (high & u64::from(u32::MAX) < self.sample).then(|| u128::from(high) << 64 | u128::from(low))
    }

    /// Keyed by the process, and never 0.
    fn random(&self) -> u64 {
        self.seed.hash_one(self.count.fetch_add(1, Ordering::Relaxed)).max(1)
    }

    /// Ends `step` with what is recorded of its request.
    pub fn end(&self, step: Step, line: &Line<'_>) {
        let end = nanos(self.clock.now().wall);
        for span in Span::of(step, line, end) {
            if self.queue.try_send(Item::Span(Box::new(span))).is_err() {
                self.metrics.traced(Fate::Dropped, 1);
            }
        }
    }

    /// Waits until what was ended so far was sent, for 2 s at most.
    pub async fn flush(&self) {
        let (sent, told) = oneshot::channel();
        let flushed = async {
            if self.queue.send(Item::Flush(sent)).await.is_ok() {
                let _ = told.await;
            }
        };
        let _ = timeout(LAST_WORDS, flushed).await;
    }
}

impl Step {
    /// This step.
    pub fn context(&self) -> Context {
        Context { trace: self.trace, span: self.span, sampled: true }
    }

    /// The step that whoever is asked next continues.
    pub fn onward(&self) -> Context {
        Context { span: self.child, ..self.context() }
    }
}

fn nanos(wall: Wall) -> u64 {
    let since = wall.since(Wall::from_unix(0)).as_nanos();
    u64::try_from(since).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_collector_that_hangs_costs_spans_and_no_time() {
        let hangs = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", hangs.local_addr().unwrap()).parse().ok();
        let (clock, metrics) = (Clock::system(), Metrics::new(Wall::from_unix(0)));
        let config = Config { endpoint, sample: 1.0 };
        let tracer = Tracer::start(&config, &Handle::current(), &clock, &metrics).unwrap().unwrap();
        let before = clock.tick();
        // Nothing is awaited: the exporter, on the same thread, has no turn.
        for _ in 0..QUEUE + 10 {
            tracer.end(tracer.begin(None).unwrap(), &Line { status: 200, ..Line::default() });
        }
        assert!(clock.tick().since(before) < Duration::from_secs(10));
        assert_eq!(metrics.spans(Fate::Dropped), 10);
    }

    #[tokio::test]
    async fn whoever_began_a_trace_decides_and_the_share_does_for_the_rest() {
        let (clock, metrics) = (Clock::system(), Metrics::new(Wall::from_unix(0)));
        let endpoint = "http://127.0.0.1:1".parse().ok();
        let tracer = |sample| {
            let config = Config { endpoint: endpoint.clone(), sample };
            Tracer::start(&config, &Handle::current(), &clock, &metrics).unwrap().unwrap()
        };
        let context = |sampled| Some(Context { trace: 1, span: 2, sampled });
        for sample in [0.0, 1.0] {
            assert!(tracer(sample).begin(context(false)).is_none());
            let step = tracer(sample).begin(context(true)).unwrap();
            assert!(step.trace == 1 && step.parent == Some(2) && step.span != step.child);
        }
        assert!(tracer(0.0).begin(None).is_none());
        let half = tracer(0.5);
        let chosen = (0..10_000).filter(|_| half.begin(None).is_some()).count();
        assert!((4_500..5_500).contains(&chosen), "{chosen}");
    }
}
