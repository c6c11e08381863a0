//! Coalescing in every order: whoever asks, hangs up, purges and fills are threads of which one runs at a time, and each lock
//! and each access of a store is a point at which another goes on. Only the origin is made up: an answer has the version that
//! the origin had when it was asked.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use tokio::runtime::Runtime;

use super::*;
use crate::cache::directives::Directives;
use crate::cache::entry::Life;
use crate::cache::format::Format;
use crate::cache::freshness::{Exchange, Freshness};
use crate::cache::grace::Grace;
use crate::config::Config;
use crate::interleavings::threads::{Act, run, spawn, step, wait_for};
use crate::interleavings::{Choices, explore};
use crate::via::Via;

/// What a fill works with over `cache`. It is never told to ask the origin.
pub fn filler(cache: Arc<Cache>, faults: Faults) -> Filler {
    type Shared = (Arc<Origin>, Arc<Limits>, Arc<Metrics>, Clock);
    static SHARED: OnceLock<Shared> = OnceLock::new();
    let config = Config::default();
    let (origin, limits, metrics, clock) = SHARED.get_or_init(|| {
        let clock = Clock::system();
        let origin = Origin::new(&config.origin, 1, clock.clone(), Via::unique(), Faults::default()).unwrap();
        let limits = Limits::new(&config.limits, &clock);
        (Arc::new(origin), Arc::new(limits), Metrics::new(clock.now().wall), clock)
    });
    Filler {
        cache,
        store: None,
        origin: Arc::clone(origin),
        limits: Arc::clone(limits),
        rules: crate::app::rules(&config),
        clock: clock.clone(),
        metrics: Arc::clone(metrics),
        faults,
    }
}

/// An empty cache.
pub fn cache() -> Arc<Cache> {
    Arc::new(Cache::new(&crate::cache::Config::default(), 10, |_| {}))
}

fn ticket(number: u32) -> Ticket {
    Ticket::from_text(&format!("ticket{number}")).unwrap()
}

/// Tells its version by its length.
fn image(version: usize, now: Moment) -> Arc<Image> {
    let headers = HeaderMap::from_iter([(header::CACHE_CONTROL, HeaderValue::from_static("max-age=604800"))]);
    let said = Directives::of(&headers);
    let freshness = Freshness::of(&headers, &said, Exchange { asked: now, answered: now }, Duration::ZERO);
    let life = Life { said, freshness, grace: Grace::NONE, expiry: None };
    Arc::new(Image::new(Bytes::from(vec![0; version]), Format::Jpeg, &headers, &life))
}

/// How a fill ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Image,
    Fails,
    Panics,
    PanicsStoring,
}

struct Scene {
    fills: Fills,
    ticket: Ticket,
    /// How the first fill ends; the others bring an image.
    first: End,
    is_storing_panic_due: Arc<AtomicBool>,
    /// What the origin has.
    version: AtomicUsize,
    asked: AtomicUsize,
    asking: AtomicUsize,
    is_purged: AtomicBool,
    shown: AtomicUsize,
    failed: AtomicUsize,
}

/// The map of flights of one exploration: that it is empty again after each schedule is part of what is promised.
type Sky = Arc<Flights<Filled>>;

impl Scene {
    fn new(sky: &Sky, first: End) -> Arc<Self> {
        static RUNTIME: OnceLock<Runtime> = OnceLock::new();
        let runtime = RUNTIME.get_or_init(|| tokio::runtime::Builder::new_current_thread().build().unwrap());
        let is_storing_panic_due = Arc::new(AtomicBool::new(first == End::PanicsStoring));
        let due = Arc::clone(&is_storing_panic_due);
        let faults = Faults::new(move |stage| {
            if stage == Stage::Store && due.swap(false, SeqCst) {
                on_purpose();
            }
        });
        let filler = Arc::new(filler(cache(), faults));
        let fills = Fills { flights: Arc::clone(sky), filler, runtime: runtime.handle().clone() };
        Arc::new(Self {
            fills,
            ticket: ticket(1),
            first,
            is_storing_panic_due,
            version: AtomicUsize::new(1),
            asked: AtomicUsize::default(),
            asking: AtomicUsize::default(),
            is_purged: AtomicBool::default(),
            shown: AtomicUsize::default(),
            failed: AtomicUsize::default(),
        })
    }

    /// Boards; has the fill run that begins with it.
    fn board(self: &Arc<Self>) -> Result<Filling, usize> {
        match self.fills.board(&self.ticket) {
            Boarding::Found(Found::Image(image)) => Err(image.body.len()),
            Boarding::Joined(seat) => Ok(Filling::joined(seat)),
            Boarding::Start(permit, seat) => {
                let scene = Arc::clone(self);
                spawn("fill", Box::new(move || scene.fill(permit)));
                Ok(Filling { seat: Some(seat), collapsed: false })
            }
            Boarding::Found(Found::Negative(_)) | Boarding::Full => panic!("there are no refusals, and room for all"),
        }
    }

    /// One who waits for the image.
    fn ask(self: &Arc<Self>) {
        let was_purged = self.is_purged.load(SeqCst);
        let (version, may_be_kept) = match self.board() {
            Err(found) => (found, true),
            Ok(filling) => {
                let Verdict::Image(image, storable) = wait_for(filling.end()).verdict else {
                    self.failed.fetch_add(1, SeqCst);
                    return;
                };
                (image.body.len(), storable == Storable::Yes)
            }
        };
        assert!(!(was_purged && may_be_kept) || version == 2, "asked after the purge, shown what was purged as fresh");
        self.shown.fetch_add(1, SeqCst);
    }

