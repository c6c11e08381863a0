//! The app behind: it takes every upload and never answers, so that whoever uploads slowly is the server's to end.

use std::net::SocketAddr;

use tokio_util::sync::{CancellationToken, DropGuard};

use crate::Outcome;
use crate::aside::Aside;
use crate::guests::{read_out, take_in};

/// A running app; ends when dropped.
#[derive(Debug)]
pub struct App {
    /// Where it is.
    pub address: SocketAddr,
    _over: DropGuard,
    _thread: Aside<()>,
}

impl App {
    /// Starts it where the caller is.
    pub fn start() -> Outcome<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let (address, over) = (listener.local_addr()?, CancellationToken::new());
        let end = over.clone();
        let thread = Aside::begin("app", move || async move {
            end.run_until_cancelled(take_in(listener, read_out)).await;
        })?;
        Ok(Self { address, _over: over.drop_guard(), _thread: thread })
    }
}
