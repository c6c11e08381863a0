//! What an operator may not have meant: valid, and worth a word at the start and from `ticketgate check`.

use std::net::SocketAddr;

use super::Addresses;
use crate::config::Config;
use crate::ticket::Allow;

/// What is doubtful about `config` where the listeners are at `addresses`.
pub fn doubts(addresses: Addresses, config: &Config) -> impl Iterator<Item = &'static str> {
    let is_open = |at: SocketAddr| !at.ip().to_canonical().is_loopback();
    let relay = addresses.relay.is_some_and(is_open);
    let operator = addresses.admin.is_some_and(is_open) && config.admin.token().is_none();
    let everybody = [addresses.public, addresses.tls].into_iter().flatten().any(is_open);
    // Whom we trust is not counted, and nobody else comes to loopback, but for those whom a header introduces.
    let counts = everybody || config.server.proxy_protocol;
    let (in_all, of_one) = (config.server.max_connections, config.server.max_connections_per_client);
    [
        (relay, "the relay is not on loopback: access tokens travel to it in the clear"),
        (
            operator,
            "admin.listen is off loopback and has no token: only /healthz, /readyz and /metrics are answered there",
        ),
        (
            counts && in_all > 1 && of_one >= in_all,
            "limits.max_connections_per_client is not below limits.max_connections: one client can take every place",
        ),
        (
            config.tickets.allow == Allow::Any && everybody,
            "anybody can have the QR codes of any account shown under this site's name: a ticket names no account, and \
             tickets.allow is \"any\"; set it to \"own\", with tickets.store, to show none but your own",
        ),
    ]
    .into_iter()
    .filter_map(|(is_so, text)| is_so.then_some(text))
}
