//! What came of it: tables to read and to keep, and how far it is to the bars that ticketgate has set itself.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::page::{self, aligned, piped};
use crate::server::{Ground, Kind};
use crate::{Outcome, chart, machine};

/// A table of one mode.
#[derive(Debug)]
pub struct Table {
    /// As flags and files call it.
    pub mode: &'static str,
    title: String,
    columns: Vec<(String, usize)>,
    /// One for each server.
    pub rows: Vec<Row>,
    /// What to know of it.
    pub notes: Vec<String>,
}

/// A server's figures.
#[derive(Debug)]
pub struct Row {
    /// Whose they are.
    pub name: String,
    /// One for each column.
    pub cells: Vec<Option<f64>>,
    /// What they are medians of.
    pub rounds: Vec<Value>,
}

/// All tables of a run.
#[derive(Debug)]
pub struct Report {
    /// Mode by mode.
    pub tables: Vec<Table>,
    /// What could not be measured, and why.
    pub notes: Vec<String>,
    machine: String,
    versions: Vec<String>,
    note: Option<String>,
}

/// What ticketgate has to reach: a figure of a table, at most so much.
struct Bar {
    mode: &'static str,
    column: &'static str,
    most: f64,
    says: &'static str,
}

const fn bar(mode: &'static str, column: &'static str, most: f64, says: &'static str) -> Bar {
    Bar { mode, column, most, says }
}

/// The bars, in the order of the table.
const BARS: [Bar; 21] = [
    bar("hit-16", "÷ floor", 1.25, "CPU per hit, 16 connections ÷ floor"),
    bar("hit-16", "÷ nginx", 0.90, "… ÷ nginx"),
    bar("hit-64", "÷ floor", 1.25, "CPU per hit, 64 connections ÷ floor"),
    bar("hit-64", "÷ nginx", 0.90, "… ÷ nginx"),
    bar("hit-64", "user ÷ nginx", 0.70, "… its user part ÷ nginx's"),
    bar("hit-64", "÷ haproxy", 0.75, "… ÷ HAProxy"),
    bar("hit-64", "÷ varnish", 0.60, "… ÷ Varnish"),
    bar("hit-256", "÷ floor", 1.25, "CPU per hit, 256 connections ÷ floor"),
    bar("hit-256", "÷ nginx", 0.90, "… ÷ nginx"),
    bar("304", "÷ nginx", 0.85, "CPU per 304 ÷ nginx"),
    bar("tls", "÷ nginx", 0.90, "CPU per hit over TLS 1.3 ÷ nginx"),
    bar("h2", "÷ nginx", 0.90, "CPU per hit over HTTP/2 ÷ nginx"),
    bar("zipf", "÷ floor", 1.25, "CPU per hit of 1,000 tickets ÷ floor"),
    bar("zipf", "÷ nginx", 0.90, "… ÷ nginx"),
    bar("misses", "p99 ÷ alone", 1.20, "p99 of hits beside misses ÷ alone"),
    bar("herd", "calls to the origin", 1.0, "calls for one cold image"),
    bar("herd", "last ms", 250.0, "ms until the last of the herd has it (200 + 50)"),
    bar("idle", "KiB each", 3.0, "KiB of an idle connection"),
    bar("memory", "over %", 8.0, "% of memory beyond the images' bytes"),
    bar("entries", "÷ first", 1.30, "CPU per hit, largest cache ÷ 1 thousand"),
    bar("start", "ms", 50.0, "ms from the start to the first answer"),
];

impl Table {
    /// An empty one.
    pub fn new(mode: &'static str, title: String) -> Self {
        Self { mode, title, columns: Vec::new(), rows: Vec::new(), notes: Vec::new() }
    }

    /// Adds a column, whose figures have so many decimals.
    pub fn column(&mut self, name: &str, decimals: usize) {
        self.columns.push((name.to_owned(), decimals));
    }

    /// What it is about.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// The figure of `row` in the column of this name.
    pub fn cell(&self, row: &Row, column: &str) -> Option<f64> {
        let at = self.columns.iter().position(|(name, _)| name == column)?;
        row.cells.get(at).copied().flatten()
    }

