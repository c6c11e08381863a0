//! `ticketgate inspect`: what a ticket says of itself. Asks nobody.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Args;
use serde::Serialize;

use super::{fail, say};
use crate::clock::Clock;
use crate::moment::Wall;
use crate::ticket::{BadTicket, Facts, Ticket};

pub(super) const EXAMPLES: &str = "\
Examples (the ticket is the sample in WeChat's documentation):
  ticketgate inspect 'gQH47joAAAAAAAAAASxodHRwOi8vd2VpeGluLnFxLmNvbS9xL2taZ2Z3TVRtNzJXV1Brb3ZhYmJJAAIEZ23sUwMEmm3sUw=='
  ticketgate inspect 'https://mp.weixin.qq.com/cgi-bin/showqrcode?ticket=TICKET'
  ticketgate inspect --json TICKET | jq .expires

Exits 0 also when the ticket is not recognised (\"recognised\": false): WeChat decides about it.";

/// What to inspect, and for whom.
#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// The ticket as it stands in a page, mangled or not, or a URL that contains it.
    ticket: String,
    /// One JSON object instead of lines.
    #[arg(long)]
    json: bool,
}

/// What a ticket says; dates in RFC 3339, UTC.
#[derive(Debug, Serialize)]
struct Report {
    /// The canonical text.
    ticket: String,
    /// As it appears in logs.
    short: String,
    /// As it must stand in a URL.
    encoded: String,
    repaired: bool,
    repairs: Vec<&'static str>,
    recognised: bool,
    /// What the code encodes.
    url: Option<String>,
    created: Option<String>,
    expires: Option<String>,
    /// Negative after the end.
    remaining_seconds: Option<i64>,
    permanent: Option<bool>,
}

impl Inspect {
    pub(super) fn run(&self) -> ExitCode {
        let report = match find(&self.ticket) {
            Ok(ticket) => Report::of(&ticket, Clock::system().now().wall),
            Err(bad) => return fail(bad),
        };
        if self.json {
            say(serde_json::to_string_pretty(&report).expect("text, numbers and booleans are JSON"));
        } else {
            say(report.lines().join("\n"));
        }
        ExitCode::SUCCESS
    }
}

/// The ticket of a URL or a query, else the text itself. No ticket contains a `?` or a `&`.
fn find(text: &str) -> Result<Ticket, BadTicket> {
    let query = text.split_once('?').map_or(text, |(_, query)| query);
    let query = query.split_once('#').map_or(query, |(query, _)| query);
    let has_parameter = query.split('&').any(|parameter| parameter.starts_with("ticket="));
    if has_parameter { Ticket::from_query(Some(query)) } else { Ticket::from_text(text) }
}

impl Report {
    fn of(ticket: &Ticket, now: Wall) -> Self {
        let facts = ticket.facts();
        let expires = facts.as_ref().and_then(Facts::expires);
        Self {
            ticket: ticket.canonical().to_owned(),
            short: ticket.short().to_string(),
            encoded: ticket.encoded(),
            repaired: !ticket.repairs().is_empty(),
            repairs: ticket.repairs().iter().map(crate::ticket::Repair::name).collect(),
            recognised: facts.is_some(),
            created: facts.as_ref().map(|facts| date(facts.created)),
            expires: expires.map(date),
            remaining_seconds: expires.map(|end| end.unix() - now.unix()),
            permanent: facts.as_ref().map(|facts| facts.expires().is_none()),
            url: facts.map(|facts| facts.url),
        }
    }

    /// For people: what is unknown is left out, and what follows from it is said.
    fn lines(&self) -> Vec<String> {
        let line = |name: &str, text: &str| format!("{name:<11} {text}");
        let mut lines = vec![
            line("ticket", &self.ticket),
            line("short", &format!("{} (in logs)", self.short)),
            line("encoded", &format!("{} (in a URL)", self.encoded)),
            line("repaired", &if self.repaired { self.repairs.join(", ") } else { "nothing to repair".to_owned() }),
        ];
        if !self.recognised {
            lines.push(line("recognised", "no: a layout that is not known, or a damaged ticket; WeChat decides"));
            return lines;
        }
        lines.push(line("recognised", "yes: layout and checksum hold"));
        lines.extend(self.url.as_ref().map(|url| line("url", url)));
        lines.extend(self.created.as_ref().map(|created| line("created", created)));
        lines.push(line("expires", &self.end()));
        lines
    }

    fn end(&self) -> String {
        let (Some(expires), Some(remaining)) = (&self.expires, self.remaining_seconds) else {
            return "never: a permanent ticket".to_owned();
        };
        let span = span(remaining.unsigned_abs());
        if remaining > 0 { format!("{expires}, in {span}") } else { format!("{expires}, {span} ago") }
    }
}

/// The two largest units: nobody plans in seconds for a year.
fn span(seconds: u64) -> String {
    let whole = humantime::format_duration(Duration::from_secs(seconds)).to_string();
    whole.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

fn date(wall: Wall) -> String {
    humantime::format_rfc3339_seconds(SystemTime::from(wall)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str =
        "gQH47joAAAAAAAAAASxodHRwOi8vd2VpeGluLnFxLmNvbS9xL2taZ2Z3TVRtNzJXV1Brb3ZhYmJJAAIEZ23sUwMEmm3sUw==";

    #[test]
    fn a_ticket_is_found_bare_in_a_query_and_in_a_url() {
        let bare = find(SAMPLE).unwrap();
        for text in [
            format!("ticket={SAMPLE}"),
            format!("https://mp.weixin.qq.com/cgi-bin/showqrcode?ticket={SAMPLE}#top"),
            format!("/cgi-bin/showqrcode?access_token=x&ticket={}", SAMPLE.replace('=', "%3D")),
        ] {
            assert_eq!(find(&text), Ok(bare.clone()), "{text}");
        }
        assert_eq!(find("https://a/?ticket="), Err(BadTicket::Empty));
        assert_eq!(find(""), Err(BadTicket::Empty));
    }

    #[test]
    fn the_documented_sample_is_told_in_lines_and_json() {
        let report = Report::of(&find(SAMPLE.trim_end_matches('=')).unwrap(), Wall::from_unix(1_408_003_452));
        assert_eq!(report.end(), "2014-08-14T08:04:42Z, in 30s");
        assert_eq!(report.repairs, ["padding"]);
        let json: serde_json::Value = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        assert_eq!(json["url"], "http://weixin.qq.com/q/kZgfwMTm72WWPkovabbI");
        assert_eq!(json["remaining_seconds"], 30);
        assert_eq!((&json["permanent"], &json["recognised"]), (&false.into(), &true.into()));
        let late = Report::of(&find(SAMPLE).unwrap(), Wall::from_unix(1_408_003_483));
        assert_eq!(late.end(), "2014-08-14T08:04:42Z, 1s ago");
    }

    #[test]
    fn an_unknown_layout_says_so() {
        let report = Report::of(&find("new.layout").unwrap(), Wall::from_unix(0));
        assert!(report.lines().last().unwrap().starts_with("recognised  no"));
        assert_eq!((report.url, report.permanent), (None, None));
    }
}
