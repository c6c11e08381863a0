//! The operator's listener.

use crate::support::client::Connection;
use crate::support::origin::{Answer, Origin};
use crate::support::proxy::Proxy;
use crate::support::tickets;

#[tokio::test(flavor = "multi_thread")]
async fn health_readiness_and_counts_are_on_their_own_listener_only() {
    let origin = Origin::answering(Answer::image()).await;
    let proxy = Proxy::before(&origin);
    for _ in 0..3 {
        proxy.image(&tickets::permanent(1)).await;
    }
    proxy.get("/cgi-bin/showqrcode?ticket=").await;
    let mut operator = Connection::to_operator(proxy.admin()).await;
    assert_eq!(operator.get("/healthz", "").await.text(), "ok\n");
    assert_eq!(operator.get("/readyz", "").await.text(), "ok\n");
    let page = operator.get("/metrics", "").await;
    assert!(page.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    for line in [
        "ticketgate_requests_total{route=\"image\",status=\"2xx\",cache=\"hit\"} 2",
        "ticketgate_requests_total{route=\"image\",status=\"2xx\",cache=\"miss\"} 1",
        "ticketgate_requests_total{route=\"image\",status=\"4xx\",cache=\"refused\"} 1",
        "ticketgate_image_failures_total{reason=\"empty-ticket\"} 1",
        "ticketgate_fills_total 1",
        "ticketgate_cache_entries{store=\"image\"}",
        "ticketgate_log_lines_dropped_total 0",
        "ticketgate_build_info{version=\"",
        "# EOF",
    ] {
        assert!(page.text().contains(line), "{line} in\n{}", page.text());
    }
    assert!(!page.text().contains(&tickets::permanent(1)), "no ticket in a label");
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(proxy.get(path).await.status, 404, "{path} is not for everybody");
    }
    let refused = operator.request("POST", "/metrics", "").await;
    assert_eq!((refused.status, refused.header("allow")), (405, Some("GET, HEAD")));
}
