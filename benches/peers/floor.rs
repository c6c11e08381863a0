//! The floor: what the kernel alone costs. One thread waits for readiness, reads whatever came, takes it for a request and
//! writes the same bytes each time: nothing is parsed, looked up or counted. Not a server, but what none can be cheaper than.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use crate::Outcome;
use crate::tickets;

/// Events taken at once.
const BATCH: usize = 256;
/// Bytes of a request that are read at once; none is longer here.
const REQUEST: usize = 16 * 1024;
/// Marks the listener among connections.
const LISTENER: u64 = u64::MAX;

/// A connection, and how much of the answer under way is written.
struct Connection {
    stream: TcpStream,
    written: Option<usize>,
}

/// What happens to a connection next.
#[derive(PartialEq)]
enum Next {
    Waits,
    Ends,
}

/// Answers on `address` with an image of `size` bytes, or with a 304 when that is 0, for ever.
pub fn serve(address: SocketAddr, size: usize) -> Outcome<()> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let poll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&poll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let answer = answer(size);
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut free: Vec<usize> = Vec::new();
    let mut ready = Vec::with_capacity(BATCH);
    let mut request = [0; REQUEST];
    loop {
        ready.clear();
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut ready), None)?;
        for event in &ready {
            let data = event.data.u64();
            if data == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    let at = free.pop().unwrap_or(connections.len());
                    let wanted = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
                    epoll::add(&poll, &stream, EventData::new_u64(at as u64), wanted)?;
                    let connection = Some(Connection { stream, written: None });
                    if at == connections.len() { connections.push(connection) } else { connections[at] = connection }
                }
                continue;
            }
            let at = usize::try_from(data).expect("it was one");
            let Some(connection) = &mut connections[at] else { continue };
            if connection.go_on(&answer, &mut request) == Next::Ends {
                connections[at] = None;
                free.push(at);
            }
        }
    }
}

impl Connection {
    fn go_on(&mut self, answer: &[u8], request: &mut [u8]) -> Next {
        if self.written.is_some() && self.write(answer) == Next::Ends {
            return Next::Ends;
        }
        if self.written.is_some() {
            return Next::Waits;
        }
        match self.stream.read(request) {
            Ok(0) => Next::Ends,
            Ok(_) => {
                self.written = Some(0);
                self.write(answer)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Next::Waits,
            Err(_) => Next::Ends,
        }
    }

    fn write(&mut self, answer: &[u8]) -> Next {
        let from = self.written.unwrap_or(0);
        match self.stream.write(&answer[from..]) {
            Ok(wrote) => {
                self.written = Some(from + wrote).filter(|written| *written < answer.len());
                Next::Waits
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Next::Waits,
            Err(_) => Next::Ends,
        }
    }
}

/// As long as the others' answers are, which say much the same.
fn answer(size: usize) -> Vec<u8> {
    let status = if size == 0 { "304 Not Modified" } else { "200 OK" };
    let length =
        if size == 0 { String::new() } else { format!("content-type: image/jpeg\r\ncontent-length: {size}\r\n") };
    let mut answer = format!(
        "HTTP/1.1 {status}\r\n{length}cache-control: max-age=604800\r\netag: \"0123456789abcdef\"\r\nage: 1\r\n\
         last-modified: Wed, 16 Oct 2013 06:37:10 GMT\r\ndate: Wed, 16 Oct 2013 06:37:11 GMT\r\n\r\n"
    )
    .into_bytes();
    if size > 0 {
        answer.extend(tickets::image("the floor's", size));
    }
    answer
}
