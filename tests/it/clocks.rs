//! Whatever the clock on the wall shows, at the start or from one moment to the next: nothing panics, every page is served, and an
//! image ends by the wall clock or by the monotonic one, whichever says so first.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use ticketgate::clock::{Clock, Hands};
use ticketgate::fault::Faults;

use crate::support::api::{Api, created};
use crate::support::client::{Connection, Response};
use crate::support::origin::{Answer, Origin, jpeg};
use crate::support::proxy::Proxy;
use crate::support::tickets;
use crate::support::tls::{Authority, HTTP_1};

const SECOND: i64 = 1000;
const DAY: i64 = 86_400 * SECOND;
const HOUR: Duration = Duration::from_secs(3600);

/// What a clock on the wall may show, in milliseconds after 1970: its beginning, what 32 bits with and without a sign hold and the
/// millisecond after it, and years that no HTTP date can tell.
const WALLS: [i64; 10] = [
    -DAY,
    0,
    999,
    DAY,
    i32::MAX as i64 * SECOND,
    (i32::MAX as i64 + 1) * SECOND,
    u32::MAX as i64 * SECOND,
    (u32::MAX as i64 + 1) * SECOND,
    253_402_300_799_999,
    400_000 * DAY * 10,
];

/// A clock and what turns it, showing `wall`.
fn showing(wall: i64) -> (Clock, Arc<Hands>) {
    let (clock, hands) = Clock::adjustable();
    show(&clock, &hands, wall);
    (clock, hands)
}

fn show(clock: &Clock, hands: &Hands, wall: i64) {
    hands.shift_wall(wall - clock.now().wall.unix_millis());
}

fn today() -> i64 {
    Clock::system().now().wall.unix_millis()
}

/// Everything that is on, with own tickets in a file of `directory`.
struct Scene {
    proxy: Proxy,
    clock: Clock,
    authority: Authority,
    origin: Origin,
    _api: Api,
}

impl Scene {
    async fn start(directory: &Path, wall: i64) -> Self {
        let origin = Origin::answering(Answer::image()).await;
        let api = Api::saying(&created(&tickets::temporary(7, HOUR), Some(3600))).await;
        let authority = Authority::new();
        authority.install();
        let (clock, hands) = showing(wall);
        let proxy = Proxy::by((clock.clone(), hands), Faults::default(), |config| {
            config.origin.url = origin.url().parse().unwrap();
            config.forward.app = Some(origin.url().parse().unwrap());
            config.tickets.store = Some(directory.join("own.redb"));
            authority.configure(config);
            api.configure(config);
        });
        Self { proxy, clock, authority, origin, _api: api }
    }

    fn show(&self, wall: i64) {
        show(&self.clock, &self.proxy.hands, wall);
    }

    async fn operator(&self, target: &str) -> Response {
        Connection::to_operator(self.proxy.admin()).await.get(target, "Connection: close\r\n").await
    }

    /// One of everything that looks at a clock.
    async fn everything_works(&self, what: &str) {
        for ticket in [tickets::permanent(1), tickets::temporary(2, HOUR), tickets::temporary(3, 720 * HOUR)] {
            for _ in 0..2 {
                let answer = self.proxy.image(&ticket).await;
                assert_eq!((answer.status, answer.body.clone()), (200, jpeg()), "{what}: {}", answer.cache_status());
                let date = |name: &str| answer.header(name).map(httpdate::parse_http_date);
                assert!(date("date").is_some_and(|date| date.is_ok()), "{what}: {answer:?}");
                assert!(date("expires").is_none_or(|date| date.is_ok()), "{what}: {answer:?}");
                assert!(date("ticket-expires").is_none_or(|date| date.is_ok()), "{what}: {answer:?}");
            }
        }
        let target = tickets::target(&tickets::permanent(1));
        let dates = ["Thu, 01 Jan 1970 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT", "Tue, 19 Jan 2038 03:14:08 GMT"];
        for date in dates {
            let answer = self.proxy.get_with(&target, &format!("If-Modified-Since: {date}\r\n")).await;
            assert!([200, 304].contains(&answer.status), "{what}: {answer:?}");
        }
        let mut secret = Connection::over(self.authority.connect(self.proxy.tls(), &[HTTP_1]).await);
        assert_eq!(secret.get(&target, "Connection: close\r\n").await.status, 200, "{what}");
        assert_eq!(self.proxy.get("/page").await.status, 200, "{what}");
        let mut app = Connection::open(self.proxy.relay()).await;
        assert_eq!(app.post("/cgi-bin/qrcode/create?access_token=x", "{}").await.status, 200, "{what}");
        let registration = json!([{"ticket": "registered"}, {"ticket": "ended", "expire_seconds": 60}]).to_string();
        let registered = Connection::to_operator(self.proxy.admin()).await.post("/tickets", &registration).await;
        assert_eq!(registered.status, 204, "{what}: {}", registered.text());
        let inspect = target.replace("/cgi-bin/showqrcode", "/inspect");
        for page in ["/", "/status", "/metrics", "/failures", "/images", "/config", "/readyz", &inspect] {
            let answer = self.operator(page).await;
            assert_eq!(answer.status, 200, "{what}: {page}: {}", answer.text());
        }
        assert_eq!(self.proxy.running.metrics().panics.get(), 0, "{what}");
    }

