//! What is stored, for how long, and what is not (S15–S21).

use std::time::Duration;

use crate::support::origin::{Answer, Origin, Then, jpeg};
use crate::support::proxy::Proxy;
use crate::support::tickets;

#[tokio::test(flavor = "multi_thread")]
async fn the_second_browser_is_answered_from_the_cache() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::before(&origin);
    let ticket = tickets::permanent(1);
    let first = proxy.image(&ticket).await;
    assert_eq!((first.status, first.body.as_slice()), (200, jpeg().as_slice()));
    assert_eq!(first.cache_status(), "ticketgate; fwd=uri-miss; fwd-status=200; stored");
    let second = proxy.image(&ticket).await;
    assert_eq!((second.status, second.body.as_slice()), (200, jpeg().as_slice()));
    assert!(second.cache_status().starts_with("ticketgate; hit; ttl=6047"), "{}", second.cache_status());
    assert_eq!(origin.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_404_passes_through_byte_for_byte_and_is_asked_once_within_its_ttl() {
    let body = b"\x00\xff what WeChat says\r\n about it";
    let origin = Origin::answering(Answer::of(404, "Content-Type: text/x-odd\r\nSet-Cookie: a=b\r\n", body)).await;
    let proxy = Proxy::before(&origin);
    let ticket = tickets::permanent(1);
    for _ in 0..3 {
        let answer = proxy.image(&ticket).await;
        assert_eq!((answer.status, answer.body.as_slice()), (404, &body[..]));
        assert_eq!(answer.header("content-type"), Some("text/x-odd"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("content-security-policy"), Some("default-src 'none'; sandbox"));
        assert_eq!(answer.header("set-cookie"), None);
    }
    assert_eq!(origin.count(), 1);
    proxy.hands.advance(Duration::from_secs(10));
    assert_eq!(proxy.image(&ticket).await.status, 404);
    assert_eq!(origin.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_three_second_ticket_is_not_served_from_the_cache_after_it_expired() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::before(&origin);
    let ticket = tickets::temporary(1, Duration::from_secs(3));
    let first = proxy.image(&ticket).await;
    assert_eq!(first.status, 200);
    let told: u64 = first.header("cache-control").unwrap().strip_prefix("public, max-age=").unwrap().parse().unwrap();
    assert!(told <= 3, "a browser must not keep a dead code: {told}");
    assert!(first.header("ticket-expires").is_some());
    proxy.hands.advance(Duration::from_secs(3));
    let late = proxy.image(&ticket).await;
    assert_eq!(late.cache_status(), "ticketgate; fwd=bypass; fwd-status=200; detail=ticket-expired");
    assert_eq!(late.header("cache-control"), Some("no-store"));
    assert_eq!(origin.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_middleboxs_clock_does_not_let_a_ticket_outlive_its_end() {
    let epoch = "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n";
    for status in [502, 200] {
        let page = Answer::of(status, epoch, b"<html>gateway</html>");
        let origin = Origin::start(move |number, _| if number == 0 { page.clone() } else { Answer::image() }).await;
        let proxy = Proxy::before(&origin);
        assert_eq!(proxy.image(&tickets::permanent(1)).await.status, 502);
        assert_eq!(proxy.running.reading().skew_millis, 0, "{status}");
        let ticket = tickets::temporary(2, Duration::from_secs(3));
        proxy.image(&ticket).await;
        proxy.hands.advance(Duration::from_secs(3));
        assert!(!proxy.image(&ticket).await.cache_status().contains("hit"), "{status}");
        assert_eq!(origin.count(), 3, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn turning_the_wall_clock_back_does_not_bring_a_ticket_back_to_life() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::before(&origin);
    let ticket = tickets::temporary(1, Duration::from_secs(60));
    proxy.image(&ticket).await;
    proxy.hands.advance(Duration::from_secs(61));
    proxy.hands.shift_wall(-3_600_000);
    proxy.image(&ticket).await;
    assert_eq!(origin.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_cut_at_any_byte_is_never_stored() {
    let whole = Answer::of(200, "Cache-Control: max-age=604800\r\n", &jpeg()[..300]).bytes;
    let offsets = u32::try_from(whole.len()).unwrap();
    let cut = move |number: usize, _: &str| Answer::raw(&whole[..number.min(whole.len())], Then::Close);
    let origin = Origin::start(cut).await;
    let proxy = Proxy::with(&origin, |config| config.limits.client_misses = None);
    for number in 0..offsets {
        let answer = proxy.image(&tickets::permanent(number)).await;
        assert!(answer.status == 502 || answer.status == 503, "cut {number}: {}", answer.status);
        assert_ne!(answer.header("content-type"), Some("image/jpeg"));
        // Past twenty failures in a row the circuit is open; time passes it.
        proxy.hands.advance(Duration::from_secs(2));
    }
    assert_eq!(origin.count(), usize::try_from(offsets).unwrap());
    assert_eq!(proxy.running.reading().image_entries, 0);
    assert_eq!(proxy.image(&tickets::permanent(offsets)).await.status, 200, "uncut, it is an image");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_cache_control_keeps_out_is_shown_and_not_stored() {
    for header in ["Cache-Control: no-store\r\n", "Cache-Control: private\r\n", "Vary: *\r\n"] {
        let origin = Origin::answering(Answer::image_with(header)).await;
        let proxy = Proxy::before(&origin);
        let ticket = tickets::permanent(1);
        for _ in 0..2 {
            let answer = proxy.image(&ticket).await;
            assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")), "{header}");
            assert!(!answer.cache_status().contains("stored"));
        }
        assert_eq!(origin.count(), 2, "{header}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn freshness_ends_when_the_origin_said() {
    let origin = Origin::answering(Answer::image_with("Cache-Control: max-age=100, s-maxage=50\r\nAge: 10\r\n")).await;
    let proxy = Proxy::before(&origin);
    let ticket = tickets::permanent(1);
    proxy.image(&ticket).await;
    proxy.hands.advance(Duration::from_secs(38));
    assert!(proxy.image(&ticket).await.cache_status().contains("hit"));
    proxy.hands.advance(Duration::from_secs(2));
    assert!(!proxy.image(&ticket).await.cache_status().contains("hit"));
    assert_eq!(origin.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_word_of_the_origin_the_default_counts() {
    let origin = Origin::answering(Answer::image_with("")).await;
    let proxy = Proxy::with(&origin, |config| config.cache.default_ttl = Duration::from_secs(7));
    let ticket = tickets::permanent(1);
    assert_eq!(proxy.image(&ticket).await.header("cache-control"), Some("public, max-age=7"));
    proxy.hands.advance(Duration::from_secs(8));
    assert!(proxy.image(&ticket).await.cache_status().contains("ttl=-"), "stale");
    origin.has_been_asked(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_cache_asks_the_origin_every_time() {
    let origin = Origin::answering(Answer::image_with("Cache-Control: no-cache, max-age=100\r\n")).await;
    let proxy = Proxy::before(&origin);
    let ticket = tickets::permanent(1);
    for _ in 0..2 {
        let told = proxy.image(&ticket).await;
        assert_eq!(told.header("cache-control"), Some("public, max-age=0, no-cache"));
    }
    assert_eq!(origin.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strangers_cache_control_does_not_make_us_call_the_origin() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::before(&origin);
    let target = tickets::target(&tickets::permanent(1));
    proxy.get(&target).await;
    for header in ["Cache-Control: no-cache", "Cache-Control: max-age=0", "Pragma: no-cache", "Cache-Control: no-store"]
    {
        let answer = proxy.get_with(&target, &format!("{header}\r\n")).await;
        assert!(answer.cache_status().contains("hit"), "{header}");
    }
    assert_eq!(origin.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn rubbish_cannot_evict_an_image() {
    let good = tickets::permanent(0);
    let target = format!("ticket={} ", tickets::encode(&good));
    let origin =
        Origin::start(
            move |_, head| {
                if head.contains(&target) { Answer::image() } else { Answer::of(404, "", &vec![b'x'; 60_000]) }
            },
        )
        .await;
    let proxy = Proxy::with(&origin, |config| {
        config.cache.memory = 1024 * 1024;
        (config.limits.client_misses, config.limits.origin_fills) = (None, None);
    });
    proxy.image(&good).await;
    for number in 1..400 {
        assert_eq!(proxy.image(&tickets::permanent(number)).await.status, 404);
    }
    assert!(proxy.image(&good).await.cache_status().contains("hit"));
    let reading = proxy.running.reading();
    assert!(reading.negative_bytes <= 16 * 1024 * 1024, "{}", reading.negative_bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_stays_within_its_memory() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&origin, |config| {
        config.cache.memory = 1024 * 1024;
        (config.limits.client_misses, config.limits.origin_fills) = (None, None);
    });
    for number in 0..600 {
        assert_eq!(proxy.image(&tickets::permanent(number)).await.status, 200);
    }
    let reading = proxy.running.reading();
    assert!(reading.image_bytes <= 1024 * 1024, "{}", reading.image_bytes);
    assert!((200..=400).contains(&reading.image_entries), "{}", reading.image_entries);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_from_the_future_is_shown_and_not_stored() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::before(&origin);
    let ticket = tickets::temporary(1, Duration::from_secs(3600));
    proxy.hands.shift_wall(-600_000);
    for _ in 0..2 {
        let answer = proxy.image(&ticket).await;
        assert_eq!(answer.status, 200);
        assert!(answer.cache_status().ends_with("detail=ticket-from-the-future"), "{}", answer.cache_status());
    }
    assert_eq!(origin.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_may_show_any_year() {
    for shift in [-60i64, -20, 12, 100, 7000, 500_000] {
        let origin = Origin::answering(Answer::image()).await;
        let proxy = Proxy::before(&origin);
        proxy.hands.shift_wall(shift * 365 * 86_400_000);
        for ticket in [tickets::permanent(1), tickets::temporary(2, Duration::from_secs(60))] {
            assert_eq!(proxy.image(&ticket).await.status, 200, "{shift} years");
            assert_eq!(proxy.image(&ticket).await.status, 200, "{shift} years");
        }
    }
}

/// S22.
#[tokio::test(flavor = "multi_thread")]
async fn past_its_expiry_a_ticket_is_asked_for_shared_remembered_and_never_stored() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::before(&origin);
    let ticket = tickets::temporary(1, Duration::from_secs(3));
    proxy.hands.advance(Duration::from_secs(4));
    origin.hold();
    let asking: Vec<_> = (0..5)
        .map(|_| {
            let (address, target) = (proxy.address(), tickets::target(&ticket));
            tokio::spawn(async move { crate::support::client::Connection::open(address).await.get(&target, "").await })
        })
        .collect();
    crate::support::eventually("all wait for one fill", || proxy.running.reading().waiting_for_fills == 5).await;
    origin.release();
    for answer in asking {
        let answer = answer.await.unwrap();
        assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")));
        let expected = "ticketgate; fwd=bypass; fwd-status=200";
        assert!(answer.cache_status().starts_with(expected), "{}", answer.cache_status());
        assert!(answer.cache_status().ends_with("; detail=ticket-expired"), "{}", answer.cache_status());
    }
    let remembered = proxy.image(&ticket).await;
    assert_eq!(remembered.cache_status(), "ticketgate; hit; detail=ticket-expired");
    assert_eq!((remembered.body.as_slice(), remembered.header("cache-control")), (jpeg().as_slice(), Some("no-store")));
    assert_eq!((origin.count(), proxy.running.reading().image_entries), (1, 0));
    proxy.hands.advance(Duration::from_secs(10));
    proxy.image(&ticket).await;
    assert_eq!(origin.count(), 2, "for negative_ttl and no longer");
}

#[tokio::test(flavor = "multi_thread")]
async fn asks_past_expiry_spend_a_tenth_of_the_origins_budget() {
    let origin = Origin::answering(Answer::of(404, "", b"")).await;
    let proxy = Proxy::with(&origin, |config| {
        let burst = 20.try_into().unwrap();
        config.limits.origin_fills = Some(ticketgate::limit::Policy { rate: 0.01, burst, wait: Duration::ZERO });
    });
    let expired: Vec<_> = (0..5).map(|number| tickets::temporary(number, Duration::from_secs(1))).collect();
    proxy.hands.advance(Duration::from_secs(2));
    let mut statuses = Vec::new();
    for ticket in &expired {
        statuses.push(proxy.image(ticket).await.status);
    }
    assert_eq!(statuses, [404, 404, 503, 503, 503]);
    assert_eq!(proxy.image(&tickets::permanent(9)).await.status, 404, "living tickets have the rest");
    assert_eq!(origin.count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_tickets_may_be_gone_without_asking() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&origin, |config| config.tickets.expired = ticketgate::ticket::Expired::Gone);
    let ticket = tickets::temporary(1, Duration::from_secs(60));
    assert_eq!(proxy.image(&ticket).await.status, 200);
    proxy.hands.advance(Duration::from_secs(61));
    let gone = proxy.image(&ticket).await;
    assert_eq!((gone.status, gone.cache_status()), (410, "ticketgate; detail=ticket-expired"));
    assert!(gone.text().contains("create a new one"), "{}", gone.text());
    assert_eq!(origin.count(), 1);
    assert_eq!(proxy.image(&tickets::permanent(2)).await.status, 200, "a permanent one is never gone");
}

/// S21, in the fields as they are sent.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_of_an_images_life_agrees_and_ends_with_its_ticket() {
    let origin = Origin::answering(Answer::image_with("Cache-Control: max-age=40\r\n")).await;
    let proxy = Proxy::before(&origin);
    let date = |text: Option<&str>| httpdate::parse_http_date(text.unwrap()).unwrap();
    for (ticket, temporary) in [(tickets::permanent(1), false), (tickets::temporary(2, Duration::from_secs(300)), true)]
    {
        for _ in 0..4 {
            let told = proxy.image(&ticket).await;
            let control = told.header("cache-control").unwrap();
            let max_age = Duration::from_secs(control.strip_prefix("public, max-age=").unwrap().parse().unwrap());
            assert_eq!(date(told.header("expires")), date(told.header("date")) + max_age, "{control}");
            assert_eq!(told.header("ticket-expires").is_some(), temporary);
            if temporary {
                assert!(date(told.header("expires")) <= date(told.header("ticket-expires")), "{control}");
                assert_eq!(told.header("age"), Some("0"), "re-based, since many caches ignore it");
            }
            proxy.hands.advance(Duration::from_secs(13));
        }
    }
}
