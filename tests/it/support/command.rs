//! The command itself, as a process of its own.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::client::Connection;

pub const ON_FREE_PORTS: [&str; 4] = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];

/// The command in an empty directory and an empty environment, so that nothing of this machine counts.
pub fn ticketgate(directory: &TempDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ticketgate"));
    command.args(arguments).current_dir(directory.path()).env_clear();
    command
}

/// A server under test, ended with the test.
pub struct Server {
    child: Child,
    stderr: BufReader<ChildStderr>,
    /// Lines that nobody asked for yet: two processes that share this pipe say things in either order.
    passed: Vec<Value>,
    directory: TempDir,
}

impl Server {
    pub fn start(arguments: &[&str]) -> Self {
        let directory = TempDir::new().unwrap();
        Self::run(ticketgate(&directory, arguments), directory)
    }

    /// Configured by a file of its own.
    pub fn configured(toml: &str) -> Self {
        let directory = TempDir::new().unwrap();
        std::fs::write(directory.path().join("ticketgate.toml"), toml).unwrap();
        Self::run(ticketgate(&directory, &[]), directory)
    }

    pub fn run(mut command: Command, directory: TempDir) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Self { child, stderr, passed: Vec::new(), directory }
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How much memory it has resident, in kB.
    pub fn resident(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// How much it ever had.
    pub fn peak(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// The processor's time that it has used, of both kinds, in hundredths of a second (proc(5)).
    pub fn processor_time(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap();
        let fields = stat.rsplit_once(") ").expect("a name in brackets").1.split(' ');
        fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
    }

    /// How long, in nanoseconds, the threads that serve connections were on a processor so far, and how often (the kernel's
    /// `sched-stats`).
    pub fn turns(&self) -> [u64; 2] {
        let task = |name: &str, file: &str| std::fs::read_to_string(format!("/proc/{}/task/{name}/{file}", self.id()));
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.id())).unwrap();
        let threads = threads.map(|thread| thread.unwrap().file_name().into_string().unwrap());
        let serving: Vec<_> = threads.filter(|thread| task(thread, "comm").is_ok_and(|name| serves(&name))).collect();
        assert!(!serving.is_empty(), "no thread is called as a worker is");
        serving.iter().fold([0; 2], |[time, times], thread| {
            let told = task(thread, "schedstat").unwrap();
            let mut fields = told.split_whitespace().map(|field| field.parse::<u64>().unwrap());
            [time + fields.next().unwrap(), times + fields.nth(1).unwrap()]
        })
    }

    pub fn log_line(&mut self) -> Value {
        let mut line = String::new();
        self.stderr.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("no JSON: {line:?}"))
    }

    /// The log line that has this message.
    pub fn log_line_saying(&mut self, message: &str) -> Value {
        self.log_line_that(message, |line| line["message"] == message)
    }

    /// The next log line that fits, of those that were not asked for yet.
    pub fn log_line_that(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        if let Some(found) = self.passed.iter().position(&fits) {
            return self.passed.remove(found);
        }
        for _ in 0..100 {
            let line = self.log_line();
            if fits(&line) {
                return line;
            }
            self.passed.push(line);
        }
        panic!("never logged: {what}; but {:#?}", self.passed)
    }

    /// What is written, by whoever shares its standard error too, until `end` is.
    pub fn text_until(&mut self, end: &str) -> String {
        let mut text = String::new();
        while !text.contains(end) {
            assert!(self.stderr.read_line(&mut text).unwrap() > 0, "never written: {end}; but {text}");
        }
        text
    }

    /// What is logged until it ends, which a second signal hastens.
    pub fn log_to_the_end(&mut self) -> String {
        let mut log = String::new();
        let mut ending = false;
        while self.stderr.read_line(&mut log).unwrap() > 0 {
            if !std::mem::replace(&mut ending, log.contains("draining;")) && ending {
                self.signal(Signal::INT);
            }
        }
        log
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub fn exit_code(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn address(line: &Value, listener: &str) -> SocketAddr {
    line[listener].as_str().unwrap().parse().unwrap()
}

/// The sum of all series of `name` at the operator's listener `admin`.
pub async fn metric(admin: SocketAddr, name: &str) -> u64 {
    let page = Connection::to_operator(admin).await.get("/metrics", "Connection: close\r\n").await;
    let series = page.text().lines().filter_map(|line| line.strip_prefix(name));
    let values = series.filter(|rest| rest.starts_with(['{', ' '])).map(|rest| rest.rsplit_once(' ').unwrap().1);
    let values: Vec<u64> = values.map(|value| value.parse().unwrap()).collect();
    assert!(!values.is_empty(), "there is no {name}");
    values.into_iter().sum()
}

/// Whether a thread of this name serves connections.
fn serves(thread: &str) -> bool {
    thread.trim().strip_prefix("ticketgate-").is_some_and(|number| number.parse::<usize>().is_ok())
}
