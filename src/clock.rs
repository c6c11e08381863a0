//! The one place that reads the time. A [`Clock`] is handed down from [`crate::app`]; tests hold its [`Hands`] and turn
//! them, so that an hour passes in a microsecond and the wall clock jumps to 2038 on request.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crate::moment::{Moment, Tick, Wall};

/// Tells the time. Cheap to clone; all clones agree.
#[derive(Debug, Clone)]
pub struct Clock {
    start: Instant,
    hands: Option<Arc<Hands>>,
}

/// Turns an [adjustable](Clock::adjustable) clock.
#[derive(Debug, Default)]
pub struct Hands {
    ahead_millis: AtomicU64,
    wall_shift_millis: AtomicI64,
}

impl Clock {
    /// The machine's clocks as they are.
    #[expect(clippy::disallowed_methods, reason = "this is the door through which time enters")]
    pub fn system() -> Self {
        Self { start: Instant::now(), hands: None }
    }

    /// The machine's clocks plus whatever the returned hands were turned by.
    pub fn adjustable() -> (Self, Arc<Hands>) {
        let hands = Arc::new(Hands::default());
        (Self { hands: Some(Arc::clone(&hands)), ..Self::system() }, hands)
    }

    /// Reads both clocks.
    #[expect(clippy::disallowed_methods, reason = "this is the door through which time enters")]
    pub fn now(&self) -> Moment {
        let moment = Moment { wall: Wall::from(SystemTime::now()), tick: Tick::from_start(self.start.elapsed()) };
        match &self.hands {
            None => moment,
            Some(hands) => hands.turned(moment),
        }
    }

    /// Reads the monotonic clock alone, at half the cost.
    pub fn tick(&self) -> Tick {
        let tick = Tick::from_start(self.start.elapsed());
        match &self.hands {
            None => tick,
            Some(hands) => tick + hands.ahead(),
        }
    }
}

impl Hands {
    /// Lets `by` pass on both clocks.
    pub fn advance(&self, by: Duration) {
        let millis = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.ahead_millis.fetch_add(millis, Ordering::SeqCst);
    }

    /// Moves the wall clock alone, as an administrator or NTP would; negative moves it back.
    pub fn shift_wall(&self, millis: i64) {
        self.wall_shift_millis.fetch_add(millis, Ordering::SeqCst);
    }

    fn ahead(&self) -> Duration {
        Duration::from_millis(self.ahead_millis.load(Ordering::SeqCst))
    }

    fn turned(&self, moment: Moment) -> Moment {
        let wall = (moment.wall + self.ahead()).shifted(self.wall_shift_millis.load(Ordering::SeqCst));
        Moment { wall, tick: moment.tick + self.ahead() }
    }
}
