//! ticketgate beside nginx, HAProxy and Varnish, and beside the floor: what the kernel alone costs. One run starts them
//! all before one origin, visits them in turn, and tells what each request, connection and image cost them.
//! `cargo bench --bench peers -- --all`; `docs/performance.md` says how to read what it tells.
//!
//! Absolute figures drift with the machine; what counts is a ratio of two servers of one run, round by round.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "tables to read are all it is for")]
#![expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "figures are small and positive")]

mod alarm;
mod arrival;
mod certificate;
mod chart;
#[expect(dead_code, reason = "the soak has clients whose first answers are not timed")]
mod client;
mod compare;
mod floor;
mod machine;
mod median;
mod modes;
mod options;
mod origin;
mod page;
mod process;
mod program;
mod report;
mod server;
mod tickets;
mod tools;
mod wire;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use certificate::Certificate;
use machine::Cores;
use modes::{Bench, Mode, Scale};
use options::Options;
use report::Report;
use server::{Ground, Kind, Programs};

/// Why something could not be measured, in words.
type Trouble = Box<dyn std::error::Error + Send + Sync>;
/// What could be measured.
type Outcome<T> = Result<T, Trouble>;

/// A whole run takes at most so long.
const LONGEST_RUN: Duration = Duration::from_secs(3 * 3600);
/// A smoke run.
const LONGEST_SMOKE_RUN: Duration = Duration::from_secs(600);

/// Compares ticketgate with nginx, HAProxy and Varnish.
#[derive(Debug, Parser)]
#[command(name = "peers", bin_name = "cargo bench --bench peers --")]
struct Arguments {
    /// Measures everything, with every server that is installed
    #[arg(long)]
    all: bool,
    /// What to measure
    #[arg(long, value_delimiter = ',', value_name = "MODE,…")]
    modes: Vec<Mode>,
    /// Whom to compare [default: whoever is installed]
    #[arg(long, value_delimiter = ',', value_name = "SERVER,…")]
    servers: Vec<Kind>,
    /// Visits of each server [default: 5]
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds of a visit [default: 5]
    #[arg(long)]
    seconds: Option<u64>,
    /// Tries the harness: everything once, briefly; the figures mean nothing, and nothing is written
    #[arg(long)]
    quick: bool,
    /// A second ticketgate, such as one from before a change; tables call it "other"
    #[arg(long, value_name = "FILE")]
    other: Option<PathBuf>,
    /// Idle connections [default: 9000, or as many as files may be open]
    #[arg(long, value_name = "COUNT")]
    idle: Option<usize>,
    /// The largest cache of small images; at 1 million it takes 2 GB [default: 1000000]
    #[arg(long, value_name = "COUNT")]
    entries: Option<u64>,
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    let done = match &words[1..] {
        [first, address, size] if first == "floor" => serve_floor(address, size),
        _ => measure(&Arguments::parse()),
    };
    match done {
        Ok(code) => code,
        Err(trouble) => {
            eprintln!("peers: {trouble}");
            ExitCode::FAILURE
        }
    }
}

fn serve_floor(address: &str, size: &str) -> Outcome<ExitCode> {
    floor::serve(address.parse()?, size.parse()?).map(|()| ExitCode::SUCCESS)
}

fn measure(arguments: &Arguments) -> Outcome<ExitCode> {
    if !arguments.all && !arguments.quick && arguments.modes.is_empty() {
        println!("peers: say what to measure: --all, --modes hit,304 or --quick; --help tells more");
        return Ok(ExitCode::SUCCESS);
    }
    let directory = tempfile::Builder::new().prefix("peers").tempdir()?;
    let longest = if arguments.quick { LONGEST_SMOKE_RUN } else { LONGEST_RUN };
    process::watch(directory.path().to_owned(), longest);
    let files = machine::raise_open_files();
    let programs = Programs {
        ticketgate: program::copied(arguments.options.binary.as_deref(), arguments.quick, directory.path())?,
        other: arguments.other.clone(),
    };
    let wanted = if arguments.servers.is_empty() { Kind::ALL.to_vec() } else { arguments.servers.clone() };
    let (servers, mut missing) = programs.present(&wanted);
    missing
        .extend(tools::PACKAGES.iter().filter(|(_, program)| machine::find(program).is_none()).map(|(name, _)| name));
    if !missing.is_empty() {
        eprintln!("not installed: {}. Debian: apt-get install {}", missing.join(", "), missing.join(" "));
    }
    let cores = Cores::share();
    machine::pin(&cores.load);
    let ground = Ground {
        programs,
        cores,
        certificate: Certificate::make(directory.path())?,
        files,
        directory: directory.path().to_owned(),
    };
    let mut report = Report::new(&ground, &servers, arguments.options.note.clone());
    let bench = Bench { ground, servers, scale: scale(arguments), progress: |what| eprintln!("… {what}") };
    let modes = if arguments.modes.is_empty() { Mode::ALL.to_vec() } else { arguments.modes.clone() };
    let is_whole = bench.run(&modes, &mut report);
    report.print();
    report.write(&arguments.options.destination(directory.path()))?;
    Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn scale(arguments: &Arguments) -> Scale {
    let usual = if arguments.quick { Scale::SMOKE } else { Scale::USUAL };
    Scale {
        rounds: arguments.rounds.unwrap_or(usual.rounds).max(1),
        seconds: arguments.seconds.unwrap_or(usual.seconds).max(1),
        idle: arguments.idle.unwrap_or(usual.idle),
        entries: arguments.entries.unwrap_or(usual.entries),
        ..usual
    }
}
