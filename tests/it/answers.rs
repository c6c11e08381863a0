//! The answer's shape (S3, S25, S26): nothing passes but what is on the list.

use http::HeaderName;
use ticketgate::cache::pass_headers::PassHeaders;

use crate::support::origin::{Answer, Origin, jpeg};
use crate::support::proxy::Proxy;
use crate::support::tickets;

const ALLOWED: [&str; 18] = [
    "content-type",
    "content-length",
    "etag",
    "last-modified",
    "cache-control",
    "expires",
    "age",
    "accept-ranges",
    "date",
    "vary",
    "cache-status",
    "ticket-expires",
    "x-request-id",
    "x-content-type-options",
    "cross-origin-resource-policy",
    "access-control-allow-origin",
    "access-control-expose-headers",
    "connection",
];

#[tokio::test(flavor = "multi_thread")]
async fn an_image_carries_the_listed_fields_and_no_others() {
    let origin = Origin::answering(Answer::image_with(
        "Cache-Control: max-age=60, no-transform\r\nSet-Cookie: a=b\r\nServer: nginx\r\nX-Powered-By: x\r\nVary: Cookie\r\n\
         Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\nAccess-Control-Allow-Origin: https://evil.example\r\nRefresh: 0\r\n",
    ))
    .await;
    let proxy = Proxy::before(&origin);
    let target = tickets::target(&tickets::permanent(1));
    for _ in 0..2 {
        let answer = proxy.get(&target).await;
        for (name, _) in &answer.headers {
            assert!(ALLOWED.contains(&name.as_str()), "{name} leaked");
        }
        assert_eq!(answer.header("content-type"), Some("image/jpeg"));
        assert_eq!(answer.header("content-length"), Some("2000"));
        assert_eq!(answer.header("cache-control"), Some("public, max-age=60, no-transform"));
        assert_eq!(answer.header("last-modified"), Some("Thu, 01 Jan 2026 00:00:00 GMT"));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("cross-origin-resource-policy"), Some("cross-origin"));
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
        assert_eq!(answer.header("ticket-expires"), None, "it is permanent");
        assert_eq!(answer.header("vary"), None);
        assert!(answer.header("x-request-id").is_some_and(|id| id.len() == 16));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_has_the_image_is_told_so() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::before(&origin);
    let target = tickets::target(&tickets::permanent(1));
    let etag = proxy.get(&target).await.header("etag").unwrap().to_owned();
    assert!(etag.starts_with('"'), "our tag is strong: {etag}");
    for condition in [etag.clone(), format!("W/{etag}"), format!("\"other\", {etag}"), "*".to_owned()] {
        let answer = proxy.get_with(&target, &format!("If-None-Match: {condition}\r\n")).await;
        assert_eq!((answer.status, answer.header("content-length")), (304, None), "{condition}");
        assert_eq!(answer.header("etag"), Some(etag.as_str()));
        assert!(answer.header("cache-control").is_some() && answer.header("date").is_some());
    }
    for condition in ["\"other\"", "nonsense", ""] {
        let answer = proxy.get_with(&target, &format!("If-None-Match: {condition}\r\n")).await;
        assert_eq!((answer.status, answer.body.len()), (200, 2000), "{condition}");
    }
    assert_eq!(origin.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_origins_own_tag_is_kept() {
    let origin = Origin::answering(Answer::image_with("ETag: W/\"theirs\"\r\nCache-Control: max-age=60\r\n")).await;
    let proxy = Proxy::before(&origin);
    assert_eq!(proxy.image(&tickets::permanent(1)).await.header("etag"), Some("W/\"theirs\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_on_a_miss_fills_the_whole_image_once() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::before(&origin);
    let target = tickets::target(&tickets::permanent(1));
    let mut connection = proxy.connect().await;
    let head = connection.request("HEAD", &target, "").await;
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, Some("2000"), 0));
    let whole = connection.get(&target, "").await;
    assert_eq!(whole.body, jpeg());
    assert!(whole.cache_status().contains("hit"));
    assert!(origin.heads()[0].starts_with("GET "));
    assert_eq!(origin.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_has_a_name_and_is_the_same_image_to_the_origin_and_the_cache() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::before(&origin);
    let target = tickets::target(&tickets::permanent(1));
    let mut connection = proxy.connect().await;
    let poster = "attachment; filename=\"qrcode.jpg\"; filename*=UTF-8''%E6%B5%B7%E6%8A%A5.jpg";
    let asks = [
        ("GET", "&download=%E6%B5%B7%E6%8A%A5.png", "", 200, Some(poster)),
        ("GET", "&download", "", 200, Some("attachment; filename=\"qrcode.jpg\"")),
        ("HEAD", "&download=a", "", 200, Some("attachment; filename=\"a.jpg\"")),
        ("GET", "&download=a", "Range: bytes=0-1\r\n", 206, Some("attachment; filename=\"a.jpg\"")),
        ("GET", "&download=a%0D%0AX-Evil:%201%22", "", 200, Some("attachment; filename=\"aX-Evil 1.jpg\"")),
        ("GET", "&download=a", "If-None-Match: *\r\n", 304, None),
        ("GET", "&download=a", "Range: bytes=2000-\r\n", 416, None),
        ("GET", "", "", 200, None),
    ];
    for (method, query, headers, status, name) in asks {
        let answer = connection.request(method, &format!("{target}{query}"), headers).await;
        assert_eq!((answer.status, answer.header("content-disposition")), (status, name), "{query} {headers}");
        assert_eq!(answer.header("x-evil"), None);
    }
    assert_eq!(origin.count(), 1, "one image, whatever it is called");
    assert!(!origin.heads()[0].contains("download"));
    let refused = proxy.get("/cgi-bin/showqrcode?download=a").await;
    assert_eq!((refused.status, refused.header("content-disposition")), (400, None));
}

/// Every kind of field that an origin can send, and the names of those that may pass.
const HEAD: &str = "Cache-Control: max-age=60\r\nServer: nginx\r\nX-Powered-By: x\r\nX-A: 1\r\nX-A: 2\r\nSet-Cookie: a=b\r\n\
    Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nTrailer: X-A\r\nAge: 7\r\nVary: Cookie\r\nPragma: no-cache\r\n\
    CDN-Cache-Control: max-age=60\r\nAccess-Control-Allow-Origin: https://evil.example\r\nAccess-Control-Allow-Credentials: true\r\n\
    Cache-Status: theirs; hit\r\nX-Request-Id: theirs\r\nTicket-Expires: never\r\nX-Content-Type-Options: none\r\n\
    Cross-Origin-Resource-Policy: same-origin\r\nStrict-Transport-Security: max-age=1\r\nX-Accel-Redirect: /secret\r\n\
    Content-Disposition: inline\r\nETag: \"theirs\"\r\n";

fn passing(names: &[&'static str]) -> PassHeaders {
    PassHeaders::Listed(names.iter().map(|name| HeaderName::from_static(name)).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fields_that_are_named_pass_on_with_an_image_and_no_others() {
    let cases = [
        (passing(&["x-a", "server", "x-absent"]), &["server", "x-a"][..]),
        (PassHeaders::All, &["server", "x-powered-by", "x-a", "content-disposition"]),
    ];
    for (pass_headers, names) in cases {
        let origin = Origin::answering(Answer::image_with(HEAD)).await;
        let proxy = Proxy::with(&origin, |config| config.cache.pass_headers = pass_headers.clone());
        let target = tickets::target(&tickets::permanent(1));
        let asks = [("", 200), ("", 200), ("Range: bytes=0-1\r\n", 206), ("If-None-Match: *\r\n", 304)];
        for (headers, status) in asks {
            let answer = proxy.get_with(&target, headers).await;
            assert_eq!(answer.status, status);
            for (name, _) in &answer.headers {
                let ours = ALLOWED.contains(&name.as_str()) || name == "content-range";
                assert!(ours || names.contains(&name.as_str()), "{pass_headers:?}: {name} leaked");
            }
            assert!(names.iter().all(|name| answer.headers.iter().any(|(sent, _)| sent == name)), "{pass_headers:?}");
            assert_eq!(answer.headers.iter().filter(|(name, _)| name == "x-a").count(), 2, "a field has all its lines");
            assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
            assert_eq!(answer.header("cross-origin-resource-policy"), Some("cross-origin"));
            assert_eq!((answer.header("vary"), answer.header("ticket-expires")), (None, None));
            assert_eq!(answer.header("cache-control"), Some("public, max-age=60"));
            assert!(answer.cache_status().starts_with("ticketgate;"));
            assert_ne!(answer.header("x-request-id"), Some("theirs"));
        }
        let saved = proxy.get(&format!("{target}&download=a")).await;
        assert_eq!(saved.header("content-disposition"), Some("attachment; filename=\"a.jpg\""), "ours wins");
        assert_eq!(origin.count(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_passes_on_with_what_is_no_image() {
    let origin = Origin::answering(Answer::of(404, "Server: nginx\r\nX-A: 1\r\nSet-Cookie: a=b\r\n", b"no")).await;
    let proxy = Proxy::with(&origin, |config| config.cache.pass_headers = PassHeaders::All);
    let answer = proxy.image(&tickets::permanent(1)).await;
    assert_eq!(answer.status, 404);
    for name in ["server", "x-a", "set-cookie"] {
        assert_eq!(answer.header(name), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn preflights_are_answered_and_other_methods_are_not_allowed() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::before(&origin);
    let target = tickets::target(&tickets::permanent(1));
    let headers = "Origin: https://shop.example\r\nAccess-Control-Request-Method: GET\r\n";
    let preflight = proxy.connect().await.request("OPTIONS", &target, headers).await;
    assert_eq!(preflight.status, 204);
    assert_eq!(preflight.header("access-control-allow-origin"), Some("*"));
    assert_eq!(preflight.header("access-control-allow-methods"), Some("GET, HEAD, OPTIONS"));
    for method in ["POST", "PUT", "DELETE", "PATCH", "PURGE"] {
        let refused = proxy.connect().await.request(method, &target, "").await;
        assert_eq!((refused.status, refused.header("allow")), (405, Some("GET, HEAD, OPTIONS")), "{method}");
        assert_eq!(refused.header("access-control-allow-origin"), Some("*"), "a script can read what to mend");
    }
    assert_eq!(origin.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_a_client_brings_is_kept_when_it_is_one() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::before(&origin);
    let target = tickets::target(&tickets::permanent(1));
    let kept = proxy.get_with(&target, "X-Request-Id: abc-123\r\n").await;
    assert_eq!(kept.header("x-request-id"), Some("abc-123"));
    let replaced = proxy.get_with(&target, "X-Request-Id: <script>\r\n").await;
    assert_eq!(replaced.header("x-request-id").map(str::len), Some(16));
}
