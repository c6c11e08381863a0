//! The one request that ever reaches the origin (S11). Whatever a client sent, only the ticket's canonical text enters it;
//! what the origin itself gave to recognise an image by goes back to it.

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Uri, Version, header, uri};
use http_body_util::Empty;

use crate::cache::entry::Validators;
use crate::ticket::Ticket;
use crate::via::Via;

/// Who asks.
const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("ticketgate/", env!("CARGO_PKG_VERSION")));
/// Images are all we can use.
const ACCEPT: HeaderValue = HeaderValue::from_static("image/*, */*;q=0.1");
/// Stored bytes are served to everybody as they are.
const ACCEPT_ENCODING: HeaderValue = HeaderValue::from_static("identity");

/// WeChat's path, when `origin.url` has none of its own.
const PATH: &str = "/cgi-bin/showqrcode";

/// Builds origin requests.
#[derive(Debug, Clone)]
pub struct Template {
    scheme: uri::Scheme,
    authority: uri::Authority,
    path: String,
    via: Via,
}

impl Template {
    /// A template for the origin at `url`, which has a scheme and an authority.
    pub fn new(url: &Uri, via: Via) -> Self {
        let path = if matches!(url.path(), "" | "/") { PATH } else { url.path() };
        Self {
            scheme: url.scheme().cloned().unwrap_or(uri::Scheme::HTTPS),
            authority: url.authority().cloned().unwrap_or_else(|| uri::Authority::from_static("mp.weixin.qq.com")),
            path: path.to_owned(),
            via,
        }
    }

    /// The request for `ticket`, conditional on what `validators` there are. `Host` (or `:authority`) is written by the client from the URI.
    pub fn request(&self, ticket: &Ticket, validators: &Validators) -> Request<Empty<Bytes>> {
        let target = format!("{}?ticket={}", self.path, ticket.encoded());
        let uri = Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(target)
            .build()
            .expect("a valid path and a percent-encoded query");
        let mut request = Request::builder()
            .method(Method::GET)
            .uri(uri)
            .header(header::USER_AGENT, USER_AGENT)
            .header(header::ACCEPT, ACCEPT)
            .header(header::ACCEPT_ENCODING, ACCEPT_ENCODING)
            .body(Empty::new())
            .expect("constant header fields are valid");
        // By which a request that some detour brings back to this process is known at once.
        self.via.sign(request.headers_mut(), Version::HTTP_11);
        let Validators { etag, last_modified } = validators.clone();
        request.headers_mut().extend(etag.map(|etag| (header::IF_NONE_MATCH, etag)));
        request.headers_mut().extend(last_modified.map(|at| (header::IF_MODIFIED_SINCE, at)));
        request
    }
}
