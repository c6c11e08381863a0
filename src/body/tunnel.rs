//! What follows a 101: bytes both ways, with back-pressure, until both sides have said their end, one breaks, or nothing has
//! moved for `forward.tunnel_idle`. The end of one side's words is passed on, and the other may still finish its own.
//!
//! What either side sent behind its head before the other was ready lies in hyper's buffer and comes first.
//!
//! An app that has said its end may still be reading, or be gone altogether. Nothing tells until something is sent to it: then
//! an app that is gone resets the connection, which ends the tunnel though the client never says another word. TLS hides the
//! socket from us: there the next piece that cannot be written ends it.

use std::error::Error as StdError;
use std::future::pending;
use std::io;
use std::time::Duration;

use hyper::upgrade::{OnUpgrade, Parts, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Chain, Interest, ReadHalf, split};
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::Notify;

use super::timed::LastPiece;
use crate::limit::UnderWay;
use crate::outbound::silence;
use crate::outbound::wire::Wired;

/// Bytes on their way in one direction; there may be thousands of tunnels, most of them idle.
const PIECE: usize = 8 * 1024;

/// The two connections that will be one.
#[derive(Debug)]
pub struct Tunnel {
    client: OnUpgrade,
    app: OnUpgrade,
    idle: Duration,
    under_way: UnderWay,
}

/// Why a tunnel ended otherwise than by both its ends.
#[derive(Debug)]
pub enum Broken {
    /// One of the connections was lost before it could switch.
    NotSwitched(hyper::Error),
    /// One of them broke.
    Cut(io::Error),
    /// Nothing moved for so long.
    Idle(Duration),
}

impl Tunnel {
    /// Between `client` and `app`, until nothing has moved for `idle`; its request is `under_way` all the while.
    pub fn new(client: OnUpgrade, app: OnUpgrade, idle: Duration, under_way: UnderWay) -> Self {
        Self { client, app, idle, under_way }
    }

    /// Carries bytes until the end. Dropping the future closes both connections.
    pub async fn carry(self) -> Result<(), Broken> {
        let Self { client, app, idle, under_way: _under_way } = self;
        let (client, app) = tokio::try_join!(client, app).map_err(Broken::NotSwitched)?;
        let (moved, client) = (LastPiece::now(), TokioIo::new(client));
        tokio::select! {
            ended = join(client, app, &moved) => ended.map_err(Broken::Cut),
            () = silence(|| moved.at(), idle) => Err(Broken::Idle(idle)),
        }
    }
}

async fn join(client: TokioIo<Upgraded>, app: Upgraded, moved: &LastPiece) -> io::Result<()> {
    let parts = app.downcast::<TokioIo<Wired>>().expect("every connection to the app is wired");
    let Parts { io, read_buf, .. } = parts;
    match io.into_inner().into_clear() {
        Ok(socket) => {
            let (from_app, to_app) = socket.into_split();
            both_ways(client, (read_buf.chain(from_app), to_app), moved).await
        }
        Err(over_tls) => {
            let (from_app, to_app) = split(over_tls);
            both_ways(client, (read_buf.chain(from_app), to_app), moved).await
        }
    }
}

/// What an app says, and whether it is still there to hear.
trait Hearing: AsyncRead + Unpin {
    /// Ends when the app is known to hear nothing any more.
    fn is_gone(&self) -> impl Future<Output = io::Error> + Send;
}

impl Hearing for Chain<&[u8], OwnedReadHalf> {
    async fn is_gone(&self) -> io::Error {
        let reset = self.get_ref().1.ready(Interest::ERROR).await;
        reset.err().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into())
    }
}

impl Hearing for Chain<&[u8], ReadHalf<Box<Wired>>> {
    fn is_gone(&self) -> impl Future<Output = io::Error> + Send {
        pending()
    }
}

/// Until both sides have said their end, or the app, having said its own, is gone.
async fn both_ways(
    client: TokioIo<Upgraded>,
    (mut from_app, to_app): (impl Hearing, impl AsyncWrite + Unpin),
    moved: &LastPiece,
) -> io::Result<()> {
    let (from_client, to_client) = split(client);
    let client_ended = Notify::new();
    let up = async {
        pass(from_client, to_app, moved).await?;
        client_ended.notify_one();
        Ok(())
    };
    let down = async {
        pass(&mut from_app, to_client, moved).await?;
        let gone = from_app.is_gone();
        tokio::select! {
            biased;
            () = client_ended.notified() => Ok(()),
            error = gone => Err(error),
        }
    };
    tokio::try_join!(up, down).map(drop)
}

/// Passes on what comes, and then its end.
async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, moved: &LastPiece) -> io::Result<()> {
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
