//! One process takes another's place, and nobody notices: sockets that systemd opened, sockets that a predecessor hands on
//! (S38). The successor is the command itself.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use command_fds::{CommandFdExt as _, FdMapping};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::client::Connection;
use crate::support::command::{ON_FREE_PORTS, Server, address, ticketgate};
use crate::support::load::{Load, Refused};
use crate::support::origin::{Answer, Origin, Then};
use crate::support::{PATIENCE, api, tickets};

/// A process that somebody else started; ended with the test.
struct Heir(Pid);

impl Heir {
    fn of(line: &Value) -> Self {
        Self(Pid::from_raw(i32::try_from(line["successor"].as_u64().unwrap()).unwrap()).unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.0, signal).unwrap();
    }
}

impl Drop for Heir {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::KILL);
    }
}

fn command(origin: &Origin) -> (Command, TempDir) {
    let directory = TempDir::new().unwrap();
    let mut command = ticketgate(&directory, &ON_FREE_PORTS);
    command.args(["--origin", &origin.url()]).env("TICKETGATE_LOG_ACCESS", "false").env("TICKETGATE_DRAIN_DELAY", "0s");
    command.env("TICKETGATE_LIMITS_CLIENT_REQUESTS", "off");
    (command, directory)
}

async fn readiness(admin: SocketAddr) -> u16 {
    Connection::to_operator(admin).await.get("/readyz", "Connection: close\r\n").await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn of_twenty_thousand_requests_two_successions_lose_none() {
    let origin = Origin::answering(Answer::image()).await;
    let (command, directory) = command(&origin);
    let mut server = Server::run(command, directory);
    let listening = server.log_line_saying("listening");
    let (public, admin) = (address(&listening, "public"), address(&listening, "admin"));
    let load = Load::start(public, &tickets::target(&tickets::permanent(1)), 16, Refused::Fails);
    load.goes_on_for(7_000).await;
    server.signal(Signal::USR2);
    let again = server.log_line_saying("listening");
    assert_eq!((address(&again, "public"), address(&again, "admin")), (public, admin), "the same sockets");
    let second = Heir::of(&server.log_line_saying("a successor serves"));
    load.goes_on_for(7_000).await;
    assert_eq!(readiness(admin).await, 200, "the one that ends answers no probes");
    server.log_line_saying("drained");

    second.signal(Signal::USR2);
    let third = Heir::of(&server.log_line_saying("a successor serves"));
    load.goes_on_for(7_000).await;
    assert!(load.stop().await >= 20_000);
    server.log_line_saying("drained");
    third.signal(Signal::TERM);
    server.log_line_saying("drained");
    assert_eq!(server.exit_code(), Some(0));
    assert_eq!(origin.count(), 3, "each has a cache of its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_ends_where_it_began() {
    let origin = Origin::answering(Answer::image()).await;
    let (command, directory) = command(&origin);
    let mut server = Server::run(command, directory);
    let public = address(&server.log_line_saying("listening"), "public");
    let mut idle = Connection::open(public).await;
    let target = tickets::target(&tickets::permanent(1));
    assert_eq!(idle.get(&target, "").await.status, 200);
    origin.hold();
    let mut busy = Connection::open(public).await;
    busy.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", tickets::target(&tickets::permanent(2)))).await;
    origin.has_been_asked(2).await;
    server.signal(Signal::USR2);
    let heir = Heir::of(&server.log_line_saying("a successor serves"));
    server.log_line_that("the drain", |line| line["message"].as_str().unwrap_or("").starts_with("draining"));
    let last = idle.get(&target, "").await;
    assert_eq!((last.status, last.header("connection")), (200, Some("close")));
    assert!(last.cache_status().contains("hit"), "it is still the old one: {}", last.cache_status());
    origin.release();
    assert_eq!(busy.response().await.unwrap().status, 200);
    server.log_line_saying("drained");
    heir.signal(Signal::TERM);
    server.log_line_saying("drained");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_that_does_not_start_changes_nothing() {
    let toml = "listen = \"127.0.0.1:0\"\nadmin.listen = \"127.0.0.1:0\"\n";
    let mut server = Server::configured(toml);
    let public = address(&server.log_line_saying("listening"), "public");
    std::fs::write(server.directory().join("ticketgate.toml"), format!("{toml}drian = \"1s\"\n")).unwrap();
    server.signal(Signal::USR2);
    server.log_line_saying("a successor is started");
    let told = server.text_until("there is no successor, this process goes on: it ended");
    assert!(told.contains("did you mean drain?"), "{told}");
    assert_eq!(Connection::open(public).await.get("/", "").await.status, 404);
    std::fs::write(server.directory().join("ticketgate.toml"), toml).unwrap();
    server.signal(Signal::USR2);
    let heir = Heir::of(&server.log_line_saying("a successor serves"));
    assert_eq!(Connection::open(public).await.get("/", "").await.status, 404);
    heir.signal(Signal::TERM);
}

/// Hands `sockets` on as systemd does.
fn activated(command: &mut Command, sockets: &[&TcpListener], names: &str) {
    let mapping = |(socket, child_fd): (&&TcpListener, i32)| FdMapping {
        parent_fd: OwnedFd::from(socket.try_clone().unwrap()),
        child_fd,
    };
    command.fd_mappings(sockets.iter().zip(3..).map(mapping).collect()).unwrap();
    command.env("LISTEN_FDS", sockets.len().to_string()).env("LISTEN_FDNAMES", names);
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_of_systemd_are_taken_by_name_and_whoever_waits_in_them_is_answered() {
    let origin = Origin::answering(Answer::image()).await;
    let (public, admin) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let (public_at, admin_at) = (public.local_addr().unwrap(), admin.local_addr().unwrap());
    let mut early = Connection::open(public_at).await;
    let target = tickets::target(&tickets::permanent(1));
    early.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
    let (mut command, directory) = command(&origin);
    activated(&mut command, &[&admin, &public], "admin:public");
    let mut server = Server::run(command, directory);
    let listening = server.log_line_saying("listening");
    assert_eq!((address(&listening, "public"), address(&listening, "admin")), (public_at, admin_at));
    assert_eq!(early.response().await.unwrap().status, 200);
    assert_eq!(readiness(admin_at).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_stays_where_systemd_said() {
    let origin = Origin::answering(Answer::image()).await;
    let public = TcpListener::bind("127.0.0.1:0").unwrap();
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (mut command, directory) = command(&origin);
    command.env("TICKETGATE_LISTEN", elsewhere.to_string());
    let mut command = {
        // Flags would say otherwise than the environment.
        let mut plain = ticketgate(&directory, &["--listen", &elsewhere.to_string(), "--admin-listen", "127.0.0.1:0"]);
        plain.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        plain
    };
    activated(&mut command, &[&public], "public");
    let mut server = Server::run(command, directory);
    let at = public.local_addr().unwrap();
    assert_eq!(address(&server.log_line_saying("listening"), "public"), at);
    server.signal(Signal::USR2);
    assert_eq!(address(&server.log_line_saying("listening"), "public"), at);
    let heir = Heir::of(&server.log_line_saying("a successor serves"));
    server.log_line_saying("drained");
    assert_eq!(Connection::open(at).await.get("/", "").await.status, 404, "whoever comes is answered");
    heir.signal(Signal::TERM);
    server.log_line_saying("drained");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_socket_of_systemd_off_loopback_needs_the_token() {
    let origin = Origin::answering(Answer::image()).await;
    let admin = TcpListener::bind("0.0.0.0:0").unwrap();
    let at = SocketAddr::from(([127, 0, 0, 1], admin.local_addr().unwrap().port()));
    let (mut command, directory) = command(&origin);
    activated(&mut command, &[&admin], "admin");
    let mut server = Server::run(command, directory);
    server.log_line_saying("listening");
    let refused = Connection::to_operator(at).await.get("/config", "").await;
    assert_eq!(refused.status, 403, "whatever admin.listen says: {}", refused.text());
    assert_eq!(readiness(at).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_signal_that_ends_a_service_does_not_cut_what_the_predecessor_still_serves() {
    let origin = Origin::answering(Answer::image()).await;
    let (command, directory) = command(&origin);
    let mut server = Server::run(command, directory);
    let public = address(&server.log_line_saying("listening"), "public");
    origin.hold();
    let mut busy = Connection::open(public).await;
    busy.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", tickets::target(&tickets::permanent(1)))).await;
    origin.has_been_asked(1).await;
    server.signal(Signal::USR2);
    let heir = Heir::of(&server.log_line_saying("a successor serves"));
    server.log_line_that("the drain", |line| line["message"].as_str().unwrap_or("").starts_with("draining"));
    // As `systemctl stop` signals every process of the service.
    server.signal(Signal::TERM);
    heir.signal(Signal::TERM);
    origin.release();
    assert_eq!(busy.response().await.expect("an answer").status, 200);
    server.log_line_saying("drained");
    server.log_line_saying("drained");
    assert_eq!(server.exit_code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_without_a_name_is_taken_by_its_address_and_a_strange_one_is_closed_with_a_word() {
    let (ours, strange) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let at = ours.local_addr().unwrap();
    let directory = TempDir::new().unwrap();
    let mut command = ticketgate(&directory, &["--listen", &at.to_string(), "--admin-listen", "off"]);
    activated(&mut command, &[&strange, &ours], "unknown:unknown");
    let mut server = Server::run(command, directory);
    let word = server.log_line_that("a word about it", |line| line["level"] == "WARN");
    assert_eq!(word["address"], strange.local_addr().unwrap().to_string());
    assert_eq!(address(&server.log_line_saying("listening"), "public"), at);
    assert_eq!(Connection::open(at).await.get("/", "").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_is_told_who_serves_and_that_the_end_has_begun() {
    let origin = Origin::answering(Answer::image()).await;
    let (mut command, directory) = command(&origin);
    let path = directory.path().join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(PATIENCE)).unwrap();
    command.env("NOTIFY_SOCKET", &path);
    let mut server = Server::run(command, directory);
    let told = || {
        let mut word = [0; 100];
        let length = systemd.recv(&mut word).expect("a word in time");
        String::from_utf8_lossy(&word[..length]).trim_end().to_owned()
    };
    assert_eq!(told(), "READY=1");
    server.signal(Signal::USR2);
    let heir = Heir::of(&server.log_line_saying("a successor serves"));
    assert_eq!((told(), told()), ("READY=1".to_owned(), format!("MAINPID={}", heir.0.as_raw_nonzero())));
    server.log_line_saying("drained");
    heir.signal(Signal::TERM);
    assert_eq!(told(), "STOPPING=1", "of the successor: the other has none to say");
}

/// A server of own tickets alone, whose relay asks `api`.
fn own_tickets(origin: &Origin, api: &Origin) -> Server {
    let (mut command, directory) = command(origin);
    let toml = format!("[relay]\nurl = \"{}\"\n[tickets]\nallow = \"own\"\nstore = \"own.redb\"\n", api.url());
    std::fs::write(directory.path().join("ticketgate.toml"), toml).unwrap();
    command.args(["--relay-listen", "127.0.0.1:0"]).env("TICKETGATE_RELAY_PREFETCH", "false");
    Server::run(command, directory)
}

/// Always makes the ticket of this number: the n-th call that of number n.
async fn api() -> Origin {
    let created = |number: usize, _: &str| {
        let body = api::created(&tickets::permanent(u32::try_from(number).unwrap()), None);
        Answer { then: Then::Close, ..api::answer(&body) }
    };
    Origin::start(created).await
}

async fn is_served(public: SocketAddr, ticket: u32) -> bool {
    let target = tickets::target(&tickets::permanent(ticket));
    Connection::open(public).await.get(&target, "Connection: close\r\n").await.status == 200
}

#[tokio::test(flavor = "multi_thread")]
async fn own_tickets_go_to_the_successor_and_so_do_those_that_the_relay_of_the_old_process_still_learns() {
    let (origin, api) = (Origin::answering(Answer::image()).await, api().await);
    let mut server = own_tickets(&origin, &api);
    let listening = server.log_line_saying("listening");
    let (public, relay) = (address(&listening, "public"), address(&listening, "relay"));
    let create = || async { Connection::open(relay).await.post("/cgi-bin/qrcode/create", "{}").await.status };
    assert_eq!(create().await, 200);
    api.hold();
    let mut late = Connection::open(relay).await;
    late.send("POST /cgi-bin/qrcode/create HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}").await;
    api.has_been_asked(2).await;
    server.signal(Signal::USR2);
    server.log_line_that("the one ticket read", |line| {
        line["message"] == "own tickets were read" && line["tickets"] == 1
    });
    let heir = Heir::of(&server.log_line_saying("a successor serves"));
    assert!(is_served(public, 0).await && !is_served(public, 1).await);
    api.release();
    assert_eq!(late.response().await.unwrap().status, 200);
    server.log_line_saying("drained");
    while !is_served(public, 1).await {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    assert_eq!(create().await, 200);
    assert!(is_served(public, 2).await);

    heir.signal(Signal::USR2);
    server.log_line_that("all of them are in the file", |line| {
        line["message"] == "own tickets were read" && line["tickets"] == 3
    });
    let heir = Heir::of(&server.log_line_saying("a successor serves"));
    heir.signal(Signal::TERM);
    server.log_line_saying("drained");
    server.log_line_saying("drained");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_successor_learns_is_shown_on_connections_that_the_old_process_still_has() {
    let (origin, api) = (Origin::answering(Answer::image()).await, api().await);
    let mut server = own_tickets(&origin, &api);
    let listening = server.log_line_saying("listening");
    let (public, relay) = (address(&listening, "public"), address(&listening, "relay"));
    let target = tickets::target(&tickets::permanent(0));
    // Each is answered once more.
    let mut kept = Vec::new();
    for _ in 0..50 {
        let mut connection = Connection::open(public).await;
        assert_eq!(connection.get(&target, "").await.status, 403, "not yet");
        kept.push(connection);
    }
    server.signal(Signal::USR2);
    let heir = Heir::of(&server.log_line_saying("a successor serves"));
    server.log_line_that("the drain", |line| line["message"].as_str().unwrap_or("").starts_with("draining"));
    assert_eq!(Connection::open(relay).await.post("/cgi-bin/qrcode/create", "{}").await.status, 200);
    let mut shown = 403;
    for mut connection in kept {
        let answer = connection.get(&target, "").await;
        assert_eq!(answer.header("connection"), Some("close"), "it is still the old one");
        shown = answer.status;
        if shown == 200 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(shown, 200);
    heir.signal(Signal::TERM);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_of_no_use_costs_no_own_ticket() {
    let (origin, api) = (Origin::answering(Answer::image()).await, api().await);
    let mut server = own_tickets(&origin, &api);
    let listening = server.log_line_saying("listening");
    let (public, relay) = (address(&listening, "public"), address(&listening, "relay"));
    let file = server.directory().join("ticketgate.toml");
    let good = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{good}[cache]\nmemroy = \"1GiB\"\n")).unwrap();
    server.signal(Signal::USR2);
    server.text_until("there is no successor, this process goes on");
    assert_eq!(Connection::open(relay).await.post("/cgi-bin/qrcode/create", "{}").await.status, 200);
    assert!(is_served(public, 0).await);
    std::fs::write(&file, good).unwrap();
    server.signal(Signal::USR2);
    server.log_line_that("the one ticket read", |line| {
        line["message"] == "own tickets were read" && line["tickets"] == 1
    });
    let heir = Heir::of(&server.log_line_saying("a successor serves"));
    assert!(is_served(public, 0).await);
    heir.signal(Signal::TERM);
}
