//! How far the origin's clock is from ours, as seen in the `Date` of its answers (S20). Tickets end by the origin's clock.

use std::sync::atomic::{AtomicI64, Ordering};

use http::{HeaderMap, StatusCode, header};

use crate::cache::freshness::{self, Exchange};

/// A difference that deserves an operator's attention, in milliseconds.
pub const WORTH_A_WARNING: u64 = 5_000;

/// The furthest behind ours that an origin's clock is believed to be, in milliseconds: tickets live longer by it, so that
/// one wrong `Date` could make them outlive their end. A clock ahead only ends them early.
pub const FURTHEST_BEHIND: i64 = -60 * 60 * 1000;

/// The last skew seen, in milliseconds: positive when the origin's clock shows more than ours.
#[derive(Debug, Default)]
pub struct Skew(AtomicI64);

impl Skew {
    /// Learns from an answer and returns the skew. An answer that spent time in a cache on the way says nothing, nor does
    /// one that need not be the origin's own: what middleboxes say in its stead has other statuses.
    pub fn learn(&self, status: StatusCode, headers: &HeaderMap, exchange: Exchange) -> i64 {
        if speaks_of_tickets(status)
            && !headers.contains_key(header::AGE)
            && let Some(skew) = seen(headers, exchange).filter(|skew| *skew >= FURTHEST_BEHIND)
        {
            let before = self.0.swap(skew, Ordering::Relaxed);
            if skew.unsigned_abs() > WORTH_A_WARNING && before.unsigned_abs() <= WORTH_A_WARNING {
                tracing::warn!(
                    skew_ms = skew,
                    "the origin's clock and ours disagree; check NTP. Tickets end by the origin's"
                );
            }
        }
        self.millis()
    }

    /// The last skew seen, in milliseconds.
    pub fn millis(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

fn speaks_of_tickets(status: StatusCode) -> bool {
    matches!(status, StatusCode::OK | StatusCode::NOT_MODIFIED | StatusCode::NOT_FOUND | StatusCode::GONE)
}

/// `Date` has whole seconds and was written at some time between our asking and the answer's coming: only what cannot be
/// explained by that counts, and of what remains, the reading that ends tickets earliest.
fn seen(headers: &HeaderMap, exchange: Exchange) -> Option<i64> {
    let date = freshness::date(headers)?;
    let least = date.millis_since(exchange.answered.wall);
    let most = date.shifted(1000).millis_since(exchange.asked.wall);
    Some(if least <= 0 && most >= 0 { 0 } else { most })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderValue;

    use super::*;
    use crate::moment::{Moment, Tick, Wall};

    /// Thu, 01 Jan 2026 00:00:00 GMT
    const NEW_YEAR: i64 = 1_767_225_600_000;

    /// What is learned from an answer of New Year when our clock shows `our_millis` more.
    fn learn(skew: &Skew, status: u16, our_millis: i64, took: u64) -> i64 {
        let mut headers = HeaderMap::new();
        headers.insert(header::DATE, HeaderValue::from_static("Thu, 01 Jan 2026 00:00:00 GMT"));
        let asked =
            Moment { wall: Wall::from_unix_millis(NEW_YEAR + our_millis), tick: Tick::from_start(Duration::ZERO) };
        let answered = Moment { wall: asked.wall + Duration::from_millis(took), ..asked };
        skew.learn(StatusCode::from_u16(status).unwrap(), &headers, Exchange { asked, answered })
    }

    fn skew_at(our_millis: i64, took: u64) -> i64 {
        learn(&Skew::default(), 200, our_millis, took)
    }

    #[test]
    fn whole_seconds_and_the_way_there_are_no_skew() {
        assert_eq!(skew_at(0, 10), 0);
        assert_eq!(skew_at(999, 10), 0);
        assert_eq!(skew_at(-500, 2000), 0);
    }

    #[test]
    fn what_remains_is_read_so_that_tickets_end_early() {
        assert_eq!(skew_at(-10_000, 10), 11_000, "the origin is 10 to 11 s ahead");
        assert_eq!(skew_at(10_000, 10), -9_000, "the origin is 9 to 10 s behind");
    }

    #[test]
    fn only_what_wechat_says_about_tickets_is_believed() {
        for status in [200, 304, 404, 410] {
            assert_eq!(learn(&Skew::default(), status, -10_000, 10), 11_000, "{status}");
        }
        for status in [204, 206, 301, 302, 400, 403, 407, 429, 500, 502, 503, 504] {
            assert_eq!(learn(&Skew::default(), status, -10_000, 10), 0, "{status}");
        }
    }

    #[test]
    fn an_origin_an_hour_behind_is_not_believed_since_tickets_would_outlive_their_end() {
        let skew = Skew::default();
        assert_eq!(learn(&skew, 200, 3_600_000, 10), -3_599_000);
        for hours in [2, 24, 56 * 365 * 24] {
            assert_eq!(learn(&skew, 200, hours * 3_600_000, 10), -3_599_000, "the last one that was believed stays");
        }
        assert_eq!(learn(&skew, 200, -24 * 3_600_000, 10), 24 * 3_600_000 + 1000, "ahead, tickets only end early");
    }
}
