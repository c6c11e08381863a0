//! Promises kept over real sockets: the real proxy on port 0, a scripted origin behind it, raw clients before it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod support;

mod admin;
mod answers;
mod browser;
mod cache;
mod cli;
mod clocks;
mod commands;
mod cors;
mod demo;
mod deploy;
mod descriptors;
mod disks;
mod fills;
mod forward;
mod framing;
mod health;
mod hostile_connections;
mod hostile_http1;
mod hostile_http2;
mod hostile_origin;
mod inspect_fetch;
mod limits;
mod log;
mod metrics;
mod operator;
mod origin_request;
mod origin_stages;
mod origin_trouble;
#[cfg(feature = "otel")]
mod otel;
mod overload;
mod own_tickets;
#[cfg(debug_assertions)]
mod panics;
mod parking;
mod parts;
mod proxy_protocol;
mod relay;
mod reliability;
mod reload;
mod requests_under_way;
mod server;
mod stale;
mod status;
mod status_browser;
mod succession;
mod tls_app;
mod tls_http2;
mod tls_origin;
mod tls_server;
mod tunnel;
