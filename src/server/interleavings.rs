//! Accepting, parking, making room and draining in every order: the door, connections over sockets made up of two buffers, places,
//! hyper between them, and a clock that stands still until time is one of the events. What clients do, and what becomes ready,
//! happens in every order within the bounds.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::FutureExt as _;
use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Runtime;
use tokio::sync::{Notify, mpsc, oneshot};

use super::Timeouts;
use super::connection::Connections;
use super::deadline_io::Readable;
use super::door::{Door, Keeper, Newcomer};
use super::drain::Drain;
use super::listener::Entrance;
use super::places::{Place, Places};
use super::progress::Progress;
use crate::config::Config;
use crate::exchange::{Exchanges, Records};
use crate::fault::Faults;
use crate::fill::Fills;
use crate::fill::interleavings::{cache, filler};
use crate::interleavings::tasks::Tasks;
use crate::interleavings::threads::{Act, run, step, wait_for};
use crate::interleavings::{Choices, explore};
use crate::limit::{ClientConfig, Requests, Trust};
use crate::log::Control;
use crate::peer::{Peer, Scheme};
use crate::proxy::{Proxy, Shared};
use crate::respond::Responder;
use crate::respond::cors::Cors;
use crate::route::Routes;
use crate::via::Via;

const REQUEST: &str = "GET /none HTTP/1.1\r\nHost: a\r\n\r\n";
const HALF: &str = "GET /none HTTP/1.1\r\n";
const OTHER_HALF: &str = "Host: a\r\n\r\n";
const HALF_AND_MORE: &str = "Host: a\r\n\r\nGET /none HTTP/1.1\r\n";

/// Longer than it takes to be parked.
const A_WHILE: Duration = Duration::from_millis(600);

/// Longer than whoever idles may stay once the listener is gone, and than a head may take.
const LONG: Duration = Duration::from_secs(11);

/// The two ends of a connection.
#[derive(Debug, Clone, Default)]
struct Wire(Arc<Mutex<Line>>);

#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is what one end did, or not")]
struct Line {
    /// What the client said, and how much of it was read.
    asked: Vec<u8>,
    read: usize,
    has_hung_up: bool,
    answered: Vec<u8>,
    is_accepted: bool,
    is_closed: bool,
    /// Whether nobody reads: it is waited for something to come.
    is_parked: bool,
    waker: Option<Waker>,
}

/// The server's end.
#[derive(Debug)]
struct Socket(Wire);

fn count(needle: &str, bytes: &[u8]) -> usize {
    std::str::from_utf8(bytes).unwrap().matches(needle).count()
}

