//! How long an answer stays fresh (RFC 9111 §4.2), as pure functions of its head and of the time. Nothing an origin sends
//! panics here, and nothing malformed extends a lifetime.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};

use super::control::delta_seconds;
use super::directives::Directives;
use crate::moment::{Moment, Tick, Wall};

/// When the origin was asked, and when the head of its answer had come.
#[derive(Debug, Clone, Copy)]
pub struct Exchange {
    /// The request went out.
    pub asked: Moment,
    /// The answer's head was here.
    pub answered: Moment,
}

/// The life of one stored answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    shared: Duration,
    private: Duration,
    initial_age: Duration,
    answered: Tick,
    date: Wall,
}

impl Freshness {
    /// The life that `said` gives an answer with the head `headers`. `default_ttl` stands where nothing is said (§4.2.2
    /// leaves that to the cache).
    pub fn of(headers: &HeaderMap, said: &Directives, exchange: Exchange, default_ttl: Duration) -> Self {
        let date = date(headers);
        // §6.6.1 of RFC 9110: a recipient with a clock may take the time of receipt for a missing Date.
        let assumed_date = date.unwrap_or(exchange.answered.wall);
        let expires = said.expires.map(|at| at.since(assumed_date));
        // §5.2.2.1: max-age overrides Expires.
        let private = said.downstream.max_age.map(Duration::from).or(expires).unwrap_or(default_ttl);
        let shared = if said.shared.no_cache {
            Duration::ZERO
        } else {
            // §5.2.2.10: s-maxage overrides both, for shared caches only.
            let explicit = said.shared.s_maxage.or(said.shared.max_age).map(Duration::from);
            explicit.or(expires.filter(|_| said.expires_counts())).unwrap_or(default_ttl)
        };
        let initial_age = initial_age(headers, date, exchange);
        Self { shared, private, initial_age, answered: exchange.answered.tick, date: assumed_date }
    }

    /// The current age (§4.2.3).
    pub fn age(&self, now: Tick) -> Duration {
        self.initial_age.saturating_add(now.since(self.answered))
    }

    /// Time until this shared cache must not use the answer unasked; zero when that is past (§4.2: fresh while the
    /// lifetime exceeds the age).
    pub fn left(&self, now: Tick) -> Duration {
        self.shared.saturating_sub(self.age(now))
    }

    /// Time since the answer became stale; zero while it is fresh.
    pub fn staleness(&self, now: Tick) -> Duration {
        self.age(now).saturating_sub(self.shared)
    }

    /// The lifetime to tell browsers, counted like [`Freshness::age`]: never beyond ours, nor beyond what the origin
    /// gave private caches (S21).
    pub fn lifetime_downstream(&self) -> Duration {
        self.shared.min(self.private)
    }

    /// When its answer came.
    pub fn answered(&self) -> Tick {
        self.answered
    }

    /// The origin's `Date`, or when its answer came.
    pub fn date(&self) -> Wall {
        self.date
    }
}

/// `corrected_initial_age` of §4.2.3.
fn initial_age(headers: &HeaderMap, date: Option<Wall>, exchange: Exchange) -> Duration {
    let apparent = date.map_or(Duration::ZERO, |date| exchange.answered.wall.since(date));
    let response_delay = exchange.answered.tick.since(exchange.asked.tick);
    apparent.max(age_value(headers).saturating_add(response_delay))
}

/// `Age` (§5.1): of several values the first counts, an invalid one is ignored.
fn age_value(headers: &HeaderMap) -> Duration {
    let first = headers.get(header::AGE).map(|line| line.as_bytes().split(|byte| *byte == b',').next());
    let seconds = first.flatten().and_then(|value| delta_seconds(value.trim_ascii()));
    Duration::from_secs(seconds.unwrap_or(0))
}

/// The first `Date` that is one.
pub fn date(headers: &HeaderMap) -> Option<Wall> {
    headers.get_all(header::DATE).iter().find_map(http_date)
}

/// An `Expires` that is no date means already expired (§5.3) and reads as 1970. So does WeChat's own, which carries
/// `+0800`; it always comes with `max-age`, which overrides it. Of several the earliest counts.
pub fn expires(headers: &HeaderMap) -> Option<Wall> {
    headers.get_all(header::EXPIRES).iter().map(|at| http_date(at).unwrap_or(Wall::from_unix(0))).min()
}

