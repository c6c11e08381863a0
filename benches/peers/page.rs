//! Tables, for terminals and for pages, and the place of a page where they stand.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use ticketgate::clock::Clock;

use crate::Outcome;

/// Between these lines of a page stands what a run has written.
const BEGIN: &str = "<!-- tables: written by the harness -->";
const END: &str = "<!-- end of tables -->";

/// Writes `tables` into their place in `page`, if it is there.
pub fn write(page: &Path, tables: &str) -> Outcome<()> {
    let Ok(text) = std::fs::read_to_string(page) else { return Ok(()) };
    let parts = text.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = parts.ok_or_else(|| format!("{} has no place for tables", page.display()))?;
    std::fs::write(page, format!("{before}{BEGIN}\n\n{tables}{END}{after}"))?;
    Ok(())
}

/// The date, by UTC.
pub fn today() -> String {
    let now = UNIX_EPOCH + Duration::from_secs(Clock::system().now().wall.unix().cast_unsigned());
    humantime::format_rfc3339_seconds(now).to_string()[..10].to_owned()
}

/// Cells under each other, the first column to the left, the others to the right.
pub fn aligned(lines: &[Vec<String>]) -> String {
    let width = |at: usize| lines.iter().filter_map(|line| line.get(at)).map(|cell| cell.chars().count()).max();
    let mut text = String::new();
    for line in lines {
        for (at, cell) in line.iter().enumerate() {
            let width = width(at).unwrap_or(0);
            let _ = if at == 0 { write!(text, "{cell:<width$}") } else { write!(text, "  {cell:>width$}") };
        }
        text.push('\n');
    }
    text
}

/// The same for Markdown.
pub fn piped(lines: &[Vec<String>]) -> String {
    let row = |line: &Vec<String>| format!("| {} |\n", line.join(" | "));
    let columns = lines.first().map_or(0, Vec::len);
    let rule = format!("|---|{}\n", "--:|".repeat(columns.saturating_sub(1)));
    let mut rows = lines.iter().map(row);
    rows.next().unwrap_or_default() + &rule + &rows.collect::<String>()
}
