//! Own tickets that survive a restart (S36): an embedded file, written by one thread of its own behind a bounded queue. Whoever
//! serves never waits for a disk; whoever registers can wait until it is surely written. A disk that fails is never fatal: what
//! was learned waits, within a bound, and is written when that succeeds again.
//!
//! The file belongs to one process at a time. For a successor it is let go of, and what is learned meanwhile waits for how that
//! ends: it is told to the successor, or written here after all. What the successor learns it tells us: whoever still has a connection
//! here is shown that too.

mod file;
pub(crate) mod record;
mod writer;

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use file::File;
pub use record::{End, Record, read_lines};
use rustix::fs::{Access, access};
use tokio::sync::oneshot;
use writer::{Beside, Order, Wish, Writer};

use crate::cache::Cache;
use crate::clock::Clock;
use crate::metrics::Metrics;

/// The key that names the file.
const KEY: &str = "tickets.store";

/// Orders that wait for the thread: each holds one ticket, or those of one registration.
const QUEUE: usize = 4096;

/// What was learned at one time and waits for a predecessor to hear of it.
const NEWS: usize = 4096;

/// For the thread to write what is queued and to let go.
const LET_GO_WITHIN: Duration = Duration::from_secs(10);

/// How long to wait for another process to let go of the file: as long as a predecessor may drain.
pub const OPEN_WITHIN: Duration = Duration::from_secs(60);

/// Where tickets are kept, and how many.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The file.
    pub path: PathBuf,
    /// Tickets in it: the earliest to end goes first.
    pub most: usize,
    /// For another process to let go of it.
    pub patience: Duration,
}

/// A store at work. Dropping the last one ends its thread.
pub struct Store {
    orders: SyncSender<Order>,
    beside: Arc<Beside>,
    metrics: Arc<Metrics>,
    thread: Mutex<Option<JoinHandle<()>>>,
    let_go_within: Duration,
    /// To the thread that tells a predecessor, if there was one.
    predecessor: OnceLock<SyncSender<Vec<Record>>>,
}

/// Why there is no store.
#[derive(Debug)]
pub enum NoStore {
    /// The file cannot be opened, and waiting would not help.
    Unusable(PathBuf, io::Error),
    /// Another process holds it.
    Held(PathBuf, Duration),
    /// It is damaged, and cannot be set aside.
    Damaged(PathBuf, String, io::Error),
    /// The system gives no thread.
    Thread(io::Error),
}

/// Why tickets are not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotKept {
    /// A successor has the file, or is being started.
    HandedOver,
    /// More wait already than the disk takes.
    Busy,
    /// There is no room on the disk.
    Full(String),
    /// It cannot be written for another reason.
    Failed(String),
}

impl Store {
    /// Opens the file, sets it aside when it is damaged, and reads it: the newest ticket first. One that is damaged and cannot be set
    /// aside is tried again later. Blocks, for `patience` when another process holds the file.
    pub fn open(wanted: Wanted, clock: Clock, metrics: Arc<Metrics>) -> Result<(Self, Vec<Record>), NoStore> {
        let (file, records) = match open_and_read(&wanted, &clock) {
            Ok((file, records)) => (Ok(file), records),
            Err(damaged @ NoStore::Damaged(..)) => (Err(damaged), Vec::new()),
            Err(other) => return Err(other),
        };
        let (orders, queue) = mpsc::sync_channel(QUEUE);
        let beside = Arc::<Beside>::default();
        let writer = Writer::new(file, wanted, Arc::clone(&beside), clock, Arc::clone(&metrics));
        let thread = std::thread::Builder::new().name("ticketgate-store".to_owned()).spawn(move || writer.run(&queue));
        let thread = Mutex::new(Some(thread.map_err(NoStore::Thread)?));
        let (let_go_within, predecessor) = (LET_GO_WITHIN, OnceLock::new());
        Ok((Self { orders, beside, metrics, thread, let_go_within, predecessor }, records))
    }

    /// From now on a file that has to be begun anew gets every own ticket that `cache` knows; only the first call counts.
    pub fn refill_from(&self, cache: Arc<Cache>) {
        let _ = self.beside.known.set(cache);
    }

    /// Has `record` written soon. Never waits: where too many wait already it is counted and dropped, which is said once.
    pub fn remember(&self, record: Record) {
        self.tell_back(|| vec![record.clone()]);
        if self.orders.try_send(Order::Keep(vec![record], None)).is_err() {
            self.metrics.store_dropped.inc();
            self.beside.say_dropped();
        }
    }

