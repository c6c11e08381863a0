//! ticketgate: a caching HTTP proxy for WeChat's QR images.

pub mod clock;
pub mod moment;
pub mod config;
pub mod ticket;
pub mod limit;
pub mod cache;
pub mod origin;
pub mod respond;
pub mod route;
pub mod forward;
pub mod server;
pub mod admin;
pub mod log;
pub mod demo;
pub mod cli;
