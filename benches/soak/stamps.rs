//! The kernel stamps what comes while anybody wants it, and begins some time after the first does, by changing its own code.
//! For a whole scenario somebody does, so that no window begins without stamps, or changes the kernel's code.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use crate::Outcome;
use crate::arrival::Arriving;

/// Looks at whether it has begun, and before the next.
const LOOKS: usize = 50;
const PAUSE: Duration = Duration::from_millis(100);

/// Has the kernel stamp what comes, until dropped.
#[derive(Debug)]
pub struct Stamps {
    _reader: Arriving,
    _writer: TcpStream,
}

impl Stamps {
    /// Waits until it does.
    pub async fn begin() -> Outcome<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let mut writer = TcpStream::connect(listener.local_addr()?).await?;
        let mut reader = Arriving::stamped(listener.accept().await?.0)?;
        for _ in 0..LOOKS {
            writer.write_all(b"x").await?;
            reader.read_exact(&mut [0]).await?;
            if reader.lain().is_some() {
                return Ok(Self { _reader: reader, _writer: writer });
            }
            sleep(PAUSE).await;
        }
        Err("the kernel does not say when something came: answers are timed by SO_TIMESTAMPNS, which it has to support"
            .into())
    }
}