    /// The same, by somebody who may wait for room in the queue: blocks.
    pub fn remember_patiently(&self, record: Record) {
        if self.orders.send(Order::Keep(vec![record], None)).is_err() {
            self.metrics.store_dropped.inc();
        }
    }

    /// Writes `records`, all or none, and returns when that has been done. Dropping the future gives up waiting alone.
    pub async fn keep(&self, records: Vec<Record>) -> Result<(), NotKept> {
        let (done, wait) = oneshot::channel();
        match self.orders.try_send(Order::Keep(records.clone(), Some(done))) {
            Ok(()) => wait.await.unwrap_or(Err(NotKept::HandedOver))?,
            Err(TrySendError::Full(_)) => return Err(NotKept::Busy),
            Err(TrySendError::Disconnected(_)) => return Err(NotKept::HandedOver),
        }
        self.tell_back(|| records);
        Ok(())
    }

    /// Tells what is learned or registered to `predecessor` from now on, which reads [lines](read_lines), until that has ended. One
    /// that does not listen keeps nobody: what it does not take within a bound it is not told. Only the first call counts.
    pub fn tell_predecessor(&self, predecessor: impl Write + Send + 'static) -> io::Result<()> {
        let (sender, news) = mpsc::sync_channel(NEWS);
        let tell = move || writer::tell_all(predecessor, &news);
        std::thread::Builder::new().name("ticketgate-news".to_owned()).spawn(tell)?;
        let _ = self.predecessor.set(sender);
        Ok(())
    }

    /// Tells a predecessor what a successor has learned.
    pub fn pass_back(&self, record: Record) {
        self.tell_back(|| vec![record]);
    }

    fn tell_back(&self, records: impl FnOnce() -> Vec<Record>) {
        if let Some(predecessor) = self.predecessor.get() {
            let _ = predecessor.try_send(records());
        }
    }

    /// Writes what is queued and lets go of the file, for a successor to open it. Blocks, within a bound.
    pub fn let_go(&self) {
        let (done, wait) = mpsc::sync_channel(1);
        self.wish(Wish::LetGo(done));
        let _ = wait.recv_timeout(self.let_go_within);
    }

    /// Opens the file again: there is no successor.
    pub fn take_back(&self) {
        self.wish(Wish::TakeBack);
    }

    /// Tells what is learned to `successor` from now on, which reads [lines](read_lines).
    pub fn hand_over(&self, successor: Box<dyn Write + Send>) {
        self.wish(Wish::HandOver(successor));
    }

    fn wish(&self, wish: Wish) {
        self.beside.wishes().place = Some(wish);
        self.wake();
    }

    /// Where the queue is full the thread is awake, or comes to it once the disk lets it.
    fn wake(&self) {
        let _ = self.orders.try_send(Order::Look);
    }

    /// Writes what is queued, lets go of the file and ends the thread; whatever is learned later is lost. Blocks, within a bound.
    pub fn close(&self) {
        let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let (done, wait) = mpsc::sync_channel(1);
        self.beside.wishes().close = Some(done);
        self.wake();
        if wait.recv_timeout(self.let_go_within).is_err() {
            tracing::error!("own tickets that were not written yet are lost: the disk takes too long");
            return;
        }
        let _ = thread.join();
    }
}

fn open_and_read(wanted: &Wanted, clock: &Clock) -> Result<(File, Vec<Record>), NoStore> {
    let mut file = File::open_patiently(wanted, clock)?;
    let unreadable = |error| NoStore::Unusable(wanted.path.clone(), error);
    let records = file.read(clock.now().wall).map_err(|failure| unreadable(failure.into_io()))?;
    Ok((file, records))
}

/// Whether this user may put another file in the place of one at `path` that is damaged.
pub fn check_directory(path: &Path) -> io::Result<()> {
    Ok(access(directory(path), Access::WRITE_OK | Access::EXEC_OK)?)
}

