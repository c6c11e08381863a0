//! What holds for whatever bytes strangers send: a law for each reader of their words. `cargo test` tries each with random bytes
//! and with the seeds in `fuzz/seeds`, `cargo fuzz` (see `fuzz/`) for as long as it is let. Nothing here is part of a release.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use headers::{ETag, HeaderMapExt as _};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::cache::directives::Directives;
use crate::cache::downstream::Downstream;
use crate::cache::expiry::Expiry;
use crate::cache::freshness::{Exchange, Freshness};
use crate::config::{Config, Sources};
use crate::forwarded;
use crate::limit::{ClientConfig, ClientHeader, Trust, Trusted};
use crate::moment::{Moment, Tick, Wall};
use crate::relay::created::Created;
use crate::respond::conditional::Stored;
use crate::respond::range::Part;
use crate::server::proxy_header::{Header, LONGEST};
use crate::store::record;
use crate::ticket::{MAX_BYTES, Ticket};

/// Keeps a law, or panics.
pub type Law = fn(&[u8]);

/// Every law, by the name of its seeds and of its fuzz target.
pub const LAWS: [(&str, Law); 9] = [
    ("ticket", ticket),
    ("forwarded", forwarded),
    ("range", range),
    ("cache_control", cache_control),
    ("conditional", conditional),
    ("proxy_header", proxy_header),
    ("config", config),
    ("created", created),
    ("stored", stored),
];

/// A ticket that was read from a query is read as itself when its canonical text comes again, and needs no repair then (S7).
pub fn ticket(bytes: &[u8]) {
    let Ok(query) = std::str::from_utf8(bytes) else { return };
    for ticket in [Ticket::from_query(Some(query)), Ticket::find(query)].into_iter().flatten() {
        assert!((1..=MAX_BYTES).contains(&ticket.canonical().len()));
        assert!(ticket.canonical().bytes().all(|byte| (b'!'..=b'~').contains(&byte)), "one line, no space");
        let again = Ticket::from_text(&ticket.encoded()).expect("what is canonical can be read");
        assert_eq!(again, ticket);
        assert!(again.repairs().is_empty());
        assert_eq!(again.facts(), ticket.facts());
    }
}

/// Whatever an untrusted peer says of others, it is the client itself (S30).
pub fn forwarded(bytes: &[u8]) {
    let stranger = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));
    for (name, client_header) in
        [("forwarded", ClientHeader::Forwarded), ("x-forwarded-for", ClientHeader::XForwardedFor)]
    {
        let headers = lines_of(&HeaderName::from_static(name), bytes);
        let trust = Trust::new(&ClientConfig { trusted_proxies: vec![Trusted::Loopback], client_header });
        assert_eq!(trust.client(stranger, &headers).address(), stranger);
        let _ = trust.client(Ipv4Addr::LOCALHOST.into(), &headers);
    }
    for element in forwarded::elements(bytes) {
        for name in ["for", "by", "host", "proto"] {
            let _ = forwarded::parameter(element, name).and_then(forwarded::address);
        }
    }
    let well_formed = forwarded::is_well_formed(bytes);
    let more = [bytes, b", for=192.0.2.1"].concat();
    let last = forwarded::elements(&more).next().and_then(|element| forwarded::parameter(element, "for"));
    assert!(!well_formed || last == Some(b"192.0.2.1"), "what is added behind a line stands alone");
}

/// A part is never empty, and never beyond the image.
pub fn range(bytes: &[u8]) {
    let headers = lines_of(&header::RANGE, bytes);
    for length in [1, 28_026, usize::MAX] {
        if let Part::Bytes(part) = Part::of(&headers, length) {
            assert!(part.start < part.end && part.end <= length);
        }
    }
}

/// Nobody is told of more life than is left, whatever the origin says (S21).
pub fn cache_control(bytes: &[u8]) {
    let names = [header::CACHE_CONTROL, header::EXPIRES, header::DATE, header::AGE];
    let headers = fields_of(&[&names[..], &[HeaderName::from_static("cdn-cache-control")]].concat(), bytes);
    let said = Directives::of(&headers);
    let asked = at(0);
    let exchange = Exchange { asked, answered: asked };
    let freshness = Freshness::of(&headers, &said, exchange, Duration::from_secs(60));
    let expiry = Expiry::new(at(60).wall, asked, 0);
    for seconds in [0, 1, 59, 60, 86_400] {
        let now = at(seconds);
        let told = Downstream::of(&freshness, Some(&expiry), now);
        assert!(told.max_age <= 60u64.saturating_sub(seconds), "a ticket of a minute");
        let _ = told.cache_control(&said.downstream);
        let _ = (told.expires(), freshness.left(now.tick), freshness.staleness(now.tick));
    }
    let _ = said.renewed(&headers);
}

