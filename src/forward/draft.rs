//! A request to the app while it is not known yet which version of HTTP will carry it: what each writes in its own way.
//!
//! | | HTTP/1.1 | HTTP/2 |
//! |---|---|---|
//! | the host that the client named | `Host` | `:authority`, without `Host` (RFC 9113 §8.3.1) |
//! | the end of a body without a length | chunks | the stream's |
//! | trailers are taken | `TE: trailers` and `Connection: TE` | `TE: trailers` |
//! | another protocol is wished for | `Upgrade` and `Connection: upgrade` | never |
//!
//! The app, its certificate and its connections are known by `app` alone, whatever host a client names.

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Request, Uri, Version, header};
use http_body::Body as _;

use super::hop;
use super::pool::Versions;
use super::upgrade::Upgrade;
use crate::body::timed::TimedBody;

const CHUNKED: HeaderValue = HeaderValue::from_static("chunked");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");
const TE: HeaderValue = HeaderValue::from_static("TE");

/// What is written differently.
pub struct Draft<'a> {
    host: HeaderValue,
    absolute: Uri,
    path: PathAndQuery,
    takes_trailers: bool,
    upgrade: Option<&'a Upgrade>,
}

impl<'a> Draft<'a> {
    /// Of a request as it came, which names `app` when it names no host, as HTTP/1.0 may; `None` when its target makes no
    /// sense.
    pub fn of(request: &mut Request<TimedBody>, app: &Authority, upgrade: Option<&'a Upgrade>) -> Option<Self> {
        let takes_trailers = hop::takes_trailers(request.headers(), request.version());
        let named = request.uri().authority().unwrap_or(app);
        let named = HeaderValue::try_from(named.as_str()).expect("an authority is visible ASCII");
        let host = request.headers_mut().entry(header::HOST).or_insert(named).clone();
        let authority = Authority::try_from(host.as_bytes()).ok()?;
        let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let absolute = Uri::builder().scheme(Scheme::HTTPS).authority(authority).path_and_query(path.clone());
        Some(Self { host, absolute: absolute.build().ok()?, path, takes_trailers, upgrade })
    }

    /// The versions that can carry it.
    pub const fn versions(&self) -> Versions {
        if self.upgrade.is_some() { Versions::Http1 } else { Versions::Any }
    }

    /// Writes it into `request`, from which fields of the hop are stripped; again for another version, if need be.
    pub fn write(&self, request: &mut Request<TimedBody>, version: Version) {
        let is_chunked = !request.body().is_end_stream() && !request.headers().contains_key(header::CONTENT_LENGTH);
        let headers = request.headers_mut();
        for name in [header::CONNECTION, header::TE, header::TRANSFER_ENCODING, header::UPGRADE] {
            headers.remove(name);
        }
        if version == Version::HTTP_2 {
            headers.remove(header::HOST);
            if self.takes_trailers {
                headers.insert(header::TE, TRAILERS);
            }
        } else {
            self.write_http1(headers, is_chunked);
        }
        *request.uri_mut() =
            if version == Version::HTTP_2 { self.absolute.clone() } else { Uri::from(self.path.clone()) };
        *request.version_mut() = version;
    }

    fn write_http1(&self, headers: &mut HeaderMap, is_chunked: bool) {
        headers.insert(header::HOST, self.host.clone());
        // HTTP/2 lets several pass that say the same.
        if let Some(length) = headers.get(header::CONTENT_LENGTH).cloned() {
            headers.insert(header::CONTENT_LENGTH, length);
        }
        if is_chunked {
            // Said aloud, since hyper drops the body of a GET otherwise.
            headers.insert(header::TRANSFER_ENCODING, CHUNKED);
        }
        if let Some(upgrade) = self.upgrade {
            upgrade.repeat(headers);
        } else if self.takes_trailers {
            headers.insert(header::TE, TRAILERS);
            headers.insert(header::CONNECTION, TE);
        }
    }
}
