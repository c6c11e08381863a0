//! Futures that are polled by hand, each only when it was woken.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};

use tokio::task::coop::unconstrained;

/// Tasks, none of which has been polled yet.
#[derive(Default)]
pub struct Tasks<'a> {
    tasks: Vec<Task<'a>>,
    turns: Arc<AtomicUsize>,
}

struct Task<'a> {
    name: String,
    future: Option<Pin<Box<dyn Future<Output = ()> + 'a>>>,
    bell: Arc<Bell>,
}

/// Rung when its task is to be polled.
struct Bell {
    /// When it rang first since the last poll; 0 while it has not.
    rang: AtomicUsize,
    turns: Arc<AtomicUsize>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        let turn = 1 + self.turns.fetch_add(1, Ordering::Relaxed);
        let _ = self.rang.compare_exchange(0, turn, Ordering::Relaxed, Ordering::Relaxed);
    }
}

impl<'a> Tasks<'a> {
    /// Adds one, which is to be polled.
    pub fn spawn(&mut self, name: impl Into<String>, future: impl Future<Output = ()> + 'a) {
        let bell = Arc::new(Bell { rang: AtomicUsize::new(0), turns: Arc::clone(&self.turns) });
        Arc::clone(&bell).wake();
        self.tasks.push(Task { name: name.into(), future: Some(Box::pin(future)), bell });
    }

    /// Those that are to be polled, the one that has been for longest first: a runtime's order.
    pub fn woken(&self) -> Vec<usize> {
        let rang = |number: &usize| self.tasks[*number].bell.rang.load(Ordering::Relaxed);
        let runs = |number: &usize| self.tasks[*number].future.is_some() && rang(number) > 0;
        let mut woken: Vec<_> = (0..self.tasks.len()).filter(runs).collect();
        woken.sort_by_key(rang);
        woken
    }

    /// What task `number` is called.
    pub fn name(&self, number: usize) -> &str {
        &self.tasks[number].name
    }

    /// Polls task `number`, which is dropped when it ends.
    pub fn poll(&mut self, number: usize) {
        let Task { future, bell, .. } = &mut self.tasks[number];
        bell.rang.store(0, Ordering::Relaxed);
        let Some(task) = future else { return };
        let waker = Waker::from(Arc::clone(bell));
        // All are polled within one poll of the runtime's, whose budget is for one task.
        if pin!(unconstrained(task.as_mut())).poll(&mut Context::from_waker(&waker)).is_ready() {
            *future = None;
        }
    }

    /// The tasks that have not ended.
    pub fn running(&self) -> Vec<&str> {
        self.tasks.iter().filter(|task| task.future.is_some()).map(|task| &*task.name).collect()
    }
}
