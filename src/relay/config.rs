//! `[relay]`.

use std::net::SocketAddr;

use http::uri::{Authority, Scheme};
use http::{Uri, uri};

/// Where apps make their calls of WeChat's API, and where these go. Deadlines and trust are `[origin]`'s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `listen`: where; `None` is off.
    pub listen: Option<SocketAddr>,
    /// `url`: the API's host.
    pub url: Host,
    /// `fallback`: whom to try, in this order, when no connection could be made.
    pub fallback: Vec<Host>,
    /// `forward`.
    pub forward: Forwarded,
    /// `prefetch`: whether the image of a ticket that was made is fetched before somebody asks.
    pub prefetch: bool,
}

/// What is relayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarded {
    /// `qrcode/create` alone.
    Create,
    /// Every call.
    All,
}

/// A host of the API: scheme and authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    scheme: Scheme,
    authority: Authority,
}

impl Host {
    /// The host of `url`; `None` when it has more, or less, than scheme and authority.
    pub fn of(url: &Uri) -> Option<Self> {
        let is_bare = matches!(url.path(), "" | "/") && url.query().is_none();
        let uri::Parts { scheme, authority, .. } = url.clone().into_parts();
        Some(Self { scheme: scheme?, authority: authority? }).filter(|_| is_bare)
    }

    /// With or without TLS.
    pub fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    /// Name and port.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// As a URL.
    pub fn url(&self) -> Uri {
        let url = Uri::builder().scheme(self.scheme.clone()).authority(self.authority.clone()).path_and_query("/");
        url.build().expect("scheme, authority and a path make a URL")
    }
}

impl Default for Config {
    fn default() -> Self {
        let url = Host { scheme: Scheme::HTTPS, authority: Authority::from_static("api.weixin.qq.com") };
        Self { listen: None, url, fallback: Vec::new(), forward: Forwarded::Create, prefetch: true }
    }
}