    fn fill(&self, permit: Permit<Filled>) {
        assert_eq!(self.asking.fetch_add(1, SeqCst), 0, "the origin is asked twice at once");
        let end = if self.asked.fetch_add(1, SeqCst) == 0 { self.first } else { End::Image };
        step();
        let version = self.version.load(SeqCst);
        // The answer is on its way.
        step();
        self.asking.fetch_sub(1, SeqCst);
        let attempt = Attempt { filler: &self.fills.filler, ticket: &self.ticket };
        let verdict = match end {
            End::Fails => Verdict::Failed(Failure::Busy, None),
            _ => Verdict::Image(image(version, self.fills.filler.clock.now()), Storable::Yes),
        };
        let filled = Filled { verdict, origin_took: None };
        // As its task does.
        let ended = catch_unwind(AssertUnwindSafe(move || {
            if end == End::Panics {
                let _held = (permit, attempt);
                on_purpose();
            }
            attempt.end(Purpose::Asked, filled, permit);
        }));
        assert_eq!(ended.is_err(), matches!(end, End::Panics | End::PanicsStoring));
    }

    fn purge(&self, everything: bool) {
        self.version.store(2, SeqCst);
        if everything {
            self.fills.purge_all();
        } else {
            self.fills.purge(&self.ticket);
        }
        self.is_purged.store(true, SeqCst);
    }

    fn held(&self) -> Option<usize> {
        self.fills.filler.cache.stored(&self.ticket, self.fills.filler.clock.now()).map(|image| image.body.len())
    }

    fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }

    fn seen(&self) -> (usize, usize) {
        (self.shown.load(SeqCst), self.failed.load(SeqCst))
    }
}

/// Unwinds like a panic, without a word on the terminal.
fn on_purpose() -> ! {
    resume_unwind(Box::new("on purpose"))
}

/// What one of those who come does.
type Does = fn(&Arc<Scene>);

/// Runs `parts` of `scene` at once; afterwards nothing is under way, and nobody waits.
fn play(choices: &mut Choices, scene: &Arc<Scene>, parts: [(&'static str, Does); 3]) {
    let act = |(name, part): (&'static str, Does)| {
        let scene = Arc::clone(scene);
        let act: Act = Box::new(move || part(&scene));
        (name, act)
    };
    run(choices, parts.map(act).into());
    assert_eq!((scene.fills.under_way(), scene.fills.waiting()), (0, 0), "a ticket is not free, or somebody waits");
}

const ASKS: Does = Scene::ask;
const HANGS_UP: Does = |scene| drop(scene.board());
const PURGES: Does = |scene| scene.purge(false);
const PURGES_ALL: Does = |scene| scene.purge(true);

#[test]
fn in_whatever_order_three_miss_one_fill_shows_all_of_them_the_image() {
    let sky = Flights::new(16);
    let count = explore("three miss", 3, |choices| {
        let scene = Scene::new(&sky, End::Image);
        play(choices, &scene, [("first", ASKS), ("second", ASKS), ("third", ASKS)]);
        assert_eq!((scene.asked(), scene.seen(), scene.held()), (1, (3, 0), Some(1)));
    });
    assert!(count > 1000, "{count}");
}

#[test]
fn in_whatever_order_those_who_miss_hang_up_the_fill_goes_on_and_is_the_only_one() {
    let sky = Flights::new(16);
    let count = explore("two hang up", 3, |choices| {
        let scene = Scene::new(&sky, End::Image);
        play(choices, &scene, [("leaves", HANGS_UP), ("stays", ASKS), ("leaves too", HANGS_UP)]);
        assert_eq!((scene.asked(), scene.seen(), scene.held()), (1, (1, 0), Some(1)));
    });
    assert!(count > 1000, "{count}");
}

#[test]
fn a_fill_that_fails_or_panics_frees_its_ticket_in_whatever_order_others_ask() {
    let sky = Flights::new(16);
    for first in [End::Fails, End::Panics, End::PanicsStoring] {
        let count = explore(&format!("first {first:?}"), 2, |choices| {
            let scene = Scene::new(&sky, first);
            play(choices, &scene, [("first", ASKS), ("second", ASKS), ("third", ASKS)]);
            let (shown, failed) = scene.seen();
            assert!(failed > 0 && shown + failed == 3, "everybody hears of an end: {shown}, {failed}");
            assert_eq!((scene.asked(), scene.held()), if shown > 0 { (2, Some(1)) } else { (1, None) });
            assert!(!scene.is_storing_panic_due.load(SeqCst));
        });
        assert!(count > 200, "{count}");
    }
}

#[test]
fn in_whatever_order_a_ticket_is_purged_and_filled_nobody_who_asks_later_is_shown_what_was_purged_as_fresh() {
    let sky = Flights::new(16);
    // All locks are taken to purge all: those are more steps, and as many schedules with fewer detours.
    for (name, purges, detours) in [("purges", PURGES, 3), ("purges all", PURGES_ALL, 2)] {
        let count = explore(name, detours, |choices| {
            let scene = Scene::new(&sky, End::Image);
            play(choices, &scene, [("first", ASKS), (name, purges), ("second", ASKS)]);
            assert!(scene.held().is_none_or(|version| version == 2), "what was purged is held");
            assert!(scene.asked() <= 2 && scene.seen() == (2, 0));
        });
        assert!(count > 1000, "{count}");
    }
}
