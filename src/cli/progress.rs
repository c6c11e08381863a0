//! What is told while a long command works: on a terminal a bar that is redrawn, elsewhere a line every so often. Both on
//! standard error; what went wrong is a line of its own in either case.

use std::fmt::Display;
use std::io::{self, IsTerminal as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::complain;
use crate::clock::Clock;
use crate::moment::Tick;

/// Between two lines.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Between two drawings of a bar.
const DRAW_EVERY: Duration = Duration::from_millis(200);

/// A command's progress.
pub(super) struct Progress {
    clock: Clock,
    began: Tick,
    told: Tick,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Begins now. `length` is what [`moved`](Self::moved) comes to in the end, where that is known.
    pub(super) fn begin(length: Option<u64>) -> Self {
        let clock = Clock::system();
        let began = clock.tick();
        let bar = io::stderr().is_terminal().then(|| bar(length));
        Self { clock, began, told: began, bar }
    }

    /// Tells what went wrong.
    pub(super) fn trouble(&self, text: impl Display) {
        match &self.bar {
            Some(bar) => bar.suspend(|| complain(text)),
            None => complain(text),
        }
    }

    /// Went on by `by` of its length; `done` things are done, as `what` says.
    pub(super) fn moved(&mut self, by: u64, done: u64, what: impl Display) {
        let now = self.clock.tick();
        let rate = done as f64 / now.since(self.began).as_secs_f64().max(0.001);
        if let Some(bar) = &self.bar {
            bar.inc(by);
            bar.set_message(format!("{rate:.0}/s  {what}"));
        } else if now.since(self.told) >= TELL_EVERY {
            self.told = now;
            complain(format_args!("{what}, {rate:.0}/s"));
        }
    }

    /// Ends; returns how long it took.
    pub(super) fn end(&self) -> Duration {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.clock.tick().since(self.began)
    }
}

/// What a narrow window cuts off stands last.
fn bar(length: Option<u64>) -> ProgressBar {
    let (bar, template) = match length {
        Some(length) => (ProgressBar::new(length), "{bar:20} {percent:>3}%  {eta} left  {msg}"),
        None => (ProgressBar::new_spinner(), "{spinner} {elapsed}  {msg}"),
    };
    let style = ProgressStyle::with_template(template).expect("a template that is written well");
    bar.set_style(style.progress_chars("=> "));
    bar.enable_steady_tick(DRAW_EVERY);
    bar
}
