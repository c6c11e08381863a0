//! How many instructions an answer costs, which counts the same on every machine and in every run: what a busy machine
//! hides, it shows. Under valgrind, the difference of two numbers of answers, so that what comes before and after falls
//! out. `cargo bench --bench instructions` (Debian's packages `valgrind` and `libc6-dbg`).

#![expect(clippy::print_stdout, reason = "figures to read are all it is for")]

mod support;

use std::hint::black_box;
use std::process::Command;

use http::{Request, StatusCode, header};
use http_body_util::BodyExt as _;
use support::{Connection, PEER, exchanges, proxy, request, target};
use ticketgate::body::timed::TimedBody;
use tokio::runtime::Runtime;

/// Tickets that are asked for in turn.
const TICKETS: u32 = 16;
/// Answers of the shorter and of the longer run.
const RUNS: [u32; 2] = [200, 1200];

/// Answers so many times.
type Case = fn(u32);

/// What is counted.
const CASES: [(&str, Case); 3] = [
    ("an answer, without its connection", |count| answers(count, false)),
    ("a 304, without its connection", |count| answers(count, true)),
    ("an answer over a connection", connection),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match &arguments[..] {
        [case, count] => {
            let case: usize = case.parse().expect("the number of a case");
            CASES[case].1(count.parse().expect("how many answers"));
        }
        _ => count(),
    }
}

fn count() {
    let is_there = Command::new("valgrind").arg("--version").output().is_ok_and(|said| said.status.success());
    if !is_there {
        for (_, answer) in CASES {
            answer(RUNS[0]);
        }
        println!("instructions are counted by valgrind, which is not installed: apt-get install valgrind libc6-dbg");
        return;
    }
    println!("{:>12}  instructions for", "");
    for (number, (name, _)) in CASES.iter().enumerate() {
        let [few, many] = RUNS.map(|count| instructions(number, count));
        println!("{:>12}  {name}", (many - few) / u64::from(RUNS[1] - RUNS[0]));
    }
}

/// What valgrind counts of a run of its own.
fn instructions(case: usize, count: u32) -> u64 {
    let ourselves = std::env::current_exe().expect("we run");
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(ourselves);
    let said = command.args([case.to_string(), count.to_string()]).output().expect("valgrind runs");
    let text = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success(), "valgrind fails:\n{text}");
    let collected = text.lines().find_map(|line| line.split_once("Collected : "));
    collected.and_then(|(_, number)| number.trim().parse().ok()).unwrap_or_else(|| panic!("it counts nothing:\n{text}"))
}

/// `count` answers of the whole program but for its connections, the way [`ticketgate::exchange::Exchanges`] has it.
fn answers(count: u32, conditional: bool) {
    let running = proxy();
    let mut connection = Connection::open(&running);
    let targets: Vec<String> = (0..TICKETS).map(target).collect();
    let tags: Vec<String> = targets.iter().map(|target| entity_tag(connection.ask(&request(target)))).collect();
    let exchanges = exchanges(&running);
    let runtime: Runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let expected = if conditional { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
    runtime.block_on(async {
        for (target, tag) in targets.iter().zip(&tags).cycle().take(count as usize) {
            let mut request = Request::get(target).header(header::HOST, "a");
            if conditional {
                request = request.header(header::IF_NONE_MATCH, tag);
            }
            let request = request.body(TimedBody::nothing()).expect("a request");
            let response = exchanges.serve(request, PEER, None).await;
            assert_eq!(response.status(), expected);
            black_box(response.into_body().frame().await);
        }
    });
}

/// `count` answers over a keep-alive connection; our own client's writes and reads are in it.
fn connection(count: u32) {
    let running = proxy();
    let mut connection = Connection::open(&running);
    let requests: Vec<String> = (0..TICKETS).map(|number| request(&target(number))).collect();
    for request in requests.iter().cycle().take((TICKETS + count) as usize) {
        black_box(connection.ask(request));
    }
}

fn entity_tag(head: &[u8]) -> String {
    let head = std::str::from_utf8(head).expect("a head is text");
    let mut fields = head.lines().filter_map(|line| line.split_once(": "));
    fields.find(|(name, _)| *name == "etag").map(|(_, tag)| tag.to_owned()).expect("images have one")
}
