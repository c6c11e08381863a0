//! Revalidation and stale use (S23, S24): what is asked, what is shown, and for how long.

use std::time::Duration;

use crate::support::client::Response;
use crate::support::eventually;
use crate::support::origin::{Answer, Origin, Then, jpeg};
use crate::support::proxy::Proxy;
use crate::support::tickets;

const ETAG: &str = "\"v1\"";
const MODIFIED: &str = "Thu, 01 Jan 2026 00:00:00 GMT";

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn with(cache_control: &str) -> Answer {
    Answer::image_with(&format!("Cache-Control: {cache_control}\r\n"))
}

fn not_modified(headers: &str) -> Answer {
    Answer::raw(format!("HTTP/1.1 304 Not Modified\r\n{headers}\r\n"), Then::KeepOpen)
}

/// The first answer, then the others in turn; the last one for ever.
async fn origin(answers: &[Answer]) -> Origin {
    let answers = answers.to_vec();
    Origin::start(move |number, _| answers[number.min(answers.len() - 1)].clone()).await
}

async fn image(proxy: &Proxy) -> Response {
    proxy.image(&tickets::permanent(1)).await
}

/// Waits until the background refresh that makes `fills` fills in all has ended.
async fn refreshed(proxy: &Proxy, origin: &Origin, asked: usize) {
    origin.has_been_asked(asked).await;
    eventually("the refresh ends", || proxy.running.reading().fills == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_image_is_shown_at_once_while_one_fill_refreshes_it() {
    let origin = origin(&[with("max-age=10, stale-while-revalidate=60"), with("max-age=100")]).await;
    let proxy = Proxy::before(&origin);
    image(&proxy).await;
    proxy.hands.advance(seconds(20));
    origin.hold();
    for _ in 0..5 {
        let stale = image(&proxy).await;
        assert_eq!((stale.status, stale.body.as_slice()), (200, jpeg().as_slice()));
        assert!(stale.cache_status().starts_with("ticketgate; hit; ttl=-1"), "{}", stale.cache_status());
        assert!(stale.cache_status().ends_with("; detail=stale-while-revalidate"), "{}", stale.cache_status());
    }
    origin.has_been_asked(2).await;
    origin.release();
    refreshed(&proxy, &origin, 2).await;
    assert!(image(&proxy).await.cache_status().starts_with("ticketgate; hit; ttl=9"));
    assert_eq!(origin.count(), 2, "one fill for all");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_windows_are_counted_from_becoming_stale_and_end() {
    let origin =
        origin(&[with("max-age=10, stale-while-revalidate=20, stale-if-error=40"), Answer::of(500, "", b"")]).await;
    let proxy = Proxy::before(&origin);
    image(&proxy).await;
    proxy.hands.advance(seconds(28));
    assert!(image(&proxy).await.cache_status().contains("hit; ttl=-"), "within the first window");
    refreshed(&proxy, &origin, 2).await;
    proxy.hands.advance(seconds(10));
    let failed = image(&proxy).await;
    assert_eq!(failed.status, 200, "within the second");
    assert!(failed.cache_status().contains("fwd=stale; fwd-status=500"), "{}", failed.cache_status());
    assert!(failed.cache_status().ends_with("detail=origin-status"), "{}", failed.cache_status());
    proxy.hands.advance(seconds(13));
    assert_eq!(image(&proxy).await.status, 500, "past both");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failed_refresh_the_next_is_tried_after_five_seconds_doubling() {
    let origin = origin(&[with("max-age=10"), Answer::of(500, "", b"")]).await;
    let proxy = Proxy::before(&origin);
    image(&proxy).await;
    proxy.hands.advance(seconds(11));
    let mut asked = 1;
    for wait in [5, 10, 20] {
        assert_eq!(image(&proxy).await.status, 200);
        asked += 1;
        refreshed(&proxy, &origin, asked).await;
        proxy.hands.advance(seconds(wait - 1));
        let early = image(&proxy).await;
        assert!(
            early.status == 200 && early.cache_status().ends_with("detail=stale-if-error"),
            "{}",
            early.cache_status()
        );
        assert_eq!((origin.count(), proxy.running.reading().fills), (asked, 0), "not yet");
        proxy.hands.advance(seconds(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn directives_that_forbid_stale_use_are_kept_to() {
    for forbidding in ["must-revalidate", "proxy-revalidate", "s-maxage=10", "no-cache"] {
        let origin = origin(&[with(&format!("max-age=10, {forbidding}")), Answer::of(500, "", b"")]).await;
        let proxy = Proxy::before(&origin);
        image(&proxy).await;
        proxy.hands.advance(seconds(11));
        assert_eq!(image(&proxy).await.status, 500, "{forbidding}");
    }
    let allowed = origin(&[with("s-maxage=10, stale-if-error=60"), Answer::of(500, "", b"")]).await;
    let proxy = Proxy::before(&allowed);
    image(&proxy).await;
    proxy.hands.advance(seconds(11));
    assert_eq!(image(&proxy).await.status, 200, "the answer itself allows it");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_is_black_holed_costs_a_moment_and_not_its_deadline() {
    let origin = origin(&[with("max-age=10, stale-while-revalidate=0"), Answer::raw("", Then::Hang)]).await;
    // Whoever waited for longer would be told of this deadline instead.
    let proxy = Proxy::with(&origin, |config| config.origin.first_byte_timeout = seconds(2));
    image(&proxy).await;
    proxy.hands.advance(seconds(11));
    let late = image(&proxy).await;
    assert_eq!((late.status, late.body.as_slice()), (200, jpeg().as_slice()));
    assert!(late.cache_status().starts_with("ticketgate; fwd=stale; ttl=-"), "{}", late.cache_status());
    assert!(late.cache_status().ends_with("detail=origin-slow"), "{}", late.cache_status());
    assert_eq!(proxy.running.reading().fills, 1, "the fill goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_usable_stale_image_beats_every_failure() {
    let failures = [
        Answer::of(429, "Retry-After: 9\r\n", b""),
        Answer::of(503, "", b"busy"),
        Answer::of(403, "", b"no"),
        Answer::of(200, "", b"<html>"),
        Answer::raw("", Then::Reset),
        Answer::raw("rubbish\r\n\r\n", Then::Close),
        Answer::of(302, "Location: http://127.0.0.1:1/\r\n", b""),
    ];
    for failure in failures {
        let what = String::from_utf8_lossy(&failure.bytes).into_owned();
        let origin = origin(&[with("max-age=10, stale-while-revalidate=0"), failure]).await;
        let proxy = Proxy::before(&origin);
        image(&proxy).await;
        proxy.hands.advance(seconds(11));
        let mut asked = Vec::new();
        for _ in 0..2 {
            let stale = image(&proxy).await;
            assert_eq!((stale.status, stale.body.as_slice()), (200, jpeg().as_slice()), "{what}");
            asked.push(origin.count());
        }
        assert!(asked[0] >= 2 && asked[0] == asked[1], "{what}: the second showed it without asking again: {asked:?}");
    }
}

/// S13: what refreshes a stale image spends the origin's budget alone.
#[tokio::test(flavor = "multi_thread")]
async fn refreshing_a_stale_image_spends_no_miss() {
    let origin = origin(&[with("max-age=10, stale-while-revalidate=0")]).await;
    let proxy = Proxy::with(&origin, |config| {
        let burst = 1.try_into().unwrap();
        let policy = ticketgate::limit::Policy { rate: 0.001, burst, wait: Duration::ZERO };
        config.limits.client_misses = Some(policy);
    });
    for asked in 1..4 {
        let answer = image(&proxy).await;
        assert_eq!((answer.status, origin.count()), (200, asked), "{}", answer.cache_status());
        proxy.hands.advance(seconds(11));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spent_origin_budget_shows_the_stale_image_and_says_that_nobody_was_asked() {
    let origin = origin(&[with("max-age=10, stale-while-revalidate=0")]).await;
    let proxy = Proxy::with(&origin, |config| {
        let burst = 1.try_into().unwrap();
        let policy = ticketgate::limit::Policy { rate: 0.001, burst, wait: Duration::ZERO };
        config.limits.origin_fills = Some(policy);
    });
    image(&proxy).await;
    proxy.hands.advance(seconds(11));
    let stale = image(&proxy).await;
    assert_eq!((stale.status, origin.count()), (200, 1));
    assert!(stale.cache_status().starts_with("ticketgate; hit; ttl=-"), "{}", stale.cache_status());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_404_or_410_removes_the_image() {
    for status in [404, 410] {
        let origin = origin(&[with("max-age=10, stale-while-revalidate=0"), Answer::of(status, "", b"gone")]).await;
        let proxy = Proxy::before(&origin);
        image(&proxy).await;
        proxy.hands.advance(seconds(11));
        assert_eq!(image(&proxy).await.status, status);
        assert_eq!(proxy.running.reading().image_entries, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_stale_image_is_shown_after_its_ticket_has_expired() {
    let origin = origin(&[with("max-age=10"), Answer::of(500, "", b"")]).await;
    let proxy = Proxy::before(&origin);
    let ticket = tickets::temporary(1, seconds(60));
    proxy.image(&ticket).await;
    proxy.hands.advance(seconds(30));
    assert_eq!(proxy.image(&ticket).await.status, 200, "stale, and its ticket lives");
    proxy.hands.advance(seconds(31));
    assert_eq!(proxy.image(&ticket).await.status, 500);
}

/// RFC 9111 §4.3.1: both validators when both exist, and nothing of the client's.
#[tokio::test(flavor = "multi_thread")]
async fn the_origin_is_asked_with_the_validators_that_it_gave() {
    let cases = [
        (
            format!("ETag: {ETAG}\r\nLast-Modified: {MODIFIED}\r\n"),
            format!("if-none-match: {ETAG}\r\nif-modified-since: {MODIFIED}\r\n"),
        ),
        (format!("ETag: W/{ETAG}\r\n"), format!("if-none-match: W/{ETAG}\r\n")),
        (format!("Last-Modified: {MODIFIED}\r\n"), format!("if-modified-since: {MODIFIED}\r\n")),
        (String::new(), String::new()),
    ];
    for (given, expected) in cases {
        let first = Answer::image_with(&format!("Cache-Control: no-cache\r\n{given}"));
        let origin = origin(&[first]).await;
        let proxy = Proxy::before(&origin);
        image(&proxy).await;
        let conditions = "If-None-Match: \"mine\"\r\nIf-Modified-Since: Fri, 02 Jan 2026 00:00:00 GMT\r\n";
        proxy.get_with(&tickets::target(&tickets::permanent(1)), conditions).await;
        let heads = origin.heads();
        assert!(!heads[0].contains("if-"), "{}", heads[0]);
        let plain = heads[0].strip_suffix(&format!("host: {}\r\n\r\n", origin.address)).unwrap();
        assert_eq!(heads[1], format!("{plain}{expected}host: {}\r\n\r\n", origin.address));
    }
}

/// RFC 9111 §4.3.3, §4.3.4.
#[tokio::test(flavor = "multi_thread")]
async fn a_304_renews_the_image_and_what_it_says_of_its_life() {
    let first = Answer::image_with(&format!("Cache-Control: max-age=10, must-revalidate\r\nETag: {ETAG}\r\n"));
    let renewed = not_modified(&format!("Cache-Control: max-age=50, must-revalidate\r\nETag: {ETAG}\r\n"));
    let origin = origin(&[first, renewed, not_modified("")]).await;
    let proxy = Proxy::before(&origin);
    image(&proxy).await;
    proxy.hands.advance(seconds(11));
    let renewed = image(&proxy).await;
    assert_eq!((renewed.status, renewed.body.as_slice()), (200, jpeg().as_slice()));
    assert_eq!(renewed.cache_status(), "ticketgate; fwd=stale; fwd-status=304; stored");
    assert_eq!(renewed.header("cache-control"), Some("public, max-age=50, must-revalidate"));
    proxy.hands.advance(seconds(45));
    assert!(image(&proxy).await.cache_status().contains("; hit; ttl="));
    proxy.hands.advance(seconds(10));
    let again = image(&proxy).await;
    assert_eq!(
        again.header("cache-control"),
        Some("public, max-age=50, must-revalidate"),
        "what a 304 does not say stays"
    );
    assert_eq!((again.header("etag"), origin.count()), (Some(ETAG), 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_304_of_another_version_or_unasked_renews_nothing() {
    let first = Answer::image_with(&format!("Cache-Control: no-cache\r\nETag: {ETAG}\r\n"));
    let stubborn = origin(&[first, not_modified("ETag: \"v2\"\r\n")]).await;
    let proxy = Proxy::before(&stubborn);
    image(&proxy).await;
    assert_eq!(image(&proxy).await.status, 502, "even when asked without conditions");
    let unasked = origin(&[not_modified("")]).await;
    assert_eq!(image(&Proxy::before(&unasked)).await.status, 502);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_200_replaces_what_was_stored_and_a_no_store_forgets_it() {
    let mut other = jpeg();
    other[100] ^= 0xff;
    let second = Answer::of(200, "Cache-Control: max-age=10, must-revalidate\r\nETag: \"v2\"\r\n", &other);
    let first = Answer::image_with(&format!("Cache-Control: max-age=10, must-revalidate\r\nETag: {ETAG}\r\n"));
    let origin = origin(&[first, second, with("no-store")]).await;
    let proxy = Proxy::before(&origin);
    image(&proxy).await;
    proxy.hands.advance(seconds(11));
    let replaced = image(&proxy).await;
    assert_eq!((replaced.body.as_slice(), replaced.header("etag")), (other.as_slice(), Some("\"v2\"")));
    assert_eq!(image(&proxy).await.body, other);
    proxy.hands.advance(seconds(11));
    let shown = image(&proxy).await;
    assert_eq!((shown.status, shown.header("cache-control")), (200, Some("no-store")));
    assert_eq!(proxy.running.reading().image_entries, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_targeted_field_stands_for_cache_control_and_expires() {
    let targeted = Answer::image_with("Cache-Control: no-store\r\nCDN-Cache-Control: max-age=100\r\n");
    let origin = origin(&[targeted]).await;
    let proxy = Proxy::before(&origin);
    let first = image(&proxy).await;
    assert!(first.cache_status().ends_with("stored"), "{}", first.cache_status());
    assert_eq!(first.header("cache-control"), Some("no-store"), "what browsers were told stays what they are told");
    proxy.hands.advance(seconds(90));
    assert!(image(&proxy).await.cache_status().contains("; hit; ttl="));
    assert_eq!(origin.count(), 1);
}

/// S21 and S23: an accelerated clock walks one entry through fresh, stale and expired.
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_is_fresh_then_stale_then_gone() {
    let origin = origin(&[with("max-age=60"), Answer::of(500, "", b"")]).await;
    let proxy = Proxy::before(&origin);
    let ticket = tickets::temporary(1, seconds(120));
    proxy.image(&ticket).await;
    let mut seen = Vec::new();
    for _ in 0..13 {
        proxy.hands.advance(seconds(10));
        let answer = proxy.image(&ticket).await;
        let told = answer.header("cache-control").unwrap_or_default().to_owned();
        if let Some(max_age) = told.strip_prefix("public, max-age=") {
            let left: u64 = max_age.parse().unwrap();
            assert!(left <= 60 && left + 10 * (seen.len() as u64 + 1) <= 120, "{told} after {} steps", seen.len() + 1);
        }
        seen.push(if answer.cache_status().contains("ttl=-") {
            's'
        } else if answer.status == 200 {
            'f'
        } else {
            'e'
        });
        eventually("no refresh is under way", || proxy.running.reading().fills == 0).await;
    }
    let seen: String = seen.into_iter().collect();
    assert!(["fffffsssssseee", "fffffssssssee", "ffffffsssssee", "fffffsssssseee"].contains(&seen.as_str()), "{seen}");
}

/// S20: the wait for a refresh may outlast the window, or the ticket.
#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_ends_while_somebody_waits_has_ended() {
    let origin = origin(&[with("max-age=10, stale-while-revalidate=0"), Answer::of(404, "", b"gone")]).await;
    let proxy = Proxy::before(&origin);
    let ticket = tickets::temporary(1, seconds(60));
    proxy.image(&ticket).await;
    proxy.hands.advance(seconds(30));
    origin.hold();
    let mut waiting = proxy.connect().await;
    waiting.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", tickets::target(&ticket))).await;
    origin.has_been_asked(2).await;
    proxy.hands.advance(seconds(31));
    // Longer than anybody with a stale image waits.
    tokio::time::sleep(Duration::from_millis(700)).await;
    origin.release();
    assert_eq!(waiting.response().await.unwrap().status, 404, "not the image of a ticket that has expired");
}

/// S20: either clock ends a ticket's life, and turning one back lengthens none.
#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_after_the_wall_clock_was_turned_back_lengthens_no_life() {
    let origin = origin(&[with("max-age=10"), with("max-age=1000")]).await;
    let proxy = Proxy::before(&origin);
    let ticket = tickets::temporary(1, seconds(60));
    proxy.image(&ticket).await;
    proxy.hands.advance(seconds(50));
    proxy.hands.shift_wall(-200_000);
    proxy.image(&ticket).await;
    refreshed(&proxy, &origin, 2).await;
    proxy.hands.advance(seconds(11));
    let late = proxy.image(&ticket).await;
    assert!(late.cache_status().ends_with("detail=ticket-expired"), "{}", late.cache_status());
    assert_eq!(late.header("cache-control"), Some("no-store"));
}

/// RFC 9111 §4.3.3, §4.3.4.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_304_of_another_version_does_not_renew_is_asked_for_without_conditions() {
    let given = format!("Cache-Control: no-cache\r\nETag: {ETAG}\r\nLast-Modified: {MODIFIED}\r\n");
    for other in ["ETag: \"v2\"\r\n", "ETag: W/\"v2\"\r\n", "Last-Modified: Fri, 02 Jan 2026 00:00:00 GMT\r\n"] {
        let second = Answer::image_with("Cache-Control: no-cache\r\nETag: \"v2\"\r\n");
        let origin = origin(&[Answer::image_with(&given), not_modified(other), second]).await;
        let proxy = Proxy::before(&origin);
        image(&proxy).await;
        let replaced = image(&proxy).await;
        assert_eq!((replaced.status, replaced.header("etag")), (200, Some("\"v2\"")), "{other}");
        let heads = origin.heads();
        assert!(heads[1].contains("if-none-match") && !heads[2].contains("if-"), "{other}");
    }
}

/// RFC 9111 §4.3.4, RFC 9110 §8.8.3.2.
#[tokio::test(flavor = "multi_thread")]
async fn a_304_may_weaken_a_tag_and_not_strengthen_it() {
    for (given, said, renewed) in
        [("\"v1\"", "W/\"v1\"", true), ("W/\"v1\"", "W/\"v1\"", true), ("W/\"v1\"", "\"v1\"", false)]
    {
        let first = Answer::image_with(&format!("Cache-Control: no-cache\r\nETag: {given}\r\n"));
        let origin = origin(&[first, not_modified(&format!("ETag: {said}\r\n")), with("no-cache")]).await;
        let proxy = Proxy::before(&origin);
        image(&proxy).await;
        image(&proxy).await;
        assert_eq!(origin.count(), if renewed { 2 } else { 3 }, "{given} {said}");
    }
}

/// S16, beside an image that may not be shown.
#[tokio::test(flavor = "multi_thread")]
async fn a_200_without_an_image_is_remembered_beside_an_image_that_may_not_be_shown() {
    let first = Answer::image_with(&format!("Cache-Control: no-cache\r\nETag: {ETAG}\r\n"));
    let origin = origin(&[first, Answer::of(200, "", b"<html>busy</html>")]).await;
    let proxy = Proxy::before(&origin);
    image(&proxy).await;
    for _ in 0..4 {
        assert_eq!(image(&proxy).await.status, 502);
    }
    assert_eq!(origin.count(), 2);
    proxy.hands.advance(seconds(2));
    image(&proxy).await;
    assert_eq!(origin.count(), 3);
}

#[cfg(debug_assertions)]
#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_that_panics_puts_the_next_one_off() {
    let origin = origin(&[with("max-age=10")]).await;
    let armed = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let struck = std::sync::Arc::clone(&armed);
    let faults = ticketgate::fault::Faults::new(move |stage| {
        let count = if stage == ticketgate::fault::Stage::Judge {
            struck.fetch_add(1, std::sync::atomic::Ordering::SeqCst)
        } else {
            0
        };
        assert_eq!(count, 0, "on purpose");
    });
    let proxy = Proxy::faulty(&origin, faults, |_| {});
    image(&proxy).await;
    proxy.hands.advance(seconds(11));
    assert_eq!(image(&proxy).await.status, 200);
    refreshed(&proxy, &origin, 2).await;
    for _ in 0..4 {
        assert_eq!(image(&proxy).await.status, 200);
        assert_eq!(proxy.running.reading().fills, 0);
    }
    assert_eq!(origin.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_who_wait_for_a_refresh_that_fails_are_shown_the_stale_image() {
    let origin = origin(&[with("max-age=10, stale-while-revalidate=0"), Answer::of(500, "", b"")]).await;
    let proxy = Proxy::before(&origin);
    image(&proxy).await;
    proxy.hands.advance(seconds(11));
    origin.hold();
    let asking: Vec<_> = (0..5)
        .map(|_| {
            let (address, target) = (proxy.address(), tickets::target(&tickets::permanent(1)));
            tokio::spawn(async move { crate::support::client::Connection::open(address).await.get(&target, "").await })
        })
        .collect();
    eventually("all wait", || proxy.running.reading().waiting_for_fills == 5).await;
    origin.release();
    for answer in asking {
        assert_eq!(answer.await.unwrap().status, 200);
    }
    assert_eq!(origin.count(), 2);
}

/// S12: a 304 leaves its connection as good as a 200 does.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_dies_idle_after_a_304_is_tried_once_more() {
    let first = Answer::image_with(&format!("Cache-Control: no-cache\r\nETag: {ETAG}\r\n"));
    let origin = origin(&[first, not_modified(""), Answer::raw("", Then::Close), not_modified("")]).await;
    let proxy = Proxy::before(&origin);
    for _ in 0..3 {
        assert_eq!(image(&proxy).await.status, 200);
    }
    assert_eq!((origin.count(), origin.connections()), (4, 2));
}
