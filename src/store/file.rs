//! The file of own tickets: opening it, setting it aside when it is damaged, reading, writing and tidying it. This is the only
//! module that knows redb. Blocks; takes the time as an argument, but for waiting.

use std::fs::TryLockError;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use redb::backends::FileBackend;
use redb::{
    Builder, CommitError, Database, DatabaseError, ReadableDatabase, ReadableTable, ReadableTableMetadata,
    StorageError, TableDefinition, TableError, TransactionError, WriteTransaction,
};

use super::record::{EPOCH, End, Record};
use super::{NoStore, Wanted, directory};
use crate::cache::REMEMBERED;
use crate::clock::Clock;
use crate::moment::Wall;
use crate::ticket::Ticket;

/// By canonical text: the rank, and the end as stated and on our clock, in milliseconds of wall time.
const TICKETS: TableDefinition<&[u8], (u64, i64, i64)> = TableDefinition::new("tickets");

/// By the end on our clock and the rank: the canonical text. Who goes first when there is no room comes first, as in memory: the
/// earliest to end, and of those without an end the oldest.
const ORDER: TableDefinition<(i64, u64), &[u8]> = TableDefinition::new("ends");

/// Stands for the end of a ticket that has none.
const NO_END: i64 = i64::MAX;

/// Bytes that the library may keep of the file.
const LIBRARY_CACHE: usize = 8 * 1024 * 1024;

/// Tickets that are removed in one go.
const TIDIED_AT_ONCE: usize = 10_000;

/// How often to see whether another process has let go.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Names that are tried for a file that is set aside.
const MOST_NAMES: u32 = 100;

/// The file, open, and locked against other processes.
pub(super) struct File {
    /// Not there once it has failed: the library wants it opened anew.
    database: Option<Database>,
    most: u64,
    rank: u64,
    is_new: bool,
}

/// Why the file could not be used.
#[derive(Debug)]
pub(super) enum Failure {
    /// The disk said so.
    Io(io::Error),
    /// Another process holds it.
    Held,
    /// What it holds makes no sense.
    Damaged(String),
}

impl File {
    /// Opens the file, and waits while another process holds it.
    pub(super) fn open_patiently(wanted: &Wanted, clock: &Clock) -> Result<Self, NoStore> {
        let asked = clock.tick();
        let mut told = false;
        loop {
            match Self::open(wanted, clock.now().wall) {
                Err(NoStore::Held(path, patience)) if clock.tick().since(asked) >= patience => {
                    return Err(NoStore::Held(path, patience));
                }
                Err(NoStore::Held(path, patience)) => {
                    if !std::mem::replace(&mut told, true) {
                        let path = path.display();
                        tracing::info!(%path, ?patience, "another process holds the file of own tickets, and is waited for");
                    }
                    std::thread::sleep(LOOK_EVERY);
                }
                other => return other,
            }
        }
    }

    /// Opens the file, or begins a new one in place of one that is damaged.
    pub(super) fn open(wanted: &Wanted, now: Wall) -> Result<Self, NoStore> {
        let Wanted { path, most, patience } = wanted;
        let untold = |failure| match failure {
            Failure::Held => NoStore::Held(path.clone(), *patience),
            other => NoStore::Unusable(path.clone(), other.into_io()),
        };
        let open = || {
            let file = file(path)?;
            let same = file.try_clone().map_err(Failure::Io)?;
            Ok((Self::open_once(file, *most), same))
        };
        let opened = match open().map_err(untold)? {
            (Err(Failure::Damaged(why)), damaged) => {
                set_aside(&damaged, wanted, &why, now)?;
                open().map_err(untold)?.0
            }
            (opened, _) => opened,
        };
        opened.inspect(|file| file.settle(path)).map_err(untold)
    }

    fn open_once(file: std::fs::File, most: usize) -> Result<Self, Failure> {
        guarded(|| {
            let mut builder = Builder::new();
            // Slow for large files, and the only way to know that what is read was written: a million tickets take seconds.
            builder.set_cache_size(LIBRARY_CACHE).set_check_integrity_on_open(true);
            let database = builder.create_with_backend(FileBackend::new(file)?)?;
            let write = database.begin_write()?;
            let rank = order_all(&write)?;
            let is_new = write.open_table(TICKETS)?.is_empty()?;
            write.commit()?;
            Ok(Self { database: Some(database), most: most as u64, rank, is_new })
        })
    }

