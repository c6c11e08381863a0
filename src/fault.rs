//! Faults on purpose: tests make a stage of the flow fail to prove that only its request does. Built without debug assertions, as
//! a release is, there are no stages: nothing is asked and nothing can be prepared that would happen.

use std::fmt;
use std::sync::Arc;

/// Where a fault can strike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Before a connection that was accepted is handed over.
    Welcome,
    /// Before the cache is tended.
    Tend,
    /// Before a request's route is found.
    Route,
    /// Before its ticket is read.
    Ticket,
    /// Before the client's budget is asked.
    Admit,
    /// Before the cache is.
    LookUp,
    /// Before a fill is joined or started, once the budget of misses has given leave.
    Join,
    /// Before the origin is asked.
    Fetch,
    /// While a place at the origin is held.
    Ask,
    /// Before its answer is judged.
    Judge,
    /// Before the judgement is stored.
    Store,
    /// Before the answer for the client is built.
    Respond,
    /// Before a request goes to the app.
    Forward,
    /// When the app's answer has begun.
    Forwarded,
    /// Before a call is relayed.
    Relay,
    /// Before a relay's good answer is learned from.
    Learn,
    /// Before the operator is answered.
    Operate,
    /// Before it is looked through what is held.
    Scan,
    /// Before the configuration is read again.
    Reload,
}

/// What happens at each stage; nothing by default.
#[derive(Clone, Default)]
pub struct Faults(Option<Arc<dyn Fn(Stage) + Send + Sync>>);

impl Faults {
    /// Calls `strike` at every stage; it may panic.
    pub fn new(strike: impl Fn(Stage) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(strike)))
    }

    /// Lets whatever is prepared for `stage` happen.
    #[inline]
    pub fn strike(&self, stage: Stage) {
        if cfg!(debug_assertions)
            && let Some(strike) = &self.0
        {
            strike(stage);
        }
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Faults(prepared)" } else { "Faults(none)" })
    }
}
