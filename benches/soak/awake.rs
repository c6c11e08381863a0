//! Cores that do not go to sleep. Between two requests of a load as light as the good one a core has nothing to do; in a virtual
//! machine it is then the host's, and an answer takes as long as the host takes to bring it back. That is most of a p99, and
//! another one every few minutes, so that it says nothing about a server.

use std::hint::spin_loop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;

use thread_priority::unix::{set_thread_priority_and_policy, thread_native_id};
use thread_priority::{NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy};

use crate::Outcome;
use crate::machine;

/// Cores kept awake until dropped.
#[derive(Debug)]
pub struct Awake(Arc<AtomicBool>);

impl Awake {
    /// Keeps `cores` awake, by a thread each that runs while nobody else wants to.
    pub fn keep(cores: &[usize]) -> Outcome<Self> {
        let over = Arc::<AtomicBool>::default();
        let kept = Self(Arc::clone(&over));
        for core in cores.iter().copied() {
            let over = Arc::clone(&over);
            let (ready, is_ready) = channel();
            std::thread::Builder::new().name("awake".to_owned()).spawn(move || {
                machine::pin(&[core]);
                let stepped_behind = step_behind();
                let may_stay = stepped_behind.is_ok();
                let _ = ready.send(stepped_behind);
                while may_stay && !over.load(Ordering::Relaxed) {
                    spin_loop();
                }
            })?;
            is_ready.recv()??;
        }
        Ok(kept)
    }
}

fn step_behind() -> Outcome<()> {
    let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, policy)
        .map_err(|error| format!("a thread cannot stand behind all others: {error:?}").into())
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
