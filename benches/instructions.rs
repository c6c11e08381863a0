//! How many instructions an answer costs, which counts the same on every machine and in every run: what a busy machine
//! hides, it shows. Under valgrind, the difference of two numbers of answers, so that what comes before and after falls
//! out. `cargo bench --bench instructions` (Debian's packages `valgrind` and `libc6-dbg`).

#![expect(clippy::print_stdout, reason = "figures to read are all it is for")]

use std::hint::black_box;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;

use http::{Request, StatusCode, header};
use http_body_util::BodyExt as _;
use ticketgate::app::{App, Running, Surroundings};
use ticketgate::body::timed::TimedBody;
use ticketgate::config::Config;
use ticketgate::exchange::{Exchanges, Records};
use ticketgate::log::Control;
use ticketgate::moment::Wall;
use ticketgate::peer::{Peer, Scheme};
use ticketgate::proxy::Proxy;
use ticketgate::ticket::{Validity, mint};
use tokio::runtime::Runtime;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// As large as WeChat's own (28,026 bytes).
const IMAGE: usize = 28_026;
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

/// `count` answers of the whole program but for its connections, the way [`Exchanges`] has it.
fn answers(count: u32, conditional: bool) {
    let running = proxy();
    let public = running.addresses().public.expect("it is on");
    let mut stream = TcpStream::connect(public).expect("it listens");
    let (mut buffer, mut tags) = (vec![0; 2 * IMAGE], Vec::new());
    let targets: Vec<String> = (0..TICKETS).map(target).collect();
    for target in &targets {
        tags.push(entity_tag(round_trip(&mut stream, &request(target), &mut buffer)));
    }
    let proxy = Proxy { shared: running.reload().shared(), forward: None };
    let clock = proxy.shared.clock.clone();
    let exchanges = Exchanges::new(proxy, Records::new(Arc::clone(running.metrics()), clock, Control::default(), None));
    let runtime: Runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let peer = Peer { address: ([127, 0, 0, 1], 4000).into(), scheme: Scheme::Http };
    let expected = if conditional { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
    runtime.block_on(async {
        for (target, tag) in targets.iter().zip(&tags).cycle().take(count as usize) {
            let mut request = Request::get(target).header(header::HOST, "a");
            if conditional {
                request = request.header(header::IF_NONE_MATCH, tag);
            }
            let request = request.body(TimedBody::nothing()).expect("a request");
            let response = exchanges.serve(request, peer, None).await;
            assert_eq!(response.status(), expected);
            black_box(response.into_body().frame().await);
        }
    });
}

/// `count` answers over a keep-alive connection; our own client's writes and reads are in it.
fn connection(count: u32) {
    let running = proxy();
    let mut stream = TcpStream::connect(running.addresses().public.expect("it is on")).expect("it listens");
    let mut buffer = vec![0; 2 * IMAGE];
    let requests: Vec<String> = (0..TICKETS).map(|number| request(&target(number))).collect();
    for request in requests.iter().cycle().take((TICKETS + count) as usize) {
        black_box(round_trip(&mut stream, request, &mut buffer));
    }
}

fn target(number: u32) -> String {
    let url = format!("http://weixin.qq.com/q/{number:022}");
    let ticket = mint(&url, Wall::from_unix(1_700_000_000), Validity::Permanent).expect("it fits");
    format!("/cgi-bin/showqrcode?ticket={}", ticket.replace('=', "%3D"))
}

/// Sends one request and reads the whole answer; tells its head. Frugal, since what it costs is counted too.
fn round_trip<'a>(stream: &mut TcpStream, request: &str, buffer: &'a mut [u8]) -> &'a [u8] {
    stream.write_all(request.as_bytes()).expect("the proxy reads");
    let mut read = 0;
    loop {
        read += stream.read(&mut buffer[read..]).expect("the proxy answers");
        let head = read.saturating_sub(IMAGE);
        if buffer[..head].ends_with(b"\r\n\r\n") {
            assert!(buffer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buffer[..head]));
            return &buffer[..head];
        }
    }
}

fn request(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")
}

fn entity_tag(head: &[u8]) -> String {
    let head = std::str::from_utf8(head).expect("a head is text");
    let mut fields = head.lines().filter_map(|line| line.split_once(": "));
    fields.find(|(name, _)| *name == "etag").map(|(_, tag)| tag.to_owned()).expect("images have one")
}

/// Answers every request with an image that may be kept for a week. Ends with the process.
fn origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = [0; 4096];
            while stream.read(&mut head).is_ok_and(|read| read > 0) {
                let fields = format!("Cache-Control: max-age=604800\r\nContent-Length: {IMAGE}\r\nETag: \"a\"\r\n\r\n");
                let mut answer = format!("HTTP/1.1 200 OK\r\n{fields}").into_bytes();
                answer.extend_from_slice(b"\xff\xd8\xff");
                answer.resize(answer.len() - 3 + IMAGE, 0);
                if stream.write_all(&answer).is_err() {
                    break;
                }
            }
        }
    });
    address
}

fn proxy() -> Running {
    let mut config = Config::default();
    config.server.listen = Some(([127, 0, 0, 1], 0).into());
    config.admin.listen = None;
    config.log.access = false;
    config.origin.url = format!("http://{}", origin()).parse().expect("an address makes a URL");
    let budget = config.limits.client_requests.as_mut().expect("it is on");
    // A bench asks more often than any browser; it is counted all the same.
    budget.rate = 1e6;
    App::bind(config, Surroundings::default()).and_then(App::start).expect("it starts")
}
