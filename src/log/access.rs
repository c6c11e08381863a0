//! The access line: one for each request, with the same keys whoever answered. `docs/log.md` has them; a test compares.
//! Tickets appear shortened, queries never (S35, S39).

use std::fmt::Display;
use std::time::Duration;

use super::client::Shown;

/// Target of the access lines.
pub const ACCESS: &str = "access";

/// Bytes of a path that are logged: a head may be 32 KiB long,
const LONGEST_PATH: usize = 256;
/// and all of it may be the method.
const LONGEST_METHOD: usize = 32;

/// One request, and what came of it. What is not known, or means nothing, is left out.
#[derive(Clone, Copy, Default)]
pub struct Line<'a> {
    /// Its method.
    pub method: Option<&'a str>,
    /// Which way it went.
    pub route: Option<&'static str>,
    /// Its path, without the query.
    pub path: Option<&'a str>,
    /// The status that was sent; without an answer, that of [`unanswered`].
    pub status: u16,
    /// Bytes of the body that were sent.
    pub bytes: Option<u64>,
    /// How it fared with the cache.
    pub cache: Option<&'static str>,
    /// Why it is not what it should be.
    pub reason: Option<&'static str>,
    /// Its ticket, shortened.
    pub ticket: Option<&'a dyn Display>,
    /// Who asked, as far as that is told.
    pub client: Option<Shown>,
    /// Until WeChat's answer was read.
    pub origin_took: Option<Duration>,
    /// Until the app's answer began.
    pub app_took: Option<Duration>,
    /// Until the answer was there; of one that streams, until its end.
    pub took: Option<Duration>,
    /// Connects it with the answer.
    pub id: Option<&'a str>,
    /// Connects it with the client's trace.
    pub trace: Option<&'a dyn Display>,
}

/// The status of a request that ended without an answer, and why: its client hung up (as nginx has it), or we panicked.
pub fn unanswered() -> (u16, Option<&'static str>) {
    if std::thread::panicking() { (500, Some("panicked")) } else { (499, None) }
}

/// Whether anybody reads access lines.
pub fn is_wanted() -> bool {
    tracing::enabled!(target: ACCESS, tracing::Level::INFO)
}

impl Line<'_> {
    /// As much of its method as is told.
    pub fn method(&self) -> Option<&str> {
        self.method.map(|method| start_of(method, LONGEST_METHOD))
    }

    /// Writes it, if anybody reads it. Never waits.
    pub fn write(&self) {
        tracing::info!(
            target: ACCESS,
            method = self.method(),
            route = self.route,
            path = self.path.map(shortened),
            status = self.status,
            bytes = self.bytes,
            cache = self.cache,
            reason = self.reason,
            ticket = self.ticket.map(tracing::field::display),
            client = self.client.map(tracing::field::display),
            origin_ms = self.origin_took.map(milliseconds),
            app_ms = self.app_took.map(milliseconds),
            took_ms = self.took.map(milliseconds),
            id = self.id,
            trace = self.trace.map(tracing::field::display),
        );
    }
}

/// What begins a query though HTTP knows none there: who joins URLs wrongly sends an `access_token` in the path (S35).
const BEGIN_QUERIES: [&str; 6] = ["&", ";", "%3f", "%26", "token", "secret"];

/// As much of a path as is logged: the beginning of a long one, and nothing of what looks like a query.
pub fn shortened(path: &str) -> &str {
    let path = start_of(path, LONGEST_PATH);
    let plain = path.to_ascii_lowercase();
    let end = BEGIN_QUERIES.iter().filter_map(|begin| plain.find(begin)).min();
    end.map_or(path, |end| &path[..end])
}

fn start_of(text: &str, bytes: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes)).unwrap_or(text)
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_query_that_looks_like_a_path_is_not_told() {
        for path in [
            "/cgi-bin/qrcode/create&access_token=CANARY",
            "/cgi-bin/qrcode/create%3Faccess_token=CANARY",
            "/cgi-bin/qrcode/create%3faccess%5Ftoken=CANARY",
            "/cgi-bin/qrcode/create;CANARY",
            "/cgi-bin/qrcode/create/access_token/CANARY",
            "/cgi-bin/qrcode/create/ACCESS_TOKEN/CANARY",
        ] {
            assert!(shortened(path).starts_with("/cgi-bin/qrcode/create"), "{path}");
            assert!(!shortened(path).contains("CANARY"), "{path}");
        }
        assert_eq!(shortened("/a/b=c/\u{e9}"), "/a/b=c/\u{e9}");
    }

    #[test]
    fn a_request_that_panicked_is_none_whose_client_hung_up() {
        struct Asks(std::sync::mpsc::Sender<(u16, Option<&'static str>)>);
        impl Drop for Asks {
            fn drop(&mut self) {
                let _ = self.0.send(unanswered());
            }
        }
        let (sender, told) = std::sync::mpsc::channel();
        let asks = Asks(sender.clone());
        let panicking = std::thread::spawn(move || {
            let _asks = asks;
            panic!("on purpose");
        });
        assert!(panicking.join().is_err());
        drop(Asks(sender));
        assert_eq!([told.recv().unwrap(), told.recv().unwrap()], [(500, Some("panicked")), (499, None)]);
    }

    proptest! {
        #[test]
        fn whatever_is_told_is_a_short_beginning(path: String) {
            let told = shortened(&path);
            prop_assert!(path.starts_with(told) && told.len() <= LONGEST_PATH && !told.contains('&'));
        }
    }
}
