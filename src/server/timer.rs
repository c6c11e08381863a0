//! A timer for deadlines that move with every byte.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::task::coop::has_budget_remaining;
use tokio::time::{Instant, Sleep, sleep_until};

/// A timer that is made when first needed and set anew only when it would ring too late: on the way of a request, moving
/// a deadline back costs nothing.
#[derive(Debug, Default)]
pub struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// Whom it wakes when it rings.
    wakes: Option<Waker>,
}

impl Timer {
    /// Ready at `deadline`, which may be another one each time.
    pub fn poll_at(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let Self { sleep, wakes } = self;
        let sleep = sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline || sleep.is_elapsed() {
            sleep.as_mut().reset(deadline);
        } else if wakes.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            // It is set, and rings early enough.
            return Poll::Pending;
        }
        loop {
            // Without budget it does not look who polls it, and has the task polled again soon (tokio's `coop`).
            let heeds = has_budget_remaining();
            if sleep.as_mut().poll(cx).is_pending() {
                *wakes = heeds.then(|| cx.waker().clone());
                return Poll::Pending;
            }
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::time::Duration;

    use tokio::task::coop::{consume_budget, unconstrained};
    use tokio::time::timeout;

    use super::*;

    /// Rings so long after now.
    const SOON: Duration = Duration::from_millis(20);
    const LATE: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn it_rings_for_a_task_that_polled_it_when_its_budget_was_spent() {
        let mut timer = Timer::default();
        let deadline = Instant::now() + SOON;
        let rings = poll_fn(|cx| {
            let is_first = timer.sleep.is_none();
            while is_first && has_budget_remaining() {
                let _ = pin!(consume_budget()).poll(cx);
            }
            timer.poll_at(deadline, cx)
        });
        timeout(LATE, rings).await.expect("it rings");
    }

    #[tokio::test]
    async fn a_deadline_that_moves_forth_and_back_is_kept() {
        let mut timer = Timer::default();
        let began = Instant::now();
        let far = poll_fn(|cx| {
            let _ = timer.poll_at(began + LATE, cx);
            Poll::Ready(())
        });
        far.await;
        timeout(LATE, poll_fn(|cx| timer.poll_at(began + SOON, cx))).await.expect("it was moved forth");
        assert!(began.elapsed() >= SOON);
        timeout(LATE, poll_fn(|cx| timer.poll_at(began + 2 * SOON, cx))).await.expect("it was set anew");
        assert!(began.elapsed() >= 2 * SOON);
    }

    /// Polled by one task and then by another, it wakes the latter.
    #[tokio::test]
    async fn it_wakes_whoever_polled_it_last() {
        let mut timer = Timer::default();
        let deadline = Instant::now() + SOON;
        let mut nobody = Context::from_waker(Waker::noop());
        assert!(timer.poll_at(deadline, &mut nobody).is_pending());
        timeout(LATE, unconstrained(poll_fn(|cx| timer.poll_at(deadline, cx)))).await.expect("it rings");
    }
}
