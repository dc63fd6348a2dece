//! Snapshots between members: on a lane of their own, in checksummed chunks, taken up again where
//! they stopped when a connection breaks, and not faster than a bound that leaves the disk and the
//! network to everything else.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use openraft::errors::{NetworkError, StreamingError, Unreachable};
use parking_lot::Mutex;
use raft_store::{
    CHUNK_BYTES, Chunk, Position, Sink, SnapshotData, Source, Store, StoreError, types::TypeConfig,
};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until};

use super::{
    group::Group,
    types::{Snapshot, SnapshotMeta, SnapshotResponse, Vote},
    wire::{self, Answer, method},
};
use crate::{
    ids::{GroupId, NodeId},
    peer::{CallError, Conn, Lane, Links, Peer, Reply},
};

/// What all transfers of a sender together may take of the network and of the disks, bytes a second.
const MAX_BYTES_PER_SECOND: u64 = 32 << 20;

/// The longest rest of a sender behind one chunk, as long as the chunk took: on a busy machine, or where
/// the receiver's is, chunks take longer, and less is sent.
const MAX_REST: Duration = Duration::from_millis(500);

/// The time for the answer to one chunk: it is written to disk first.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(20);

/// The time for a received snapshot to be installed.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(300);

/// Broken connections after which a transfer is given up; openraft then begins a newer one.
const MAX_BREAKS: u32 = 8;

/// The pause after a broken connection.
const BREAK_PAUSE: Duration = Duration::from_millis(200);

/// Transfers that one node receives at once; the sender of another one waits.
const MAX_ARRIVALS: usize = 8;

/// A transfer of which nothing has come for so long is forgotten.
const ARRIVAL_IDLE: Duration = Duration::from_secs(120);

/// The beginning of a transfer: what is coming, and who sends it.
#[derive(Debug, Serialize, Deserialize)]
struct Begin {
    source: u64,
    meta: SnapshotMeta,
}

/// Where the receiver wants the next chunk to begin: its number and the last key it has.
type Next = (u64, Option<Bytes>);

/// When a node may send its next chunk, of whichever transfer: one begins at a time, and as long as it
/// took comes a rest.
#[derive(Default)]
pub(super) struct Turns {
    /// Held by the transfer that is next.
    order: tokio::sync::Mutex<()>,
    turn: Mutex<Turn>,
}

#[derive(Default)]
struct Turn {
    next: Option<Instant>,
    /// What the last chunk took, at most [`MAX_REST`].
    took: Duration,
}

impl Turns {
    /// Waits until a chunk may be made and sent.
    async fn wait(&self) {
        let _order = self.order.lock().await;
        while let Some(next) = self.take(Instant::now()) {
            sleep_until(next).await;
        }
    }

    /// Takes the turn, or tells when to ask again.
    fn take(&self, now: Instant) -> Option<Instant> {
        let mut turn = self.turn.lock();
        let early = turn.next.filter(|next| *next > now);
        if early.is_none() {
            // A chunk that is never answered holds up the others no longer than that.
            turn.next = Some(now + share(CHUNK_BYTES).max(turn.took));
        }
        early
    }

    /// A chunk was made, sent and answered within this time.
    fn sent(&self, took: Duration) {
        let mut turn = self.turn.lock();
        turn.took = took.min(MAX_REST);
        turn.next = turn.next.max(Some(Instant::now() + turn.took));
    }
}

/// The time that so many bytes have by the bound.
fn share(bytes: usize) -> Duration {
    Duration::from_micros(bytes as u64 * 1_000_000 / MAX_BYTES_PER_SECOND)
}

/// Sends a snapshot and waits until it is installed.
pub(super) async fn send(
    links: &Arc<Links>,
    turns: &Turns,
    to: &Peer,
    group: GroupId,
    vote: Vote,
    snapshot: Snapshot,
) -> Result<SnapshotResponse, StreamingError<TypeConfig>> {
    let SnapshotData::Source(source) = snapshot.snapshot else {
        return Err(Unreachable::from_string("only a snapshot of this node can be sent").into());
    };
    let transfer = Transfer { links, turns, to, group, source };
    let mut breaks = 0;
    loop {
        match transfer.run(vote).await {
            Ok(response) => return Ok(response),
            Err(Stop::Disk(error)) => return Err(Unreachable::new(&error).into()),
            Err(Stop::Refused(why)) => return Err(Unreachable::from_string(why).into()),
            Err(Stop::Call(error)) if breaks == MAX_BREAKS => return Err(NetworkError::new(&error).into()),
            Err(Stop::Call(error)) => {
                tracing::info!(%group, ?to, %error, "snapshot interrupted, going on");
                breaks += 1;
                sleep_until(Instant::now() + BREAK_PAUSE).await;
            }
        }
    }
}

