//! A machine that keeps counters of a range of keys and can be forked.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use openraft::storage::{RaftLogStorage, RaftStateMachine};
use raft_store::types::{Entry, Replies};
use raft_store::{Fatal, GroupLog, Machine, Owned, Owner, Run, StateMachine, Store, Txn, View};
use serde::{Deserialize, Serialize};

/// What a group has: its keys, which are bytes, and their counters.
pub type Cells = BTreeMap<u8, u64>;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Step {
    Add(u8, u64),
    /// The keys from here on are the child's.
    Fork(u64, u8),
}

/// Keeps counters `d key` of a range of keys, which is in `m group`.
pub struct Part {
    group: u64,
    pub range: Option<(u8, u8)>,
    /// What the last fork said.
    pub born: Option<bool>,
}

pub fn part(group: u64) -> Part {
    Part { group, range: None, born: None }
}

pub fn meta(group: u64) -> Vec<u8> {
    [b"m", group.to_be_bytes().as_slice()].concat()
}

impl Machine for Part {
    fn apply(&mut self, txn: &mut Txn<'_>, command: &Bytes, _: bool) -> Result<Replies, Fatal> {
        let steps: Vec<Step> = postcard::from_bytes(command).map_err(|error| Fatal(error.to_string()))?;
        for step in steps {
            match step {
                Step::Add(key, amount) => {
                    let (low, high) = self.range.unwrap_or((0, u8::MAX));
                    assert!(low <= key && key < high, "{key} is not of group {}", self.group);
                    let old = txn.get(&[b'd', key])?;
                    let old = old.map_or(0, |old| u64::from_be_bytes(old[..].try_into().unwrap()));
                    txn.put([b'd', key], old.wrapping_add(amount).to_be_bytes().to_vec());
                }
                Step::Fork(child, at) => {
                    let (low, high) = self.range.unwrap_or((0, u8::MAX));
                    self.range = Some((low, at));
                    txn.put(meta(self.group), vec![low, at]);
                    let born = txn.fork(child);
                    if born {
                        txn.put(meta(child), vec![at, high]);
                    }
                    self.born = Some(born);
                }
            }
        }
        Ok(Replies::default())
    }

    fn reload(&mut self, view: &View) -> Result<(), Fatal> {
        self.range = view.get(&meta(self.group))?.map(|range| (range[0], range[1]));
        Ok(())
    }

    fn owned(&self) -> Owner {
        let (group, range) = (self.group, self.range?);
        Some(Arc::new(Range { group, range }))
    }
}

struct Range {
    group: u64,
    range: (u8, u8),
}

impl Owned for Range {
    fn run(&self, key: &[u8]) -> Run {
        let (low, high) = (vec![b'd', self.range.0], vec![b'd', self.range.1]);
        let (own, behind) = (meta(self.group), meta(self.group + 1));
        let run = |owned, end| Run { owned, end };
        match key {
            key if key < low.as_slice() => run(false, Some(low)),
            key if key < high.as_slice() => run(true, Some(high)),
            key if key < own.as_slice() => run(false, Some(own)),
            key if key < behind.as_slice() => run(true, Some(behind)),
            _ => run(false, None),
        }
    }
}

/// The counters that are a group's.
pub fn state(machine: &StateMachine<Part>, store: &Store, group: u64) -> Cells {
    let (low, high) = machine.machine().range.unwrap_or((0, u8::MAX));
    let found = super::cells(&store.reader(group)).into_iter();
    let own = found.filter(|(key, _)| key[0] == b'd' && low <= key[1] && key[1] < high);
    own.map(|(key, value)| (key[1], u64::from_be_bytes(value[..].try_into().unwrap()))).collect()
}

pub fn entry(term: u64, index: u64, steps: &[Step]) -> Entry {
    super::entry(term, index, raft_store::types::Command(postcard::to_stdvec(steps).unwrap().into()))
}

/// A group whose log is behind its state, as openraft takes it up.
pub async fn begin(store: &Store, group: u64) -> (GroupLog, StateMachine<Part>) {
    let mut log = store.log(group);
    let mut machine = store.machine(group, part(group)).unwrap();
    let applied = machine.applied_state().await.unwrap().0;
    if log.get_log_state().await.unwrap().last_log_id.map(|id| id.index) < applied.map(|id| id.index) {
        log.purge(applied.unwrap()).await.unwrap();
    }
    (log, machine)
}
