//! The servers that are compared: how each is configured and started, which is the part to look at when a figure seems
//! unfair. The configurations themselves stand beside this file.

use std::fmt;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::Instant;

use crate::Outcome;
use crate::certificate::Certificate;
use crate::machine::{Cores, find, free_address, pinned};
use crate::process::{self, Process};

/// How long a server may take to listen.
const START: Duration = Duration::from_secs(20);
/// How often it is tried.
const TRY: Duration = Duration::from_micros(200);
/// Ports are free when they are looked for, and may be taken when they are used.
const ATTEMPTS: usize = 3;
/// What a peer's version may take to be told.
const VERSION: Duration = Duration::from_secs(10);

/// What Varnish would note in shared memory of each request and connection.
const SILENT: &str = "-Begin,-End,-SessOpen,-SessClose,-Link,-Timestamp,-ReqStart,-ReqMethod,-ReqURL,-ReqProtocol,\
     -ReqHeader,-ReqUnset,-ReqAcct,-RespProtocol,-RespStatus,-RespReason,-RespHeader,-RespUnset,-VCL_call,-VCL_return,-Hit";

/// HAProxy's 304s name the length of what they do not send, as they may, and wrk would wait for it.
const WITHOUT_LENGTH: &str = "http-after-response del-header content-length if { status 304 }";

/// Who is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Kind {
    /// What the kernel alone costs.
    Floor,
    /// Ourselves.
    Ticketgate,
    /// Another build of ourselves (`--other`).
    Other,
    /// nginx's `proxy_cache`.
    Nginx,
    /// HAProxy's cache.
    Haproxy,
    /// Varnish, in memory.
    Varnish,
}

impl Kind {
    /// All of them, in the order of tables.
    pub const ALL: [Self; 6] = [Self::Floor, Self::Ticketgate, Self::Other, Self::Nginx, Self::Haproxy, Self::Varnish];