/// Where one of several tags is the image's own, the client has it; a range is given to whoever asks for one without a
/// condition.
pub fn conditional(bytes: &[u8]) {
    let names = [header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE, header::IF_RANGE];
    let headers = fields_of(&names, bytes);
    let etag: ETag = "\"own\"".parse().expect("a tag");
    let stored = Stored { etag: &etag, last_modified: Some(at(0).wall), date: at(5).wall };
    let _ = stored.is_known(&headers);
    assert!(stored.allows_part(&headers) || headers.contains_key(header::IF_RANGE));
    let mut own = HeaderMap::new();
    own.typed_insert(headers::IfNoneMatch::from(etag.clone()));
    assert!(stored.is_known(&own));
}

/// A header is found at the same length however much follows it, and not before its last byte has come.
pub fn proxy_header(bytes: &[u8]) {
    let Ok(Some(header)) = Header::parse(bytes) else { return };
    assert!((1..=LONGEST).contains(&header.length) && header.length <= bytes.len());
    assert_eq!(Header::parse(&bytes[..header.length]), Ok(Some(header)), "what follows changes nothing");
    assert_eq!(Header::parse(&bytes[..header.length - 1]), Ok(None), "it is waited for");
}

/// A configuration is good, or its mistakes are told. The first line stands for the environment, the rest for the file.
pub fn config(bytes: &[u8]) {
    let cut = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let (first, rest) = bytes.split_at(cut);
    let file = scratch_file();
    if std::fs::write(&file, rest).is_err() {
        // A full disk says nothing about configurations.
        return;
    }
    let words = String::from_utf8_lossy(first);
    let environment = words.split_ascii_whitespace().filter_map(|word| word.split_once('='));
    let environment = environment.map(|(name, value)| (format!("TICKETGATE_{name}"), value.to_owned())).collect();
    let loaded = Config::load(Sources { file: Some(file.clone()), environment, ..Sources::default() });
    let _ = std::fs::remove_file(file);
    match loaded {
        Ok(loaded) => assert!(!loaded.config.shown().is_empty()),
        Err(mistakes) => assert!(!mistakes.to_string().is_empty()),
    }
}

/// What an answer of the API teaches is a ticket that can be asked for.
pub fn created(bytes: &[u8]) {
    for coding in ["identity", "gzip", "deflate"] {
        let headers = [(header::CONTENT_ENCODING, HeaderValue::from_static(coding))].into_iter().collect();
        if let Some(created) = Created::read(StatusCode::OK, &headers, bytes) {
            ticket(format!("ticket={}", created.ticket.encoded()).as_bytes());
        }
    }
}

/// What is read back from a line is what is written in one.
pub fn stored(bytes: &[u8]) {
    record::read_lines(bytes, |read| {
        let mut again = Vec::new();
        record::read_lines(read.line().as_bytes(), |record| again.push(record));
        assert_eq!(again, [read]);
    });
}

fn at(seconds: u64) -> Moment {
    let since = Duration::from_secs(seconds);
    Moment { wall: Wall::from_unix(1_767_225_600) + since, tick: Tick::from_start(since) }
}

/// A field `name` for each line that can be one.
fn lines_of(name: &HeaderName, bytes: &[u8]) -> HeaderMap {
    fields_of(std::slice::from_ref(name), bytes)
}

/// A field for each line that can be one, with `names` in turn.
fn fields_of(names: &[HeaderName], bytes: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, line) in names.iter().cycle().zip(bytes.split(|byte| *byte == b'\n')) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(name, value);
        }
    }
    headers
}

/// One for each thread of each process.
fn scratch_file() -> PathBuf {
    let (process, thread) = (std::process::id(), std::thread::current().id());
    std::env::temp_dir().join(format!("ticketgate-laws-{process}-{thread:?}.toml"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn they_hold_for_random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            for (_, law) in LAWS {
                law(&bytes);
            }
        }

        #[test]
        fn they_hold_for_words_that_strangers_might_send(text in "[ -~\n]{0,200}|ticket=[A-Za-z0-9+/%= _-]{0,140}|bytes=[0-9,-]{0,20}") {
            for (_, law) in LAWS {
                law(text.as_bytes());
            }
        }
    }

    #[test]
    fn they_hold_for_every_seed() {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
        for (name, law) in LAWS {
            let files: Vec<_> = std::fs::read_dir(seeds.join(name)).expect("each law has seeds").collect();
            assert!(files.len() > 2, "{name}");
            for file in files {
                law(&std::fs::read(file.expect("it is listed").path()).expect("it is read"));
            }
        }
    }
}
