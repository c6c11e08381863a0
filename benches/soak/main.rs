//! Good clients beside bad ones: a flood of rubbish tickets from a million networks, slow clients of every kind, valid
//! tickets of strangers, an origin that comes and goes. It starts a server of its own, asks it over loopback alone, and is
//! bounded in count and in time. `cargo bench --bench soak -- --minutes 15`; `docs/reliability.md` says how to read it.
//!
//! What must hold on any machine ends it with 1 when it does not: good clients are answered from the cache, memory and
//! descriptors stay within their bounds, slow clients are closed. Times are told and never fail: they are the machine's too.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "tables to read are all it is for")]
#![expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "figures are small and positive")]

mod app;
mod aside;
mod awake;
mod bare;
mod crowd;
mod flood;
mod good;
mod guests;
mod origin;
mod report;
mod scale;
mod scenarios;
mod server;
mod slow;
mod stamps;
mod strangers;
mod watch;

#[path = "../peers/alarm.rs"]
mod alarm;
#[path = "../peers/arrival.rs"]
mod arrival;
#[expect(dead_code, reason = "the comparison has a server that wants both in one file")]
#[path = "../peers/certificate.rs"]
mod certificate;
#[expect(dead_code, reason = "the comparison tells more of a load")]
#[path = "../peers/client.rs"]
mod client;
#[expect(dead_code, reason = "the comparison finds programs, and has servers with several cores")]
#[path = "../peers/machine.rs"]
mod machine;
#[path = "../peers/median.rs"]
mod median;
#[path = "../peers/options.rs"]
mod options;
#[path = "../peers/page.rs"]
mod page;
#[expect(dead_code, reason = "the comparison tells processor time")]
#[path = "../peers/process.rs"]
mod process;
#[path = "../peers/program.rs"]
mod program;
#[expect(dead_code, reason = "the comparison asks in several orders")]
#[path = "../peers/tickets.rs"]
mod tickets;
#[path = "../peers/wire.rs"]
mod wire;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use certificate::Certificate;
use machine::Cores;
use options::Options;
use report::Report;
use scale::Scale;
use scenarios::{Scenario, Soak};
use server::Ground;
use slow::Kind;

/// Why something could not be done, in words.
type Trouble = Box<dyn std::error::Error + Send + Sync>;
/// What could be done.
type Outcome<T> = Result<T, Trouble>;

/// What a run may take beyond the minutes of everything at once.
const LONGEST_RUN: Duration = Duration::from_secs(3 * 3600);
/// The same for one of a minute.
const LONGEST_SMOKE_RUN: Duration = Duration::from_secs(600);

/// Soaks ticketgate: good load beside floods, slow clients and an origin that comes and goes.
#[derive(Debug, Parser)]
#[command(name = "soak", bin_name = "cargo bench --bench soak --")]
struct Arguments {
    /// What to do [default: all of it]
    #[arg(long = "scenario", value_delimiter = ',', value_name = "SCENARIO,…")]
    scenarios: Vec<Scenario>,
    /// How long everything happens at once [default: 15]
    #[arg(long)]
    minutes: Option<u64>,
    /// Rubbish tickets of the flood [default: 10000000]
    #[arg(long, value_name = "COUNT")]
    tickets: Option<u64>,
    /// Slow connections of each kind [default: 5000]
    #[arg(long, value_name = "COUNT")]
    connections: Option<usize>,
    /// Kinds of them alone [default: all]
    #[arg(long = "kind", value_delimiter = ',', value_name = "KIND,…", conflicts_with = "write")]
    kinds: Vec<Kind>,
    /// Windows, at least, in which the good load is looked at beside each kind, and without it [default: 30]
    #[arg(long, value_name = "COUNT")]
    windows: Option<usize>,
    /// All of it in a minute and a half, with short deadlines
    #[arg(long)]
    quick: bool,
    /// Sets a variable of the server, such as `TICKETGATE_TIMEOUTS_HEAD=1h`, to see a check fail
    #[arg(long = "env", value_name = "NAME=VALUE")]
    environment: Vec<String>,
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(trouble) => {
            eprintln!("soak: {trouble}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Outcome<ExitCode> {
    if !arguments.quick && arguments.minutes.is_none() && arguments.scenarios.is_empty() {
        println!("soak: say what to do: --minutes 15, --scenario rubbish,slow or --quick; --help tells more");
        return Ok(ExitCode::SUCCESS);
    }
    let scale = scale(arguments);
    let directory = tempfile::Builder::new().prefix("soak").tempdir()?;
    let longest = if arguments.quick { LONGEST_SMOKE_RUN } else { LONGEST_RUN };
    process::watch(directory.path().to_owned(), longest + scale.together);
    machine::raise_open_files();
    let program = program::copied(arguments.options.binary.as_deref(), arguments.quick, directory.path())?;
    let cores = Cores::share();
    machine::pin(&cores.load);
    let scenarios = if arguments.scenarios.is_empty() { Scenario::ALL.to_vec() } else { arguments.scenarios.clone() };
    let names = scenarios.iter().map(|scenario| format!("{scenario:?}")).collect();
    let mut report = Report::new(&cores, names, arguments.options.note.clone());
    let certificate = Certificate::make(directory.path())?;
    let environment = arguments.environment.iter().map(|pair| variable(pair)).collect::<Outcome<_>>()?;
    let directory = directory.path();
    let ground = Ground { program, cores, certificate, environment, directory: directory.to_owned() };
    let kinds = if arguments.kinds.is_empty() { Kind::ALL.to_vec() } else { arguments.kinds.clone() };
    let soak = Soak { ground, scale, kinds, progress: |what| eprintln!("… {what}") };
    for scenario in scenarios {
        soak.run(scenario, &mut report);
    }
    report.print();
    let holds = report.holds();
    report.write(&arguments.options.destination(directory))?;
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn scale(arguments: &Arguments) -> Scale {
    let usual = if arguments.quick { Scale::SMOKE } else { Scale::USUAL };
    Scale {
        together: arguments.minutes.map_or(usual.together, |minutes| Duration::from_secs(minutes * 60)),
        rubbish: arguments.tickets.unwrap_or(usual.rubbish),
        slow: arguments.connections.unwrap_or(usual.slow),
        slow_glances: arguments.windows.unwrap_or(usual.slow_glances).max(1),
        ..usual
    }
}

fn variable(pair: &str) -> Outcome<(String, String)> {
    let parts = pair.split_once('=').ok_or_else(|| format!("--env {pair}: NAME=VALUE"))?;
    Ok((parts.0.to_owned(), parts.1.to_owned()))
}
