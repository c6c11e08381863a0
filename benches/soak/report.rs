//! What came of it: tables to read and to keep, what was promised, and whether that holds.

use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Outcome;
use crate::machine::{self, Cores};
use crate::page::{self, aligned, piped};

/// A table of one scenario.
#[derive(Debug, Serialize, Deserialize)]
pub struct Table {
    title: String,
    /// The names of columns, then the rows.
    lines: Vec<Vec<String>>,
    /// What to know of it.
    pub notes: Vec<String>,
}

/// What was promised.
#[derive(Debug, Serialize, Deserialize)]
struct Promise {
    says: String,
    is: String,
    may_be: String,
    holds: bool,
    /// A time is the machine's too: it is told and breaks nothing.
    is_time: bool,
}

/// All of a run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    taken: String,
    command: String,
    machine: String,
    note: Option<String>,
    /// The names of what was done.
    scenarios: Vec<String>,
    promises: Vec<Promise>,
    /// Scenario by scenario.
    pub tables: Vec<Table>,
    /// What could not be done, and why.
    pub failures: Vec<String>,
}

impl Table {
    /// An empty one.
    pub fn new(title: impl Into<String>, columns: &[&str]) -> Self {
        let columns = columns.iter().map(|&column| column.to_owned()).collect();
        Self { title: title.into(), lines: vec![columns], notes: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: &[String]) {
        self.lines.push(cells.to_vec());
    }
}

impl Report {
    /// An empty one, of `scenarios` on this machine.
    pub fn new(cores: &Cores, scenarios: Vec<String>, note: Option<String>) -> Self {
        Self {
            taken: page::today(),
            command: command(),
            machine: machine::description(cores),
            note,
            scenarios,
            promises: Vec::new(),
            tables: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Tells what must hold anywhere.
    pub fn promise(&mut self, says: impl Into<String>, is: impl Into<String>, may_be: impl Into<String>, holds: bool) {
        let (says, is, may_be) = (says.into(), is.into(), may_be.into());
        self.promises.push(Promise { says, is, may_be, holds, is_time: false });
    }

    /// Tells a time, or a ratio of times.
    pub fn time(&mut self, says: impl Into<String>, is: f64, may_be: f64) {
        self.in_time(says, format!("{is:.2}"), format!("{may_be:.2}"), is <= may_be);
    }

    /// Tells what is a matter of time too.
    pub fn in_time(&mut self, says: impl Into<String>, is: impl Into<String>, may_be: impl Into<String>, holds: bool) {
        let (says, is, may_be) = (says.into(), is.into(), may_be.into());
        self.promises.push(Promise { says, is, may_be, holds, is_time: true });
    }

    /// Whether everything was done, and holds that must hold anywhere.
    pub fn holds(&self) -> bool {
        self.failures.is_empty() && self.promises.iter().all(|promise| promise.holds || promise.is_time)
    }

    /// Prints everything.
    pub fn print(&self) {
        println!("{}", self.machine);
        for table in &self.tables {
            println!("\n{}", table.title);
            print!("{}", aligned(&table.lines));
            table.notes.iter().for_each(|note| println!("({note})"));
        }
        println!("\nWhat is promised");
        print!("{}", aligned(&self.promised()));
        self.failures.iter().for_each(|failure| println!("\n! {failure}"));
    }

    /// Writes everything into `docs`: JSON, and the tables into `reliability.md` if it is there. Runs of other scenarios stay.
    pub fn write(mut self, docs: &Path) -> Outcome<()> {
        // Why something failed may name this machine's files.
        self.failures.iter_mut().for_each(|failure| failure.truncate(failure.find(':').unwrap_or(failure.len())));
        let file = docs.join("soak.json");
        let mut runs: Vec<Self> = std::fs::read(&file).map_or(Ok(Vec::new()), |kept| serde_json::from_slice(&kept))?;
        runs.retain(|run| !run.scenarios.iter().all(|name| self.scenarios.contains(name)));
        runs.push(self);
        std::fs::write(file, serde_json::to_string_pretty(&runs)? + "\n")?;
        page::write(&docs.join("reliability.md"), &runs.iter().map(Self::markdown).collect::<String>())
    }

    fn markdown(&self) -> String {
        let mut text = format!("Taken on {} by `{}`: {}.", self.taken, self.command, self.machine);
        if let Some(note) = &self.note {
            let _ = write!(text, " **{note}**");
        }
        let _ = write!(text, "\n\n{}\n", piped(&self.promised()));
        for table in &self.tables {
            let _ = write!(text, "### {}\n\n{}\n", table.title, piped(&table.lines));
            for note in &table.notes {
                let _ = write!(text, "{note}.\n\n");
            }
        }
        for failure in &self.failures {
            let _ = write!(text, "Not done: {failure}\n\n");
        }
        text
    }

    fn promised(&self) -> Vec<Vec<String>> {
        let head = ["figure", "is", "may be", ""].map(str::to_owned).to_vec();
        let line = |promise: &Promise| {
            let holds = match (promise.holds, promise.is_time) {
                (true, _) => "holds",
                (false, true) => "missed",
                (false, false) => "BROKEN",
            };
            vec![promise.says.clone(), promise.is.clone(), promise.may_be.clone(), holds.to_owned()]
        };
        std::iter::once(head).chain(self.promises.iter().map(line)).collect()
    }
}

/// The command that this is, without what cargo adds and what is this machine's.
fn command() -> String {
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    let mut told = "cargo bench --bench soak --".to_owned();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--note" | "--binary" => drop(words.next()),
            word if word.starts_with("--note=") || word.starts_with("--binary=") => {}
            word => told.extend([" ", word]),
        }
    }
    told
}
