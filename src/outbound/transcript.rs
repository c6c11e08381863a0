//! What passed over a connection, above TLS, for an operator who looks at one exchange: within a bound, with the times that
//! matter. No request of a client is ever written down here.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::moment::Tick;

/// Bytes that are kept each way: a head, and the beginning of a body.
const MOST_KEPT: usize = 64 * 1024;

/// Takes notes.
#[derive(Debug)]
pub struct Transcript {
    clock: Clock,
    began: Tick,
    notes: Mutex<Notes>,
}

/// What was noted. Times count from the transcript's beginning.
#[derive(Debug, Clone, Default)]
pub struct Notes {
    /// Whom the connection reached.
    pub peer: Option<SocketAddr>,
    /// The version of TLS, when there is any.
    pub tls: Option<String>,
    /// The protocol that was agreed upon in its handshake.
    pub alpn: Option<String>,
    /// When name, TCP and TLS were done.
    pub connected: Option<Duration>,
    /// When the first byte of the answer came.
    pub first_byte: Option<Duration>,
    /// What was sent, its beginning.
    pub sent: Vec<u8>,
    /// What came, its beginning.
    pub received: Vec<u8>,
}

impl Transcript {
    /// Begins now.
    pub fn begin(clock: Clock) -> Self {
        Self { began: clock.tick(), clock, notes: Mutex::default() }
    }

    /// What was noted so far.
    pub fn notes(&self) -> Notes {
        self.lock().clone()
    }

    pub(super) fn connected(&self, peer: Option<SocketAddr>, tls: Option<&rustls::ClientConnection>) {
        let mut notes = self.lock();
        notes.connected = Some(self.since());
        notes.peer = peer;
        notes.tls = tls.and_then(|tls| tls.protocol_version()?.as_str().map(str::to_owned));
        notes.alpn = tls.and_then(|tls| tls.alpn_protocol()).map(|name| String::from_utf8_lossy(name).into_owned());
    }

    pub(super) fn sent(&self, bytes: &[u8]) {
        keep(&mut self.lock().sent, bytes);
    }

    /// The first `written` bytes of `pieces`.
    pub(super) fn sent_pieces(&self, pieces: &[IoSlice<'_>], written: usize) {
        let mut left = written;
        for piece in pieces {
            let taken = left.min(piece.len());
            self.sent(&piece[..taken]);
            left -= taken;
        }
    }

    pub(super) fn received(&self, bytes: &[u8]) {
        let since = self.since();
        let mut notes = self.lock();
        if !bytes.is_empty() {
            notes.first_byte.get_or_insert(since);
        }
        keep(&mut notes.received, bytes);
    }

    fn since(&self) -> Duration {
        self.clock.tick().since(self.began)
    }

    /// Every change is an assignment or an append: a panic in between leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn keep(kept: &mut Vec<u8>, bytes: &[u8]) {
    let room = MOST_KEPT - kept.len();
    kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_kept_than_the_bound() {
        let transcript = Transcript::begin(Clock::system());
        transcript.received(&[]);
        assert_eq!(transcript.notes().first_byte, None, "the end is no byte");
        for _ in 0..3 {
            transcript.received(&vec![b'x'; MOST_KEPT / 2 + 1]);
        }
        transcript.sent_pieces(&[IoSlice::new(b"GET "), IoSlice::new(b"/ HTTP"), IoSlice::new(b"/1.1")], 6);
        let notes = transcript.notes();
        assert_eq!((notes.received.len(), notes.sent), (MOST_KEPT, b"GET / ".to_vec()));
        assert!(notes.first_byte.is_some());
    }
}