    /// Ends it well, so that another may have the file.
    async fn end(self) {
        let running = self.proxy.running;
        let end = move || {
            running.drain();
            running.cut_drain_on(std::future::ready(()));
            running.finish()
        };
        tokio::task::spawn_blocking(end).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_at_any_time_serves_everything_and_reads_what_was_written_at_any_other() {
    let directory = TempDir::new().unwrap();
    for wall in WALLS.into_iter().chain([today() - DAY, today(), today() + DAY]) {
        let scene = Scene::start(directory.path(), wall).await;
        scene.everything_works(&format!("started at {wall}")).await;
        scene.proxy.hands.advance(2 * HOUR);
        scene.everything_works(&format!("two hours after {wall}")).await;
        scene.end().await;
    }
    let files: Vec<_> = std::fs::read_dir(&directory).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(files, ["own.redb"], "it was never damaged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_to_any_time_and_back_stops_nothing() {
    let directory = TempDir::new().unwrap();
    let scene = Scene::start(directory.path(), today()).await;
    for wall in WALLS.into_iter().chain([today() - DAY, today() + DAY]) {
        scene.show(wall);
        scene.everything_works(&format!("turned to {wall}")).await;
        scene.show(today());
        scene.everything_works(&format!("turned back from {wall}")).await;
    }
    let asked = scene.origin.count();
    assert!(scene.proxy.image(&tickets::permanent(1)).await.cache_status().contains("hit"));
    assert_eq!(scene.origin.count(), asked);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_back_or_forth_lengthens_no_life_and_ends_no_permanent_image() {
    for day in [-DAY, DAY] {
        let origin = Origin::answering(Answer::image()).await;
        let proxy = Proxy::before(&origin);
        let (permanent, temporary) = (tickets::permanent(1), tickets::temporary(2, HOUR));
        for ticket in [&permanent, &temporary] {
            assert_eq!(proxy.image(ticket).await.status, 200);
            assert!(proxy.image(ticket).await.cache_status().contains("hit"));
        }
        proxy.hands.shift_wall(day);
        assert!(proxy.image(&permanent).await.cache_status().contains("hit"), "{day}");
        let answer = proxy.image(&temporary).await;
        assert_eq!(answer.cache_status().contains("hit"), day < 0, "{day}: {}", answer.cache_status());
        if day < 0 {
            let left = answer.header("cache-control").unwrap().strip_prefix("public, max-age=").unwrap();
            assert!(left.parse::<u64>().unwrap() <= 3600, "{left}");
        }
        // Once more past its end by the monotonic clock, and back by the wall's to where it lived.
        proxy.hands.advance(HOUR);
        proxy.hands.shift_wall(-day - 2 * DAY);
        let late = proxy.image(&temporary).await;
        assert!(!late.cache_status().contains("hit"), "{day}: {}", late.cache_status());
        assert!(proxy.image(&permanent).await.cache_status().contains("hit"), "{day}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_in_1970_that_is_told_the_time_later_keeps_images_from_then_on() {
    let origin = Origin::answering(Answer::image()).await;
    let (clock, hands) = showing(0);
    let proxy = Proxy::by((clock.clone(), hands), Faults::default(), |config| {
        config.origin.url = origin.url().parse().unwrap();
    });
    let (permanent, temporary) = (tickets::permanent(1), tickets::temporary(2, HOUR));
    assert_eq!(proxy.image(&permanent).await.status, 200);
    assert!(proxy.image(&permanent).await.cache_status().contains("hit"), "it needs no wall clock");
    let early = proxy.image(&temporary).await;
    assert!(early.cache_status().ends_with("detail=ticket-from-the-future"), "{}", early.cache_status());
    show(&clock, &proxy.hands, today());
    assert!(proxy.image(&permanent).await.cache_status().contains("hit"));
    assert!(proxy.image(&temporary).await.cache_status().ends_with("stored"));
    assert!(proxy.image(&temporary).await.cache_status().contains("hit"));
    proxy.hands.advance(HOUR);
    assert!(proxy.image(&temporary).await.cache_status().contains("detail=ticket-expired"));
}
