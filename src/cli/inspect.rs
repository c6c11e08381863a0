//! `ticketgate inspect`: what a ticket says of itself. Asks nobody, unless told to ([`super::fetch`]).

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::fetch::{Exchange, Fetch};
use super::{BAD_USAGE, Options, complain, fail, say};
use crate::clock::Clock;
use crate::ticket::{Report, Ticket};

pub(super) const EXAMPLES: &str = "\
Examples (the ticket is the sample in WeChat's documentation):
  ticketgate inspect 'gQH47joAAAAAAAAAASxodHRwOi8vd2VpeGluLnFxLmNvbS9xL2taZ2Z3TVRtNzJXV1Brb3ZhYmJJAAIEZ23sUwMEmm3sUw=='
  ticketgate inspect 'https://mp.weixin.qq.com/cgi-bin/showqrcode?ticket=TICKET'
  ticketgate inspect --json TICKET | jq .expires
  ticketgate inspect --fetch TICKET                       what does the origin really send? For a bug report
  ticketgate inspect --fetch --json --origin https://mp.weixin.qq.com TICKET | jq .fetch.proxy

Without --fetch nobody is asked. Exits 0 also when the ticket is not recognised (\"recognised\": false): WeChat decides about it.";

/// What to inspect, and for whom.
#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// The ticket as it stands in a page, mangled or not, or a URL that contains it.
    ticket: String,
    /// One JSON object instead of lines.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    fetch: Fetch,
}

/// The report, and what was fetched if something was.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    report: &'a Report,
    #[serde(skip_serializing_if = "Option::is_none")]
    fetch: Option<&'a Exchange>,
}

impl Inspect {
    /// `before` are the flags that stand before the command; they say something of what is fetched only.
    pub(super) fn run(self, before: Options, environment: Vec<(String, String)>) -> ExitCode {
        if !self.fetch.wanted && before != Options::default() {
            complain("without --fetch this command takes none of the flags that stand before it; see its --help");
            return ExitCode::from(BAD_USAGE);
        }
        let ticket = match Ticket::find(&self.ticket) {
            Ok(ticket) => ticket,
            Err(bad) => return fail(bad),
        };
        let report = Report::of(&ticket, Clock::system().now().wall);
        if !self.fetch.wanted {
            tell(&report, None, self.json);
            return ExitCode::SUCCESS;
        }
        match self.fetch.run(&ticket, before, environment) {
            Ok(exchange) => {
                tell(&report, Some(&exchange), self.json);
                exchange.exit_code()
            }
            Err(refused) => refused,
        }
    }
}

fn tell(report: &Report, fetch: Option<&Exchange>, as_json: bool) {
    if as_json {
        let told = Told { report, fetch };
        return say(serde_json::to_string_pretty(&told).expect("text, numbers and booleans are JSON"));
    }
    let mut lines = lines(report);
    lines.extend(fetch.iter().flat_map(|exchange| exchange.lines()));
    say(lines.join("\n"));
}

/// For people: what is unknown is left out, and what follows from it is said.
fn lines(report: &Report) -> Vec<String> {
    let line = |name: &str, text: &str| format!("{name:<11} {text}");
    let repairs = if report.repaired { report.repairs.join(", ") } else { "nothing to repair".to_owned() };
    let mut lines = vec![
        line("ticket", &report.ticket),
        line("short", &format!("{} (in logs)", report.short)),
        line("encoded", &format!("{} (in a URL)", report.encoded)),
        line("repaired", &repairs),
    ];
    if !report.recognised {
        lines.push(line("recognised", "no: a layout that is not known, or a damaged ticket; WeChat decides"));
        return lines;
    }
    lines.push(line("recognised", "yes: layout and checksum hold"));
    lines.extend(report.url.as_ref().map(|url| line("url", url)));
    lines.extend(report.created.as_ref().map(|created| line("created", created)));
    lines.push(line("expires", &end(report)));
    lines
}

fn end(report: &Report) -> String {
    let (Some(expires), Some(remaining)) = (&report.expires, report.remaining_seconds) else {
        return "never: a permanent ticket".to_owned();
    };
    let span = span(remaining.unsigned_abs());
    if remaining > 0 { format!("{expires}, in {span}") } else { format!("{expires}, {span} ago") }
}

/// The two largest units: nobody plans in seconds for a year.
pub(super) fn span(seconds: u64) -> String {
    let whole = humantime::format_duration(Duration::from_secs(seconds)).to_string();
    whole.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::moment::Wall;

    const SAMPLE: &str =
        "gQH47joAAAAAAAAAASxodHRwOi8vd2VpeGluLnFxLmNvbS9xL2taZ2Z3TVRtNzJXV1Brb3ZhYmJJAAIEZ23sUwMEmm3sUw==";

    #[test]
    fn the_documented_sample_is_told_in_lines_and_json() {
        let report = Report::of(&Ticket::find(SAMPLE.trim_end_matches('=')).unwrap(), Wall::from_unix(1_408_003_452));
        assert_eq!(end(&report), "2014-08-14T08:04:42Z, in 30s");
        assert_eq!(report.repairs, ["padding"]);
        let json: serde_json::Value = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        assert_eq!(json["url"], "http://weixin.qq.com/q/kZgfwMTm72WWPkovabbI");
        assert_eq!(json["remaining_seconds"], 30);
        assert_eq!((&json["permanent"], &json["recognised"]), (&false.into(), &true.into()));
        let late = Report::of(&Ticket::find(SAMPLE).unwrap(), Wall::from_unix(1_408_003_483));
        assert_eq!(end(&late), "2014-08-14T08:04:42Z, 1s ago");
    }

    #[test]
    fn an_unknown_layout_says_so() {
        let report = Report::of(&Ticket::find("new.layout").unwrap(), Wall::from_unix(0));
        assert!(lines(&report).last().unwrap().starts_with("recognised  no"));
        assert_eq!((report.url, report.permanent), (None, None));
    }
}
