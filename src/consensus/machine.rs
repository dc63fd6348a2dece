//! The pure machines on top of the store: what turns an entry's bytes into commands, and a machine's
//! changes into the store's writes.

use std::{ops::ControlFlow, sync::Arc};

use bytes::Bytes;
use parking_lot::{RwLock, RwLockReadGuard};
use raft_store::{Fatal, StoreError, Txn, View, types::Replies};
use tokio::sync::{Notify, watch};

use super::batch;
use crate::{
    command::{At, Proposal, Reply, Split},
    coordinator::{self, machine::State},
    ids::{Epoch, GroupId, Span},
    shard::{
        self, Shard,
        view::{Overlay, State as _, Visit},
    },
};

/// The state machine of a group.
pub enum Machine {
    /// Cells of an arc of the ring.
    Shard {
        /// Which one.
        shard: Shard,
        /// Its arc, as its state says; `None` before its first split.
        arc: Option<Span>,
        /// The arc at the last commit.
        told: Option<Span>,
        /// The shard's counters as the last entry left them: each entry begins with a look at them.
        counters: Option<Bytes>,
        /// Told when a split has brought a new group into being here.
        forked: Arc<Notify>,
    },
    /// The coordinators' map.
    Coordinator(Arc<Shared>),
}

impl Machine {
    /// For a shard.
    pub fn shard(shard: Shard, forked: Arc<Notify>) -> Self {
        Machine::Shard { shard, arc: None, told: None, counters: None, forked }
    }

    /// For the coordinator group; its state can be read through `shared`.
    pub fn coordinator(shared: Arc<Shared>) -> Self {
        Machine::Coordinator(shared)
    }
}

/// What a shard owns of the place that it shares with those it was parted from.
struct Part {
    group: GroupId,
    arc: Span,
}

impl raft_store::Owned for Part {
    fn run(&self, key: &[u8]) -> raft_store::Run {
        let (owned, end) = shard::keys::run(key, self.group, self.arc);
        raft_store::Run { owned, end }
    }
}

/// The coordinator group's state, in memory, where the rest of the node reads it.
#[derive(Debug)]
pub struct Shared {
    state: RwLock<State>,
    epoch: watch::Sender<Epoch>,
}

impl Shared {
    /// Before the cluster is founded.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { state: RwLock::default(), epoch: watch::Sender::new(Epoch(0)) })
    }

    /// The applied state. Not to be held across an await.
    pub fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read()
    }

    /// The epoch of the map, as it changes.
    pub fn epochs(&self) -> watch::Receiver<Epoch> {
        self.epoch.subscribe()
    }

    fn publish(&self) {
        let epoch = self.state.read().map().map_or(Epoch(0), |map| map.epoch);
        self.epoch.send_if_modified(|current| std::mem::replace(current, epoch) != epoch);
    }
}

fn fatal(error: impl std::fmt::Display) -> Fatal {
    Fatal(error.to_string())
}

impl raft_store::Machine for Machine {
    fn apply(&mut self, txn: &mut Txn<'_>, entry: &Bytes, want_replies: bool) -> Result<Replies, Fatal> {
        let (at, commands) = batch::split(entry).map_err(fatal)?;
        let mut replies = Vec::with_capacity(if want_replies { commands.len() } else { 0 });
        match self {
            Machine::Shard { shard, arc, counters, .. } => {
                let meta = shard::keys::meta(shard.group);
                let mut cells = Cells { txn, meta: &meta, counters, counted: false };
                for command in &commands {
                    // What cannot be read is left out on every replica alike, and says so.
                    let reply = match postcard::from_bytes::<Proposal<&str, &[u8]>>(command) {
                        Ok(Proposal::Command(command)) => {
                            shard::machine::apply_to(&mut cells, *shard, &command, at).map_err(fatal)?
                        }
                        Ok(Proposal::Split(split)) => {
                            let done = cells.split(*shard, &split, at)?;
                            if done {
                                *arc = shard::arc(&cells, *shard).map_err(fatal)?;
                            }
                            Reply::Split(done)
                        }
                        Err(_) => {
                            replies.extend(want_replies.then(Bytes::new));
                            continue;
                        }
                    };
                    if want_replies {
                        replies.push(encode(&reply)?);
                    }
                }
                cells.write_counters();
            }
            Machine::Coordinator(shared) => {
                let mut state = shared.state.write();
                for command in &commands {
                    let reply = match postcard::from_bytes::<coordinator::command::Command>(command) {
                        Ok(command) => {
                            let (reply, changed) = state.apply(&command, at);
                            for record in changed.iter() {
                                match state.write(record) {
                                    (key, Some(value)) => txn.put(key, value),
                                    (key, None) => txn.delete(key),
                                }
                            }
                            encode(&reply)?
                        }
                        Err(_) => Bytes::new(),
                    };
                    if want_replies {
                        replies.push(reply);
                    }
                }
            }
        }
        Ok(Replies(replies))
    }

