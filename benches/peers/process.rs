//! A server's process, and what the kernel accounts to it and its children. It ends with its guard, on every way out; on a
//! signal, and when the whole run takes too long, all of them do.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::Outcome;

/// How often it is looked whether a process has ended.
const LOOK: Duration = Duration::from_millis(5);
/// Lines of a server's own words that are shown when it fails.
const LAST_WORDS: usize = 12;

/// The process groups under way.
static GROUPS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// A process in a group of its own, killed when dropped, with its children.
#[derive(Debug)]
pub struct Process {
    child: Child,
    said: PathBuf,
}

/// What the kernel has accounted to a process and its children.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu {
    /// Seconds in the program.
    pub user: f64,
    /// Seconds in the kernel.
    pub system: f64,
}

/// Memory in KiB.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    /// The proportional set size: pages shared with others count in part.
    pub now: u64,
    /// The resident peaks of all processes, shared pages counted in each.
    pub peak: u64,
}

impl Process {
    /// Starts `command`; what it says goes to the file `said`.
    pub fn start(mut command: Command, said: PathBuf) -> Outcome<Self> {
        let file = File::create(&said)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).process_group(0);
        let child = command.spawn().map_err(|error| format!("{}: {error}", command.get_program().display()))?;
        groups().insert(child.id().cast_signed());
        Ok(Self { child, said })
    }

    /// Whether it runs still.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Its last words.
    pub fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.said).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LAST_WORDS)..].join("\n")
    }

    /// What it has used so far, with its children.
    pub fn cpu(&self) -> Cpu {
        let tick = rustix::param::clock_ticks_per_second() as f64;
        let mut sum = Cpu::default();
        for stat in self.tree().into_iter().filter_map(stat) {
            let seconds =
                |field: usize| stat.get(field).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0) / tick;
            sum.user += seconds(11);
            sum.system += seconds(12);
        }
        sum
    }

    /// What it holds, with its children.
    pub fn memory(&self) -> Memory {
        let kib = |pid: i32, file: &str, name: &str| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap_or(0)
        };
        let tree = self.tree();
        let sum = |file, name| tree.iter().map(|pid| kib(*pid, file, name)).sum();
        Memory { now: sum("smaps_rollup", "Pss:"), peak: sum("status", "VmHWM:") }
    }

    /// Its number.
    pub fn id(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Its number and those of its children, and theirs.
    fn tree(&self) -> Vec<i32> {
        let all: Vec<i32> = std::fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        let parents: Vec<(i32, i32)> =
            all.into_iter().filter_map(|pid| Some((pid, stat(pid)?.get(1)?.parse().ok()?))).collect();
        let mut tree = vec![self.id()];
        let mut next = 0;
        while let Some(parent) = tree.get(next).copied() {
            tree.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
            next += 1;
        }
        tree
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let tree = self.tree();
        for pid in tree.into_iter().filter_map(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
        end_group(self.id());
        let _ = self.child.wait();
        groups().remove(&self.id());
    }
}

/// The fields behind the name in `/proc/PID/stat`, the state first.
fn stat(pid: i32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(") ")?.1.split(' ').map(str::to_owned).collect())
}

fn groups() -> std::sync::MutexGuard<'static, BTreeSet<i32>> {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn end_group(group: i32) {
    if let Some(group) = Pid::from_raw(group) {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// Runs `command` to its end, at most `longest`, and tells what it wrote to its standard output.
pub fn run(command: Command, longest: Duration, directory: &Path) -> Outcome<String> {
    let name = command.get_program().display().to_string();
    let said = directory.join("command");
    let mut process = Process::start(command, said.clone())?;
    let begun = Instant::now();
    while process.runs() {
        if begun.elapsed() > longest {
            return Err(format!("{name} did not end within {longest:?}").into());
        }
        thread::sleep(LOOK);
    }
    if !process.child.wait()?.success() {
        return Err(format!("{name} failed:\n{}", process.last_words()).into());
    }
    Ok(std::fs::read_to_string(said)?)
}

/// Ends every process and this one, and removes `directory`, on a signal or after `longest`.
pub fn watch(directory: PathBuf, longest: Duration) {
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let why = runtime.block_on(async {
            let catch = |kind| signal(kind).expect("signals can be caught");
            let (mut interrupt, mut terminate) = (catch(SignalKind::interrupt()), catch(SignalKind::terminate()));
            tokio::select! {
                _ = interrupt.recv() => "interrupted".to_owned(),
                _ = terminate.recv() => "terminated".to_owned(),
                () = tokio::time::sleep(longest) => format!("not done after {longest:?}"),
            }
        });
        groups().iter().copied().for_each(end_group);
        let _ = std::fs::remove_dir_all(directory);
        eprintln!("ended: {why}");
        std::process::exit(1);
    });
}
