//! What values may look like. Each function here reads one kind of value, and says what would be valid when it is not.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use http::{HeaderName, Uri};

use super::value::{Value, Wrong};
use crate::admin::token::{Token, TokenFile};
use crate::cache::pass_headers::{PassHeaders, barred};
use crate::limit::{Policy, Trusted};
use crate::relay::Host;

fn wrong(is: impl Into<String>, valid: impl Into<String>) -> Wrong {
    Wrong { is: is.into(), valid: valid.into() }
}

/// `true` or `false`.
pub(super) fn boolean(value: &Value) -> Result<bool, Wrong> {
    match (value, value.as_text()) {
        (Value::Bool(boolean), _) => Ok(*boolean),
        (Value::Bare(_), Some("true")) => Ok(true),
        (Value::Bare(_), Some("false")) => Ok(false),
        _ => Err(wrong("is neither true nor false", "true, false")),
    }
}

/// A whole number in `range`.
pub(super) fn count(range: RangeInclusive<u32>) -> impl Fn(&Value) -> Result<usize, Wrong> {
    move |value| {
        let within = value.as_integer().and_then(|integer| u32::try_from(integer).ok()).filter(|n| range.contains(n));
        let valid = || format!("a whole number, without quotes in the file, from {} to {}", range.start(), range.end());
        let is = if value.as_integer().is_some() { "is out of range" } else { "is no number" };
        within.map(|n| n as usize).ok_or_else(|| wrong(is, valid()))
    }
}

/// A time such as `"10s"`, in `range`.
pub(super) fn duration(range: RangeInclusive<Duration>) -> impl Fn(&Value) -> Result<Duration, Wrong> {
    move |value| {
        let form = |n| humantime::format_duration(n).to_string();
        let (least, most) = (form(*range.start()), form(*range.end()));
        let valid = || format!("a time with its unit, such as \"10s\" or \"1m 30s\", from {least} to {most}");
        let parsed = value.as_text().and_then(|text| humantime::parse_duration(text).ok());
        let duration = parsed.ok_or_else(|| wrong("is no time", valid()))?;
        if range.contains(&duration) { Ok(duration) } else { Err(wrong("is out of range", valid())) }
    }
}

/// A number of bytes such as `"64MiB"`, in `range`.
pub(super) fn size(range: RangeInclusive<u64>) -> impl Fn(&Value) -> Result<u64, Wrong> {
    move |value| {
        let (least, most) = (ByteSize(*range.start()), ByteSize(*range.end()));
        let valid = || format!("bytes with their unit, such as \"64MiB\", from {least} to {most}");
        let integer = value.as_integer().and_then(|integer| u64::try_from(integer).ok());
        let parsed = || value.as_text().and_then(|text| text.parse::<ByteSize>().ok()).map(|size| size.as_u64());
        let size = integer.or_else(parsed).ok_or_else(|| wrong("is no size", valid()))?;
        if range.contains(&size) { Ok(size) } else { Err(wrong("is out of range", valid())) }
    }
}

/// One of the words of `choices`.
pub(super) fn choice<T: Copy>(choices: &[(&str, T)]) -> impl Fn(&Value) -> Result<T, Wrong> {
    move |value| {
        let found = choices.iter().find(|(word, _)| value.as_text() == Some(word));
        let words = || choices.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
        found.map(|(_, chosen)| *chosen).ok_or_else(|| wrong("is not one of the words", words()))
    }
}

fn address(value: &Value) -> Result<SocketAddr, Wrong> {
    let parsed = value.as_text().and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| wrong("is no address", ADDRESS))
}

const ADDRESS: &str =
    "an IP address with a port, such as \"127.0.0.1:8080\", \"0.0.0.0:8080\" or \"[::]:8080\"; port 0 picks a free one";

/// An address with a port, or `"off"`; `""` is off too.
pub(super) fn address_or_off(value: &Value) -> Result<Option<SocketAddr>, Wrong> {
    if matches!(value.as_text(), Some("off" | "")) {
        return Ok(None);
    }
    address(value).map(Some).map_err(|Wrong { is, valid }| wrong(is, format!("{valid}; or \"off\"")))
}

