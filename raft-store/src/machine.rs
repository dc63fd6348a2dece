//! The program's state machine, and how it is driven as openraft's `RaftStateMachine`.
//!
//! `apply` runs on a task of the runtime. It reads through RocksDB's memtables and block cache and
//! writes to a memtable without WAL: both are a matter of µs as long as writers do not stall, which
//! the options of the data instance are chosen for (`options.rs`). Flushes, and the copying, taking
//! in and deleting of snapshots, run on threads for blocking work.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};

use crate::data::{Applied, DataGroup, blocking, encode_record};
use crate::error::{Fatal, StoreError};
use crate::fork::{self, Owner};
use crate::keys::DataKey;
use crate::read::View;
use crate::snapshot::{Sink, SnapshotData, Source};
use crate::store::Inner;
use crate::txn::Txn;
use crate::types::{LogId, Replies, SnapshotMeta, StoredMembership, TypeConfig};

/// Size at which the batch of an `apply` call is written before the call ends, in bytes.
const BATCH_MAX_BYTES: usize = 8 << 20;

type Snapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotData>;

/// A deterministic state machine over the cells of one group.
pub trait Machine: Send + Sync + 'static {
    /// Applies one committed command within `txn`, whose reads see every earlier write.
    ///
    /// The same commands must give the same writes and replies on every replica: no clock, no
    /// randomness, no memory that [`Machine::reload`] could not rebuild from the cells. A command
    /// may be applied again after a crash, onto the state as it was before it. `want_replies` is
    /// false where nobody waits. An error ends this replica.
    fn apply(&mut self, txn: &mut Txn<'_>, command: &Bytes, want_replies: bool) -> Result<Replies, Fatal>;

    /// The whole state is another one: the store was opened, or a snapshot installed.
    fn reload(&mut self, view: &View) -> Result<(), Fatal>;

    /// The writes of the commands applied so far can be read by others now. The replies to these
    /// commands go out after this.
    fn committed(&mut self) {}

    /// Which keys of the space are the group's own. Asked after [`Machine::reload`] and after each
    /// [`Machine::apply`]; all of them, unless the group was forked or is a fork.
    fn owned(&self) -> Owner {
        None
    }
}

/// A group's state machine for openraft. One per group at a time.
pub struct StateMachine<M> {
    store: Arc<Inner>,
    group: Arc<DataGroup>,
    machine: M,
}

impl<M: Machine> StateMachine<M> {
    pub(crate) fn open(store: Arc<Inner>, group: Arc<DataGroup>, machine: M) -> Result<Self, StoreError> {
        if !group.claim() {
            return Err(StoreError::InUse(group.id));
        }
        let mut opened = StateMachine { store, group, machine };
        opened.reload().map_err(|fatal| StoreError::Engine {
            verb: "load the state machine",
            reason: fatal.to_string(),
        })?;
        Ok(opened)
    }

    /// The program's part.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    fn reload(&mut self) -> Result<(), Fatal> {
        let view = View::new(self.store.data.clone(), self.group.space()?);
        self.machine.reload(&view)?;
        self.group.set_owner(self.machine.owned());
        Ok(())
    }

    /// Writes the batch with the group's record, shows it, and answers.
    fn commit(&mut self, txn: Txn<'_>, applied: &Applied, waiting: &mut Waiting) -> Result<(), StoreError> {
        {
            let _commit = self.group.commit.lock();
            let space = self.group.space()?;
            let forks = txn.forks;
            let (mut batch, births) = txn.into_parts();
            batch.put(DataKey::Record(self.group.id).encode(), encode_record(space.id, applied));
            let born = || births.iter().filter_map(|birth| Some((&birth.group, birth.base.as_ref()?)));
            for (child, base) in born() {
                batch.put(DataKey::Record(child.id).encode(), encode_record(space.id, base));
            }
            self.store.data.write(batch)?;
            for (child, base) in born() {
                // Its commit lock guards nothing yet: nobody can open it while it is claimed.
                child.show(base.clone(), Some(space.clone()));
                self.store.data.counters.forks.fetch_add(1, Ordering::Relaxed);
            }
            self.group.show(applied.clone(), None);
            self.group.set_owner(self.machine.owned());
            if forks {
                space.set_litter(Some(Vec::new()));
            }
        }
        self.machine.committed();
        for (responder, replies) in waiting.drain(..) {
            responder.send(replies);
        }
        Ok(())
    }

    /// Record and cells at one moment.
    fn source(&self) -> Result<Source, StoreError> {
        let _commit = self.group.commit.lock();
        let view = View::new(self.store.data.clone(), self.group.space()?);
        Ok(Source::new(self.group.id, self.group.applied().meta(), view, self.machine.owned()))
    }
}

