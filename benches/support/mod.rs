//! What every bench of a hit begins with: the proxy before a little origin of its own, and the two doors at which it is
//! asked, with a connection and without. Which figure is taken there is the bench's affair.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use ticketgate::app::{App, Running, Surroundings};
use ticketgate::config::Config;
use ticketgate::exchange::{Exchanges, Records};
use ticketgate::log::Control;
use ticketgate::moment::Wall;
use ticketgate::peer::{Peer, Scheme};
use ticketgate::proxy::Proxy;
use ticketgate::ticket::{Validity, mint};

/// What the program has, or every block would cost something else.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// As large as WeChat's own.
pub const IMAGE: usize = 28_026;

/// Who asks without a connection: a proxy that is trusted.
pub const PEER: Peer = Peer { address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4000), scheme: Scheme::Http };

/// A running proxy, as it is configured when nobody configures it; nobody writes a line for each request.
pub fn proxy() -> Running {
    let mut config = Config::default();
    config.server.listen = Some(([127, 0, 0, 1], 0).into());
    config.admin.listen = None;
    config.origin.url = format!("http://{}", origin()).parse().expect("an address makes a URL");
    let budget = config.limits.client_requests.as_mut().expect("it is on");
    // A bench asks more often than any browser; it is counted all the same.
    budget.rate = 1e7;
    App::bind(config, Surroundings::default()).and_then(App::start).expect("it starts")
}

/// Answers every request with an image that may be kept for a week. Ends with the process.
fn origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = [0; 4096];
            while stream.read(&mut head).is_ok_and(|read| read > 0) {
                if stream.write_all(&image()).is_err() {
                    break;
                }
            }
        }
    });
    address
}

/// The origin's answer.
fn image() -> Vec<u8> {
    let fields = format!("Cache-Control: max-age=604800\r\nContent-Length: {IMAGE}\r\nETag: \"a\"\r\n\r\n");
    let mut answer = format!("HTTP/1.1 200 OK\r\n{fields}").into_bytes();
    answer.extend_from_slice(b"\xff\xd8\xff");
    answer.resize(answer.len() - 3 + IMAGE, 0);
    answer
}

/// What a page asks for to show the ticket of this number.
pub fn target(number: u32) -> String {
    let url = format!("http://weixin.qq.com/q/{number:022}");
    let ticket = mint(&url, Wall::from_unix(1_700_000_000), Validity::Permanent).expect("it fits");
    format!("/cgi-bin/showqrcode?ticket={}", ticket.replace('=', "%3D"))
}

/// The door behind the connections: what each worker thread of `running` has.
pub fn exchanges(running: &Running) -> Exchanges {
    let proxy = Proxy { shared: running.reload().shared(), forward: None };
    let (metrics, clock) = (Arc::clone(running.metrics()), proxy.shared.clock.clone());
    Exchanges::new(proxy, Records::new(metrics, clock, Control::default(), None))
}

/// A keep-alive connection on loopback. Frugal, since what it costs is counted too.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects to `running`.
    pub fn open(running: &Running) -> Self {
        let stream = TcpStream::connect(running.addresses().public.expect("it is on")).expect("it listens");
        Self { stream, buffer: vec![0; 2 * IMAGE] }
    }

    /// Sends one request and reads the whole answer; tells its head.
    pub fn ask(&mut self, request: &str) -> &[u8] {
        let Self { stream, buffer } = self;
        stream.write_all(request.as_bytes()).expect("the proxy reads");
        let mut read = 0;
        loop {
            read += stream.read(&mut buffer[read..]).expect("the proxy answers");
            let head = read.saturating_sub(IMAGE);
            if buffer[..head].ends_with(b"\r\n\r\n") {
                assert!(buffer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buffer[..head]));
                return &buffer[..head];
            }
        }
    }
}

/// The request for `target`, as it goes over a connection.
pub fn request(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")
}
