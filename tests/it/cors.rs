//! Who may read our answers from a script (S25): the same on an image, a part of it, and every error.

use crate::support::client::Response;
use crate::support::origin::{Answer, Origin};
use crate::support::proxy::Proxy;
use crate::support::tickets;

const SHOP: &str = "https://shop.example";
const EXPOSED: &str =
    "ETag, Age, Expires, Cache-Status, Retry-After, RateLimit, RateLimit-Policy, X-Request-Id, Ticket-Expires";

/// The first ticket has an image; the second is unknown to WeChat, the third has none.
async fn origin() -> Origin {
    let (unknown, broken) = (tickets::encode(&tickets::permanent(2)), tickets::encode(&tickets::permanent(3)));
    Origin::start(move |_, head| {
        if head.contains(&unknown) {
            Answer::of(404, "Access-Control-Allow-Origin: https://evil.example\r\n", b"")
        } else if head.contains(&broken) {
            Answer::of(200, "Content-Type: text/html\r\n", b"<html>")
        } else {
            Answer::image()
        }
    })
    .await
}

/// Every kind of answer on the image route: how it is asked for, and its status.
fn asks() -> Vec<(&'static str, String, &'static str, u16)> {
    let target = |number| tickets::target(&tickets::permanent(number));
    vec![
        ("GET", target(1), "", 200),
        ("GET", target(1), "", 200),
        ("HEAD", target(1), "", 200),
        ("GET", target(1), "Range: bytes=0-1\r\n", 206),
        ("GET", target(1), "If-None-Match: *\r\n", 304),
        ("GET", target(1), "Range: bytes=5000-\r\n", 416),
        ("GET", "/cgi-bin/showqrcode?ticket=".to_owned(), "", 400),
        ("GET", target(2), "", 404),
        ("GET", target(3), "", 502),
        ("POST", target(1), "", 405),
    ]
}

async fn ask(proxy: &Proxy, from: Option<&str>) -> Vec<Response> {
    let origin = from.map(|from| format!("Origin: {from}\r\n")).unwrap_or_default();
    let mut answers = Vec::new();
    for (method, target, headers, status) in asks() {
        let answer = proxy.connect().await.request(method, &target, &format!("{origin}{headers}")).await;
        assert_eq!(answer.status, status, "{method} {target} {headers}");
        answers.push(answer);
    }
    answers
}

fn fills_of_the_image(origin: &Origin) -> usize {
    let ticket = tickets::encode(&tickets::permanent(1));
    origin.heads().iter().filter(|head| head.contains(&ticket)).count()
}

fn allowed(answer: &Response) -> (Option<&str>, Option<&str>, Option<&str>) {
    let expose = answer.header("access-control-expose-headers");
    (answer.header("access-control-allow-origin"), expose, answer.header("vary"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_star_is_constant_on_every_answer_whoever_asks() {
    let origin = origin().await;
    let proxy = Proxy::before(&origin);
    for from in [Some(SHOP), Some("https://evil.example"), Some("null"), None] {
        for answer in ask(&proxy, from).await {
            assert_eq!(allowed(&answer), (Some("*"), Some(EXPOSED), None), "{from:?} {}", answer.status);
            assert_eq!(answer.header("access-control-allow-credentials"), None);
        }
    }
    assert_eq!(fills_of_the_image(&origin), 1, "who asks is not asked about");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_echoes_only_what_it_names_on_every_answer() {
    let origin = origin().await;
    let proxy = Proxy::with(&origin, |config| {
        config.cors.allow_origins = vec!["https://other.example".to_owned(), SHOP.to_owned()];
    });
    for answer in ask(&proxy, Some(SHOP)).await {
        assert_eq!(allowed(&answer), (Some(SHOP), Some(EXPOSED), Some("Origin")), "{}", answer.status);
    }
    for from in [Some("https://evil.example"), Some("https://shop.example.evil.example"), Some("null"), None] {
        for answer in ask(&proxy, from).await {
            assert_eq!(allowed(&answer), (None, None, Some("Origin")), "{from:?} {}", answer.status);
        }
    }
    assert_eq!(fills_of_the_image(&origin), 1, "an image is not cached anew for who asks");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_list_lets_nobody_read() {
    let origin = origin().await;
    let proxy = Proxy::with(&origin, |config| config.cors.allow_origins = Vec::new());
    for answer in ask(&proxy, Some(SHOP)).await {
        assert_eq!(allowed(&answer), (None, None, Some("Origin")), "{}", answer.status);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_can_read_that_it_asks_too_often() {
    let origin = origin().await;
    for (allow, expected) in
        [("*", (Some("*"), Some(EXPOSED), None)), (SHOP, (Some(SHOP), Some(EXPOSED), Some("Origin")))]
    {
        let proxy = Proxy::with(&origin, |config| {
            config.cors.allow_origins = vec![allow.to_owned()];
            let budget = config.limits.client_requests.as_mut().unwrap();
            (budget.rate, budget.burst) = (0.001, 1.try_into().unwrap());
        });
        let target = tickets::target(&tickets::permanent(1));
        proxy.get(&target).await;
        let refused = proxy.get_with(&target, &format!("Origin: {SHOP}\r\n")).await;
        assert_eq!((refused.status, allowed(&refused)), (429, expected));
        assert!(refused.header("retry-after").is_some() && refused.header("ratelimit").is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn preflights_are_answered_without_asking_anybody() {
    let origin = origin().await;
    let target = tickets::target(&tickets::permanent(1));
    let headers = format!(
        "Origin: {SHOP}\r\nAccess-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: range, x-requested-with\r\n"
    );
    for (allow, echoed, vary) in [("*", "*", None), (SHOP, SHOP, Some("Origin"))] {
        let proxy = Proxy::with(&origin, |config| config.cors.allow_origins = vec![allow.to_owned()]);
        let answer = proxy.connect().await.request("OPTIONS", &target, &headers).await;
        assert_eq!((answer.status, allowed(&answer)), (204, (Some(echoed), None, vary)));
        assert_eq!(answer.header("access-control-allow-methods"), Some("GET, HEAD, OPTIONS"));
        assert_eq!(answer.header("access-control-allow-headers"), Some("*"));
        assert_eq!(answer.header("access-control-max-age"), Some("86400"));
        assert_eq!(answer.header("content-length"), None);
    }
    let proxy = Proxy::with(&origin, |config| config.cors.allow_origins = vec!["https://other.example".to_owned()]);
    let refused = proxy.connect().await.request("OPTIONS", &target, &headers).await;
    assert_eq!((refused.status, allowed(&refused)), (204, (None, None, Some("Origin"))));
    for name in ["access-control-allow-methods", "access-control-allow-headers", "access-control-max-age"] {
        assert_eq!(refused.header(name), None, "{name}");
    }
    assert_eq!(origin.count(), 0);
}
