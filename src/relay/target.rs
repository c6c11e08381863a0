//! The target of a relayed request. Its query holds an `access_token`, so it has neither `Debug` nor `Display`: what cannot be
//! written down cannot leak (S35). It leaves only as the URI of a request to the API.

use http::uri::PathAndQuery;
use http::{Request, Uri};

use super::config::Host;

/// `qrcode/create`, byte for byte.
pub const CREATE: &str = "/cgi-bin/qrcode/create";

/// Bytes of a path that are logged.
const LONGEST_PATH: usize = 256;

/// Path and query, as they came.
pub struct SecretTarget(PathAndQuery);

impl SecretTarget {
    /// Takes the target out of `request`, in which nothing of it stays.
    pub fn take<B>(request: &mut Request<B>) -> Self {
        let taken = std::mem::take(request.uri_mut()).into_parts().path_and_query;
        Self(taken.unwrap_or_else(|| PathAndQuery::from_static("/")))
    }

    /// Whether a ticket is asked for.
    pub fn is_create(&self) -> bool {
        self.0.path() == CREATE
    }

    /// The path for logs, without the query.
    pub fn path(&self) -> &str {
        self.0.path().get(..LONGEST_PATH).unwrap_or(self.0.path())
    }

    /// The URI at `host`; `None` for what makes no sense to ask for, such as `*`.
    pub fn at(&self, host: &Host) -> Option<Uri> {
        let uri = Uri::builder().scheme(host.scheme().clone()).authority(host.authority().clone());
        uri.path_and_query(self.0.clone()).build().ok().filter(|uri| uri.path().starts_with('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Host {
        Host::of(&Uri::from_static("https://api.weixin.qq.com")).unwrap()
    }

    #[test]
    fn a_query_is_passed_on_as_it_came_and_never_shown() {
        for query in ["", "?", "?access_token=a_B-1!%2b+%", "?access_token=x&access_token=&&y?="] {
            let mut request = Request::new(());
            *request.uri_mut() = format!("{CREATE}{query}").parse().unwrap();
            let target = SecretTarget::take(&mut request);
            assert_eq!(*request.uri(), "/", "nothing stays");
            assert!(target.is_create());
            assert_eq!(target.path(), CREATE);
            let uri = target.at(&host()).unwrap();
            assert_eq!(uri.to_string(), format!("https://api.weixin.qq.com{CREATE}{query}"));
        }
    }

    #[test]
    fn the_target_never_chooses_the_host() {
        let mut request = Request::new(());
        *request.uri_mut() = "http://elsewhere.example/cgi-bin/user/get?access_token=x".parse().unwrap();
        let target = SecretTarget::take(&mut request);
        assert!(!target.is_create());
        assert_eq!(target.at(&host()).unwrap().authority().unwrap(), "api.weixin.qq.com");
        *request.uri_mut() = "*".parse().unwrap();
        assert!(SecretTarget::take(&mut request).at(&host()).is_none());
    }
}
