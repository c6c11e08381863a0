//! The door of every listener: whoever comes is accepted, gets a place or waits for one, and is welcomed, until the listener is to
//! go. A mistake of ours costs the connection in hand: nobody else accepts.

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::time::sleep;

use super::places::{Place, Places};
use crate::mishap::outlived;

/// How long accepting rests after it failed (out of descriptors, say): long enough not to spin, short enough to be back
/// when a descriptor is.
const REST: Duration = Duration::from_millis(100);

/// A connection that the kernel gave us.
#[derive(Debug)]
pub struct Newcomer<S> {
    /// Its socket, and what is known of it.
    pub stream: S,
    /// Who is at the other end.
    pub peer: SocketAddr,
}

/// Who stands at a door: knows where newcomers come from, and what becomes of them.
pub trait Keeper: Sync {
    /// Where newcomers come from.
    type Queue: Send;
    /// A newcomer's socket, and what is known of it.
    type Stream: Send;
    /// Who comes, as the log calls them.
    const GUESTS: &'static str;

    /// The next who comes. Nobody is lost when the future is dropped.
    fn next(&self, queue: &mut Self::Queue) -> impl Future<Output = io::Result<Newcomer<Self::Stream>>> + Send;

    /// Takes `newcomer` in; without a place it is turned away: its address has its share already.
    fn welcome(&self, newcomer: Newcomer<Self::Stream>, place: Option<Place>) -> impl Future<Output = ()> + Send;

    /// Accepting failed, and rests now.
    fn failed(&self) {}
}

/// A door, where there is place for so many.
#[derive(Debug)]
pub struct Door<K> {
    /// Who stands at it.
    pub keeper: K,
    /// Who gets a place.
    pub places: Arc<Places>,
    /// Counts mistakes of ours.
    pub panics: Counter,
}

impl<K: Keeper> Door<K> {
    /// Accepts until `closing`. Whoever was accepted is always welcomed, or returned where `closing` came before its place. Dropping
    /// the future drops who waits for one.
    pub async fn stand_open(
        &self,
        queue: &mut K::Queue,
        closing: impl Future<Output = ()> + Send,
    ) -> Option<Newcomer<K::Stream>> {
        let mut closing = pin!(closing);
        loop {
            let turn = self.accept(queue, closing.as_mut());
            if let Some(in_hand) = outlived(turn, &self.panics).await {
                return in_hand;
            }
        }
    }

    /// Each is accepted first: nobody is asked to make room for somebody who has not come.
    async fn accept(
        &self,
        queue: &mut K::Queue,
        mut closing: Pin<&mut (impl Future<Output = ()> + Send)>,
    ) -> Option<Newcomer<K::Stream>> {
        loop {
            let newcomer = tokio::select! {
                biased;
                () = &mut closing => return None,
                newcomer = self.keeper.next(queue) => newcomer,
            };
            match newcomer {
                Ok(newcomer) => tokio::select! {
                    biased;
                    place = self.places.take(newcomer.peer.ip()) => self.keeper.welcome(newcomer, place).await,
                    () = &mut closing => return Some(newcomer),
                },
                Err(error) => self.rest(&error).await,
            }
        }
    }

    /// Takes in all who came before the listener went, as soon as there is a place for each: who is in hand, then who is queued.
    /// Dropping the future drops who waits for one, and leaves the others in the queue.
    pub async fn empty(
        &self,
        in_hand: Option<Newcomer<K::Stream>>,
        queued: impl Iterator<Item = Newcomer<K::Stream>> + Send,
    ) {
        for newcomer in in_hand.into_iter().chain(queued) {
            self.let_in(newcomer).await;
        }
    }

    /// A mistake of ours costs this one, and nobody behind.
    async fn let_in(&self, newcomer: Newcomer<K::Stream>) {
        let taken_in = async {
            let place = self.places.take(newcomer.peer.ip()).await;
            self.keeper.welcome(newcomer, place).await;
        };
        let _ = outlived(taken_in, &self.panics).await;
    }

    async fn rest(&self, error: &io::Error) {
        // The peer was gone before we looked: nothing is wrong here.
        if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
            return;
        }
        self.keeper.failed();
        let guests = K::GUESTS;
        tracing::warn!(%error, "cannot accept connections of {guests}; trying again in {REST:?} (too few open files? see ulimit -n)");
        sleep(REST).await;
    }
}
