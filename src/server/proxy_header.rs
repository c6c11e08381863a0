//! The header of the PROXY protocol, with which a proxy begins a connection to say for whom it speaks: text (version 1) or
//! binary (version 2), as `proxy-protocol.txt` of `HAProxy` has them (§2.1, §2.2). Pure. Whose header counts, and how it is
//! read from a socket, is [`super::introduction`]'s to say.
//!
//! Of a header only the client is of use here. The address that it spoke to is checked and dropped, and what a proxy adds
//! behind the addresses (TLVs) is skipped.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Bytes of a header, whatever its version; what proxies add to the addresses has some hundred.
pub const LONGEST: usize = 4096;

/// Bytes of a version 1 line with its end (§2.1).
const LONGEST_LINE: usize = 107;

const LINE: &[u8] = b"PROXY ";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Bytes of a version 2 header before its addresses.
const FIXED: usize = 16;

/// Bytes of two addresses of `AF_UNIX`.
const UNIX_ADDRESSES: usize = 216;

/// A whole header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Its bytes, behind which the client's own begin.
    pub length: usize,
    /// For whom the peer speaks; `None` for itself (`LOCAL`, a health check), or for somebody of whom it tells no address.
    pub client: Option<SocketAddr>,
}

/// Why bytes begin no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadHeader {
    /// They are something else.
    Missing,
    /// A line without an end in 107 bytes, or a length beyond [`LONGEST`].
    TooLong,
    /// A line that is not as §2.1 wants it.
    Line,
    /// A version, command, family or transport that §2.2 does not name.
    Unassigned(u8),
    /// A length that leaves no room for the addresses.
    TooShort,
}

impl Header {
    /// The header that `bytes` begin with; `None` when they are part of one. What follows a header changes nothing.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, BadHeader> {
        if begins(bytes, LINE) {
            parse_line(bytes)
        } else if begins(bytes, SIGNATURE) {
            parse_binary(bytes)
        } else {
            Err(BadHeader::Missing)
        }
    }
}

/// Whether `bytes` begin with `wanted`, or may yet.
fn begins(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.iter().zip(wanted).all(|(byte, wanted)| byte == wanted)
}

fn parse_line(bytes: &[u8]) -> Result<Option<Header>, BadHeader> {
    let shown = &bytes[..bytes.len().min(LONGEST_LINE)];
    let Some(end) = shown.windows(2).position(|pair| pair == b"\r\n") else {
        return if shown.len() < LONGEST_LINE { Ok(None) } else { Err(BadHeader::TooLong) };
    };
    let line = std::str::from_utf8(&shown[..end]).map_err(|_| BadHeader::Line)?;
    let mut words = line.split(' ').skip(1);
    let client = match words.next() {
        // Nothing of what it may tell counts.
        Some("UNKNOWN") => None,
        family => Some(family.and_then(|family| client_of(family, words)).ok_or(BadHeader::Line)?),
    };
    Ok(Some(Header { length: end + 2, client }))
}

/// The first of two addresses, with the first of their two ports.
fn client_of<'a>(family: &str, mut words: impl Iterator<Item = &'a str>) -> Option<SocketAddr> {
    let (client, _here) = (address(family, words.next()?)?, address(family, words.next()?)?);
    let (port, _port_here) = (port(words.next()?)?, port(words.next()?)?);
    words.next().is_none().then(|| (client, port).into())
}

fn address(family: &str, word: &str) -> Option<IpAddr> {
    match family {
        "TCP4" => word.parse().ok().map(IpAddr::V4),
        "TCP6" => word.parse().ok().map(IpAddr::V6),
        _ => None,
    }
}

/// Digits, without zeros ahead of them.
fn port(word: &str) -> Option<u16> {
    word.parse().ok().filter(|port: &u16| port.to_string() == word)
}

fn parse_binary(bytes: &[u8]) -> Result<Option<Header>, BadHeader> {
    let Some((&[command, family, high, low], rest)) = bytes.get(SIGNATURE.len()..).and_then(<[u8]>::split_first_chunk)
    else {
        return Ok(None);
    };
    let told = usize::from(u16::from_be_bytes([high, low]));
    if FIXED + told > LONGEST {
        return Err(BadHeader::TooLong);
    }
    let length = FIXED + told;
    let Some(told) = rest.get(..told) else { return Ok(None) };
    let client = match command {
        // Nothing of what it may tell counts, its family included.
        0x20 => None,
        0x21 => told_client(family, told)?,
        _ => return Err(BadHeader::Unassigned(command)),
    };
    Ok(Some(Header { length, client }))
}

