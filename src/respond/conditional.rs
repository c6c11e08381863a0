//! Conditions on what is stored (RFC 9110 §13, RFC 9111 §4.3.2). Pure. `If-Match` and `If-Unmodified-Since` do not apply to a
//! cache, and are ignored.

use headers::{ETag, Header, IfNoneMatch};
use http::{HeaderMap, HeaderValue, header};

use crate::cache::entry::are_tags;
use crate::cache::freshness::http_date;
use crate::moment::Wall;

/// What conditions are compared with.
#[derive(Debug, Clone, Copy)]
pub struct Stored<'a> {
    /// The entity tag that is served.
    pub etag: &'a ETag,
    /// `Last-Modified`, if the origin gave one.
    pub last_modified: Option<Wall>,
    /// `Date`, or when the answer came.
    pub date: Wall,
}

impl Stored<'_> {
    /// Whether the client has it already (304). `If-None-Match` decides where it stands (§13.2.2), by weak comparison; a
    /// malformed one matches nothing.
    pub fn is_known(self, asked: &HeaderMap) -> bool {
        if asked.contains_key(header::IF_NONE_MATCH) {
            let lines = asked.get_all(header::IF_NONE_MATCH);
            if !lines.iter().all(are_tags) {
                return false;
            }
            let condition = IfNoneMatch::decode(&mut lines.iter());
            return condition.is_ok_and(|condition| !condition.precondition_passes(self.etag));
        }
        let since = single(asked, header::IF_MODIFIED_SINCE).and_then(http_date);
        // RFC 9111 §4.3.2: without Last-Modified, the Date stands in.
        since.is_some_and(|since| self.last_modified.unwrap_or(self.date) <= since)
    }

    /// Whether a `Range` may be answered with a part (§13.1.5): no `If-Range`, or one that matches strongly.
    pub fn allows_part(self, asked: &HeaderMap) -> bool {
        if !asked.contains_key(header::IF_RANGE) {
            return true;
        }
        single(asked, header::IF_RANGE).is_some_and(|condition| self.matches_strongly(condition))
    }

    fn matches_strongly(self, condition: &HeaderValue) -> bool {
        if let Some(date) = http_date(condition) {
            // §8.8.2.2: a date is a strong validator only when it is a second older than the answer, or more.
            return self.last_modified.is_some_and(|at| at == date && self.date.millis_since(at) >= 1000);
        }
        if !are_tags(condition) {
            return false;
        }
        let tag = ETag::decode(&mut std::iter::once(condition));
        let is_weak = |bytes: &[u8]| bytes.starts_with(b"W/");
        tag.is_ok_and(|tag| tag == *self.etag) && !is_weak(condition.as_bytes())
    }
}

