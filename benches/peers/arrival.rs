//! A connection that can tell when what it reads had come: the kernel stamps each segment as it takes it in, on whichever core
//! that is (socket(7), `SO_TIMESTAMPNS`). When the reader gets round to it is then no matter of whoever answered.

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
    /// Room for a stamp, where what comes is stamped.
    room: Option<Vec<u8>>,
    came: Option<SystemTime>,
}

impl Arriving {
    /// Nobody stamps what comes: it has come when it is read.
    pub fn plain(stream: TcpStream) -> Self {
        Self { stream, room: None, came: None }
    }

    /// The kernel stamps what comes, if not at once: it begins some time after the first who wants it.
    pub fn stamped(stream: TcpStream) -> Outcome<Self> {
        setsockopt(&stream, sockopt::ReceiveTimestampns, &true)?;
        Ok(Self { stream, room: Some(nix::cmsg_space!(TimeSpec)), came: None })
    }

    /// How long the last of what was read had lain there; nothing where the kernel does not say so.
    pub fn lain(&self) -> Option<Duration> {
        if self.room.is_none() { Some(Duration::ZERO) } else { self.came?.elapsed().ok() }
    }
}

/// Reads what has come to `stream`; tells how much, and when the last of it came.
fn receive(stream: &TcpStream, room: &mut [u8], into: &mut [u8]) -> io::Result<(usize, Option<SystemTime>)> {
    stream.try_io(Interest::READABLE, || {
        let mut into = [IoSliceMut::new(into)];
        let message = recvmsg::<()>(stream.as_raw_fd(), &mut into, Some(room), MsgFlags::empty())?;
        let came = message.cmsgs()?.find_map(|told| match told {
            ControlMessageOwned::ScmTimestampns(time) => Some(UNIX_EPOCH + Duration::from(time)),
            _ => None,
        });
        Ok((message.bytes, came))
    })
}

impl AsyncRead for Arriving {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, room, came } = &mut *self;
        let Some(room) = room else { return Pin::new(stream).poll_read(context, buffer) };
        loop {
            ready!(stream.poll_read_ready(context))?;
            match receive(stream, room, buffer.initialize_unfilled()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok((read, at)) => {
                    buffer.advance(read);
                    *came = at;
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
