//! What browsers and CDNs are told about an image's life (S21): never longer than we may keep it, than the origin lets
//! private caches keep it, or than its ticket lives. WeChat says seven days even for a ticket of a minute.

use std::cell::RefCell;
use std::time::Duration;

use http::HeaderValue;

use super::control::Control;
use super::expiry::Expiry;
use super::freshness::Freshness;
use crate::moment::{Moment, Wall};

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
        let visibility = if control.private { "private" } else { "public" };
        let mut text = String::with_capacity(48);
        text.push_str(visibility);
        text.push_str(", max-age=");
        text.push_str(itoa::Buffer::new().format(self.max_age));
        let passed_on = [
            (control.no_cache, ", no-cache"),
            (control.must_revalidate, ", must-revalidate"),
            (control.proxy_revalidate, ", proxy-revalidate"),
            (control.no_transform, ", no-transform"),
        ];
        text.extend(passed_on.iter().filter(|(said, _)| *said).map(|(_, directive)| *directive));
        HeaderValue::try_from(text).expect("digits and directives are visible ASCII")
    }
}

fn whole_seconds_up(duration: Duration) -> u64 {
    duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0))
}

/// Seconds whose dates a thread remembers: popular images ask for the same few again and again.
const REMEMBERED: usize = 64;

thread_local! {
    static DATES: RefCell<[Option<(i64, HeaderValue)>; REMEMBERED]> = const { RefCell::new([const { None }; REMEMBERED]) };
}

/// Writes an HTTP date; times beyond what the format can say become its first or last second. Two of them are in every answer, and
/// writing one takes as long as looking an image up, so that a thread remembers what it wrote.
pub fn http_date(wall: Wall) -> HeaderValue {
    const LAST_OF_9999: i64 = 253_402_300_799;
    let second = wall.unix().clamp(0, LAST_OF_9999);
    let place = usize::try_from(second).unwrap_or(0) % REMEMBERED;
    DATES.with_borrow_mut(|dates| match &dates[place] {
        Some((remembered, date)) if *remembered == second => date.clone(),
        _ => dates[place].insert((second, written(second))).1.clone(),
    })
}

fn written(second: i64) -> HeaderValue {
    HeaderValue::try_from(httpdate::fmt_http_date(Wall::from_unix(second).into()))
        .expect("an HTTP date is visible ASCII")
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
        #[test]
        fn what_is_remembered_is_what_would_be_written(seconds in prop::collection::vec(-1_000i64..4_000_000_000, 1..200)) {
            for second in seconds.iter().chain(&seconds) {
                prop_assert_eq!(http_date(Wall::from_unix(*second)), written((*second).max(0)));
            }
        }

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