/// A client that came to the proxy over datagrams (QUIC) is one as well.
fn told_client(family: u8, told: &[u8]) -> Result<Option<SocketAddr>, BadHeader> {
    let (family, transport) = (family >> 4, family & 0xf);
    let client = match family {
        1 => Some(two_addresses(told, Ipv4Addr::from_octets)?),
        2 => Some(two_addresses(told, Ipv6Addr::from_octets)?),
        3 if told.len() < UNIX_ADDRESSES => return Err(BadHeader::TooShort),
        0 | 3 => None,
        _ => return Err(BadHeader::Unassigned(family)),
    };
    match transport {
        0 => Ok(None),
        1 | 2 => Ok(client),
        _ => Err(BadHeader::Unassigned(transport)),
    }
}

/// The first of two addresses, with the first of their two ports; whatever is behind them is skipped.
fn two_addresses<const N: usize, T: Into<IpAddr>>(
    told: &[u8],
    read: fn([u8; N]) -> T,
) -> Result<SocketAddr, BadHeader> {
    let split = || {
        let (client, rest) = told.split_first_chunk()?;
        let (_here, rest) = rest.split_first_chunk::<N>()?;
        let (port, rest) = rest.split_first_chunk()?;
        let (_port_here, _tlvs) = rest.split_first_chunk::<2>()?;
        Some(SocketAddr::new(read(*client).into(), u16::from_be_bytes(*port)))
    };
    split().ok_or(BadHeader::TooShort)
}

impl fmt::Display for BadHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("it begins with something else: have the proxy send the PROXY protocol"),
            Self::TooLong => write!(f, "it is longer than 107 bytes of text or {LONGEST} in all"),
            Self::Line => f.write_str("its line is not as version 1 wants it"),
            Self::Unassigned(value) => write!(f, "{value:#04x} means nothing in version 2"),
            Self::TooShort => f.write_str("its length leaves no room for its addresses"),
        }
    }
}