    /// Its first line: the names of columns; and one for each server.
    fn lines(&self) -> Vec<Vec<String>> {
        let names = std::iter::once("server".to_owned()).chain(self.columns.iter().map(|(name, _)| name.clone()));
        let row = |row: &Row| {
            let cells = self.columns.iter().zip(&row.cells).map(|((_, decimals), cell)| match cell {
                Some(value) if value.is_finite() => format!("{value:.decimals$}"),
                _ => "–".to_owned(),
            });
            std::iter::once(row.name.clone()).chain(cells).collect()
        };
        std::iter::once(names.collect()).chain(self.rows.iter().map(row)).collect()
    }

    fn json(&self) -> Value {
        let row = |row: &Row| {
            let mut object = Map::new();
            object.insert("server".to_owned(), json!(row.name));
            let cells = self.columns.iter().zip(&row.cells);
            object.extend(cells.map(|((name, _), value)| (name.clone(), json!(value))));
            if !row.rounds.is_empty() {
                object.insert("rounds".to_owned(), json!(row.rounds));
            }
            Value::Object(object)
        };
        let rows: Vec<Value> = self.rows.iter().map(row).collect();
        json!({ "mode": self.mode, "title": self.title, "rows": rows, "notes": self.notes })
    }
}

impl Report {
    /// An empty one, of this machine and these `servers`.
    pub fn new(ground: &Ground, servers: &[Kind], note: Option<String>) -> Self {
        let version = |kind: &Kind| ground.programs.version(*kind, &ground.directory);
        Self {
            tables: Vec::new(),
            notes: Vec::new(),
            machine: machine::description(&ground.cores),
            versions: servers.iter().filter_map(version).collect(),
            note,
        }
    }

    /// Prints everything.
    pub fn print(&self) {
        println!("{}\n{}", self.machine, self.versions.join("; "));
        for table in &self.tables {
            println!("\n{}", table.title);
            print!("{}", aligned(&table.lines()));
            table.notes.iter().for_each(|note| println!("({note})"));
        }
        let bars = self.bars();
        if bars.len() > 1 {
            println!("\nThe bars");
            print!("{}", aligned(&bars));
        }
        self.notes.iter().for_each(|note| println!("\n! {note}"));
    }

    /// Writes everything into `docs`: JSON, a chart, and the tables into `performance.md` if it is there.
    pub fn write(&self, docs: &Path) -> Outcome<()> {
        let tables: Vec<Value> = self.tables.iter().map(Table::json).collect();
        let all = json!({
            "taken": page::today(), "machine": self.machine, "versions": self.versions, "note": self.note,
            "tables": tables, "failures": self.notes,
        });
        std::fs::write(docs.join("peers.json"), serde_json::to_string_pretty(&all)? + "\n")?;
        std::fs::write(docs.join("peers.svg"), chart::draw(&self.tables))?;
        page::write(&docs.join("performance.md"), &self.markdown())
    }

    fn markdown(&self) -> String {
        let mut text = format!("Taken on {}: {}.", page::today(), self.machine);
        if let Some(note) = &self.note {
            let _ = write!(text, " **{note}**");
        }
        let _ = write!(text, " {}.\n\n", self.versions.join("; "));
        for table in &self.tables {
            let _ = write!(text, "### {}\n\n{}\n", table.title, piped(&table.lines()));
            for note in table.notes.iter().map(|note| sentence(note)) {
                let _ = write!(text, "{note}\n\n");
            }
        }
        if self.bars().len() > 1 {
            let _ = write!(text, "### The bars\n\n{}\n", piped(&self.bars()));
        }
        for note in &self.notes {
            let _ = write!(text, "Not measured: {}\n\n", note.lines().next().unwrap_or_default());
        }
        text
    }

    /// What of the bars was measured: what, how much it is, how much it may be, and whether that holds.
    fn bars(&self) -> Vec<Vec<String>> {
        let head = ["figure", "is", "may be", ""].map(str::to_owned).to_vec();
        let line = |bar: &Bar| {
            let table = self.tables.iter().find(|table| table.mode == bar.mode)?;
            let name = Kind::Ticketgate.name();
            let row = table.rows.iter().rfind(|row| row.name.split(',').next() == Some(name))?;
            let is = table.cell(row, bar.column)?;
            let holds = if is <= bar.most { "reached" } else { "missed" };
            Some(vec![bar.says.to_owned(), format!("{is:.2}"), format!("{:.2}", bar.most), holds.to_owned()])
        };
        std::iter::once(head).chain(BARS.iter().filter_map(line)).collect()
    }
}

fn sentence(note: &str) -> String {
    let mut letters = note.chars();
    let first: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
    format!("{first}{}.", letters.as_str())
}
