//! Tickets to ask for.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use ticketgate::moment::Wall;
use ticketgate::ticket::{Validity, mint};

/// A permanent ticket, different for each `number`.
pub fn permanent(number: u32) -> String {
    mint(&url(number), Wall::from_unix(1_700_000_000), Validity::Permanent).unwrap()
}

/// A ticket created just now that lives for `life`.
#[allow(clippy::disallowed_methods, reason = "tests make tickets of today")]
pub fn temporary(number: u32, life: Duration) -> String {
    mint(&url(number), Wall::from(SystemTime::now()), Validity::Lifetime(life)).unwrap()
}

fn url(number: u32) -> String {
    format!("http://weixin.qq.com/q/{number:022}")
}

/// The image's request target, with the ticket encoded as the specification wants it.
pub fn target(ticket: &str) -> String {
    format!("/cgi-bin/showqrcode?ticket={}", encode(ticket))
}

/// Everything but unreserved characters escaped.
pub fn encode(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => write!(encoded, "%{byte:02X}").unwrap(),
        }
        encoded
    })
}
