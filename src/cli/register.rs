//! `ticketgate register`: tickets that were minted before become a running server's own (S36).

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::operator::{Operator, Trouble, Whom, wait_for};
use super::{Options, complain, fail, say};
use crate::admin::{BadRegistration, lifetime, registration};
use crate::fill::Registration;
use crate::ticket::{BadTicket, Ticket};

pub(super) const EXAMPLES: &str = "\
Examples:
  ticketgate register tickets.txt
  mysql -N -e 'SELECT ticket FROM codes' | ticketgate register -
  TICKETGATE_ADMIN_TOKEN=… ticketgate register --admin 10.0.0.1:9180 created.json

The file holds a line for each ticket, TICKET or TICKET EXPIRE_SECONDS (from now; 0 or none: not known), or JSON: what qrcode/create
answered, one object, a list, or an object a line. Lines that begin with # are remarks. Lines that are none of this are named, and
the rest is registered; what is in no layout that is known is registered too, and counted aloud: WeChat may have a new one.

Exits 0 when all are registered, 1 when some are not, 2 for bad usage or configuration.";

/// Bytes of a file: a million tickets have a hundred million.
const LONGEST_FILE: u64 = 1024 * 1024 * 1024;

/// Bytes of a call: half of what the server takes.
const CALL: usize = 512 * 1024;

/// Times that a call is made to a server that says it will take it later, and the longest it is waited for.
const MOST_TRIES: u32 = 5;
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// What to register, and with whom.
#[derive(Debug, Args)]
pub(super) struct Register {
    /// The file, or "-" for standard input.
    file: PathBuf,
    #[command(flatten)]
    whom: Whom,
}

/// Something in the file: where it is, and what.
type Found = (Place, Result<Registration, NotOne>);

/// Where something is, from 1: in a list, lines say little.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Line(usize),
    Item(usize),
}

/// Why something in the file is no ticket to register.
#[derive(Debug, Clone, PartialEq, Eq)]
enum NotOne {
    Json(String),
    Entry(BadRegistration),
    TooManyWords,
    OtherFormat,
}

impl Register {
    /// Registers. `before` are the flags that stand before the command.
    pub(super) fn run(&self, before: &Options, environment: &[(String, String)]) -> ExitCode {
        let operator = match self.whom.operator(before, environment) {
            Ok(operator) => operator,
            Err(refused) => return refused,
        };
        let name = self.file.display().to_string();
        let text = match read(&self.file) {
            Ok(text) => text,
            Err(error) => return fail(format_args!("{name}: {error}")),
        };
        let mut registrations = Vec::new();
        let mut bad = 0_usize;
        for (place, found) in find(&text) {
            match found {
                Ok(registration) => registrations.push(registration),
                Err(why) => {
                    bad += 1;
                    complain(format_args!("{name}{place}: {why}"));
                }
            }
        }
        let mut registered = 0;
        if let Err(trouble) = wait_for(send(&operator, &registrations, &mut registered)) {
            complain(format_args!("{operator}/tickets: {trouble}"));
        }
        let unrecognised = registrations[..registered].iter().filter(|one| one.ticket.facts().is_none()).count();
        if unrecognised > 0 {
            complain(format_args!(
                "{unrecognised} of them in no layout of WeChat's that is known: are they tickets? (`ticketgate inspect` tells)"
            ));
        }
        summary(registered, bad, registrations.len() - registered)
    }
}

