//! The thread that writes: takes orders from the queue, commits what has come in batches, and keeps what cannot be written now.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::file::{Failure, File};
use super::{NoStore, NotKept, QUEUE, Record, Wanted};
use crate::cache::{Cache, Rank};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::moment::Tick;

/// Tickets of one commit, but for the last registration in it.
const BATCH: usize = 4096;

/// Tickets that wait for a file to be writable again; the oldest are dropped.
const MOST_PENDING: usize = 65_536;

/// How often the file is tidied.
const TIDY_EVERY: Duration = Duration::from_secs(3600);

/// From a failure to the next attempt; doubled up to the other.
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// The same while another process holds the file.
const WHILE_HELD: Duration = Duration::from_millis(100);

/// Attempts at the end to write what still waits: a candidate of no use may hold the file for a moment.
const LAST_ATTEMPTS: u32 = 20;

/// Whoever waits for a commit.
type Waiter = oneshot::Sender<Result<(), NotKept>>;

/// What the thread is told.
pub(super) enum Order {
    /// To write these; whoever waits wants all of them written now, or none.
    Keep(Vec<Record>, Option<Waiter>),
    /// To look for wishes.
    Look,
}

/// What the thread finds beside the queue, which may be full.
#[derive(Default)]
pub(super) struct Beside {
    wishes: Mutex<Wishes>,
    /// All own tickets, for a file that is begun anew.
    pub(super) known: OnceLock<Arc<Cache>>,
    /// Whether it was said that tickets are dropped.
    dropping: AtomicBool,
}

/// Met once what was queued before is taken.
#[derive(Default)]
pub(super) struct Wishes {
    /// The last one counts.
    pub(super) place: Option<Wish>,
    /// To end.
    pub(super) close: Option<SyncSender<()>>,
}

/// Where tickets are to go.
pub(super) enum Wish {
    /// To let go of the file.
    LetGo(SyncSender<()>),
    /// To open it again.
    TakeBack,
    /// To tell a successor from now on.
    HandOver(Box<dyn Write + Send>),
}

impl Beside {
    pub(super) fn wishes(&self) -> MutexGuard<'_, Wishes> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Said once, until the file is open again or tidied.
    pub(super) fn say_dropped(&self) {
        if !self.dropping.swap(true, Ordering::Relaxed) {
            tracing::error!("own tickets are lost at the next restart: more wait to be written than are kept");
        }
    }

    fn forget_dropped(&self) {
        self.dropping.store(false, Ordering::Relaxed);
    }
}

/// Where tickets go.
enum Place {
    Open(File),
    /// The file fails.
    Failing(Retry),
    /// A successor may be opening it.
    LetGo,
    Successor(Box<dyn Write + Send>),
}

struct Retry {
    due: Tick,
    wait: Duration,
    why: NotKept,
}

/// What a file that was begun anew does not have yet of all that is known: those after this one.
struct Lacking(Option<Rank>);

/// The thread's state.
pub(super) struct Writer {
    place: Place,
    wanted: Wanted,
    pending: VecDeque<Record>,
    waiters: Vec<(Vec<Record>, Waiter)>,
    tidied: Tick,
    beside: Arc<Beside>,
    lacking: Option<Lacking>,
    clock: Clock,
    metrics: Arc<Metrics>,
}