/// Reads a date in any of the three forms of RFC 9110 §5.6.7.
pub fn http_date(value: &HeaderValue) -> Option<Wall> {
    let text = value.to_str().ok()?.trim_ascii();
    // A leap second and other oddities of 50 years do not matter; a number or an offset is no date.
    httpdate::parse_http_date(text).ok().map(Wall::from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DEFAULT: Duration = Duration::from_secs(60);
    /// Thu, 01 Jan 2026 00:00:00 GMT
    const NEW_YEAR: i64 = 1_767_225_600;

    fn at(seconds: u64) -> Moment {
        Moment {
            wall: Wall::from_unix(NEW_YEAR) + Duration::from_secs(seconds),
            tick: Tick::from_start(Duration::from_secs(1000 + seconds)),
        }
    }

    fn freshness(lines: &[(&str, &str)]) -> Freshness {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let exchange = Exchange { asked: at(0), answered: at(0) };
        Freshness::of(&headers, &Directives::of(&headers), exchange, DEFAULT)
    }

    fn left(lines: &[(&str, &str)]) -> u64 {
        freshness(lines).left(at(0).tick).as_secs()
    }

    /// RFC 9111 §4.2.1.
    #[test]
    fn s_maxage_goes_before_max_age_before_expires_before_the_default() {
        let expires = ("expires", "Thu, 01 Jan 2026 00:00:30 GMT");
        let date = ("date", "Thu, 01 Jan 2026 00:00:00 GMT");
        assert_eq!(left(&[("cache-control", "s-maxage=10, max-age=20"), expires, date]), 10);
        assert_eq!(left(&[("cache-control", "max-age=20"), expires, date]), 20);
        assert_eq!(left(&[expires, date]), 30);
        assert_eq!(left(&[date]), 60);
    }

    /// RFC 9111 §5.3.
    #[test]
    fn an_expires_that_is_no_date_has_passed() {
        for bad in ["0", "-1", "", "Wed, 23 Oct 2013 14:37:10 +0800", "tomorrow"] {
            assert_eq!(left(&[("expires", bad)]), 0, "{bad}");
        }
    }

    /// RFC 9111 §5.2.2.1: max-age overrides Expires.
    #[test]
    fn wechats_own_expires_does_not_disturb_its_max_age() {
        let wechat = [("cache-control", "max-age=604800"), ("expires", "Wed, 23 Oct 2013 14:37:10 +0800")];
        assert_eq!(left(&wechat), 604_800);
    }

    /// RFC 9111 §4.2.3, §5.1.
    #[test]
    fn age_counts_from_the_first_valid_value_and_from_date() {
        let lifetime = ("cache-control", "max-age=100");
        assert_eq!(left(&[lifetime, ("age", "30")]), 70);
        assert_eq!(left(&[lifetime, ("age", "30, 90")]), 70);
        assert_eq!(left(&[lifetime, ("age", "nonsense")]), 100);
        assert_eq!(left(&[lifetime, ("age", "-5")]), 100);
        assert_eq!(left(&[lifetime, ("date", "Wed, 31 Dec 2025 23:59:20 GMT")]), 60);
        assert_eq!(left(&[lifetime, ("age", "99999999999999999999")]), 0);
    }

    /// RFC 9111 §4.2.3: `corrected_age_value`.
    #[test]
    fn the_response_delay_counts_as_age() {
        let mut headers = HeaderMap::new();
        headers.insert("cache-control", HeaderValue::from_static("max-age=100"));
        headers.insert("age", HeaderValue::from_static("10"));
        let slow = Exchange { asked: at(0), answered: at(7) };
        let freshness = Freshness::of(&headers, &Directives::of(&headers), slow, DEFAULT);
        assert_eq!(freshness.age(at(7).tick), Duration::from_secs(17));
    }

    /// RFC 9111 §4.2: fresh while the lifetime exceeds the age.
    #[test]
    fn an_answer_is_stale_the_moment_its_lifetime_is_over() {
        let freshness = freshness(&[("cache-control", "max-age=5")]);
        assert!(freshness.left(at(4).tick) > Duration::ZERO);
        assert_eq!(freshness.left(at(5).tick), Duration::ZERO);
    }

    /// RFC 9111 §5.2.2.4.
    #[test]
    fn no_cache_is_never_fresh() {
        assert_eq!(left(&[("cache-control", "no-cache, max-age=100")]), 0);
    }

    /// RFC 9111 §5.2.2.10, S21.
    #[test]
    fn browsers_are_told_no_more_than_the_origin_gave_them() {
        let freshness = freshness(&[("cache-control", "s-maxage=1000, max-age=10")]);
        assert_eq!(freshness.lifetime_downstream(), Duration::from_secs(10));
    }

    /// RFC 9110 §5.6.7: the three forms, and nothing else.
    #[test]
    fn dates_are_read_in_their_three_forms() {
        let read = |text: &str| http_date(&HeaderValue::from_bytes(text.as_bytes()).unwrap());
        for date in ["Thu, 01 Jan 2026 00:00:00 GMT", "Thursday, 01-Jan-26 00:00:00 GMT", "Thu Jan  1 00:00:00 2026"] {
            assert_eq!(read(date), Some(Wall::from_unix(NEW_YEAR)), "{date}");
        }
        for no_date in [
            "",
            "0",
            "1767225600",
            "2026-01-01T00:00:00Z",
            "Thu, 01 Jan 2026 00:00:00 +0800",
            "Thu, 32 Jan 2026 00:00:00 GMT",
            "\u{e9}",
        ] {
            assert_eq!(read(no_date), None, "{no_date}");
        }
    }

    /// RFC 9213 §2.2.
    #[test]
    fn a_targeted_field_stands_for_cache_control_and_expires() {
        let (targeted, expires) = (("cdn-cache-control", "max-age=50"), ("expires", "Thu, 01 Jan 2026 00:00:30 GMT"));
        assert_eq!(left(&[("cache-control", "max-age=20, s-maxage=10"), targeted, expires]), 50);
        assert_eq!(left(&[("cdn-cache-control", "no-transform"), ("cache-control", "max-age=20"), expires]), 60);
        assert_eq!(left(&[("cdn-cache-control", ""), ("cache-control", "max-age=20")]), 20);
    }

    #[test]
    fn thousands_of_directives_are_read_to_the_last() {
        let many = format!("{}max-age=7", "x=\"1, max-age=99\", ".repeat(5000));
        assert_eq!(left(&[("cache-control", &many)]), 7);
        let lifetimes = format!("max-age=9{}", ", max-age=99".repeat(5000));
        assert_eq!(left(&[("cache-control", &lifetimes)]), 9);
    }

    proptest! {
        /// Whatever else an origin says, an explicit lifetime is never exceeded.
        #[test]
        fn nothing_extends_a_lifetime(
            seconds in 0u64..1000,
            rest in "[ -~\u{e9}]{0,80}",
            date in proptest::option::of("(Thu, 0[1-9] Jan 20[0-9]{2} 00:00:00 GMT|[ -~]{0,30})"),
            age in proptest::option::of("[ -~]{0,12}"),
            expires in proptest::option::of("(Thu, 01 Jan 2[0-9]{3} 00:00:00 GMT|[ -~]{0,30})"),
        ) {
            let control = format!("max-age={seconds}");
            let mut lines = vec![("cache-control", control.as_str()), ("cache-control", rest.as_str())];
            lines.extend(date.as_deref().map(|date| ("date", date)));
            lines.extend(age.as_deref().map(|age| ("age", age)));
            lines.extend(expires.as_deref().map(|expires| ("expires", expires)));
            let freshness = freshness(&lines);
            // Only a lifetime for shared caches goes before it, and that is an origin's own word.
            prop_assume!(!rest.to_ascii_lowercase().contains("s-maxage"));
            prop_assert!(freshness.left(at(0).tick) <= Duration::from_secs(seconds));
            prop_assert!(freshness.lifetime_downstream() <= Duration::from_secs(seconds));
        }

        #[test]
        fn no_text_makes_the_reading_of_dates_panic(text in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = HeaderValue::from_bytes(&text).map(|value| http_date(&value));
        }

        #[test]
        fn no_head_makes_it_panic(
            lines in proptest::collection::vec(
                ("(cache-control|age|date|expires)", proptest::collection::vec(any::<u8>(), 0..40)), 0..6),
            later in any::<u32>(),
        ) {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                if let Ok(value) = HeaderValue::from_bytes(&value) {
                    headers.append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value);
                }
            }
            let exchange = Exchange { asked: at(0), answered: at(1) };
            let freshness = Freshness::of(&headers, &Directives::of(&headers), exchange, DEFAULT);
            let now = at(u64::from(later)).tick;
            prop_assert!(freshness.left(now) <= freshness.shared);
            prop_assert!(freshness.age(now) >= Duration::from_secs(u64::from(later)).saturating_sub(Duration::from_secs(1)));
        }
    }
}
