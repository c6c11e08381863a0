//! A mistake of ours in work that goes on for as long as the process does, such as accepting connections: it costs one turn of that
//! work. Without this a panic would end it for good, and silently: tasks have nobody who waits for them.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::task::JoinError;

/// Before the work goes on: what panics at once, again and again, must not take a core.
const REST: Duration = Duration::from_millis(10);

/// What a turn of `work` comes to; `None`, after 10 ms, where it panicked, which `panics` counts. Whatever the turn held is let go then;
/// what it only borrowed is as the panic left it, so that it must be of use in any state. Dropping the future drops the work.
pub async fn outlived<T>(work: impl Future<Output = T>, panics: &Counter) -> Option<T> {
    let done = {
        let mut work = pin!(work);
        poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
            Ok(polled) => polled.map(Some),
            Err(_) => Poll::Ready(None),
        })
        .await
    };
    if done.is_none() {
        tell(panics).await;
    }
    done
}

/// The same for a turn that may hang, as on a file system: it has a thread of its own. `None` too when the runtime ends before it
/// began. Dropping the future leaves a turn that has begun to its end.
pub async fn outlived_aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
    panics: &Counter,
) -> Option<T> {
    let done = tokio::task::spawn_blocking(work).await;
    if done.as_ref().is_err_and(JoinError::is_panic) {
        tell(panics).await;
    }
    done.ok()
}

async fn tell(panics: &Counter) {
    panics.inc();
    tracing::error!("a mistake of ours cost a turn of work that goes on; please report the panic above");
    tokio::time::sleep(REST).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_panic_costs_its_turn_and_is_counted_and_what_goes_well_is_not() {
        let panics = Counter::default();
        let (mut turns, mut done) = (0, Vec::new());
        while turns < 5 {
            turns += 1;
            let turn = async {
                tokio::task::yield_now().await;
                assert!(turns % 2 == 1, "on purpose");
                turns
            };
            done.push(outlived(turn, &panics).await);
        }
        assert_eq!(done, [Some(1), None, Some(3), None, Some(5)]);
        assert_eq!(panics.get(), 2);
    }

    #[tokio::test]
    async fn a_panic_on_a_thread_of_its_own_costs_its_turn_and_is_counted() {
        let panics = Counter::default();
        assert_eq!(outlived_aside(|| 1, &panics).await, Some(1));
        assert_eq!(outlived_aside(|| -> u32 { panic!("on purpose") }, &panics).await, None);
        assert_eq!(outlived_aside(|| 3, &panics).await, Some(3));
        assert_eq!(panics.get(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_panics_at_once_again_and_again_rests_in_between() {
        let panics = Counter::default();
        let begun = tokio::time::Instant::now();
        for _ in 0..10 {
            let turn = async { panic!("on purpose") };
            assert_eq!(outlived::<()>(turn, &panics).await, None);
        }
        assert!(begun.elapsed() >= 10 * REST);
    }
}