    /// Has the name of a new file outlive a failure of power. Some file systems cannot, and need not.
    fn settle(&self, path: &Path) {
        if self.is_new {
            let _ = std::fs::File::open(directory(path)).and_then(|directory| directory.sync_all());
        }
    }

    /// Whether it held no ticket when it was opened: it was begun just now, or might as well have been.
    pub(super) fn is_new(&self) -> bool {
        self.is_new
    }

    /// Removes who ended long ago and whom there is no room for, and reads all others: the newest first.
    pub(super) fn read(&mut self, now: Wall) -> Result<Vec<Record>, Failure> {
        self.tidy(now)?;
        self.using(|database| {
            let table = database.begin_read()?.open_table(TICKETS)?;
            let mut ranked = Vec::new();
            for entry in table.iter()? {
                let (key, value) = entry?;
                let (rank, stated, wall) = value.value();
                ranked.extend(record(key.value(), stated, wall).map(|record| (rank, record)));
            }
            ranked.sort_unstable_by_key(|(rank, _)| std::cmp::Reverse(*rank));
            Ok(ranked.into_iter().map(|(_, record)| record).collect())
        })
    }

    /// Writes `records` as the newest, all or none; returns when they are on the disk. Of two ends of a ticket the earlier stays.
    /// Where there is no room for one more, whoever is next to go makes it.
    pub(super) fn write<'a>(&mut self, records: impl Iterator<Item = &'a Record>, now: Wall) -> Result<(), Failure> {
        let (most, before) = (self.most, self.rank);
        self.rank = self.using(|database| {
            let write = database.begin_write()?;
            let mut rank = before;
            {
                let (mut tickets, mut order) = (write.open_table(TICKETS)?, write.open_table(ORDER)?);
                for record in records {
                    rank = next(rank, now);
                    let key = record.ticket.canonical().as_bytes();
                    let old = tickets.get(key)?.map(|old| old.value());
                    let held = old.and_then(|(_, stated, wall)| end(stated, wall));
                    if let Some((old, _, wall)) = old {
                        order.remove((wall, old))?;
                    } else {
                        while tickets.len()? >= most {
                            let Some((_, first)) = order.pop_first()? else { break };
                            tickets.remove(first.value())?;
                        }
                    }
                    let (stated, wall) = millis(End::earliest(held, record.end));
                    tickets.insert(key, (rank, stated, wall))?;
                    order.insert((wall, rank), key)?;
                }
            }
            write.commit()?;
            Ok(rank)
        })?;
        Ok(())
    }

    /// Removes who ended so long ago that nobody remembers, and whom there is no room for.
    pub(super) fn tidy(&mut self, now: Wall) -> Result<(), Failure> {
        let is_forgotten = |wall: i64| wall != NO_END && Wall::from_unix_millis(wall) + REMEMBERED <= now;
        let most = self.most;
        loop {
            let removed = self.using(|database| {
                let write = database.begin_write()?;
                let mut removed = 0;
                {
                    let (mut tickets, mut order) = (write.open_table(TICKETS)?, write.open_table(ORDER)?);
                    while removed < TIDIED_AT_ONCE {
                        let goes = order.first()?.is_some_and(|(at, _)| is_forgotten(at.value().0));
                        if !goes && tickets.len()? <= most {
                            break;
                        }
                        let Some((_, first)) = order.pop_first()? else { break };
                        tickets.remove(first.value())?;
                        removed += 1;
                    }
                }
                if removed > 0 {
                    write.commit()?;
                }
                Ok(removed)
            })?;
            if removed < TIDIED_AT_ONCE {
                return Ok(());
            }
        }
    }

    fn using<T>(&mut self, work: impl FnOnce(&Database) -> Result<T, Failure>) -> Result<T, Failure> {
        let database = self.database.as_ref().ok_or_else(|| Failure::Io(io::Error::other("it has failed before")))?;
        let done = guarded(|| work(database));
        if done.is_err() {
            // A panic under way through the library would take the thread with it.
            let database = self.database.take();
            let _ = catch_unwind(AssertUnwindSafe(move || drop(database)));
        }
        done
    }
}

/// The newest rank. Whoever has no place in the order, since an earlier version wrote it, gets one.
fn order_all(write: &WriteTransaction) -> Result<u64, Failure> {
    let (tickets, mut order) = (write.open_table(TICKETS)?, write.open_table(ORDER)?);
    let is_whole = order.len()? == tickets.len()?;
    if !is_whole {
        order.retain(|_, _| false)?;
    }
    let mut newest = 0;
    for entry in tickets.iter()? {
        let (key, value) = entry?;
        let (rank, _, wall) = value.value();
        newest = newest.max(rank);
        if !is_whole {
            order.insert((wall, rank), key.value())?;
        }
    }
    Ok(newest)
}

