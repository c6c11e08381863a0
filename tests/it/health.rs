//! `ticketgate health` as a probe runs it: over real sockets, judged by its line and its exit code (S40).

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use tempfile::TempDir;
use ticketgate::fault::Faults;

use crate::support::proxy::Proxy;

/// What a probe sees: the exit code, standard output, standard error.
type Seen = (Option<i32>, String, String);

fn seen(command: &mut Command) -> Seen {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// The command in an empty environment.
fn health(directory: &TempDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ticketgate"));
    command.args(["health"]).args(arguments).current_dir(directory.path()).env_clear();
    command
}

fn probe(arguments: &[&str]) -> Seen {
    seen(&mut health(&TempDir::new().unwrap(), arguments))
}

fn ask(admin: SocketAddr, arguments: &[&str]) -> Seen {
    let admin = admin.to_string();
    probe(&[&["--admin", &admin], arguments].concat())
}

/// Somebody else's listener, that does as it likes with the first connection.
fn stranger(act: impl FnOnce(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || act(listener.accept().unwrap().0));
    address
}

/// Reads the request, so that closing afterwards is no reset.
fn read_request(stream: &TcpStream) {
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    assert_eq!(lines.take_while(|line| !line.is_empty()).count(), 3);
}

fn no(address: SocketAddr, path: &str, reason: &str) -> Seen {
    (Some(1), String::new(), format!("ticketgate: http://{address}{path}: {reason}\n"))
}

#[test]
fn a_server_that_is_ready_is_said_to_be_so_and_exits_0() {
    let proxy = Proxy::configured(Faults::default(), |_| {});
    let admin = proxy.admin();
    assert_eq!(ask(admin, &[]), (Some(0), format!("http://{admin}/readyz: ready\n"), String::new()));
    assert_eq!(ask(admin, &["--live"]), (Some(0), format!("http://{admin}/healthz: alive\n"), String::new()));
}

#[test]
fn a_server_that_drains_is_alive_but_not_ready() {
    let proxy = Proxy::configured(Faults::default(), |_| {});
    proxy.running.drain();
    assert_eq!(ask(proxy.admin(), &[]), no(proxy.admin(), "/readyz", "draining (503)"));
    assert_eq!(ask(proxy.admin(), &["--live"]).0, Some(0));
}

#[test]
fn nobody_there_exits_1_and_says_so() {
    // Bound and not listening: refused, and nobody else can have the port.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let (code, out, told) = ask(address, &[]);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(told.starts_with(&format!("ticketgate: http://{address}/readyz: not reachable: ")), "{told}");
}

#[test]
fn a_listener_that_never_answers_is_left_after_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    assert_eq!(ask(address, &["--timeout", "50ms"]), no(address, "/readyz", "no answer within 50ms"));
}

#[test]
fn the_deadline_is_for_the_whole_answer_and_not_for_each_byte() {
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let address = stranger(move |mut stream| {
        // A byte whenever the deadline of a single read would be half over.
        while ended.recv_timeout(std::time::Duration::from_millis(50)).is_err() && stream.write_all(b"H").is_ok() {}
    });
    assert_eq!(ask(address, &["--timeout", "100ms"]), no(address, "/readyz", "no answer within 100ms"));
    drop(end);
}

#[test]
fn what_is_no_http_is_said_to_be_none_however_much_of_it_comes() {
    let greeting = stranger(|mut stream| {
        stream.write_all(b"220 mail.example ready\r\n").unwrap();
        read_request(&stream);
    });
    assert_eq!(ask(greeting, &[]), no(greeting, "/readyz", "what answers there speaks no HTTP/1"));
    let endless = stranger(|mut stream| while stream.write_all(&[b'x'; 4096]).is_ok() {});
    assert_eq!(ask(endless, &[]), no(endless, "/readyz", "what answers there speaks no HTTP/1"));
    let short = stranger(|mut stream| {
        read_request(&stream);
        stream.write_all(b"HTTP/1.1 200").unwrap();
    });
    assert_eq!(ask(short, &[]), no(short, "/readyz", "what answers there speaks no HTTP/1"));
}

#[test]
fn a_connection_that_closes_without_an_answer_is_told_apart_from_silence() {
    let address = stranger(|stream| read_request(&stream));
    assert_eq!(ask(address, &[]), no(address, "/readyz", "closed without an answer"));
}

#[test]
fn another_server_on_that_port_is_not_taken_for_a_healthy_one() {
    let address = stranger(|mut stream| {
        read_request(&stream);
        stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").unwrap();
    });
    let reason = "answered 404; is it ticketgate's operator listener?";
    assert_eq!(ask(address, &[]), no(address, "/readyz", reason));
}

#[test]
fn the_listener_is_found_where_serve_would_put_it() {
    let proxy = Proxy::configured(Faults::default(), |_| {});
    let port = proxy.admin().port();
    let ready = format!("http://127.0.0.1:{port}/readyz: ready\n");
    let directory = TempDir::new().unwrap();
    let by_variable = seen(health(&directory, &[]).env("TICKETGATE_ADMIN_LISTEN", format!("0.0.0.0:{port}")));
    assert_eq!(by_variable, (Some(0), ready.clone(), String::new()), "everywhere is loopback too");
    std::fs::write(directory.path().join("own.toml"), format!("[admin]\nlisten = \"127.0.0.1:{port}\"\n")).unwrap();
    assert_eq!(seen(&mut health(&directory, &["--config", "own.toml"])).1, ready);
    std::fs::rename(directory.path().join("own.toml"), directory.path().join("ticketgate.toml")).unwrap();
    assert_eq!(seen(&mut health(&directory, &[])).1, ready);
    let mut before = Command::new(env!("CARGO_BIN_EXE_ticketgate"));
    before.args(["--admin-listen", &format!("127.0.0.1:{port}"), "health"]).env_clear();
    assert_eq!(seen(&mut before).1, ready);
}

#[test]
fn bad_usage_and_a_bad_configuration_exit_2() {
    let directory = TempDir::new().unwrap();
    for (variable, value, told) in [
        ("TICKETGATE_ADMIN_LISTEN", "off", "ticketgate: admin.listen is off, there is nobody to ask\n"),
        ("TICKETGATE_ADMIN_LISTEN", "127.0.0.1:0", "ticketgate: port 0 is picked at the start; "),
        ("TICKETGATE_CACHE_MEMORY", "lots", "environment TICKETGATE_CACHE_MEMORY: "),
    ] {
        let (code, _, error) = seen(health(&directory, &[]).env(variable, value));
        assert_eq!(code, Some(2), "{value}");
        assert!(error.starts_with(told), "{error}");
    }
    for usage in [["--timeout", "0s"], ["--timeout", "soon"], ["--admin", "localhost"], ["--dead", "x"]] {
        assert_eq!(probe(&usage).0, Some(2), "{usage:?}");
    }
}

#[test]
fn a_broken_configuration_makes_no_running_server_ill_when_its_address_is_named() {
    let proxy = Proxy::configured(Faults::default(), |_| {});
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("ticketgate.toml"), "nonsense").unwrap();
    assert_eq!(seen(&mut health(&directory, &["--admin", &proxy.admin().to_string()])).0, Some(0));
}
