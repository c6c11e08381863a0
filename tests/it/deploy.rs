//! What `deploy/` promises: every setting in it is valid, and its numbers agree with each other and with ours (S38).

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use ticketgate::config::{Config, Sources};
use ticketgate::fault::Faults;

use crate::support::origin::{Answer, Origin};
use crate::support::proxy::Proxy;

const FILES: [&str; 7] = [
    "Dockerfile",
    "ticketgate.toml",
    "ticketgate.service",
    "kubernetes.yaml",
    "nginx.conf",
    "Caddyfile",
    "alerts.yaml",
];

/// What the process needs beside the images.
const BESIDE_THE_CACHE: u64 = 128 << 20;

fn read(name: &str) -> String {
    std::fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)).unwrap()
}

/// What stands behind `key` in the only line that begins with it.
fn value<'a>(text: &'a str, key: &str) -> &'a str {
    let mut values = text.lines().filter_map(|line| line.trim().strip_prefix(key));
    let value = values.next().unwrap_or_else(|| panic!("{key} is there"));
    assert_eq!(values.next(), None, "{key} is there once");
    value.trim()
}

/// The word behind `word`.
fn word_behind<'a>(text: &'a str, word: &str) -> &'a str {
    text.split_whitespace().skip_while(|next| *next != word).nth(1).unwrap_or_else(|| panic!("{word} and another"))
}

/// Every example becomes a setting: what is commented out should be as valid as what is not.
fn uncommented(toml: &str) -> String {
    let setting = |line: &&str| line.strip_prefix("# ").is_some_and(|rest| rest.contains(" = "));
    toml.lines().map(|line| if setting(&line) { &line[2..] } else { line }).collect::<Vec<_>>().join("\n")
}

