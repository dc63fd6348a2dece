//! What a node does for its groups while nobody asks for anything: keeps their logs short, reclaims
//! what has expired, and notices when one of them, or the store, has failed.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use super::Node;
use crate::{
    clock,
    command::Command,
    consensus::{group::Group, log_limits::LogLimits, machine::ShardView},
    error::Error,
    router::calls::encode_command,
    shard::machine::wants_upkeep,
};

/// Between two rounds.
const INTERVAL: Duration = Duration::from_secs(2);

/// How often what was written to the logs is looked at: at the rate of a fast disk they grow meanwhile by
/// less than what is kept of them.
const LOG_INTERVAL: Duration = Duration::from_millis(250);

/// How often the disk is looked at.
const STALL_INTERVAL: Duration = Duration::from_millis(250);

/// A sync of the log that has not come back for so long: the disk limps.
const STALL_TIMEOUT: Duration = Duration::from_secs(2);

/// Ranges of cells that belong to no shard any more, removed per round.
const TRIM_RANGES: usize = 256;

/// The time for one shard to reclaim what one command may.
const RECLAIM_TIMEOUT: Duration = Duration::from_secs(2);

/// Keeps the groups in order as long as the node runs.
pub(super) async fn run(node: Arc<Node>) {
    while !node.is_stopping() {
        sleep(INTERVAL).await;
        let groups: Vec<_> = node.host.all().into_iter().filter(|group| group.is_leader()).collect();
        measure(&node, groups.clone()).await;
        let led = groups.into_iter();
        for result in join_all(led.map(reclaim)).await {
            if let Err(error) = result {
                tracing::debug!(%error, "reclaim what has expired");
            }
        }
    }
}

/// Keeps logs short: looks at them when enough was written, and in any case with every round.
pub(super) async fn shorten_logs(node: Arc<Node>, limits: LogLimits) {
    let (mut looked, mut written) = (Instant::now(), 0);
    let mut again = false;
    while !node.is_stopping() {
        sleep(LOG_INTERVAL).await;
        let now_written = node.host.store().log_bytes_total();
        if !again && looked.elapsed() < INTERVAL && now_written - written < limits.spare_bytes / 4 {
            continue;
        }
        (looked, written) = (Instant::now(), now_written);
        again = node.host.compact(&limits).await.unwrap_or_else(|error| {
            tracing::error!(%error, "shorten logs");
            false
        });
    }
}

/// Looks how large the shards led here are, and removes some of what splits have left behind.
async fn measure(node: &Node, led: Vec<Arc<Group>>) {
    let store = node.host.store().clone();
    let looked = tokio::task::spawn_blocking(move || {
        for group in led {
            if let Err(error) = group.measure() {
                tracing::debug!(group = %group.id(), %error, "measure shard");
            }
        }
        store.trim(TRIM_RANGES)
    });
    if let Ok(Err(error)) = looked.await {
        tracing::error!(%error, "trim the store");
    }
}

/// Watches the disk: a leader whose syncs do not come back holds up everyone who writes, though its
/// network is fine and nobody would stand against it. It gives its shards away and says that it is
/// not ready, until its syncs come back (D13).
pub(super) async fn watch_disk(node: Arc<Node>) {
    while !node.is_stopping() {
        sleep(STALL_INTERVAL).await;
        let pending = node.host.store().sync_pending_since();
        let stalled = pending.is_some_and(|since| since.elapsed() >= STALL_TIMEOUT);
        if node.limping.swap(stalled, Ordering::Relaxed) != stalled {
            tracing::warn!(stalled, "the disk does not finish its syncs in time");
        }
        if stalled {
            node.host.hand_over(Instant::now() + STALL_INTERVAL).await;
        }
    }
}

/// Writes reclaim expired cells as they go; where nobody writes, an empty command does.
async fn reclaim(group: Arc<Group>) -> Result<(), Error> {
    let Some(shard) = group.shard() else { return Ok(()) };
    let view = ShardView::of(group.reader()).map_err(|error| Error::Unavailable(error.to_string()))?;
    let wanted = wants_upkeep(&view, shard, clock::now());
    if wanted.map_err(|fatal| Error::Unavailable(fatal.to_string()))? {
        let nothing = Command { writes: Vec::new(), retry: None };
        group.propose(encode_command(&nothing), Instant::now() + RECLAIM_TIMEOUT).await?;
    }
    Ok(())
}

/// Returns the reason why the node cannot go on, when there is one: its store failed, or one of its
/// groups stopped by itself.
pub(super) async fn failed(node: &Arc<Node>) -> String {
    let mut store = node.host.store().failed();
    loop {
        if let Some(why) = &*store.borrow_and_update() {
            return format!("the store failed: {why}");
        }
        let stopped =
            node.host.all().into_iter().find_map(|group| Some((group.id(), group.status().stopped?)));
        if let Some((id, why)) = stopped
            && !node.is_stopping()
            && node.host.get(id).is_some()
        {
            return format!("group {id} stopped: {why}");
        }
        // A timeout is the ordinary case; an error would mean that the store is gone.
        let _ = timeout(INTERVAL, store.changed()).await;
    }
}
