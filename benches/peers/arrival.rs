//! A connection that knows how long what it reads has lain there: the kernel stamps each segment as it comes
//! (socket(7), `SO_TIMESTAMPNS`). When its reader gets round to it is no matter of whoever answered.

use std::io::{self, IoSliceMut};
use std::os::fd::AsRawFd as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use crate::Outcome;

/// A connection, and when the last of what was read had come.
#[derive(Debug)]
pub struct Arriving {
    stream: TcpStream,
    /// Room for a stamp.
    room: Vec<u8>,
    came: Option<SystemTime>,
}

impl Arriving {
    /// Nobody stamps what comes.
    pub fn plain(stream: TcpStream) -> Self {
        Self { stream, room: nix::cmsg_space!(TimeSpec), came: None }
    }

    /// The kernel stamps what comes.
    pub fn stamped(stream: TcpStream) -> Outcome<Self> {
        setsockopt(&stream, sockopt::ReceiveTimestampns, &true)?;
        Ok(Self::plain(stream))
    }

    /// How long ago the last of what was read had come; no time at all where the kernel does not say so.
    pub fn lain(&self) -> Duration {
        self.came.and_then(|came| came.elapsed().ok()).unwrap_or_default()
    }

    fn receive(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Self { stream, room, came } = self;
        stream.try_io(Interest::READABLE, || {
            let mut into = [IoSliceMut::new(into)];
            let message = recvmsg::<()>(stream.as_raw_fd(), &mut into, Some(room), MsgFlags::empty())?;
            *came = message.cmsgs()?.find_map(|told| match told {
                ControlMessageOwned::ScmTimestampns(time) => Some(UNIX_EPOCH + Duration::from(time)),
                _ => None,
            });
            Ok(message.bytes)
        })
    }
}

impl AsyncRead for Arriving {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(context))?;
            match self.receive(buffer.initialize_unfilled()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(read) => {
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl AsyncWrite for Arriving {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
