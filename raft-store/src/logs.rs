//! The logs of all groups of the store, and the memory that their newest entries share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::RwLock;

use crate::error::StoreError;
use crate::log::{Loaded, LogGroup};
use crate::writer::{Done, Writer};

/// What every group may keep in its tail, whatever the number of groups, in bytes.
const TAIL_MIN_BYTES: usize = 64 << 10;

/// The bound of all tails together, shared out evenly.
pub(crate) struct TailBudget {
    cap_bytes: usize,
    used_bytes: AtomicUsize,
    groups: AtomicUsize,
}

impl TailBudget {
    fn new(cap_bytes: usize) -> TailBudget {
        TailBudget { cap_bytes, used_bytes: AtomicUsize::new(0), groups: AtomicUsize::new(0) }
    }

    pub(crate) fn join(&self) {
        self.groups.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn leave(&self) {
        self.groups.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn charge(&self, bytes: usize) {
        self.used_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn release(&self, bytes: usize) {
        self.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// What one group may keep.
    pub(crate) fn share_bytes(&self) -> usize {
        (self.cap_bytes / self.groups.load(Ordering::Relaxed).max(1)).max(TAIL_MIN_BYTES)
    }

    fn is_exceeded(&self) -> bool {
        self.used_bytes.load(Ordering::Relaxed) > self.cap_bytes
    }
}

/// The logs of all groups.
pub(crate) struct Logs {
    groups: RwLock<BTreeMap<u64, Arc<LogGroup>>>,
    budget: Arc<TailBudget>,
}

impl Logs {
    pub(crate) fn new(loaded: BTreeMap<u64, Loaded>, tail_bytes: usize) -> Logs {
        let budget = Arc::new(TailBudget::new(tail_bytes));
        let make = |(id, loaded)| (id, Arc::new(LogGroup::new(id, loaded, budget.clone())));
        let groups = loaded.into_iter().map(make).collect();
        Logs { groups: RwLock::new(groups), budget }
    }

    /// The log of a group; an empty one if there is none.
    pub(crate) fn open(&self, id: u64) -> Arc<LogGroup> {
        if let Some(group) = self.get(id) {
            return group;
        }
        let mut groups = self.groups.write();
        let make = || Arc::new(LogGroup::new(id, Loaded::default(), self.budget.clone()));
        let group = groups.entry(id).or_insert_with(make).clone();
        if self.budget.is_exceeded() {
            groups.values().for_each(|group| group.trim());
        }
        group
    }

    pub(crate) fn get(&self, id: u64) -> Option<Arc<LogGroup>> {
        self.groups.read().get(&id).cloned()
    }

    /// Groups with more than the vote of a dropped replica.
    pub(crate) fn alive(&self) -> Vec<u64> {
        self.groups.read().values().filter(|group| group.is_alive()).map(|group| group.id).collect()
    }

    /// Entries that are not purged, of all groups, about.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.groups.read().values().map(|group| group.size().bytes).sum()
    }

    pub(crate) fn tail_bytes(&self) -> usize {
        self.budget.used_bytes.load(Ordering::Relaxed)
    }

    /// Removes a log but for its vote. Old handles are refused from now on; returns when the disk
    /// says so. The caller keeps others from opening the group meanwhile.
    pub(crate) fn drop_group(&self, id: u64, writer: &Writer) -> Result<Arc<LogGroup>, StoreError> {
        let group = self.open(id);
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        group.bury(writer, Done::Thread(sender))?;
        writer.help();
        receiver.recv().unwrap_or(Err(StoreError::Closed))?;
        let successor = Arc::new(group.successor());
        self.groups.write().insert(id, successor.clone());
        Ok(successor)
    }
}
