//! What Prometheus' own libraries tell of a process, by the names they tell it: read from `/proc` when somebody looks, and
//! left out where there is none.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use crate::moment::Wall;

/// This process.
#[derive(Debug)]
pub(super) struct Process {
    start: Wall,
}

impl Process {
    pub(super) fn started(start: Wall) -> Self {
        Self { start }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let mut tell = |name, help, unit: Option<Unit>, value: Option<u64>| {
            let Some(value) = value else { return Ok(()) };
            let metric = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
            ConstGauge::new(value).encode(metric)
        };
        let start = u64::try_from(self.start.unix()).ok();
        tell("process_start_time", "Unix time of the start.", Some(Unit::Seconds), start)?;
        tell("process_resident_memory", "Memory in use.", Some(Unit::Bytes), resident_bytes())?;
        tell("process_open_fds", "Open files, sockets included.", None, open_files())?;
        let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        tell("process_max_fds", "Files that may be open.", None, most)
    }
}

fn resident_bytes() -> Option<u64> {
    resident_in(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn resident_in(status: &str) -> Option<u64> {
    let kibibytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    kibibytes.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn open_files() -> Option<u64> {
    // The one that reads the directory is not counted.
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_as_the_kernel_writes_it() {
        assert_eq!(resident_in("Name:\tticketgate\nVmRSS:\t   12345 kB\n"), Some(12345 * 1024));
        assert_eq!(resident_in("Name:\tticketgate\n"), None);
    }
}
