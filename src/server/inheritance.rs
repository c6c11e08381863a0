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

/// Before the name of a socket that is handed on and that systemd opened: its unit, not the configuration, says where it is.
const APPOINTED: &str = "appointed-";

/// Sockets that nobody has taken yet.
#[derive(Debug, Default)]
pub struct Inheritance {
    sockets: Vec<Given>,
    /// What was handed to us and is no such socket.
    unusable: Vec<(String, io::Error)>,
}

/// A socket that was handed to us.
#[derive(Debug)]
struct Given {
    name: String,
    socket: TcpListener,
    /// Systemd opened it, for us or for a predecessor. Other sockets of a predecessor are where its configuration, or an older
    /// one, wanted them: where that and ours differ, ours holds.
    appointed: bool,
}

/// A socket for one of our listeners.
#[derive(Debug)]
pub struct Taken {
    /// The socket, listening.
    pub socket: TcpListener,
    /// Whether it is systemd's, which says where it is.
    pub appointed: bool,
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
                Ok(Some(socket)) => sockets.push(Given::of(&name, socket, from_predecessor)),
                Ok(None) => {}
                Err(error) => unusable.push((name, error)),
            }
        }
        Self { sockets, unusable }
    }

    /// Takes the socket for the listener `name`, which the configuration wants at `address`: the one of this name, else one at
    /// this address. Systemd's word about the address of a named one counts more than the configuration's.
    pub fn take(&mut self, name: &str, address: SocketAddr) -> Option<io::Result<Taken>> {
        let fits = |given: &Given| given.socket.local_addr().is_ok_and(|own| own == address);
        let is_named = |given: &Given| given.name == name && (given.appointed || address.port() == 0 || fits(given));
        let found = self.sockets.iter().position(is_named).or_else(|| self.sockets.iter().position(fits))?;
        let Given { name: own, socket, appointed } = self.sockets.swap_remove(found);
        let taken = Taken { socket, appointed: appointed && own == name };
        Some(prepare(&taken.socket).map(|()| taken))
    }

    /// Closes what nobody took, and says so.
    pub fn close_the_rest(self) {
        for (name, error) in self.unusable {
            tracing::warn!(%name, %error, "an inherited descriptor is no TCP listener, and is left alone");
        }
        for Given { name, socket, .. } in self.sockets {
            let address = socket.local_addr().map_or_else(|_| "?".to_owned(), |address| address.to_string());
            tracing::warn!(%name, %address, "an inherited socket is closed: no listener of the configuration has its name or address");
        }
    }
}

impl Given {
    fn of(name: &str, socket: TcpListener, from_predecessor: bool) -> Self {
        let appointed = name.strip_prefix(APPOINTED).filter(|_| from_predecessor);
        let appointed_name = appointed.unwrap_or(name).to_owned();
        Self { name: appointed_name, socket, appointed: appointed.is_some() || !from_predecessor }
    }
}

/// Our own listening sockets, kept open so that they can be handed on.
#[derive(Debug, Default)]
pub struct Legacy(Mutex<Vec<(String, OwnedFd)>>);

impl Legacy {
    /// Keeps a second descriptor of what the listener `name` has.
    pub fn keep(&self, name: &str, Taken { socket, appointed }: &Taken) -> io::Result<()> {
        let name = if *appointed { format!("{APPOINTED}{name}") } else { name.to_owned() };
        self.lock().push((name, OwnedFd::from(socket.try_clone()?)));
        Ok(())
    }

    /// Descriptors to hand on, and their names; ours stay.
    pub fn copies(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        self.lock().iter().map(|(name, socket)| Ok((name.clone(), socket.try_clone()?))).collect()
    }

    /// Closes them: a socket that stayed open here would let clients wait for nobody.
    pub fn close(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(String, OwnedFd)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(names: &[&str], from_predecessor: bool) -> (Inheritance, Vec<SocketAddr>) {
        let socket = |name: &&str| Given::of(name, TcpListener::bind("127.0.0.1:0").unwrap(), from_predecessor);
        let sockets: Vec<_> = names.iter().map(socket).collect();
        let addresses = sockets.iter().map(|given| given.socket.local_addr().unwrap()).collect();
        (Inheritance { sockets, unusable: Vec::new() }, addresses)
    }

    fn taken(inheritance: &mut Inheritance, name: &str, address: SocketAddr) -> Option<SocketAddr> {
        inheritance.take(name, address).map(|taken| taken.unwrap().socket.local_addr().unwrap())
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
    fn systemds_word_holds_for_a_successor_too() {
        let elsewhere: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let (mut systemd, at) = given(&["public", "", "admin"], false);
        let legacy = Legacy::default();
        legacy.keep("public", &systemd.take("public", elsewhere).unwrap().unwrap()).unwrap();
        legacy.keep("tls", &systemd.take("tls", at[1]).unwrap().unwrap()).unwrap();
        let own = Taken { socket: TcpListener::bind("127.0.0.1:0").unwrap(), appointed: false };
        legacy.keep("relay", &own).unwrap();
        let names: Vec<_> = legacy.copies().unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["appointed-public", "tls", "relay"]);
        let (mut successor, at) = given(&["appointed-public", "tls", "relay"], true);
        assert_eq!(taken(&mut successor, "public", elsewhere), Some(at[0]), "wherever our configuration wants it");
        assert_eq!(taken(&mut successor, "tls", elsewhere), None);
    }

    #[test]
    fn what_is_kept_can_be_handed_on_until_it_is_closed() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let legacy = Legacy::default();
        let taken = Taken { socket, appointed: false };
        legacy.keep("public", &taken).unwrap();
        let copies = legacy.copies().unwrap();
        drop(taken);
        legacy.close();
        assert!(std::net::TcpStream::connect(address).is_ok(), "the copy listens");
        drop(copies);
        assert!(std::net::TcpStream::connect(address).is_err());
    }
}
