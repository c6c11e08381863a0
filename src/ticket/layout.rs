//! What a ticket looks like inside. Undocumented, but true of 149 of 149 public tickets of 2013 to 2026: so it may prove a
//! repair and tell an expiry, and where it does not hold nothing is refused.
//!
//! Base64 with a safe alphabet that is swapped: `_` is 62 (where `+` would be) and `-` is 63 (where `/` would be). RFC
//! 4648's URL-safe alphabet has them the other way round and silently gives wrong times. Decoded:
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | `81 01` |
//! | 2..4 | u16 LE: NOT of the sum of bytes 12.. taken as signed, low 16 bits |
//! | 4..8 | u32 LE: length of what follows byte 12 |
//! | 8..12 | zero |
//! | 12.. | records `type u8, length u8, value`: 1 the url with a NUL, 2 creation, 3 validity (both u32 LE) |
//!
//! The strict check accepts no single-letter change of a ticket. It says nothing about who made it: it is no signature.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::moment::Wall;

const MAGIC: [u8; 2] = [0x81, 0x01];
const HEAD: usize = 12;
/// What every ticket's url begins with; the scheme may have changed since.
const URLS: [&str; 2] = ["http://weixin.qq.com/q/", "https://weixin.qq.com/q/"];

/// What a recognised ticket says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// What the QR code encodes.
    pub url: String,
    /// When it was created, on WeChat's clock; of a permanent one, the first time.
    pub created: Wall,
    /// How long it is valid.
    pub validity: Validity,
}

/// How long a ticket is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// For ever.
    Permanent,
    /// So long from its creation.
    Lifetime(Duration),
    /// Until then. One ticket only has this form: the sample in WeChat's documentation.
    Until(Wall),
}

impl Facts {
    /// When the ticket ends; `None` when it is permanent.
    pub fn expires(&self) -> Option<Wall> {
        match self.validity {
            Validity::Permanent => None,
            Validity::Lifetime(lifetime) => Some(self.created + lifetime),
            Validity::Until(end) => Some(end),
        }
    }
}

/// Reads a ticket; `None` when anything about it is not as it should be.
pub(super) fn read(text: &str) -> Option<Facts> {
    let bytes = STANDARD.decode(standard_letters(text)?).ok()?;
    let (head, records) = bytes.split_at_checked(HEAD)?;
    let length = u32::try_from(records.len()).ok()?;
    (head == head_of(records, length)).then(|| facts(records))?
}

/// Maps the swapped alphabet to the standard one; both occur, even in one ticket.
fn standard_letters(text: &str) -> Option<Vec<u8>> {
    let letter = |byte| match byte {
        b'_' => Some(b'+'),
        b'-' => Some(b'/'),
        b'+' | b'/' | b'=' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => Some(byte),
        _ => None,
    };
    text.bytes().map(letter).collect()
}

fn head_of(records: &[u8], length: u32) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..2].copy_from_slice(&MAGIC);
    head[2..4].copy_from_slice(&checksum(records).to_le_bytes());
    head[4..8].copy_from_slice(&length.to_le_bytes());
    head
}

/// Each byte counts as signed: a plain sum agrees only for ASCII.
fn checksum(records: &[u8]) -> u16 {
    !records.iter().fold(0u16, |sum, byte| sum.wrapping_add_signed(i16::from(byte.cast_signed())))
}

fn facts(records: &[u8]) -> Option<Facts> {
    let (url, rest) = record(records, 1)?;
    let (created, rest) = record(rest, 2)?;
    let (validity, rest) = record(rest, 3)?;
    if !rest.is_empty() {
        return None;
    }
    let url = std::str::from_utf8(url.strip_suffix(b"\0")?).ok()?;
    let is_url = URLS.iter().any(|start| url.starts_with(start)) && url.bytes().all(|byte| byte.is_ascii_graphic());
    let (created, validity) = (seconds(created)?, seconds(validity)?);
    is_url.then(|| Facts {
        url: url.to_owned(),
        created: Wall::from_unix(created.into()),
        validity: match validity {
            0 => Validity::Permanent,
            lifetime if lifetime < created => Validity::Lifetime(Duration::from_secs(lifetime.into())),
            end => Validity::Until(Wall::from_unix(end.into())),
        },
    })
}

fn record(records: &[u8], kind: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, length], rest) = records.split_first_chunk()?;
    if found != kind {
        return None;
    }
    rest.split_at_checked(length.into())
}

fn seconds(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_le_bytes)
}

/// Writes a well-formed ticket in WeChat's newer alphabet, as the demo's stand-in issues them; `None` when a value does
/// not fit. Nothing that WeChat would know.
pub fn mint(url: &str, created: Wall, validity: Validity) -> Option<String> {
    let created = u32::try_from(created.unix()).ok()?;
    let validity = match validity {
        Validity::Permanent => 0,
        Validity::Lifetime(lifetime) => u32::try_from(lifetime.as_secs()).ok()?,
        Validity::Until(end) => u32::try_from(end.unix()).ok()?,
    };
    let mut records = vec![1, u8::try_from(url.len() + 1).ok()?];
    records.extend_from_slice(url.as_bytes());
    records.extend_from_slice(&[0, 2, 4]);
    records.extend_from_slice(&created.to_le_bytes());
    records.extend_from_slice(&[3, 4]);
    records.extend_from_slice(&validity.to_le_bytes());
    let mut bytes = head_of(&records, u32::try_from(records.len()).ok()?).to_vec();
    bytes.append(&mut records);
    Some(STANDARD.encode(bytes).replace('+', "_").replace('/', "-"))
}
