//! The load generators of others: wrk, and h2load for HTTP/2. Both are run for a time and say in one place what came of it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::Outcome;
use crate::client::{Ask, Figures};
use crate::machine::find;
use crate::process;

/// How much longer than its time a tool may take.
const GRACE: Duration = Duration::from_secs(30);
/// Requests under way at once on a connection of HTTP/2, as of a page with pictures.
pub const STREAMS: usize = 10;

/// Debian's packages of the tools, and the programs in them.
pub const PACKAGES: [(&str, &str); 2] = [("wrk", "wrk"), ("nghttp2-client", "h2load")];

/// A load for a tool.
#[derive(Debug)]
pub struct Load<'a> {
    /// Where to ask.
    pub address: SocketAddr,
    /// Over TLS or in the clear.
    pub scheme: &'static str,
    /// Connections.
    pub connections: usize,
    /// Seconds.
    pub seconds: u64,
    /// What to ask, in this order, over and over.
    pub asks: &'a Path,
    /// Where files may be written.
    pub directory: &'a Path,
}

/// Writes `asks` as [`wrk`] and [`h2load`] read them.
pub fn write_asks(asks: &[Ask], file: PathBuf) -> Outcome<PathBuf> {
    let line = |ask: &Ask| format!("{}\t{}\n", ask.target, ask.tag.as_deref().unwrap_or_default());
    std::fs::write(&file, asks.iter().map(line).collect::<String>())?;
    Ok(file)
}

/// Asks over HTTP/1.1.
pub fn wrk(load: &Load<'_>) -> Outcome<Figures> {
    let script = load.directory.join("wrk.lua");
    std::fs::write(&script, include_str!("wrk.lua"))?;
    let mut command = Command::new(find("wrk").ok_or("wrk is not installed")?);
    command.args(["-t1", &format!("-c{}", load.connections), &format!("-d{}s", load.seconds)]).arg("-s").arg(script);
    command.arg(format!("{}://{}", load.scheme, load.address)).arg("--").arg(load.asks);
    let said = process::run(command, Duration::from_secs(load.seconds) + GRACE, load.directory)?;
    let line = said.lines().find_map(|line| line.strip_prefix("figures "));
    let numbers: Vec<f64> = line.into_iter().flat_map(str::split_whitespace).flat_map(str::parse).collect();
    let [requests, microseconds, bytes, failures, p50, p99] = numbers[..] else {
        return Err(format!("wrk says something else:\n{said}").into());
    };
    if failures > 0.0 {
        return Err(format!("wrk counts {failures} failures:\n{said}").into());
    }
    let (requests, bytes) = (requests as u64, bytes as u64);
    Ok(Figures { requests, seconds: microseconds / 1e6, bytes, p50: p50 / 1e3, p99: p99 / 1e3, longest: 0.0 })
}

/// Asks over HTTP/2.
pub fn h2load(load: &Load<'_>) -> Outcome<Figures> {
    let (urls, times) = (load.directory.join("urls"), load.directory.join("times"));
    let asks = std::fs::read_to_string(load.asks)?;
    let url = |line: &str| format!("{}://{}{}\n", load.scheme, load.address, line.split('\t').next().unwrap_or(line));
    std::fs::write(&urls, asks.lines().map(url).collect::<String>())?;
    let _ = std::fs::remove_file(&times);
    let mut command = Command::new(find("h2load").ok_or("h2load is not installed")?);
    command.args(["-t1", &format!("-c{}", load.connections), &format!("-m{STREAMS}"), &format!("-D{}", load.seconds)]);
    command.args(["-H", ":authority: localhost"]).arg("-i").arg(urls).arg("--log-file").arg(&times);
    let said = process::run(command, Duration::from_secs(load.seconds) + GRACE, load.directory)?;
    let after = |name: &str, unit: &str| {
        let from = said.split_once(name)?.1;
        from.split(", ").find_map(|part| part.trim().lines().next()?.strip_suffix(unit)?.trim().parse::<u64>().ok())
    };
    let (done, failed) = (after("requests:", "succeeded"), after("requests:", "failed"));
    let (Some(requests), Some(0)) = (done, failed) else {
        return Err(format!("h2load counts failures:\n{said}").into());
    };
    let traffic = said.split_once("traffic:").and_then(|(_, rest)| rest.split_once('(')?.1.split_once(')'));
    let bytes = traffic.and_then(|(bytes, _)| bytes.parse().ok()).ok_or("h2load tells no bytes")?;
    let (p50, p99) = percentiles(&times)?;
    Ok(Figures { requests, seconds: load.seconds as f64, bytes, p50, p99, longest: 0.0 })
}

/// Of the times that h2load wrote, a line for each answer: when, its status, and its microseconds.
fn percentiles(file: &Path) -> Outcome<(f64, f64)> {
    let text = std::fs::read_to_string(file)?;
    let time = |line: &str| line.split('\t').nth(2)?.parse::<u64>().ok();
    let mut times: Vec<u64> = text.lines().filter_map(time).collect();
    times.sort_unstable();
    let at = |hundredths: usize| times.get(times.len() * hundredths / 100).map_or(0.0, |time| *time as f64 / 1e3);
    Ok((at(50), at(99)))
}