impl Wire {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap()
    }

    fn change(&self, change: impl FnOnce(&mut Line)) {
        let mut line = self.line();
        change(&mut line);
        let waker = line.waker.take();
        drop(line);
        waker.into_iter().for_each(Waker::wake);
    }

    fn poll_comes(&self, cx: &Context<'_>, is_parked: bool) -> Poll<MutexGuard<'_, Line>> {
        let mut line = self.line();
        line.is_parked = false;
        if line.read < line.asked.len() || line.has_hung_up {
            return Poll::Ready(line);
        }
        line.is_parked = is_parked;
        line.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Line {
    fn idles_parked(&self) -> bool {
        self.is_parked && !self.is_closed
    }

    /// Nothing is left to do: what was read was answered, and what was not read was not looked at.
    fn check(&self) {
        let read = &self.asked[..self.read];
        let (requests, answers) = (count("\r\n\r\n", read), count("HTTP/1.1 404", &self.answered));
        assert!(answers <= requests, "more answers than requests");
        if self.has_hung_up {
            return;
        }
        assert_eq!(answers, requests, "a request that was read has no answer");
        if self.is_closed {
            assert!(read.is_empty() || read.ends_with(b"\r\n\r\n"), "closed though a part of a request was read");
        } else if self.is_accepted {
            assert_eq!(self.read, self.asked.len(), "what was said lies there");
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.0.line().is_closed = true;
    }
}

impl Readable for Socket {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_comes(cx, true).map(|_| Ok(()))
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.poll_comes(cx, false).map(|mut line| {
            let most = buf.remaining().min(line.asked.len() - line.read);
            buf.put_slice(&line.asked[line.read..line.read + most]);
            line.read += most;
            Ok(())
        })
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.line().answered.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What comes from outside.
#[derive(Debug, Clone, Copy)]
enum Event {
    Connects(usize),
    Says(usize, &'static str),
    HangsUp(usize),
    Passes(Duration),
    PlacesAre(usize),
    DrainBegins,
    /// A mistake of ours is made whenever this one is taken in.
    CostsAMistake(usize),
}
use Event::{Connects, CostsAMistake, DrainBegins, HangsUp, Passes, PlacesAre, Says};

/// What is the same for all schedules.
fn exchanges() -> Arc<Exchanges> {
    static SHARED: OnceLock<(Runtime, Arc<Exchanges>)> = OnceLock::new();
    let build = || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let config = Config::default();
        let filler = filler(cache(), Faults::default());
        let (metrics, clock) = (Arc::clone(&filler.metrics), filler.clock.clone());
        let shared = Shared {
            routes: Routes::new(config.routes.clone()),
            trust: trust(),
            limits: Arc::clone(&filler.limits),
            at_app: Requests::new(usize::MAX, usize::MAX, trust()),
            awaiting: Requests::new(usize::MAX, usize::MAX, trust()),
            strict: config.tickets.strict,
            expired: config.tickets.expired,
            allow: config.tickets.allow,
            cache: Arc::clone(&filler.cache),
            fills: Fills::new(filler, 1, runtime.handle().clone()),
            responder: Responder::new(Cors::new(&config.cors), config.limits.ratelimit_headers),
            clock: clock.clone(),
            via: Via::unique(),
            faults: Faults::default(),
        };
        let proxy = Proxy { shared: Arc::new(shared), forward: None };
        (runtime, Arc::new(Exchanges::new(proxy, Records::new(metrics, clock, Control::default(), None))))
    };
    Arc::clone(&SHARED.get_or_init(build).1)
}

fn trust() -> Trust {
    Trust::new(&ClientConfig::default())
}

struct World {
    places: Arc<Places>,
    connections: Connections,
    drain: Drain,
    closing: Notify,
    clients: Vec<Wire>,
    /// The kernel's queue.
    queue: mpsc::UnboundedSender<usize>,
    /// Whether accepting waits for a place.
    awaits_place: AtomicBool,
    /// Mistakes at the door that were counted, for whom they are made, and how many were made.
    panics: Counter,
    unlucky: AtomicUsize,
    made: AtomicU64,
}

/// Behind the door.
struct Hall<'w> {
    /// Who waits for a place, by its number.
    inside: Vec<Mutex<Option<oneshot::Sender<Place>>>>,
    world: &'w World,
}

impl Hall<'_> {
    fn comes(&self, number: usize) -> Newcomer<usize> {
        self.world.awaits_place.store(true, Ordering::Relaxed);
        Newcomer { stream: number, peer: address(number) }
    }
}

impl Keeper for Hall<'_> {
    type Queue = mpsc::UnboundedReceiver<usize>;
    type Stream = usize;
    const GUESTS: &'static str = "clients";

    async fn next(&self, newcomers: &mut Self::Queue) -> io::Result<Newcomer<usize>> {
        newcomers.recv().await.map(|number| self.comes(number)).ok_or_else(|| io::Error::other("the world is gone"))
    }

    async fn welcome(&self, Newcomer { stream, .. }: Newcomer<usize>, place: Option<Place>) {
        self.world.awaits_place.store(false, Ordering::Relaxed);
        let inside = self.inside[stream].lock().unwrap().take().expect("comes once");
        if self.world.unlucky.load(Ordering::Relaxed) == stream {
            self.world.made.fetch_add(1, Ordering::Relaxed);
            panic!("on purpose");
        }
        assert!(inside.send(place.expect("each has an address of its own")).is_ok(), "it waits for its place");
    }

    fn failed(&self) {
        panic!("the world stands");
    }
}

impl World {
    fn new(places: usize, clients: usize) -> (Self, mpsc::UnboundedReceiver<usize>) {
        let (queue, newcomers) = mpsc::unbounded_channel();
        let drain = Drain::default();
        let exchanges = exchanges();
        let metrics = Arc::clone(&filler(cache(), Faults::default()).metrics);
        let timeouts = Timeouts::default();
        let world = Self {
            places: Places::new(places, clients, trust(), Arc::default()),
            connections: Connections::new(exchanges, timeouts, drain.clone(), metrics, None, None),
            drain,
            closing: Notify::new(),
            clients: (0..clients).map(|_| Wire::default()).collect(),
            queue,
            awaits_place: AtomicBool::default(),
            panics: Counter::default(),
            unlucky: AtomicUsize::new(usize::MAX),
            made: AtomicU64::default(),
        };
        (world, newcomers)
    }

    /// As the listener does.
    async fn accept(&self, mut newcomers: mpsc::UnboundedReceiver<usize>, inside: Vec<oneshot::Sender<Place>>) {
        let inside = inside.into_iter().map(|place| Mutex::new(Some(place))).collect();
        let keeper = Hall { inside, world: self };
        let door = Door { keeper, places: Arc::clone(&self.places), panics: self.panics.clone() };
        let in_hand = door.stand_open(&mut newcomers, self.closing.notified()).await;
        self.drain.lose_listener();
        let queued = std::iter::from_fn(|| newcomers.try_recv().ok()).map(|number| door.keeper.comes(number));
        door.empty(in_hand, queued).await;
    }

    async fn serve(&self, number: usize, door: oneshot::Receiver<Place>) {
        let Ok(place) = door.await else { return };
        let peer = Peer { address: address(number), scheme: Scheme::Http };
        let progress = Progress::start(self.connections.exchanges().tally());
        let socket = Socket(self.clients[number].clone());
        socket.0.line().is_accepted = true;
        self.connections.speak_http1(socket, peer, progress, Entrance::Clear, &place).await;
    }

    async fn happens(&self, event: Event) {
        match event {
            // Nobody comes where nobody listens.
            Connects(number) => drop(self.queue.send(number)),
            Says(number, what) => self.clients[number].change(|line| line.asked.extend_from_slice(what.as_bytes())),
            HangsUp(number) => self.clients[number].change(|line| line.has_hung_up = true),
            Passes(time) => tokio::time::advance(time).await,
            CostsAMistake(number) => self.unlucky.store(number, Ordering::Relaxed),
            PlacesAre(all) => self.places.resize(all, self.clients.len(), trust()),
            DrainBegins => {
                self.drain.announce();
                self.closing.notify_one();
            }
        }
    }

    /// Runs `lanes` of events, each in its order, in an order of `choices`.
    async fn play(&self, tasks: &mut Tasks<'_>, choices: &mut Choices, lanes: &[&[Event]]) {
        let mut lanes: Vec<VecDeque<Event>> = lanes.iter().map(|lane| lane.iter().copied().collect()).collect();
        loop {
            let woken = tasks.woken();
            let next: Vec<_> = (0..lanes.len()).filter(|lane| !lanes[*lane].is_empty()).collect();
            if woken.is_empty() {
                self.check();
                if next.is_empty() {
                    return;
                }
            }
            let choice = choices.choose(woken.len() + next.len(), woken.is_empty());
            if let Some(task) = woken.get(choice) {
                choices.tell(format!("{} goes on", tasks.name(*task)));
                tasks.poll(*task);
            } else {
                let event = lanes[next[choice - woken.len()]].pop_front().expect("is not empty");
                choices.tell(format!("{event:?}"));
                self.happens(event).await;
            }
        }
    }

    /// What holds whenever nobody has anything to do.
    fn check(&self) {
        self.clients.iter().for_each(|client| client.line().check());
        let parked = self.clients.iter().any(|client| client.line().idles_parked());
        assert_eq!(self.panics.get(), self.made.load(Ordering::Relaxed), "mistakes at the door, counted and made");
        assert!(
            !(self.awaits_place.load(Ordering::Relaxed) && parked),
            "a place is waited for, and one that idles keeps its own"
        );
    }

    fn all_hang_up(&self) -> Vec<Event> {
        (0..self.clients.len()).map(HangsUp).collect()
    }
}

fn address(number: usize) -> SocketAddr {
    (Ipv4Addr::new(203, 0, 113, u8::try_from(number).unwrap()), 1).into()
}

/// What is the same in all schedules of a story: it begins with `before`, in that order.
struct Story<'a> {
    name: &'a str,
    detours: usize,
    places: usize,
    clients: usize,
    before: &'a [Event],
    lanes: &'a [&'a [Event]],
    after: &'a [Event],
}

