//! Values that are valid alone and make no sense together. Each text says what to change.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use http::Uri;

use super::Config;
use super::settings::Settings;
use crate::cache::OWN_SHARE;
use crate::outbound;
use crate::server::tls::certificate;
use crate::store;
use crate::ticket::Allow;

/// Notes every contradiction in `config`.
pub(super) fn find(settings: &mut Settings, config: &Config) {
    deadlines(settings, config);
    addresses(settings, config);
    own_tickets(settings, config);
    let Config { cache, routes, origin, forward, .. } = config;
    let (room, share) =
        if config.expects_own_tickets() { (cache.memory / OWN_SHARE, "half of ") } else { (cache.memory, "") };
    if cache.max_image > room {
        let text =
            format!("cache.max_image is more than {share}cache.memory, so that an image could be too large to keep");
        settings.conflict(&["cache.max_image", "cache.memory"], text);
    }
    if routes.health_path.as_ref().is_some_and(|path| routes.paths.contains(path)) {
        let text = "health_path is one of paths; it would never be answered".to_owned();
        settings.conflict(&["health_path", "paths"], text);
    }
    for (key, file) in [("origin.ca_file", &origin.ca_file), ("forward.ca_file", &forward.ca_file)] {
        if let Some(bad) = file.as_deref().and_then(|path| outbound::check_ca_file(key, path).err()) {
            settings.conflict(&[key], bad.to_string());
        }
    }
    if config.admin.token.is_some() && config.admin.token_file.is_some() {
        let text = "admin.token and admin.token_file both give a token; keep one of them".to_owned();
        settings.conflict(&["admin.token_file", "admin.token"], text);
    }
    if config.server.proxy_protocol && config.clients.trusted_proxies.is_empty() {
        let text =
            "proxy_protocol would close every connection: trusted_proxies is empty; name your proxy there".to_owned();
        settings.conflict(&["proxy_protocol", "trusted_proxies"], text);
    }
    tls(settings, config);
}

fn own_tickets(settings: &mut Settings, config: &Config) {
    let tickets = &config.tickets;
    if tickets.allow == Allow::Own && tickets.store.is_none() {
        let text = "tickets.allow is \"own\" and tickets.store is not set: after a restart no ticket would be own; name a file"
            .to_owned();
        settings.conflict(&["tickets.allow", "tickets.store"], text);
    }
    if let Some(Err(bad)) = tickets.store.as_deref().map(store::check) {
        settings.conflict(&["tickets.store"], bad.to_string());
    }
}

fn tls(settings: &mut Settings, config: &Config) {
    let tls = &config.server.tls;
    if tls.listen.is_none() {
        if tls.redirect.is_some() {
            let text = "tls.redirect leads nowhere: tls.listen is not set".to_owned();
            settings.conflict(&["tls.redirect"], text);
        }
        for (key, file) in tls.files() {
            if file.is_some() {
                let text = format!("{key} is of no use: tls.listen is not set, which says where TLS is spoken");
                settings.conflict(&[key], text);
            }
        }
        return;
    }
    for bad in certificate::check(tls) {
        settings.conflict(&[bad.key, "tls.listen"], bad.to_string());
    }
}

fn deadlines(settings: &mut Settings, config: &Config) {
    let Config { server, origin, .. } = config;
    let parts =
        [("origin.connect_timeout", origin.connect_timeout), ("origin.first_byte_timeout", origin.first_byte_timeout)];
    for (key, part) in parts {
        if part > origin.fill_timeout {
            let text = format!("{key} is longer than origin.fill_timeout, which would always end first");
            settings.conflict(&[key, "origin.fill_timeout"], text);
        }
    }
    if server.drain_delay > server.drain {
        let text = "drain_delay is longer than drain, of which it is a part".to_owned();
        settings.conflict(&["drain_delay", "drain"], text);
    }
}

