//! A successor (S38): on `SIGUSR2` the program that stands where ours did is started with our arguments and environment and
//! is handed our listening sockets. When it says that it serves, we finish what we have and end; when it does not, it is
//! ended and we go on. No connection is refused meanwhile: the sockets, and their queues, are open all the time.
//!
//! The file of own tickets has one owner: we let go of it first, and take it back when there is no successor. What we learn from
//! then on the successor is told on its standard input, until we end; what it learns it tells us on its standard output, since
//! connections that we still have ask for that too.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use command_fds::{CommandFdExt as _, FdMapping};
use rustix::process::{Pid, Signal, kill_process};
use sd_notify::NotifyState;

use super::say;
use crate::app::Running;
use crate::clock::Clock;
use crate::config::PREDECESSOR_VARIABLE as PREDECESSOR;
use crate::server::inheritance::NAMES;
use crate::store::{Store, read_lines};

/// What a successor says first on its standard output, where a server says nothing but what it learns.
const READY: &str = "ready";

/// How long a successor may take to say so: large certificates and slow disks included.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How long it may take to end when it is of no use: as long as what it may have begun to serve.
const ENDED_WITHIN: Duration = Duration::from_secs(60);

/// How often to see whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The first descriptor that is handed on (`sd_listen_fds(3)`).
const FIRST: i32 = 3;

/// How a successor is started.
#[derive(Debug, Clone)]
pub(super) struct Succession {
    program: PathBuf,
    arguments: Vec<OsString>,
}

/// Why there is no successor.
#[derive(Debug)]
pub(super) enum NoSuccessor {
    /// We are the first process of a container, which ends with us.
    Container,
    /// It could not be started.
    NotStarted(io::Error),
    /// It ended, or was ended, before it served; its own log says why.
    NotReady,
}

/// Whether this process was started by a predecessor.
pub(super) fn is_successor() -> bool {
    std::env::var_os(PREDECESSOR).is_some()
}

/// Tells whoever started us that we serve: a predecessor, or systemd.
pub(super) fn tell_ready() {
    tell_systemd(NotifyState::Ready);
    if is_successor() {
        say(READY);
    }
}

/// Takes as own what a predecessor learns until it ends, and tells it what we learn.
pub(super) fn talk_to_predecessor(running: &Running) {
    if !is_successor() {
        return;
    }
    if let Some(store) = running.store()
        && let Err(error) = store.tell_predecessor(io::stdout())
    {
        tracing::error!(%error, "the predecessor does not hear of new own tickets: there is no thread");
    }
    let reload = Arc::clone(running.reload());
    let listen = move || read_lines(io::stdin().lock(), |record| reload.shared().fills.adopt(record));
    if let Err(error) = std::thread::Builder::new().name("ticketgate-heir".to_owned()).spawn(listen) {
        tracing::error!(%error, "own tickets that the predecessor still learns are lost: there is no thread");
    }
}

/// Takes as own what a successor learns, until one of us ends: connections that are still here ask for it.
fn listen_to_successor(says: BufReader<ChildStdout>, running: &Running) {
    let reload = Arc::clone(running.reload());
    let listen = move || read_lines(says, |record| reload.shared().fills.hear(record));
    if let Err(error) = std::thread::Builder::new().name("ticketgate-elder".to_owned()).spawn(listen) {
        tracing::error!(%error, "own tickets that the successor learns are unknown here: there is no thread");
    }
}

/// Tells systemd, if that is who watches us.
pub(super) fn tell_systemd(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "systemd cannot be told");
    }
}

impl Succession {
    /// Of this process. To be asked at the start: an upgrade replaces the program's file.
    pub(super) fn of_this_process() -> io::Result<Self> {
        Ok(Self { program: std::env::current_exe()?, arguments: std::env::args_os().skip(1).collect() })
    }

