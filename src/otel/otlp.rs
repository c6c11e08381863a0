//! Spans as OTLP's JSON writes them (OTLP 1.x, "JSON Protobuf Encoding": ids in hexadecimal, 64-bit numbers as strings), with
//! attributes by OpenTelemetry's names for HTTP. Pure. What they say is what the access line says: no query, no whole
//! ticket, no more of a client than `log.client` allows.

use std::time::Duration;

use serde_json::{Value, json};

use super::Step;
use crate::log::access::Line;

/// A span.
#[derive(Debug, Clone, PartialEq)]
pub struct Span(Value);

/// OTLP's numbers.
const SERVER: u8 = 2;
const CLIENT: u8 = 3;
const ERROR: u8 = 2;

impl Span {
    /// Those of a request that ended at `end`, in nanoseconds since 1970: its own, and one for what the app or WeChat did.
    pub fn of(step: Step, line: &Line<'_>, end: u64) -> Vec<Self> {
        let start = end.saturating_sub(nanos(line.took.unwrap_or_default()));
        let name = [line.method(), line.route].into_iter().flatten().collect::<Vec<_>>().join(" ");
        let mut server = span(step.trace, step.span, step.parent, &name, SERVER, (start, end));
        server["attributes"] = attributes(line);
        if line.status >= 500 {
            server["status"] = json!({ "code": ERROR });
        }
        let mut spans = vec![Self(server)];
        if let Some((name, when)) = child(line, start, end) {
            spans.push(Self(span(step.trace, step.child, Some(step.span), name, CLIENT, when)));
        }
        spans
    }
}

/// The app was asked at the beginning; WeChat's answer came at the end, whoever asked for it.
fn child(line: &Line<'_>, start: u64, end: u64) -> Option<(&'static str, (u64, u64))> {
    let of_app = line.app_took.map(|took| ("app", (start, start.saturating_add(nanos(took)).min(end))));
    of_app.or_else(|| line.origin_took.map(|took| ("fill", (end.saturating_sub(nanos(took)), end))))
}

fn span(trace: u128, span: u64, parent: Option<u64>, name: &str, kind: u8, (start, end): (u64, u64)) -> Value {
    json!({
        "traceId": format!("{trace:032x}"),
        "spanId": format!("{span:016x}"),
        "parentSpanId": parent.map(|parent| format!("{parent:016x}")).unwrap_or_default(),
        "name": name,
        "kind": kind,
        "startTimeUnixNano": start.to_string(),
        "endTimeUnixNano": end.to_string(),
    })
}

fn attributes(line: &Line<'_>) -> Value {
    let text =
        |key: &str, value: Option<String>| value.map(|value| json!({ "key": key, "value": { "stringValue": value } }));
    let number = |key: &str, value: Option<u64>| {
        value.map(|value| json!({ "key": key, "value": { "intValue": value.to_string() } }))
    };
    let own = |word: Option<&str>| word.map(str::to_owned);
    let all = [
        text("http.request.method", own(line.method())),
        text("url.path", own(line.path.map(crate::log::access::shortened))),
        number("http.response.status_code", Some(line.status.into())),
        number("http.response.body.size", line.bytes),
        text("client.address", line.client.map(|client| client.to_string())),
        text("error.type", own(line.reason)),
        text("ticketgate.route", own(line.route)),
        text("ticketgate.cache", own(line.cache)),
        text("ticketgate.ticket", line.ticket.map(ToString::to_string)),
        text("ticketgate.request_id", own(line.id)),
    ];
    Value::Array(all.into_iter().flatten().collect())
}

/// One request to a collector.
pub fn encode(spans: &[Span]) -> Vec<u8> {
    let attribute = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
    let version = env!("CARGO_PKG_VERSION");
    let resource = [attribute("service.name", "ticketgate"), attribute("service.version", version)];
    let spans: Vec<&Value> = spans.iter().map(|Span(span)| span).collect();
    let scope = json!({ "scope": { "name": "ticketgate", "version": version }, "spans": spans });
    let all = json!({ "resourceSpans": [{ "resource": { "attributes": resource }, "scopeSpans": [scope] }] });
    all.to_string().into_bytes()
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