/// A file; `""` is none.
pub(super) fn file(value: &Value) -> Result<Option<PathBuf>, Wrong> {
    let text = value.as_text().ok_or_else(|| wrong("is no path", "the path of a file in quotes"))?;
    Ok(Some(text).filter(|text| !text.is_empty()).map(PathBuf::from))
}

/// The path of a URL, as it stands in a request; `""` is none.
pub(super) fn optional_path(value: &Value) -> Result<Option<String>, Wrong> {
    const VALID: &str = "a path that begins with \"/\", such as \"/healthz\"; or \"\" for none";
    if value.as_text() == Some("") {
        return Ok(None);
    }
    path(value).map(Some).ok_or_else(|| wrong("is no path", VALID))
}

/// At least one path of a URL.
pub(super) fn paths(value: &Value) -> Result<Vec<String>, Wrong> {
    let items = value.as_list().filter(|items| !items.is_empty());
    all(&items.ok_or_else(|| wrong("names no path", PATHS))?, path, PATHS)
}

/// Every item, or all that are wrong.
fn all<T>(items: &[Value], read: impl Fn(&Value) -> Option<T>, valid: &str) -> Result<Vec<T>, Wrong> {
    let bad: Vec<String> = items.iter().filter(|item| read(item).is_none()).map(ToString::to_string).collect();
    if bad.is_empty() {
        Ok(items.iter().filter_map(read).collect())
    } else {
        Err(wrong(format!("contains {}", bad.join(", ")), valid))
    }
}

const PATHS: &str = "paths as they stand in a request, such as [\"/cgi-bin/showqrcode\"]";

fn path(value: &Value) -> Option<String> {
    let stands = |text: &&str| {
        text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#'))
    };
    value.as_text().filter(stands).map(str::to_owned)
}

/// The operator's token; `""` is none.
pub(super) fn token(value: &Value) -> Result<Option<Token>, Wrong> {
    const VALID: &str = "1 to 512 visible ASCII characters without spaces; or \"\" for none";
    match value.as_text() {
        Some("") => Ok(None),
        text => text.and_then(Token::of).map(Some).ok_or_else(|| wrong("is no token", VALID)),
    }
}

/// A file with the operator's token, which is read; `""` is none.
pub(super) fn token_file(value: &Value) -> Result<Option<TokenFile>, Wrong> {
    let Some(path) = file(value)? else { return Ok(None) };
    TokenFile::read(&path).map(Some).map_err(|is| wrong(is, "a file that holds the token and nothing else"))
}

/// Names of hosts, without ports.
pub(super) fn hosts(value: &Value) -> Result<Vec<String>, Wrong> {
    const VALID: &str = "a list of names without port and path, such as [\"ops.example\"]";
    let is_name = |text: &&str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
    };
    let items = value.as_list().ok_or_else(|| wrong("is no list", VALID))?;
    all(&items, |item| item.as_text().filter(is_name).map(str::to_ascii_lowercase), VALID)
}

/// Peers to trust.
pub(super) fn trusted(value: &Value) -> Result<Vec<Trusted>, Wrong> {
    const VALID: &str =
        "a list of networks, addresses and the words \"loopback\", \"private\", such as [\"loopback\", \"10.0.0.0/8\"]";
    let peer = |value: &Value| match value.as_text()? {
        "loopback" => Some(Trusted::Loopback),
        "private" => Some(Trusted::Private),
        text => text.parse().or_else(|_| text.parse::<IpAddr>().map(ipnet::IpNet::from)).ok().map(Trusted::Net),
    };
    let items = value.as_list().ok_or_else(|| wrong("is no list", VALID))?;
    all(&items, peer, VALID)
}