/// Variables in the manner of a Dockerfile.
fn docker_variables(dockerfile: &str) -> Vec<(String, String)> {
    let lines = dockerfile.lines().filter_map(|line| line.strip_prefix("ENV "));
    lines.map(|line| line.split_once('=').unwrap()).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Variables in the manner of a manifest, those of comments as well.
fn manifest_variables(manifest: &str) -> Vec<(String, String)> {
    let lines: Vec<_> = manifest.lines().map(|line| line.trim().trim_start_matches("# ").trim()).collect();
    let pair = |two: &[&str]| {
        let name = two[0].strip_prefix("- name: ").filter(|name| name.starts_with("TICKETGATE_"))?;
        let value = two[1].strip_prefix("value: ").expect(name).trim_matches('"');
        Some((name.to_owned(), value.to_owned()))
    };
    lines.windows(2).filter_map(pair).collect()
}

/// Asks `ticketgate check`, and reads the same.
fn checked(toml: &str, environment: &[(String, String)]) -> Config {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("ticketgate.toml");
    std::fs::write(&file, toml).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ticketgate"));
    command.arg("check").current_dir(directory.path()).env_clear().envs(environment.iter().cloned());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let environment = environment.to_vec();
    Config::load(Sources { file: Some(file), environment, ..Sources::default() }).unwrap().config
}

fn of_the_host() -> Config {
    checked(&read("ticketgate.toml"), &[])
}

fn of_the_image() -> Config {
    checked("", &docker_variables(&read("Dockerfile")))
}

fn of_the_pod() -> Config {
    let mut variables = docker_variables(&read("Dockerfile"));
    variables.extend(manifest_variables(&read("kubernetes.yaml")));
    checked("", &variables)
}

fn seconds(text: &str) -> Duration {
    humantime::parse_duration(text).unwrap_or_else(|_| Duration::from_secs(text.parse().unwrap()))
}

fn mebibytes(text: &str) -> u64 {
    text.trim_end_matches(['M', 'm', 'i']).parse::<u64>().unwrap() << 20
}

#[test]
fn every_file_begins_with_the_three_lines_that_use_it() {
    for name in FILES {
        let text = read(name);
        let use_it: Vec<&str> = text.lines().take_while(|line| line.starts_with("# ")).collect();
        assert_eq!(use_it.len(), 3, "{name}");
        assert!(use_it.iter().any(|line| line.contains(&format!("deploy/{name}"))), "{name}");
        assert!(read("README.md").contains(&format!("[{name}]({name})")), "{name} is in the index");
    }
}

#[test]
fn every_setting_is_valid_the_commented_ones_too() {
    let host = checked(&uncommented(&read("ticketgate.toml")), &[]);
    assert!(host.forward.app.is_some() && host.routes.health_path.is_some(), "the comments were read");
    assert_eq!(of_the_image().server.listen, Some("0.0.0.0:8080".parse().unwrap()));
    let pod = of_the_pod();
    assert!(pod.forward.app.is_some(), "the comments were read");
    assert_eq!(manifest_variables(&read("kubernetes.yaml")).len(), 7);
}

#[test]
fn the_unit_starts_what_it_installs_with_the_file_it_installs() {
    let unit = read("ticketgate.service");
    let (program, flags) = value(&unit, "ExecStart=").split_once(' ').unwrap();
    let (flag, file) = flags.split_once(' ').unwrap();
    assert_eq!(flag, "--config");
    assert!(unit.lines().take(3).any(|line| line.ends_with(&format!("target/release/ticketgate {program}"))));
    assert!(unit.lines().take(3).any(|line| line.ends_with(&format!("deploy/ticketgate.toml {file}"))));
    assert_eq!(value(&unit, "Type="), "notify");
    assert_eq!(value(&unit, "ExecReload="), "/bin/kill -HUP $MAINPID");
}

#[test]
fn the_socket_unit_opens_what_the_configuration_of_the_host_would() {
    let socket = read("ticketgate.socket");
    assert_eq!(value(&socket, "ListenStream="), of_the_host().server.listen.unwrap().to_string());
    assert_eq!(value(&socket, "FileDescriptorName="), "public");
    assert_eq!(value(&socket, "Service="), "ticketgate.service");
}

#[test]
fn whoever_kills_waits_longer_than_the_drain() {
    let (unit, manifest, dockerfile) = (read("ticketgate.service"), read("kubernetes.yaml"), read("Dockerfile"));
    assert!(seconds(value(&unit, "TimeoutStopSec=")) > of_the_host().server.drain);
    assert_eq!(value(&unit, "KillSignal="), "SIGTERM");
    assert!(seconds(value(&manifest, "terminationGracePeriodSeconds:")) > of_the_pod().server.drain);
    assert!(seconds(word_behind(&dockerfile, "--stop-timeout")) > of_the_image().server.drain);
    assert_eq!(value(&dockerfile, "STOPSIGNAL "), "SIGTERM");
}

#[test]
fn a_memory_limit_is_the_cache_and_128_mib_for_each_process_there_may_be() {
    let (unit, manifest, dockerfile) = (read("ticketgate.service"), read("kubernetes.yaml"), read("Dockerfile"));
    let limits = manifest.split_once("limits:").unwrap().1;
    for (limit, config, processes) in [
        (value(&unit, "MemoryMax="), of_the_host(), 2),
        (value(limits, "memory:"), of_the_pod(), 1),
        (word_behind(&dockerfile, "--memory"), of_the_image(), 1),
    ] {
        assert_eq!(mebibytes(limit), processes * (config.cache.memory + BESIDE_THE_CACHE), "{limit}");
    }
}

#[test]
fn files_may_be_open_for_every_connection() {
    let files: usize = value(&read("ticketgate.service"), "LimitNOFILE=").parse().unwrap();
    assert!(files >= 2 * of_the_host().server.max_connections, "one from the client, one to the app");
}

#[test]
fn probes_ask_the_operators_port_for_what_it_answers() {
    let manifest = read("kubernetes.yaml");
    let pod = of_the_pod();
    let admin = pod.admin.listen.unwrap();
    assert!(admin.ip().is_unspecified(), "the kubelet asks the pod's own address");
    for (port, name) in [(pod.server.listen.unwrap().port(), "http"), (admin.port(), "admin")] {
        assert!(manifest.contains(&format!("- name: {name}\n              containerPort: {port}\n")), "{name}");
    }
    for (probe, path) in [("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")] {
        let asks = format!("{probe}:\n            httpGet:\n              path: {path}\n              port: admin\n");
        assert!(manifest.contains(&asks), "{probe}");
    }
    let service = manifest.split_once("kind: Service\n").unwrap().1;
    assert!(!service.contains("admin"), "the operator's port is not published");
    assert!(of_the_host().admin.listen.unwrap().ip().is_loopback());
    assert!(of_the_image().admin.listen.unwrap().ip().is_loopback());
}

#[test]
fn the_edges_send_the_image_path_to_where_ticketgate_listens() {
    let host = of_the_host();
    let (listen, path) = (host.server.listen.unwrap(), &host.routes.paths[0]);
    let nginx = read("nginx.conf");
    assert!(nginx.contains(&format!("server {listen};")) && nginx.contains(&format!("location = {path} {{")));
    let caddy = read("Caddyfile");
    assert!(caddy.contains(&format!("handle {path} {{\n\t\treverse_proxy {listen} {{")), "{caddy}");
    assert_eq!(host.clients.trusted_proxies, Config::default().clients.trusted_proxies, "nothing needs to be set");
}

#[test]
fn the_trusted_proxies_that_the_edges_name_are_valid() {
    for name in ["nginx.conf", "Caddyfile"] {
        let text = read(name);
        let line = text.lines().find_map(|line| line.strip_prefix("#   ")).unwrap();
        checked(line, &[]);
    }
}

#[test]
fn the_edges_let_go_of_a_connection_before_ticketgate_does() {
    let keep_alive = of_the_host().server.timeouts.keep_alive;
    assert!(seconds(value(&read("nginx.conf"), "keepalive_timeout ").trim_end_matches(';')) < keep_alive);
    assert!(seconds(value(&read("Caddyfile"), "keepalive ")) < keep_alive);
}

#[test]
fn the_edges_wait_as_long_as_an_image_may_take() {
    let Config { limits, origin, .. } = of_the_host();
    let waits = [limits.client_misses, limits.origin_fills].into_iter().flatten().map(|policy| policy.wait);
    let longest = waits.sum::<Duration>() + origin.fill_timeout;
    let nginx = read("nginx.conf");
    let (images, _) = nginx.split_once("location / {").unwrap();
    assert!(seconds(value(images, "proxy_read_timeout ").trim_end_matches(';')) > longest);
    assert!(seconds(value(&read("Caddyfile"), "response_header_timeout ")) > longest);
}

#[test]
fn nginx_takes_neither_websockets_nor_uploads_nor_events_from_the_app_behind_it() {
    let nginx = read("nginx.conf");
    let (_, app) = nginx.split_once("location / {").unwrap();
    assert_eq!(value(&nginx, "proxy_set_header Upgrade "), "$http_upgrade;");
    assert_eq!(value(&nginx, "proxy_set_header Connection "), "$ticketgate_connection;");
    assert!(!app.contains("proxy_set_header"), "it would lose those of the server");
    for (field, loses_nothing) in
        [("client_max_body_size ", "0;"), ("proxy_request_buffering ", "off;"), ("proxy_buffering ", "off;")]
    {
        assert_eq!(value(app, field), loses_nothing, "{field}");
    }
    assert!(seconds(value(app, "proxy_read_timeout ").trim_end_matches(';')) >= of_the_host().forward.tunnel_idle);
}

#[test]
fn the_image_runs_as_nobody_in_particular_and_checks_itself() {
    let dockerfile = read("Dockerfile");
    let (user, group) = value(&dockerfile, "USER ").split_once(':').unwrap();
    assert!(user.parse::<u32>().unwrap() > 0 && group.parse::<u32>().unwrap() > 0);
    let manifest = read("kubernetes.yaml");
    assert_eq!((value(&manifest, "runAsUser:"), value(&manifest, "runAsGroup:")), (user, group));
    let check = value(&dockerfile, "HEALTHCHECK ");
    assert!(check.ends_with(r#"CMD ["ticketgate", "health", "--admin", "127.0.0.1:9180"]"#), "{check}");
    let patience = check.split_whitespace().find_map(|word| word.strip_prefix("--timeout=")).unwrap();
    assert!(seconds(patience) > Duration::from_secs(2), "the command ends before it is ended");
    assert_eq!(value(&dockerfile, "RUN "), "cargo build --release --locked");
    let rust = format!("rust:{}-", env!("CARGO_PKG_RUST_VERSION"));
    assert!(dockerfile.contains(&format!("FROM {rust}")), "the floor of Cargo.toml");
}

#[test]
fn the_build_is_sent_what_it_copies_and_nothing_else() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let ignore = std::fs::read_to_string(root.join(".dockerignore")).unwrap();
    let mut sent: Vec<&str> = ignore.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let dockerfile = read("Dockerfile");
    let from_here =
        dockerfile.lines().filter_map(|line| line.strip_prefix("COPY ")).filter(|line| !line.starts_with('-'));
    let mut copied: Vec<&str> =
        from_here.filter_map(|line| line.rsplit_once(' ')).flat_map(|(from, _)| from.split(' ')).collect();
    sent.sort_unstable();
    copied.sort_unstable();
    assert_eq!(sent, copied);
    assert!(copied.iter().all(|path| root.join(path).exists()));
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_nginx_on_the_same_host_nothing_needs_to_be_set_and_the_app_sees_the_right_scheme() {
    let app = Origin::answering(Answer::of(200, "", b"ok")).await;
    let proxy = Proxy::configured(Faults::default(), |config| config.forward.app = Some(app.url().parse().unwrap()));
    let nginx = read("nginx.conf");
    let fields = nginx.lines().filter_map(|line| line.trim().strip_prefix("proxy_set_header X-"));
    let fields = fields.map(|field| format!("X-{}\r\n", field.trim_end_matches(';').replacen(' ', ": ", 1)));
    let fields = fields.collect::<String>().replace("$remote_addr", "203.0.113.9").replace("$scheme", "https");
    let answer = proxy.get_with("/page", &fields.replace("$http_host", "shop.example:8443")).await;
    assert_eq!(answer.status, 200);
    let head = app.heads()[0].to_ascii_lowercase();
    for field in
        ["x-forwarded-proto: https", "x-forwarded-host: shop.example:8443", "x-forwarded-for: 203.0.113.9, 127.0.0.1"]
    {
        assert!(head.contains(&format!("\r\n{field}\r\n")), "{field}: {head}");
    }
    assert!(!head.contains("proto=http;") && !head.contains("proto=http\r"), "one scheme: {head}");
    assert!(
        head.contains("\r\nforwarded: for=203.0.113.9;host=\"shop.example:8443\";proto=https, for=127.0.0.1;"),
        "{head}"
    );
}
