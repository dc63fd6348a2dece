//! The pure machines on top of the store: what turns an entry's bytes into commands, and a machine's
//! changes into the store's writes.

use std::{ops::ControlFlow, sync::Arc};

use bytes::Bytes;
use parking_lot::{RwLock, RwLockReadGuard};
use raft_store::{Fatal, StoreError, Txn, View, types::Replies};
use tokio::sync::watch;

use super::batch;
use crate::{
    command,
    config::Partitioner,
    coordinator::{self, machine::State},
    ids::Epoch,
    shard::{
        self,
        view::{Overlay, Visit},
    },
};

/// The state machine of a group.
pub enum Machine {
    /// Cells of an arc of the ring.
    Shard {
        /// How rows become positions, in the whole cluster.
        partitioner: Partitioner,
    },
    /// The coordinators' map.
    Coordinator(Arc<Shared>),
}

impl Machine {
    /// For a shard.
    pub fn shard(partitioner: Partitioner) -> Self {
        Machine::Shard { partitioner }
    }

    /// For the coordinator group; its state can be read through `shared`.
    pub fn coordinator(shared: Arc<Shared>) -> Self {
        Machine::Coordinator(shared)
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
            Machine::Shard { partitioner } => {
                let below = Below(&*txn);
                let mut state = Overlay::new(&below);
                for command in &commands {
                    // What cannot be read is left out on every replica alike, and says so.
                    let reply = match postcard::from_bytes::<command::Command>(command) {
                        Ok(command) => {
                            let reply = shard::machine::apply_to(&mut state, *partitioner, &command, at);
                            encode(&reply.map_err(fatal)?)?
                        }
                        Err(_) => Bytes::new(),
                    };
                    if want_replies {
                        replies.push(reply);
                    }
                }
                for (key, value) in state.into_writes().0 {
                    match value {
                        Some(value) => txn.put(&key, value),
                        None => txn.delete(&key),
                    }
                }
            }
            Machine::Coordinator(shared) => {
                let mut state = shared.state.write();
                for command in &commands {
                    let reply = match postcard::from_bytes::<coordinator::command::Command>(command) {
                        Ok(command) => {
                            let (reply, changed) = state.apply(&command, at);
                            for record in changed.iter() {
                                match state.write(record) {
                                    (key, Some(value)) => txn.put(&key, value),
                                    (key, None) => txn.delete(&key),
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
        if let Machine::Coordinator(shared) = self {
            let records: Vec<_> = view.scan(&[], None).collect::<Result<_, _>>().map_err(fatal)?;
            *shared.state.write() = State::from_records(records).map_err(fatal)?;
            shared.publish();
        }
        Ok(())
    }

    fn committed(&mut self) {
        if let Machine::Coordinator(shared) = self {
            shared.publish();
        }
    }
}

fn encode(reply: &impl serde::Serialize) -> Result<Bytes, Fatal> {
    postcard::to_stdvec(reply).map(Bytes::from).map_err(fatal)
}

/// The store's transaction as the shard machine sees it.
struct Below<'t, 'db>(&'t Txn<'db>);

impl shard::view::View for Below<'_, '_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, shard::view::Fatal> {
        self.0.get(key).map_err(unreadable)
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), shard::view::Fatal> {
        walk(self.0.scan(from, Some(to)), visit)
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
