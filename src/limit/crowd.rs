//! Who makes room when all places for connections are taken: connections that idle first, then requests that wait for the
//! origin, and whoever can be answered at once last. Nobody is asked while places are free.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Notify;

use crate::sync::AtomicUsize;

/// How long a connection that idles has to make room before another is asked: over HTTP/2 it has to hear of it, and may be gone.
const IDLE_GOES_WITHIN: Duration = Duration::from_millis(50);

/// How long a request has for it: an image is not refused because a thread is busy.
const MISS_GOES_WITHIN: Duration = Duration::from_secs(1);

/// Newcomers without a place, and those who can make room for them.
#[derive(Debug, Default)]
pub struct Crowd {
    newcomers: AtomicUsize,
    idle: Line,
    misses: Line,
}

/// Those who can make room in one way.
#[derive(Debug, Default)]
struct Line {
    length: AtomicUsize,
    asked: Notify,
}

/// Somebody who has no place, until dropped.
#[derive(Debug)]
pub struct Newcomer<'a>(&'a Crowd);

impl Crowd {
    /// Counts a newcomer for whom there is no place.
    pub fn newcomer(&self) -> Newcomer<'_> {
        self.newcomers.fetch_add(1, Ordering::Relaxed);
        Newcomer(self)
    }

    /// Ends when a connection, which idles all the while, is to make room: the one that has idled longest is asked first.
    /// Dropping the future takes it out of the line.
    pub async fn needs_idle(&self) {
        self.idle.is_asked(&self.newcomers).await;
    }

    /// Ends when a request, which waits for the origin all the while, is to make room: the one that has waited least is asked
    /// first, since the others are nearer to their images. Dropping the future takes it out of the line.
    pub async fn needs_miss(&self) {
        self.misses.is_asked(&self.newcomers).await;
    }

    /// If somebody has no place, asks one who can make room, or the next to idle; says after how long to ask again.
    pub fn ask(&self) -> Duration {
        let Self { newcomers, idle, misses } = self;
        if newcomers.load(Ordering::Relaxed) == 0 {
            return IDLE_GOES_WITHIN;
        }
        if idle.is_empty() && !misses.is_empty() {
            misses.asked.notify_last();
            return MISS_GOES_WITHIN;
        }
        idle.asked.notify_one();
        IDLE_GOES_WITHIN
    }

    /// Whether somebody has no place, and no connection idles.
    pub fn is_crowded(&self) -> bool {
        self.newcomers.load(Ordering::Relaxed) > 0 && self.idle.is_empty()
    }
}

impl Newcomer<'_> {
    /// Asks one who can make room to do so, and says after how long to ask again.
    pub fn asks(&self) -> Duration {
        self.0.ask()
    }
}

impl Drop for Newcomer<'_> {
    fn drop(&mut self) {
        self.0.newcomers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Line {
    fn is_empty(&self) -> bool {
        self.length.load(Ordering::Relaxed) == 0
    }

    async fn is_asked(&self, newcomers: &AtomicUsize) {
        let _in_line = InLine::join(&self.length);
        loop {
            self.asked.notified().await;
            // Asked too late, when nobody was in line or a place had become free.
            if newcomers.load(Ordering::Relaxed) > 0 {
                return;
            }
        }
    }
}

/// A place in a line, until dropped.
struct InLine<'a>(&'a AtomicUsize);

impl<'a> InLine<'a> {
    fn join(length: &'a AtomicUsize) -> Self {
        length.fetch_add(1, Ordering::Relaxed);
        Self(length)
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::{Pin, pin};
    use std::task::{Context, Waker};

    use super::*;

    fn is_ready(future: Pin<&mut impl Future<Output = ()>>) -> bool {
        future.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn who_idles_longest_is_asked_first_and_of_the_misses_who_waited_least_and_only_then() {
        let crowd = Crowd::default();
        let (mut old, mut young) = (pin!(crowd.needs_idle()), pin!(crowd.needs_idle()));
        let (mut first, mut last) = (pin!(crowd.needs_miss()), pin!(crowd.needs_miss()));
        assert!(![is_ready(old.as_mut()), is_ready(young.as_mut())].contains(&true));
        assert!(![is_ready(first.as_mut()), is_ready(last.as_mut())].contains(&true));
        let newcomer = crowd.newcomer();
        newcomer.asks();
        assert!(!crowd.is_crowded() && !is_ready(young.as_mut()) && is_ready(old.as_mut()));
        newcomer.asks();
        assert!(is_ready(young.as_mut()) && crowd.is_crowded());
        newcomer.asks();
        assert!(!is_ready(first.as_mut()) && is_ready(last.as_mut()));
        drop(newcomer);
        assert!(!crowd.is_crowded());
    }

    #[test]
    fn whoever_is_asked_and_goes_on_passes_it_to_the_next() {
        let crowd = Crowd::default();
        let mut next = pin!(crowd.needs_idle());
        let newcomer = crowd.newcomer();
        {
            let mut old = pin!(crowd.needs_idle());
            assert!(!is_ready(old.as_mut()) && !is_ready(next.as_mut()));
            newcomer.asks();
        }
        assert!(is_ready(next.as_mut()));
    }

    #[test]
    fn who_was_asked_when_the_newcomers_had_places_is_not_asked_any_more() {
        let crowd = Crowd::default();
        let mut asked = pin!(crowd.needs_miss());
        assert!(!is_ready(asked.as_mut()));
        let newcomer = crowd.newcomer();
        newcomer.asks();
        drop(newcomer);
        assert!(!is_ready(asked.as_mut()));
        crowd.newcomer().asks();
        assert!(!is_ready(asked.as_mut()));
        let newcomer = crowd.newcomer();
        newcomer.asks();
        assert!(is_ready(asked.as_mut()));
    }
}