    fn reload(&mut self, view: &View) -> Result<(), Fatal> {
        if let Machine::Shard { shard, arc, told, counters, .. } = self {
            *counters = None;
            *arc = shard::arc(&ShardView(view.clone()), *shard).map_err(fatal)?;
            *told = *arc;
        }
        if let Machine::Coordinator(shared) = self {
            let records: Vec<_> = view.scan(&[], None).collect::<Result<_, _>>().map_err(fatal)?;
            *shared.state.write() = State::from_records(records).map_err(fatal)?;
            shared.publish();
        }
        Ok(())
    }

    fn committed(&mut self) {
        match self {
            Machine::Shard { arc, told, forked, .. } if *told != *arc => {
                *told = *arc;
                forked.notify_one();
            }
            Machine::Shard { .. } => {}
            Machine::Coordinator(shared) => shared.publish(),
        }
    }

    fn owned(&self) -> raft_store::Owner {
        match self {
            Machine::Shard { shard, arc, .. } => {
                let part = arc.map(|arc| Part { group: shard.group, arc });
                part.map(|part| Arc::new(part) as Arc<dyn raft_store::Owned>)
            }
            Machine::Coordinator(_) => None,
        }
    }
}

fn encode(reply: &impl serde::Serialize) -> Result<Bytes, Fatal> {
    postcard::to_stdvec(reply).map(Bytes::from).map_err(fatal)
}

/// The store's transaction as the shard machine sees it.
struct Cells<'t, 'db> {
    txn: &'t mut Txn<'db>,
    /// The key of the shard's counters …
    meta: &'t [u8],
    /// … and what stands there, where that is known.
    counters: &'t mut Option<Bytes>,
    /// They have changed: each command of an entry changes them, and the entry writes them once.
    counted: bool,
}

impl Cells<'_, '_> {
    /// The last thing to be done with an entry.
    fn write_counters(self) {
        if self.counted
            && let Some(counters) = self.counters
        {
            self.txn.put(self.meta, counters.clone());
        }
    }

    /// Applies a split; whether it was done.
    fn split(&mut self, shard: Shard, split: &Split, at: At) -> Result<bool, Fatal> {
        let mut state = Overlay::new(self);
        let done = shard::split(&mut state, shard, split, at).map_err(fatal)?;
        let writes = state.into_writes().0;
        // What is the child's alone is of no use where it gets its state from elsewhere.
        let is_born = done && self.txn.fork(split.child.0);
        let is_unborn = |key: &[u8]| !is_born && shard::keys::is_own(key, split.child);
        for (key, value) in writes.into_iter().filter(|(key, _)| !is_unborn(key)) {
            match value {
                Some(value) => self.put(key, value),
                None => self.delete(key),
            }
        }
        Ok(done)
    }
}

impl shard::view::View for Cells<'_, '_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, shard::view::Fatal> {
        match &*self.counters {
            Some(counters) if key == self.meta => Ok(Some(counters.clone())),
            _ => self.txn.get(key).map_err(unreadable),
        }
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), shard::view::Fatal> {
        walk(self.txn.scan(from, Some(to)), visit)
    }
}

impl shard::view::State for Cells<'_, '_> {
    fn put(&mut self, key: Vec<u8>, value: Bytes) {
        if key == self.meta {
            *self.counters = Some(value);
            self.counted = true;
            return;
        }
        self.txn.put(key, value);
    }

    fn delete(&mut self, key: Vec<u8>) {
        self.txn.delete(key);
    }
}

/// A moment of a shard's applied state, as queries see it.
pub struct ShardView(View);

impl ShardView {
    /// The state now.
    pub fn of(reader: &raft_store::Reader) -> Result<Self, StoreError> {
        reader.view().map(Self)
    }
}

impl shard::view::View for ShardView {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, shard::view::Fatal> {
        self.0.get(key).map_err(unreadable)
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), shard::view::Fatal> {
        walk(self.0.scan(from, Some(to)), visit)
    }
}

fn unreadable(error: StoreError) -> shard::view::Fatal {
    shard::view::Fatal(error.to_string())
}

fn walk<K: AsRef<[u8]>, V: AsRef<[u8]>>(
    cells: impl Iterator<Item = Result<(K, V), StoreError>>,
    visit: &mut Visit<'_>,
) -> Result<(), shard::view::Fatal> {
    for cell in cells {
        let (key, value) = cell.map_err(unreadable)?;
        if let ControlFlow::Break(()) = visit(key.as_ref(), value.as_ref()) {
            break;
        }
    }
    Ok(())
}
