//! `Cache-Control` of an answer, parsed once (RFC 9111 §5.2.2). Whatever bytes come, parsing ends in a value that never
//! lives longer than the sender can have meant: malformed lifetimes read as zero, of duplicates the smallest counts.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};

/// The directives of an answer that concern a shared cache, and those that pass on to browsers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each directive is said or not said, independently")]
pub struct Control {
    /// `max-age`; malformed reads as zero.
    pub max_age: Option<Seconds>,
    /// `s-maxage`; malformed reads as zero.
    pub s_maxage: Option<Seconds>,
    /// `no-store`.
    pub no_store: bool,
    /// `no-cache`, with or without field names: we keep to the stricter reading that RFC 9111 §5.2.2.4 allows.
    pub no_cache: bool,
    /// `private`, with or without field names (§5.2.2.7, the same).
    pub private: bool,
    /// `must-revalidate`.
    pub must_revalidate: bool,
    /// `proxy-revalidate`.
    pub proxy_revalidate: bool,
    /// `no-transform`.
    pub no_transform: bool,
    /// `stale-while-revalidate` (RFC 5861 §3); malformed reads as zero.
    pub stale_while_revalidate: Option<Seconds>,
    /// `stale-if-error` (RFC 5861 §4); malformed reads as zero.
    pub stale_if_error: Option<Seconds>,
}

/// `delta-seconds` (RFC 9111 §1.2.2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seconds(u32);

impl Seconds {
    /// So many; anything greater than 2^31 is that, as RFC 9111 §1.2.2 allows.
    pub fn saturating(seconds: u64) -> Self {
        Self(u32::try_from(seconds.min(LONGEST)).expect("2^31 fits"))
    }
}

impl From<Seconds> for Duration {
    fn from(Seconds(seconds): Seconds) -> Self {
        Self::from_secs(seconds.into())
    }
}

const LONGEST: u64 = 1 << 31;

impl Control {
    /// Reads every `Cache-Control` line of `headers`.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut control = Self::default();
        for line in headers.get_all(header::CACHE_CONTROL) {
            control.read_line(line);
        }
        control
    }

    fn read_line(&mut self, line: &HeaderValue) {
        for directive in Members(line.as_bytes()) {
            let (name, value) = split_argument(directive);
            self.read_directive(&name.to_ascii_lowercase(), value);
        }
    }

    fn read_directive(&mut self, name: &[u8], value: Option<&[u8]>) {
        match name {
            b"max-age" => shorten(&mut self.max_age, value),
            b"s-maxage" => shorten(&mut self.s_maxage, value),
            b"no-store" => self.no_store = true,
            b"no-cache" => self.no_cache = true,
            b"private" => self.private = true,
            b"must-revalidate" => self.must_revalidate = true,
            b"proxy-revalidate" => self.proxy_revalidate = true,
            b"no-transform" => self.no_transform = true,
            b"stale-while-revalidate" => shorten(&mut self.stale_while_revalidate, value),
            b"stale-if-error" => shorten(&mut self.stale_if_error, value),
            // §5.2.3: unknown directives are ignored.
            _ => {}
        }
    }
}

/// Of several lifetimes the smallest counts (§4.2.1 lets a cache choose, and asks it to be careful).
fn shorten(lifetime: &mut Option<Seconds>, argument: Option<&[u8]>) {
    let new = Seconds::saturating(argument.and_then(delta_seconds).unwrap_or(0));
    *lifetime = Some(lifetime.map_or(new, |old| old.min(new)));
}

/// Reads `delta-seconds` (§1.2.2), bare or quoted; `None` when it is anything but digits.
pub fn delta_seconds(text: &[u8]) -> Option<u64> {
    let digits = unquoted(text);
    if digits.is_empty() {
        return None;
    }
    digits
        .iter()
        .try_fold(0u64, |sum, digit| digit.is_ascii_digit().then(|| (sum * 10 + u64::from(digit - b'0')).min(LONGEST)))
}

fn unquoted(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(text)
}

