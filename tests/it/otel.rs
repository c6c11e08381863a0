//! Traces (by the feature `otel`): to a collector over a real socket, continued from the client and to the app.

use std::time::Duration;

use serde_json::Value;
use ticketgate::app::Ending;
use ticketgate::config::Config;
use ticketgate::metrics::Fate;

use crate::support::api::Api;
use crate::support::app::{App, say};
use crate::support::origin::{Answer, Origin};
use crate::support::proxy::Proxy;
use crate::support::{eventually, tickets};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";
const CANARY: &str = "canary-1b6e";

fn sending_to(collector: &Api) -> impl Fn(&mut Config) + use<> {
    let endpoint = format!("http://{}", collector.address).parse().ok();
    move |config| config.trace.endpoint.clone_from(&endpoint)
}

/// The spans that came, in order.
async fn spans(collector: &Api, count: usize) -> Vec<Value> {
    let all = || -> Vec<Value> {
        let requests = collector.requests();
        let of = |request: &String| -> Vec<Value> {
            let (head, body) = request.split_once("\r\n\r\n").unwrap();
            assert!(
                head.starts_with("POST /v1/traces HTTP/1.1\r\n") && head.contains("content-type: application/json")
            );
            let body: Value = serde_json::from_str(body).unwrap();
            let resource = &body["resourceSpans"][0];
            assert_eq!(resource["resource"]["attributes"][0]["value"]["stringValue"], "ticketgate");
            resource["scopeSpans"][0]["spans"].as_array().unwrap().clone()
        };
        requests.iter().flat_map(of).collect()
    };
    eventually(&format!("{count} spans"), || all().len() >= count).await;
    all()
}

fn attribute<'a>(span: &'a Value, key: &str) -> &'a Value {
    let attributes = span["attributes"].as_array().unwrap();
    let found = attributes.iter().find(|attribute| attribute["key"] == key);
    found.map_or(&Value::Null, |found| found["value"].as_object().unwrap().values().next().unwrap())
}

fn nanos(span: &Value, key: &str) -> u64 {
    span[key].as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_goes_on_through_us_to_the_app() {
    let collector = Api::saying("{}").await;
    let app = App::with(sending_to(&collector)).await;
    let mut client = app.proxy.connect().await;
    let trace = format!("traceparent: 00-{TRACE}-{SPAN}-01\r\ntracestate: a=b\r\n");
    client.send(format!("GET /page?access_token={CANARY} HTTP/1.1\r\nHost: a\r\n{trace}\r\n")).await;
    let (mut stream, head, _) = app.accept().await;
    say(&mut stream, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\n\r\nno").await;
    assert_eq!(client.response().await.unwrap().status, 502);
    let spans = spans(&collector, 2).await;
    let (server, child) = (&spans[0], &spans[1]);
    assert_eq!((&server["traceId"], &server["parentSpanId"]), (&TRACE.into(), &SPAN.into()));
    assert_eq!(
        (&server["name"], &server["kind"], &server["status"]["code"]),
        (&"GET app".into(), &2.into(), &2.into())
    );
    assert_eq!((&child["name"], &child["kind"]), (&"app".into(), &3.into()));
    assert_eq!((&child["traceId"], &child["parentSpanId"]), (&TRACE.into(), &server["spanId"]));
    let passed = format!("\r\ntraceparent: 00-{TRACE}-{}-01\r\n", child["spanId"].as_str().unwrap());
    assert!(head.contains(&passed) && head.contains("\r\ntracestate: a=b\r\n"), "{head}");
    assert_eq!(attribute(server, "url.path"), "/page");
    assert_eq!(attribute(server, "http.response.body.size"), "2");
    assert!(nanos(server, "startTimeUnixNano") <= nanos(child, "startTimeUnixNano"));
    assert!(nanos(child, "endTimeUnixNano") <= nanos(server, "endTimeUnixNano"));
    assert!(!collector.requests().concat().contains(CANARY), "no query");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_begins_a_trace_that_wechat_is_not_told_of() {
    let (collector, origin) = (Api::saying("{}").await, Origin::answering(Answer::image()).await);
    let proxy = Proxy::with(&origin, sending_to(&collector));
    let ticket = tickets::permanent(1);
    proxy.get_with(&tickets::target(&ticket), "tracestate: a=b\r\n").await;
    proxy.image(&ticket).await;
    let spans = spans(&collector, 3).await;
    let (miss, fill, hit) = (&spans[0], &spans[1], &spans[2]);
    assert_eq!((&fill["name"], &fill["parentSpanId"]), (&"fill".into(), &miss["spanId"]));
    assert_eq!(
        (attribute(miss, "ticketgate.cache"), attribute(hit, "ticketgate.cache")),
        (&"miss".into(), &"hit".into())
    );
    assert_eq!((&miss["parentSpanId"], &miss["status"]), (&"".into(), &Value::Null));
    assert_ne!(miss["traceId"], hit["traceId"]);
    assert_eq!(attribute(miss, "ticketgate.ticket").as_str().unwrap().len(), 8);
    assert!(!collector.requests().concat().contains(&ticket), "a ticket is a key to its code");
    assert!(origin.heads().iter().all(|head| !head.contains("trace")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_to_be_traced_passes_untouched() {
    let collector = Api::saying("{}").await;
    let app = App::with(|config| {
        sending_to(&collector)(config);
        config.trace.sample = 0.0;
        config.server.drain_delay = Duration::ZERO;
    })
    .await;
    let mut client = app.proxy.connect().await;
    for trace in [format!("traceparent: 00-{TRACE}-{SPAN}-00\r\n"), "tracestate: a=b\r\n".to_owned()] {
        client.send(format!("GET /page HTTP/1.1\r\nHost: a\r\n{trace}Connection: close\r\n\r\n")).await;
        let (mut stream, head, _) = app.accept().await;
        say(&mut stream, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await;
        assert_eq!(client.response().await.unwrap().status, 204);
        assert!(head.contains(&format!("\r\n{trace}")) && head.matches("trace").count() == 1, "{head}");
        client = app.proxy.connect().await;
    }
    drop(client);
    let running = app.proxy.running;
    running.drain();
    tokio::task::spawn_blocking(move || running.finish()).await.unwrap();
    assert_eq!(collector.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_gone_costs_spans_and_no_answers() {
    let (gone, origin) = (Api::saying("").await, Origin::answering(Answer::image()).await);
    let proxy = Proxy::with(&origin, sending_to(&gone));
    gone.stop().await;
    assert_eq!(proxy.image(&tickets::permanent(1)).await.status, 200);
    eventually("they are lost", || proxy.running.metrics().spans(Fate::Lost) == 2).await;
    assert_eq!(proxy.running.metrics().spans(Fate::Sent), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_at_the_end_is_still_sent() {
    let (collector, origin) = (Api::saying("{}").await, Origin::answering(Answer::image()).await);
    let proxy = Proxy::with(&origin, |config| {
        sending_to(&collector)(config);
        config.server.drain_delay = Duration::ZERO;
    });
    proxy.image(&tickets::permanent(1)).await;
    proxy.running.drain();
    let running = proxy.running;
    let ended = tokio::task::spawn_blocking(move || running.finish()).await.unwrap();
    assert_eq!((ended, collector.count()), (Ending::Clean, 1));
}
