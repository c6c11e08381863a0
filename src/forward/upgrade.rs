//! Switching protocols (RFC 9110 §7.8): which requests are passed on as such, and which 101 is an answer to them.
//!
//! Passed on is what names a protocol other than HTTP itself and has no body. Inside a tunnel of HTTP, fields would reach the
//! app that nobody here has looked at; and where a body ends and the tunnel begins is a question that two servers may answer
//! differently. Such requests go on as ordinary ones, as §7.8 allows.

use http::{HeaderMap, HeaderValue, Request, Version, header};
use http_body::Body as _;
use hyper::upgrade::OnUpgrade;

use super::hop;
use crate::body::timed::TimedBody;

const UPGRADE: HeaderValue = HeaderValue::from_static("upgrade");

/// Protocols that are HTTP by another way.
const HTTP: [&str; 3] = ["h2c", "http", "tls"];

/// A client's wish to switch.
#[derive(Debug)]
pub struct Upgrade {
    protocols: HeaderValue,
    client: OnUpgrade,
}

impl Upgrade {
    /// The wish of `request`, if it has one that can be passed on.
    pub fn wished(request: &mut Request<TimedBody>) -> Option<Self> {
        let headers = request.headers();
        let protocols = one(headers)?.clone();
        let fits = request.version() == Version::HTTP_11
            && request.body().is_end_stream()
            && hop::connection_names(headers, &header::UPGRADE)
            && members(&protocols).all(|protocol| !is_http(protocol));
        fits.then(|| Self { protocols, client: hyper::upgrade::on(request) })
    }

    /// Says it again to the next hop.
    pub fn repeat(&self, headers: &mut HeaderMap) {
        write(headers, self.protocols.clone());
    }

    /// The protocol that a 101 with `headers` switches to; `None` when that was not wished for.
    pub fn granted(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let granted = one(headers)?;
        let wished = |protocol: &[u8]| members(&self.protocols).any(|wish| wish.eq_ignore_ascii_case(protocol));
        members(granted).all(wished).then(|| granted.clone())
    }

    /// The client's side, which opens when the 101 is sent.
    pub fn into_client(self) -> OnUpgrade {
        self.client
    }
}

/// Writes the two fields of a switch.
pub fn write(headers: &mut HeaderMap, protocols: HeaderValue) {
    headers.insert(header::CONNECTION, UPGRADE);
    headers.insert(header::UPGRADE, protocols);
}

/// The one line of `Upgrade`, if it names anything.
fn one(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut lines = headers.get_all(header::UPGRADE).iter();
    let line = lines.next().filter(|line| members(line).next().is_some())?;
    lines.next().is_none().then_some(line)
}

fn members(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

fn is_http(protocol: &[u8]) -> bool {
    let name = protocol.split(|byte| *byte == b'/').next().unwrap_or_default();
    HTTP.iter().any(|http| name.eq_ignore_ascii_case(http.as_bytes()))
}
