//! The commands that ask a running server: `warm` and `purge`, as a person or a job runs them (S40).

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use ticketgate::admin::token::Token;
use ticketgate::fault::Faults;

use crate::support::command::{ON_FREE_PORTS, Server, address, ticketgate};
use crate::support::eventually;
use crate::support::origin::{Answer, Origin, Then};
use crate::support::proxy::Proxy;
use crate::support::tickets;

const CANARY: &str = "canary-0123456789-token";

/// What whoever runs a command sees.
#[derive(Debug, PartialEq)]
struct Seen {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Seen {
    fn of(child: Child) -> Self {
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let seen = Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) };
        assert!(!format!("{seen:?}").contains(CANARY), "the token is told: {seen:?}");
        seen
    }

    /// What came of warming, without the time it took.
    fn tally(&self) -> &str {
        self.out.split_once("; ").expect("a summary").0
    }
}

fn start(mut command: Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Runs it to its end, with `input` to read.
async fn run(command: Command, input: impl Into<String>) -> Seen {
    let input = input.into();
    let running = move || {
        let mut child = start(command);
        // Who ends early leaves a closed pipe.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        Seen::of(child)
    };
    tokio::task::spawn_blocking(running).await.unwrap()
}

/// A command that asks `admin`, in an empty directory.
fn asking(admin: SocketAddr, arguments: &[&str]) -> Command {
    let mut command = ticketgate(&TempDir::new().unwrap(), arguments);
    command.args(["--admin", &admin.to_string()]).current_dir(std::env::temp_dir());
    command
}

async fn warm(admin: SocketAddr, list: impl Into<String>) -> Seen {
    run(asking(admin, &["warm", "-"]), list).await
}

fn tally(stored: u32, held: u32, failed: u32, rubbish: u32) -> String {
    format!("{stored} stored, {held} already held, 0 not stored, {failed} failed, {rubbish} rubbish")
}

#[tokio::test(flavor = "multi_thread")]
async fn warming_a_file_names_what_is_rubbish_or_fails_and_goes_on_with_the_rest() {
    let origin = Origin::start(|_, head| match head {
        head if head.contains("layout404") => Answer::of(404, "", b"no"),
        _ => Answer::image(),
    })
    .await;
    let proxy = Proxy::before(&origin);
    let mut list = "# codes of the shop\n\n".to_owned();
    for number in 0..300 {
        writeln!(list, "{}", tickets::permanent(number)).unwrap();
        match number {
            10 => list.push_str("{\"errcode\": 40001}\n"),
            150 => list.push_str("layout404\n"),
            200 => writeln!(list, "{}", "x".repeat(600)).unwrap(),
            250 => list.push_str("tick\u{7}et\n"),
            _ => {}
        }
    }
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("tickets.txt"), list).unwrap();
    let admin = proxy.admin().to_string();
    let command = || ticketgate(&directory, &["warm", "tickets.txt", "--admin", &admin]);
    let seen = run(command(), "").await;
    assert_eq!((seen.tally(), seen.code), (&*tally(300, 0, 1, 3), Some(1)), "{seen:?}");
    let named: Vec<_> = seen.err.lines().collect();
    assert_eq!(named.len(), 4, "no line for a success: {}", seen.err);
    for (line, told) in [
        (14, "JSON of a ticket is"),
        (155, "(f895802a): failed: unknown-ticket"),
        (206, "longer than 512"),
        (257, "control"),
    ] {
        let begins = format!("ticketgate: line {line}");
        assert!(
            named.iter().any(|named| named.starts_with(&begins) && named.contains(told)),
            "{line} {told}: {named:?}"
        );
    }
    assert_eq!(origin.count(), 301, "once each");
    assert!(proxy.image(&tickets::permanent(299)).await.cache_status().contains("hit"));
    let again = run(command(), "").await;
    assert_eq!(again.tally(), tally(0, 300, 1, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn warming_from_standard_input_takes_tickets_as_they_come_in_any_form() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::before(&origin);
    let mut child = start(asking(proxy.admin(), &["warm", "-"]));
    let mut input = child.stdin.take().unwrap();
    writeln!(input, "{}", tickets::permanent(0)).unwrap();
    eventually("the first is stored while others are to come", || proxy.running.reading().image_entries == 1).await;
    writeln!(input, "https://mp.weixin.qq.com{}", tickets::target(&tickets::permanent(1))).unwrap();
    writeln!(input, "{}", json!(tickets::permanent(2))).unwrap();
    write!(input, "{}", json!({ "ticket": tickets::permanent(3), "expire_seconds": 60, "url": "" })).unwrap();
    drop(input);
    let seen = tokio::task::spawn_blocking(|| Seen::of(child)).await.unwrap();
    assert_eq!((seen.tally(), seen.code, &*seen.err), (&*tally(4, 0, 0, 0), Some(0), ""));
    assert_eq!(warm(proxy.admin(), "").await.tally(), tally(0, 0, 0, 0), "nothing is nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_comes_from_the_environment_or_the_configuration_and_is_never_told() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&origin, |config| config.admin.token = Token::of(CANARY));
    let one = tickets::permanent(1);
    let given = |token: &str| {
        let mut command = asking(proxy.admin(), &["warm", "-"]);
        command.env("TICKETGATE_ADMIN_TOKEN", token);
        command
    };
    let missing = warm(proxy.admin(), &one).await;
    let told =
        format!("ticketgate: http://{}/warm: it wants the token (401): set TICKETGATE_ADMIN_TOKEN ", proxy.admin());
    assert_eq!((missing.code, missing.tally()), (Some(1), &*tally(0, 0, 0, 0)));
    assert!(missing.err.starts_with(&told), "{}", missing.err);
    let wrong = run(given("canary-0123456789-tokem"), &one).await;
    assert!(wrong.code == Some(1) && wrong.err.contains("the token is wrong (401)"), "{wrong:?}");
    assert!(!wrong.err.contains("tokem"), "{wrong:?}");
    let none = run(given("two words"), &one).await;
    assert_eq!(none.code, Some(2), "{none:?}");
    assert_eq!(
        none.err,
        "ticketgate: admin.token (TICKETGATE_ADMIN_TOKEN) holds no token of 1 to 512 visible ASCII characters\n"
    );
    assert_eq!(origin.count(), 0);
    assert_eq!(run(given(CANARY), &one).await.code, Some(0));
    let directory = TempDir::new().unwrap();
    let listen = format!("[admin]\nlisten = \"{}\"\n", proxy.admin());
    std::fs::write(directory.path().join("secret"), format!("{CANARY}\n")).unwrap();
    for token in [format!("token = \"{CANARY}\"\n"), "token_file = \"secret\"\n".to_owned()] {
        std::fs::write(directory.path().join("ticketgate.toml"), format!("{listen}{token}")).unwrap();
        let seen = run(ticketgate(&directory, &["warm", "-"]), &one).await;
        assert_eq!((seen.code, seen.tally()), (Some(0), &*tally(0, 1, 0, 0)), "{seen:?}");
    }
    let by_file = run(
        {
            let mut command = asking(proxy.admin(), &["purge", "--all"]);
            command.env("TICKETGATE_ADMIN_TOKEN_FILE", directory.path().join("secret"));
            command
        },
        "",
    );
    assert_eq!(by_file.await.out, "purged everything; 1 were held\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_gone_in_the_middle_ends_it_with_what_was_done() {
    let origin = Origin::start(|number, _| match number {
        0..5 => Answer::image(),
        _ => Answer::raw("", Then::Hang),
    })
    .await;
    let mut server = Server::start(&[&ON_FREE_PORTS[..], &["--origin", &origin.url()]].concat());
    let admin = address(&server.log_line_saying("listening"), "admin");
    let mut child = start(asking(admin, &["warm", "-"]));
    let list: String = (0..40).fold(String::new(), |list, number| list + &tickets::permanent(number) + "\n");
    child.stdin.take().unwrap().write_all(list.as_bytes()).unwrap();
    origin.has_been_asked(6).await;
    server.signal(Signal::KILL);
    let seen = tokio::task::spawn_blocking(|| Seen::of(child)).await.unwrap();
    // Some may have been on their way to the command.
    assert!((0..=5).any(|told| seen.tally() == tally(told, 0, 0, 0)) && seen.code == Some(1), "{seen:?}");
    assert!(seen.err.starts_with(&format!("ticketgate: http://{admin}/warm: ")), "{seen:?}");
    assert_eq!(seen.err.lines().count(), 1, "{seen:?}");
    let after = warm(admin, list).await;
    assert!(after.code == Some(1) && after.err.contains("not reachable: "), "{after:?}");
}

/// Reads a request and returns its head and body.
fn request(stream: &TcpStream) -> (String, Value) {
    let mut from = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(from.read_line(&mut head).unwrap() > 0, "{head}");
    }
    let length =
        head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length").parse().unwrap();
    let mut body = String::new();
    from.take(length).read_to_string(&mut body).unwrap();
    (head, serde_json::from_str(&body).unwrap())
}

/// Somebody at an admin listener's address, who answers one connection and closes it; what was asked.
fn stranger(answer: String) -> (SocketAddr, std::thread::JoinHandle<(String, Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serving = move || {
        let (mut stream, _) = listener.accept().unwrap();
        let request = request(&stream);
        stream.write_all(answer.as_bytes()).unwrap();
        request
    };
    (address, std::thread::spawn(serving))
}

fn told_in_lines(lines: &[Value], is_whole: bool) -> String {
    let chunk = |line: &Value| format!("{:x}\r\n{line}\n\r\n", line.to_string().len() + 1);
    let chunks: String = lines.iter().map(chunk).collect();
    let end = if is_whole { "0\r\n\r\n" } else { "" };
    format!("HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}{end}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_ends_early_is_followed_by_another_for_what_is_left() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::<Mutex<Vec<usize>>>::default();
    let calls = Arc::clone(&asked);
    // Tells of the first half of whatever it is asked for, the last place first, and closes. Ends with the process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let wanted = request(&stream).1["tickets"].as_array().unwrap().len();
            calls.lock().unwrap().push(wanted);
            let lines: Vec<_> =
                (0..wanted.div_ceil(2)).rev().map(|n| json!({ "index": n, "result": "stored" })).collect();
            stream.write_all(told_in_lines(&lines, wanted == 1).as_bytes()).unwrap();
        }
    });
    let seen = warm(address, (0..40).fold(String::new(), |list, number| format!("{list}t{number}\n"))).await;
    assert_eq!((seen.tally(), seen.code, &*seen.err), (&*tally(40, 0, 0, 0), Some(0), ""));
    let asked = asked.lock().unwrap().clone();
    assert!(asked.len() > 1, "{asked:?}");
    let told: usize = asked.iter().map(|wanted| wanted.div_ceil(2)).sum();
    assert_eq!(told, 40, "what is done is not asked for again: {asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_may_not_keep_or_says_nothing_of_is_named() {
    for (lines, summary, named) in [
        (vec![json!({ "index": 0, "result": "not-stored", "reason": "no-store" })], (1, 0), ": not stored: no-store\n"),
        (vec![json!({ "result": "failed", "reason": "panicked" })], (0, 1), ": failed: no-answer\n"),
        (vec![json!({ "index": 7, "result": "stored" })], (0, 1), ": failed: no-answer\n"),
    ] {
        let (address, serving) = stranger(told_in_lines(&lines, true));
        let seen = warm(address, "t").await;
        assert_eq!(serving.join().unwrap().1, json!({ "tickets": ["t"] }));
        let (kept, failed) = summary;
        let told = format!("0 stored, 0 already held, {kept} not stored, {failed} failed, 0 rubbish");
        assert_eq!((seen.tally(), seen.code), (&*told, Some(failed)));
        assert!(seen.err.starts_with("ticketgate: line 1 (") && seen.err.ends_with(named), "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_else_answers_there_is_not_taken_for_a_server_and_nothing_of_the_token_is_repeated() {
    let of = |status: &str, fields: &str, body: &str| {
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{fields}\r\n{body}", body.len())
    };
    let ours = "Content-Type: text/plain; charset=utf-8\r\n";
    let echo = format!("who is Bearer {CANARY}?\n");
    for (answer, told) in [
        (of("200 OK", "Content-Type: text/html\r\n", "<html>"), "answered 200; is it ticketgate's operator listener?"),
        (of("404 Not Found", ours, "no"), "answered 404; is it ticketgate's operator listener?"),
        (of("500 Oops", "", &echo), "answered 500; is it ticketgate's operator listener?"),
        (of("400 Bad Request", ours, &echo), "refused (400): who is Bearer ***?"),
        (
            of("413 Payload Too Large", ours, "the body has more than 1048576 bytes\n"),
            "refused (413): the body has more",
        ),
        (
            of("403 Forbidden", ours, "off loopback this needs a token\n"),
            "refused (403): off loopback this needs a token",
        ),
        ("220 mail.example ready\r\n".to_owned(), "what answers there is no operator's listener of ticketgate"),
        (String::new(), "the connection broke: "),
    ] {
        for command in [&["warm", "-"][..], &["purge", "--all"]] {
            let (address, serving) = stranger(answer.clone());
            let mut command = asking(address, command);
            command.env("TICKETGATE_ADMIN_TOKEN", CANARY);
            let seen = run(command, "ticket\n").await;
            let (head, _) = serving.join().unwrap();
            assert!(head.contains(&format!("authorization: Bearer {CANARY}\r\n")), "{head}");
            assert!(seen.code == Some(1) && seen.err.contains(told), "{answer}: {seen:?}");
            assert!(!seen.out.contains("purged"), "{seen:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_ends_it_with_what_was_done() {
    let origin = Origin::start(|number, _| match number {
        0 => Answer::image(),
        _ => Answer::raw("", Then::Hang),
    })
    .await;
    let proxy = Proxy::before(&origin);
    let mut child = start(asking(proxy.admin(), &["warm", "-"]));
    let mut input = child.stdin.take().unwrap();
    write!(input, "{}\n{}\n", tickets::permanent(0), tickets::permanent(1)).unwrap();
    origin.has_been_asked(2).await;
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let seen = tokio::task::spawn_blocking(|| Seen::of(child)).await.unwrap();
    assert_eq!(seen.code, Some(1), "{seen:?}");
    assert!(seen.err.contains("ticketgate: interrupted"), "{seen:?}");
    assert!(seen.tally().contains("0 failed, 0 rubbish"), "{seen:?}");
    drop(input);
}

#[tokio::test(flavor = "multi_thread")]
async fn purging_says_how_many_were_held_and_only_those_are_fetched_anew() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::before(&origin);
    let some: Vec<String> = (0..4).map(tickets::permanent).collect();
    for ticket in &some[..3] {
        proxy.image(ticket).await;
    }
    let url = format!("https://mp.weixin.qq.com{}", tickets::target(&some[0]));
    let two = run(asking(proxy.admin(), &["purge", &url, &some[1], &some[3]]), "").await;
    assert_eq!(two, Seen { code: Some(0), out: "purged; 2 of 3 were held\n".to_owned(), err: String::new() });
    assert!(proxy.image(&some[2]).await.cache_status().contains("hit"));
    let bad = run(asking(proxy.admin(), &["purge", &some[2], "tick\u{7}et"]), "").await;
    assert!(bad.code == Some(1) && bad.err.starts_with("ticketgate: ticket 2: "), "{bad:?}");
    assert!(bad.err.ends_with("; nothing was purged\n"), "{bad:?}");
    assert!(proxy.image(&some[2]).await.cache_status().contains("hit"));
    let all = run(asking(proxy.admin(), &["purge", "--all"]), "").await;
    assert_eq!(all.out, "purged everything; 1 were held\n");
    assert!(proxy.image(&some[2]).await.cache_status().contains("uri-miss"));
    for usage in [&["purge"][..], &["purge", "--all", "x"], &["warm"], &["warm", "-", "--token", "x"]] {
        assert_eq!(run(asking(proxy.admin(), usage), "").await.code, Some(2), "{usage:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_cannot_be_read_is_said_to_be_so() {
    let proxy = Proxy::configured(Faults::default(), |_| {});
    for (file, why) in [("absent", "No such file"), (".", "irectory")] {
        let seen = run(asking(proxy.admin(), &["warm", file]), "").await;
        assert!(seen.code == Some(1) && seen.err.contains(why), "{seen:?}");
        assert_eq!(seen.out, "");
    }
}
