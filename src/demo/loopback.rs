//! What the demo's made-up neighbours share: ports that nobody else reaches, and bounded bodies.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use tokio::time::timeout;

use crate::server::small::{self, Answers, Mishaps, Room};

/// More than the proxy's pools ever open.
const ROOM: Room = Room { all: 256, per_address: 256 };
/// For a whole body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Of a body; WeChat's own calls have a few hundred.
const MOST_BODY_BYTES: usize = 16 * 1024;

/// Binds a port that nobody else reaches.
pub fn bind() -> io::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Lets `neighbour` answer what comes to `listener`. Ends with its runtime.
pub async fn serve(neighbour: Arc<impl Answers>, listener: TcpListener) -> io::Result<()> {
    small::serve(neighbour, listener, ROOM, Mishaps::default()).await
}

/// Reads a whole body; `None` when it is too long, too slow or cut.
pub async fn read(body: Incoming) -> Option<Bytes> {
    let whole = timeout(BODY_TIMEOUT, Limited::new(body, MOST_BODY_BYTES).collect()).await.ok()?;
    Some(whole.ok()?.to_bytes())
}
