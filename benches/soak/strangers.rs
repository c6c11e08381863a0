//! What strangers ask for, and from where. All of it follows from numbers: no two of the flood's tickets are alike, and each
//! of a million networks sends its share.

use std::net::Ipv6Addr;

use ticketgate::ticket::Ticket;

use crate::client::Ask;
use crate::tickets;

/// Networks (/64s) that rubbish comes from.
pub const NETWORKS: u64 = 1_000_000;
/// The first ticket that the origin does not know.
const UNKNOWN: u64 = 1 << 50;
/// The first valid ticket of somebody else's account.
const FOREIGN: u64 = 1 << 40;
/// A ticket has at most so many bytes.
const LONGEST: usize = 512;

/// Rubbish: six of ten are whole tickets that the origin does not know, two are no tickets that the server would recognise,
/// two are none at all.
pub fn rubbish(number: u64) -> Ask {
    let target = match number % 10 {
        0..=5 => tickets::target(UNKNOWN + number),
        6..=7 => asked_for(&format!("rubbish-{number:x}")),
        8 => asked_for(&format!("{number:0width$x}", width = LONGEST + 1)),
        _ => format!("{}&ticket=another-{number:x}", asked_for("one")),
    };
    Ask { client: Some(network(0, number % NETWORKS)), ..Ask::plain(target) }
}

/// A valid ticket of somebody else's account.
pub fn foreign(number: u64) -> Ask {
    Ask { client: Some(network(1, number % NETWORKS)), ..Ask::plain(tickets::target(FOREIGN + number)) }
}

/// A ticket that nobody has asked for, and one of a few good clients that asks for it.
pub fn cold(number: u64) -> Ask {
    Ask { client: Some(network(2, number % 100)), ..Ask::plain(tickets::target(FOREIGN / 2 + number)) }
}

/// A client of the good load.
pub fn good_client(number: u64) -> Ipv6Addr {
    network(3, number)
}

/// Whether the origin does not know what `target` asks for.
pub fn is_rubbish(target: &str) -> bool {
    let ticket = Ticket::from_query(target.split_once('?').map(|(_, query)| query));
    let url = ticket.ok().and_then(|ticket| ticket.facts()).map(|facts| facts.url);
    let number = url.and_then(|url| url.rsplit('/').next()?.parse::<u64>().ok());
    number.is_none_or(|number| number >= UNKNOWN)
}

fn asked_for(ticket: &str) -> String {
    format!("/cgi-bin/showqrcode?ticket={ticket}")
}

/// One of many networks, of which several families are told apart.
fn network(family: u16, number: u64) -> Ipv6Addr {
    let [.., high, low_high, low] = number.to_be_bytes();
    let (third, fourth) = (family << 8 | u16::from(high), u16::from_be_bytes([low_high, low]));
    Ipv6Addr::new(0x2001, 0xdb8, third, fourth, 0, 0, 0, 1)
}
