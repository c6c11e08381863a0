//! Every key, in the order of the reference in `README.md`: which field it fills, and what it may be.

use std::ops::RangeInclusive;
use std::time::Duration;

use tracing::Level;

use super::Config;
use super::kind::{
    address_or_off, api_host, api_hosts, app_url, boolean, budget, choice, count, duration, file, hosts, optional_path,
    origin_url, pass_headers, paths, share, size, token, token_file, trace_endpoint, trusted, web_origins,
};
use super::settings::Settings;
use crate::limit::{ClientHeader, TellBudget};
use crate::log::{ClientShown, Format};
use crate::relay::Forwarded;
use crate::ticket::{Allow, Expired};

/// A deadline of zero would end everything before it began; one beyond an hour is none.
const DEADLINE: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(3600);
/// A tunnel may idle for as long as its two ends like.
const TUNNEL: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(365 * 86_400);
/// Lifetimes may be zero: then nothing is kept.
const LIFETIME: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(365 * 86_400);
/// A refusal remembered for longer than an hour would outlive whatever caused it.
const SHORT_LIFETIME: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);
/// Whoever supervises us has lost patience by then.
const GRACE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);
/// Below, not one image of the usual size would find room beside another.
const MEMORY: RangeInclusive<u64> = 1024 * 1024..=1024 * 1024 * 1024 * 1024;
/// WeChat's have 28 KB; beyond the upper bound it is no QR code.
const IMAGE: RangeInclusive<u64> = 1..=64 * 1024 * 1024;

/// Reads every key.
pub(super) fn read(from: &mut Settings, config: &mut Config) {
    listener(from, config);
    origin(from, config);
    cache(from, config);
    limits(from, config);
    timeouts(from, config);
    from.set(&mut config.cors.allow_origins, "cors.allow_origins", web_origins);
    tls(from, config);
    admin(from, config);
    relay(from, config);
    log(from, config);
    from.set(&mut config.trace.endpoint, "trace.endpoint", trace_endpoint);
    from.set(&mut config.trace.sample, "trace.sample", share);
}

fn listener(from: &mut Settings, config: &mut Config) {
    from.set(&mut config.server.listen, "listen", address_or_off);
    from.set(&mut config.forward.app, "app", app_url);
    from.set(&mut config.routes.paths, "paths", paths);
    from.set(&mut config.routes.health_path, "health_path", optional_path);
    from.set(&mut config.clients.trusted_proxies, "trusted_proxies", trusted);
    let headers = [("x-forwarded-for", ClientHeader::XForwardedFor), ("forwarded", ClientHeader::Forwarded)];
    from.set(&mut config.clients.client_header, "client_header", choice(&headers));
    from.set(&mut config.server.proxy_protocol, "proxy_protocol", boolean);
    from.set(&mut config.server.drain, "drain", duration(GRACE));
    from.set(&mut config.server.drain_delay, "drain_delay", duration(GRACE));
}

fn origin(from: &mut Settings, config: &mut Config) {
    let (origin, forward) = (&mut config.origin, &mut config.forward);
    from.set(&mut origin.url, "origin.url", origin_url);
    from.set(&mut origin.connect_timeout, "origin.connect_timeout", duration(DEADLINE));
    from.set(&mut origin.first_byte_timeout, "origin.first_byte_timeout", duration(DEADLINE));
    from.set(&mut origin.fill_timeout, "origin.fill_timeout", duration(DEADLINE));
    from.set(&mut origin.max_concurrent, "origin.max_concurrent", count(1..=10_000));
    from.set(&mut origin.ca_file, "origin.ca_file", file);
    from.set(&mut forward.connect_timeout, "forward.connect_timeout", duration(DEADLINE));
    from.set(&mut forward.first_byte_timeout, "forward.first_byte_timeout", duration(DEADLINE));
    from.set(&mut forward.tunnel_idle, "forward.tunnel_idle", duration(TUNNEL));
    from.set(&mut forward.ca_file, "forward.ca_file", file);
}

