//! The locks and counts between which another thread may come in: std's. In a build of the unit tests, each is a step at
//! which `crate::interleavings` tries everybody who could go on.

#[cfg(not(test))]
pub use std::sync::atomic::AtomicUsize;
#[cfg(not(test))]
pub use std::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard};

#[cfg(test)]
pub use crate::interleavings::threads::{AtomicUsize, Mutex, MutexGuard, RwLock, RwLockReadGuard, step};

/// A point at which another thread may come in.
#[cfg(not(test))]
#[inline]
pub const fn step() {}
