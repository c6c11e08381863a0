//! Spares an origin that is down (S14): after 20 failures in a row only one probe every 2 s goes through, and an origin's
//! own `Retry-After` is kept to. A state machine over ticks; it reads no clock.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::failure::Failure;
use crate::moment::Tick;

/// Failures in a row that open the circuit.
pub const TOLERATED: u32 = 20;
/// Time between probes.
pub const PROBE_EVERY: Duration = Duration::from_secs(2);
/// The longest pause an origin can ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Whether a failure opened the circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened(pub bool);

/// Whether an answer closed the circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed(pub bool);

/// Whether the origin may be asked.
#[derive(Debug, Default)]
pub struct Circuit(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    next_probe: Option<Tick>,
    paused_until: Option<Tick>,
}

impl Circuit {
    /// Says early, before any waiting, that a request would not be let through at `now`.
    pub fn check(&self, now: Tick) -> Result<(), Failure> {
        self.state().closed_to(now).map_or(Ok(()), Err)
    }

    /// Lets a request through at `now`; on an open circuit it is the probe, and the next may follow 2 s later.
    pub fn enter(&self, now: Tick) -> Result<(), Failure> {
        let mut state = self.state();
        if let Some(closed) = state.closed_to(now) {
            return Err(closed);
        }
        if state.next_probe.is_some() {
            state.next_probe = Some(now + PROBE_EVERY);
        }
        Ok(())
    }

    /// The origin answered like a healthy one. Says so when this closes the circuit.
    pub fn succeeded(&self) -> Closed {
        let mut state = self.state();
        state.failures = 0;
        Closed(state.next_probe.take().is_some())
    }

    /// The origin failed at `now`. Says so when this opens the circuit.
    pub fn failed(&self, now: Tick) -> Opened {
        let mut state = self.state();
        state.failures = state.failures.saturating_add(1);
        let opens = state.failures >= TOLERATED && state.next_probe.is_none();
        if opens {
            state.next_probe = Some(now + PROBE_EVERY);
        }
        Opened(opens)
    }

    /// The origin asked for a pause, of which 60 s at most are granted; returns what is.
    pub fn pause(&self, now: Tick, asked: Duration) -> Duration {
        let granted = asked.min(LONGEST_PAUSE);
        let mut state = self.state();
        state.paused_until = state.paused_until.max(Some(now + granted));
        granted
    }

    /// Whether requests are held back.
    pub fn is_open(&self) -> bool {
        self.state().next_probe.is_some()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // Every change is a plain assignment: a panic in between leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn closed_to(&self, now: Tick) -> Option<Failure> {
        let wait = |until: Option<Tick>| until.map(|until| until.since(now)).filter(|wait| !wait.is_zero());
        wait(self.paused_until).map(Failure::Paused).or_else(|| wait(self.next_probe).map(Failure::CircuitOpen))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(n: u64) -> Tick {
        Tick::from_start(Duration::from_secs(n))
    }

    fn failing(times: u32) -> Circuit {
        let circuit = Circuit::default();
        for _ in 0..times {
            let _ = circuit.failed(second(0));
        }
        circuit
    }

    #[test]
    fn nineteen_failures_are_tolerated_and_twenty_are_not() {
        assert!(failing(19).enter(second(0)).is_ok());
        assert!(matches!(failing(20).enter(second(0)), Err(Failure::CircuitOpen(_))));
    }

    #[test]
    fn a_success_in_between_starts_the_count_anew() {
        let circuit = failing(19);
        circuit.succeeded();
        let _ = circuit.failed(second(0));
        assert!(circuit.enter(second(0)).is_ok());
    }

    #[test]
    fn an_open_circuit_lets_one_probe_through_every_two_seconds() {
        let circuit = failing(20);
        assert!(circuit.enter(second(1)).is_err());
        assert!(circuit.enter(second(2)).is_ok());
        assert!(circuit.enter(second(2)).is_err(), "the probe is out");
        let _ = circuit.failed(second(3));
        assert!(circuit.enter(second(4)).is_ok());
        circuit.succeeded();
        assert!(circuit.enter(second(4)).is_ok());
        assert!(circuit.enter(second(4)).is_ok(), "closed again");
    }

    #[test]
    fn a_pause_is_kept_but_no_longer_than_a_minute() {
        let circuit = Circuit::default();
        assert_eq!(circuit.pause(second(0), Duration::from_secs(3600)), Duration::from_secs(60));
        assert!(matches!(circuit.enter(second(59)), Err(Failure::Paused(left)) if left == Duration::from_secs(1)));
        assert!(circuit.enter(second(60)).is_ok());
    }
}
