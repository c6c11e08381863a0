//! How long past its freshness an image may still be served (RFC 5861; RFC 9111 §4.2.4, S23). Pure.

use std::time::Duration;

use super::control::Control;

/// The two windows, both counted from the moment an image becomes stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grace {
    /// It is served at once, while one fill refreshes it (RFC 5861 §3).
    pub while_revalidate: Duration,
    /// It is served when the refresh fails (RFC 5861 §4).
    pub if_error: Duration,
}

impl Grace {
    /// Fresh or nothing.
    pub const NONE: Self = Self { while_revalidate: Duration::ZERO, if_error: Duration::ZERO };

    /// What an answer with `control` allows; `configured` stands where it says nothing.
    pub fn of(control: &Control, configured: Self) -> Self {
        // RFC 9111 §5.2.2.2, §5.2.2.8, §5.2.2.4: these forbid stale use, whatever else is said.
        if control.must_revalidate || control.proxy_revalidate || control.no_cache {
            return Self::NONE;
        }
        // §5.2.2.10: s-maxage means proxy-revalidate, unless the same answer says otherwise in so many words.
        let unsaid = if control.s_maxage.is_some() { Self::NONE } else { configured };
        Self {
            while_revalidate: control.stale_while_revalidate.map_or(unsaid.while_revalidate, Duration::from),
            if_error: control.stale_if_error.map_or(unsaid.if_error, Duration::from),
        }
    }

    /// Whether an image that has been stale for `staleness` is served at once.
    pub fn covers_revalidation(&self, staleness: Duration) -> bool {
        staleness < self.while_revalidate
    }

    /// Whether it is served in place of an error.
    pub fn covers_error(&self, staleness: Duration) -> bool {
        staleness < self.if_error.max(self.while_revalidate)
    }

    /// The longer window.
    pub fn longest(&self) -> Duration {
        self.if_error.max(self.while_revalidate)
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, header};

    use super::*;

    const CONFIGURED: Grace =
        Grace { while_revalidate: Duration::from_secs(1000), if_error: Duration::from_secs(2000) };

    fn grace(cache_control: &str) -> (u64, u64) {
        let value = HeaderValue::from_str(cache_control).unwrap();
        let headers: HeaderMap = [(header::CACHE_CONTROL, value)].into_iter().collect();
        let grace = Grace::of(&Control::of(&headers), CONFIGURED);
        (grace.while_revalidate.as_secs(), grace.if_error.as_secs())
    }

    /// RFC 5861 §3, §4.
    #[test]
    fn the_answer_wins_over_the_configuration() {
        assert_eq!(grace("max-age=60"), (1000, 2000));
        assert_eq!(grace("max-age=60, stale-while-revalidate=5"), (5, 2000));
        assert_eq!(grace("max-age=60, stale-if-error=7"), (1000, 7));
        assert_eq!(grace("max-age=60, stale-while-revalidate=0, stale-if-error=0"), (0, 0));
        assert_eq!(grace("stale-while-revalidate=rubbish"), (0, 2000), "malformed allows nothing");
        assert_eq!(grace("stale-while-revalidate=9, stale-while-revalidate=3"), (3, 2000), "the most restrictive");
    }

    /// RFC 9111 §5.2.2.2, §5.2.2.4, §5.2.2.8.
    #[test]
    fn some_directives_forbid_stale_use_whatever_else_is_said() {
        for forbidding in ["must-revalidate", "proxy-revalidate", "no-cache", "no-cache=\"x\""] {
            assert_eq!(grace(&format!("max-age=1, {forbidding}, stale-if-error=9")), (0, 0), "{forbidding}");
        }
    }

    /// RFC 9111 §5.2.2.10, S23.
    #[test]
    fn s_maxage_forbids_what_the_answer_does_not_itself_allow() {
        assert_eq!(grace("s-maxage=60"), (0, 0));
        assert_eq!(grace("s-maxage=60, stale-if-error=9"), (0, 9));
        assert_eq!(grace("s-maxage=60, stale-while-revalidate=9"), (9, 0));
    }

    #[test]
    fn windows_are_exact_to_the_second() {
        let grace = Grace { while_revalidate: Duration::from_secs(5), if_error: Duration::from_secs(9) };
        let at = Duration::from_millis;
        assert!(grace.covers_revalidation(at(4999)) && !grace.covers_revalidation(at(5000)));
        assert!(grace.covers_error(at(8999)) && !grace.covers_error(at(9000)));
    }
}
