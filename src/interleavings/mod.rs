//! Explores in which orders the parts of a test can go on. The code that ships runs, not a model of it: futures, polled by hand
//! ([`tasks`]), where what matters happens between polls; threads, of which one runs at a time ([`threads`]), where it
//! happens between two locks or flags.
//!
//! A schedule is the list of its choices. It is run again with the last choice made otherwise until none is left, depth
//! first. What a runtime would do by itself is always the first choice; of the others, only so many are taken in one
//! schedule ("detours"): races that need more are rare, and the schedules are a number that a test can run. Every schedule
//! within that bound is run. One that fails is printed.

pub mod tasks;
pub mod threads;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Steps of a schedule, past which it is taken to have no end.
const LONGEST: usize = 10_000;

/// Schedules of one exploration, past which it is too large to be a test.
const MOST: usize = 200_000;

/// The choices of one schedule.
#[derive(Debug, Default)]
pub struct Choices {
    made: Vec<Choice>,
    next: usize,
    detours: usize,
    most_detours: usize,
    told: Vec<String>,
}

#[derive(Debug)]
struct Choice {
    chosen: usize,
    options: usize,
}

impl Choices {
    /// Chooses one of `options`. Another than the first is a detour, unless all are equal (`is_free`).
    pub fn choose(&mut self, options: usize, is_free: bool) -> usize {
        let options = if is_free || self.detours < self.most_detours { options } else { 1 };
        if self.next == self.made.len() {
            assert!(self.next < LONGEST, "this schedule does not end");
            self.made.push(Choice { chosen: 0, options });
        }
        let Choice { chosen, options: before } = self.made[self.next];
        assert_eq!(options, before, "the same choices led elsewhere: something else decides, too");
        self.next += 1;
        self.detours += usize::from(chosen > 0 && !is_free);
        chosen
    }

    /// Notes what happens, for whoever reads why a schedule failed.
    pub fn tell(&mut self, what: impl Into<String>) {
        self.told.push(what.into());
    }

    /// Makes the last choice that can be made otherwise so; false when there is none.
    fn turn(&mut self) -> bool {
        (self.next, self.detours) = (0, 0);
        self.told.clear();
        while let Some(mut last) = self.made.pop() {
            last.chosen += 1;
            if last.chosen < last.options {
                self.made.push(last);
                return true;
            }
        }
        false
    }
}

/// Runs `schedule` with every list of choices that takes at most `most_detours`; returns how many there are.
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "cargo shows it with the test")]
pub fn explore(name: &str, most_detours: usize, mut schedule: impl FnMut(&mut Choices)) -> usize {
    let mut choices = Choices { most_detours, ..Choices::default() };
    for count in 1..=MOST {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| schedule(&mut choices))) {
            let why = panic.downcast_ref::<String>().map_or("", String::as_str);
            eprintln!("{name}: schedule {count} fails: {why}\n  {}", choices.told.join("\n  "));
            resume_unwind(panic);
        }
        if !choices.turn() {
            println!("{name}: {count} schedules");
            return count;
        }
    }
    panic!("{name}: more than {MOST} schedules");
}

mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_list_of_choices_is_made_once() {
        let mut seen = BTreeSet::new();
        let count = explore("three choices", 9, |choices| {
            let made: Vec<_> = [2, 3, 2].map(|options| choices.choose(options, false)).into();
            assert!(seen.insert(made));
        });
        assert_eq!((count, seen.len()), (12, 12));
    }

    #[test]
    fn detours_are_bounded_and_what_is_free_is_none() {
        let count = explore("ten choices, two detours", 2, |choices| {
            let detours = (0..10).filter(|_| choices.choose(2, false) > 0).count();
            assert!(detours <= 2);
        });
        assert_eq!(count, 1 + 10 + 45);
        assert_eq!(explore("free", 0, |choices| assert!(choices.choose(4, true) < 4)), 4);
    }
}
