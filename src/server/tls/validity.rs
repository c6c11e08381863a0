//! When a certificate ends: the one field of X.509 that we read ourselves (RFC 5280 §4.1). Pure.

use crate::moment::Wall;

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The end of the life of `certificate`, DER; `None` when it is not as RFC 5280 wants it.
pub fn end(certificate: &[u8]) -> Option<Wall> {
    let (certificate, _) = tagged(SEQUENCE, certificate)?;
    let (signed, _) = tagged(SEQUENCE, certificate)?;
    let after_version = tagged(VERSION, signed).map_or(signed, |(_, rest)| rest);
    let (_, _, after_serial) = element(after_version)?;
    let (_, after_algorithm) = tagged(SEQUENCE, after_serial)?;
    let (_, after_issuer) = tagged(SEQUENCE, after_algorithm)?;
    let (validity, _) = tagged(SEQUENCE, after_issuer)?;
    let (_, _, after_beginning) = element(validity)?;
    let (tag, end, _) = element(after_beginning)?;
    time(tag, std::str::from_utf8(end).ok()?)
}

/// `YYMMDDHHMMSSZ`, of 1950 to 2049, or with the whole year.
fn time(tag: u8, text: &str) -> Option<Wall> {
    let digits = text.strip_suffix('Z').filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = digits.split_at_checked(2)?;
            let century = if year < "50" { "20" } else { "19" };
            (format!("{century}{year}"), rest)
        }
        GENERALIZED_TIME => digits.split_at_checked(4).map(|(year, rest)| (year.to_owned(), rest))?,
        _ => return None,
    };
    let two = |at: usize| rest.get(at..at + 2);
    let (month, day, hour, minute, second) = (two(0)?, two(2)?, two(4)?, two(6)?, two(8)?);
    let text = format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z");
    humantime::parse_rfc3339(&text).ok().filter(|_| rest.len() == 10).map(Wall::from)
}

fn tagged(wanted: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    element(der).filter(|(tag, ..)| *tag == wanted).map(|(_, content, rest)| (content, rest))
}

/// The first element: its tag, its content, and what follows it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (length, rest) = rest.split_first()?;
    let (length, rest) = if *length < 0x80 {
        (usize::from(*length), rest)
    } else {
        let (digits, rest) =
            rest.split_at_checked(usize::from(length & 0x7f)).filter(|(digits, _)| digits.len() <= 4)?;
        (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn ending(year: i32) -> Vec<u8> {
        let mut params = CertificateParams::new(["a.example".to_owned()]).unwrap();
        params.not_after = date_time_ymd(year, 2, 3);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn the_end_is_read_in_both_of_its_forms() {
        assert_eq!(end(&ending(2030)), Some(Wall::from_unix(1_896_307_200)));
        assert_eq!(end(&ending(2060)), Some(Wall::from_unix(2_842_992_000)));
        assert_eq!(time(UTC_TIME, "500101000000Z"), None, "before the epoch");
        assert_eq!(time(UTC_TIME, "300203000000+0100"), None);
    }

    #[test]
    fn a_certificate_that_is_cut_has_no_end() {
        let whole = ending(2030);
        for length in 0..whole.len() {
            assert_eq!(end(&whole[..length]), None);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, at in 0usize..400, flip: u8) {
            let _ = end(&bytes);
            let mut damaged = ending(2030);
            let at = at % damaged.len();
            damaged[at] ^= flip;
            let _ = end(&damaged);
        }
    }
}
