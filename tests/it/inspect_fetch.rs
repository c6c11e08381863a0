//! `ticketgate inspect --fetch`: what the origin really sends, told for a bug report (S40); and the pages that are made of the
//! commands' own description.

use std::process::{Command, Stdio};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use crate::support::command::ticketgate;
use crate::support::origin::{Answer, Origin, Then, jpeg, read_head};
use crate::support::proxy::Proxy;
use crate::support::tickets;
use crate::support::tls::{Authority, HTTP_1, HTTP_2};

type Seen = (Option<i32>, String, String);

async fn seen(mut command: Command) -> Seen {
    let running = move || {
        let output = command.stdin(Stdio::null()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    tokio::task::spawn_blocking(running).await.unwrap()
}

async fn fetch(arguments: &[&str]) -> Seen {
    let directory = TempDir::new().unwrap();
    seen(ticketgate(&directory, &[&["inspect", "--fetch"], arguments].concat())).await
}

/// What is told of `ticket`, which `origin` answers for, as JSON.
async fn told(origin: &str, ticket: &str) -> (Option<i32>, Value, String) {
    let (code, out, err) = fetch(&["--json", "--origin", origin, ticket]).await;
    (code, serde_json::from_str::<Value>(&out).unwrap_or_else(|_| panic!("{out} {err}"))["fetch"].take(), err)
}

/// The request without what differs from one process and origin to another.
fn plain(head: &str, origin: &Origin) -> String {
    let head = head.replace(&origin.address.to_string(), "ORIGIN");
    let (before, hop) = head.split_once("1.1 ticketgate (").expect("our hop");
    format!("{before}HOP{}", hop.split_once(')').unwrap().1)
}

#[tokio::test(flavor = "multi_thread")]
async fn it_sends_the_proxys_own_request_and_prints_both_heads_as_they_stood_on_the_wire() {
    let fields = "Content-Type: image/jpg\r\nX-odd-CASE: 1\r\nCache-control: max-age=604800\r\n";
    let origin = Origin::answering(Answer::of(200, fields, &jpeg())).await;
    let ticket = tickets::permanent(1);
    let (code, out, err) = fetch(&["--origin", &origin.url(), &ticket]).await;
    assert_eq!((code, &*err), (Some(0), ""));
    let proxy = Proxy::before(&origin);
    proxy.image(&ticket).await;
    let [by_hand, by_proxy] = &origin.heads()[..] else { panic!("one request each") };
    assert_eq!(plain(by_hand, &origin), plain(by_proxy, &origin));
    let heads: Vec<_> = out.lines().filter(|line| line.starts_with(['<', '>'])).collect();
    let marked =
        |mark: &str, head: &str| head.trim_end().lines().map(|line| format!("{mark} {line}")).collect::<Vec<_>>();
    let answered = format!("HTTP/1.1 200 Whatever\n{}Content-Length: 2000", fields.replace('\r', ""));
    assert_eq!(heads, [marked(">", by_hand), marked("<", &answered)].concat());
    let hash = Sha256::digest(jpeg()).iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
    for part in [
        "recognised  yes",
        &format!("origin      {}/ ({})", origin.url(), origin.address),
        "body        2000 bytes, image/jpeg",
        &format!("SHA-256     {hash}"),
        "ff d8 ff e0 00 10 4a 46 49 46 00 00 01 02 03 04  |......JFIF......|",
        "times       connected after ",
        "the proxy   stores it: fresh for 7days, of use for 1month 6days",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_image_exits_1_with_what_came_and_what_clients_are_told() {
    let over = Answer::raw("HTTP/1.1 200 OK\r\n\r\n", Then::Close);
    let cut = Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfour", Then::Close);
    let encoded = Answer::of(200, "Content-Encoding: gzip\r\n", b"\x1f\x8b\x08");
    let away = Answer::of(302, "Location: https://elsewhere.example/\r\n", b"");
    let limited = Answer::of(429, "Retry-After: 7\r\n", b"slow");
    let terminal = Answer::of(500, "", b"\x1b[2J");
    for (answer, reason, told_of, bytes) in [
        (Answer::of(404, "", b"unknown"), "unknown-ticket", "remembers it for 10s", json!(7)),
        (Answer::of(200, "Content-Type: image/jpeg\r\n", b"<html>no"), "not-an-image", "without an image", json!(8)),
        (terminal, "origin-status", "passes the 500 on", json!(4)),
        (limited, "origin-429", "answers 503", json!(4)),
        (encoded, "encoded", "answers 502", Value::Null),
        (cut, "cut", "answers 502", Value::Null),
        (over, "close-delimited", "answers 502", Value::Null),
        (away, "unexpected-status", "answers 502", Value::Null),
        (Answer::raw("220 \x1b[2Jmail\r\n\r\n", Then::Close), "malformed", "is not HTTP", Value::Null),
    ] {
        let origin = Origin::answering(answer.clone()).await;
        let (code, told, err) = told(&origin.url(), &tickets::permanent(1)).await;
        let proxy = &told["proxy"];
        assert_eq!((code, &proxy["image"], &proxy["stored"]), (Some(1), &json!(false), &json!(false)), "{told:#}");
        assert!(err.starts_with("ticketgate: ") && err.contains(told_of), "{told_of}: {err}");
        assert_eq!(proxy["reason"], reason, "{told:#}");
        assert_eq!(told["body"]["bytes"], bytes, "{reason}: {told:#}");
        assert_eq!(origin.count(), 1, "{reason}: asked once");
        let (_, out, _) = fetch(&["--origin", &origin.url(), &tickets::permanent(1)]).await;
        assert!(!out.contains('\x1b'), "{out:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_may_not_be_kept_is_an_image_and_the_reason_is_told() {
    let origin = Origin::answering(Answer::image_with("Cache-Control: no-store\r\n")).await;
    let (code, told, _) = told(&origin.url(), &tickets::permanent(1)).await;
    assert_eq!((code, &told["proxy"]["image"]), (Some(0), &json!(true)));
    assert_eq!((&told["proxy"]["stored"], &told["proxy"]["reason"]), (&json!(false), &json!("no-store")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_is_not_there_is_told_with_the_request_that_would_have_been_sent() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (code, told, err) = told(&format!("http://{gone}"), "ticket").await;
    assert_eq!(
        (code, &told["answer"], &told["peer"], &told["connected_ms"]),
        (Some(1), &Value::Null, &Value::Null, &Value::Null)
    );
    assert_eq!(told["request"]["line"], "GET /cgi-bin/showqrcode?ticket=ticket HTTP/1.1");
    assert_eq!(told["request"]["fields"][0], json!(["host", gone.to_string()]));
    assert!(err.contains("answers 502: the QR code origin cannot be reached"), "{err}");
}

/// An origin behind TLS that answers one connection, by `answer`.
async fn behind_tls(authority: &Authority, alpn: &[&[u8]]) -> u16 {
    let acceptor = authority.acceptor("localhost", alpn);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let Ok(mut stream) = acceptor.accept(listener.accept().await.unwrap().0).await else { return };
        if stream.get_ref().1.alpn_protocol() == Some(HTTP_2) {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let head = http::Response::builder().header("cache-control", "max-age=60").body(()).unwrap();
                respond.send_response(head, false).unwrap().send_data(jpeg().into(), true).unwrap();
            }
            return;
        }
        read_head(&mut stream, &mut Vec::new()).await.unwrap();
        stream.write_all(&Answer::image().bytes).await.unwrap();
        std::future::pending::<()>().await;
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_the_versions_are_told_and_a_certificate_that_does_not_hold_too() {
    let authority = Authority::new();
    let directory = TempDir::new().unwrap();
    let command = |port: u16| {
        ticketgate(&directory, &["inspect", "--fetch", "--json", "--origin", &format!("https://localhost:{port}"), "t"])
    };
    for (alpn, line, answer, first) in [
        (HTTP_1, "GET /cgi-bin/showqrcode?ticket=t HTTP/1.1", "HTTP/1.1 200 Whatever", "user-agent"),
        (HTTP_2, "GET /cgi-bin/showqrcode?ticket=t HTTP/2", "HTTP/2 200", ":authority"),
    ] {
        let port = behind_tls(&authority, &[alpn]).await;
        let mut command = command(port);
        command.env("TICKETGATE_ORIGIN_CA_FILE", authority.ca_file());
        let (code, out, err) = seen(command).await;
        let told: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{err}"));
        let told = &told["fetch"];
        assert_eq!(
            (code, &told["tls"], &told["answer"]["line"]),
            (Some(0), &json!("TLSv1_3"), &json!(answer)),
            "{told:#}"
        );
        assert_eq!((&told["request"]["line"], &told["request"]["fields"][0][0]), (&json!(line), &json!(first)));
        assert_eq!(told["body"]["bytes"], 2000);
    }
    let port = behind_tls(&authority, &[HTTP_1]).await;
    let (code, _, err) = seen(command(port)).await;
    assert!(
        code == Some(1) && err.contains("certificate is not trusted; check origin.url and origin.ca_file"),
        "{err}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_server_is_not_asked_and_bad_usage_exits_2() {
    for (arguments, told) in [
        (&["inspect", "--origin", "http://127.0.0.1:1", "t"][..], "--fetch"),
        (&["--origin", "http://127.0.0.1:1", "inspect", "t"], "without --fetch"),
        (&["inspect", "--fetch", "--origin", "nonsense", "t"], "origin.url"),
        (&["inspect", "--fetch", "--config", "absent.toml", "t"], "absent.toml"),
    ] {
        let (code, out, err) = seen(ticketgate(&TempDir::new().unwrap(), arguments)).await;
        assert!((code, &*out) == (Some(2), "") && err.contains(told), "{arguments:?}: {err}");
    }
    let (code, _, err) = fetch(&["--origin", "http://127.0.0.1:1", ""]).await;
    assert!(code == Some(1) && err.contains("the ticket is empty"), "{err}");
}

/// Every command, as the help names them.
fn commands() -> Vec<String> {
    let output = ticketgate(&TempDir::new().unwrap(), &["--help"]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = listed.filter(|line| !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

#[test]
fn the_manual_page_has_every_command_with_its_examples() {
    let page = ticketgate(&TempDir::new().unwrap(), &["man"]).output().unwrap();
    assert_eq!(page.status.code(), Some(0));
    let page = String::from_utf8(page.stdout).unwrap();
    assert!(page.contains(".TH ticketgate 1"), "{page}");
    let commands = commands();
    assert!(commands.iter().any(|name| name == "warm") && commands.len() >= 9, "{commands:?}");
    for command in commands {
        let section =
            page.split(&format!(".SS ticketgate {command}\n")).nth(1).unwrap_or_else(|| panic!("no {command}"));
        let section = section.split("\n.S").next().unwrap();
        assert!(section.contains("Example"), "{command} has no example: {section}");
        let help = ticketgate(&TempDir::new().unwrap(), &[&command, "--help"]).output().unwrap();
        assert!(String::from_utf8(help.stdout).unwrap().contains("Example"), "{command}");
    }
}

#[test]
fn completions_are_printed_for_each_shell_and_bash_accepts_its_own() {
    let directory = TempDir::new().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = ticketgate(&directory, &["completions", shell]).output().unwrap();
        assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b""[..]), "{shell}");
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(commands().iter().all(|name| script.contains(name.as_str())), "{shell}");
        std::fs::write(directory.path().join(shell), script).unwrap();
    }
    assert_eq!(ticketgate(&directory, &["completions", "tcsh"]).output().unwrap().status.code(), Some(2));
    // Where there is a bash.
    if let Ok(status) = Command::new("bash").arg("-n").arg(directory.path().join("bash")).status() {
        assert!(status.success());
    }
}
