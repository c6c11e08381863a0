//! What follows a 101: bytes both ways, with back-pressure, until both sides have said their end, one breaks, or nothing has
//! moved for `forward.tunnel_idle`. The end of one side's words is passed on, and the other may still finish its own.
//!
//! What a client sent behind its request before it saw the 101 lies in hyper's buffer and comes first.

use std::error::Error as StdError;
use std::time::Duration;

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};

use super::timed::LastPiece;
use crate::outbound::silence;

/// Bytes on their way in one direction; there may be thousands of tunnels, most of them idle.
const PIECE: usize = 8 * 1024;

/// The two connections that will be one.
#[derive(Debug)]
pub struct Tunnel {
    client: OnUpgrade,
    app: OnUpgrade,
    idle: Duration,
}

/// Why a tunnel ended otherwise than by both its ends.
#[derive(Debug)]
pub enum Broken {
    /// One of the connections was lost before it could switch.
    NotSwitched(hyper::Error),
    /// One of them broke.
    Cut(std::io::Error),
    /// Nothing moved for so long.
    Idle(Duration),
}

impl Tunnel {
    /// Between `client` and `app`, until nothing has moved for `idle`.
    pub fn new(client: OnUpgrade, app: OnUpgrade, idle: Duration) -> Self {
        Self { client, app, idle }
    }

    /// Carries bytes until the end. Dropping the future closes both connections.
    pub async fn carry(self) -> Result<(), Broken> {
        let (client, app) = tokio::try_join!(self.client, self.app).map_err(Broken::NotSwitched)?;
        let (from_client, to_client) = split(TokioIo::new(client));
        let (from_app, to_app) = split(TokioIo::new(app));
        let moved = LastPiece::now();
        tokio::select! {
            both = async { tokio::try_join!(pass(from_client, to_app, &moved), pass(from_app, to_client, &moved)) } => {
                both.map(drop).map_err(Broken::Cut)
            }
            () = silence(|| moved.at(), self.idle) => Err(Broken::Idle(self.idle)),
        }
    }
}

/// Passes on what comes, and then its end.
async fn pass(
    mut from: ReadHalf<TokioIo<Upgraded>>,
    mut to: WriteHalf<TokioIo<Upgraded>>,
    moved: &LastPiece,
) -> std::io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let read = from.read(&mut piece).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        moved.note();
        to.write_all(&piece[..read]).await?;
        to.flush().await?;
        moved.note();
    }
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotSwitched(_) => f.write_str("a connection was lost before the tunnel began"),
            Self::Cut(_) => f.write_str("one end of the tunnel broke"),
            Self::Idle(idle) => write!(f, "nothing moved for {idle:?} (forward.tunnel_idle)"),
        }
    }
}

impl StdError for Broken {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::NotSwitched(cause) => Some(cause),
            Self::Cut(cause) => Some(cause),
            Self::Idle(_) => None,
        }
    }
}
