use std::time::Duration;

use http::HeaderName;
use tempfile::TempDir;

use super::*;
use crate::cache::pass_headers::PassHeaders;
use crate::limit::{ClientHeader, Policy, TellBudget, Trusted};
use crate::relay::{Forwarded, Host};
use crate::ticket::Allow;

type Words<'a> = &'a [(&'a str, &'a str)];
type Flags<'a> = &'a [(&'static str, &'static str, &'a str)];

/// Sources with a file of these bytes, which lives as long as the directory.
fn sources(toml: impl AsRef<[u8]>, environment: Words<'_>, flags: Flags<'_>) -> (TempDir, Sources) {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("ticketgate.toml");
    std::fs::write(&file, toml).unwrap();
    let sources = Sources {
        file: Some(file),
        look_around: false,
        environment: environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        flags: flags.iter().map(|(name, key, value)| Flag { name, key, value: (*value).to_owned() }).collect(),
    };
    (directory, sources)
}

fn load(toml: impl AsRef<[u8]>, environment: Words<'_>, flags: Flags<'_>) -> Result<Config, Mistakes> {
    let (_directory, sources) = sources(toml, environment, flags);
    Config::load(sources).map(|loaded| loaded.config)
}

fn loaded(toml: &str, environment: Words<'_>, flags: Flags<'_>) -> Config {
    load(toml, environment, flags).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

/// The mistakes of `toml`, each as `line: text`.
fn mistakes(toml: &str) -> Vec<String> {
    let mistakes = load(toml, &[], &[]).expect_err("a mistake").0;
    let line = |mistake: &Mistake| match &mistake.place {
        mistake::Place::Line(line) => format!("{}: {}", line.number, mistake.text),
        other => format!("{other}: {}", mistake.text),
    };
    mistakes.iter().map(line).collect()
}

/// Every key that exists, set to something else than its default.
const EVERYTHING: &str = r#"
listen = "0.0.0.0:81"
app = "http://127.0.0.1:3000"
paths = ["/cgi-bin/showqrcode", "/qr"]
health_path = "/up"
trusted_proxies = ["loopback", "private", "203.0.113.0/24", "2001:db8::1"]
client_header = "forwarded"
proxy_protocol = true
drain = "1m"
drain_delay = "0s"

[origin]
url = "http://relay.example:8000/wx"
connect_timeout = "1s"
first_byte_timeout = "2s"
fill_timeout = "3s"
max_concurrent = 8

[forward]
connect_timeout = "4s"
first_byte_timeout = "5s"
tunnel_idle = "2d"

[cache]
memory = "1GiB"
max_image = "64KiB"
default_ttl = "0s"
negative_ttl = "1m 30s"
stale_while_revalidate = "1h"
stale_if_error = "2h"
pass_headers = ["Server", "x-a"]

[tickets]
strict = true
expired = "gone"
allow = "own"
store = "own.redb"
max_own = 5

[limits]
client_requests = "off"
client_misses = { rate = 0.5, burst = 7, wait = "500ms" }
ratelimit_headers = "always"
max_connections = 12
max_connections_per_client = 3
max_waiters = 0

[limits.origin_fills]
rate = 1
burst = 2
wait = "0s"

[timeouts]
first_byte = "1s"
head = "2s"
body = "3s"
write = "4s"
keep_alive = "5s"
tls_handshake = "6s"

[cors]
allow_origins = ["https://shop.example", "http://localhost:3000"]

[admin]
listen = "off"
token = "s3cret"
allow_hosts = ["ops.example"]

[relay]
listen = "127.0.0.1:9181"
url = "http://api.example:8000"
fallback = ["https://api2.weixin.qq.com", "https://sh.api.weixin.qq.com/"]
forward = "all"
prefetch = false

[log]
format = "json"
access = false
client = "off"
level = "debug"

[trace]
sample = 0.25
"#;

#[test]
fn every_key_of_a_file_is_read() {
    let config = loaded(EVERYTHING, &[], &[]);
    assert_eq!(config.server.listen, Some("0.0.0.0:81".parse().unwrap()));
    assert_eq!(config.forward.app, Some("http://127.0.0.1:3000".parse().unwrap()));
    assert_eq!(config.routes.paths, ["/cgi-bin/showqrcode", "/qr"]);
    assert_eq!(config.routes.health_path.as_deref(), Some("/up"));
    assert_eq!(config.clients.trusted_proxies.len(), 4);
    assert_eq!(config.clients.trusted_proxies[3], Trusted::Net("2001:db8::1/128".parse().unwrap()));
    assert_eq!(config.clients.client_header, ClientHeader::Forwarded);
    assert!(config.server.proxy_protocol);
    assert_eq!((config.server.drain, config.server.drain_delay), (Duration::from_secs(60), Duration::ZERO));
    assert_eq!(config.origin.url, "http://relay.example:8000/wx");
    assert_eq!(config.origin.fill_timeout, Duration::from_secs(3));
    assert_eq!(config.origin.max_concurrent, 8);
    assert_eq!(config.forward.first_byte_timeout, Duration::from_secs(5));
    assert_eq!(config.forward.tunnel_idle, Duration::from_secs(2 * 86_400));
    assert_eq!((config.cache.memory, config.cache.max_image), (1 << 30, 1 << 16));
    assert_eq!(config.cache.negative_ttl, Duration::from_secs(90));
    let passing = ["server", "x-a"].map(HeaderName::from_static).to_vec();
    assert_eq!(config.cache.pass_headers, PassHeaders::Listed(passing));
    assert!(config.tickets.strict);
    assert_eq!(config.limits.client_requests, None);
    let policy = |rate, burst: u32, wait| Policy { rate, burst: burst.try_into().unwrap(), wait };
    assert_eq!(config.limits.client_misses, Some(policy(0.5, 7, Duration::from_millis(500))));
    assert_eq!(config.limits.origin_fills, Some(policy(1.0, 2, Duration::ZERO)));
    assert_eq!(config.limits.ratelimit_headers, TellBudget::Always);
    assert_eq!((config.server.max_connections, config.server.max_connections_per_client), (12, 3));
    assert_eq!(config.limits.max_waiters, 0);
    assert_eq!(config.server.timeouts.keep_alive, Duration::from_secs(5));
    assert_eq!(config.server.timeouts.tls_handshake, Duration::from_secs(6));
    assert_eq!(config.cors.allow_origins.len(), 2);
    assert_eq!(config.admin.listen, None);
    assert_eq!((config.tickets.max_own, config.tickets.allow), (5, Allow::Own));
    assert_eq!(config.tickets.store, Some("own.redb".into()));
    let host = |url: &str| Host::of(&url.parse().unwrap()).unwrap();
    let fallback = ["https://api2.weixin.qq.com", "https://sh.api.weixin.qq.com"].map(host).to_vec();
    let listen = Some("127.0.0.1:9181".parse().unwrap());
    let (url, forward) = (host("http://api.example:8000"), Forwarded::All);
    assert_eq!(config.relay, crate::relay::Config { listen, url, fallback, forward, prefetch: false });
    assert_eq!((config.log.access, config.log.level), (false, tracing::Level::DEBUG));
}

#[test]
fn no_key_is_forgotten_in_the_file_above() {
    let (_directory, sources) = sources(EVERYTHING, &[], &[]);
    let mut settings = Settings::open(sources);
    keys::read(&mut settings, &mut Config::default());
    // Files that must exist are tried elsewhere, what needs them, and what needs a feature.
    let tls = ["tls.cert", "tls.key", "tls.listen", "tls.redirect"];
    let files = ["admin.token_file", "forward.ca_file", "origin.ca_file"];
    assert_eq!(settings.untouched(), [&files[..], &tls, &["trace.endpoint"]].concat());
}

#[test]
fn a_collector_needs_the_feature_otel_and_a_build_without_says_so() {
    let toml = "[trace]\nendpoint = \"http://127.0.0.1:4318\"\n";
    if cfg!(feature = "otel") {
        assert_eq!(loaded(toml, &[], &[]).trace.endpoint, Some("http://127.0.0.1:4318".parse().unwrap()));
    } else {
        let told = mistakes(toml);
        assert!(
            told.len() == 1 && told[0].contains("built without") && told[0].contains("--features otel"),
            "{told:?}"
        );
    }
}

#[test]
fn the_reference_in_the_readme_names_every_key_with_its_default() {
    let reference_in = |readme: &'static str| readme.split_once("```toml\n").unwrap().1.split_once("```").unwrap().0;
    let english = reference_in(include_str!("../../README.md"));
    let chinese = reference_in(include_str!("../../README.zh-CN.md"));
    for reference in [english, chinese] {
        assert_eq!(loaded(reference, &[], &[]), Config::default());
        let (_directory, sources) = sources(reference, &[], &[]);
        let mut settings = Settings::open(sources);
        keys::read(&mut settings, &mut Config::default());
        assert_eq!(settings.untouched(), ["app", "relay.listen", "tls.cert", "tls.key", "tls.listen"]);
    }
    // The words differ and nothing else does, in the lines that are commented out neither.
    let said = |line: &'static str| line.trim_start_matches("# ").split('#').next().unwrap_or_default().trim_end();
    assert_eq!(chinese.lines().map(said).collect::<Vec<_>>(), english.lines().map(said).collect::<Vec<_>>());
}

#[test]
fn what_is_shown_reads_back_as_the_same_configuration() {
    for config in [Config::default(), loaded(EVERYTHING, &[], &[])] {
        let word = |value: &serde_json::Value| match value {
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Object(budget) => {
                let parts: Vec<_> = budget.iter().map(|(name, part)| format!("{name} = {part}")).collect();
                format!("{{ {} }}", parts.join(", "))
            }
            other => other.to_string(),
        };
        let shown = config.shown();
        let flags = shown.iter().map(|(key, value)| Flag { name: key, key, value: word(value) }).collect();
        let again = Config::load(Sources { flags, ..Sources::default() }).unwrap_or_else(|told| panic!("{told}"));
        // The token alone is masked.
        let mut again = again.config;
        again.admin.token.clone_from(&config.admin.token);
        assert_eq!(again, config);
    }
}

#[test]
fn two_configurations_differ_in_the_keys_that_were_changed() {
    let changed = loaded("drain = \"1m\"\n[cors]\nallow_origins = []\n[limits]\nclient_misses = \"off\"", &[], &[]);
    let keys = ["cors.allow_origins", "drain", "limits.client_misses"];
    assert_eq!(Config::default().differences(&changed), keys);
    assert!(changed.differences(&changed).is_empty());
}

#[test]
fn without_a_file_the_reference_values_hold() {
    let config = Config::load(Sources::default()).unwrap();
    assert_eq!(config, Loaded { config: Config::default(), file: None });
    assert_eq!(config.config.server.listen, Some("127.0.0.1:8080".parse().unwrap()));
    assert_eq!(config.config.origin.url, "https://mp.weixin.qq.com");
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let file = "listen = \"127.0.0.1:1\"\n[cache]\nmemory = \"1MiB\"\ndefault_ttl = \"1s\"\n";
    let environment = [("TICKETGATE_LISTEN", "127.0.0.1:2"), ("TICKETGATE_CACHE_MEMORY", "2MiB"), ("PATH", "/bin")];
    let config = loaded(file, &environment, &[("--listen", "listen", "127.0.0.1:3")]);
    assert_eq!(config.server.listen.unwrap().port(), 3);
    assert_eq!(config.cache.memory, 2 << 20);
    assert_eq!(config.cache.default_ttl, Duration::from_secs(1));
}

#[test]
fn the_environment_says_lists_and_budgets_in_one_word() {
    let environment = [
        ("TICKETGATE_TRUSTED_PROXIES", "loopback, 10.0.0.0/8"),
        ("TICKETGATE_PATHS", "[\"/a\", \"/b\"]"),
        ("TICKETGATE_LIMITS_CLIENT_MISSES", "{ rate = 1, burst = 2, wait = \"3s\" }"),
        ("TICKETGATE_LIMITS_CLIENT_REQUESTS", "off"),
        ("TICKETGATE_LIMITS_MAX_WAITERS", "5"),
        ("TICKETGATE_TICKETS_STRICT", "true"),
        ("TICKETGATE_CORS_ALLOW_ORIGINS", ""),
        ("TICKETGATE_CACHE_PASS_HEADERS", "*"),
        // A service called `ticketgate` has Kubernetes set these; TICKETGATE_CONFIG names the file.
        ("TICKETGATE_SERVICE_HOST", "10.0.0.1"),
        ("TICKETGATE_PORT", "tcp://10.0.0.1:80"),
        ("TICKETGATE_PORT_80_TCP_PROTO", "tcp"),
        ("TICKETGATE_CONFIG", "x.toml"),
    ];
    let config = loaded("", &environment, &[]);
    assert_eq!(config.clients.trusted_proxies.len(), 2);
    assert_eq!(config.routes.paths, ["/a", "/b"]);
    assert_eq!(config.limits.client_misses.unwrap().wait, Duration::from_secs(3));
    assert_eq!(config.limits.client_requests, None);
    assert_eq!(config.limits.max_waiters, 5);
    assert!(config.tickets.strict);
    assert!(config.cors.allow_origins.is_empty());
    assert_eq!(config.cache.pass_headers, PassHeaders::All);
}

#[test]
fn all_mistakes_are_told_at_once_with_their_lines() {
    let told = mistakes(
        "listn = \"127.0.0.1:1\"\n\
         drain = 5\n\
         [cache]\n\
         memory = \"lots\"\n\
         colour = \"red\"\n\
         [origin]\n\
         first_byte_timeout = \"1m\"\n\
         [nonsense]\n\
         x = 1\n",
    );
    assert_eq!(told.len(), 6, "{told:#?}");
    assert_eq!(told[0], "1: unknown key listn; did you mean listen?");
    assert!(told[1].starts_with("2: drain: 5 is no time; valid: a time with its unit"), "{}", told[1]);
    assert!(told[2].starts_with("4: cache.memory: \"lots\" is no size; valid: bytes"), "{}", told[2]);
    assert_eq!(
        told[3],
        "5: unknown key cache.colour; valid in [cache]: default_ttl, max_image, memory, negative_ttl, pass_headers, \
         stale_if_error, stale_while_revalidate"
    );
    assert!(told[4].starts_with("7: origin.first_byte_timeout is longer than origin.fill_timeout"), "{}", told[4]);
    assert!(told[5].starts_with("8: unknown key nonsense"), "{}", told[5]);
}

#[test]
fn a_mistake_shows_the_line_and_points_at_the_part() {
    let (_directory, sources) = sources("# ours\n\tlisten   = \"nowhere\" # here\n", &[], &[]);
    let file = sources.file.clone().unwrap();
    let told = Config::load(sources).unwrap_err().to_string();
    let expected = format!(
        "{}:2: listen: \"nowhere\" is no address; valid: an IP address with a port, such as \"127.0.0.1:8080\", \
         \"0.0.0.0:8080\" or \"[::]:8080\"; port 0 picks a free one; or \"off\"\n  2 | \tlisten   = \"nowhere\" # here\n    | \t           \
         ^^^^^^^^^\n1 mistake in the configuration",
        file.display()
    );
    assert_eq!(told, expected);
}

#[test]
fn what_is_no_toml_is_told_beside_the_other_mistakes() {
    let told = mistakes("listen = 127.0.0.1:1\n[cache]\nmemory = \"lots\"\nmemory = \"1MiB\"\n");
    assert!(told.iter().any(|line| line.starts_with("1: not TOML")), "{told:#?}");
    assert!(told.iter().any(|line| line.starts_with("3: cache.memory")), "{told:#?}");
    assert!(told.iter().any(|line| line.starts_with("4: not TOML") && line.contains("duplicate")), "{told:#?}");
    assert!(!told.iter().any(|line| line.starts_with("1: listen")), "told once: {told:#?}");
}

#[test]
fn below_a_line_that_is_no_toml_no_key_is_called_unknown() {
    let told = mistakes("[cache\nmemory = \"1MiB\"\n");
    assert!(told.len() == 1 && told[0].starts_with("1: not TOML"), "{told:#?}");
}

#[test]
fn every_wrong_part_of_a_value_is_named() {
    let told = mistakes(
        "trusted_proxies = [\"10.0.0.0/33\", \"loopback\", \"foo\"]\n\
         [limits]\nclient_misses = { rate = -1, burst = 0, pace = 1 }\nmax_waiters = \"5\"\n",
    );
    assert!(told[0].contains("contains \"10.0.0.0/33\", \"foo\";"), "{told:#?}");
    assert!(told[1].contains("has an unknown part, pace and the rate -1 and the burst 0 and no wait;"), "{told:#?}");
    assert!(told[2].contains("\"5\" is no number; valid: a whole number, without quotes"), "{told:#?}");
}

#[test]
fn mistakes_in_the_environment_and_on_the_command_line_are_named() {
    let environment = [("TICKETGATE_LISTEM", "x"), ("TICKETGATE_CACHE_MEMORY", "x"), ("TICKETGATE_QQQ", "x")];
    let told = load("", &environment, &[("--app", "app", "https://x/y")]).unwrap_err().to_string();
    assert!(
        told.contains("environment TICKETGATE_LISTEM: sets no key that exists; did you mean TICKETGATE_LISTEN?"),
        "{told}"
    );
    assert!(told.contains("environment TICKETGATE_CACHE_MEMORY: cache.memory: \"x\" is no size"), "{told}");
    assert!(told.contains("environment TICKETGATE_QQQ: sets no key that exists\n"), "{told}");
    assert!(told.contains("flag --app: app: \"https://x/y\" is no address of an app"), "{told}");
    assert!(told.ends_with("4 mistakes in the configuration"), "{told}");
}

#[test]
fn sections_and_values_are_not_confused() {
    let told = mistakes("cache = 5\n[limts]\nmax_waiters = 1\n[log.level]\nx = 1\n");
    assert_eq!(told[0], "1: cache is a section, not a value; write [cache] and its keys below");
    assert_eq!(told[1], "2: unknown key limts; did you mean [limits]?");
    assert!(told[2].starts_with("4: log.level: { x = 1 } is not one of the words"), "{told:#?}");
}

#[test]
fn contradictions_name_what_to_change() {
    let cases = [
        ("drain = \"1s\"\ndrain_delay = \"2s\"", "2: drain_delay is longer than drain"),
        ("drain = \"1s\"", "1: drain_delay is longer than drain"),
        ("[tickets]\nallow = \"own\"", "2: tickets.allow is \"own\" and tickets.store is not set: "),
        ("[tickets]\nstore = \"/nowhere/own.redb\"", "2: tickets.store: /nowhere/own.redb cannot be opened: "),
        ("[tickets]\nstore = \"/\"", "2: tickets.store: / cannot be opened: "),
        (
            "[cache]\nmemory = \"1MiB\"\n[tickets]\nstore = \"own.redb\"",
            "2: cache.max_image is more than half of cache.memory",
        ),
        ("paths = [\"/a\"]\nhealth_path = \"/a\"", "2: health_path is one of paths"),
        ("[cache]\nmemory = \"1MiB\"\nmax_image = \"2MiB\"", "3: cache.max_image is more than cache.memory"),
        ("listen = \"127.0.0.1:7\"\n[admin]\nlisten = \"127.0.0.1:7\"", "3: listen and admin.listen are the same"),
        ("listen = \"127.0.0.1:7\"\n[origin]\nurl = \"http://localhost:7\"", "3: origin.url is our own listener"),
        ("listen = \"0.0.0.0:80\"\n[origin]\nurl = \"http://127.0.0.1\"", "3: origin.url is our own listener"),
        ("listen = \"[::]:7\"\napp = \"http://[::1]:7\"", "2: app is our own listener"),
        ("listen = \"127.0.0.1:7\"\napp = \"http://LOCALHOST.:7\"", "2: app is our own listener"),
        ("listen = \"127.0.0.1:7\"\napp = \"http://[::ffff:127.0.0.1]:7\"", "2: app is our own listener"),
        ("[relay]\nlisten = \"127.0.0.1:9180\"", "2: admin.listen and relay.listen are the same"),
        ("[relay]\nlisten = \"127.0.0.1:8080\"", "2: listen and relay.listen are the same"),
        ("[relay]\nlisten = \"127.0.0.1:7\"\nurl = \"http://localhost:7\"", "3: relay.url is our own listener"),
        (
            "[relay]\nlisten = \"127.0.0.1:7\"\nurl = \"http://[::ffff:127.0.0.1]:8080\"",
            "3: relay.url is our own listener",
        ),
        (
            "[relay]\nlisten = \"127.0.0.1:7\"\nfallback = [\"http://127.0.0.1:7\"]",
            "3: relay.fallback is our own listener",
        ),
        ("app = \"http://127.0.0.1:7\"\n[relay]\nlisten = \"127.0.0.1:7\"", "1: app is our own listener"),
        ("app = \"http://localhost:9180\"", "1: app is our own listener: everybody could do"),
        ("[tls]\ncert = \"/dev/null\"", "2: tls.cert is of no use: tls.listen is not set"),
        (
            "[cache]\nmemory = \"1MiB\"\n[relay]\nlisten = \"127.0.0.1:7\"",
            "2: cache.max_image is more than half of cache.memory",
        ),
        ("listen = \"0.0.0.0:9180\"", "1: listen and admin.listen are the same"),
        ("[origin]\nconnect_timeout = \"1m\"", "2: origin.connect_timeout is longer than origin.fill_timeout"),
        ("listen = \"off\"", "1: listen is off and tls.listen is not set"),
        ("trusted_proxies = []\nproxy_protocol = true", "2: proxy_protocol would close every connection"),
        ("[tls]\nredirect = \"127.0.0.1:1\"", "2: tls.redirect leads nowhere"),
        ("[tls]\nlisten = \"127.0.0.1:1\"\ncert = \"/nowhere/c.pem\"\nkey = \"k\"", "3: tls.cert /nowhere/c.pem: "),
        ("[origin]\nca_file = \"/nowhere/ca.pem\"", "2: origin.ca_file /nowhere/ca.pem: "),
        ("[forward]\nca_file = \"/nowhere/ca.pem\"", "2: forward.ca_file /nowhere/ca.pem: "),
        ("listen = \"127.0.0.1:443\"\napp = \"https://localhost\"", "2: app is our own listener"),
    ];
    for (toml, expected) in cases {
        let told = mistakes(toml);
        assert!(told.len() == 1 && told[0].starts_with(expected), "{toml}: {told:#?}");
    }
    loaded("[relay]\nurl = \"http://127.0.0.1:8080\"", &[], &[]);
    loaded("listen = \"127.0.0.1:0\"\n[origin]\nurl = \"http://127.0.0.1:8080\"", &[], &[]);
    loaded("listen = \"10.0.0.1:80\"\n[origin]\nurl = \"http://127.0.0.1\"", &[], &[]);
}

#[test]
fn each_file_that_tls_lacks_is_named() {
    let (cert, key) = ("2: tls.cert: tls.listen needs it", "2: tls.key: tls.listen needs it");
    let cases: [(&str, &[&str]); 3] = [("key = \"k\"", &[cert]), ("cert = \"c\"", &[key]), ("", &[cert, key])];
    for (file, expected) in cases {
        let told = mistakes(&format!("[tls]\nlisten = \"127.0.0.1:1\"\n{file}"));
        let named = told.iter().zip(expected).all(|(told, expected)| told.starts_with(expected));
        assert!(told.len() == expected.len() && named, "{file}: {told:#?}");
    }
}

#[test]
fn values_out_of_range_or_of_another_kind_are_refused() {
    let bad = [
        "listen = \"localhost:80\"",
        "listen = 8080",
        "app = \"ftp://127.0.0.1:1\"",
        "app = \"https://127.0.0.1:1/base\"",
        "app = \"http://127.0.0.1:1/base\"",
        "app = \"http://user:secret@127.0.0.1:1\"",
        "app = \"127.0.0.1:1\"",
        "paths = []",
        "paths = [\"cgi-bin\"]",
        "paths = [\"/a?b\"]",
        "paths = \"/a\"",
        "health_path = \"up\"",
        "trusted_proxies = [\"10.0.0.0/33\"]",
        "trusted_proxies = [\"example.com\"]",
        "trusted_proxies = \"loopback\"",
        "client_header = \"x-real-ip\"",
        "drain = \"10\"",
        "drain = \"2h\"",
        "drain = true",
        "[origin]\nurl = \"ftp://a\"",
        "[origin]\nurl = \"https://\"",
        "[origin]\nurl = \"https://a/?b=c\"",
        "[origin]\nmax_concurrent = 0",
        "[origin]\nconnect_timeout = \"0s\"",
        "[cache]\nmemory = \"1KiB\"",
        "[cache]\nmemory = -1",
        "[cache]\npass_headers = \"server\"",
        "[cache]\npass_headers = [1]",
        "[cache]\npass_headers = [\"\"]",
        "[cache]\npass_headers = [\"x a\"]",
        "[cache]\npass_headers = [\"x-a:\"]",
        "[cache]\npass_headers = [\"*\", \"x-a\"]",
        "[cache]\npass_headers = [\"x-*\"]",
        "[limits]\nclient_misses = { rate = 0, burst = 1, wait = \"1s\" }",
        "[limits]\nclient_misses = { rate = 1, burst = 0, wait = \"1s\" }",
        "[limits]\nclient_misses = { rate = 1, burst = 1 }",
        "[limits]\nclient_misses = { rate = 1, burst = 1, wait = \"1s\", x = 1 }",
        "[limits]\nclient_misses = { rate = 1e-9, burst = 1000, wait = \"1s\" }",
        "[limits]\nclient_misses = { rate = 1e-300, burst = 1000, wait = \"1s\" }",
        "[limits]\nclient_misses = { rate = nan, burst = 1, wait = \"1s\" }",
        "[limits]\nclient_misses = { rate = inf, burst = 1, wait = \"1s\" }",
        "[limits]\nclient_misses = { rate = 1, burst = 1, wait = \"1d\" }",
        "[limits]\nclient_misses = \"on\"",
        "[limits]\nmax_connections = 0",
        "[limits]\nmax_connections = \"many\"",
        "[cors]\nallow_origins = [\"*\", \"https://a\"]",
        "[cors]\nallow_origins = [\"https://a/\"]",
        "[cors]\nallow_origins = [\"a.example\"]",
        "[cors]\nallow_origins = [\"https://A.example\"]",
        "[cors]\nallow_origins = [\"https://a.example:443\"]",
        "[cors]\nallow_origins = [\"http://a.example:80\"]",
        "[relay]\nlisten = \"9181\"",
        "[relay]\nurl = \"api.weixin.qq.com\"",
        "[relay]\nurl = \"https://api.weixin.qq.com/cgi-bin\"",
        "[relay]\nurl = \"https://api.weixin.qq.com/?a\"",
        "[relay]\nurl = \"https://user@api.weixin.qq.com\"",
        "[relay]\nfallback = \"https://api2.weixin.qq.com\"",
        "[relay]\nfallback = [\"https://api2.weixin.qq.com\", \"sh.api.weixin.qq.com\"]",
        "[relay]\nforward = \"some\"",
        "[relay]\nprefetch = 1",
        "[tickets]\nmax_own = 0",
        "[log]\nlevel = \"loud\"",
        "[log]\naccess = \"yes\"",
        "[log]\nclient = \"some\"",
        "[trace]\nsample = 2",
        "[trace]\nendpoint = \"nowhere\"",
    ];
    for toml in bad {
        let told = mistakes(toml);
        assert!(told.len() == 1 && told[0].contains("; valid: "), "{toml}: {told:#?}");
    }
}

#[test]
fn a_field_that_can_never_pass_is_told_with_the_reason() {
    let cases = [
        ("Set-Cookie", "belongs to one visitor, and an image is everybody's"),
        ("connection", "belongs to the connection to WeChat"),
        ("content-type", "describes the bytes, which the proxy does itself"),
        ("cdn-cache-control", "speaks to caches, which the proxy does itself: an image must not outlive its ticket"),
        ("access-control-allow-origin", "is set by [cors]"),
        ("x-request-id", "is the proxy's own"),
        ("strict-transport-security", "speaks for WeChat's host, and browsers would take it for yours"),
        ("x-accel-redirect", "is an order to the server in front of the proxy"),
    ];
    for (name, why) in cases {
        let told = mistakes(&format!("[cache]\npass_headers = [\"server\", \"{name}\"]"));
        let expected = format!(
            "2: cache.pass_headers: [\"server\", \"{name}\"] contains \"{name}\", which never passes: it {why}; valid: "
        );
        assert!(told.len() == 1 && told[0].starts_with(&expected), "{told:#?}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_a_mistake() {
    let nowhere = Sources { file: Some("/nowhere/ticketgate.toml".into()), ..Sources::default() };
    let told = Config::load(nowhere).unwrap_err().to_string();
    assert!(told.starts_with("/nowhere/ticketgate.toml: cannot be read: "), "{told}");
    let told = load(b"listen = \"\xff\"", &[], &[]).unwrap_err().to_string();
    assert!(told.contains("is not UTF-8 at byte 10"), "{told}");
    let told = load(vec![b'#'; 1024 * 1024 + 1], &[], &[]).unwrap_err().to_string();
    assert!(told.contains("longer than 1 MiB"), "{told}");
}

proptest::proptest! {
    #[test]
    fn no_file_makes_it_panic(text in "[ -~\n\t\u{e9}\u{4f60}]{0,300}") {
        let _ = load(&text, &[], &[]).map_err(|mistakes| mistakes.to_string());
    }

    #[test]
    fn no_value_makes_it_panic(value in "[ -~\u{4f60}]{0,40}", key in 0usize..4) {
        let keys = ["listen", "app", "cache.memory", "limits.client_misses"];
        let _ = load("", &[], &[("--x", keys[key], &value)]).map_err(|mistakes| mistakes.to_string());
    }
}