/// Why a run of a transfer ended early.
enum Stop {
    Call(CallError),
    Refused(String),
    Disk(StoreError),
}

struct Transfer<'a> {
    links: &'a Arc<Links>,
    turns: &'a Turns,
    to: &'a Peer,
    group: GroupId,
    source: Source,
}

impl Transfer<'_> {
    async fn run(&self, vote: Vote) -> Result<SnapshotResponse, Stop> {
        let begin = Begin { source: self.source.id(), meta: self.source.meta().clone() };
        let body = wire::message(self.group, &begin);
        let (seq, after): Next = self.ask(method::SNAPSHOT_BEGIN, body, CHUNK_TIMEOUT).await?;
        let mut position = Position { seq, after };
        loop {
            self.turns.wait().await;
            let began = Instant::now();
            let chunk = self.source.chunk(position.clone()).await.map_err(Stop::Disk)?;
            let last = chunk.last;
            let body = [&self.group.0.to_le_bytes()[..], &chunk.header(), &chunk.body].concat();
            let (seq, after): Next = self.ask(method::SNAPSHOT_CHUNK, body.into(), CHUNK_TIMEOUT).await?;
            self.turns.sent(began.elapsed());
            position = Position { seq, after };
            if last {
                break;
            }
        }
        let body = wire::message(self.group, &(vote, self.source.id()));
        self.ask(method::SNAPSHOT_END, body, INSTALL_TIMEOUT).await
    }

    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        method: u8,
        body: Bytes,
        time: Duration,
    ) -> Result<T, Stop> {
        let answer = self.links.call(self.to, Lane::Bulk, method, body, Instant::now() + time).await;
        let answer = answer.map_err(Stop::Call)?;
        match wire::read::<Answer<T>>(&answer) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(why)) => Err(Stop::Refused(why)),
            Err(malformed) => Err(Stop::Refused(malformed.to_string())),
        }
    }
}

/// What is transferred, and by whom.
type Transferred = (GroupId, NodeId);

/// The transfers that this node receives.
pub(super) struct Arrivals {
    store: Store,
    current: Mutex<HashMap<Transferred, Arc<Arrival>>>,
}

struct Arrival {
    source: u64,
    sink: tokio::sync::Mutex<Sink>,
    touched: Mutex<Instant>,
}

impl Arrivals {
    pub(super) fn new(store: Store) -> Self {
        Self { store, current: Mutex::default() }
    }

    /// Takes a sender's call.
    pub(super) fn receive(&self, group: &Arc<Group>, from: &Arc<Conn>, what: u8, body: Bytes, reply: Reply) {
        let Some(node) = from.peer().node else { return };
        let key = (group.id, node);
        match what {
            method::SNAPSHOT_BEGIN => reply.send(wire::answer(&self.begin(key, &body))),
            method::SNAPSHOT_CHUNK => {
                let arrival = self.current.lock().get(&key).cloned();
                tokio::spawn(async move {
                    reply.send(wire::answer(&match arrival {
                        Some(arrival) => arrival.take(body).await,
                        None => Err("no transfer of this snapshot is under way".into()),
                    }));
                });
            }
            method::SNAPSHOT_END => {
                let arrival = self.current.lock().remove(&key);
                let group = group.clone();
                tokio::spawn(async move { reply.send(wire::answer(&end(&group, arrival, &body).await)) });
            }
            _ => reply.send(wire::answer::<()>(&Err("no such method".into()))),
        }
    }

