//! Listening sockets that were there before us: systemd opened them (socket activation), or a predecessor hands its own on.
//! Both say so in the same way (`LISTEN_FDS`, `LISTEN_FDNAMES`, `sd_listen_fds(3)`). A socket that outlives the process
//! behind it loses nobody: whoever connects meanwhile waits in its queue.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use listenfd::ListenFd;

use super::listener::prepare;

/// Names of what we were given, parted by colons.
pub const NAMES: &str = "LISTEN_FDNAMES";

/// Sockets that nobody has taken yet.
#[derive(Debug, Default)]
pub struct Inheritance {
    sockets: Vec<(String, TcpListener)>,
    /// Whoever had them before had our configuration too, or an older one: where the two differ, ours holds.
    from_predecessor: bool,
    /// What was handed to us and is no such socket.
    unusable: Vec<(String, io::Error)>,
}

impl Inheritance {
    /// What the environment says was handed to us. To be asked once, before there are threads.
    pub fn from_environment(from_predecessor: bool) -> Self {
        let names = std::env::var(NAMES).unwrap_or_default();
        let mut names = names.split(':');
        let mut given = ListenFd::from_env();
        let (mut sockets, mut unusable) = (Vec::new(), Vec::new());
        for number in 0..given.len() {
            let name = names.next().unwrap_or_default().to_owned();
            match given.take_tcp_listener(number) {
                Ok(Some(socket)) => sockets.push((name, socket)),
                Ok(None) => {}
                Err(error) => unusable.push((name, error)),
            }
        }
        Self { sockets, from_predecessor, unusable }
    }

    /// Takes the socket for the listener `name`, which the configuration wants at `address`: the one of this name, else one at
    /// this address. Systemd's word about the address of a named one counts more than the configuration's.
    pub fn take(&mut self, name: &str, address: SocketAddr) -> Option<io::Result<TcpListener>> {
        let fits = |socket: &TcpListener| socket.local_addr().is_ok_and(|own| own == address);
        let may_differ = !self.from_predecessor || address.port() == 0;
        let named = |(given, socket): &(String, TcpListener)| given == name && (may_differ || fits(socket));
        let found = self.sockets.iter().position(named);
        let found = found.or_else(|| self.sockets.iter().position(|(_, socket)| fits(socket)))?;
        let (_, socket) = self.sockets.swap_remove(found);
        Some(prepare(&socket).map(|()| socket))
    }

    /// Closes what nobody took, and says so.
    pub fn close_the_rest(self) {
        for (name, error) in self.unusable {
            tracing::warn!(%name, %error, "an inherited descriptor is no TCP listener, and is left alone");
        }
        for (name, socket) in self.sockets {
            let address = socket.local_addr().map_or_else(|_| "?".to_owned(), |address| address.to_string());
            tracing::warn!(%name, %address, "an inherited socket is closed: no listener of the configuration has its name or address");
        }
    }
}

/// Our own listening sockets, kept open so that they can be handed on.
#[derive(Debug, Default)]
pub struct Legacy(Mutex<Vec<(&'static str, OwnedFd)>>);

impl Legacy {
    /// Keeps a second descriptor of `socket`.
    pub fn keep(&self, name: &'static str, socket: &TcpListener) -> io::Result<()> {
        self.lock().push((name, OwnedFd::from(socket.try_clone()?)));
        Ok(())
    }

    /// Descriptors to hand on; ours stay.
    pub fn copies(&self) -> io::Result<Vec<(&'static str, OwnedFd)>> {
        self.lock().iter().map(|(name, socket)| Ok((*name, socket.try_clone()?))).collect()
    }

    /// Closes them: a socket that stayed open here would let clients wait for nobody.
    pub fn close(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(&'static str, OwnedFd)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(names: &[&str], from_predecessor: bool) -> (Inheritance, Vec<SocketAddr>) {
        let socket = |name: &&str| ((*name).to_owned(), TcpListener::bind("127.0.0.1:0").unwrap());
        let sockets: Vec<_> = names.iter().map(socket).collect();
        let addresses = sockets.iter().map(|(_, socket)| socket.local_addr().unwrap()).collect();
        (Inheritance { sockets, from_predecessor, unusable: Vec::new() }, addresses)
    }

    fn taken(inheritance: &mut Inheritance, name: &str, address: SocketAddr) -> Option<SocketAddr> {
        inheritance.take(name, address).map(|socket| socket.unwrap().local_addr().unwrap())
    }

    #[test]
    fn a_socket_is_known_by_its_name_and_else_by_its_address() {
        let elsewhere: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let (mut systemd, at) = given(&["", "public", "unknown"], false);
        assert_eq!(taken(&mut systemd, "public", elsewhere), Some(at[1]), "the unit decides");
        assert_eq!(taken(&mut systemd, "tls", at[2]), Some(at[2]));
        assert_eq!(taken(&mut systemd, "admin", elsewhere), None);
        assert_eq!(systemd.sockets.len(), 1);
    }

    #[test]
    fn of_a_predecessor_only_what_is_still_wanted_there_is_taken() {
        let elsewhere: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let (mut predecessor, at) = given(&["public", "admin"], true);
        assert_eq!(taken(&mut predecessor, "public", elsewhere), None, "the configuration has another address by now");
        assert_eq!(taken(&mut predecessor, "admin", "127.0.0.1:0".parse().unwrap()), Some(at[1]));
        assert_eq!(taken(&mut predecessor, "public", at[0]), Some(at[0]));
    }

    #[test]
    fn what_is_kept_can_be_handed_on_until_it_is_closed() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let legacy = Legacy::default();
        legacy.keep("public", &socket).unwrap();
        let copies = legacy.copies().unwrap();
        drop(socket);
        legacy.close();
        assert!(std::net::TcpStream::connect(address).is_ok(), "the copy listens");
        drop(copies);
        assert!(std::net::TcpStream::connect(address).is_err());
    }
}
