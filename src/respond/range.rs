//! `Range` (RFC 9110 §14): one range of bytes, or the whole image. Pure.

use std::ops::Range as Bytes;

use http::{HeaderMap, HeaderValue, header};

/// What part of an image is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// All of it: nothing else was asked for, or nothing that we answer in parts. A server may ignore `Range` (§14.2), so a
    /// malformed one, another unit and several ranges get the whole.
    Whole,
    /// These bytes: never none.
    Bytes(Bytes<usize>),
    /// Bytes that it does not have (416).
    Unsatisfiable,
}

impl Part {
    /// The part of an image of `length` bytes that `headers` ask for.
    pub fn of(headers: &HeaderMap, length: usize) -> Self {
        let mut lines = headers.get_all(header::RANGE).iter();
        match (lines.next(), lines.next()) {
            (Some(line), None) => read(line).map_or(Self::Whole, |spec| spec.within(length)),
            _ => Self::Whole,
        }
    }
}

/// `int-range` and `suffix-range` of §14.1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spec {
    From(usize),
    FromTo(usize, usize),
    Last(usize),
}

/// One range of bytes; `None` for everything else.
fn read(line: &HeaderValue) -> Option<Spec> {
    let text = line.to_str().ok()?.trim();
    let (unit, set) = text.split_once('=')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = set.trim().split_once('-')?;
    match (first, last) {
        ("", last) => Some(Spec::Last(position(last)?)),
        (first, "") => Some(Spec::From(position(first)?)),
        (first, last) => {
            let (first, last) = (position(first)?, position(last)?);
            // §14.1.1: a last position below the first is invalid, not unsatisfiable.
            (first <= last).then_some(Spec::FromTo(first, last))
        }
    }
}

/// Digits; more than fit are as good as the largest.
fn position(text: &str) -> Option<usize> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(usize::MAX))
}

impl Spec {
    fn within(self, length: usize) -> Part {
        let bytes = match self {
            Self::From(first) => first..length,
            Self::FromTo(first, last) => first..length.min(last.saturating_add(1)),
            Self::Last(count) => length.saturating_sub(count)..length,
        };
        if bytes.is_empty() { Part::Unsatisfiable } else { Part::Bytes(bytes) }
    }
}

/// `Content-Range` of a 206 (§14.4).
pub fn content_range(bytes: &Bytes<usize>, length: usize) -> HeaderValue {
    value(format!("bytes {}-{}/{length}", bytes.start, bytes.end - 1))
}

/// `Content-Range` of a 416 (§15.5.17).
pub fn unsatisfied_range(length: usize) -> HeaderValue {
    value(format!("bytes */{length}"))
}

fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("digits are visible ASCII")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(range: &str) -> Part {
        let headers = [(header::RANGE, HeaderValue::from_bytes(range.as_bytes()).unwrap())].into_iter().collect();
        Part::of(&headers, 100)
    }

    /// RFC 9110 §14.1.2 with its examples, for an image of 100 bytes.
    #[test]
    fn one_range_of_bytes_is_a_part() {
        for (range, expected) in [
            ("bytes=0-49", 0..50),
            ("bytes=50-99", 50..100),
            ("bytes=50-", 50..100),
            ("bytes=-30", 70..100),
            ("bytes=0-0", 0..1),
            ("bytes=-1", 99..100),
            ("bytes=99-", 99..100),
            ("bytes=90-1000", 90..100),
            ("bytes=-1000", 0..100),
            ("bytes=0-99999999999999999999999999", 0..100),
            ("Bytes=1-2", 1..3),
        ] {
            assert_eq!(part(range), Part::Bytes(expected), "{range}");
        }
    }

    #[test]
    fn bytes_that_are_not_there_are_unsatisfiable() {
        for range in ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=99999999999999999999999999-"] {
            assert_eq!(part(range), Part::Unsatisfiable, "{range}");
        }
    }

    #[test]
    fn several_ranges_other_units_and_rubbish_get_the_whole() {
        for range in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=1-0",
            "bytes=0-1,2-3",
            "bytes=0-1, ",
            "bytes=+1-2",
            "bytes=0 - 1",
            "lines=0-1",
            "bytes=0-1-2",
            "bytes=\u{e9}-1",
            "0-1",
        ] {
            assert_eq!(part(range), Part::Whole, "{range}");
        }
        let twice = ["bytes=0-1", "bytes=2-3"].map(|line| (header::RANGE, HeaderValue::from_static(line)));
        assert_eq!(Part::of(&twice.into_iter().collect(), 100), Part::Whole);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_and_every_part_is_within(line in proptest::collection::vec(any::<u8>(), 0..60), length in 0usize..1000) {
            if let Ok(value) = HeaderValue::from_bytes(&line) {
                let part = Part::of(&[(header::RANGE, value)].into_iter().collect(), length);
                if let Part::Bytes(bytes) = part {
                    prop_assert!(bytes.start < bytes.end && bytes.end <= length);
                }
            }
        }

        #[test]
        fn two_parts_make_the_whole(length in 2usize..10_000, at in 1usize..10_000) {
            prop_assume!(at < length);
            let read = |range: String| {
                Part::of(&[(header::RANGE, HeaderValue::try_from(range).unwrap())].into_iter().collect(), length)
            };
            let (first, second) = (read(format!("bytes=0-{}", at - 1)), read(format!("bytes={at}-")));
            prop_assert_eq!((first, second), (Part::Bytes(0..at), Part::Bytes(at..length)));
        }
    }
}
