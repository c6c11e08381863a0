//! What is written of one own ticket, and how a process tells it to its successor: a line of JSON each.

use std::io::{BufRead, Read as _};

use serde::{Deserialize, Serialize};

use crate::cache::expiry::Expiry;
use crate::moment::{Moment, Wall};
use crate::ticket::Ticket;

/// Bytes of a line: a ticket's escaped text, and two times.
const LONGEST_LINE: u64 = 4096;

/// An own ticket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The ticket.
    pub ticket: Ticket,
    /// When it ends; `None` when permanent, or not known.
    pub end: Option<End>,
}

/// The end of a ticket, as both clocks on a wall show it: a monotonic clock means nothing to another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// As the issuer says it, on the issuer's clock.
    pub stated: Wall,
    /// The same on ours.
    pub wall: Wall,
}

impl Record {
    /// `ticket`, which ends with `expiry`.
    pub fn new(ticket: &Ticket, expiry: Option<Expiry>) -> Self {
        let end = expiry.map(|expiry| End { stated: expiry.stated, wall: expiry.wall() });
        Self { ticket: ticket.clone(), end }
    }

    /// The end as a deadline.
    pub fn expiry(&self, now: Moment) -> Option<Expiry> {
        self.end.map(|End { stated, wall }| Expiry::restored(stated, wall, now))
    }

    /// As a line for a successor.
    pub fn line(&self) -> String {
        let [stated, wall] = [self.end.map(|end| end.stated), self.end.map(|end| end.wall)]
            .map(|wall| wall.map(|wall| wall.millis_since(EPOCH)));
        let line = Line { ticket: self.ticket.canonical().into(), stated, wall };
        serde_json::to_string(&line).expect("text and numbers are JSON") + "\n"
    }

    fn of(line: &[u8]) -> Option<Self> {
        let Line { ticket, stated, wall } = serde_json::from_slice(line).ok()?;
        let of = |millis: Option<i64>| millis.map(Wall::from_unix_millis);
        let end = of(stated).zip(of(wall)).map(|(stated, wall)| End { stated, wall });
        Some(Self { ticket: Ticket::from_canonical(&ticket).ok()?, end })
    }
}

impl End {
    /// The earlier of both on each clock: an end is never put off.
    pub(super) fn earliest(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        let sooner =
            |one: Self, other: Self| Self { stated: one.stated.min(other.stated), wall: one.wall.min(other.wall) };
        one.into_iter().chain(other).reduce(sooner)
    }
}

/// The start of wall time.
pub(super) const EPOCH: Wall = Wall::from_unix(0);

#[derive(Serialize, Deserialize)]
struct Line {
    ticket: String,
    stated: Option<i64>,
    wall: Option<i64>,
}

/// Reads the lines of another process to their end, which comes when that has ended. Lines that say nothing, or are too long, are
/// skipped with a word. Blocks.
pub fn read_lines(mut from: impl BufRead, mut each: impl FnMut(Record)) {
    let mut goes_on = false;
    loop {
        let mut line = Vec::new();
        match from.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => return tracing::error!(%error, "own tickets that another process still learns are lost"),
        }
        let is_rest = std::mem::replace(&mut goes_on, !line.ends_with(b"\n"));
        match Record::of(&line).filter(|_| !is_rest && !goes_on) {
            Some(record) => each(record),
            None if is_rest => {}
            None => tracing::warn!(bytes = line.len(), "a line of another process names no own ticket, and is skipped"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8]) -> Vec<Record> {
        let mut records = Vec::new();
        read_lines(bytes, |record| records.push(record));
        records
    }

    #[test]
    fn lines_that_are_none_are_skipped_whole() {
        let record = Record { ticket: Ticket::from_text("a").unwrap(), end: None };
        let line = record.line();
        let long = "x".repeat(usize::try_from(LONGEST_LINE).unwrap()) + &line;
        for bad in ["", "\n", "rubbish\n", "{\"ticket\":\"\"}\n", &long, &"{".repeat(10_000)] {
            let bad = if bad.is_empty() || bad.ends_with('\n') { bad.to_owned() } else { format!("{bad}\n") };
            assert_eq!(read(format!("{line}{bad}{line}").as_bytes()), [record.clone(), record.clone()], "{bad}");
        }
        assert_eq!(read(format!("{line}{}", line.trim_end()).as_bytes()), [record], "cut, it may be another");
        assert_eq!(read(&vec![b'{'; 1 << 20]), []);
    }

    proptest! {
        #[test]
        fn what_is_told_is_what_is_read(text in "[ -~]{1,80}", end in prop::option::of((any::<i64>(), any::<i64>()))) {
            let Ok(ticket) = Ticket::from_text(&text) else { return Ok(()) };
            let of = Wall::from_unix_millis;
            let record = Record { ticket, end: end.map(|(stated, wall)| End { stated: of(stated), wall: of(wall) }) };
            prop_assert_eq!(read(record.line().as_bytes()), [record]);
        }

        #[test]
        fn no_bytes_make_reading_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            read(&bytes);
        }
    }
}
