//! Own tickets alone are served where the operator says so, and they are own after a restart too (S36).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use serde_json::{Value, json};
use tempfile::TempDir;
use ticketgate::admin::token::Token;
use ticketgate::app::{App, Ending, StartError, Surroundings};
use ticketgate::clock::Clock;
use ticketgate::config::Config;
use ticketgate::limit::Policy;
use ticketgate::ticket::{Allow, Expired};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::api::{Api, created};
use crate::support::client::{Connection, Response};
use crate::support::command::{ON_FREE_PORTS, Server, address, ticketgate};
use crate::support::origin::{Answer, Origin};
use crate::support::proxy::Proxy;
use crate::support::{eventually, tickets};

const CANARY: &str = "CANARY-access-token";

fn file(directory: &TempDir) -> PathBuf {
    directory.path().join("own.redb")
}

/// As shipped, but for own tickets alone, which are kept at `path`.
fn own(path: &Path) -> impl FnOnce(&mut Config) {
    let path = path.to_owned();
    move |config| (config.tickets.allow, config.tickets.store) = (Allow::Own, Some(path))
}

async fn create(proxy: &Proxy) -> Response {
    let target = format!("/cgi-bin/qrcode/create?access_token={CANARY}");
    Connection::open(proxy.relay()).await.post(&target, "{}").await
}

/// Ends it well, so that another may have the file.
async fn ended(proxy: Proxy) -> Ending {
    let end = move || {
        proxy.running.drain();
        proxy.running.cut_drain_on(std::future::ready(()));
        proxy.running.finish()
    };
    tokio::task::spawn_blocking(end).await.unwrap()
}

fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_own_is_refused_without_a_call_and_what_the_relay_saw_made_is_own_after_a_restart() {
    let directory = TempDir::new().unwrap();
    let origin = Origin::answering(Answer::image()).await;
    let (ours, theirs) = (tickets::permanent(1), tickets::permanent(2));
    let api = Api::saying(&created(&ours, Some(600))).await;
    let configure = |config: &mut Config| {
        own(&file(&directory))(config);
        api.configure(config);
        config.relay.prefetch = false;
    };
    let proxy = Proxy::with(&origin, configure);
    let refused = proxy.image(&theirs).await;
    assert_eq!((refused.status, refused.header("cache-control")), (403, Some("no-store")));
    assert!(refused.text().contains("tickets.allow") && refused.text().lines().count() == 1, "{}", refused.text());
    assert!(refused.cache_status().contains("detail=foreign-ticket"), "{}", refused.cache_status());
    assert_eq!(proxy.image(&ours).await.status, 403, "not yet");
    assert_eq!((origin.count(), proxy.running.reading().negative_entries), (0, 0), "nobody is asked, nothing is kept");
    assert_eq!(create(&proxy).await.status, 200);
    let shown = proxy.image(&ours).await;
    assert_eq!((shown.status, origin.count()), (200, 1));
    let end = shown.header("ticket-expires").expect("the relay saw an end").to_owned();
    ended(proxy).await;

    assert!(contains(&bytes(&file(&directory)), &ours), "it is there for the next start");
    assert!(!contains(&bytes(&file(&directory)), CANARY), "and the token is not");
    let proxy = Proxy::with(&origin, configure);
    let again = proxy.image(&ours).await;
    assert_eq!((again.status, again.header("ticket-expires")), (200, Some(&*end)), "with its end");
    assert_eq!(proxy.image(&theirs).await.status, 403);
    assert_eq!(origin.count(), 2, "the image was fetched once more, by whoever came first");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_own_ticket_that_has_ended_is_treated_as_any_that_has() {
    for (expired, status, calls) in [(Expired::Ask, 200, 1), (Expired::Gone, 410, 0)] {
        let directory = TempDir::new().unwrap();
        let origin = Origin::answering(Answer::image()).await;
        // Nobody but the relay knows its end.
        let api = Api::saying(&created("opaque", Some(60))).await;
        let proxy = Proxy::with(&origin, |config| {
            own(&file(&directory))(config);
            api.configure(config);
            (config.relay.prefetch, config.tickets.expired) = (false, expired);
        });
        create(&proxy).await;
        proxy.hands.advance(Duration::from_secs(61));
        let answer = proxy.image("opaque").await;
        assert_eq!((answer.status, origin.count()), (status, calls), "{}", answer.cache_status());
        assert_eq!(proxy.running.reading().own_entries, 0, "never as an image");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_ended_more_than_a_day_ago_is_forgotten_and_who_ended_since_is_not() {
    for (days, status) in [(2, 403), (1, 410)] {
        let directory = TempDir::new().unwrap();
        let origin = Origin::answering(Answer::image()).await;
        let api = Api::saying(&created("opaque", Some(60))).await;
        let configure = |config: &mut Config| {
            own(&file(&directory))(config);
            api.configure(config);
            (config.relay.prefetch, config.tickets.expired) = (false, Expired::Gone);
        };
        let proxy = Proxy::with(&origin, configure);
        // A little less than a day, or two, before now.
        proxy.hands.shift_wall(60_000 - days * 86_400_000);
        create(&proxy).await;
        ended(proxy).await;
        let proxy = Proxy::with(&origin, configure);
        assert_eq!((proxy.image("opaque").await.status, origin.count()), (status, 0), "{days} days");
        assert_eq!(proxy.running.reading().own_tickets, u64::from(status == 410));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_came_while_any_was_served_are_not_shown_to_those_who_bring_other_peoples_tickets() {
    let directory = TempDir::new().unwrap();
    let origin = Origin::answering(Answer::image()).await;
    let theirs = tickets::permanent(2);
    let proxy = Proxy::with(&origin, |config| config.tickets.store = Some(file(&directory)));
    assert_eq!(proxy.image(&theirs).await.status, 200);
    let mut config = Config::default();
    own(&file(&directory))(&mut config);
    config.origin.url = origin.url().parse().unwrap();
    let reloaded = proxy.running.reload().apply(config).unwrap();
    assert!(reloaded.applied.contains(&"tickets.allow") && !reloaded.restart.contains(&"tickets.store"));
    assert_eq!((proxy.image(&theirs).await.status, origin.count()), (403, 1));
}

/// Fills a file with tickets by way of the relay; the last is the newest.
async fn filled(path: &Path, count: usize) -> Vec<String> {
    let origin = Origin::answering(Answer::image()).await;
    let made: Vec<String> = (0..count).map(|number| tickets::permanent(u32::try_from(number).unwrap())).collect();
    let told = made.clone();
    let api = Api::start(move |number| crate::support::api::answer(&created(&told[number], None))).await;
    let proxy = Proxy::with(&origin, |config| {
        own(path)(config);
        api.configure(config);
        config.relay.prefetch = false;
    });
    for _ in 0..count {
        create(&proxy).await;
    }
    ended(proxy).await;
    made
}

#[tokio::test(flavor = "multi_thread")]
async fn own_tickets_are_warmed_at_the_start_the_newest_first_and_within_the_budget() {
    let directory = TempDir::new().unwrap();
    let made = filled(&file(&directory), 30).await;
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&origin, |config| {
        own(&file(&directory))(config);
        // Three at once, and no fourth within the hour.
        let burst = 3.try_into().unwrap();
        config.limits.origin_fills = Some(Policy { rate: 0.001, burst, wait: Duration::ZERO });
    });
    origin.has_been_asked(3).await;
    eventually("three images", || proxy.running.reading().own_entries == 3).await;
    for head in origin.heads() {
        let is_asked = |ticket: &String| head.contains(&tickets::encode(ticket));
        assert!(made[22..].iter().any(is_asked), "the newest come first, eight at once: {head}");
    }
    let oldest = proxy.image(&made[0]).await;
    assert_eq!((oldest.status, origin.count()), (503, 3), "the budget is the origin's");
}

#[tokio::test(flavor = "multi_thread")]
async fn warming_stops_where_there_is_no_more_room() {
    let directory = TempDir::new().unwrap();
    filled(&file(&directory), 40).await;
    let large = [b"\xff\xd8\xff\xe0\x00\x10JFIF\x00".to_vec(), vec![7; 50_000]].concat();
    let origin = Origin::answering(Answer::of(200, "Cache-Control: max-age=604800\r\n", &large)).await;
    let proxy = Proxy::with(&origin, |config| {
        own(&file(&directory))(config);
        (config.cache.memory, config.cache.max_image) = (1024 * 1024, 100_000);
    });
    eventually("some images", || proxy.running.reading().own_entries > 5).await;
    eventually("no fill under way", || proxy.running.reading().fills == 0).await;
    let reading = proxy.running.reading();
    assert!(reading.own_bytes <= 512 * 1024 && origin.count() < 11, "{} calls", origin.count());
    assert_eq!(reading.own_tickets, 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_waits_for_the_file_and_says_so_when_it_may_wait_no_longer() {
    let directory = TempDir::new().unwrap();
    let origin = Origin::answering(Answer::image()).await;
    let first = Proxy::with(&origin, own(&file(&directory)));
    let mut config = Config::default();
    own(&file(&directory))(&mut config);
    config.server.listen = Some("127.0.0.1:0".parse().unwrap());
    config.admin.listen = None;
    let bind = |patience| {
        let config = config.clone();
        let surroundings = Surroundings { store_patience: patience, ..Surroundings::default() };
        tokio::task::spawn_blocking(move || App::bind(config, surroundings).map(drop))
    };
    let told = bind(Duration::from_millis(100)).await.unwrap().unwrap_err();
    assert!(matches!(told, StartError::Store(_)));
    assert!(told.to_string().contains("held by another process after 100ms"), "{told}");
    let waiting = bind(Duration::from_secs(20));
    assert!(!waiting.is_finished());
    ended(first).await;
    waiting.await.unwrap().unwrap();
}

async fn register(admin: SocketAddr, body: &Value) -> Response {
    Connection::to_operator(admin).await.post("/tickets", &body.to_string()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_registered_is_served_ends_in_time_and_is_own_after_a_restart() {
    let directory = TempDir::new().unwrap();
    let origin = Origin::answering(Answer::image()).await;
    let configure = |config: &mut Config| {
        own(&file(&directory))(config);
        config.tickets.expired = Expired::Gone;
    };
    let proxy = Proxy::with(&origin, configure);
    let one = json!({"ticket": "opaque", "expire_seconds": 600, "url": "http://weixin.qq.com/q/x", "expire_in": 5});
    assert_eq!(register(proxy.admin(), &one).await.status, 204);
    let list = json!([{"ticket": tickets::permanent(1)}, {"ticket": "other", "expire_seconds": 0}]);
    assert_eq!(register(proxy.admin(), &list).await.status, 204);
    assert_eq!(register(proxy.admin(), &json!([])).await.status, 204);
    for ticket in ["opaque", "other", &tickets::permanent(1)] {
        assert_eq!(proxy.image(ticket).await.status, 200, "{ticket}");
    }
    let end = proxy.image("opaque").await.header("ticket-expires").expect("it is known").to_owned();
    assert_eq!(register(proxy.admin(), &json!({"ticket": "opaque", "expire_seconds": 6000})).await.status, 204);
    assert_eq!(proxy.image("opaque").await.header("ticket-expires"), Some(&*end), "an end is never put off");
    proxy.hands.advance(Duration::from_secs(601));
    assert_eq!(proxy.image("opaque").await.status, 410, "what was held ended too");
    ended(proxy).await;
    let proxy = Proxy::with(&origin, configure);
    assert_eq!(proxy.running.reading().own_tickets, 3);
    assert_eq!(proxy.image("opaque").await.header("ticket-expires"), Some(&*end));
    assert_eq!((proxy.image("other").await.status, proxy.image("third").await.status), (200, 403));
}

/// The time as it is, in a field.
fn date() -> String {
    date_in(0)
}

/// The time as it will be.
fn date_in(seconds: u64) -> String {
    let now = u64::try_from(Clock::system().now().wall.unix()).unwrap();
    let now = std::time::UNIX_EPOCH + Duration::from_secs(now + seconds);
    format!("Date: {}\r\n", httpdate::fmt_http_date(now))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_was_wrong_when_a_ticket_was_registered_does_not_end_it_for_ever() {
    let directory = TempDir::new().unwrap();
    // The origin's clock goes with ours.
    let passed = Arc::new(AtomicU64::new(0));
    let clock = Arc::clone(&passed);
    let origin = Origin::start(move |_, _| Answer::image_with(&date_in(clock.load(Ordering::SeqCst)))).await;
    let proxy = Proxy::with(&origin, own(&file(&directory)));
    proxy.hands.shift_wall(600_000);
    let ticket = tickets::temporary(1, Duration::from_secs(300));
    assert_eq!(register(proxy.admin(), &json!({"ticket": ticket})).await.status, 204);
    assert_eq!(proxy.image(&ticket).await.status, 200);
    let again = proxy.image(&ticket).await;
    assert!(
        again.cache_status().contains("hit") && again.header("ticket-expires").is_some(),
        "{}",
        again.cache_status()
    );
    assert_eq!(proxy.running.reading().own_entries, 1);
    // A `Date` tells whole seconds.
    proxy.hands.advance(Duration::from_secs(303));
    passed.store(303, Ordering::SeqCst);
    let late = proxy.image(&ticket).await;
    assert!(late.cache_status().contains("ticket-expired"), "it ends by its own word: {}", late.cache_status());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_answer_about_a_new_ticket_tells_how_wrong_our_clock_is() {
    let directory = TempDir::new().unwrap();
    let origin = Origin::answering(Answer::image()).await;
    let ticket = tickets::temporary(1, Duration::from_secs(300));
    let fields = format!("Content-Type: application/json\r\n{}", date());
    let answer = Answer::of(200, &fields, created(&ticket, Some(300)).as_bytes());
    let api = Api::start(move |_| answer.clone()).await;
    let proxy = Proxy::with(&origin, |config| {
        own(&file(&directory))(config);
        api.configure(config);
        (config.relay.prefetch, config.tickets.expired) = (false, Expired::Gone);
    });
    proxy.hands.shift_wall(600_000);
    assert_eq!(create(&proxy).await.status, 200);
    assert_eq!((proxy.image(&ticket).await.status, origin.count()), (200, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_file_tickets_are_registered_until_the_end() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::before(&origin);
    assert_eq!(proxy.image("opaque").await.status, 200);
    assert_eq!(register(proxy.admin(), &json!({"ticket": "opaque", "expire_seconds": 60})).await.status, 204);
    assert!(proxy.image("opaque").await.header("ticket-expires").is_some(), "it applies to what is held");
    proxy.hands.advance(Duration::from_secs(61));
    assert!(!proxy.image("opaque").await.cache_status().contains("hit"));
    assert_eq!((origin.count(), proxy.running.reading().own_tickets), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_registration_is_refused_as_a_whole() {
    let directory = TempDir::new().unwrap();
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&origin, own(&file(&directory)));
    let good = || json!({"ticket": "good"});
    for (body, status, why) in [
        ("{\"ticket\": \"good\"".to_owned(), 400, "JSON"),
        ("\"good\"".to_owned(), 400, "no object"),
        (json!([good(), {"ticket": ""}]).to_string(), 400, "[1]: the ticket is empty"),
        (json!([good(), 5, good()]).to_string(), 400, "[1]: no object"),
        (json!([good(), {"ticket": "x", "expire_seconds": -1}]).to_string(), 400, "[1]: expire_seconds"),
        (json!([good(), {"ticket": "x", "expire_seconds": 1e15}]).to_string(), 400, "[1]: expire_seconds"),
        (json!([good(), {"ticket": "\u{1}"}]).to_string(), 400, "[1]: the ticket contains"),
        (json!([good(), {"ticket": "x", "more": "x".repeat(1024 * 1024)}]).to_string(), 413, "1048576 bytes"),
    ] {
        let refused = Connection::to_operator(proxy.admin()).await.post("/tickets", &body).await;
        assert_eq!(refused.status, status, "{}", refused.text());
        assert!(refused.text().contains(why), "{}", refused.text());
    }
    let looked = Connection::to_operator(proxy.admin()).await.get("/tickets", "").await;
    assert_eq!((looked.status, looked.header("allow")), (405, Some("POST")));
    assert_eq!((proxy.image("good").await.status, proxy.running.reading().own_tickets), (403, 0), "nothing changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_registers_while_a_successor_takes_over_is_told_to_come_again() {
    let directory = TempDir::new().unwrap();
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&origin, own(&file(&directory)));
    let store = Arc::clone(proxy.running.store().unwrap());
    store.let_go();
    let later = register(proxy.admin(), &json!({"ticket": "a"})).await;
    assert_eq!((later.status, later.header("retry-after")), (503, Some("2")), "{}", later.text());
    assert_eq!(proxy.image("a").await.status, 403, "nothing changed");
    store.take_back();
    let (code, out, told) = registered(proxy.admin(), "a", None).await;
    assert_eq!((code, &*out), (Some(0), "1 registered\n"), "the command comes again: {told}");
    assert_eq!(proxy.image("a").await.status, 200);
}

/// Has the command serve own tickets alone. What is warmed would come from an origin that is not there.
fn serving(command: &mut Command) -> &mut Command {
    command.args(ON_FREE_PORTS).args(["--origin", "http://127.0.0.1:9"]).env("TICKETGATE_TICKETS_STORE", "own.redb");
    command.env("TICKETGATE_TICKETS_ALLOW", "own").env("TICKETGATE_DRAIN_DELAY", "0s")
}

/// Runs it in `directory`, which outlives it.
fn served_in(directory: &TempDir) -> Server {
    let mut command = ticketgate(directory, &[]);
    serving(&mut command);
    Server::run(command, TempDir::new().unwrap())
}

/// The status that a registration is answered with; `None` when nobody answers.
async fn status_of_registration(admin: SocketAddr, body: &str) -> Option<u16> {
    let mut stream = TcpStream::connect(admin).await.ok()?;
    let head = format!("POST /tickets HTTP/1.1\r\nHost: {admin}\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all((head + body).as_bytes()).await.ok()?;
    let mut line = [0; 12];
    stream.read_exact(&mut line).await.ok()?;
    std::str::from_utf8(&line).ok()?.strip_prefix("HTTP/1.1 ")?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_killed_while_it_writes_loses_nothing_that_it_said_was_registered() {
    let directory = TempDir::new().unwrap();
    let mut registered = 0;
    for round in 0..20 {
        let mut server = served_in(&directory);
        let read = server.log_line_saying("own tickets were read")["tickets"].as_u64().unwrap();
        assert!(read >= registered, "round {round}: {read} of {registered}");
        let admin = address(&server.log_line_saying("listening"), "admin");
        let (answered, killed) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        // Each of several callers registers until nobody answers any more.
        let call = |caller: u32| {
            let (answered, killed) = (Arc::clone(&answered), Arc::clone(&killed));
            tokio::spawn(async move {
                for number in 0.. {
                    let one = |n: u32| json!({"ticket": format!("t-{round}-{caller}-{number}-{n}")});
                    let body = json!((0..5).map(one).collect::<Vec<_>>()).to_string();
                    match status_of_registration(admin, &body).await {
                        Some(204) => answered.fetch_add(5, Ordering::SeqCst),
                        other => return assert!(killed.load(Ordering::SeqCst), "{other:?}"),
                    };
                }
            })
        };
        let callers = [0, 1, 2].map(call);
        eventually("some registrations", || answered.load(Ordering::SeqCst) > 5 * round).await;
        killed.store(true, Ordering::SeqCst);
        server.signal(Signal::KILL);
        for caller in callers {
            caller.await.unwrap();
        }
        registered = read + answered.load(Ordering::SeqCst);
    }
    let mut server = served_in(&directory);
    let read = server.log_line_saying("own tickets were read")["tickets"].as_u64().unwrap();
    assert!(read >= registered && registered > 20 * 50, "{read} of {registered}");
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1, "it was never damaged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_takes_no_more_is_told_and_costs_no_ticket_once_it_does() {
    let directory = TempDir::new().unwrap();
    let api = Api::saying(&created("relayed", None)).await;
    let mut command = Command::new("sh");
    // A limit of the size of files stands for the disk's; its signal would be the end.
    command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_ticketgate")]);
    serving(&mut command).args(["--relay-listen", "127.0.0.1:0"]).current_dir(directory.path());
    command.env("TICKETGATE_RELAY_URL", format!("http://{}", api.address)).env("TICKETGATE_RELAY_PREFETCH", "false");
    let mut server = Server::run(command, TempDir::new().unwrap());
    let listening = server.log_line_saying("listening");
    let (public, admin, relay) =
        (address(&listening, "public"), address(&listening, "admin"), address(&listening, "relay"));
    assert_eq!(register(admin, &json!({"ticket": "before"})).await.status, 204);
    let limit = |most| {
        let pid = Pid::from_raw(i32::try_from(server.id()).unwrap());
        prlimit(pid, Resource::Fsize, Rlimit { current: most, maximum: None }).unwrap();
    };
    limit(Some(4096));
    let refused = register(admin, &json!([{"ticket": "full"}])).await;
    assert_eq!(refused.status, 507, "{}", refused.text());
    assert!(refused.text().contains("tickets.store") && refused.text().contains("nothing was registered"));
    let relayed = Connection::open(relay).await.post("/cgi-bin/qrcode/create", "{}").await;
    assert_eq!((relayed.status, relayed.text()), (200, &*created("relayed", None)), "the app notices nothing");
    for _ in 0..10 {
        assert!(register(admin, &json!({"ticket": "full"})).await.status >= 500);
    }
    let image = |ticket: &str| {
        let target = tickets::target(ticket);
        async move { Connection::open(public).await.get(&target, "").await.status }
    };
    assert_eq!((image("full").await, image("relayed").await), (403, 502), "nothing changed; what was learned is own");

    limit(None);
    let told = server.text_until("is open again");
    assert_eq!(told.matches("it is tried again").count(), 1, "once, and not for each ticket: {told}");
    while register(admin, &json!({"ticket": "after"})).await.status != 204 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.signal(Signal::TERM);
    server.log_line_saying("drained");
    let mut server = served_in(&directory);
    assert_eq!(server.log_line_saying("own tickets were read")["tickets"], 3, "before, relayed, after");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_set_aside_with_a_word_and_everything_goes_on() {
    let directory = TempDir::new().unwrap();
    std::fs::write(file(&directory), "rubbish").unwrap();
    let mut server = served_in(&directory);
    let word = server.log_line_that("a word about it", |line| line["level"] == "ERROR");
    assert_eq!(word["path"], "own.redb");
    let aside = word["aside"].as_str().unwrap();
    assert!(aside.starts_with("own.redb.damaged-"), "{aside}");
    assert_eq!(bytes(&directory.path().join(aside)), b"rubbish");
    let admin = address(&server.log_line_saying("listening"), "admin");
    assert_eq!(register(admin, &json!({"ticket": "a"})).await.status, 204);
}

#[test]
fn a_file_that_cannot_be_is_told_before_anything_runs() {
    let directory = TempDir::new().unwrap();
    for (store, mend) in [("missing/own.redb", "create the directory missing"), (".", "name a file in it")] {
        for command in ["check", "serve"] {
            let mut command = ticketgate(&directory, &[command]);
            let output = command.env("TICKETGATE_TICKETS_STORE", store).output().unwrap();
            let told = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{told}");
            assert!(
                told.contains(&format!("tickets.store: {store} cannot be opened")) && told.contains(mend),
                "{told}"
            );
        }
    }
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0, "looking leaves nothing behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_listener_that_serves_any_ticket_is_warned_of_once_and_others_are_not() {
    for (listen, allow, warned) in [("0.0.0.0:0", "any", 1), ("0.0.0.0:0", "own", 0), ("127.0.0.1:0", "any", 0)] {
        let directory = TempDir::new().unwrap();
        let mut command = ticketgate(&directory, &["--listen", listen, "--admin-listen", "off"]);
        command.env("TICKETGATE_TICKETS_STORE", "own.redb").env("TICKETGATE_TICKETS_ALLOW", allow);
        let mut server = Server::run(command, directory);
        let told = server.text_until("\"listening\"");
        assert_eq!(told.matches("a ticket names no account").count(), warned, "{listen} {allow}: {told}");
    }
}

/// What the command comes to: its exit code, and what it says where.
async fn registered(admin: SocketAddr, text: &str, token: Option<&str>) -> (Option<i32>, String, String) {
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("tickets.txt"), text).unwrap();
    let mut command = ticketgate(&directory, &["register", "tickets.txt", "--admin", &admin.to_string()]);
    command.envs(token.map(|token| ("TICKETGATE_ADMIN_TOKEN", token)));
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_registers_a_file_and_names_what_is_no_ticket() {
    let directory = TempDir::new().unwrap();
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&origin, |config| {
        own(&file(&directory))(config);
        config.admin.token = Some(Token::of("s3cret").unwrap());
    });
    let text =
        format!("{} 600\n\nno ticket at all\nopaque%2Fone\n{}\n", tickets::permanent(1), created("json", Some(5)));
    let (code, out, told) = registered(proxy.admin(), &text, Some("s3cret")).await;
    assert_eq!((code, &*out), (Some(1), "3 registered, 1 could not be read\n"));
    let (rubbish, unrecognised) = told.split_once('\n').unwrap();
    assert_eq!(rubbish, "ticketgate: tickets.txt:3: neither TICKET nor TICKET EXPIRE_SECONDS");
    assert!(unrecognised.starts_with("ticketgate: 2 of them in no layout"), "{told}");
    for ticket in [&*tickets::permanent(1), "opaque/one", "json"] {
        assert_eq!(proxy.image(ticket).await.status, 200, "{ticket}");
    }
    assert_eq!(registered(proxy.admin(), "a\nb", Some("s3cret")).await.0, Some(0));
    let many: String = (0..12_000).fold(String::new(), |text, n| text + &format!("{n}-{}\n", "x".repeat(80)));
    let (code, out, _) = registered(proxy.admin(), &many, Some("s3cret")).await;
    assert_eq!((code, &*out), (Some(0), "12000 registered\n"), "in several calls");
    assert_eq!(proxy.running.reading().own_tickets, 12_005);

    for token in [None, Some("gue55"), Some("gue55 gue55")] {
        let (code, out, told) = registered(proxy.admin(), "c", token).await;
        let is_token = token.is_none_or(|token| !token.contains(' '));
        let expected = if is_token { (Some(1), "0 registered, 1 not registered\n") } else { (Some(2), "") };
        assert_eq!((code, &*out), expected);
        assert!(told.contains("TICKETGATE_ADMIN_TOKEN") && !told.contains("gue55"), "{told}");
    }
    let nobody = ended_address(proxy).await;
    let (code, _, told) = registered(nobody, "c", None).await;
    assert!(code == Some(1) && told.contains("not reachable"), "{told}");
}

/// Ends it; where it was there is nobody now.
async fn ended_address(proxy: Proxy) -> SocketAddr {
    let admin = proxy.admin();
    ended(proxy).await;
    admin
}
