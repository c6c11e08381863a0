//! Tickets listed in a file or on standard input, one a line. They are read as they are needed, by a thread of their own (a
//! read blocks, and who waits for it may want to end), so that a file of any length takes the memory of a few hundred lines.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::Path;

use serde::Deserialize;
use tokio::sync::mpsc;

use crate::ticket::{BadTicket, Ticket};

/// Bytes of a line: a ticket has 512 at most, and may be written in escapes in a URL or in a whole answer of the API's.
const LONGEST_LINE: usize = 16 * 1024;

/// Lines that are read ahead.
const READ_AHEAD: usize = 256;

/// A line that says something.
#[derive(Debug)]
pub(super) struct Line {
    /// From 1.
    pub(super) number: u64,
    /// Its bytes, and those of the lines before it that say nothing.
    pub(super) bytes: u64,
    /// What it says.
    pub(super) ticket: Result<Ticket, Rubbish>,
}

/// Why a line names no ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rubbish {
    /// It is none.
    Ticket(BadTicket),
    /// It begins like JSON.
    Json,
    /// It is longer than any line with a ticket.
    TooLong,
}

/// An answer of `qrcode/create`, or something like it.
#[derive(Deserialize)]
struct Answer {
    ticket: String,
}

/// A list that is being read.
pub(super) struct Listed {
    lines: mpsc::Receiver<io::Result<Line>>,
    /// How reading ended, until it is told.
    broken: Option<io::Error>,
    length: Option<u64>,
}

impl Listed {
    /// Opens `path`; `-` is standard input.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        if path.as_os_str() == "-" {
            return Ok(Self::read(io::stdin(), None));
        }
        let file = File::open(path)?;
        let about = file.metadata()?;
        if about.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        Ok(Self::read(file, about.is_file().then_some(about.len())))
    }

    /// The thread ends with the list, or with whoever reads it; while a read blocks, with the process.
    fn read(from: impl io::Read + Send + 'static, length: Option<u64>) -> Self {
        let (sender, lines) = mpsc::channel(READ_AHEAD);
        std::thread::spawn(move || {
            let lines = Lines { from: BufReader::new(from), number: 0 };
            // Whoever hangs up has enough.
            let _ = lines.into_iter().try_for_each(|line| sender.blocking_send(line));
        });
        Self { lines, broken: None, length }
    }

    /// Its bytes in all, where that is known.
    pub(super) fn length(&self) -> Option<u64> {
        self.length
    }

    /// Waits for lines, and takes those that are there, `most` at most; none at the end.
    pub(super) async fn next(&mut self, most: usize) -> io::Result<Vec<Line>> {
        if let Some(error) = self.broken.take() {
            return Err(error);
        }
        let mut lines = Vec::new();
        self.lines.recv_many(&mut lines, most).await;
        let mut whole = Vec::with_capacity(lines.len());
        for line in lines {
            match line {
                Ok(line) => whole.push(line),
                // What came before it is not lost.
                Err(error) if whole.is_empty() => return Err(error),
                Err(error) => self.broken = Some(error),
            }
        }
        Ok(whole)
    }
}

/// The lines of a reader that say something.
struct Lines<T> {
    from: T,
    number: u64,
}

impl<T: BufRead> Iterator for Lines<T> {
    type Item = io::Result<Line>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut bytes = 0;
        loop {
            let (line, read) = match self.line() {
                Ok((_, 0)) => return None,
                Ok(read) => read,
                Err(error) => return Some(Err(error)),
            };
            bytes += read;
            self.number += 1;
            if let Some(ticket) = line.map_or(Some(Err(Rubbish::TooLong)), |line| ticket(&line)) {
                return Some(Ok(Line { number: self.number, bytes, ticket }));
            }
        }
    }
}

impl<T: BufRead> Lines<T> {
    /// One line, `None` when it is too long, and how many bytes it took.
    fn line(&mut self) -> io::Result<(Option<Vec<u8>>, u64)> {
        let mut line = Vec::new();
        let read = (&mut self.from).take(LONGEST_LINE as u64).read_until(b'\n', &mut line)?;
        if read < LONGEST_LINE || line.ends_with(b"\n") {
            return Ok((Some(line), read as u64));
        }
        let skipped = self.from.skip_until(b'\n')?;
        Ok((None, (read + skipped) as u64))
    }
}