/// The file as it stands, or a new one for this user alone: whoever holds a ticket can show its code.
fn file(path: &Path) -> Result<std::fs::File, Failure> {
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path).map_err(Failure::Io)
}

/// The library promises no panics for files that were checked; if it does panic, the file is damaged.
fn guarded<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    let panicked = |_| Err(Failure::Damaged("reading it panicked".to_owned()));
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(panicked)
}

/// A rank tells when a ticket was learned, in microseconds of wall time, and is higher than every one before.
fn next(rank: u64, now: Wall) -> u64 {
    let micros = u64::try_from(now.millis_since(EPOCH)).unwrap_or(0).saturating_mul(1000);
    micros.max(rank.saturating_add(1))
}

fn record(key: &[u8], stated: i64, wall: i64) -> Option<Record> {
    let ticket = Ticket::from_canonical(std::str::from_utf8(key).ok()?).ok()?;
    Some(Record { ticket, end: end(stated, wall) })
}

fn end(stated: i64, wall: i64) -> Option<End> {
    let of = Wall::from_unix_millis;
    (wall != NO_END).then(|| End { stated: of(stated), wall: of(wall) })
}

fn millis(end: Option<End>) -> (i64, i64) {
    let of = |wall: Wall| wall.millis_since(EPOCH).min(NO_END - 1);
    end.map_or((NO_END, NO_END), |End { stated, wall }| (of(stated), of(wall)))
}

/// Renames `damaged`, so that it can be looked into, and says so; unless another process has done so, and what is there now is
/// its new one. Locked meanwhile, by what the library locks too.
fn set_aside(damaged: &std::fs::File, wanted: &Wanted, why: &str, now: Wall) -> Result<(), NoStore> {
    let Wanted { path, patience, .. } = wanted;
    let stays = |error| NoStore::Damaged(path.clone(), why.to_owned(), error);
    match damaged.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(NoStore::Held(path.clone(), *patience)),
        Err(TryLockError::Error(error)) => return Err(stays(error)),
    }
    if !is_at(damaged, path).map_err(stays)? {
        return Ok(());
    }
    let aside = free_name(path, now).map_err(stays)?;
    std::fs::rename(path, &aside).map_err(stays)?;
    let (path, aside) = (path.display(), aside.display());
    tracing::error!(%path, %aside, why, "the file of own tickets is damaged and was set aside; a new one is begun");
    Ok(())
}

fn is_at(file: &std::fs::File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match std::fs::metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn free_name(path: &Path, now: Wall) -> io::Result<PathBuf> {
    let name = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".damaged-{}", now.unix()));
        if number > 0 {
            name.push(format!("-{number}"));
        }
        PathBuf::from(name)
    };
    let mut names = (0..MOST_NAMES).map(name);
    names.find(|name| !name.exists()).ok_or_else(|| io::Error::other("too many have been set aside before"))
}

impl Failure {
    pub(super) fn into_io(self) -> io::Error {
        match self {
            Self::Io(error) => error,
            Self::Held => io::Error::other("another process holds it"),
            Self::Damaged(why) => io::Error::new(ErrorKind::InvalidData, why),
        }
    }
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Io(error) if matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) => {
                Self::Damaged(error.to_string())
            }
            StorageError::Io(error) => Self::Io(error),
            StorageError::Corrupted(why) => Self::Damaged(why),
            other => Self::Io(io::Error::other(other.to_string())),
        }
    }
}

impl From<DatabaseError> for Failure {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => Self::Held,
            DatabaseError::Storage(error) => error.into(),
            other => Self::Damaged(other.to_string()),
        }
    }
}

impl From<TableError> for Failure {
    fn from(error: TableError) -> Self {
        match error {
            TableError::Storage(error) => error.into(),
            other => Self::Damaged(other.to_string()),
        }
    }
}

impl From<TransactionError> for Failure {
    fn from(error: TransactionError) -> Self {
        match error {
            TransactionError::Storage(error) => error.into(),
            other => Self::Io(io::Error::other(other.to_string())),
        }
    }
}