impl Story<'_> {
    /// Explores it; `end` looks at each end, and at what still runs there.
    fn explore(&self, end: impl Fn(&World, &[&str])) -> usize {
        let mut time = tokio::runtime::Builder::new_current_thread();
        explore(self.name, self.detours, |choices| {
            let runtime = time.enable_time().start_paused(true).build().unwrap();
            runtime.block_on(self.run(choices, &end));
        })
    }

    async fn run(&self, choices: &mut Choices, end: &impl Fn(&World, &[&str])) {
        let (world, newcomers) = World::new(self.places, self.clients);
        let (inside, waiting): (Vec<_>, Vec<_>) = (0..self.clients).map(|_| oneshot::channel()).unzip();
        let mut tasks = Tasks::default();
        tasks.spawn("accepting", world.accept(newcomers, inside));
        for (number, door) in waiting.into_iter().enumerate() {
            tasks.spawn(format!("connection {number}"), world.serve(number, door));
        }
        world.play(&mut tasks, &mut Choices::default(), &[self.before]).await;
        world.play(&mut tasks, choices, self.lanes).await;
        world.play(&mut tasks, &mut Choices::default(), &[self.after]).await;
        end(&world, &tasks.running());
        choices.tell("the end");
        world.play(&mut tasks, &mut Choices::default(), &[&world.all_hang_up(), &[Passes(LONG)]]).await;
        let running = tasks.running();
        assert!(running.iter().all(|name| *name == "accepting"), "{running:?}");
        drop(tasks);
        let all = &world.places;
        let free: Vec<_> = (0..99).map_while(|number| all.take(address(number).ip()).now_or_never()?).collect();
        let resized = self.lanes.iter().copied().flatten().find_map(|event| match event {
            PlacesAre(all) => Some(*all),
            _ => None,
        });
        assert_eq!(free.len(), resized.unwrap_or(self.places), "a place is lost");
    }
}

