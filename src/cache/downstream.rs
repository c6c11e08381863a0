//! What browsers and CDNs are told about an image's life (S21): never longer than we may keep it, than the origin lets
//! private caches keep it, or than its ticket lives. WeChat says seven days even for a ticket of a minute.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::time::Duration;

use http::HeaderValue;

use super::control::Control;
use super::expiry::Expiry;
use super::freshness::Freshness;
use crate::moment::{Moment, Wall};
use crate::remembered::Remembered;

/// The lifetime fields of one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Downstream {
    /// `max-age`, seconds.
    pub max_age: u64,
    /// `Age`, seconds.
    pub age: u64,
    /// `Date`.
    pub date: Wall,
}

impl Downstream {
    /// The fields for an answer made at `now`. With a known expiry the answer is re-based, because many caches ignore
    /// `Age`: `Date` is now, `Age` zero and `max-age` what is left.
    pub fn of(freshness: &Freshness, expiry: Option<&Expiry>, now: Moment) -> Self {
        let age = whole_seconds_up(freshness.age(now.tick));
        let lifetime = freshness.lifetime_downstream().as_secs();
        match expiry {
            None => Self { max_age: lifetime, age, date: freshness.date() },
            Some(expiry) => {
                let left = lifetime.saturating_sub(age).min(expiry.left(now).as_secs());
                Self { max_age: left, age: 0, date: now.wall }
            }
        }
    }

    /// `Age`.
    pub fn age(&self) -> HeaderValue {
        AGES.with_borrow_mut(|ages| ages.value(self.age, HeaderValue::from))
    }

    /// `Expires`: `Date` plus `max-age`.
    pub fn expires(&self) -> Wall {
        self.date + Duration::from_secs(self.max_age)
    }

    /// `Cache-Control`, with those of the origin's directives that bind caches after us.
    pub fn cache_control(&self, control: &Control) -> HeaderValue {
        // Only beside a targeted field that lets us keep what others may not (RFC 9213 §2.2).
        if control.no_store {
            return HeaderValue::from_static("no-store");
        }
        let passed_on = passed_on(control);
        if !control.private && passed_on.iter().all(|(said, _)| !said) {
            return LIFETIMES
                .with_borrow_mut(|lifetimes| lifetimes.value(self.max_age, |age| directives("public", age, &[])));
        }
        directives(if control.private { "private" } else { "public" }, self.max_age, &passed_on)
    }
}

/// The origin's directives that bind caches after us, beside `private`.
fn passed_on(control: &Control) -> [(bool, &'static str); 4] {
    [
        (control.no_cache, ", no-cache"),
        (control.must_revalidate, ", must-revalidate"),
        (control.proxy_revalidate, ", proxy-revalidate"),
        (control.no_transform, ", no-transform"),
    ]
}

fn directives(visibility: &str, max_age: u64, passed_on: &[(bool, &str)]) -> HeaderValue {
    let mut text = String::with_capacity(48);
    let _ = write!(text, "{visibility}, max-age={max_age}");
    text.extend(passed_on.iter().filter(|(said, _)| *said).map(|(_, directive)| *directive));
    HeaderValue::try_from(text).expect("digits and directives are visible ASCII")
}

fn whole_seconds_up(duration: Duration) -> u64 {
    duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0))
}

/// The last second that an HTTP date can say.
const LAST_OF_9999: i64 = 253_402_300_799;

thread_local! {
    static DATES: RefCell<Remembered> = const { RefCell::new(Remembered::nothing()) };
    static AGES: RefCell<Remembered> = const { RefCell::new(Remembered::nothing()) };
    static LIFETIMES: RefCell<Remembered> = const { RefCell::new(Remembered::nothing()) };
}

/// Writes an HTTP date; times beyond what the format can say become its first or last second.
pub fn http_date(wall: Wall) -> HeaderValue {
    let second = u64::try_from(wall.unix().clamp(0, LAST_OF_9999)).unwrap_or(0);
    DATES.with_borrow_mut(|dates| dates.value(second, written))
}

