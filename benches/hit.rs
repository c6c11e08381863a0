//! A hit: each step of it in the order of `ARCHITECTURE.md`'s table, then the whole, without its connection and over one on
//! loopback (there the kernel's copy is most of it). `cargo bench --bench hit`; `docs/performance.md` says how a change is
//! compared.

mod support;

use std::hint::black_box;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BatchSize, Bencher, BenchmarkGroup, Criterion, criterion_group, criterion_main};
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version, header};
use http_body_util::BodyExt as _;
use support::{Connection, IMAGE, PEER, exchanges, proxy, request, target};
use ticketgate::app::Running;
use ticketgate::body::timed::TimedBody;
use ticketgate::cache::downstream::{Downstream, http_date};
use ticketgate::cache::entry::Image;
use ticketgate::cache::expiry::Expiry;
use ticketgate::cache::status::Outcome;
use ticketgate::cache::{self, Cache, Found, Known};
use ticketgate::exchange::{Exchanges, Records};
use ticketgate::limit::{self, Admitted, Client, Limits};
use ticketgate::log::{Control, access};
use ticketgate::metrics::Source;
use ticketgate::moment::Moment;
use ticketgate::proxy::Shared;
use ticketgate::reply::Reply;
use ticketgate::respond::Asked;
use ticketgate::respond::conditional::Stored;
use ticketgate::respond::range::{Part, content_range};
use ticketgate::route::{self, Kind, Route};
use ticketgate::ticket::Ticket;
use tracing::Dispatch;
use tracing::dispatcher::with_default;

type Group<'a> = BenchmarkGroup<'a, WallTime>;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// What the steps are given: an image that is held, and who asks for it in which way.
struct Hit {
    running: Running,
    shared: Arc<Shared>,
    uri: Uri,
    ticket: Ticket,
    image: Arc<Image>,
    now: Moment,
    plain: HeaderMap,
    conditional: HeaderMap,
    ranged: HeaderMap,
}

fn hit(criterion: &mut Criterion) {
    let hit = Hit::new();
    let mut group = criterion.benchmark_group("hit");
    hit.arrive(&mut group);
    hit.admit(&mut group);
    hit.look_up(&mut group);
    hit.choose(&mut group);
    hit.respond(&mut group);
    hit.count(&mut group);
    hit.whole(&mut group);
    hit.over_a_connection(&mut group);
    group.finish();
}