/// Origins as browsers send them, or `*`.
pub(super) fn web_origins(value: &Value) -> Result<Vec<String>, Wrong> {
    const VALID: &str = "[\"*\"] alone, or a list of origins as browsers send them, such as [\"https://shop.example\"]: scheme, host, \
         port unless it is the scheme's own, no path";
    let is_origin = |text: &&str| {
        let uri = text.parse::<Uri>().ok();
        *text == "*"
            || uri.is_some_and(|uri| {
                let same = |scheme, authority| format!("{scheme}://{authority}") == text.to_ascii_lowercase();
                let own_port =
                    matches!((uri.scheme_str(), uri.port_u16()), (Some("https"), Some(443)) | (Some("http"), Some(80)));
                uri.scheme().zip(uri.authority()).is_some_and(|(scheme, authority)| same(scheme, authority))
                    && **text == text.to_ascii_lowercase()
                    && !own_port
            })
    };
    let items = value.as_list().ok_or_else(|| wrong("is no list", VALID))?;
    let origins = all(&items, |item| item.as_text().filter(is_origin).map(str::to_owned), VALID)?;
    let starred = origins.len() > 1 && origins.iter().any(|origin| origin == "*");
    if starred { Err(wrong("names more beside \"*\"", VALID)) } else { Ok(origins) }
}

/// Names of the origin's fields that may pass on, or `*`.
pub(super) fn pass_headers(value: &Value) -> Result<PassHeaders, Wrong> {
    const VALID: &str =
        "a list of header fields of the origin, such as [\"server\"], or [\"*\"] alone for all that can pass";
    let items = value.as_list().ok_or_else(|| wrong("is no list", VALID))?;
    let is_star = |item: &Value| item.as_text() == Some("*");
    match items.as_slice() {
        [star] if is_star(star) => Ok(PassHeaders::All),
        items if items.iter().any(is_star) => Err(wrong("names more beside \"*\"", VALID)),
        items => items
            .iter()
            .map(field_to_pass)
            .collect::<Result<_, _>>()
            .map_or_else(|is| Err(wrong(is, VALID)), |names| Ok(PassHeaders::Listed(names))),
    }
}

fn field_to_pass(item: &Value) -> Result<HeaderName, String> {
    // A token may have a star (RFC 9110 §5.6.2), but whoever writes one means a pattern.
    let text = item.as_text().filter(|text| !text.contains('*'));
    let name = text.and_then(|text| HeaderName::from_bytes(text.as_bytes()).ok());
    let name = name.ok_or_else(|| format!("contains {item}, which is no name of a field"))?;
    barred(&name).map_or(Ok(name), |why| Err(format!("contains {item}, which never passes: it {why}")))
}

/// The app's URL: scheme and authority.
pub(super) fn app_url(value: &Value) -> Result<Option<Uri>, Wrong> {
    const VALID: &str =
        "\"http://\" or \"https://\" and the app's address, without a path, such as \"http://127.0.0.1:3000\"";
    if value.as_text() == Some("") {
        return Ok(None);
    }
    let is_bare =
        |uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.path() == "/" && uri.query().is_none();
    let uri = url(value).filter(is_bare);
    uri.map(Some).ok_or_else(|| wrong("is no address of an app", VALID))
}

/// The origin's URL: scheme, authority and perhaps a path.
pub(super) fn origin_url(value: &Value) -> Result<Uri, Wrong> {
    const VALID: &str =
        "\"https://\" (or \"http://\") and a host, such as \"https://mp.weixin.qq.com\"; a path replaces WeChat's own";
    let is_base = |uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.query().is_none();
    url(value).filter(is_base).ok_or_else(|| wrong("is no URL of an origin", VALID))
}

/// Where a collector takes traces; `""` is nowhere.
pub(super) fn trace_endpoint(value: &Value) -> Result<Option<Uri>, Wrong> {
    const VALID: &str = "\"\", or where a collector takes OTLP over HTTP, such as \"http://127.0.0.1:4318\"";
    if value.as_text() == Some("") {
        return Ok(None);
    }
    if !cfg!(feature = "otel") {
        let valid = "\"\"; build it with `cargo build --release --features otel` to send traces";
        return Err(wrong("needs the feature otel, which this ticketgate was built without", valid));
    }
    let is_base = |uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.query().is_none();
    url(value).filter(is_base).map(Some).ok_or_else(|| wrong("is no URL of a collector", VALID))
}

/// A share of a whole.
pub(super) fn share(value: &Value) -> Result<f64, Wrong> {
    let share = value.as_number().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| wrong("is no share", "a number from 0 to 1"))
}

