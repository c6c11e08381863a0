//! `ticketgate demo` (S41): the real proxy between two made-up neighbours, a stand-in for WeChat and a small app whose
//! page shows what the proxy does. This module starts them and ends them; `stand_in` and `page` say what they answer.
//! Needs nothing but loopback, and keeps nothing: two demos run in one process.

mod issued;
mod loopback;
mod page;
pub mod qr;
mod stand_in;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
pub use page::Figures;
pub use stand_in::Calls;
use tokio::runtime::{Builder, Runtime};

use self::page::{Page, Read};
use self::stand_in::StandIn;
use crate::app::{App, Ending, Running, StartError, Surroundings};
use crate::config::Config;
use crate::limit::{Policy, TellBudget};
use crate::relay::Host;
use crate::ticket::Ticket;

/// Threads that play the neighbours.
const THREADS: usize = 2;

/// What one viewer may ask: ten page views at once are fine, the page's button is not.
const BUDGET: Policy = Policy { rate: 10.0, burst: NonZeroU32::new(150).expect("above 0"), wait: Duration::ZERO };

/// For connections that are still busy when the demo ends.
const DRAIN: Duration = Duration::from_secs(5);

/// A running demo. Dropping it ends everything at once; [`Demo::finish`], after [`Running::drain`], ends it well.
pub struct Demo {
    // First, so that the proxy ends while its neighbours still answer.
    running: Running,
    neighbours: Neighbours,
    stand_in: SocketAddr,
    example: Ticket,
    read: Read,
}

/// Why there is no demo.
#[derive(Debug)]
pub enum DemoError {
    /// The neighbours have no port or no threads.
    Neighbours(io::Error),
    /// The proxy does not start.
    Proxy(StartError),
}

/// The threads of the stand-in and the app. Their connections end with them.
struct Neighbours(Option<Runtime>);

impl Demo {
    /// Starts the demo; its page is at `listen`, whose port may be 0.
    pub fn start(listen: SocketAddr, surroundings: Surroundings) -> Result<Self, DemoError> {
        let ((weixin, weixin_at), (app, app_at)) = (bound()?, bound()?);
        let clock = surroundings.clock.clone();
        let proxy = App::bind(configure(listen, weixin_at, app_at), surroundings).map_err(DemoError::Proxy)?;
        let neighbours = Neighbours::new().map_err(DemoError::Neighbours)?;
        let running = proxy.start().map_err(DemoError::Proxy)?;
        let stand_in = Arc::new(StandIn::new(clock.clone()));
        let read = figures(&running, &stand_in);
        let relay = running.addresses().relay.expect("the demo relays");
        let page = Page::new(relay, clock, Arc::clone(&read));
        let example = stand_in.example();
        neighbours.spawn(loopback::serve(stand_in, weixin));
        neighbours.spawn(loopback::serve(Arc::new(page), app));
        Ok(Self { running, neighbours, stand_in: weixin_at, example, read })
    }

    /// Where the proxy listens.
    pub fn address(&self) -> SocketAddr {
        self.running.addresses().public.expect("the demo listens in the clear")
    }

    /// The address of the page, for people.
    pub fn url(&self) -> String {
        format!("http://{}/", reachable(self.address()))
    }

    /// The address of an image to try things with, of a permanent ticket that the page does not show.
    pub fn image_url(&self) -> String {
        format!("http://{}{}?ticket={}", reachable(self.address()), stand_in::SHOW, self.example.encoded())
    }

    /// Where the stand-in for WeChat listens.
    pub fn stand_in(&self) -> SocketAddr {
        self.stand_in
    }

    /// What the page's live view shows.
    pub fn figures(&self) -> Figures {
        (self.read)()
    }

    /// The proxy: to wait on its threads, to drain it.
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// Waits for the proxy's drain to end, then ends the neighbours and waits for them.
    ///
    /// # Panics
    /// When called from within a runtime.
    pub fn finish(self) -> Ending {
        let Self { running, neighbours, .. } = self;
        let ending = running.finish();
        neighbours.finish();
        ending
    }
}

fn bound() -> Result<(TcpListener, SocketAddr), DemoError> {
    let listener = loopback::bind().map_err(DemoError::Neighbours)?;
    let address = listener.local_addr().map_err(DemoError::Neighbours)?;
    Ok((listener, address))
}

/// As shipped, but for a budget that one browser can reach, and the haste of somebody who pressed Ctrl-C.
fn configure(listen: SocketAddr, stand_in: SocketAddr, app: SocketAddr) -> Config {
    let mut config = Config::default();
    config.server.listen = Some(listen);
    config.server.drain_delay = Duration::ZERO;
    config.server.drain = DRAIN;
    config.admin.listen = Some((Ipv4Addr::LOCALHOST, 0).into());
    config.origin.url = uri(stand_in);
    config.forward.app = Some(uri(app));
    config.relay.listen = Some((Ipv4Addr::LOCALHOST, 0).into());
    config.relay.url = Host::of(&uri(stand_in)).expect("an address makes a host");
    // The page shows what a miss is.
    config.relay.prefetch = false;
    config.limits.client_requests = Some(BUDGET);
    // No cache stands between here and the browser, and the page shows what is left.
    config.limits.ratelimit_headers = TellBudget::Always;
    config
}

fn uri(address: SocketAddr) -> Uri {
    Uri::try_from(format!("http://{address}")).expect("an address makes a URI")
}

fn figures(running: &Running, stand_in: &Arc<StandIn>) -> Read {
    let (metrics, stand_in) = (Arc::clone(running.metrics()), Arc::clone(stand_in));
    Arc::new(move || {
        let (totals, calls) = (metrics.totals(), stand_in.calls());
        Figures {
            hits: totals.hits,
            misses: totals.misses,
            refused: totals.refused,
            origin_images: calls.image,
            origin_creates: calls.create,
        }
    })
}

/// Nobody can visit "any address".
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

impl Neighbours {
    fn new() -> io::Result<Self> {
        let mut threads = Builder::new_multi_thread();
        threads.worker_threads(THREADS).thread_name("ticketgate-demo").enable_all();
        Ok(Self(Some(threads.build()?)))
    }

    fn finish(mut self) {
        if let Some(threads) = self.0.take() {
            threads.shutdown_timeout(DRAIN);
        }
    }

    fn spawn(&self, serving: impl Future<Output = io::Result<()>> + Send + 'static) {
        let threads = self.0.as_ref().expect("present until dropped");
        // Ends with the runtime.
        threads.spawn(async {
            if let Err(error) = serving.await {
                tracing::error!(%error, "a neighbour of the demo is gone");
            }
        });
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        if let Some(threads) = self.0.take() {
            // Not to wait: whoever drops this may be within a runtime.
            threads.shutdown_background();
        }
    }
}

impl fmt::Display for DemoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Neighbours(error) => write!(f, "the demo's own servers do not start: {error}"),
            Self::Proxy(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for DemoError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Neighbours(error) => Some(error),
            Self::Proxy(error) => std::error::Error::source(error),
        }
    }
}
