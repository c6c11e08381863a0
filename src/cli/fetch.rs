//! `ticketgate inspect --fetch`: asks the origin itself, by the request that the proxy sends, and tells what it really sent,
//! ready for a bug report; and what the proxy makes of it. Asks no running server and changes nothing.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use http::HeaderMap;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{BAD_USAGE, Options, complain, fail, inspect, refuse};
use crate::app::rules;
use crate::cache::format::Format;
use crate::clock::Clock;
use crate::config::Config;
use crate::fill::judge::{self, Bench, Known, Storable, Verdict};
use crate::moment::Moment;
use crate::origin::Read;
use crate::origin::probe::{Notes, Probe, probe};
use crate::ticket::Ticket;

/// Bytes of a body that are shown, and in one line.
const SHOWN: usize = 64;
const IN_A_LINE: usize = 16;

/// Whether the origin is asked, and which.
#[derive(Debug, Args)]
pub(super) struct Fetch {
    /// Asks the origin, and prints what it really sent: exits 0 when an image came, 1 when not.
    #[arg(id = "fetch", long)]
    pub(super) wanted: bool,
    #[arg(long, value_name = "URL", requires = "fetch", help = "Who is asked [default: as \"serve\" would]")]
    origin: Option<String>,
    #[arg(long, value_name = "FILE", requires = "fetch", help = "The configuration file; also TICKETGATE_CONFIG")]
    config: Option<PathBuf>,
}

/// All of one exchange.
#[derive(Debug, Serialize)]
pub(super) struct Exchange {
    origin: String,
    peer: Option<String>,
    tls: Option<String>,
    request: Message,
    answer: Option<Message>,
    body: Option<Body>,
    connected_ms: Option<f64>,
    first_byte_ms: Option<f64>,
    took_ms: f64,
    proxy: Judged,
}

/// A head. Over HTTP/1 as it stood on the wire.
#[derive(Debug, Serialize)]
struct Message {
    line: String,
    fields: Vec<(String, String)>,
}

/// What followed the head of the answer; where it was not read, its beginning.
#[derive(Debug, Serialize)]
struct Body {
    bytes: Option<usize>,
    format: Option<&'static str>,
    sha256: Option<String>,
    /// In hexadecimal digits.
    begins: String,
    #[serde(skip)]
    beginning: Vec<u8>,
}

/// What the proxy makes of it.
#[derive(Debug, Serialize)]
struct Judged {
    image: bool,
    stored: bool,
    /// The word for logs and metrics.
    reason: Option<String>,
    text: String,
}

impl Fetch {
    /// Asks for `ticket`. `before` are the flags that stand before the command.
    pub(super) fn run(
        self,
        ticket: &Ticket,
        before: Options,
        environment: Vec<(String, String)>,
    ) -> Result<Exchange, ExitCode> {
        let own = Options { config: self.config, origin: self.origin, ..Options::default() };
        let config = own.or(before).load(environment).map_err(|mistakes| refuse(&mistakes))?.config;
        let clock = Clock::system();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| fail(format_args!("cannot ask: {error}")))?;
        let probed = runtime.block_on(probe(&config.origin, config.cache.max_image, &clock, ticket));
        // A lookup of a name that hangs is not waited for.
        runtime.shutdown_background();
        let probe = probed.map_err(|bad| {
            complain(bad);
            ExitCode::from(BAD_USAGE)
        })?;
        Ok(Exchange::of(probe, ticket, &config, &clock))
    }
}

impl Exchange {
    fn of(probe: Probe, ticket: &Ticket, config: &Config, clock: &Clock) -> Self {
        let milliseconds = |took: Duration| (took.as_secs_f64() * 10_000.0).round() / 10.0;
        let Notes { peer, tls, connected, first_byte, .. } = &probe.notes;
        Self {
            origin: config.origin.url.to_string(),
            peer: peer.map(|peer| peer.to_string()),
            tls: tls.clone(),
            connected_ms: connected.map(milliseconds),
            first_byte_ms: first_byte.map(milliseconds),
            took_ms: milliseconds(probe.took),
            request: request(&probe, config),
            answer: answer(&probe),
            body: Body::of(&probe),
            proxy: Judged::of(probe, ticket, config, clock),
        }
    }

    /// Whether an image came; if not, the reason is told.
    pub(super) fn exit_code(&self) -> ExitCode {
        if self.proxy.image { ExitCode::SUCCESS } else { fail(&self.proxy.text) }
    }