fn summary(registered: usize, bad: usize, unsent: usize) -> ExitCode {
    let part = |count: usize, what: &str| if count > 0 { format!(", {count} {what}") } else { String::new() };
    say(format!("{registered} registered{}{}", part(bad, "could not be read"), part(unsent, "not registered")));
    if bad + unsent == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn read(path: &PathBuf) -> io::Result<String> {
    let source: Box<dyn Read> =
        if path.as_os_str() == "-" { Box::new(io::stdin().lock()) } else { Box::new(File::open(path)?) };
    let mut bytes = Vec::new();
    source.take(LONGEST_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST_FILE {
        return Err(io::Error::other("more than 1 GiB; split it"));
    }
    // What is no UTF-8 is in some line, which is then no ticket.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Everything in `text` that is meant as a ticket.
fn find(text: &str) -> Vec<Found> {
    let text = text.trim_start_matches('\u{feff}');
    let whole = || serde_json::from_str::<Value>(text);
    match text.trim_start().chars().next() {
        Some('[') => match whole() {
            Ok(Value::Array(entries)) => items(&entries),
            Ok(_) | Err(_) => lines(text),
        },
        Some('{') => whole().map_or_else(|_| lines(text), |one| vec![(Place::Line(1), entry(&one))]),
        _ => lines(text),
    }
}

/// A list has no lines of its own: its items are counted.
fn items(entries: &[Value]) -> Vec<Found> {
    entries.iter().enumerate().map(|(place, item)| (Place::Item(place + 1), entry(item))).collect()
}

fn lines(text: &str) -> Vec<Found> {
    let numbered = text.lines().enumerate().map(|(number, line)| (Place::Line(number + 1), line.trim()));
    numbered
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| (number, one(line)))
        .collect()
}

fn one(line: &str) -> Result<Registration, NotOne> {
    if line.starts_with(['{', '[']) {
        let value = serde_json::from_str(line).map_err(|error| NotOne::Json(error.to_string()))?;
        return entry(&value);
    }
    if line.starts_with('"') {
        let text: String = serde_json::from_str(line).map_err(|error| NotOne::Json(error.to_string()))?;
        let ticket = Ticket::find(&text).map_err(|bad| NotOne::Entry(BadRegistration::Ticket(bad)))?;
        return Ok(Registration { ticket, lifetime: None });
    }
    if line.contains(['"', ',', '\'']) {
        return Err(NotOne::OtherFormat);
    }
    let mut words = line.split_ascii_whitespace();
    let (Some(ticket), seconds, None) = (words.next(), words.next(), words.next()) else {
        return Err(NotOne::TooManyWords);
    };
    let bad = |bad: BadTicket| NotOne::Entry(BadRegistration::Ticket(bad));
    let ticket = Ticket::find(ticket).map_err(bad)?;
    let lifetime = seconds.map_or(Ok(None), |seconds| lifetime(seconds.parse().ok())).map_err(NotOne::Entry)?;
    Ok(Registration { ticket, lifetime })
}

fn entry(value: &Value) -> Result<Registration, NotOne> {
    registration(value).map_err(NotOne::Entry)
}

/// Sends `registrations` in calls of their own, and counts those that were `taken`.
async fn send(operator: &Operator, registrations: &[Registration], taken: &mut usize) -> Result<(), Trouble> {
    while *taken < registrations.len() {
        let (count, body) = call(&registrations[*taken..]);
        make(operator, &body).await?;
        *taken += count;
    }
    Ok(())
}

/// The first of `registrations`, as many as fit in a call.
fn call(registrations: &[Registration]) -> (usize, Value) {
    let (mut length, mut entries) = (0, Vec::new());
    for Registration { ticket, lifetime } in registrations {
        let seconds = lifetime.map(|lifetime| lifetime.as_secs());
        // Escaped, so that the server reads this very ticket and mends nothing.
        let entry = json!({ "ticket": ticket.encoded(), "expire_seconds": seconds });
        length += entry.to_string().len() + 1;
        if !entries.is_empty() && length + 1 > CALL {
            break;
        }
        entries.push(entry);
    }
    (entries.len(), entries.into())
}

/// Makes the call, again where the server says that it will take it later.
async fn make(operator: &Operator, body: &Value) -> Result<(), Trouble> {
    for _ in 1..MOST_TRIES {
        match operator.call("/tickets", body).await {
            Err(Trouble::Later(later, _)) => tokio::time::sleep(later.min(LONGEST_WAIT)).await,
            made => return made.map(drop),
        }
    }
    operator.call("/tickets", body).await.map(drop)
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(number) => write!(f, ":{number}"),
            Self::Item(number) => write!(f, ", item {number}"),
        }
    }
}

