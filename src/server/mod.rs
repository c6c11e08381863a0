//! The public side of the proxy: a listener, workers, connections with deadlines, and an end that loses nothing. What is
//! answered is [`crate::proxy`]'s to say.

pub mod closing;
pub mod config;
pub mod connection;
pub mod deadline_io;
pub mod door;
pub mod drain;
pub mod files;
mod http1;
mod http2;
pub mod inheritance;
#[cfg(test)]
mod interleavings;
pub mod introduction;
pub mod listener;
pub mod parking;
pub mod places;
pub mod progress;
pub mod proxy_header;
pub mod small;
pub mod timer;
pub mod tls;
pub mod workers;
pub mod write_deadline;

pub use config::{Config, Timeouts};