fn split_argument(directive: &[u8]) -> (&[u8], Option<&[u8]>) {
    match directive.iter().position(|byte| *byte == b'=') {
        None => (directive, None),
        Some(at) => (directive[..at].trim_ascii_end(), Some(directive[at + 1..].trim_ascii_start())),
    }
}

/// The members of a comma-separated list (RFC 9110 §5.6.1); commas inside quoted strings do not part them.
struct Members<'a>(&'a [u8]);

impl<'a> Iterator for Members<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        while !self.0.is_empty() {
            let end = end_of_member(self.0);
            let (member, rest) = self.0.split_at(end);
            self.0 = rest.get(1..).unwrap_or_default();
            let member = member.trim_ascii();
            if !member.is_empty() {
                return Some(member);
            }
        }
        None
    }
}

fn end_of_member(list: &[u8]) -> usize {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in list.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => return at,
            _ => {}
        }
    }
    // A quote that is never closed quotes nothing: what follows it must not be lost.
    let first_comma = || list.iter().position(|byte| *byte == b',');
    if quoted { first_comma().unwrap_or(list.len()) } else { list.len() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn control(lines: &[&str]) -> Control {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::CACHE_CONTROL, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        Control::of(&headers)
    }

    #[expect(clippy::unnecessary_wraps, reason = "reads as what it is compared with")]
    fn seconds(n: u64) -> Option<Seconds> {
        Some(Seconds::saturating(n))
    }

    #[test]
    fn lifetimes_are_read_in_any_case_and_quoted() {
        assert_eq!(control(&["Max-Age=604800"]).max_age, seconds(604_800));
        assert_eq!(control(&["max-age=\"60\""]).max_age, seconds(60));
        assert_eq!(control(&["public,S-MAXAGE = 5 , max-age=7"]).s_maxage, seconds(5));
    }

    #[test]
    fn of_several_lifetimes_the_smallest_counts() {
        assert_eq!(control(&["max-age=100, max-age=3"]).max_age, seconds(3));
        assert_eq!(control(&["max-age=3", "max-age=100"]).max_age, seconds(3));
    }

    #[test]
    fn malformed_lifetimes_are_stale_and_huge_ones_saturate() {
        for bad in ["max-age", "max-age=", "max-age=-1", "max-age=1.5", "max-age=ten", "max-age=\"", "max-age=1 0"] {
            assert_eq!(control(&[bad]).max_age, seconds(0), "{bad}");
        }
        assert_eq!(control(&["max-age=99999999999999999999999999"]).max_age, seconds(LONGEST));
    }

    #[test]
    fn a_comma_in_quotes_does_not_start_a_directive() {
        let control = control(&[r#"ext="a, no-store, \", private", max-age=9"#]);
        assert_eq!(control, Control { max_age: seconds(9), ..Control::default() });
    }

    #[test]
    fn the_forms_with_field_names_count_as_the_bare_ones() {
        assert!(control(&[r#"no-cache="set-cookie""#]).no_cache);
        assert!(control(&[r#"private="x-a, x-b""#]).private);
    }

    #[test]
    fn a_quote_that_is_never_closed_hides_nothing() {
        assert!(control(&[r#"ext="x, no-store"#]).no_store);
        assert_eq!(control(&[r#"max-age="1, must-revalidate"#]).max_age, seconds(0));
        assert!(control(&[r#"max-age="1, must-revalidate"#]).must_revalidate);
    }

    proptest! {
        #[test]
        fn nothing_before_it_hides_a_directive(before in "[ -~]{0,40}") {
            let line = format!("{before}, no-store");
            prop_assert!(control(&[&line]).no_store, "{}", line);
        }

        #[test]
        fn no_bytes_make_it_panic(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(value) = HeaderValue::from_bytes(&line) {
                let mut headers = HeaderMap::new();
                headers.append(header::CACHE_CONTROL, value);
                let _ = Control::of(&headers);
            }
        }

        #[test]
        fn a_second_line_never_extends_a_lifetime(a in 0u64..10_000, b in "[ -~]{0,40}") {
            let first = format!("max-age={a}");
            let both = control(&[&first, &b]);
            prop_assert!(both.max_age <= seconds(a));
        }
    }
}
