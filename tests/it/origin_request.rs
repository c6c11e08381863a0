//! The one request that reaches the origin (S6–S11).

use ticketgate::ticket::Ticket;

use crate::support::origin::{Answer, Origin};
use crate::support::proxy::Proxy;
use crate::support::tickets;

/// Our hop: the same in every request of one process, and nothing that a client could choose.
fn via(origin: &Origin) -> String {
    let head = origin.heads().remove(0);
    let hop = head.lines().find_map(|line| line.strip_prefix("via: 1.1 ticketgate (")).expect("our hop");
    let id = hop.strip_suffix(')').unwrap();
    assert!(id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    format!("1.1 ticketgate ({id})")
}

fn template(origin: &Origin, ticket: &str) -> String {
    let (version, via) = (env!("CARGO_PKG_VERSION"), via(origin));
    format!(
        "GET /cgi-bin/showqrcode?ticket={} HTTP/1.1\r\nuser-agent: ticketgate/{version}\r\naccept: image/*, */*;q=0.1\r\n\
         accept-encoding: identity\r\nvia: {via}\r\nhost: {}\r\n\r\n",
        tickets::encode(ticket),
        origin.address
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn every_origin_request_equals_the_template_whatever_headers_came() {
    let origin = Origin::answering(Answer::image_with("Cache-Control: no-store\r\n")).await;
    let proxy = Proxy::before(&origin);
    let ticket = tickets::permanent(1);
    let target = tickets::target(&ticket);
    let hostile = [
        "",
        "Cookie: a=b\r\nReferer: http://shop.example/secret\r\nUser-Agent: x\r\nAccept: text/html\r\n",
        "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Host: evil.example\r\nForwarded: for=1.2.3.4\r\n",
        "Range: bytes=0-1\r\nIf-None-Match: \"x\"\r\nIf-Modified-Since: Thu, 01 Jan 2026 00:00:00 GMT\r\n",
        "Accept-Encoding: gzip, br\r\nVia: 1.1 other\r\nX-HTTP-Method-Override: DELETE\r\nX-Original-URL: /admin\r\n",
        "Connection: accept-encoding, host, close\r\n",
        "Authorization: Basic eDp5\r\nProxy-Authorization: Basic eDp5\r\nTE: trailers\r\n",
    ];
    for headers in hostile {
        proxy.connect().await.get(&target, headers).await;
    }
    proxy.connect().await.request("HEAD", &target, "").await;
    let more = "&access_token=SECRET&scene=1&download=x&ticket=";
    proxy.get(&format!("{target}{more}{}", tickets::encode(&ticket))).await;
    proxy.get(&format!("/cgi-bin/showqrcode?access_token=SECRET&{}", &target["/cgi-bin/showqrcode?".len()..])).await;
    assert_eq!(origin.count(), hostile.len() + 3);
    let template = template(&origin, &ticket);
    for head in origin.heads() {
        assert_eq!(head, template);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mangled_form_of_every_known_ticket_reaches_the_origin_as_the_same_bytes() {
    let origin = Origin::answering(Answer::image_with("Cache-Control: no-store\r\n")).await;
    let proxy = Proxy::with(&origin, |config| {
        config.limits.client_requests = None;
        config.limits.client_misses = None;
        config.limits.origin_fills = None;
    });
    let known: Vec<serde_json::Value> = serde_json::from_str(include_str!("../data/tickets.json")).unwrap();
    assert!(known.len() > 30);
    let mut connection = proxy.connect().await;
    for entry in known {
        let ticket = entry["ticket"].as_str().unwrap();
        let before = origin.count();
        let forms = mangled(ticket);
        for form in &forms {
            let answer = connection.get(&format!("/cgi-bin/showqrcode?ticket={form}"), "").await;
            assert_eq!(answer.status, 200, "{form}");
        }
        let heads = origin.heads();
        assert_eq!(heads.len() - before, forms.len());
        assert!(heads[before..].iter().all(|head| *head == template(&origin, ticket)), "{ticket}");
    }
}

/// What pages make of a ticket, as it stands in the query.
fn mangled(ticket: &str) -> Vec<String> {
    let encoded = tickets::encode(ticket);
    let (start, end) = ticket.split_at(40);
    vec![
        ticket.to_owned(),
        encoded.clone(),
        tickets::encode(&encoded),
        encoded.replace("%2B", "%20").replace('+', "%20"),
        ticket.replace('+', "%20"),
        tickets::encode(&format!("{start}\n{end}")),
        tickets::encode(&format!("{start}\r\n    {end}")),
        tickets::encode(&format!("{start} {end}")),
        tickets::encode(&ticket.replace('/', "\\/")),
        ticket.trim_end_matches('=').to_owned(),
        encoded.to_ascii_lowercase_escapes(),
    ]
}

trait LowerCaseEscapes {
    fn to_ascii_lowercase_escapes(&self) -> String;
}

impl LowerCaseEscapes for String {
    fn to_ascii_lowercase_escapes(&self) -> String {
        self.replace("%2B", "%2b").replace("%2F", "%2f").replace("%3D", "%3d")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_ticket_is_refused_with_a_reason_without_asking_anybody() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::before(&origin);
    let (one, two) = (tickets::permanent(1), tickets::permanent(2));
    let long = "a".repeat(513);
    let bad = [
        "/cgi-bin/showqrcode".to_owned(),
        "/cgi-bin/showqrcode?".to_owned(),
        "/cgi-bin/showqrcode?Ticket=x".to_owned(),
        "/cgi-bin/showqrcode?ticket=".to_owned(),
        "/cgi-bin/showqrcode?ticket".to_owned(),
        format!("/cgi-bin/showqrcode?ticket={one}&ticket={two}"),
        format!("/cgi-bin/showqrcode?ticket={long}"),
        "/cgi-bin/showqrcode?ticket=a%00b".to_owned(),
        "/cgi-bin/showqrcode?ticket=%E4%BD%A0".to_owned(),
        "/cgi-bin/showqrcode?ticket=abc%0Adef".to_owned(),
    ];
    for target in bad {
        let answer = proxy.get(&target).await;
        assert_eq!(answer.status, 400, "{target}");
        assert!(answer.text().len() > 20 && answer.text().ends_with('\n'), "{target}: {}", answer.text());
        assert_eq!(answer.text().lines().count(), 1);
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    }
    assert_eq!(origin.count(), 0);
    assert_eq!(proxy.running.reading().negative_entries, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn tickets_in_an_unknown_layout_keep_working() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::before(&origin);
    assert_eq!(proxy.get("/cgi-bin/showqrcode?ticket=v2.some~new%2Flayout%2B").await.status, 200);
    assert_eq!(origin.heads(), [template(&origin, "v2.some~new/layout+")]);
    assert!(Ticket::from_query(Some("ticket=v2.some~new/layout+")).unwrap().facts().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_answers_404_here_for_what_is_no_ticket() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&origin, |config| config.tickets.strict = true);
    assert_eq!(proxy.get("/cgi-bin/showqrcode?ticket=v2.some~new%2Flayout").await.status, 404);
    assert_eq!(origin.count(), 0);
    assert_eq!(proxy.image(&tickets::permanent(1)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_url_with_a_path_is_asked_at_that_path() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::with(&origin, |config| config.origin.url = format!("{}/wx/qr", origin.url()).parse().unwrap());
    proxy.image(&tickets::permanent(1)).await;
    assert!(origin.heads()[0].starts_with("GET /wx/qr?ticket="));
}
