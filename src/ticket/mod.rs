//! Tickets: the text WeChat issued, in its one canonical form (S6–S9). The canonical text is the cache key and the only
//! client byte that reaches the origin. `repair` undoes what pages do to tickets; `layout` knows what a ticket looks
//! like inside and thereby proves a repair. All of it is pure.

mod config;
mod layout;
mod repair;
mod report;

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

pub use config::{Allow, Config, Expired};
pub use layout::{Facts, Validity, mint};
use memchr::memchr;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
pub use repair::{Repair, Repairs};
pub use report::Report;
use sha2::{Digest, Sha256};

use crate::query::{parameters, value};

/// Bytes of a ticket after decoding; WeChat's have 96.
pub const MAX_BYTES: usize = 512;

/// Spellings of one ticket in one query that are read to see whether they agree: reading comes before any budget.
const MOST_PARAMETERS: usize = 8;

/// What stays bare in the origin's URL: RFC 3986's unreserved characters.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A ticket in its canonical form. Cheap to clone; equal when the canonical texts are.
#[derive(Clone)]
pub struct Ticket {
    canonical: Arc<str>,
    repairs: Repairs,
}

/// Why there is no ticket to ask for (S9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadTicket {
    /// No `ticket` parameter.
    Missing,
    /// `ticket` without a value.
    Empty,
    /// Two that differ, or more spellings than are read.
    Conflicting,
    /// More than [`MAX_BYTES`] after decoding.
    TooLong,
    /// Control characters or non-ASCII that no repair explains.
    Characters,
}

impl Ticket {
    /// Finds the ticket in the raw query of a request target. Every parameter but `ticket` is dropped (S6); of several,
    /// all must mean the same. At most eight that are spelled differently are read.
    pub fn from_query(query: Option<&str>) -> Result<Self, BadTicket> {
        let mut values = parameters(query.unwrap_or_default()).filter_map(|parameter| value(parameter, "ticket"));
        let text = values.next().ok_or(BadTicket::Missing)?;
        let first = Self::from_text(text)?;
        for (read, other) in (1..).zip(values.filter(|other| *other != text)) {
            if read == MOST_PARAMETERS || Self::from_text(other)? != first {
                return Err(BadTicket::Conflicting);
            }
        }
        Ok(first)
    }

    /// Reads one ticket as it stands in a query: percent-encoded or bare. It is decoded once, and never form-decoded.
    pub fn from_text(text: &str) -> Result<Self, BadTicket> {
        let decoded = decoded(text);
        if decoded.is_empty() {
            return Err(BadTicket::Empty);
        }
        if decoded.len() > MAX_BYTES {
            return Err(BadTicket::TooLong);
        }
        let decoded = std::str::from_utf8(&decoded).map_err(|_| BadTicket::Characters)?;
        let (canonical, repairs) = repair::canonical(decoded).ok_or(BadTicket::Characters)?;
        Ok(Self { canonical: Arc::from(canonical), repairs })
    }

    /// Reads a canonical text that was written down: by another version, perhaps, whose canonical form differs.
    pub fn from_canonical(text: &str) -> Result<Self, BadTicket> {
        Self::from_text(&utf8_percent_encode(text, ESCAPED).to_string())
    }

    /// Finds it in what people paste: a URL, a query, else the text itself, mangled or not. No ticket contains a `?` or a `&`.
    pub fn find(text: &str) -> Result<Self, BadTicket> {
        let query = text.split_once('?').map_or(text, |(_, query)| query);
        let query = query.split_once('#').map_or(query, |(query, _)| query);
        let has_parameter = query.split('&').any(|parameter| parameter.starts_with("ticket="));
        if has_parameter { Self::from_query(Some(query)) } else { Self::from_text(text) }
    }

    /// The ticket of which `key` is the canonical text.
    pub fn of_key(key: Arc<str>) -> Self {
        Self { canonical: key, repairs: Repairs::default() }
    }

    /// The canonical text.
    pub fn canonical(&self) -> &str {
        &self.canonical
    }

    /// The cache key: the canonical text, shared.
    pub fn key(&self) -> &Arc<str> {
        &self.canonical
    }

    /// The text for a URL: all but `A-Za-z0-9-._~` escaped, in upper case (S8).
    pub fn encoded(&self) -> String {
        utf8_percent_encode(&self.canonical, ESCAPED).to_string()
    }

    /// The form for logs (S39): all tickets of an account begin alike, so a prefix would not do.
    pub fn short(&self) -> Short {
        let hash = Sha256::digest(self.canonical.as_bytes());
        Short([hash[0], hash[1], hash[2], hash[3]])
    }

    /// What had to be mended.
    pub fn repairs(&self) -> Repairs {
        self.repairs
    }

    /// What the ticket says of itself; `None` when it is not recognised. Decoded anew at each call.
    pub fn facts(&self) -> Option<Facts> {
        layout::read(&self.canonical)
    }
}

/// Most of a ticket needs no decoding: its letters are looked at once, and copied together.
fn decoded(text: &str) -> Cow<'_, [u8]> {
    let Some(first) = memchr(b'%', text.as_bytes()) else { return Cow::Borrowed(text.as_bytes()) };
    let mut whole = Vec::with_capacity(text.len());
    whole.extend_from_slice(&text.as_bytes()[..first]);
    whole.extend(percent_decode_str(&text[first..]));
    Cow::Owned(whole)
}

impl PartialEq for Ticket {
    fn eq(&self, other: &Self) -> bool {
        self.canonical == other.canonical
    }
}

impl Eq for Ticket {}

impl Hash for Ticket {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.canonical.hash(state);
    }
}

impl fmt::Debug for Ticket {
    /// The short form: whoever holds a ticket can show its code.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticket({})", self.short())
    }
}

/// The first 8 hexadecimal digits of the SHA-256 of a canonical text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Short([u8; 4]);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", u32::from_be_bytes(self.0))
    }
}

impl BadTicket {
    /// The word for `Cache-Status`, logs and metrics.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Missing => "no-ticket",
            Self::Empty => "empty-ticket",
            Self::Conflicting => "conflicting-tickets",
            Self::TooLong => "long-ticket",
            Self::Characters => "malformed-ticket",
        }
    }
}

impl fmt::Display for BadTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "the query has no ticket; use ?ticket= with the ticket that qrcode/create answered",
            Self::Empty => "the ticket is empty; was qrcode/create's answer read before it was there?",
            Self::Conflicting => "the query has several tickets that differ; send one",
            Self::TooLong => "the ticket is longer than 512 bytes; send only the ticket that qrcode/create answered",
            Self::Characters => {
                "the ticket contains control or non-ASCII characters, which no ticket has; send it just as qrcode/create \
                 answered it, percent-encoded once"
            }
        })
    }
}

impl std::error::Error for BadTicket {}

#[cfg(test)]
mod tests;