/// The listeners that are on, by their keys.
fn listeners(config: &Config) -> Vec<(&'static str, SocketAddr)> {
    let Config { server, admin, relay, .. } = config;
    let tls = &server.tls;
    let keys = [
        ("listen", server.listen),
        ("tls.listen", tls.listen),
        ("tls.redirect", tls.redirect),
        ("admin.listen", admin.listen),
        ("relay.listen", relay.listen),
    ];
    keys.into_iter().filter_map(|(key, address)| Some((key, address?))).collect()
}

fn addresses(settings: &mut Settings, config: &Config) {
    let listeners = listeners(config);
    for (number, (later, address)) in listeners.iter().enumerate() {
        for (earlier, _) in listeners[..number].iter().filter(|(_, other)| collide(*address, *other)) {
            let text = format!("{earlier} and {later} are the same address; give each its own");
            settings.conflict(&[later, earlier], text);
        }
    }
    if config.server.listen.is_none() && config.server.tls.listen.is_none() {
        let text = "listen is off and tls.listen is not set: nobody could come; set one of them".to_owned();
        settings.conflict(&["listen"], text);
    }
    loops(settings, config);
}

/// A proxy that asks itself would go on doing so for ever, or open what is not for everybody.
fn loops(settings: &mut Settings, config: &Config) {
    let Config { server, relay, admin, .. } = config;
    let tls = &server.tls;
    let ours = [
        ("listen", server.listen),
        ("tls.listen", tls.listen),
        ("tls.redirect", tls.redirect),
        ("relay.listen", relay.listen),
        ("admin.listen", admin.listen),
    ];
    for (key, listen) in ours {
        let Some(listen) = listen else { continue };
        for (setting, url, instead) in ways_out(config) {
            if leads_to(&url, listen) {
                let why = if key == "admin.listen" {
                    "everybody could do what the operator alone may"
                } else {
                    "every request would come back to us"
                };
                let text = format!("{setting} is our own listener: {why}; name {instead}");
                settings.conflict(&[setting, key], text);
            }
        }
    }
}

/// Whom we ask, by the keys, and what to name instead of ourselves.
fn ways_out(config: &Config) -> Vec<(&'static str, Uri, &'static str)> {
    let Config { origin, forward, relay, .. } = config;
    let app = forward.app.iter().map(|app| ("app", app.clone(), "the app's own address"));
    let api = std::iter::once(("relay.url", relay.url.url(), "WeChat's API"));
    let fallback = relay.fallback.iter().map(|host| ("relay.fallback", host.url(), "WeChat's API"));
    let relayed = api.chain(fallback).filter(|_| relay.listen.is_some());
    std::iter::once(("origin.url", origin.url.clone(), "WeChat, or another proxy")).chain(app).chain(relayed).collect()
}

fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let (a, b) = (one.ip(), other.ip());
    let overlap = a == b || a.is_unspecified() || b.is_unspecified();
    one.port() == other.port() && one.port() != 0 && overlap
}

/// Whether a connection to `url` certainly reaches `listen`. Other names are not looked up.
fn leads_to(url: &Uri, listen: SocketAddr) -> bool {
    let Some(authority) = url.authority() else { return false };
    let default = if url.scheme_str() == Some("https") { 443 } else { 80 };
    if listen.port() == 0 || authority.port_u16().unwrap_or(default) != listen.port() {
        return false;
    }
    let own = listen.ip().to_canonical();
    let is_here = |ip: IpAddr| ip == own || own.is_unspecified() && (ip.is_loopback() || ip.is_unspecified());
    addresses_of(authority.host()).into_iter().any(is_here)
}

/// The addresses that a host certainly has.
fn addresses_of(host: &str) -> Vec<IpAddr> {
    let bare = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
    if bare.eq_ignore_ascii_case("localhost") {
        return vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    }
    bare.parse().map(|ip: IpAddr| ip.to_canonical()).into_iter().collect()
}