/// What a line says; `None` for nothing, and for remarks. Tickets stand in it bare, mangled, in URLs, or in JSON.
fn ticket(line: &[u8]) -> Option<Result<Ticket, Rubbish>> {
    let Ok(text) = std::str::from_utf8(line) else { return Some(Err(Rubbish::Ticket(BadTicket::Characters))) };
    // Editors of some systems begin files with a mark.
    let text = text.trim_start_matches('\u{feff}').trim();
    let find = |text: &str| Ticket::find(text).map_err(Rubbish::Ticket);
    match text.as_bytes().first()? {
        b'#' => None,
        b'"' => Some(serde_json::from_str::<String>(text).map_err(|_| Rubbish::Json).and_then(|text| find(&text))),
        b'{' => {
            let answer = serde_json::from_str::<Answer>(text).map_err(|_| Rubbish::Json);
            Some(answer.and_then(|answer| find(&answer.ticket)))
        }
        _ => Some(find(text)),
    }
}

impl fmt::Display for Rubbish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ticket(bad) => bad.fmt(f),
            Self::Json => f.write_str("JSON of a ticket is a string, or an object with the string \"ticket\""),
            Self::TooLong => write!(f, "longer than {LONGEST_LINE} bytes; write one ticket a line"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TICKET: &str =
        "gQH47joAAAAAAAAAASxodHRwOi8vd2VpeGluLnFxLmNvbS9xL2taZ2Z3TVRtNzJXV1Brb3ZhYmJJAAIEZ23sUwMEmm3sUw==";

    fn lines(text: &[u8]) -> Vec<Line> {
        Lines { from: text, number: 0 }.map(Result::unwrap).collect()
    }

    #[test]
    fn a_ticket_is_read_in_every_form_that_a_list_may_have() {
        for line in [
            TICKET.to_owned(),
            format!("\u{feff}  {TICKET}\r\n"),
            format!("https://mp.weixin.qq.com/cgi-bin/showqrcode?ticket={TICKET}"),
            format!("\"{TICKET}\""),
            format!("{{\"ticket\":\"{}\",\"expire_seconds\":60}}", TICKET.replace('/', "\\/")),
        ] {
            let read = ticket(line.as_bytes()).unwrap().map(|ticket| ticket.canonical().to_owned());
            assert_eq!(read, Ok(TICKET.to_owned()), "{line}");
        }
    }

    #[test]
    fn what_says_nothing_is_skipped_and_what_is_no_ticket_is_named() {
        let long = "x".repeat(LONGEST_LINE);
        let text =
            format!("\n# a remark\n  \n{TICKET}\n{{\"url\":1}}\n\"open\n{long}\n\u{1}\n{}\nlast", "y".repeat(513));
        let read = lines(text.as_bytes());
        let found: Vec<_> = read.iter().map(|line| (line.number, line.ticket.as_ref().err().copied())).collect();
        assert_eq!(
            found,
            [
                (4, None),
                (5, Some(Rubbish::Json)),
                (6, Some(Rubbish::Json)),
                (7, Some(Rubbish::TooLong)),
                (8, Some(Rubbish::Ticket(BadTicket::Characters))),
                (9, Some(Rubbish::Ticket(BadTicket::TooLong))),
                (10, None),
            ]
        );
        assert_eq!(read.iter().map(|line| line.bytes).sum::<u64>(), text.len() as u64);
    }

    proptest! {
        #[test]
        fn any_bytes_are_counted_and_none_of_them_stop_the_reading(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut text = bytes.clone();
            text.extend(b"\nlast");
            let read = lines(&text);
            prop_assert_eq!(read.iter().map(|line| line.bytes).sum::<u64>(), text.len() as u64);
            let last = read.last().unwrap();
            prop_assert_eq!(last.ticket.as_ref().unwrap().canonical(), "last");
            prop_assert_eq!(last.number, text.split(|byte| *byte == b'\n').count() as u64);
        }
    }
}
