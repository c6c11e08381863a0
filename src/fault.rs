//! Faults on purpose: tests make a stage of the flow fail to prove that only its request does. In production there are
//! none, and asking costs one comparison.

use std::fmt;
use std::sync::Arc;

/// Where a fault can strike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Before the origin is asked.
    Fetch,
    /// Before its answer is judged.
    Judge,
    /// Before the judgement is stored.
    Store,
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
    pub fn strike(&self, stage: Stage) {
        if let Some(strike) = &self.0 {
            strike(stage);
        }
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Faults(prepared)" } else { "Faults(none)" })
    }
}