/// A client comes, asks, and idles.
const fn asks(number: usize) -> [Event; 3] {
    [Connects(number), Says(number, REQUEST), Passes(A_WHILE)]
}

#[test]
fn in_whatever_pieces_and_pauses_requests_come_every_one_is_answered() {
    let story = Story {
        name: "pieces and pauses",
        detours: 2,
        places: 2,
        clients: 1,
        before: &[Connects(0)],
        lanes: &[
            &[Says(0, REQUEST), Says(0, HALF), Says(0, HALF_AND_MORE), Says(0, OTHER_HALF)],
            &[Passes(A_WHILE), Passes(A_WHILE), Passes(A_WHILE), Passes(A_WHILE)],
        ],
        after: &[],
    };
    let count = story.explore(|world, _| {
        let line = world.clients[0].line();
        assert_eq!((count("HTTP/1.1 404", &line.answered), line.is_closed), (3, false));
    });
    assert!(count > 1000, "{count}");
}

#[test]
fn while_one_idles_nobody_waits_for_a_place_and_what_is_said_just_then_is_answered_or_left_unread() {
    let before = [&asks(0)[..], &asks(1)[..]].concat();
    let story = Story {
        name: "making room",
        detours: 1,
        places: 2,
        clients: 4,
        before: &before,
        lanes: &[&[Connects(2), Says(2, HALF)], &[Says(0, REQUEST)], &[HangsUp(1)], &[Connects(3), Says(3, REQUEST)]],
        after: &[],
    };
    let count = story.explore(|_, _| {});
    assert!(count > 1000, "{count}");
}