/// The field's one line; several are as good as none.
fn single(headers: &HeaderMap, name: http::HeaderName) -> Option<&HeaderValue> {
    let mut lines = headers.get_all(name).iter();
    let first = lines.next()?;
    lines.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    use http::HeaderName;
    use proptest::prelude::*;

    use super::*;

    /// Thu, 01 Jan 2026 00:00:00 GMT
    const NEW_YEAR: Wall = Wall::from_unix(1_767_225_600);
    const AT_NEW_YEAR: &str = "Thu, 01 Jan 2026 00:00:00 GMT";
    const BEFORE: &str = "Wed, 31 Dec 2025 23:59:59 GMT";
    const AFTER: &str = "Thu, 01 Jan 2026 00:00:01 GMT";

    fn headers(lines: &[(HeaderName, &str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    fn stored(etag: &ETag, last_modified: Option<Wall>) -> Stored<'_> {
        Stored { etag, last_modified, date: NEW_YEAR.shifted(3_600_000) }
    }

    fn is_known(etag: &str, lines: &[(HeaderName, &str)]) -> bool {
        stored(&etag.parse().unwrap(), Some(NEW_YEAR)).is_known(&headers(lines))
    }

    /// RFC 9110 §13.1.2, §8.8.3.2 (weak comparison).
    #[test]
    fn if_none_match_compares_weakly_over_lists_and_the_star() {
        for (etag, condition, known) in [
            ("\"a\"", "\"a\"", true),
            ("\"a\"", "W/\"a\"", true),
            ("W/\"a\"", "\"a\"", true),
            ("W/\"a\"", "W/\"a\"", true),
            ("\"a\"", "\"b\"", false),
            ("\"a\"", "\"b\", W/\"c\" , \"a\"", true),
            ("\"a\"", "*", true),
            ("\"a\"", "a", false),
            ("\"a\"", "", false),
        ] {
            assert_eq!(is_known(etag, &[(header::IF_NONE_MATCH, condition)]), known, "{etag} {condition}");
        }
        let two_lines = [(header::IF_NONE_MATCH, "\"b\""), (header::IF_NONE_MATCH, "\"a\"")];
        assert!(is_known("\"a\"", &two_lines));
    }

    /// RFC 9110 §13.1.3 and §13.2.2 step 4.
    #[test]
    fn if_modified_since_counts_only_without_if_none_match() {
        let since = |date| (header::IF_MODIFIED_SINCE, date);
        assert!(is_known("\"a\"", &[since(AT_NEW_YEAR)]));
        assert!(is_known("\"a\"", &[since(AFTER)]));
        assert!(!is_known("\"a\"", &[since(BEFORE)]));
        assert!(!is_known("\"a\"", &[since("tomorrow")]));
        assert!(!is_known("\"a\"", &[since(AFTER), since(AFTER)]));
        assert!(!is_known("\"a\"", &[since(AFTER), (header::IF_NONE_MATCH, "\"b\"")]));
        assert!(is_known("\"a\"", &[since(BEFORE), (header::IF_NONE_MATCH, "\"a\"")]));
        assert!(is_known("\"a\"", &[since("Thursday, 01-Jan-26 00:00:00 GMT")]), "RFC 850");
        assert!(is_known("\"a\"", &[since("Thu Jan  1 00:00:00 2026")]), "asctime");
    }

    /// RFC 9111 §4.3.2.
    #[test]
    fn without_last_modified_the_date_stands_in() {
        let etag = "\"a\"".parse().unwrap();
        let known = |date| stored(&etag, None).is_known(&headers(&[(header::IF_MODIFIED_SINCE, date)]));
        assert!(!known(AFTER));
        assert!(known("Thu, 01 Jan 2026 01:00:00 GMT"));
    }

    /// RFC 9110 §13.1.5, §8.8.3.2 (strong comparison).
    #[test]
    fn if_range_compares_strongly() {
        let allows = |etag: &str, condition: &str| {
            stored(&etag.parse().unwrap(), Some(NEW_YEAR)).allows_part(&headers(&[(header::IF_RANGE, condition)]))
        };
        assert!(allows("\"a\"", "\"a\""));
        assert!(!allows("\"a\"", "W/\"a\""));
        assert!(!allows("W/\"a\"", "W/\"a\""));
        assert!(!allows("W/\"a\"", "\"a\""));
        assert!(!allows("\"a\"", "\"b\""));
        assert!(!allows("\"a\"", "rubbish"));
        assert!(allows("\"a\"", AT_NEW_YEAR));
        assert!(!allows("\"a\"", BEFORE));
        assert!(!allows("\"a\"", AFTER));
        let etag = "\"a\"".parse().unwrap();
        let hasty = Stored { date: NEW_YEAR.shifted(999), ..stored(&etag, Some(NEW_YEAR)) };
        assert!(!hasty.allows_part(&headers(&[(header::IF_RANGE, AT_NEW_YEAR)])), "modified in the second it was sent");
        assert!(hasty.allows_part(&HeaderMap::new()));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(line in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(value) = HeaderValue::from_bytes(&line) {
                let etag = "\"a\"".parse().unwrap();
                for name in [header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE, header::IF_RANGE] {
                    let asked = [(name, value.clone())].into_iter().collect();
                    let _ = (stored(&etag, None).is_known(&asked), stored(&etag, Some(NEW_YEAR)).allows_part(&asked));
                }
            }
        }
    }
}
