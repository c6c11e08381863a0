//! Where a request that came in the clear is sent when only TLS will do: the same host and path, over https.

use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Uri, Version, header};

use super::{BadRequest, check_host, is_authority};

/// The port that URLs leave out.
const HTTPS: u16 = 443;

/// The https URL of a request, whose server takes TLS at `port`. A client that named no port came to port 80, so that the
/// usual ports lead to us, whatever ours are; one that named its port is sent to ours.
pub fn to_https(
    method: &Method,
    version: Version,
    uri: &Uri,
    headers: &HeaderMap,
    port: u16,
) -> Result<HeaderValue, BadRequest> {
    check_host(version, uri, headers)?;
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let named = host.or_else(|| uri.authority().map(Authority::as_str)).ok_or(BadRequest::NoHost)?;
    let named: Authority = named.parse().ok().filter(|_| is_authority(named)).ok_or(BadRequest::MalformedHost)?;
    if *method == Method::CONNECT || named.host().is_empty() {
        return Err(BadRequest::MalformedHost);
    }
    let port = named.port().map_or(HTTPS, |_| port);
    let port = if port == HTTPS { String::new() } else { format!(":{port}") };
    // `*` asks about the server, which has no other page.
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let path = if path.starts_with('/') { path } else { "/" };
    HeaderValue::try_from(format!("https://{}{port}{path}", named.host())).map_err(|_| BadRequest::MalformedHost)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redirected(target: &'static str, host: Option<&'static str>, port: u16) -> Result<String, BadRequest> {
        let headers = host.map(|host| (header::HOST, HeaderValue::from_static(host))).into_iter().collect();
        let location = to_https(&Method::GET, Version::HTTP_10, &Uri::from_static(target), &headers, port)?;
        Ok(location.to_str().unwrap().to_owned())
    }

    #[test]
    fn host_path_and_query_stay_and_the_port_is_that_of_tls() {
        let cases = [
            ("/a?b=c%2F", Some("shop.example"), 8443, "https://shop.example/a?b=c%2F"),
            ("/", Some("shop.example:8080"), 8443, "https://shop.example:8443/"),
            ("/", Some("shop.example:8080"), 443, "https://shop.example/"),
            ("/", Some("[::1]:80"), 8443, "https://[::1]:8443/"),
            ("//evil.example/", Some("shop.example"), 443, "https://shop.example//evil.example/"),
            ("http://shop.example/a", None, 443, "https://shop.example/a"),
            ("*", Some("shop.example"), 443, "https://shop.example/"),
        ];
        for (target, host, port, expected) in cases {
            assert_eq!(redirected(target, host, port).as_deref(), Ok(expected), "{target} {host:?}");
        }
    }

    #[test]
    fn without_a_usable_host_there_is_nowhere_to_go() {
        assert_eq!(redirected("/", None, 443), Err(BadRequest::NoHost));
        for host in ["user@shop.example", "a b", "shop.example/x", ":80", ""] {
            assert_eq!(redirected("/", Some(host), 443), Err(BadRequest::MalformedHost), "{host}");
        }
        assert_eq!(redirected("http://user@shop.example/", None, 443), Err(BadRequest::MalformedHost));
    }
}
