//! Work in a thread of its own. Most of it stands behind the good load on their core: whoever is measured must not wait for
//! those who make the trouble.

use std::thread::JoinHandle;

use tokio::task::LocalSet;

use crate::Outcome;

/// As far behind as it goes.
const BEHIND: i32 = 19;

/// Work under way.
#[derive(Debug)]
pub struct Aside<T>(JoinHandle<T>);

impl<T: Send + 'static> Aside<T> {
    /// Begins `work` on a runtime of its own, behind everybody else.
    pub fn begin<W: Future<Output = T>>(name: &str, work: impl FnOnce() -> W + Send + 'static) -> Outcome<Self> {
        Self::among(name, move || {
            let _ = rustix::process::nice(BEHIND);
            work()
        })
    }

    /// Begins `work` on a runtime of its own, among all others.
    pub fn among<W: Future<Output = T>>(name: &str, work: impl FnOnce() -> W + Send + 'static) -> Outcome<Self> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            LocalSet::new().block_on(&runtime, work())
        })?;
        Ok(Self(thread))
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.0.is_finished()
    }

    /// Waits for its end.
    pub fn end(self) -> Outcome<T> {
        self.0.join().map_err(|_| "a thread panicked".into())
    }
}