impl std::error::Error for BadHeader {}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;
    use proxy_header::{ProxiedAddress, ProxyHeader, Tlv};

    use super::*;

    fn whole(bytes: &[u8]) -> Header {
        Header::parse(bytes).unwrap().unwrap_or_else(|| panic!("part of {}", bytes.escape_ascii()))
    }

    fn binary(command: u8, family: u8, told: &[u8]) -> Vec<u8> {
        let length = u16::try_from(told.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[command, family], &length, told].concat()
    }

    #[test]
    fn a_line_tells_the_client_or_nobody() {
        let longest = format!("PROXY UNKNOWN {}\r\n", "f".repeat(LONGEST_LINE - 16));
        let table = [
            ("PROXY TCP4 203.0.113.7 10.0.0.1 56324 443\r\n", Some("203.0.113.7:56324")),
            ("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", Some("255.255.255.255:65535")),
            ("PROXY TCP6 2001:db8::7 ::1 0 443\r\n", Some("[2001:db8::7]:0")),
            ("PROXY TCP6 ::ffff:203.0.113.7 ::1 1 2\r\n", Some("[::ffff:203.0.113.7]:1")),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN ffff::1 rubbish 65535 whatever it is\r\n", None),
            (&longest, None),
        ];
        for (line, client) in table {
            let header = whole(format!("{line}GET / HTTP/1.1\r\n").as_bytes());
            assert_eq!(
                header,
                Header { length: line.len(), client: client.map(|text| text.parse().unwrap()) },
                "{line}"
            );
        }
    }

    #[test]
    fn what_is_no_line_is_told_apart_from_what_may_become_one() {
        for bad in [
            "PROXY \r\n",
            "PROXY TCP4\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY tcp4 1.1.1.1 2.2.2.2 1 2\r\n",
            "PROXY TCP5 1.1.1.1 2.2.2.2 1 2\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP6 1.1.1.1 2.2.2.2 1 2\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3\r\n",
            "PROXY TCP4 1.1.1.1  2.2.2.2 1 2\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 1 2 \r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.256 1 2\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 65536 2\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 +1 2\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 01 2\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\nGET / HTTP/1.1\r\n",
        ] {
            assert_eq!(Header::parse(bad.as_bytes()), Err(BadHeader::Line), "{bad}");
        }
        assert_eq!(Header::parse(b"PROXY UNKNOWN \xff\r\n"), Err(BadHeader::Line));
        for other in ["GET / HTTP/1.1\r\n", "PROXYTCP4 1.1.1.1", "proxy UNKNOWN\r\n", "\r\n\r\nGET", "\x16\x03\x01"] {
            assert_eq!(Header::parse(other.as_bytes()), Err(BadHeader::Missing), "{other}");
        }
        let endless = format!("PROXY UNKNOWN {}", "f".repeat(200));
        assert_eq!(Header::parse(&endless.as_bytes()[..LONGEST_LINE - 1]), Ok(None));
        assert_eq!(Header::parse(&endless.as_bytes()[..LONGEST_LINE]), Err(BadHeader::TooLong));
    }

    #[test]
    fn a_binary_header_keeps_the_peer_where_it_tells_no_address() {
        let v4 = [203, 0, 113, 7, 10, 0, 0, 1, 0xdc, 0x04, 1, 187];
        let told = Some("203.0.113.7:56324".parse().unwrap());
        let unix = [b'/'; UNIX_ADDRESSES];
        let table: [(u8, u8, &[u8], Option<SocketAddr>); 10] = [
            (0x21, 0x11, &v4, told),
            (0x21, 0x12, &v4, told),
            (0x21, 0x10, &v4, None),
            (0x21, 0x00, &[], None),
            (0x21, 0x00, &[1; 99], None),
            (0x21, 0x31, &unix, None),
            (0x21, 0x32, &unix, None),
            (0x20, 0x00, &[], None),
            (0x20, 0x11, &v4, None),
            (0x20, 0xff, &[1, 2, 3], None),
        ];
        for (command, family, addresses, client) in table {
            let header = binary(command, family, addresses);
            assert_eq!(whole(&header), Header { length: header.len(), client }, "{command:#x} {family:#x}");
        }
    }

    #[test]
    fn what_version_2_does_not_name_is_no_header() {
        let table = [
            (0x11, 0x11, 12, BadHeader::Unassigned(0x11)),
            (0x22, 0x11, 12, BadHeader::Unassigned(0x22)),
            (0x21, 0x41, 12, BadHeader::Unassigned(4)),
            (0x21, 0x13, 12, BadHeader::Unassigned(3)),
            (0x21, 0x11, 11, BadHeader::TooShort),
            (0x21, 0x21, 35, BadHeader::TooShort),
            (0x21, 0x31, 215, BadHeader::TooShort),
            (0x21, 0x11, LONGEST - FIXED + 1, BadHeader::TooLong),
        ];
        for (command, family, length, bad) in table {
            assert_eq!(Header::parse(&binary(command, family, &vec![0; length])), Err(bad), "{command:#x} {family:#x}");
        }
        let longest = binary(0x21, 0x11, &[0; LONGEST - FIXED]);
        assert_eq!(whole(&longest).length, LONGEST);
        assert_eq!(Header::parse(&longest[..LONGEST - 1]), Ok(None));
        let too_long = binary(0x21, 0x11, &[0; LONGEST - FIXED + 1]);
        assert_eq!(Header::parse(&too_long[..FIXED]), Err(BadHeader::TooLong), "known before it has come");
    }

    fn addresses() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
        let v4 = any::<((Ipv4Addr, u16), (Ipv4Addr, u16))>().prop_map(|(a, b)| (a.into(), b.into()));
        let v6 = any::<((Ipv6Addr, u16), (Ipv6Addr, u16))>().prop_map(|(a, b)| (a.into(), b.into()));
        prop_oneof![v4, v6]
    }

    /// A header as somebody else's library writes it.
    fn written() -> impl Strategy<Value = (Option<SocketAddr>, Vec<u8>)> {
        let header = (proptest::option::of(addresses()), vec(any::<u8>(), 0..300), any::<bool>());
        header.prop_map(|(addresses, tlv, text)| {
            let told = |(client, here)| ProxyHeader::with_address(ProxiedAddress::stream(client, here));
            let mut header = addresses.map_or_else(ProxyHeader::with_local, told);
            let mut bytes = [0; LONGEST];
            let written = if text {
                header.encode_to_slice_v1(&mut bytes)
            } else {
                header.append_tlv(Tlv::Custom(0xe0, tlv.into()));
                header.encode_to_slice_v2(&mut bytes)
            };
            (addresses.map(|(client, _)| client), bytes[..written.unwrap()].to_vec())
        })
    }

    proptest! {
        #[test]
        fn what_others_write_is_read_back_whatever_follows((client, bytes) in written(), rest: Vec<u8>) {
            let header = Header { length: bytes.len(), client };
            prop_assert_eq!(Header::parse(&[bytes, rest].concat()), Ok(Some(header)));
        }

        #[test]
        fn every_beginning_of_a_header_is_part_of_one((_, bytes) in written()) {
            for length in 0..bytes.len() {
                prop_assert_eq!(Header::parse(&bytes[..length]), Ok(None));
            }
        }

        #[test]
        fn no_bytes_make_it_panic_and_more_bytes_change_no_verdict(
            begin in select(&[LINE, b"PROXY TCP4 1.1.1.1 ", SIGNATURE, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0", b""][..]),
            bytes in vec(any::<u8>(), 0..200),
            rest in vec(any::<u8>(), 0..20),
        ) {
            let bytes = [begin, &bytes].concat();
            match Header::parse(&bytes) {
                Ok(None) => prop_assert!(bytes.len() < LONGEST),
                verdict => {
                    if let Ok(Some(header)) = verdict {
                        prop_assert!(header.length <= bytes.len());
                    }
                    prop_assert_eq!(Header::parse(&[bytes, rest].concat()), verdict);
                }
            }
        }
    }
}