    fn begin(&self, key: Transferred, body: &[u8]) -> Answer<Next> {
        let begin: Begin = wire::read(body).map_err(|malformed| malformed.to_string())?;
        let mut current = self.current.lock();
        current.retain(|_, arrival| arrival.touched.lock().elapsed() < ARRIVAL_IDLE);
        if let Some(arrival) = current.get(&key)
            && arrival.source == begin.source
            && let Ok(sink) = arrival.sink.try_lock()
        {
            return Ok(next(&sink));
        }
        current.remove(&key);
        if current.len() >= MAX_ARRIVALS {
            return Err("this node receives as many snapshots as it takes at once".into());
        }
        let sink = self.store.receive_snapshot(key.0.0, begin.meta);
        let first = next(&sink);
        let arrival = Arrival {
            source: begin.source,
            sink: tokio::sync::Mutex::new(sink),
            touched: Mutex::new(Instant::now()),
        };
        current.insert(key, Arc::new(arrival));
        Ok(first)
    }
}

fn next(sink: &Sink) -> Next {
    let position = sink.position();
    (position.seq, position.after)
}

impl Arrival {
    async fn take(&self, body: Bytes) -> Answer<Next> {
        *self.touched.lock() = Instant::now();
        let chunk = Chunk::decode(body).map_err(|error| error.to_string())?;
        let mut sink = self.sink.lock().await;
        sink.push(chunk).await.map_err(|error| error.to_string())?;
        Ok(next(&sink))
    }
}

async fn end(group: &Group, arrival: Option<Arc<Arrival>>, body: &[u8]) -> Answer<SnapshotResponse> {
    let (vote, source): (Vote, u64) = wire::read(body).map_err(|malformed| malformed.to_string())?;
    let arrival =
        arrival.filter(|arrival| arrival.source == source).ok_or("the snapshot did not come whole")?;
    let arrival = Arc::into_inner(arrival).ok_or("a chunk of the snapshot is still being written")?;
    let sink = arrival.sink.into_inner();
    let meta = sink.meta().clone();
    let staged = sink.finish().await.map_err(|error| error.to_string())?;
    let snapshot = Snapshot { meta, snapshot: SnapshotData::Staged(staged) };
    group.raft.install_full_snapshot(vote, snapshot).await.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const CHUNK: Duration = Duration::from_micros(1_000_000 / 32);

    /// Sends chunks that take `takes`, and tells when each began.
    async fn transfer(turns: Arc<Turns>, chunks: usize, takes: Duration) -> Vec<Duration> {
        let start = Instant::now();
        let mut began = Vec::new();
        for _ in 0..chunks {
            turns.wait().await;
            began.push(start.elapsed());
            sleep_until(Instant::now() + takes).await;
            turns.sent(takes);
        }
        began
    }

    /// The times at which chunks began, of all transfers, between one and the next.
    async fn gaps_of(transfers: usize, chunks: usize, takes: Duration) -> Vec<Duration> {
        let turns = Arc::new(Turns::default());
        let all = (0..transfers).map(|_| tokio::spawn(transfer(turns.clone(), chunks, takes)));
        let mut began: Vec<Duration> = Vec::new();
        for one in futures_util::future::join_all(all).await {
            began.extend(one.unwrap());
        }
        began.sort_unstable();
        began.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn all_transfers_together_keep_to_the_bound() {
        for transfers in [1, 4] {
            let gaps = gaps_of(transfers, 8, Duration::from_millis(2)).await;
            assert!(gaps.iter().all(|gap| *gap >= CHUNK), "{transfers}: {gaps:?}");
            // Nor are they much slower; a paused clock goes by whole milliseconds.
            assert!(gaps.iter().all(|gap| *gap <= CHUNK * 2), "{transfers}: {gaps:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn behind_a_chunk_comes_a_rest_of_its_length() {
        let takes = Duration::from_millis(100);
        let gaps = gaps_of(1, 5, takes).await;
        assert!(gaps.iter().all(|gap| *gap >= takes * 2), "{gaps:?}");
        // Of several transfers too, once it is known how long one takes.
        let gaps = gaps_of(4, 5, takes).await;
        assert!(gaps[3..].iter().all(|gap| *gap >= takes * 2), "{gaps:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_never_answered_holds_up_the_others_for_a_moment() {
        let turns = Arc::new(Turns::default());
        turns.wait().await;
        turns.sent(Duration::from_secs(20));
        let start = Instant::now();
        // Begun, and never ended.
        turns.wait().await;
        assert!(start.elapsed() <= MAX_REST * 2);
        let began = transfer(turns, 3, Duration::ZERO).await;
        assert!(began[0] <= MAX_REST && began[2] <= MAX_REST * 3, "{began:?}");
    }
}