/// A host of WeChat's API.
pub(super) fn api_host(value: &Value) -> Result<Host, Wrong> {
    host(value).ok_or_else(|| wrong("is no host of the API", API_HOST))
}

/// Hosts of WeChat's API, in the order in which they are tried.
pub(super) fn api_hosts(value: &Value) -> Result<Vec<Host>, Wrong> {
    const VALID: &str =
        "a list of at most 8 hosts, such as [\"https://api2.weixin.qq.com\", \"https://sh.api.weixin.qq.com\"]";
    let items = value.as_list().filter(|items| items.len() <= MOST_HOSTS);
    all(&items.ok_or_else(|| wrong("is no list of so few hosts", VALID))?, host, VALID)
}

const API_HOST: &str = "\"https://\" (or \"http://\") and a host without a path, such as \"https://api.weixin.qq.com\"";

/// WeChat publishes four; each may take `origin.connect_timeout`.
const MOST_HOSTS: usize = 8;

fn host(value: &Value) -> Option<Host> {
    let is_web = |uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https"));
    url(value).filter(is_web).as_ref().and_then(Host::of)
}

/// A URL with a host and without credentials.
fn url(value: &Value) -> Option<Uri> {
    let uri: Uri = value.as_text().filter(|text| !text.contains('#'))?.parse().ok()?;
    let authority = uri.authority()?;
    (!authority.host().is_empty() && !authority.as_str().contains('@')).then_some(uri)
}

/// A budget, or `"off"`.
pub(super) fn budget(value: &Value) -> Result<Option<Policy>, Wrong> {
    const VALID: &str = "\"off\", or calls a second, calls at once and the longest wait: { rate = 50, burst = 500, wait = \"10s\" }, \
         with a rate from 0.001 to 1000000, a burst from 1 to 1000000, a wait up to 5m";
    if value.as_text() == Some("off") {
        return Ok(None);
    }
    let spelled_out = value.spelled_out();
    let Value::Table(entries) = spelled_out.as_ref().unwrap_or(value) else {
        return Err(wrong("is no budget", VALID));
    };
    policy(entries).map(Some).map_err(|is| wrong(is, VALID))
}

/// One call in a quarter of an hour: with the largest burst, the limiter's nanoseconds still fit in 64 bits.
const LEAST_CALLS: f64 = 1e-3;
/// More than any machine serves.
const MOST_CALLS: f64 = 1e6;
/// No browser waits longer for an image.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// All three are asked for: half a budget would mean something else than it says. Every part that is wrong is named.
fn policy(entries: &[(String, Value)]) -> Result<Policy, String> {
    let find = |wanted: &str| entries.iter().find(|(name, _)| name == wanted).map(|(_, value)| value);
    let in_range = |rate: &f64| (LEAST_CALLS..=MOST_CALLS).contains(rate);
    let rate = find("rate").and_then(Value::as_number).filter(in_range);
    let whole = |burst: &Value| u32::try_from(burst.as_integer()?).ok().filter(|n| f64::from(*n) <= MOST_CALLS);
    let burst = find("burst").and_then(whole).and_then(NonZeroU32::new);
    let wait = find("wait").and_then(|wait| duration(Duration::ZERO..=LONGEST_WAIT)(wait).ok());
    let known = ["rate", "burst", "wait"];
    let is_unknown = entries.iter().map(|(name, _)| name.as_str()).filter(|name| !known.contains(name));
    let mut wrong: Vec<String> = is_unknown.map(|name| format!("an unknown part, {name}")).collect();
    for (name, is_read) in known.into_iter().zip([rate.is_some(), burst.is_some(), wait.is_some()]) {
        match find(name) {
            None => wrong.push(format!("no {name}")),
            Some(value) if !is_read => wrong.push(format!("the {name} {value}")),
            Some(_) => {}
        }
    }
    match (rate, burst, wait) {
        (Some(rate), Some(burst), Some(wait)) if wrong.is_empty() => Ok(Policy { rate, burst, wait }),
        _ => Err(format!("has {}", wrong.join(" and "))),
    }
}