fn cache(from: &mut Settings, config: &mut Config) {
    from.set(&mut config.cache.memory, "cache.memory", size(MEMORY));
    from.set(&mut config.cache.max_image, "cache.max_image", size(IMAGE));
    from.set(&mut config.cache.default_ttl, "cache.default_ttl", duration(LIFETIME));
    from.set(&mut config.cache.negative_ttl, "cache.negative_ttl", duration(SHORT_LIFETIME));
    let grace = &mut config.cache.grace;
    from.set(&mut grace.while_revalidate, "cache.stale_while_revalidate", duration(LIFETIME));
    from.set(&mut grace.if_error, "cache.stale_if_error", duration(LIFETIME));
    from.set(&mut config.cache.pass_headers, "cache.pass_headers", pass_headers);
    from.set(&mut config.tickets.strict, "tickets.strict", boolean);
    let expired = [("ask", Expired::Ask), ("gone", Expired::Gone)];
    from.set(&mut config.tickets.expired, "tickets.expired", choice(&expired));
    let allowed = [("any", Allow::Any), ("own", Allow::Own)];
    from.set(&mut config.tickets.allow, "tickets.allow", choice(&allowed));
    from.set(&mut config.tickets.store, "tickets.store", file);
    from.set(&mut config.tickets.max_own, "tickets.max_own", count(1..=100_000_000));
}

fn limits(from: &mut Settings, config: &mut Config) {
    from.set(&mut config.limits.client_requests, "limits.client_requests", budget);
    from.set(&mut config.limits.client_misses, "limits.client_misses", budget);
    from.set(&mut config.limits.origin_fills, "limits.origin_fills", budget);
    let tell = [("refusals", TellBudget::Refusals), ("always", TellBudget::Always), ("never", TellBudget::Never)];
    from.set(&mut config.limits.ratelimit_headers, "limits.ratelimit_headers", choice(&tell));
    from.set(&mut config.server.max_connections, "limits.max_connections", count(1..=1_000_000));
    let share = &mut config.server.max_connections_per_client;
    from.set(share, "limits.max_connections_per_client", count(1..=1_000_000));
    from.set(&mut config.limits.max_waiters, "limits.max_waiters", count(0..=1_000_000));
}

fn timeouts(from: &mut Settings, config: &mut Config) {
    let timeouts = &mut config.server.timeouts;
    from.set(&mut timeouts.first_byte, "timeouts.first_byte", duration(DEADLINE));
    from.set(&mut timeouts.head, "timeouts.head", duration(DEADLINE));
    from.set(&mut timeouts.body, "timeouts.body", duration(DEADLINE));
    from.set(&mut timeouts.write, "timeouts.write", duration(DEADLINE));
    from.set(&mut timeouts.keep_alive, "timeouts.keep_alive", duration(DEADLINE));
    from.set(&mut timeouts.tls_handshake, "timeouts.tls_handshake", duration(DEADLINE));
}

fn tls(from: &mut Settings, config: &mut Config) {
    let tls = &mut config.server.tls;
    from.set(&mut tls.listen, "tls.listen", address_or_off);
    from.set(&mut tls.cert, "tls.cert", file);
    from.set(&mut tls.key, "tls.key", file);
    from.set(&mut tls.redirect, "tls.redirect", address_or_off);
}

fn admin(from: &mut Settings, config: &mut Config) {
    let admin = &mut config.admin;
    from.set(&mut admin.listen, "admin.listen", address_or_off);
    from.set_secret(&mut admin.token, "admin.token", token);
    from.set(&mut admin.token_file, "admin.token_file", token_file);
    from.set(&mut admin.allow_hosts, "admin.allow_hosts", hosts);
}

fn relay(from: &mut Settings, config: &mut Config) {
    let relay = &mut config.relay;
    from.set(&mut relay.listen, "relay.listen", address_or_off);
    from.set(&mut relay.url, "relay.url", api_host);
    from.set(&mut relay.fallback, "relay.fallback", api_hosts);
    let forwarded = [("create", Forwarded::Create), ("all", Forwarded::All)];
    from.set(&mut relay.forward, "relay.forward", choice(&forwarded));
    from.set(&mut relay.prefetch, "relay.prefetch", boolean);
}

fn log(from: &mut Settings, config: &mut Config) {
    let formats = [("auto", Format::Auto), ("human", Format::Human), ("json", Format::Json)];
    from.set(&mut config.log.format, "log.format", choice(&formats));
    from.set(&mut config.log.access, "log.access", boolean);
    let clients = [("full", ClientShown::Full), ("anonymised", ClientShown::Anonymised), ("off", ClientShown::Off)];
    from.set(&mut config.log.client, "log.client", choice(&clients));
    let levels = [
        ("error", Level::ERROR),
        ("warn", Level::WARN),
        ("info", Level::INFO),
        ("debug", Level::DEBUG),
        ("trace", Level::TRACE),
    ];
    from.set(&mut config.log.level, "log.level", choice(&levels));
}
