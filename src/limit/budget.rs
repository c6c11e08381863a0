//! One budget: GCRA (the leaky bucket as a meter) with a wait that is a reservation. The limiter admits `burst` plus what
//! `rate` brings within `wait`; whoever is admitted beyond `burst` is told when its turn comes.

use std::cell::Cell;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::Clock as Time;
use governor::middleware::{StateInformationMiddleware, StateSnapshot};
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed, StateStore};
use governor::{NotUntil, Quota, RateLimiter};

use super::slots::Row;
use super::{Admitted, BudgetName, Client, Policy, Refused};
use crate::clock::Clock;
use crate::moment::Tick;

/// Slots of one row: 2 MiB. Two rows a budget.
const SLOTS: usize = 1 << 18;

type Limiter<K, S> = RateLimiter<K, S, Ticks, StateInformationMiddleware>;

/// A budget that each client has of its own.
#[derive(Debug)]
pub(super) struct ClientBudget {
    policy: Policy,
    rows: [Limiter<Client, Row>; 2],
}

/// A budget that all share.
#[derive(Debug)]
pub(super) struct SharedBudget {
    policy: Policy,
    limiter: Limiter<NotKeyed, InMemoryState>,
}

/// A refusal, before it is known by whom.
#[derive(Debug, Clone, Copy)]
pub(super) struct Refusal {
    policy: Policy,
    retry_after: Duration,
}

impl ClientBudget {
    pub(super) fn new(policy: Policy, clock: &Clock) -> Self {
        Self::with_slots(policy, clock, SLOTS)
    }

    pub(super) fn with_slots(policy: Policy, clock: &Clock, slots: usize) -> Self {
        let row = || limiter(policy, Row::new(slots), clock);
        Self { policy, rows: [row(), row()] }
    }

    /// Charges the client on both rows and refuses only when both do: a stranger that fills one slot of a good client
    /// leaves it the other.
    pub(super) fn admit(&self, client: &Client, now: Tick) -> Result<Admitted, Refusal> {
        let _now = Now::is(now);
        match self.rows.each_ref().map(|row| row.check_key(client)) {
            [Ok(one), Ok(two)] => {
                let freer = if one.remaining_burst_capacity() < two.remaining_burst_capacity() { two } else { one };
                Ok(admitted(self.policy, &freer))
            }
            [Ok(state), Err(_)] | [Err(_), Ok(state)] => Ok(admitted(self.policy, &state)),
            [Err(one), Err(two)] => {
                let (one, two) = (refusal(self.policy, &one, &self.rows[0]), refusal(self.policy, &two, &self.rows[1]));
                Err(if one.retry_after < two.retry_after { one } else { two })
            }
        }
    }

    pub(super) fn policy(&self) -> Policy {
        self.policy
    }
}

impl SharedBudget {
    pub(super) fn new(policy: Policy, clock: &Clock) -> Self {
        Self { policy, limiter: limiter(policy, InMemoryState::default(), clock) }
    }

    pub(super) fn admit(&self) -> Result<Admitted, Refusal> {
        match self.limiter.check() {
            Ok(state) => Ok(admitted(self.policy, &state)),
            Err(until) => Err(refusal(self.policy, &until, &self.limiter)),
        }
    }

    pub(super) fn policy(&self) -> Policy {
        self.policy
    }
}

impl Refusal {
    pub(super) fn by(self, budget: BudgetName) -> Refused {
        Refused { budget, policy: self.policy, retry_after: self.retry_after }
    }
}

fn limiter<S: StateStore>(policy: Policy, store: S, clock: &Clock) -> Limiter<S::Key, S> {
    RateLimiter::new(quota(policy), store, Ticks(clock.clone()))
}

/// `burst`, and what comes in while one waits.
fn quota(policy: Policy) -> Quota {
    let period = Duration::from_secs_f64(1.0 / policy.rate).max(Duration::from_nanos(1));
    Quota::with_period(period).expect("a period is not zero").allow_burst(reach(policy))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "floats saturate, and both are positive")]
fn reach(policy: Policy) -> NonZeroU32 {
    policy.burst.saturating_add((policy.rate * policy.wait.as_secs_f64()) as u32)
}

fn admitted(policy: Policy, state: &StateSnapshot) -> Admitted {
    let used = reach(policy).get().saturating_sub(state.remaining_burst_capacity());
    let behind = used.saturating_sub(policy.burst.get());
    // Almost nobody waits, and a division costs as much as the rest of this.
    let delay = if behind == 0 { Duration::ZERO } else { Duration::from_secs_f64(f64::from(behind) / policy.rate) };
    Admitted { delay, left: policy.burst.get().saturating_sub(used), policy: Some(policy) }
}

fn refusal<K, S: StateStore<Key = K>>(policy: Policy, until: &NotUntil<Nanos>, limiter: &Limiter<K, S>) -> Refusal {
    Refusal { policy, retry_after: until.wait_time_from(limiter.clock().now()) }
}

/// Our clock, as governor wants to read it.
#[derive(Debug, Clone)]
struct Ticks(Clock);

impl Time for Ticks {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        let now = NOW.get().unwrap_or_else(|| self.0.tick());
        Nanos::from(now.since_start())
    }
}

thread_local! {
    /// What governor reads for the time, where somebody has just read it: it takes no time as an argument.
    static NOW: Cell<Option<Tick>> = const { Cell::new(None) };
}

/// Until dropped, the time is what it was made with.
struct Now;

impl Now {
    fn is(now: Tick) -> Self {
        NOW.set(Some(now));
        Self
    }
}

impl Drop for Now {
    fn drop(&mut self) {
        NOW.set(None);
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::Reference as _;

    use super::*;

    #[test]
    fn the_clock_moves_forward() {
        let (clock, hands) = Clock::adjustable();
        let ticks = Ticks(clock);
        let before = ticks.now();
        hands.advance(Duration::from_secs(1));
        assert!(Duration::from(ticks.now().duration_since(before)) >= Duration::from_secs(1));
    }
}
