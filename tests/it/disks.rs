//! A disk that is full or may not be written, under the file of own tickets: said with what to mend, never a reason to stop serving.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::json;
use tempfile::TempDir;

use crate::support::client::{Connection, Response};
use crate::support::command::{ON_FREE_PORTS, Server, address};
use crate::support::origin::{Answer, Origin};
use crate::support::tickets;

/// Somebody whom permissions hold for.
const NOBODY: u32 = 65_534;

fn server(program: &Path, store: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(ON_FREE_PORTS).env_clear().env("TICKETGATE_TICKETS_STORE", store);
    command
}

/// The command, where nobody in particular may run it.
fn for_anybody(directory: &TempDir) -> std::path::PathBuf {
    let program = directory.path().join("ticketgate");
    let ours = env!("CARGO_BIN_EXE_ticketgate");
    if std::fs::hard_link(ours, &program).is_err() {
        // Not by ourselves: a child that another test starts meanwhile would have it open for writing, and nobody could run it.
        assert!(Command::new("cp").arg(ours).arg(&program).status().unwrap().success());
    }
    permit(directory.path(), 0o755);
    program
}

fn permit(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// What comes of a start as somebody for whom permissions hold.
fn started_by_nobody(program: &Path, store: &Path) -> Output {
    let mut command = server(program, store);
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command.output().unwrap()
}

#[test]
fn a_file_or_directory_that_may_not_be_written_is_told_before_anything_runs() {
    let (programs, data) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let program = for_anybody(&programs);
    let store = data.path().join("own.redb");
    permit(data.path(), 0o555);
    let mut told = vec![started_by_nobody(&program, &store)];
    permit(data.path(), 0o755);
    std::fs::write(&store, "").unwrap();
    permit(&store, 0o444);
    told.push(started_by_nobody(&program, &store));
    for output in told {
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        let mend = format!("let this user read and write the file, and write to {}", data.path().display());
        assert!(text.contains("tickets.store") && text.contains(&mend), "{text}");
        assert!(!text.contains("listening"), "{text}");
    }
    assert_eq!(std::fs::read(&store).unwrap(), b"", "it was left alone");
}

async fn register(admin: SocketAddr, ticket: &str) -> Response {
    Connection::to_operator(admin).await.post("/tickets", &json!({"ticket": ticket}).to_string()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_room_for_a_new_file_is_told_at_the_start_and_nothing_is_left_that_stands_in_the_way() {
    let directory = TempDir::new().unwrap();
    let store = directory.path().join("own.redb");
    let plain = server(Path::new(env!("CARGO_BIN_EXE_ticketgate")), &store);
    for kilobytes in [0, 4, 32] {
        let mut command = Command::new("bash");
        // A limit of the size of files stands for the disk's; its signal would be the end.
        command.args(["-c", &format!("trap '' XFSZ; ulimit -f {kilobytes}; exec \"$0\" \"$@\"")]);
        command.arg(plain.get_program()).args(plain.get_args()).env_clear().env("TICKETGATE_TICKETS_STORE", &store);
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{kilobytes}: {text}");
        assert!(text.contains("tickets.store") && text.contains("cannot be opened"), "{kilobytes}: {text}");
        assert!(!text.contains("listening"), "{kilobytes}: {text}");
    }
    let mut running = Server::run(plain, directory);
    let admin = address(&running.log_line_saying("listening"), "admin");
    assert_eq!(register(admin, "a").await.status, 204);
    assert_eq!(std::fs::read_dir(running.directory()).unwrap().count(), 1, "nothing was set aside");
}

/// A file system of its own, of a megabyte.
struct Disk(TempDir);

impl Disk {
    fn mount() -> Self {
        let at = TempDir::new().unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(at.path()).status();
        assert!(mounted.unwrap().success(), "root may mount");
        Self(at)
    }

    fn change(&self, how: &str) {
        let changed = Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(self.0.path()).status();
        assert!(changed.unwrap().success(), "{how}");
    }

    fn fill(&self) {
        let all = vec![0; 2 * 1024 * 1024];
        assert!(std::fs::write(self.0.path().join("ballast"), all).is_err(), "it is full");
    }

    fn make_room(&self) {
        std::fs::remove_file(self.0.path().join("ballast")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, to mount a file system"]
async fn a_mounted_disk_that_fills_up_costs_registrations_alone_and_one_that_is_read_only_is_told_at_the_start() {
    let (disk, origin) = (Disk::mount(), Origin::answering(Answer::image()).await);
    let store = disk.0.path().join("own.redb");
    let start = || {
        let mut command = server(Path::new(env!("CARGO_BIN_EXE_ticketgate")), &store);
        command.env("TICKETGATE_ORIGIN_URL", origin.url());
        command
    };
    disk.fill();
    let told = start().output().unwrap();
    assert!(String::from_utf8_lossy(&told.stderr).contains("make room on the disk") && told.status.code() == Some(1));
    disk.make_room();

    let mut server = Server::run(start(), TempDir::new().unwrap());
    let listening = server.log_line_saying("listening");
    let (public, admin) = (address(&listening, "public"), address(&listening, "admin"));
    assert_eq!(register(admin, "before").await.status, 204);
    disk.fill();
    let mut refused = 0;
    for number in 0..200 {
        refused += u32::from(register(admin, &format!("full{number}")).await.status == 507);
    }
    assert!(refused > 0, "it is full");
    let target = tickets::target(&tickets::permanent(1));
    for _ in 0..2 {
        assert_eq!(Connection::open(public).await.get(&target, "").await.status, 200, "images are served");
    }
    disk.make_room();
    while register(admin, "after").await.status != 204 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    server.signal(rustix::process::Signal::KILL);
    drop(server);

    let mut server = Server::run(start(), TempDir::new().unwrap());
    let read = server.log_line_saying("own tickets were read")["tickets"].as_u64().unwrap();
    assert_eq!(read, 202 - u64::from(refused), "all that were said to be registered, and no other");
    drop(server);
    disk.change("ro");
    let told = start().output().unwrap();
    let text = String::from_utf8_lossy(&told.stderr);
    assert!(text.contains("name a file on a disk that can be written") && told.status.code() == Some(2), "{text}");
}
