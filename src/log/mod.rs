//! Log lines on standard error, written off the request's thread: human on a terminal, JSON otherwise (S39).

pub mod access;
mod client;
pub mod config;

use std::io::IsTerminal;
use std::net::IpAddr;

pub use access::ACCESS;
pub use client::{ClientShown, Shown};
pub use config::{Config, Format};
use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

/// Target of the line that says where we listen: it appears whatever the level (S2).
pub const START: &str = "ticketgate::start";

/// Lines that may wait to be written; past them lines are dropped, and requests are never held up.
const QUEUE: usize = 16_384;

/// The running log. Dropping it writes what is still queued.
pub struct Log {
    control: Control,
    _guard: WorkerGuard,
}

/// What can be asked of a running log, and changed in it. Cheap to clone; the default one is of a process in which nobody
/// logs.
#[derive(Debug, Clone, Default)]
pub struct Control {
    dropped: Option<ErrorCounter>,
    targets: Option<reload::Handle<Targets, Registry>>,
    clients: client::Rule,
}

impl Log {
    /// The way to it while it runs.
    pub fn control(&self) -> Control {
        self.control.clone()
    }
}

impl Control {
    /// Lines that found the queue full so far.
    pub fn dropped_lines(&self) -> u64 {
        self.dropped.as_ref().map_or(0, |counter| counter.dropped_lines() as u64)
    }

    /// How access lines tell of `client`; `None` when they do not.
    pub fn client(&self, client: IpAddr) -> Option<Shown> {
        self.clients.show(client)
    }

    /// Writes what `config` lets through from now on. How lines look stays.
    pub fn retune(&self, config: &Config) {
        self.clients.set(config.client);
        if let Some(handle) = &self.targets {
            // Fails only when the log is gone.
            let _ = handle.reload(targets(config));
        }
    }
}

/// Sends log lines to standard error from now on.
pub fn init(config: &Config) -> Log {
    let (writer, guard) = NonBlockingBuilder::default().buffered_lines_limit(QUEUE).finish(std::io::stderr());
    let dropped = Some(writer.error_counter());
    let terminal = std::io::stderr().is_terminal();
    let human = match config.format {
        Format::Human => true,
        Format::Json => false,
        Format::Auto => terminal,
    };
    let lines = fmt::layer().with_writer(writer).with_target(false);
    let lines = if human {
        lines.with_ansi(terminal && !no_color()).boxed()
    } else {
        lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
    };
    let (targets, handle) = reload::Layer::new(targets(config));
    let subscriber = Registry::default().with(lines.with_filter(targets));
    if tracing::subscriber::set_global_default(subscriber).is_err() {
        tracing::debug!("somebody else writes the log of this process");
    }
    let clients = client::Rule::default();
    clients.set(config.client);
    Log { control: Control { dropped, targets: Some(handle), clients }, _guard: guard }
}

/// The user's word against colours (no-color.org).
fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// Other crates stay at warnings: at their finer levels they write down whole requests.
fn targets(config: &Config) -> Targets {
    let access = if config.access { LevelFilter::INFO } else { LevelFilter::OFF };
    Targets::new()
        .with_default(LevelFilter::from_level(config.level.min(Level::WARN)))
        .with_target("ticketgate", config.level)
        .with_target(START, LevelFilter::INFO)
        .with_target(ACCESS, access)
}
