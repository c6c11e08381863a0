//! The machine: which core serves and which one asks, which ports are free, how many files may be open, and what to tell of
//! it all.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::Outcome;

/// Where servers listen.
const PORTS: Range<u16> = 20_000..32_000;

/// Which cores are whose. On a machine with one core both share it.
#[derive(Debug, Clone)]
pub struct Cores {
    /// All that this process may use.
    pub all: Vec<usize>,
    /// The load generator's and the origin's.
    pub load: Vec<usize>,
}

impl Cores {
    /// Shares out what this process may use.
    pub fn share() -> Self {
        let set = sched_getaffinity(None).expect("Linux tells which cores are ours");
        let all: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect();
        let load = all.last().copied().into_iter().collect();
        Self { all, load }
    }

    /// The cores of a server that has `count` of them; the load generator's is the last to be taken.
    pub fn serving(&self, count: usize) -> &[usize] {
        &self.all[..count.min(self.all.len())]
    }
}

/// Keeps the calling thread, and whatever it starts, on `cores`.
pub fn pin(cores: &[usize]) {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core);
    }
    sched_setaffinity(None, &set).expect("the cores are ours");
}

/// Does `start` on `cores`: a process that it starts stays there.
pub fn pinned<T>(cores: &[usize], start: impl FnOnce() -> T) -> T {
    let before = sched_getaffinity(None).expect("Linux tells which cores are ours");
    pin(cores);
    let started = start();
    sched_setaffinity(None, &before).expect("they were ours before");
    started
}

/// Raises the number of files that may be open as far as it goes, for this process and those it starts; tells it.
pub fn raise_open_files() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    let _ = setrlimit(Resource::Nofile, raised);
    let now = getrlimit(Resource::Nofile).current.unwrap_or(1 << 20);
    usize::try_from(now).unwrap_or(usize::MAX)
}

/// Where `program` is: on the path, or where Debian keeps what is root's.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let beside = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    let mut places = std::env::split_paths(&path).chain(beside);
    places.find_map(|place| Some(place.join(program)).filter(|file| file.is_file()))
}

/// Below the ports that the kernel hands out, so that nobody is given it before the server takes it.
pub fn free_address() -> Outcome<SocketAddr> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let count = PORTS.end - PORTS.start;
    for _ in PORTS {
        let number = std::process::id().wrapping_mul(64).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + u16::try_from(number % u32::from(count)).expect("it is less than their count");
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return Ok(listener.local_addr()?);
        }
    }
    Err("no port is free".into())
}

/// The machine in one line.
pub fn description(cores: &Cores) -> String {
    let read = |file| std::fs::read_to_string(file).unwrap_or_default();
    let value = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned())).unwrap_or_default()
    };
    let model = value(&read("/proc/cpuinfo"), "model name");
    let memory = value(&read("/proc/meminfo"), "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0.0) / 1_048_576.0;
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{model}, {} cores, {memory:.0} GiB, Linux {}", cores.all.len(), kernel.trim())
}