impl fmt::Display for NotOne {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(error) => write!(f, "no JSON: {error}"),
            Self::Entry(bad) => bad.fmt(f),
            Self::OtherFormat => {
                f.write_str("quotes or commas, which no ticket has; write TICKET or TICKET EXPIRE_SECONDS")
            }
            Self::TooManyWords => f.write_str("neither TICKET nor TICKET EXPIRE_SECONDS"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(text: &str) -> Vec<(usize, String)> {
        let told = |found: Result<Registration, NotOne>| match found {
            Ok(Registration { ticket, lifetime }) => {
                format!("{} {}", ticket.canonical(), lifetime.map_or(0, |lifetime| lifetime.as_secs()))
            }
            Err(why) => why.to_string().chars().take(20).collect(),
        };
        find(text).into_iter().map(|(place, found)| (number(place), told(found))).collect()
    }

    fn number(place: Place) -> usize {
        match place {
            Place::Line(number) | Place::Item(number) => number,
        }
    }

    fn expected(found: &[(usize, &str)]) -> Vec<(usize, String)> {
        found.iter().map(|(line, told)| (*line, (*told).to_owned())).collect()
    }

    #[test]
    fn lines_and_every_form_of_json_are_read() {
        assert_eq!(found("a\n\n b 60 \r\nc%2Fd\t0\n"), expected(&[(1, "a 0"), (3, "b 60"), (4, "c/d 0")]));
        assert_eq!(found("{\n\"ticket\":\"a\\/b\",\"expire_seconds\":60}\n"), expected(&[(1, "a/b 60")]));
        assert_eq!(found(" [{\"ticket\":\"a\"},\n{\"ticket\":\"b\"}]"), expected(&[(1, "a 0"), (2, "b 0")]));
        assert_eq!(
            found("{\"ticket\":\"a\"}\n{\"ticket\":\"b\"}\nc 5"),
            expected(&[(1, "a 0"), (2, "b 0"), (3, "c 5")])
        );
        assert_eq!(found(""), []);
        assert_eq!(found("\u{feff}a"), expected(&[(1, "a 0")]));
    }

    #[test]
    fn rubbish_has_its_line_and_the_rest_goes_on() {
        let told = found("a\nb c d\nb -1\n{\"ticket\n\u{e9}\n{\"ticket\":5}\nz");
        let lines: Vec<usize> = told.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, (1..=7).collect::<Vec<_>>());
        assert_eq!((told[0].1.as_str(), told[6].1.as_str()), ("a 0", "z 0"));
        for (line, start) in
            [(2, "neither TICKET"), (3, "expire_seconds"), (4, "no JSON"), (5, "the ticket"), (6, "ticket is no")]
        {
            assert!(told[line - 1].1.starts_with(start), "{told:?}");
        }
    }

    #[test]
    fn calls_are_bounded_and_nothing_is_lost_between_them() {
        let one = |number: usize| {
            let ticket = Ticket::from_text(&format!("{number}{}", "a".repeat(number % 500))).unwrap();
            Registration { ticket, lifetime: number.is_multiple_of(2).then_some(Duration::from_secs(60)) }
        };
        let registrations: Vec<Registration> = (0..3000).map(one).collect();
        let (mut left, mut calls) = (&registrations[..], 0);
        while !left.is_empty() {
            let (count, body) = call(left);
            let length = body.to_string().len();
            let read: Vec<_> = body.as_array().unwrap().iter().map(|sent| registration(sent).unwrap()).collect();
            assert!(length <= CALL && count > 0 && read == left[..count]);
            (left, calls) = (&left[count..], calls + 1);
        }
        assert_eq!(calls, 2);
    }

    proptest! {
        #[test]
        fn no_text_makes_reading_panic(text in any::<String>()) {
            find(&text);
        }
    }
}