impl From<CommitError> for Failure {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Storage(error) => error.into(),
            other => Self::Io(io::Error::other(other.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use tempfile::TempDir;

    use super::*;

    const NOW: Wall = Wall::from_unix(1_700_000_000);

    fn wanted(directory: &TempDir, most: usize) -> Wanted {
        Wanted { path: directory.path().join("own.redb"), most, patience: Duration::ZERO }
    }

    fn record(number: u32, lives: Option<u64>) -> Record {
        let wall = lives.map(|lives| NOW + Duration::from_secs(lives));
        let end = wall.map(|wall| End { stated: wall.shifted(5000), wall });
        Record { ticket: Ticket::from_text(&format!("ticket{number}")).unwrap(), end }
    }

    fn open(wanted: &Wanted) -> File {
        File::open(wanted, NOW).unwrap()
    }

    fn held(wanted: &Wanted, now: Wall) -> Vec<String> {
        let records = open(wanted).read(now).unwrap();
        records.iter().map(|record| record.ticket.canonical().trim_start_matches("ticket").to_owned()).collect()
    }

    fn aside(directory: &TempDir) -> usize {
        let names = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with("own.redb.damaged-1700000000")).count()
    }

    #[test]
    fn what_is_written_is_read_again_the_newest_first_and_the_newest_stay() {
        let directory = TempDir::new().unwrap();
        let wanted = wanted(&directory, 3);
        let mut file = open(&wanted);
        file.write([record(0, None), record(1, Some(60)), record(2, None)].iter(), NOW).unwrap();
        file.write([record(0, Some(90))].iter(), NOW.shifted(-5_000)).unwrap();
        assert_eq!(file.read(NOW).unwrap(), [record(0, Some(90)), record(2, None), record(1, Some(60))]);
        file.write([record(3, None), record(0, Some(900))].iter(), NOW).unwrap();
        drop(file);
        assert_eq!(held(&wanted, NOW), ["0", "3", "2"]);
        assert_eq!(open(&wanted).read(NOW).unwrap()[0], record(0, Some(90)), "an end is never put off");
        assert_eq!(
            held(&Wanted { most: 1, ..wanted.clone() }, NOW),
            ["3"],
            "the earliest to end goes, and then the oldest"
        );
        assert_eq!(aside(&directory), 0);
    }

    #[test]
    fn where_there_is_no_room_the_earliest_to_end_goes_and_who_never_ends_stays() {
        let directory = TempDir::new().unwrap();
        let wanted = wanted(&directory, 3);
        let mut file = open(&wanted);
        file.write([record(0, None), record(1, None)].iter(), NOW).unwrap();
        for number in 2..5 {
            file.write([record(number, Some(1))].iter(), NOW).unwrap();
        }
        drop(file);
        assert_eq!(held(&wanted, NOW + Duration::from_secs(5)), ["4", "1", "0"]);
        open(&wanted).write([record(5, None), record(6, Some(60)), record(7, None)].iter(), NOW).unwrap();
        assert_eq!(held(&wanted, NOW), ["7", "5", "1"], "of those without an end the oldest");
    }

    #[test]
    fn who_ended_a_day_ago_is_removed() {
        let directory = TempDir::new().unwrap();
        let wanted = wanted(&directory, 100);
        open(&wanted).write([record(0, Some(60)), record(1, None), record(2, Some(61))].iter(), NOW).unwrap();
        assert_eq!(held(&wanted, NOW + Duration::from_secs(86_459)), ["2", "1", "0"]);
        assert_eq!(held(&wanted, NOW + Duration::from_secs(86_460)), ["2", "1"]);
        assert_eq!(held(&wanted, NOW), ["2", "1"], "it is not in the file either");
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_a_new_one_begun() {
        let directory = TempDir::new().unwrap();
        let wanted = wanted(&directory, 10_000);
        let records: Vec<Record> = (0..2000).map(|number| record(number, None)).collect();
        open(&wanted).write(records.iter(), NOW).unwrap();
        let whole = std::fs::read(&wanted.path).unwrap();
        let flipped = |at: usize| {
            let mut bytes = whole.clone();
            bytes[at..at + 64].iter_mut().for_each(|byte| *byte = !*byte);
            bytes
        };
        let middle = whole.windows(10).position(|bytes| bytes == b"ticket1000").unwrap();
        let damaged = [
            vec![0; 4096],
            b"not a database at all".to_vec(),
            whole[..whole.len() / 2].to_vec(),
            whole[..100].to_vec(),
            flipped(middle),
            flipped(0),
        ];
        for (number, bytes) in damaged.iter().enumerate() {
            std::fs::write(&wanted.path, bytes).unwrap();
            assert_eq!(held(&wanted, NOW), [""; 0], "{number}");
            assert_eq!(aside(&directory), number + 1, "each has a name of its own");
            open(&wanted).write([record(7, None)].iter(), NOW).unwrap();
            assert_eq!(held(&wanted, NOW), ["7"], "{number}");
        }
    }

    #[test]
    fn of_those_who_find_it_damaged_at_once_one_sets_it_aside_and_nobodys_new_file_is() {
        for _ in 0..6 {
            let directory = TempDir::new().unwrap();
            let wanted = Wanted { patience: Duration::from_secs(20), ..wanted(&directory, 100) };
            std::fs::write(&wanted.path, "rubbish").unwrap();
            std::thread::scope(|scope| {
                for number in 0..4 {
                    let wanted = &wanted;
                    scope.spawn(move || {
                        let mut file = File::open_patiently(wanted, &Clock::system()).unwrap();
                        file.write([record(number, None)].iter(), NOW).unwrap();
                    });
                }
            });
            assert_eq!(held(&wanted, NOW).len(), 4);
            assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2, "it, and what was damaged");
        }
    }

    #[test]
    fn what_has_taken_the_place_of_a_damaged_file_stays_there() {
        let directory = TempDir::new().unwrap();
        let wanted = wanted(&directory, 100);
        std::fs::write(&wanted.path, "rubbish").unwrap();
        let damaged = file(&wanted.path).unwrap();
        open(&wanted).write([record(0, None)].iter(), NOW).unwrap();
        set_aside(&damaged, &wanted, "", NOW).unwrap();
        assert_eq!((held(&wanted, NOW), aside(&directory)), (vec!["0".to_owned()], 1));
        let held = file(&wanted.path).unwrap();
        held.lock().unwrap();
        let other = file(&wanted.path).unwrap();
        assert!(matches!(set_aside(&other, &wanted, "", NOW), Err(NoStore::Held(..))));
        assert_eq!(aside(&directory), 1);
    }

    #[test]
    fn whatever_bytes_are_flipped_it_opens_and_invents_nothing() {
        let directory = TempDir::new().unwrap();
        let wanted = wanted(&directory, 1000);
        open(&wanted).write((0..100).map(|number| record(number, Some(60))).collect::<Vec<_>>().iter(), NOW).unwrap();
        let whole = std::fs::read(&wanted.path).unwrap();
        let mut unharmed = 0;
        for at in (0..whole.len()).step_by(whole.len() / 60) {
            let mut bytes = whole.clone();
            bytes[at..whole.len().min(at + 8)].iter_mut().for_each(|byte| *byte ^= 0x55);
            std::fs::write(&wanted.path, bytes).unwrap();
            let read = open(&wanted).read(NOW).unwrap();
            assert!(read.is_empty() || read.len() == 100 && read.contains(&record(50, Some(60))), "at {at}");
            unharmed += usize::from(!read.is_empty());
            for entry in std::fs::read_dir(directory.path()).unwrap() {
                std::fs::remove_file(entry.unwrap().path()).unwrap();
            }
        }
        assert!((20..60).contains(&unharmed), "much of the file is unused room, and not all: {unharmed}");
    }

    #[test]
    fn an_empty_file_is_a_new_one_and_a_missing_directory_is_told() {
        let directory = TempDir::new().unwrap();
        let wanted = wanted(&directory, 10);
        std::fs::write(&wanted.path, "").unwrap();
        assert_eq!((held(&wanted, NOW).len(), aside(&directory)), (0, 0));
        std::fs::remove_file(&wanted.path).unwrap();
        open(&wanted);
        let mode = std::fs::metadata(&wanted.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "nobody else reads it");
        let lost = Wanted { path: directory.path().join("no/own.redb"), ..wanted.clone() };
        let told = File::open(&lost, NOW).err().unwrap().to_string();
        assert!(told.contains("tickets.store") && told.contains("create the directory"), "{told}");
        assert_eq!(super::super::check(&lost.path).unwrap_err().to_string(), told);
        assert!(super::super::check(&wanted.path).is_ok() && super::super::check(directory.path()).is_err());
    }

    #[test]
    fn one_process_holds_it_at_a_time() {
        let directory = TempDir::new().unwrap();
        let wanted = wanted(&directory, 10);
        let first = open(&wanted);
        assert!(matches!(File::open(&wanted, NOW), Err(NoStore::Held(..))));
        drop(first);
        open(&wanted);
    }
}
