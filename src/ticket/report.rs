//! What a ticket says of itself, for people and their programs: `inspect` on the command line and on the operator's listener
//! tell the same. Pure.

use std::time::SystemTime;

use serde::Serialize;

use super::{Facts, Repair, Ticket};
use crate::moment::Wall;

/// What a ticket says; dates in RFC 3339, UTC.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The canonical text.
    pub ticket: String,
    /// As it appears in logs.
    pub short: String,
    /// As it must stand in a URL.
    pub encoded: String,
    /// Whether something had to be mended.
    pub repaired: bool,
    /// What.
    pub repairs: Vec<&'static str>,
    /// Whether layout and checksum hold.
    pub recognised: bool,
    /// What the code encodes.
    pub url: Option<String>,
    /// When it was created.
    pub created: Option<String>,
    /// When it ends.
    pub expires: Option<String>,
    /// Negative after the end.
    pub remaining_seconds: Option<i64>,
    /// Whether it never ends; `None` when that is not known.
    pub permanent: Option<bool>,
}

impl Report {
    /// What `ticket` says at `now`.
    pub fn of(ticket: &Ticket, now: Wall) -> Self {
        let facts = ticket.facts();
        let report = Self {
            ticket: ticket.canonical().to_owned(),
            short: ticket.short().to_string(),
            encoded: ticket.encoded(),
            repaired: !ticket.repairs().is_empty(),
            repairs: ticket.repairs().iter().map(Repair::name).collect(),
            recognised: facts.is_some(),
            url: facts.as_ref().map(|facts| facts.url.clone()),
            created: facts.as_ref().map(|facts| date(facts.created)),
            expires: None,
            remaining_seconds: None,
            permanent: facts.as_ref().map(|facts| facts.expires().is_none()),
        };
        match facts.as_ref().and_then(Facts::expires) {
            Some(end) => report.ending(end, now),
            None => report,
        }
    }

    /// The same with an end that others know.
    #[must_use]
    pub fn ending(self, end: Wall, now: Wall) -> Self {
        let remaining_seconds = Some(end.unix().saturating_sub(now.unix()));
        Self { expires: Some(date(end)), remaining_seconds, permanent: Some(false), ..self }
    }
}

/// `wall` in RFC 3339.
fn date(wall: Wall) -> String {
    humantime::format_rfc3339_seconds(SystemTime::from(wall)).to_string()
}
