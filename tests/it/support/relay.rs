//! A broken middlebox.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A relay before a server that can swallow what its connections carry, as a broken middlebox does.
pub struct Relay {
    pub address: SocketAddr,
    /// Connections below this number are dead.
    pub dead: watch::Sender<usize>,
}

impl Relay {
    pub async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let dead = watch::channel(0).0;
        let death = dead.clone();
        tokio::spawn(async move {
            for number in 0.. {
                let Ok((mut near, _)) = listener.accept().await else { return };
                let mut dead = death.subscribe();
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(server).await.unwrap();
                    let died = async { drop(dead.wait_for(|dead| number < *dead).await) };
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => return,
                        () = died => {}
                    }
                    // Both ends stay open: nobody is told.
                    std::future::pending::<()>().await;
                });
            }
        });
        Self { address, dead }
    }
}
