//! Threads of which one runs at a time, until it comes to a [`step`]: there any other may go on. The types of [`crate::sync`]
//! step before they touch what threads share, and flags after they are set, too. Outside of [`run`] they are std's.
//!
//! Everything happens in one order that all threads agree on. What weaker orderings of atomics allow beyond that is not explored.

use std::any::Any;
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::sync::atomic::{self, Ordering};
use std::sync::{Arc, Condvar, LockResult, PoisonError, TryLockError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::JoinHandle;

use super::Choices;

/// What a part does.
pub type Act = Box<dyn FnOnce() + Send>;

thread_local! {
    static PART: RefCell<Option<Part>> = const { RefCell::new(None) };
}

/// One of the threads of a schedule.
#[derive(Clone)]
struct Part {
    stage: Arc<Stage>,
    number: usize,
}

#[derive(Default)]
struct Stage(std::sync::Mutex<State>);

#[derive(Default)]
struct State {
    choices: Choices,
    active: usize,
    parts: Vec<Status>,
    threads: Vec<JoinHandle<()>>,
    failure: Option<Box<dyn Any + Send>>,
}

struct Status {
    name: &'static str,
    can: Can,
    was_woken: bool,
    turn: Arc<Condvar>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Can {
    GoOn,
    /// Waits for a lock.
    Lock,
    /// Waits for its waker.
    Wake,
    /// Has ended.
    Nothing,
}

/// Runs `parts` at once, in the order of `choices`, with whatever they [`spawn`]. The first to panic is heard.
pub fn run(choices: &mut Choices, parts: Vec<(&'static str, Act)>) {
    let stage = Arc::new(Stage::default());
    stage.state().choices = std::mem::take(choices);
    // Nobody moves before all are there.
    stage.state().active = usize::MAX;
    for (name, act) in parts {
        stage.enter(name, act);
    }
    stage.state().appoint(usize::MAX);
    while let Some(thread) = { stage.state().threads.pop() } {
        thread.join().expect("parts catch their panics");
    }
    *choices = std::mem::take(&mut stage.state().choices);
    let failure = { stage.state().failure.take() };
    if let Some(failure) = failure {
        resume_unwind(failure);
    }
}

/// Adds a part to those that run, from within one of them.
pub fn spawn(name: &'static str, act: Act) {
    current().expect("called by a part").stage.enter(name, act);
}

/// A point at which another part may go on.
pub fn step() {
    if let Some(part) = current() {
        part.pass(Can::GoOn);
    }
}

/// Polls `future` to its end; others go on while it waits.
pub fn wait_for<F: Future>(future: F) -> F::Output {
    let part = current().expect("called by a part");
    let (mut future, waker) = (pin!(future), Waker::from(Arc::new(part.clone())));
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        let was_woken = std::mem::take(&mut part.stage.state().parts[part.number].was_woken);
        part.pass(if was_woken { Can::GoOn } else { Can::Wake });
    }
}

fn current() -> Option<Part> {
    PART.with_borrow(Clone::clone)
}

impl Stage {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(self: &Arc<Self>, name: &'static str, act: Act) {
        let mut state = self.state();
        let part = Part { stage: Arc::clone(self), number: state.parts.len() };
        state.parts.push(Status { name, can: Can::GoOn, was_woken: false, turn: Arc::default() });
        state.threads.push(std::thread::spawn(move || part.play(act)));
    }
}

impl State {
    /// Chooses who goes on: `before`, if it can, or the next who can, without a detour.
    fn appoint(&mut self, before: usize) {
        let can_go_on = |number: &usize| self.parts.get(*number).is_some_and(|part| part.can == Can::GoOn);
        let others = (0..self.parts.len()).filter(|number| *number != before);
        let able: Vec<_> = std::iter::once(before).chain(others).filter(can_go_on).collect();
        if able.is_empty() {
            let stuck = self.parts.iter().filter(|part| part.can != Can::Nothing);
            let stuck: Vec<_> = stuck.map(|part| format!("{} ({:?})", part.name, part.can)).collect();
            if !stuck.is_empty() {
                self.fail(Box::new(format!("nobody can go on: {}", stuck.join(", "))));
            }
            return;
        }
        self.active = able[self.choices.choose(able.len(), false)];
        if self.active != before {
            let Status { name, turn, .. } = &self.parts[self.active];
            self.choices.told.push((*name).to_owned());
            turn.notify_one();
        }
    }

    /// Lets everybody run to the end, in no order.
    fn fail(&mut self, why: Box<dyn Any + Send>) {
        self.failure.get_or_insert(why);
        self.parts.iter().for_each(|part| part.turn.notify_one());
    }
}

impl Part {
    fn play(self, act: Act) {
        PART.set(Some(self.clone()));
        self.wait();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(act)) {
            self.stage.state().fail(panic);
        }
        PART.set(None);
        let mut state = self.stage.state();
        state.parts[self.number].can = Can::Nothing;
        if state.failure.is_none() {
            state.appoint(self.number);
        }
    }

    fn pass(&self, can: Can) {
        let mut state = self.stage.state();
        if state.failure.is_none() {
            state.parts[self.number].can = can;
            state.appoint(self.number);
        }
        let is_over = state.failure.is_some();
        drop(state);
        if !is_over {
            self.wait();
        } else if can == Can::Wake && !std::thread::panicking() {
            panic!("waits for ever");
        } else {
            std::thread::yield_now();
        }
    }

    fn wait(&self) {
        let mut state = self.stage.state();
        while state.active != self.number && state.failure.is_none() {
            let turn = Arc::clone(&state.parts[self.number].turn);
            state = turn.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn let_go_on(&self, all_that: Can) {
        for part in &mut self.stage.state().parts {
            if part.can == all_that {
                part.can = Can::GoOn;
            }
        }
    }
}

impl Wake for Part {
    fn wake(self: Arc<Self>) {
        let mut state = self.stage.state();
        let part = &mut state.parts[self.number];
        if part.can == Can::Wake {
            part.can = Can::GoOn;
        } else {
            part.was_woken = true;
        }
    }
}

/// Takes a lock by `attempt`, or has others go on until one is free.
fn take<G, H>(attempt: impl Fn() -> Result<G, TryLockError<G>>, wrap: impl Fn(G) -> H) -> LockResult<H> {
    loop {
        step();
        match attempt() {
            Ok(guard) => return Ok(wrap(guard)),
            Err(TryLockError::Poisoned(guard)) => return Err(PoisonError::new(wrap(guard.into_inner()))),
            Err(TryLockError::WouldBlock) => match current() {
                Some(part) => part.pass(Can::Lock),
                None => std::thread::yield_now(),
            },
        }
    }
}

/// A guard of std's; those who wait for a lock try again when it goes.
pub struct Guard<G>(Option<G>);

/// See [`Mutex`].
pub type MutexGuard<'a, T> = Guard<std::sync::MutexGuard<'a, T>>;
/// See [`RwLock`].
pub type RwLockReadGuard<'a, T> = Guard<std::sync::RwLockReadGuard<'a, T>>;

impl<G> Guard<G> {
    fn of(guard: G) -> Self {
        Self(Some(guard))
    }
}

impl<G: Deref> Deref for Guard<G> {
    type Target = G::Target;

    fn deref(&self) -> &G::Target {
        self.0.as_ref().expect("until it is dropped")
    }
}

impl<G: DerefMut> DerefMut for Guard<G> {
    fn deref_mut(&mut self) -> &mut G::Target {
        self.0.as_mut().expect("until it is dropped")
    }
}

impl<G> Drop for Guard<G> {
    fn drop(&mut self) {
        drop(self.0.take());
        if let Some(part) = current() {
            part.let_go_on(Can::Lock);
        }
    }
}

/// A mutex with a step before it is locked.
#[derive(Debug, Default)]
pub struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    /// See std's.
    pub const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    /// See std's.
    pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        take(|| self.0.try_lock(), Guard::of)
    }
}

/// A lock for one who writes or many who read, with a step before it is locked.
#[derive(Debug, Default)]
pub struct RwLock<T>(std::sync::RwLock<T>);

impl<T> RwLock<T> {
    /// See std's.
    pub const fn new(value: T) -> Self {
        Self(std::sync::RwLock::new(value))
    }

    /// See std's.
    pub fn read(&self) -> LockResult<RwLockReadGuard<'_, T>> {
        take(|| self.0.try_read(), Guard::of)
    }

    /// See std's.
    pub fn write(&self) -> LockResult<Guard<std::sync::RwLockWriteGuard<'_, T>>> {
        take(|| self.0.try_write(), Guard::of)
    }
}

/// A number with a step before it is touched, and after it has grown.
#[derive(Debug, Default)]
pub struct AtomicUsize(atomic::AtomicUsize);

impl AtomicUsize {
    /// See std's.
    pub const fn new(value: usize) -> Self {
        Self(atomic::AtomicUsize::new(value))
    }

    /// See std's.
    pub fn load(&self, order: Ordering) -> usize {
        step();
        self.0.load(order)
    }

    /// See std's.
    pub fn store(&self, value: usize, order: Ordering) {
        step();
        self.0.store(value, order);
    }

    /// See std's.
    pub fn fetch_add(&self, value: usize, order: Ordering) -> usize {
        step();
        let before = self.0.fetch_add(value, order);
        step();
        before
    }

    /// See std's.
    pub fn fetch_sub(&self, value: usize, order: Ordering) -> usize {
        step();
        self.0.fetch_sub(value, order)
    }

    /// See std's.
    pub fn fetch_update(
        &self,
        set: Ordering,
        fetch: Ordering,
        update: impl FnMut(usize) -> Option<usize>,
    ) -> Result<usize, usize> {
        step();
        self.0.fetch_update(set, fetch, update)
    }
}
