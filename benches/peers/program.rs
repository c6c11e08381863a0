//! The ticketgate to measure: what cargo has built, or builds for it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::{Outcome, process};

/// Building ourselves takes at most so long.
const LONGEST_BUILD: Duration = Duration::from_secs(1800);

/// A copy in `directory`, where no later build replaces it: of `named`, else of what was built `with_us`, else of what is
/// built for release.
pub fn copied(named: Option<&Path>, with_us: bool, directory: &Path) -> Outcome<PathBuf> {
    let built = match named {
        Some(file) => file.to_owned(),
        None if with_us => built_with_us()?,
        None => built_for_release(directory)?,
    };
    let copy = directory.join("ticketgate");
    std::fs::copy(&built, &copy).map_err(|error| format!("{}: {error}", built.display()))?;
    Ok(copy)
}

/// Cargo builds one for benches; the features that tests want of libraries are in it, and cost something.
fn built_with_us() -> Outcome<PathBuf> {
    if let Some(file) = option_env!("CARGO_BIN_EXE_ticketgate").map(PathBuf::from).filter(|file| file.is_file()) {
        return Ok(file);
    }
    let ourselves = std::env::current_exe()?;
    let beside = ourselves.parent().and_then(Path::parent).map(|profile| profile.join("ticketgate"));
    beside.filter(|file| file.is_file()).ok_or_else(|| "no ticketgate was built; name one by --binary".into())
}

/// What users run.
fn built_for_release(directory: &Path) -> Outcome<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command.args([
        "build",
        "--release",
        "--locked",
        "--bin",
        "ticketgate",
        "--message-format",
        "json-render-diagnostics",
    ]);
    eprintln!("… ticketgate is built for release");
    let said = process::run(command, LONGEST_BUILD, directory)?;
    let messages = said.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut files = messages.filter_map(|message| Some(PathBuf::from(message.get("executable")?.as_str()?)));
    files.next_back().ok_or_else(|| "cargo names no executable".into())
}
