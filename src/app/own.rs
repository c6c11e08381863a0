//! Own tickets at the start (S36): they are read from the file, and their images fetched before somebody asks.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::task::JoinSet;

use super::Surroundings;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::proxy::Shared;
use crate::server::drain::Drain;
use crate::store::{NoStore, Record, Store, Wanted};
use crate::ticket::Ticket;

/// Images that are fetched at once: few enough that whoever asks meanwhile finds room beside them.
const AT_ONCE: usize = 8;

/// Bytes of an image under way, its overhead included, if those that are held are not larger: WeChat's have 28 KB.
const IMAGE: u64 = 30 * 1024;

/// Opens the file that `config` names, if it names one, and reads it.
pub(super) fn open(
    config: &Config,
    around: &Surroundings,
    metrics: &Arc<Metrics>,
) -> Result<(Option<Arc<Store>>, Vec<Record>), NoStore> {
    let Some(path) = config.tickets.store.clone() else { return Ok((None, Vec::new())) };
    let wanted = Wanted { path, most: config.tickets.max_own, patience: around.store_patience };
    let told = wanted.path.display().to_string();
    let (store, records) = Store::open(wanted, around.clock.clone(), Arc::clone(metrics))?;
    tracing::info!(path = told, tickets = records.len(), "own tickets were read");
    Ok((Some(Arc::new(store)), records))
}

/// Takes `records` as own; returns those that are alive, the newest first.
pub(super) fn restore(shared: &Shared, records: &[Record]) -> Vec<Ticket> {
    shared.fills.restore(records);
    let alive = records.iter().map(|record| &record.ticket).filter(|ticket| !shared.fills.is_over(ticket));
    alive.cloned().collect()
}

/// Fetches the images of `tickets`, as many as there is room for, within the origin's budget alone. Ends with a drain: whoever
/// comes after that goes elsewhere.
pub(super) async fn warm(tickets: Vec<Ticket>, shared: Arc<ArcSwap<Shared>>, drain: Drain) {
    tokio::select! {
        () = warm_all(tickets, shared) => {}
        () = drain.announcement() => tracing::info!("images of own tickets are fetched no more: the drain has begun"),
    }
}

async fn warm_all(tickets: Vec<Ticket>, shared: Arc<ArcSwap<Shared>>) {
    let all = tickets.len();
    if all == 0 {
        return;
    }
    let (mut left, mut under_way, mut warmed) = (tickets.into_iter(), JoinSet::new(), 0_usize);
    loop {
        while under_way.len() < AT_ONCE && has_room(&shared.load(), under_way.len()) {
            let Some(ticket) = left.next() else { break };
            let shared = shared.load_full();
            under_way.spawn(async move { shared.fills.warm(&ticket).await.is_held() });
        }
        match under_way.join_next().await {
            Some(held) => warmed += usize::from(held.unwrap_or(false)),
            None => break,
        }
    }
    let for_want_of_room = left.len();
    tracing::info!(
        warmed,
        for_want_of_room,
        failed = all - warmed - for_want_of_room,
        "images of own tickets were fetched"
    );
}

/// Whether one more than `under_way` finds room: otherwise it would push out the newest, which came first.
fn has_room(shared: &Shared, under_way: usize) -> bool {
    shared.cache.tend();
    let held = shared.cache.own_images();
    let each = held.bytes.checked_div(held.entries).unwrap_or(0).max(IMAGE);
    shared.cache.has_room_for_own((under_way as u64 + 1) * each)
}