fn written(second: u64) -> HeaderValue {
    let date = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(second);
    HeaderValue::try_from(httpdate::fmt_http_date(date)).expect("an HTTP date is visible ASCII")
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, header};
    use proptest::prelude::*;

    use super::super::directives::Directives;
    use super::super::freshness::Exchange;
    use super::*;
    use crate::moment::Tick;

    fn at(millis: u64) -> Moment {
        Moment {
            wall: Wall::from_unix_millis(1_767_225_600_000) + Duration::from_millis(millis),
            tick: Tick::from_start(Duration::from_millis(millis)),
        }
    }

    fn freshness(cache_control: &str, age: u64) -> (Directives, Freshness) {
        let mut headers = HeaderMap::new();
        headers.insert(header::CACHE_CONTROL, HeaderValue::try_from(cache_control).unwrap());
        headers.insert(header::AGE, HeaderValue::from(age));
        let said = Directives::of(&headers);
        let exchange = Exchange { asked: at(0), answered: at(0) };
        (said, Freshness::of(&headers, &said, exchange, Duration::from_secs(60)))
    }

    #[test]
    fn a_minutes_ticket_is_not_kept_for_a_week() {
        let (said, freshness) = freshness("max-age=604800", 0);
        let expiry = Expiry::new(at(60_000).wall, at(0), 0);
        let told = Downstream::of(&freshness, Some(&expiry), at(10_500));
        assert_eq!((told.max_age, told.age), (49, 0));
        assert_eq!(told.cache_control(&said.downstream), "public, max-age=49");
        assert_eq!(told.expires(), at(10_500 + 49_000).wall);
    }

    #[test]
    fn without_an_expiry_the_origins_date_and_our_age_are_told() {
        let (_, freshness) = freshness("max-age=100", 0);
        let told = Downstream::of(&freshness, None, at(10_500));
        assert_eq!((told.max_age, told.age, told.date), (100, 11, at(0).wall));
    }

    /// RFC 9213 §2.2.
    #[test]
    fn what_is_meant_for_us_alone_is_not_told_to_others() {
        let told = Downstream { max_age: 7, age: 0, date: at(0).wall };
        let control = |no_store, private| Control { no_store, private, ..Control::default() };
        assert_eq!(told.cache_control(&control(true, false)), "no-store");
        assert_eq!(told.cache_control(&control(false, true)), "private, max-age=7");
    }

    #[test]
    fn dates_beyond_the_calendar_are_clamped() {
        assert_eq!(http_date(Wall::from_unix(i64::MAX)), "Fri, 31 Dec 9999 23:59:59 GMT");
        assert_eq!(http_date(Wall::from_unix(-5)), "Thu, 01 Jan 1970 00:00:00 GMT");
    }

    proptest! {
        /// S21: max-age − Age ≤ min(freshness left, lifetime for private caches, ticket life left).
        #[test]
        fn nobody_is_told_more_than_is_left(
            s_maxage in proptest::option::of(0u64..1_000_000),
            max_age in 0u64..1_000_000,
            age in 0u64..1_000_000,
            life in proptest::option::of(-1000i64..1_000_000),
            skew_millis in -10_000i64..10_000,
            later in 0u64..2_000_000_000,
            wall_jump in -1_000_000i64..1_000_000,
        ) {
            let shared = s_maxage.map(|s| format!(", s-maxage={s}")).unwrap_or_default();
            let (_, freshness) = freshness(&format!("max-age={max_age}{shared}"), age);
            let expiry = life.map(|life| Expiry::new(at(0).wall.shifted(life * 1000), at(0), skew_millis));
            let now = Moment { wall: at(later).wall.shifted(wall_jump), ..at(later) };
            let told = Downstream::of(&freshness, expiry.as_ref(), now);
            let remaining = Duration::from_secs(told.max_age.saturating_sub(told.age));
            prop_assert!(remaining <= freshness.left(now.tick));
            prop_assert!(remaining <= Duration::from_secs(max_age));
            if let Some(expiry) = expiry {
                prop_assert!(remaining <= expiry.left(now));
                prop_assert_eq!(told.age, 0);
            }
            prop_assert_eq!(told.expires(), told.date + Duration::from_secs(told.max_age));
        }
    }
}