    /// As flags and tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Ticketgate => "ticketgate",
            Self::Other => "other",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Varnish => "varnish",
        }
    }

    /// Whether images are kept in it; the floor keeps nothing.
    pub fn caches(self) -> bool {
        self != Self::Floor
    }

    /// Whether it speaks TLS; Varnish leaves that to others.
    pub fn speaks_tls(self) -> bool {
        !matches!(self, Self::Floor | Self::Varnish)
    }

    /// Debian's package, and the program in it.
    fn package(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Nginx => Some(("nginx", "nginx")),
            Self::Haproxy => Some(("haproxy", "haproxy")),
            Self::Varnish => Some(("varnish", "varnishd")),
            Self::Floor | Self::Ticketgate | Self::Other => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Where the programs are.
#[derive(Debug, Clone)]
pub struct Programs {
    /// Ourselves.
    pub ticketgate: PathBuf,
    /// Another build of ourselves.
    pub other: Option<PathBuf>,
}

impl Programs {
    /// The program of `kind`, if it is there.
    fn of(&self, kind: Kind) -> Option<PathBuf> {
        match kind {
            Kind::Floor => std::env::current_exe().ok(),
            Kind::Ticketgate => Some(self.ticketgate.clone()),
            Kind::Other => self.other.clone(),
            Kind::Nginx | Kind::Haproxy | Kind::Varnish => find(kind.package()?.1),
        }
    }

    /// Those of `wanted` that are here, and the packages of those that are not.
    pub fn present(&self, wanted: &[Kind]) -> (Vec<Kind>, Vec<&'static str>) {
        let (here, missing): (Vec<Kind>, Vec<Kind>) = wanted.iter().partition(|kind| self.of(**kind).is_some());
        (here, missing.into_iter().filter_map(|kind| Some(kind.package()?.0)).collect())
    }

    /// What `kind` says of its version.
    pub fn version(&self, kind: Kind, directory: &Path) -> Option<String> {
        let flag = match kind {
            Kind::Floor => return None,
            Kind::Ticketgate | Kind::Other => "--version",
            Kind::Nginx | Kind::Haproxy => "-v",
            Kind::Varnish => "-V",
        };
        let mut command = Command::new(self.of(kind)?);
        command.arg(flag);
        let said = process::run(command, VERSION, directory).ok()?;
        Some(said.lines().next()?.trim_start_matches("nginx version: ").to_owned())
    }
}

/// What a server is to do.
#[derive(Debug, Clone, Copy)]
pub struct Task {
    /// Who.
    pub kind: Kind,
    /// What it caches, and the floor imitates: bytes of an image.
    pub size: usize,
    /// Whether the floor is to say 304.
    pub not_modified: bool,
    /// Cores it may use; it gets a thread for each.
    pub cores: usize,
    /// Whom it asks.
    pub origin: SocketAddr,
}

/// What all servers are started with.
#[derive(Debug)]
pub struct Ground {
    /// Where they are.
    pub programs: Programs,
    /// Where they run.
    pub cores: Cores,
    /// What they show over TLS.
    pub certificate: Certificate,
    /// Files that may be open.
    pub files: usize,
    /// Where they may write; gone at the end.
    pub directory: PathBuf,
}

/// A running server, ended when dropped.
#[derive(Debug)]
pub struct Server {
    /// Who it is.
    pub kind: Kind,
    /// What tables call it.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Where it listens for TLS, if it does.
    pub tls: Option<SocketAddr>,
    /// Its processes.
    pub process: Process,
    /// From its start to its first accepted connection.
    pub took: Duration,
    /// What it wrote; goes after its processes, which are declared before it.
    _directory: TempDir,
}

impl Ground {
    /// Starts a server and waits until it listens.
    pub fn start(&self, task: Task) -> Outcome<Server> {
        let mut attempts = (0..ATTEMPTS).map(|_| self.attempt(task));
        let first = attempts.next().expect("there are attempts");
        first.or_else(|why| attempts.find_map(Result::ok).ok_or(why))
    }

    fn attempt(&self, task: Task) -> Outcome<Server> {
        let (address, tls) = (free_address()?, free_address()?);
        let directory = tempfile::Builder::new().prefix(task.kind.name()).tempdir_in(&self.directory)?;
        let command = self.command(task, address, tls, directory.path())?;
        let begun = Instant::now();
        let mut process =
            pinned(self.cores.serving(task.cores), || Process::start(command, directory.path().join("said")))?;
        while TcpStream::connect(address).is_err() {
            if !process.runs() || begun.elapsed() > START {
                return Err(format!("{} does not listen:\n{}", task.kind, process.last_words()).into());
            }
            thread::sleep(TRY);
        }
        let took = begun.elapsed();
        if !process.runs() {
            return Err(format!("{} has ended:\n{}", task.kind, process.last_words()).into());
        }
        let tls = Some(tls).filter(|_| task.kind.speaks_tls());
        Ok(Server {
            kind: task.kind,
            name: task.kind.name().to_owned(),
            address,
            tls,
            process,
            took,
            _directory: directory,
        })
    }

    fn command(&self, task: Task, address: SocketAddr, tls: SocketAddr, directory: &Path) -> Outcome<Command> {
        let program = self.programs.of(task.kind).ok_or("it is not installed")?;
        let mut command = Command::new(program);
        let fill = |name: &str, text: &str, tls_text: &str| -> Outcome<PathBuf> {
            let file = directory.join(name);
            std::fs::write(&file, self.filled_in(&text.replace("{tls}", tls_text), task, address, tls, directory))?;
            Ok(file)
        };
        match task.kind {
            Kind::Floor => {
                let size = if task.not_modified { 0 } else { task.size };
                command.args(["floor", &address.to_string(), &size.to_string()]);
            }
            Kind::Ticketgate | Kind::Other => {
                let (own, with_tls) = (include_str!("ticketgate.toml"), include_str!("ticketgate-tls.toml"));
                command.env_clear().current_dir(directory);
                command.arg("--config").arg(fill("ticketgate.toml", own, with_tls)?);
            }
            Kind::Nginx => {
                let written = fill("nginx.conf", include_str!("nginx.conf"), include_str!("nginx-tls.conf"))?;
                command.arg("-p").arg(directory).arg("-c").arg(written).args(["-e", "stderr"]);
            }
            Kind::Haproxy => {
                let written = fill("haproxy.cfg", include_str!("haproxy.cfg"), include_str!("haproxy-tls.cfg"))?;
                command.arg("-db").arg("-f").arg(written);
            }
            Kind::Varnish => {
                let written = fill("varnish.vcl", include_str!("varnish.vcl"), "")?;
                command.args(["-F", "-j", "none", "-n"]).arg(directory).arg("-f").arg(written);
                command.args(["-a", &address.to_string(), "-s", "malloc,4g", "-p", "timeout_idle=300"]);
                command.args(["-p", &format!("thread_pools={}", task.cores), "-p", "thread_pool_min=400"]);
                // No line for each request, here as everywhere.
                command.args(["-p", &format!("vsl_mask={SILENT}")]);
            }
        }
        Ok(command)
    }

    fn filled_in(&self, text: &str, task: Task, address: SocketAddr, tls: SocketAddr, directory: &Path) -> String {
        let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
        let values = [
            ("{user}", user.to_owned()),
            ("{workers}", task.cores.to_string()),
            ("{files}", self.files.to_string()),
            // Two files for each, and a hundred for itself.
            ("{connections}", (self.files.saturating_sub(300) / 2).min(9_800).to_string()),
            ("{not_modified}", if task.not_modified { WITHOUT_LENGTH } else { "" }.to_owned()),
            ("{directory}", directory.display().to_string()),
            ("{address}", address.to_string()),
            ("{tls_address}", tls.to_string()),
            ("{origin}", task.origin.to_string()),
            ("{origin_host}", task.origin.ip().to_string()),
            ("{origin_port}", task.origin.port().to_string()),
            ("{certificate}", self.certificate.chain.display().to_string()),
            ("{key}", self.certificate.key.display().to_string()),
            ("{bundle}", self.certificate.bundle.display().to_string()),
        ];
        values.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
    }
}
