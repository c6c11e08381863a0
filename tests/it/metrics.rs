//! What `/metrics` tells: in a form that scrapers read, by the names that are documented, and true.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use openmetrics_parser::openmetrics::parse_openmetrics;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;

use crate::support::api::{Api, created};
use crate::support::app::{App, rest_of, say};
use crate::support::client::Connection;
use crate::support::origin::{Answer, Origin, Then, jpeg};
use crate::support::proxy::Proxy;
use crate::support::tls::Authority;
use crate::support::{eventually, tickets};

async fn exposition(proxy: &Proxy) -> String {
    Connection::to_operator(proxy.admin()).await.get("/metrics", "").await.text().to_owned()
}

/// The count of one series; `None` when there is none.
fn value(page: &str, series: &str) -> Option<u64> {
    page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

fn read(path: &str) -> String {
    std::fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The exposition of a proxy that has seen everything which makes a series.
async fn after_everything() -> String {
    let origin = Origin::start(|number, _| match number {
        0 => Answer::image_with("Cache-Control: private\r\n"),
        1 => Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n\u{ff}", Then::Close),
        2 => Answer::of(404, "", b"no"),
        _ => Answer::image(),
    })
    .await;
    let (api, authority) = (Api::saying(&created(&tickets::permanent(9), None)).await, Authority::new());
    authority.install();
    let proxy = Proxy::with(&origin, |config| {
        api.configure(config);
        authority.configure(config);
    });
    for number in 0..4 {
        proxy.image(&tickets::permanent(number)).await;
    }
    proxy.image(&tickets::permanent(3)).await;
    proxy.get("/cgi-bin/showqrcode?ticket=").await;
    let mut app = Connection::open(proxy.relay()).await;
    for path in ["/cgi-bin/qrcode/create?access_token=x", "/elsewhere"] {
        app.send(format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{{}}")).await;
        app.response().await.unwrap();
    }
    eventually("the own image is there", || proxy.running.reading().own_entries == 1).await;
    exposition(&proxy).await
}

/// Names as a query writes them, with their type and labels.
fn told(page: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let exposition = parse_openmetrics(page).unwrap_or_else(|error| panic!("{error:?} in\n{page}"));
    let family = |family: &openmetrics_parser::MetricFamily<_, _>| {
        let kind = format!("{}", family.family_type);
        let suffix = match kind.as_str() {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        assert!(family.iter_samples().next().is_some(), "{} has a sample", family.family_name);
        assert!(!family.help.is_empty() && family.help.ends_with('.'), "{}: {}", family.family_name, family.help);
        let unit = if family.unit.is_empty() { String::new() } else { format!("_{}", family.unit) };
        assert!(family.family_name.ends_with(&unit), "{}: {}", family.family_name, family.unit);
        (format!("{}{suffix}", family.family_name), (kind, family.get_label_names().iter().cloned().collect()))
    };
    exposition.families.values().map(family).collect()
}

fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let words = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let name = words(cells.get(1)?).pop()?;
        Some((name, (cells[2].to_owned(), words(cells[3]).into_iter().collect())))
    };
    read("docs/metrics.md").lines().filter(|line| line.starts_with("| `")).filter_map(row).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_read_by_a_parser_and_stands_in_the_table_with_its_type_and_labels() {
    let page = after_everything().await;
    assert_eq!(told(&page), documented());
    assert!(page.ends_with("# EOF\n"));
    for secret in [&tickets::permanent(3), "127.0.1", "shop.example", "access_token"] {
        assert!(!page.contains(secret), "{secret} in a label:\n{page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_fill_is_told_by_kind_and_wechats_own_404_apart() {
    let page = after_everything().await;
    for (series, expected) in [
        ("ticketgate_fills_total", 5),
        ("ticketgate_fill_failures_total{reason=\"cut\"}", 1),
        ("ticketgate_image_failures_total{reason=\"cut\"}", 1),
        ("ticketgate_image_failures_total{reason=\"unknown-ticket\"}", 1),
        ("ticketgate_image_failures_total{reason=\"empty-ticket\"}", 1),
        ("ticketgate_images_not_stored_total{reason=\"private\"}", 1),
        ("ticketgate_relay_failures_total{reason=\"not-relayed\"}", 1),
        ("ticketgate_hit_duration_seconds_count", 1),
        ("ticketgate_origin_duration_seconds_count", 5),
    ] {
        assert_eq!(value(&page, series), Some(expected), "{series} in\n{page}");
    }
    assert_eq!(value(&page, "ticketgate_fill_failures_total{reason=\"unknown-ticket\"}"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_are_counted_by_where_they_came_from() {
    let app = App::start().await;
    let client = app.proxy.connect();
    let (mut client, target) = (client.await, tickets::target(&tickets::permanent(1)));
    for _ in 0..3 {
        assert_eq!(client.get(&target, "").await.body, jpeg());
    }
    assert_eq!(client.request("HEAD", &target, "").await.status, 200);
    assert_eq!(client.get(&target, "Range: bytes=0-9\r\n").await.body.len(), 10);
    let own = client.get("/cgi-bin/showqrcode?ticket=", "").await.body.len();
    client.send("GET /app HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (mut stream, ..) = app.accept().await;
    say(&mut stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
    let sent = async |source: &str| {
        value(&exposition(&app.proxy).await, &format!("ticketgate_sent_bytes_total{{source=\"{source}\"}}"))
    };
    while sent("app").await != Some(5) {}
    say(&mut stream, "6\r\n world\r\n0\r\n\r\n").await;
    assert_eq!(client.response().await.unwrap().text(), "hello world");
    let image = jpeg().len() as u64;
    let expected = [("cache", 2 * image + 10), ("origin", image), ("app", 11), ("own", own as u64), ("relay", 0)];
    for (source, bytes) in expected {
        assert_eq!(sent(source).await, Some(bytes), "{source}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_idle_between_two_requests_and_at_no_other_time() {
    let app = App::start().await;
    let page = || app.proxy.running.metrics().exposition(app.proxy.running.reading());
    let idle = || value(&page(), "ticketgate_connections_idle").unwrap();
    let open = || value(&page(), "ticketgate_connections_open").unwrap();
    let mut client = app.proxy.connect().await;
    let silent = app.proxy.connect().await;
    eventually("both are open", || open() == 2).await;
    assert_eq!(idle(), 0, "nothing was asked yet");
    client.get("/cgi-bin/showqrcode?ticket=", "").await;
    eventually("one is idle", || idle() == 1).await;
    client.send("GET /events HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (mut stream, ..) = app.accept().await;
    assert_eq!(idle(), 0, "the app thinks");
    say(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no").await;
    let mut part = client.into_stream();
    tokio::io::AsyncReadExt::read_u8(&mut part).await.unwrap();
    assert_eq!(idle(), 0, "the answer streams");
    say(&mut stream, "k").await;
    eventually("it is idle again", || idle() == 1).await;
    part.shutdown().await.unwrap();
    assert!(rest_of(&mut part).await.ends_with("\r\n\r\nok"));
    drop((part, silent));
    eventually("both are closed", || open() == 0).await;
    assert_eq!(idle(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_joins_a_fill_is_counted_and_a_refresh_in_the_background_is_not() {
    let origin = Origin::answering(Answer::image_with("Cache-Control: max-age=1\r\n")).await;
    let proxy = Proxy::before(&origin);
    origin.hold();
    let ticket = tickets::permanent(1);
    let waiting = async { tokio::join!(proxy.image(&ticket), proxy.image(&ticket), proxy.image(&ticket)) };
    let all_wait = async {
        eventually("all wait", || proxy.running.reading().waiting_for_fills == 3).await;
        origin.release();
    };
    tokio::join!(waiting, all_wait);
    let joined = async || value(&exposition(&proxy).await, "ticketgate_fills_joined_total");
    assert_eq!(joined().await, Some(2));
    proxy.hands.advance(std::time::Duration::from_secs(10));
    origin.hold();
    for _ in 0..3 {
        assert!(proxy.image(&ticket).await.cache_status().contains("stale-while-revalidate"));
    }
    assert_eq!(joined().await, Some(2), "nobody waits for it");
    origin.release();
}

/// The names that `text` speaks of.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("ticketgate_") || word.starts_with("process_")).map(str::to_owned).collect()
}

/// Every name under which a scraper stores what is told.
fn series() -> BTreeSet<String> {
    let of = |(name, (kind, _)): (String, (String, _))| match kind.as_str() {
        "histogram" => ["_bucket", "_count", "_sum"].map(|suffix| format!("{name}{suffix}")).to_vec(),
        _ => vec![name],
    };
    documented().into_iter().flat_map(of).collect()
}

#[test]
fn the_dashboard_and_the_alerts_ask_for_names_and_words_that_there_are() {
    let (dashboard, alerts) = (read("deploy/grafana-dashboard.json"), read("deploy/alerts.yaml"));
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let expressions = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let mut expressions: Vec<&str> = expressions.map(|target| target["expr"].as_str().unwrap()).collect();
    assert!(expressions.len() > 20);
    expressions.push(&alerts);
    let (series, words) = (series(), read("docs/metrics.md"));
    for text in expressions {
        let unknown: Vec<_> = names(text).difference(&series).cloned().collect();
        assert!(unknown.is_empty(), "{unknown:?} in {text}");
        let matched = text.split("~\"").skip(1).filter_map(|rest| rest.split('"').next());
        for word in matched.flat_map(|value| value.split('|')).filter(|word| !word.starts_with('$')) {
            assert!(words.contains(&format!("`{word}`")), "{word} in {text}");
        }
    }
}

#[test]
fn the_panels_of_the_dashboard_lie_side_by_side() {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana-dashboard.json")).unwrap();
    let (mut taken, mut ids) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{} is one", panel["id"]);
        let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(at("x") + at("w") <= 24, "{}", panel["title"]);
        let cells = (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y)));
        assert!(cells.into_iter().all(|cell| taken.insert(cell)), "{} covers another", panel["title"]);
    }
}

#[test]
#[ignore = "needs promtool"]
fn promtool_accepts_the_alerts_and_they_fire_when_they_should() {
    let directory = TempDir::new().unwrap();
    for (from, to) in [("deploy/alerts.yaml", "alerts.yaml"), ("tests/data/alerts.yaml", "test.yaml")] {
        std::fs::write(directory.path().join(to), read(from)).unwrap();
    }
    for arguments in
        [&["check", "rules", "--lint=all", "--lint-fatal", "alerts.yaml"][..], &["test", "rules", "test.yaml"]]
    {
        let output = Command::new("promtool").args(arguments).current_dir(directory.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

/// promtool reads the text format that was before OpenMetrics, where a counter's type stands by its whole name.
fn as_before(page: &str) -> String {
    let exposition = parse_openmetrics(page).unwrap();
    let mut text = String::new();
    for line in page.lines().filter(|line| !line.starts_with("# UNIT") && *line != "# EOF") {
        let mut words: Vec<&str> = line.splitn(4, ' ').collect();
        let family = (words[0] == "#").then(|| exposition.families.get(words[2])).flatten();
        let whole = family.map(|family| match family.family_type.to_string().as_str() {
            "counter" => format!("{}_total", words[2]),
            "info" => format!("{}_info", words[2]),
            _ => words[2].to_owned(),
        });
        if let Some(whole) = &whole {
            words[2] = whole;
        }
        let kind = words.last_mut().unwrap();
        *kind = if whole.is_some() && *kind == "info" { "gauge" } else { kind };
        text.push_str(&words.join(" "));
        text.push('\n');
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs promtool"]
async fn promtool_finds_nothing_to_object_to_in_the_metrics() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("metrics");
    std::fs::write(&file, as_before(&after_everything().await)).unwrap();
    let mut command = Command::new("promtool");
    let output = command.args(["check", "metrics"]).stdin(std::fs::File::open(&file).unwrap()).output().unwrap();
    let objections = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && objections.is_empty(), "{objections}");
}
