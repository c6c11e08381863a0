//! `ticketgate warm`: has a running server fetch images before somebody asks for them. The server does it within the origin's
//! budget; here tickets are read and sent in batches, and what comes of each is counted.

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Deserialize;
use serde_json::json;

use super::listed::{Line, Listed};
use super::operator::{BATCH, Operator, Trouble, Whom, wait_for};
use super::progress::Progress;
use super::{Options, complain, fail, say};
use crate::ticket::Ticket;

pub(super) const EXAMPLES: &str = "\
Examples:
  ticketgate warm tickets.txt
  jq -c .tickets[] codes.json | ticketgate warm -         from standard input, as they come
  TICKETGATE_ADMIN_TOKEN=… ticketgate warm --admin 10.0.0.5:9180 tickets.txt

A line holds a ticket or a URL with one, a JSON string, or an object with \"ticket\", such as an answer of qrcode/create. Blank
lines and those that begin with # are skipped; what is no ticket is named, and the rest goes on.
Exits 0 when all is done, 1 when a ticket failed or a line was none, 2 for bad usage or configuration.";

/// What is fetched, and by whom.
#[derive(Debug, Args)]
pub(super) struct Warm {
    /// A file with a ticket a line; "-" is standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    whom: Whom,
}

/// What the server says of one ticket.
#[derive(Debug, Deserialize)]
struct Told {
    /// Its place in the call; a fill that panicked has none.
    index: Option<usize>,
    result: String,
    reason: Option<String>,
}

/// A ticket that is asked for.
struct Wanted {
    number: u64,
    bytes: u64,
    ticket: Ticket,
}

/// How many came to what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tally {
    stored: u64,
    held: u64,
    not_stored: u64,
    failed: u64,
    rubbish: u64,
}

/// Why not every line was dealt with.
enum Unfinished {
    Asking(Trouble),
    Reading(std::io::Error),
    Interrupted,
}

struct Run<'a> {
    operator: &'a Operator,
    progress: Progress,
    tally: Tally,
}

impl Warm {
    /// Warms until the list, or the patience of whoever watches, is at its end.
    pub(super) fn run(&self, before: &Options, environment: &[(String, String)]) -> ExitCode {
        let operator = match self.whom.operator(before, environment) {
            Ok(operator) => operator,
            Err(refused) => return refused,
        };
        let listed = match Listed::open(&self.file) {
            Ok(listed) => listed,
            Err(error) => return fail(format_args!("{}: {error}", self.file.display())),
        };
        let progress = Progress::begin(listed.length());
        let mut run = Run { operator: &operator, progress, tally: Tally::default() };
        let ended = wait_for(async { Ok(run.until_interrupted(listed).await) });
        let took = run.progress.end();
        say(format!("{}; {:.1} s", run.tally, took.as_secs_f64()));
        match ended.unwrap_or_else(|trouble| Err(Unfinished::Asking(trouble))) {
            Ok(()) if run.tally.failed + run.tally.rubbish == 0 => return ExitCode::SUCCESS,
            Ok(()) => {}
            Err(Unfinished::Asking(trouble)) => complain(format_args!("{operator}/warm: {trouble}")),
            Err(Unfinished::Reading(error)) => complain(format_args!("{}: {error}", self.file.display())),
            Err(Unfinished::Interrupted) => complain("interrupted; the images that are under way still come"),
        }
        ExitCode::FAILURE
    }
}

impl Run<'_> {
    async fn until_interrupted(&mut self, listed: Listed) -> Result<(), Unfinished> {
        tokio::select! {
            ended = self.warm(listed) => ended,
            _ = tokio::signal::ctrl_c() => Err(Unfinished::Interrupted),
        }
    }

    async fn warm(&mut self, mut listed: Listed) -> Result<(), Unfinished> {
        loop {
            let lines = listed.next(BATCH).await.map_err(Unfinished::Reading)?;
            if lines.is_empty() {
                return Ok(());
            }
            let wanted = lines.into_iter().filter_map(|line| self.wanted(line)).collect();
            self.ask(wanted).await.map_err(Unfinished::Asking)?;
        }
    }

    fn wanted(&mut self, Line { number, bytes, ticket }: Line) -> Option<Wanted> {
        match ticket {
            Ok(ticket) => Some(Wanted { number, bytes, ticket }),
            Err(rubbish) => {
                self.tally.rubbish += 1;
                self.progress.trouble(format_args!("line {number}: {rubbish}"));
                self.moved(bytes);
                None
            }
        }
    }

    /// A connection may end before a batch is through: what is left is asked for again, as long as that gets us on.
    async fn ask(&mut self, wanted: Vec<Wanted>) -> Result<(), Trouble> {
        let mut left: Vec<_> = wanted.into_iter().map(Some).collect();
        while !left.is_empty() {
            let before = left.len();
            let heard = self.hear(&mut left).await;
            left.retain(Option::is_some);
            match heard {
                Ok(()) => {
                    left.drain(..).flatten().for_each(|wanted| self.came(&wanted, "failed", Some("no-answer")));
                }
                Err(trouble) if left.len() == before => return Err(trouble),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Asks for all of `left`, and takes out what is answered.
    async fn hear(&mut self, left: &mut [Option<Wanted>]) -> Result<(), Trouble> {
        let tickets: Vec<_> = left.iter().flatten().map(|wanted| wanted.ticket.encoded()).collect();
        let mut lines = self.operator.lines("/warm", &json!({ "tickets": tickets })).await?;
        while let Some(Told { index, result, reason }) = lines.next::<Told>().await? {
            let wanted = index.and_then(|index| left.get_mut(index)).and_then(Option::take);
            if let Some(wanted) = wanted {
                self.came(&wanted, &result, reason.as_deref());
            }
        }
        Ok(())
    }

    fn came(&mut self, Wanted { number, bytes, ticket }: &Wanted, result: &str, reason: Option<&str>) {
        let tally = &mut self.tally;
        let (count, is_well) = match result {
            "stored" => (&mut tally.stored, true),
            "held" => (&mut tally.held, true),
            "not-stored" => (&mut tally.not_stored, false),
            _ => (&mut tally.failed, false),
        };
        *count += 1;
        if !is_well {
            let words = if result == "not-stored" { "not stored" } else { "failed" };
            let reason: String = reason.unwrap_or("unknown").chars().filter(|c| !c.is_control()).collect();
            self.progress.trouble(format_args!("line {number} ({}): {words}: {reason}", ticket.short()));
        }
        self.moved(*bytes);
    }

    fn moved(&mut self, bytes: u64) {
        self.progress.moved(bytes, self.tally.asked(), self.tally);
    }
}

impl Tally {
    /// All but rubbish, which takes no time.
    fn asked(&self) -> u64 {
        self.stored + self.held + self.not_stored + self.failed
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stored, held, not_stored, failed, rubbish } = self;
        write!(f, "{stored} stored, {held} already held, {not_stored} not stored, {failed} failed, {rubbish} rubbish")
    }
}