    /// For people.
    pub(super) fn lines(&self) -> Vec<String> {
        let line = |name: &str, text: &str| format!("{name:<11} {text}");
        let by = [self.peer.as_deref(), self.tls.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(", ");
        let by = if by.is_empty() { "no connection".to_owned() } else { by };
        let mut lines = vec![String::new(), line("origin", &format!("{} ({by})", self.origin))];
        lines.extend(self.request.lines('>'));
        lines.extend(self.answer.iter().flat_map(|answer| answer.lines('<')));
        lines.extend(self.body.iter().flat_map(Body::lines));
        lines.push(line("times", &self.times()));
        lines.push(line("the proxy", &self.proxy.text));
        lines
    }

    fn times(&self) -> String {
        let mut times = String::new();
        for (name, milliseconds) in [("connected", self.connected_ms), ("first byte", self.first_byte_ms)] {
            if let Some(milliseconds) = milliseconds {
                let _ = write!(times, "{name} after {milliseconds} ms, ");
            }
        }
        times + &format!("the end after {} ms", self.took_ms)
    }
}

fn is_http2(notes: &Notes) -> bool {
    notes.alpn.as_deref() == Some("h2")
}

/// As it was sent; where it was not, as it would have been.
fn request(probe: &Probe, config: &Config) -> Message {
    if let Some((head, _)) = head(&probe.notes.sent).filter(|_| !is_http2(&probe.notes)) {
        return head;
    }
    let host = config.origin.url.authority().map_or("", |authority| authority.as_str()).to_owned();
    let (version, name) = if is_http2(&probe.notes) { ("HTTP/2", ":authority") } else { ("HTTP/1.1", "host") };
    let mut fields = fields(&probe.fields);
    fields.insert(0, (name.to_owned(), host));
    Message { line: format!("{} {version}", probe.line), fields }
}

fn answer(probe: &Probe) -> Option<Message> {
    if !is_http2(&probe.notes) {
        return last_head(&probe.notes.received).map(|(head, _)| head);
    }
    let answer = probe.answer.as_ref().ok()?;
    Some(Message { line: format!("HTTP/2 {}", answer.status.as_u16()), fields: fields(&answer.headers) })
}

fn fields(headers: &HeaderMap) -> Vec<(String, String)> {
    headers.iter().map(|(name, value)| (name.to_string(), visible(value.as_bytes()))).collect()
}

/// The head at the beginning of `bytes`, and what follows it. Pure.
fn head(bytes: &[u8]) -> Option<(Message, &[u8])> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let (head, rest) = (&bytes[..end], &bytes[end + 4..]);
    let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let line = visible(lines.next()?);
    let field = |line: &[u8]| {
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        (visible(&line[..colon]), visible(line.get(colon + 1..).unwrap_or_default().trim_ascii()))
    };
    Some((Message { line, fields: lines.map(field).collect() }, rest))
}

/// The head of the answer itself, behind interim ones (RFC 9110 §15.2).
fn last_head(mut bytes: &[u8]) -> Option<(Message, &[u8])> {
    loop {
        let (head, rest) = head(bytes)?;
        if !head.line.starts_with("HTTP/1.1 1") {
            return head.line.starts_with("HTTP/").then_some((head, rest));
        }
        bytes = rest;
    }
}

/// What a stranger sent does nothing to a terminal.
fn visible(bytes: &[u8]) -> String {
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    String::from_utf8_lossy(bytes).chars().map(shown).collect()
}

impl Message {
    fn lines(&self, mark: char) -> Vec<String> {
        let field = |(name, value): &(String, String)| format!("{mark} {name}: {value}");
        std::iter::once(format!("{mark} {}", self.line)).chain(self.fields.iter().map(field)).collect()
    }
}