impl Writer {
    /// Writes to `file`, or opens it later when there is none yet.
    pub(super) fn new(
        file: Result<File, NoStore>,
        wanted: Wanted,
        beside: Arc<Beside>,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Self {
        let tidied = clock.tick();
        let (pending, waiters, lacking) = (VecDeque::new(), Vec::new(), None);
        let place = Place::LetGo;
        let mut writer = Self { place, wanted, pending, waiters, tidied, beside, lacking, clock, metrics };
        match file {
            Ok(file) => writer.place = Place::Open(file),
            Err(error) => writer.fail(error.into(), FIRST_RETRY),
        }
        writer
    }

    /// Works until it is told to end, or nobody is left to tell it.
    pub(super) fn run(mut self, orders: &Receiver<Order>) {
        loop {
            match orders.recv_timeout(self.patience()) {
                Ok(order) => self.take_all(order, orders),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.write_the_rest(),
            }
            if let Some(closed) = self.grant(orders) {
                drop(self);
                let _ = closed.send(());
                return;
            }
            self.write();
            self.refill();
            self.tidy();
        }
    }

    /// Takes `order` and what has come since, up to a batch.
    fn take_all(&mut self, order: Order, orders: &Receiver<Order>) {
        let mut next = Some(order);
        let mut taken = 0;
        while let Some(order) = next {
            if let Order::Keep(records, waiter) = order {
                taken += records.len();
                self.take(records, waiter);
            }
            next = if taken < BATCH { orders.try_recv().ok() } else { None };
        }
    }

    /// Meets the wishes that there are; returns whom to tell of the end, if that is one.
    fn grant(&mut self, orders: &Receiver<Order>) -> Option<SyncSender<()>> {
        let Wishes { place, close } = std::mem::take(&mut *self.beside.wishes());
        if place.is_some() || close.is_some() {
            for order in orders.try_iter().take(QUEUE) {
                if let Order::Keep(records, waiter) = order {
                    self.take(records, waiter);
                }
            }
        }
        match place {
            None => {}
            Some(Wish::LetGo(done)) => {
                self.write();
                while self.refill() {}
                self.place = Place::LetGo;
                let _ = done.send(());
            }
            Some(Wish::TakeBack) => self.take_back(),
            Some(Wish::HandOver(successor)) => self.place = Place::Successor(successor),
        }
        close.inspect(|_| self.write_the_rest())
    }

    fn take(&mut self, records: Vec<Record>, waiter: Option<Waiter>) {
        match waiter {
            Some(waiter) => self.waiters.push((records, waiter)),
            None => self.pending.extend(records),
        }
        while self.pending.len() > MOST_PENDING {
            self.pending.pop_front();
            self.metrics.store_dropped.inc();
            self.beside.say_dropped();
        }
    }

    fn take_back(&mut self) {
        if matches!(self.place, Place::LetGo) {
            self.place = Place::Failing(Retry { due: self.clock.tick(), wait: FIRST_RETRY, why: NotKept::HandedOver });
        }
    }

    /// For the next order.
    fn patience(&self) -> Duration {
        match &self.place {
            Place::Failing(retry) => retry.due.since(self.clock.tick()).max(Duration::from_millis(1)),
            Place::Open(_) if self.lacking.is_some() => Duration::ZERO,
            _ => TIDY_EVERY,
        }
    }

    fn write(&mut self) {
        self.open_again();
        match &mut self.place {
            Place::Open(_) => self.commit(),
            Place::Failing(Retry { why, .. }) => {
                let why = why.clone();
                self.refuse(&why);
            }
            Place::LetGo => self.refuse(&NotKept::HandedOver),
            Place::Successor(_) => {
                self.refuse(&NotKept::HandedOver);
                self.tell_successor();
            }
        }
    }

    fn commit(&mut self) {
        let Place::Open(file) = &mut self.place else { return };
        if self.pending.is_empty() && self.waiters.is_empty() {
            return;
        }
        let registered = self.waiters.iter().flat_map(|(records, _)| records);
        match file.write(self.pending.iter().chain(registered), self.clock.now().wall) {
            Ok(()) => {
                self.pending.clear();
                self.waiters.drain(..).for_each(|(_, waiter)| drop(waiter.send(Ok(()))));
            }
            Err(failure) => self.fail(failure.into(), FIRST_RETRY),
        }
    }

    /// Writes the next batch of what a file that was begun anew lacks; returns whether there may be more.
    fn refill(&mut self) -> bool {
        let (Place::Open(file), Some(Lacking(after))) = (&mut self.place, &self.lacking) else { return false };
        let now = self.clock.now();
        let batch = self.beside.known.get().map(|cache| cache.own_after(*after, BATCH)).unwrap_or_default();
        let records: Vec<Record> = batch.iter().map(|(_, ticket, expiry)| Record::new(ticket, *expiry)).collect();
        match file.write(records.iter(), now.wall) {
            Ok(()) => self.lacking = batch.last().map(|(rank, ..)| Lacking(Some(*rank))),
            Err(failure) => self.fail(failure.into(), FIRST_RETRY),
        }
        self.lacking.is_some() && matches!(self.place, Place::Open(_))
    }

    /// The file cannot be used: said once, until the reason changes.
    fn fail(&mut self, why: NotKept, wait: Duration) {
        self.metrics.store_failures.inc();
        self.refuse(&why);
        let is_known = matches!(&self.place, Place::Failing(retry) if retry.why == why);
        if !is_known {
            let (path, waiting) = (self.wanted.path.display(), self.pending.len());
            tracing::error!(%path, waiting, "{why}; it is tried again, and goes on serving");
        }
        self.place = Place::Failing(self.retry(wait, why));
    }

    fn retry(&self, wait: Duration, why: NotKept) -> Retry {
        Retry { due: self.clock.tick() + wait, wait: (wait * 2).min(LAST_RETRY), why }
    }

    fn refuse(&mut self, why: &NotKept) {
        self.waiters.drain(..).for_each(|(_, waiter)| drop(waiter.send(Err(why.clone()))));
    }

    /// Opens a file that could not be used, when that is due.
    fn open_again(&mut self) {
        let Place::Failing(Retry { due, wait, why }) = &self.place else { return };
        if *due > self.clock.tick() {
            return;
        }
        let (wait, why) = (*wait, why.clone());
        match File::open(&self.wanted, self.clock.now().wall) {
            Ok(file) => {
                let path = self.wanted.path.display();
                tracing::info!(%path, "the file of own tickets is open again");
                if file.is_new() {
                    self.lacking = Some(Lacking(None));
                }
                self.place = Place::Open(file);
                self.beside.forget_dropped();
            }
            // A candidate that is of no use is about to end.
            Err(NoStore::Held(..)) => self.place = Place::Failing(self.retry(WHILE_HELD, why)),
            Err(error) => self.fail(error.into(), wait),
        }
    }

    fn tell_successor(&mut self) {
        let Place::Successor(successor) = &mut self.place else { return };
        let told = tell(successor, &self.pending);
        match told {
            Ok(()) => self.pending.clear(),
            // It has ended; another process may hold the file.
            Err(error) => self.fail(NotKept::Failed(format!("the successor is gone: {error}")), FIRST_RETRY),
        }
    }

    fn tidy(&mut self) {
        let (now, Place::Open(file)) = (self.clock.now(), &mut self.place) else { return };
        if now.tick.since(self.tidied) >= TIDY_EVERY {
            self.tidied = now.tick;
            self.beside.forget_dropped();
            if let Err(failure) = file.tidy(now.wall) {
                self.fail(failure.into(), FIRST_RETRY);
            }
        }
    }

    /// The last chance of what waits.
    fn write_the_rest(&mut self) {
        for _ in 0..LAST_ATTEMPTS {
            match &mut self.place {
                Place::LetGo => self.take_back(),
                Place::Failing(retry) => retry.due = self.clock.tick(),
                Place::Open(_) | Place::Successor(_) => {}
            }
            self.write();
            while self.refill() {}
            if self.pending.is_empty() && self.lacking.is_none() {
                return;
            }
            std::thread::sleep(WHILE_HELD);
        }
        self.metrics.store_dropped.inc_by(self.pending.len() as u64);
        tracing::error!(tickets = self.pending.len(), "own tickets are lost: they could not be written before the end");
    }
}

fn tell<'a>(whom: &mut impl Write, records: impl IntoIterator<Item = &'a Record>) -> io::Result<()> {
    for record in records {
        whom.write_all(record.line().as_bytes())?;
    }
    whom.flush()
}

/// Tells `whom` all `news`, until it has ended or there are none any more.
pub(super) fn tell_all(mut whom: impl Write, news: &Receiver<Vec<Record>>) {
    while let Ok(records) = news.recv()
        && tell(&mut whom, &records).is_ok()
    {}
}

impl From<Failure> for NotKept {
    fn from(failure: Failure) -> Self {
        failure.into_io().into()
    }
}

impl From<NoStore> for NotKept {
    fn from(error: NoStore) -> Self {
        match error {
            NoStore::Unusable(_, error) => error.into(),
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<io::Error> for NotKept {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                Self::Full(error.to_string())
            }
            _ => Self::Failed(error.to_string()),
        }
    }
}