impl<M> Drop for StateMachine<M> {
    fn drop(&mut self) {
        self.group.release();
    }
}

type Waiting = Vec<(ApplyResponder<TypeConfig>, Replies)>;

fn stop(fatal: Fatal) -> io::Error {
    io::Error::other(fatal)
}

impl<M: Machine> RaftStateMachine<TypeConfig> for StateMachine<M> {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        self.group.space()?;
        let applied = self.group.applied();
        Ok((applied.last, StoredMembership::clone(&applied.membership)))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let store = self.store.clone();
        let space = self.group.space()?;
        let mut applied = self.group.applied();
        let mut waiting = Waiting::new();
        let mut txn = Txn::new(&store, space.id);
        let mut pending = false;
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            if applied.last.as_ref().is_some_and(|last| last.index >= entry.log_id.index) {
                return Err(stop(Fatal(format!(
                    "group {}: entry {} came twice",
                    self.group.id, entry.log_id
                ))));
            }
            applied.last = Some(entry.log_id);
            let replies = match entry.payload {
                EntryPayload::Blank => Replies::default(),
                EntryPayload::Normal(command) => {
                    let replies = self.machine.apply(&mut txn, &command.0, responder.is_some());
                    for birth in txn.births.iter_mut().filter(|birth| birth.base.is_none()) {
                        birth.base = Some(fork::base(&entry.log_id, &applied.membership));
                    }
                    replies.map_err(stop)?
                }
                EntryPayload::Membership(membership) => {
                    applied.membership = Arc::new(StoredMembership::new(Some(entry.log_id), membership));
                    Replies::default()
                }
            };
            waiting.extend(responder.map(|responder| (responder, replies)));
            pending = true;
            if txn.bytes() >= BATCH_MAX_BYTES {
                let full = std::mem::replace(&mut txn, Txn::new(&store, space.id));
                self.commit(full, &applied, &mut waiting)?;
                pending = false;
            }
        }
        if pending {
            self.commit(txn, &applied, &mut waiting)?;
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<SnapshotBuilder> {
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder(self.source())
    }

    /// Accepts a received snapshot, and also an outgoing one, which it copies.
    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        let staged = match snapshot {
            SnapshotData::Staged(staged) => staged,
            SnapshotData::Source(source) => {
                let mut sink = Sink::new(self.store.clone(), self.group.id, meta.clone());
                while !sink.is_complete() {
                    sink.push(source.chunk(sink.position()).await?).await?;
                }
                sink.finish().await?
            }
        };
        let group = self.group.clone();
        let meta = meta.clone();
        blocking("install a snapshot", move || staged.install(&group, &meta)).await?;
        self.reload().map_err(stop)
    }

    /// A fresh snapshot every time: nothing is copied until it is streamed.
    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let source = self.source()?;
        if source.meta().last_log_id.is_none() {
            return Ok(None);
        }
        Ok(Some(Snapshot { meta: source.meta().clone(), snapshot: SnapshotData::Source(source) }))
    }
}

/// Notes a log id at which a snapshot can be had; nothing is copied, and nothing made durable: to purge
/// the log does that, where it is still to be done.
pub struct SnapshotBuilder(Result<Source, StoreError>);

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let source = self.0.clone()?;
        Ok(Snapshot { meta: source.meta().clone(), snapshot: SnapshotData::Source(source) })
    }
}