impl Body {
    fn of(probe: &Probe) -> Option<Self> {
        match &probe.answer {
            Ok(answer) if let Read::Whole(body) = &answer.body => Some(Self {
                bytes: Some(body.len()),
                format: Format::of(body).map(Format::media_type),
                sha256: Some(Sha256::digest(body).iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))),
                ..Self::unread(body)
            }),
            _ if is_http2(&probe.notes) => None,
            _ => {
                let received = &probe.notes.received;
                let rest = last_head(received).map_or(&received[..], |(_, rest)| rest);
                (!rest.is_empty()).then(|| Self::unread(rest))
            }
        }
    }

    fn unread(bytes: &[u8]) -> Self {
        let beginning = bytes[..bytes.len().min(SHOWN)].to_vec();
        let begins = beginning.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        Self { bytes: None, format: None, sha256: None, begins, beginning }
    }

    fn lines(&self) -> Vec<String> {
        let format = self.format.unwrap_or("no image");
        let mut lines = vec![match self.bytes {
            Some(bytes) => format!("{:<11} {bytes} bytes, {format}", "body"),
            None => format!("{:<11} not whole; it begins so", "body"),
        }];
        lines.extend(self.sha256.iter().map(|sha256| format!("{:<11} {sha256}", "SHA-256")));
        for row in self.beginning.chunks(IN_A_LINE) {
            let hex = row.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x} "));
            let dotted = |byte: &u8| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '.' };
            lines.push(format!("{:11} {hex:<48} |{}|", "", row.iter().map(dotted).collect::<String>()));
        }
        lines
    }
}

impl Judged {
    fn of(probe: Probe, ticket: &Ticket, config: &Config, clock: &Clock) -> Self {
        let now = clock.now();
        let limited = probe.limited(clock);
        let facts = ticket.facts();
        let known = Known { facts: facts.as_ref(), ..Known::default() };
        let bench = Bench { now, skew_millis: probe.skew_millis };
        let verdict = match (limited, probe.answer) {
            (Some(failure), _) | (None, Err(failure)) => Verdict::Failed(failure, None),
            (None, Ok(answer)) => judge::judge(answer, known, &rules(config), bench),
        };
        Self::by(&verdict, now)
    }

    fn by(verdict: &Verdict, now: Moment) -> Self {
        match verdict {
            Verdict::Image(image, Storable::Yes) => {
                let (fresh, useful) = (image.fresh_for(now), image.useful_for(now));
                Self::image(None, format!("stores it: fresh for {}, of use for {}", span(fresh), span(useful)))
            }
            Verdict::Image(_, Storable::ShowOnly(reason)) => {
                Self::image(Some(reason), format!("shows it and does not store it: {reason}"))
            }
            Verdict::Image(_, Storable::Stale) => {
                Self::image(Some("stale-on-arrival"), "shows it and does not store it: stale on arrival".to_owned())
            }
            Verdict::Unknown(negative) => {
                let remembered = span(negative.until.since(now.tick));
                let text = format!("passes the refusal on, and remembers it for {remembered}: the ticket is not known");
                Self::none(judge::negative_reason(negative), text)
            }
            Verdict::Passed(passed) => {
                let status = passed.status.as_u16();
                Self::none("origin-status", format!("passes the {status} on and does not store it"))
            }
            Verdict::Failed(failure, _) => {
                Self::none(failure.reason(), format!("answers {}: {failure}", failure.status().as_u16()))
            }
        }
    }

    fn image(reason: Option<&str>, text: String) -> Self {
        Self { image: true, stored: reason.is_none(), reason: reason.map(str::to_owned), text }
    }

    fn none(reason: &str, text: String) -> Self {
        Self { image: false, stored: false, reason: Some(reason.to_owned()), text }
    }
}

/// The nearest second: some milliseconds have passed since the answer came.
fn span(duration: Duration) -> String {
    inspect::span(duration.saturating_add(Duration::from_millis(500)).as_secs())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_head_is_told_in_the_order_and_case_in_which_it_came() {
        let bytes = b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nX-b: 2\r\nx-A:1\r\nodd\r\n\r\nbody";
        let (head, rest) = last_head(bytes).unwrap();
        let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(head.line, "HTTP/1.1 200 OK");
        assert_eq!(head.fields, [field("X-b", "2"), field("x-A", "1"), field("odd", "")]);
        assert_eq!(rest, b"body");
        assert!(last_head(b"220 mail ready\r\n\r\n").is_none());
        assert_eq!(visible(b"a\x1b[2J\xff"), "a\\u{1b}[2J\u{fffd}");
    }

    proptest! {
        #[test]
        fn whatever_came_is_shown_without_a_control_character(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = bytes;
            bytes.extend(b"\r\n\r\nrest");
            let (head, _) = head(&bytes).unwrap();
            prop_assert!(head.lines('<').iter().all(|line| !line.contains(char::is_control)));
            let body = Body::unread(&bytes);
            prop_assert!(body.lines().iter().all(|line| !line.contains(char::is_control) && line.len() < 100));
        }
    }
}