    /// Has a successor take over the sockets and the file of own tickets of `running`, and returns when it serves. Dropping
    /// the future before ends it.
    pub(super) async fn take_place(&self, running: &Running) -> Result<(), NoSuccessor> {
        if std::process::id() == 1 {
            return Err(NoSuccessor::Container);
        }
        let sockets = running.legacy().copies().map_err(NoSuccessor::NotStarted)?;
        let lent = Lent::of(running.store()).await;
        let mut candidate = Candidate(Some(self.start(sockets).map_err(NoSuccessor::NotStarted)?));
        let child = candidate.0.as_mut().expect("just started");
        let (id, says, hears) = (child.id(), child.stdout.take().expect("it is piped"), child.stdin.take());
        let listening = tokio::task::spawn_blocking(move || once_ready(says));
        let Ok(Ok(Some(says))) = tokio::time::timeout(READY_WITHIN, listening).await else {
            return Err(NoSuccessor::NotReady);
        };
        candidate.0 = None;
        listen_to_successor(says, running);
        lent.hand_over(hears.expect("it is piped"));
        tracing::info!(successor = id, "a successor serves");
        tell_systemd(NotifyState::MainPid(id));
        Ok(())
    }

    /// The command is dropped at once, and with it our copies of `sockets`.
    fn start(&self, sockets: Vec<(String, OwnedFd)>) -> io::Result<Child> {
        let names: Vec<&str> = sockets.iter().map(|(name, _)| name.as_str()).collect();
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.env_remove("LISTEN_PID").env_remove("LISTEN_FDS_FIRST_FD");
        command.env("LISTEN_FDS", names.len().to_string()).env(NAMES, names.join(":"));
        command.env(PREDECESSOR, std::process::id().to_string());
        let mappings = sockets.into_iter().zip(FIRST..);
        let mappings = mappings.map(|((_, parent_fd), child_fd)| FdMapping { parent_fd, child_fd });
        command.fd_mappings(mappings.collect()).map_err(io::Error::other)?;
        command.spawn()
    }
}

/// Blocks until it says so, or ends; what it says then is still to be read.
fn once_ready(says: ChildStdout) -> Option<BufReader<ChildStdout>> {
    let (mut says, mut line) = (BufReader::new(says), String::new());
    let _ = says.by_ref().take(1024).read_line(&mut line);
    (line.trim_end() == READY).then_some(says)
}

/// The file of own tickets, let go of. Dropped in this state there is no successor, and it is taken back.
struct Lent(Option<Arc<Store>>);

impl Lent {
    async fn of(store: Option<&Arc<Store>>) -> Self {
        let lent = Self(store.cloned());
        if let Some(store) = store.cloned() {
            // What is queued is written first, and a disk may be slow.
            let _ = tokio::task::spawn_blocking(move || store.let_go()).await;
        }
        lent
    }

    fn hand_over(mut self, successor: ChildStdin) {
        if let Some(store) = self.0.take() {
            store.hand_over(Box::new(successor));
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(store) = self.0.take() {
            store.take_back();
        }
    }
}

/// A process that does not serve yet. Dropped in this state it is of no use, and ends.
struct Candidate(Option<Child>);

impl Drop for Candidate {
    fn drop(&mut self) {
        if let Some(child) = self.0.take() {
            // Not on a thread that has other work.
            std::thread::spawn(|| end(child));
        }
    }
}

/// Asked first: it may have begun to serve, and said so too late.
fn end(mut child: Child) {
    let _ = kill_process(Pid::from_child(&child), Signal::TERM);
    let clock = Clock::system();
    let asked = clock.tick();
    while matches!(child.try_wait(), Ok(None)) {
        if clock.tick().since(asked) > ENDED_WITHIN {
            let _ = child.kill();
            let _ = child.wait();
            return;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

impl fmt::Display for NoSuccessor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Container => f.write_str("this is the first process of a container, which would end with it"),
            Self::NotStarted(error) => write!(f, "it cannot be started: {error}"),
            Self::NotReady => write!(f, "it ended, or did not serve within {READY_WITHIN:?}; see its own lines above"),
        }
    }
}
