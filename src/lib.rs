//! # The life of a request
//!
//! A browser's `<img>` asks for a QR picture. Read the modules in this order and you have followed it:
//!
//! | | |
//! |---|---|
//! | [`server`] | accepts the connection and puts deadlines under it |
//! | [`exchange`] | gives the request an id and keeps its record |
//! | [`proxy`] | **the flow**: route, ticket, admit, look up, join or start a fill, respond |
//! | [`route`], [`ticket`], [`limit`] | what is asked, for which ticket, by whom |
//! | [`cache`] | what is known, how long, and what browsers are told about it |
//! | [`fill`] | one fetch for everybody who waits, judged before it is stored |
//! | [`origin`] | WeChat: one request template, deadlines, a circuit |
//! | [`reply`], [`respond`] | the answer and its record |
//! | [`forward`] | every other path: the app behind us |
//! | [`relay`] | the app's own calls of WeChat, from which tickets are learned |
//!
//! Around it: [`app`] puts the parts together, [`config`] reads what they need, [`admin`] lets an operator look,
//! [`mod@log`], [`metrics`] and [`otel`] tell, [`demo`] plays WeChat and [`cli`] reads the command line. [`moment`] and [`clock`] are
//! the time, [`peer`] is who speaks to us, [`arrival`] how a request came, `forwarded` reads what proxies say of each other, `query` what stands
//! behind a question mark, [`via`] is our own hop, [`trace`]
//! whose trace a request belongs to, [`remembered`] what answers say again and
//! again, [`latency`] how long they take, [`failures`] which images were not shown, `mishap` is a mistake of ours in work that
//! goes on all the same, [`fault`] trouble on purpose.
//!
//! What decides (tickets, freshness, judgement) is pure and takes the time as an argument. `ARCHITECTURE.md` draws the
//! layers: imports point down them.

pub mod admin;
pub mod app;
pub mod arrival;
pub mod body;
pub mod cache;
pub mod cli;
pub mod clock;
pub mod config;
pub mod demo;
pub mod exchange;
pub mod failures;
pub mod fault;
pub mod fill;
pub mod forward;
mod forwarded;
mod inline;
#[cfg(test)]
mod interleavings;
pub mod latency;
#[cfg(any(test, fuzzing))]
pub mod laws;
pub mod limit;
pub mod log;
pub mod metrics;
mod mishap;
pub mod moment;
pub mod origin;
#[cfg(feature = "otel")]
pub mod otel;
#[cfg(not(feature = "otel"))]
#[path = "otel/off.rs"]
pub mod otel;
mod outbound;
pub mod peer;
pub mod proxy;
mod query;
pub mod relay;
pub mod remembered;
pub mod reply;
pub mod respond;
pub mod route;
pub mod server;
pub mod store;
mod sync;
pub mod ticket;
pub mod trace;
pub mod via;
