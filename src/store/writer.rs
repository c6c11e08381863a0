//! The thread that writes: takes orders from the queue, commits what has come in batches, and keeps what cannot be written now.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::oneshot;

use super::file::{Failure, File};
use super::{NoStore, NotKept, Record, Wanted};
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
    /// To let go of the file.
    LetGo(SyncSender<()>),
    /// To open it again.
    TakeBack,
    /// To tell a successor from now on.
    HandOver(Box<dyn Write + Send>),
    /// To end.
    Close(SyncSender<()>),
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
    dropped: bool,
    tidied: Tick,
    known: Arc<OnceLock<Arc<Cache>>>,
    lacking: Option<Lacking>,
    clock: Clock,
    metrics: Arc<Metrics>,
}

impl Writer {
    pub(super) fn new(
        file: File,
        wanted: Wanted,
        known: Arc<OnceLock<Arc<Cache>>>,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (place, tidied) = (Place::Open(file), clock.tick());
        let (pending, waiters, dropped, lacking) = (VecDeque::new(), Vec::new(), false, None);
        Self { place, wanted, pending, waiters, dropped, tidied, known, lacking, clock, metrics }
    }

    /// Works until it is told to end, or nobody is left to tell it.
    pub(super) fn run(mut self, orders: &Receiver<Order>) {
        loop {
            match orders.recv_timeout(self.patience()) {
                Ok(order) => {
                    if let Some(closed) = self.obey(order, orders) {
                        drop(self);
                        let _ = closed.send(());
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.write_the_rest(),
            }
            self.write();
            self.refill();
            self.tidy();
        }
    }

    /// Takes `order` and what has come since, up to a batch.
    fn obey(&mut self, order: Order, orders: &Receiver<Order>) -> Option<SyncSender<()>> {
        let mut next = Some(order);
        let mut taken = 0;
        while let Some(order) = next {
            match order {
                Order::Keep(records, waiter) => {
                    taken += records.len();
                    self.take(records, waiter);
                }
                Order::LetGo(done) => {
                    self.write();
                    while self.refill() {}
                    self.place = Place::LetGo;
                    let _ = done.send(());
                }
                Order::TakeBack => self.take_back(),
                Order::HandOver(successor) => self.place = Place::Successor(successor),
                Order::Close(done) => {
                    self.write_the_rest();
                    return Some(done);
                }
            }
            next = if taken < BATCH { orders.try_recv().ok() } else { None };
        }
        None
    }

    fn take(&mut self, records: Vec<Record>, waiter: Option<Waiter>) {
        match waiter {
            Some(waiter) => self.waiters.push((records, waiter)),
            None => self.pending.extend(records),
        }
        while self.pending.len() > MOST_PENDING {
            self.pending.pop_front();
            self.metrics.store_dropped.inc();
            if !std::mem::replace(&mut self.dropped, true) {
                tracing::error!("own tickets are lost at the next restart: more wait to be written than are kept");
            }
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
        let batch = self.known.get().map(|cache| cache.own_after(*after, BATCH)).unwrap_or_default();
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
                (self.place, self.dropped) = (Place::Open(file), false);
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

fn tell(successor: &mut Box<dyn Write + Send>, records: &VecDeque<Record>) -> io::Result<()> {
    for record in records {
        successor.write_all(record.line().as_bytes())?;
    }
    successor.flush()
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
