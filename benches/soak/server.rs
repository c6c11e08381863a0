//! The server that is soaked: how it is configured and started, and what it tells of itself. Its configuration stands beside
//! this file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::Outcome;
use crate::certificate::Certificate;
use crate::client::{self, Ask};
use crate::machine::{Cores, pinned};
use crate::process::{self, Process};

/// How long it may take to listen.
const START: Duration = Duration::from_secs(20);
/// How often it is looked.
const LOOK: Duration = Duration::from_millis(10);
/// How long a command that asks it may take.
const COMMAND: Duration = Duration::from_secs(30);

/// Its deadlines.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// To the first byte.
    pub first_byte: Duration,
    /// From there to the end of a head.
    pub head: Duration,
    /// Between two pieces of a body.
    pub body: Duration,
    /// An answer that makes no progress.
    pub write: Duration,
    /// From the accept to the end of the handshake.
    pub tls_handshake: Duration,
}

impl Timeouts {
    /// The defaults.
    pub const USUAL: Self = Self {
        first_byte: Duration::from_secs(5),
        head: Duration::from_secs(10),
        body: Duration::from_secs(30),
        write: Duration::from_secs(30),
        tls_handshake: Duration::from_secs(10),
    };
    /// For a run of a minute.
    pub const SHORT: Self = {
        let short = Duration::from_secs(1);
        Self { first_byte: short, head: short, body: short, write: short, tls_handshake: short }
    };
}

/// What a server is started with.
#[derive(Debug)]
pub struct Ground {
    /// The program.
    pub program: PathBuf,
    /// Where it runs.
    pub cores: Cores,
    /// What it shows over TLS.
    pub certificate: Certificate,
    /// Variables that change its configuration.
    pub environment: Vec<(String, String)>,
    /// Where it may write; gone at the end.
    pub directory: PathBuf,
}

/// A running server, ended when dropped.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    /// Where it listens for TLS.
    pub tls: SocketAddr,
    /// Its process.
    pub process: Arc<Process>,
    admin: SocketAddr,
    program: PathBuf,
    directory: TempDir,
}

impl Ground {
    /// Starts a server on one core and waits until it listens.
    pub fn start(&self, origin: SocketAddr, app: SocketAddr, timeouts: &Timeouts) -> Outcome<Server> {
        let directory = tempfile::Builder::new().prefix("server").tempdir_in(&self.directory)?;
        let file = directory.path().join("ticketgate.toml");
        std::fs::write(&file, self.configuration(origin, app, timeouts, directory.path()))?;
        let mut command = Command::new(&self.program);
        command.env_clear().current_dir(directory.path()).arg("--config").arg(file);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let said = directory.path().join("said");
        let mut process = pinned(self.cores.serving(1), || Process::start(command, said.clone()))?;
        let begun = Instant::now();
        let listening = loop {
            if let Some(line) = line_saying(&said, "listening") {
                break line;
            }
            if !process.runs() || begun.elapsed() > START {
                return Err(format!("ticketgate does not listen:\n{}", process.last_words()).into());
            }
            thread::sleep(LOOK);
        };
        let address =
            |name: &str| -> Outcome<SocketAddr> { Ok(listening[name].as_str().ok_or("no address")?.parse()?) };
        Ok(Server {
            address: address("public")?,
            tls: address("tls")?,
            admin: address("admin")?,
            process: Arc::new(process),
            program: self.program.clone(),
            directory,
        })
    }

    fn configuration(&self, origin: SocketAddr, app: SocketAddr, timeouts: &Timeouts, directory: &Path) -> String {
        let time = |time: Duration| humantime::format_duration(time).to_string();
        let values = [
            ("{origin}", origin.to_string()),
            ("{app}", app.to_string()),
            ("{directory}", directory.display().to_string()),
            ("{certificate}", self.certificate.chain.display().to_string()),
            ("{key}", self.certificate.key.display().to_string()),
            ("{first_byte}", time(timeouts.first_byte)),
            ("{head}", time(timeouts.head)),
            ("{body}", time(timeouts.body)),
            ("{write}", time(timeouts.write)),
            ("{tls_handshake}", time(timeouts.tls_handshake)),
        ];
        let text = include_str!("ticketgate.toml").to_owned();
        values.iter().fold(text, |text, (name, value)| text.replace(name, value))
    }
}

impl Server {
    /// Makes tickets own, a line each.
    pub fn register(&self, tickets: &str) -> Outcome<()> {
        let file = self.directory.path().join("tickets");
        std::fs::write(&file, tickets)?;
        let mut command = Command::new(&self.program);
        command.env_clear().arg("register").arg(file).args(["--admin", &self.admin.to_string()]);
        process::run(command, COMMAND, self.directory.path()).map(drop)
    }

    /// What it counts by this name.
    pub async fn metric(&self, name: &str) -> Outcome<u64> {
        let mut body = Vec::new();
        let ask = Ask::plain("/metrics".to_owned());
        client::ask(&mut client::connect(self.admin).await?, &ask, &mut body).await?;
        let page = String::from_utf8_lossy(&body).into_owned();
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.ok_or_else(|| format!("it does not tell {name}"))?.trim().parse()?)
    }

    /// How many files it has open.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.process.id())).map_or(0, Iterator::count)
    }

    /// Connections of clients.
    pub async fn connections(&self) -> Outcome<u64> {
        self.metric("ticketgate_connections_open").await
    }
}

/// The line of a log that has this message.
fn line_saying(log: &Path, message: &str) -> Option<Value> {
    let text = std::fs::read_to_string(log).ok()?;
    let mut lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.find(|line| line["message"] == message)
}