impl Hit {
    fn new() -> Self {
        let running = proxy();
        let shared = running.reload().shared();
        let uri: Uri = target(0).parse().expect("a target is a URI");
        Connection::open(&running).ask(&request(&uri.to_string()));
        let ticket = Ticket::from_query(uri.query()).expect("it is a ticket");
        let now = shared.clock.now();
        let image = shared.cache.stored(&ticket, now).expect("it was just asked for");
        let headers = |more: &[(HeaderName, &'static str)]| {
            let all = [(header::HOST, "a")].iter().chain(more).cloned();
            all.map(|(name, value)| (name, HeaderValue::from_static(value))).collect()
        };
        let plain = headers(&[]);
        let conditional = headers(&[(header::IF_NONE_MATCH, "\"a\"")]);
        let ranged = headers(&[(header::RANGE, "bytes=0-9999")]);
        Self { running, shared, uri, ticket, image, now, plain, conditional, ranged }
    }

    /// `exchange`, `route`, `ticket`.
    fn arrive(&self, group: &mut Group<'_>) {
        let Self { running, shared, uri, plain, .. } = self;
        let records = Records::new(Arc::clone(running.metrics()), shared.clock.clone(), Control::default(), None);
        group.bench_function("begin", |bencher| bencher.iter(|| (shared.clock.now(), records.request_id(None))));
        assert_eq!(way(shared, uri, plain), Route::Image);
        group.bench_function("route", |bencher| bencher.iter(|| way(shared, black_box(uri), black_box(plain))));
        group.bench_function("ticket", |bencher| bencher.iter(|| Ticket::from_query(black_box(uri).query())));
    }

    /// `limit`: who asks, and whether it may. The client asks as often as its budget allows.
    fn admit(&self, group: &mut Group<'_>) {
        let Shared { trust, clock, .. } = &*self.shared;
        let stranger = IpAddr::from([203, 0, 113, 7]);
        let forwarded = HeaderMap::from_iter([(FORWARDED_FOR, HeaderValue::from_static("203.0.113.7"))]);
        let client = |peer, headers: &HeaderMap| trust.client(black_box(peer), black_box(headers));
        assert_eq!(client(PEER.ip(), &forwarded), Client::at(stranger));
        group.bench_function("client", |bencher| bencher.iter(|| client(stranger, &self.plain)));
        group.bench_function("client behind a proxy", |bencher| bencher.iter(|| client(PEER.ip(), &forwarded)));
        let config = limit::Config::default();
        let turn = Duration::from_secs_f64(1.0 / config.client_requests.expect("it is on").rate);
        let (limits, client) = (Limits::new(&config, clock), Client::at(stranger));
        let mut tick = clock.tick();
        group.bench_function("admit", |bencher| {
            bencher.iter(|| {
                tick = tick + turn;
                limits.request(&client, tick).now_or_never().expect("nobody waits").expect("it is its turn")
            });
        });
    }

    /// `cache`: what is known, and what browsers are told of its life.
    fn look_up(&self, group: &mut Group<'_>) {
        let Self { shared, ticket, image, now, .. } = self;
        let own = Cache::with_own(&cache::Config::default(), 1, |_| {});
        own.learn(ticket, Some(Expiry::after(Duration::from_secs(86_400), *now, 0)), *now);
        let temporary = own.keep_image(ticket, Arc::clone(image), *now);
        for (name, cache) in [("look up", &*shared.cache), ("look up, own", &own)] {
            assert!(matches!(cache.lookup(ticket, *now), Known::Answer(Found::Image(_))));
            group.bench_function(name, |bencher| bencher.iter(|| cache.lookup(black_box(ticket), black_box(*now))));
        }
        for (name, image) in [("lifetime", image), ("lifetime, temporary", &temporary)] {
            group.bench_function(name, |bencher| bencher.iter(|| lifetime(black_box(image), black_box(*now))));
        }
    }

    /// `respond`: how much of the image is wanted.
    fn choose(&self, group: &mut Group<'_>) {
        let Self { image, conditional, ranged, .. } = self;
        let is_known = || {
            let (etag, last_modified, date) = (image.etag(), image.last_modified(), image.freshness.date());
            Stored { etag, last_modified, date }.is_known(black_box(conditional))
        };
        assert!(is_known());
        group.bench_function("condition", |bencher| bencher.iter(is_known));
        let part = || match Part::of(black_box(ranged), IMAGE) {
            Part::Bytes(bytes) => content_range(&bytes, IMAGE),
            other => panic!("{other:?}"),
        };
        group.bench_function("range", |bencher| bencher.iter(part));
    }

    /// `reply`, `respond`: the answer, with what `lifetime`, `condition` and `range` cost in it.
    fn respond(&self, group: &mut Group<'_>) {
        let Self { shared, uri, ticket, image, now, .. } = self;
        for (name, headers, status) in self.ways() {
            let answer = || {
                let asked = Asked { method: &Method::GET, query: uri.query(), headers: black_box(headers) };
                let reply = Reply::found(Found::Image(Arc::clone(image)), Admitted::UNLIMITED);
                reply.answer(asked, Some(ticket.clone()), &shared.responder, *now)
            };
            assert_eq!(answer().response.status(), status);
            group.bench_function(format!("respond{name}"), |bencher| bencher.iter(answer));
        }
    }

    /// `exchange`, `metrics`: what is counted when the answer is there.
    fn count(&self, group: &mut Group<'_>) {
        let Self { running, shared, ticket, image, now, .. } = self;
        let (metrics, tally) = (running.metrics(), running.metrics().tally());
        let outcome = Outcome::Hit { ttl: image.fresh_for(*now) };
        let began = shared.clock.tick();
        group.bench_function("count", |bencher| {
            bencher.iter(|| {
                metrics.answered(Kind::Image, StatusCode::OK, Some(black_box(&outcome)));
                metrics.repaired(black_box(ticket).repairs());
                tally.hit(shared.clock.tick().since(began));
                tally.sent(Source::Cache, black_box(IMAGE as u64));
            });
        });
    }

    /// All of it but the connection; the request is as hyper would have read it.
    fn whole(&self, group: &mut Group<'_>) {
        let exchanges = exchanges(&self.running);
        for (name, headers, status) in self.ways() {
            group.bench_function(format!("whole{name}"), |bencher| self.answer(bencher, &exchanges, headers, status));
        }
        let lines = access_lines();
        group.bench_function("whole, with its access line", |bencher| {
            with_default(&lines, || {
                assert!(access::is_wanted());
                self.answer(bencher, &exchanges, &self.plain, StatusCode::OK);
            });
        });
    }

    fn over_a_connection(&self, group: &mut Group<'_>) {
        let (mut connection, request) = (Connection::open(&self.running), request(&self.uri.to_string()));
        group.bench_function("over a connection", |bencher| bencher.iter(|| connection.ask(&request).len()));
    }

    fn answer(&self, bencher: &mut Bencher<'_>, exchanges: &Exchanges, headers: &HeaderMap, status: StatusCode) {
        let request = || {
            let mut request = Request::new(TimedBody::nothing());
            *request.uri_mut() = self.uri.clone();
            *request.headers_mut() = headers.clone();
            request
        };
        let answer = |request| {
            let response = pin!(exchanges.serve(request, PEER, None)).now_or_never().expect("a hit waits for nothing");
            assert_eq!(response.status(), status);
            black_box(response.into_body().frame().now_or_never());
        };
        bencher.iter_batched(request, answer, BatchSize::SmallInput);
    }

    /// How an image is asked for, and what the answer is.
    fn ways(&self) -> [(&'static str, &HeaderMap, StatusCode); 3] {
        [
            ("", &self.plain, StatusCode::OK),
            (", 304", &self.conditional, StatusCode::NOT_MODIFIED),
            (", 206", &self.ranged, StatusCode::PARTIAL_CONTENT),
        ]
    }
}

/// Which way a request goes, once it has passed what all must pass.
fn way(shared: &Shared, uri: &Uri, headers: &HeaderMap) -> Route {
    let Shared { routes, via, .. } = shared;
    route::check_host(Version::HTTP_11, uri, headers).expect("there is one");
    route::check_framing(headers).expect("nothing is coded");
    assert!(!via.is_loop(headers));
    routes.of(&Method::GET, uri)
}

/// The fields that tell of an image's life.
fn lifetime(image: &Image, now: Moment) -> [HeaderValue; 4] {
    let told = Downstream::of(&image.freshness, image.expiry.as_ref(), now);
    [told.cache_control(&image.said.downstream), told.age(), http_date(told.date), http_date(told.expires())]
}

/// Writes them as [`ticketgate::log`] does where no terminal is, but to nowhere.
fn access_lines() -> Dispatch {
    let lines = tracing_subscriber::fmt().json().flatten_event(true).with_current_span(false).with_span_list(false);
    Dispatch::new(lines.with_target(false).with_writer(std::io::sink).finish())
}

criterion_group!(benches, hit);
criterion_main!(benches);
