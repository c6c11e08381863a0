//! Out of descriptors: accepting pauses and neither ends nor spins, whoever is in is served, and everybody is when there are
//! descriptors again.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::client::Connection;
use crate::support::command::{ON_FREE_PORTS, Server, address, metric, ticketgate};
use crate::support::origin::{Answer, Origin, jpeg};
use crate::support::{eventually, tickets};

const DESCRIPTORS: u64 = 128;
const CLIENTS: usize = 1000;

/// How long accepting rests after it failed.
const REST: Duration = Duration::from_millis(100);

/// When somebody is served again, once there are descriptors: on a busy machine, and long before each client had its own rest.
const BACK: Duration = Duration::from_secs(10);

/// For how long it is looked at.
const WATCHED: Duration = Duration::from_secs(2);

/// A server before `origin` that may have few files open, and where it listens.
fn starved(origin: &Origin) -> (Server, SocketAddr, SocketAddr) {
    let directory = TempDir::new().unwrap();
    let limited = ticketgate(&directory, &[]);
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -n {DESCRIPTORS}; exec \"$0\" \"$@\"")]).arg(limited.get_program());
    command.args(ON_FREE_PORTS).current_dir(directory.path());
    command.env_clear().env("TICKETGATE_ORIGIN_URL", origin.url()).env("TICKETGATE_LOG_ACCESS", "false");
    let mut server = Server::run(command, directory);
    let listening = server.log_line_saying("listening");
    let told = server.log_line_that("too few files", |line| line["allowed"] == DESCRIPTORS);
    assert_eq!(told["level"], "WARN", "{told}");
    let (public, admin) = (address(&listening, "public"), address(&listening, "admin"));
    (server, public, admin)
}

fn open_files(server: &Server) -> u64 {
    std::fs::read_dir(format!("/proc/{}/fd", server.id())).unwrap().count() as u64
}

/// All connections of strangers.
async fn crowd(public: SocketAddr) -> Vec<Connection> {
    let mut coming = JoinSet::new();
    for _ in 0..CLIENTS {
        coming.spawn(async move { TcpStream::connect(public).await.unwrap() });
    }
    coming.join_all().await.into_iter().map(Connection::over).collect()
}

#[allow(clippy::print_stdout, reason = "figures, which depend on the machine, for whoever runs it with --nocapture")]
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_clients_and_descriptors_for_a_hundred_make_accepting_rest_and_nobody_wait_longer() {
    let origin = Origin::answering(Answer::image()).await;
    let (server, public, admin) = starved(&origin);
    let target = tickets::target(&tickets::permanent(1));
    let mut inside = Connection::open(public).await;
    assert_eq!(inside.get(&target, "").await.status, 200);

    let clients = crowd(public).await;
    eventually("all descriptors are in use", || open_files(&server) >= DESCRIPTORS).await;
    let (began, spent) = (Instant::now(), server.processor_time());
    while began.elapsed() < WATCHED {
        let answer = inside.get(&target, "").await;
        assert_eq!((answer.status, answer.body), (200, jpeg()), "whoever is in is served");
        tokio::time::sleep(REST).await;
    }
    let (watched, spent) = (began.elapsed(), Duration::from_millis(10 * (server.processor_time() - spent)));
    println!("of {watched:?} without descriptors, {spent:?} were spent on a processor");
    assert!(spent < watched / 2, "{spent:?} of {watched:?}: it spins");

    let released = Instant::now();
    drop(clients);
    assert_eq!(Connection::open(public).await.get(&target, "").await.status, 200);
    let back = released.elapsed();
    println!("{back:?} after the release the next was served");
    assert!(back < BACK, "{back:?}");

    let (failures, all) = (metric(admin, "ticketgate_accept_failures_total").await, began.elapsed() + REST);
    let most = all.as_millis() / REST.as_millis() + 10;
    assert!((5..=most).contains(&u128::from(failures)), "{failures} attempts in {all:?}: it rests in between");
}

#[tokio::test(flavor = "multi_thread")]
async fn descriptors_that_we_lack_are_not_held_against_the_origin() {
    // No connection to it is kept, so that each image takes a descriptor.
    let origin = Origin::answering(Answer::image_with("Cache-Control: max-age=60\r\nConnection: close\r\n")).await;
    let (server, public, admin) = starved(&origin);
    let mut inside = Connection::open(public).await;
    let clients = crowd(public).await;
    eventually("all descriptors are in use", || open_files(&server) >= DESCRIPTORS).await;
    for number in 0..30 {
        let answer = inside.get(&tickets::target(&tickets::permanent(number)), "").await;
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{number}: {}", answer.text());
        assert!(answer.cache_status().contains("detail=no-descriptors"), "{}", answer.cache_status());
        assert!(answer.text().contains("open files"), "it says what to mend: {}", answer.text());
    }
    assert_eq!(origin.connections(), 0);
    let released = Instant::now();
    drop(clients);
    assert_eq!(metric(admin, "ticketgate_circuit_open").await, 0);
    let after = tickets::target(&tickets::permanent(31));
    loop {
        let answer = Connection::open(public).await.get(&after, "Connection: close\r\n").await;
        if answer.status == 200 {
            break;
        }
        // Its own connection may have taken the first that was free.
        assert!(answer.cache_status().contains("detail=no-descriptors"), "{}", answer.cache_status());
        assert!(released.elapsed() < BACK, "at once");
    }
}