/// Whether there could be a store in the file at `path`, as far as can be seen without opening or writing it.
pub fn check(path: &Path) -> Result<(), NoStore> {
    let unusable = |error: io::Error| NoStore::Unusable(path.to_owned(), error);
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(unusable(io::ErrorKind::IsADirectory.into())),
        Ok(_) => access(path, Access::READ_OK | Access::WRITE_OK).map_err(|error| unusable(error.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => check_directory(path).map_err(unusable),
        Err(error) => Err(unusable(error)),
    }
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

impl fmt::Display for NoStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unusable(path, error) => {
                let directory = directory(path).display();
                let mend = match error.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                        format!("create the directory {directory}, or name another file")
                    }
                    io::ErrorKind::PermissionDenied => {
                        format!("let this user read and write the file, and write to {directory}")
                    }
                    io::ErrorKind::ReadOnlyFilesystem => "name a file on a disk that can be written".to_owned(),
                    io::ErrorKind::IsADirectory => "name a file in it".to_owned(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room on the disk".to_owned(),
                    _ => "mend the disk, or name another file".to_owned(),
                };
                write!(f, "{KEY}: {} cannot be opened: {error}; {mend}", path.display())
            }
            Self::Held(path, patience) => {
                let (path, patience) = (path.display(), humantime::format_duration(*patience));
                write!(
                    f,
                    "{KEY}: {path} is still held by another process after {patience}; end that, or name another file"
                )
            }
            Self::Damaged(path, why, error) => {
                let (path, directory) = (path.display(), directory(path).display());
                write!(
                    f,
                    "{KEY}: {path} is damaged ({why}) and cannot be set aside: {error}; let this user write to {directory}, which \
                     has to be mounted as a whole where it is"
                )
            }
            Self::Thread(error) => write!(f, "{KEY}: the system gives no thread: {error}"),
        }
    }
}

impl std::error::Error for NoStore {}

impl fmt::Display for NotKept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HandedOver => f.write_str("a successor is taking over; send it again in a moment"),
            Self::Busy => f.write_str("more tickets wait to be written than the disk takes; send it again in a moment"),
            Self::Full(why) => write!(f, "the file of own tickets ({KEY}) has no room: {why}"),
            Self::Failed(why) => write!(f, "the file of own tickets ({KEY}) cannot be written: {why}"),
        }
    }
}

