//! What an answer says about its own life, read once when it comes: whose word counts for us, and what caches after us are
//! told. Pure.

use http::{HeaderMap, header};

use super::control::Control;
use super::freshness;
use super::targeted;
use crate::moment::Wall;

/// The directives of one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Directives {
    /// What counts for us: a valid `CDN-Cache-Control` (RFC 9213), else `Cache-Control`.
    pub shared: Control,
    /// `Cache-Control`, for caches after us.
    pub downstream: Control,
    /// `Expires`; what is no date reads as 1970.
    pub expires: Option<Wall>,
    targeted: bool,
}

impl Directives {
    /// Reads the head of an answer.
    pub fn of(headers: &HeaderMap) -> Self {
        let downstream = Control::of(headers);
        let targeted = targeted::control(headers);
        let shared = targeted.unwrap_or(downstream);
        Self { shared, downstream, expires: freshness::expires(headers), targeted: targeted.is_some() }
    }

    /// What holds after a 304 with the head `headers`: each field that it carries replaces the stored one (RFC 9111 §3.2).
    #[must_use]
    pub fn renewed(self, headers: &HeaderMap) -> Self {
        let said = Self::of(headers);
        let says_control = headers.contains_key(header::CACHE_CONTROL);
        let downstream = if says_control { said.downstream } else { self.downstream };
        // One that is there and not valid replaces the stored one all the same, and is then as good as absent.
        let says_targeted = headers.contains_key(targeted::CDN_CACHE_CONTROL);
        let targeted = if says_targeted { said.targeted } else { self.targeted };
        let shared = match (targeted, says_targeted) {
            (true, true) => said.shared,
            (true, false) => self.shared,
            (false, _) => downstream,
        };
        Self { shared, downstream, expires: said.expires.or(self.expires), targeted }
    }

    /// Whether `Expires` counts for us: not beside a targeted field, which stands for it too (RFC 9213 §2.2).
    pub fn expires_counts(&self) -> bool {
        !self.targeted
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::super::control::Seconds;
    use super::*;

    fn head(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[expect(clippy::unnecessary_wraps, reason = "reads as what it is compared with")]
    fn seconds(n: u64) -> Option<Seconds> {
        Some(Seconds::saturating(n))
    }

    /// RFC 9213 §2.2.
    #[test]
    fn a_targeted_field_counts_for_us_and_the_other_for_those_after_us() {
        let said =
            Directives::of(&head(&[("cache-control", "max-age=5, private"), ("cdn-cache-control", "max-age=90")]));
        assert_eq!((said.shared.max_age, said.downstream.max_age), (seconds(90), seconds(5)));
        assert!(said.downstream.private && !said.shared.private && !said.expires_counts());
        let said = Directives::of(&head(&[("cache-control", "max-age=5"), ("cdn-cache-control", "MAX-AGE=90")]));
        assert_eq!(said.shared.max_age, seconds(5), "not valid, hence not there");
        assert!(said.expires_counts());
    }

    /// RFC 9111 §3.2.
    #[test]
    fn what_a_304_does_not_say_stays_and_what_it_says_replaces() {
        let stored =
            Directives::of(&head(&[("cache-control", "max-age=5"), ("expires", "Thu, 01 Jan 2026 00:00:00 GMT")]));
        assert_eq!(stored.renewed(&HeaderMap::new()), stored);
        let renewed = stored.renewed(&head(&[("cache-control", "max-age=7")]));
        assert_eq!((renewed.shared.max_age, renewed.expires), (seconds(7), stored.expires));
        let targeted = stored.renewed(&head(&[("cdn-cache-control", "max-age=9")]));
        assert_eq!((targeted.shared.max_age, targeted.downstream.max_age), (seconds(9), seconds(5)));
        let invalid = targeted.renewed(&head(&[("cdn-cache-control", "rubbish="), ("cache-control", "no-store")]));
        assert!(invalid.shared.no_store && invalid.expires_counts());
        let again = targeted.renewed(&head(&[("cache-control", "max-age=1")]));
        assert_eq!((again.shared.max_age, again.downstream.max_age), (seconds(9), seconds(1)));
    }
}