#[test]
fn where_places_become_fewer_nobody_waits_for_one_while_another_idles() {
    let before = [&asks(0)[..], &asks(1)[..], &asks(2)[..]].concat();
    let story = Story {
        name: "fewer places",
        detours: 2,
        places: 4,
        clients: 4,
        before: &before,
        lanes: &[&[PlacesAre(2)], &[Connects(3), Says(3, REQUEST)], &[Says(1, REQUEST), Passes(A_WHILE)]],
        after: &[],
    };
    let count = story.explore(|_, _| {});
    assert!(count > 500, "{count}");
}

#[test]
fn a_drain_ends_in_whatever_order_its_clients_ask_or_come() {
    let before = [&asks(0)[..], &asks(1)[..]].concat();
    let story = Story {
        name: "drain",
        detours: 2,
        places: 3,
        clients: 3,
        before: &before,
        lanes: &[&[DrainBegins, Passes(Duration::from_secs(1))], &[Connects(2), Says(2, REQUEST)], &[Says(0, REQUEST)]],
        // A client that said nothing is listened to a little longer.
        after: &[Passes(LONG), Passes(LONG)],
    };
    let count = story.explore(|_, running| assert!(running.is_empty(), "{running:?} are left"));
    assert!(count > 1000, "{count}");
}

#[test]
fn a_mistake_while_one_is_taken_in_costs_that_one_alone_in_whatever_order_others_come_or_a_drain_does() {
    let before = [&asks(0)[..], &asks(1)[..], &[CostsAMistake(2)]].concat();
    let story = Story {
        name: "a mistake at the door",
        detours: 2,
        places: 2,
        clients: 4,
        before: &before,
        lanes: &[
            &[Connects(2), Says(2, REQUEST)],
            &[Connects(3), Says(3, REQUEST)],
            &[DrainBegins, Passes(Duration::from_secs(1))],
        ],
        after: &[Passes(LONG), Passes(LONG)],
    };
    let made = Cell::new(0);
    let count = story.explore(|world, running| {
        assert!(running.is_empty(), "{running:?} are left");
        made.set(made.get() + world.made.load(Ordering::Relaxed));
        assert!(world.clients[2].line().answered.is_empty() && !world.clients[2].line().is_accepted);
        let other = world.clients[3].line();
        assert!(!other.is_accepted || count("HTTP/1.1 404", &other.answered) == 1, "who comes beside it is served");
    });
    assert!(count > 100 && made.get() > 100, "{count}, {}", made.get());
}

/// Below what polls can tell: accepting and those who idle are threads.
#[test]
fn whoever_idles_hears_that_a_place_is_awaited_whatever_comes_in_between() {
    let time = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let count = explore("places by threads", 3, |choices| {
        // Its clock is never wound: nobody is asked twice.
        let _time = time.enter();
        let places = Places::new(3, 9, trust(), Arc::default());
        let place = |number| places.take(address(number).ip()).now_or_never().flatten().expect("there is one");
        let [idle, asking, ending] = [1, 2, 3].map(place);
        let over = Arc::new(Notify::new());
        let (waits, is_over, handle) = (Arc::clone(&places), Arc::clone(&over), time.handle().clone());
        let accepts: Act = Box::new(move || {
            let _time = handle.enter();
            let held = [4, 5].map(|number| wait_for(waits.take(address(number).ip())));
            is_over.notify_one();
            drop(held);
        });
        let idles: Act = Box::new(move || {
            wait_for(async {
                tokio::select! {
                    biased;
                    () = idle.is_needed() => {}
                    () = over.notified() => {}
                }
            });
        });
        let kept = Arc::new(Mutex::new(None));
        let keeps = Arc::clone(&kept);
        let asks: Act = Box::new(move || {
            let is_needed = {
                let mut needed = std::pin::pin!(asking.is_needed());
                let is_needed = needed.as_mut().now_or_never().is_some();
                step();
                // A request comes, whether it was told in the meantime or not.
                is_needed
            };
            *keeps.lock().unwrap() = (!is_needed).then_some(asking);
        });
        let ends: Act = Box::new(move || drop(ending));
        run(choices, vec![("idles", idles), ("asks", asks), ("accepts", accepts), ("ends", ends)]);
    });
    assert!(count > 1000, "{count}");
}