impl std::error::Error for NotKept {}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::Receiver;

    use tempfile::TempDir;

    use super::*;
    use crate::cache;
    use crate::moment::Wall;
    use crate::ticket::Ticket;

    /// A successor that keeps what it is told, or is gone.
    struct Successor(Option<mpsc::Sender<Vec<u8>>>);

    impl Write for Successor {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let told = self.0.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
            told.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn record(number: u32) -> Record {
        Record { ticket: Ticket::from_text(&format!("ticket{number}")).unwrap(), end: None }
    }

    fn open(directory: &TempDir) -> (Store, Vec<Record>) {
        let path = directory.path().join("own.redb");
        let wanted = Wanted { path, most: 1000, patience: Duration::from_secs(20) };
        Store::open(wanted, Clock::system(), Metrics::new(Wall::from_unix(0))).unwrap()
    }

    fn held(directory: &TempDir) -> Vec<Record> {
        let (store, records) = open(directory);
        store.close();
        records
    }

    fn said(told: &Receiver<Vec<u8>>) -> Vec<u8> {
        told.recv_timeout(Duration::from_secs(20)).expect("a line in time")
    }

    #[tokio::test]
    async fn what_was_said_to_be_kept_is_there_and_so_is_what_was_queued() {
        let directory = TempDir::new().unwrap();
        let (store, before) = open(&directory);
        assert!(before.is_empty());
        assert_eq!(store.keep(vec![record(0), record(1)]).await, Ok(()));
        (2..100).for_each(|number| store.remember(record(number)));
        store.close();
        assert_eq!(store.keep(vec![record(100)]).await, Err(NotKept::HandedOver));
        assert_eq!(held(&directory), (0..100).rev().map(record).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn what_is_learned_while_a_candidate_has_the_file_is_written_when_there_is_no_successor() {
        let directory = TempDir::new().unwrap();
        let (store, _) = open(&directory);
        store.remember(record(0));
        store.let_go();
        let (candidate, found) = open(&directory);
        assert_eq!(found, [record(0)], "what was queued is there before the candidate looks");
        assert_eq!(store.keep(vec![record(1)]).await, Err(NotKept::HandedOver));
        store.remember(record(2));
        store.take_back();
        candidate.close();
        while store.keep(vec![record(3)]).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        store.close();
        assert_eq!(held(&directory), [record(3), record(2), record(0)]);
    }

    #[tokio::test]
    async fn what_is_learned_from_then_on_a_successor_is_told() {
        let directory = TempDir::new().unwrap();
        let (store, _) = open(&directory);
        store.let_go();
        store.remember(record(0));
        let (sender, told) = mpsc::channel();
        store.hand_over(Box::new(Successor(Some(sender))));
        assert_eq!(said(&told), record(0).line().as_bytes());
        store.remember(record(1));
        assert_eq!(said(&told), record(1).line().as_bytes());
        assert_eq!(store.keep(vec![record(2)]).await, Err(NotKept::HandedOver));
        store.close();
        assert!(held(&directory).is_empty());
    }

    #[test]
    fn where_the_successor_has_ended_the_file_is_written_again() {
        let directory = TempDir::new().unwrap();
        let (store, _) = open(&directory);
        store.let_go();
        store.hand_over(Box::new(Successor(None)));
        store.remember(record(0));
        store.close();
        assert_eq!(held(&directory), [record(0)]);
    }

    #[test]
    fn a_file_that_is_begun_anew_while_we_serve_gets_every_own_ticket() {
        for vanishes in [true, false] {
            let directory = TempDir::new().unwrap();
            let (store, _) = open(&directory);
            let cache = Arc::new(Cache::new(&cache::Config::default(), 10_000, |_| {}));
            let now = Clock::system().now();
            (0..900).for_each(|number| cache.learn(&record(number).ticket, None, now));
            store.refill_from(Arc::clone(&cache));
            store.remember(record(0));
            store.let_go();
            let path = directory.path().join("own.redb");
            if vanishes {
                std::fs::remove_file(&path).unwrap();
            } else {
                std::fs::write(&path, "rubbish").unwrap();
            }
            store.take_back();
            store.remember(record(900));
            store.close();
            assert_eq!(held(&directory).len(), 901, "vanishes: {vanishes}");
        }
    }

    #[tokio::test]
    async fn a_predecessor_is_told_what_is_learned_here_and_not_what_it_said_itself() {
        let directory = TempDir::new().unwrap();
        let (store, _) = open(&directory);
        store.remember(record(0));
        let (sender, told) = mpsc::channel();
        store.tell_predecessor(Successor(Some(sender))).unwrap();
        store.remember(record(1));
        store.remember_patiently(record(2));
        assert_eq!(store.keep(vec![record(3), record(4)]).await, Ok(()));
        store.pass_back(record(5));
        for number in [1, 3, 4, 5] {
            assert_eq!(said(&told), record(number).line().as_bytes());
        }
        drop(told);
        (6..100).for_each(|number| store.remember(record(number)));
        store.close();
        assert_eq!(held(&directory).len(), 99, "one that has ended costs nothing");
    }

    #[test]
    fn a_disk_that_hangs_keeps_nobody_for_longer_than_the_bound() {
        /// Blocks until its other end is dropped.
        struct Hanging(Receiver<()>);
        impl Write for Hanging {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                let _ = self.0.recv();
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let directory = TempDir::new().unwrap();
        let (mut store, _) = open(&directory);
        store.let_go_within = Duration::from_millis(50);
        let (hangs, until) = mpsc::channel();
        store.hand_over(Box::new(Hanging(until)));
        let most = u32::try_from(4 * QUEUE).unwrap();
        (0..most).for_each(|number| store.remember(record(number)));
        assert!(store.metrics.store_dropped.get() > 0, "the queue is full");
        let (ended, wait) = mpsc::channel();
        std::thread::spawn(move || {
            store.let_go();
            store.take_back();
            store.hand_over(Box::new(Successor(None)));
            store.close();
            ended.send(()).unwrap();
        });
        wait.recv_timeout(Duration::from_secs(20)).expect("nobody waits without bound");
        drop(hangs);
    }

    #[test]
    fn a_damaged_file_that_cannot_be_set_aside_is_begun_anew_once_it_can() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("own.redb");
        std::fs::write(&path, "rubbish").unwrap();
        // Every name that it could be set aside by is taken; those of the seconds to come too.
        let now = Clock::system().now().wall.unix();
        let taken = (now..now + 60).flat_map(|second| {
            let name = format!("own.redb.damaged-{second}");
            (1..100).map(|number| format!("{name}-{number}")).chain([name.clone()]).collect::<Vec<_>>()
        });
        let taken: Vec<PathBuf> = taken.map(|name| directory.path().join(name)).collect();
        for path in &taken {
            std::fs::write(path, "").unwrap();
        }
        let (store, records) = open(&directory);
        assert_eq!((records, store.metrics.store_failures.get() > 0), (Vec::new(), true));
        store.remember(record(0));
        for path in &taken {
            std::fs::remove_file(path).unwrap();
        }
        store.close();
        assert_eq!(held(&directory), [record(0)]);
    }

    #[test]
    fn a_candidate_that_still_holds_the_file_at_the_end_is_waited_for() {
        let directory = TempDir::new().unwrap();
        let (store, _) = open(&directory);
        store.let_go();
        store.remember(record(0));
        let (candidate, _) = open(&directory);
        let closing = std::thread::spawn(move || store.close());
        candidate.close();
        closing.join().unwrap();
        assert_eq!(held(&directory), [record(0)]);
    }
}
