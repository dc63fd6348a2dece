//! A small state machine and the few steps of a Raft node that the tests need.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

pub mod part;

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use openraft::EntryPayload;
use openraft::alias::LeaderIdOf;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage, RaftStateMachine};
use openraft::vote::{RaftLeaderId, RaftVote};
use raft_store::types::{Command, Entry, LogId, Replies, TypeConfig, Vote};
use raft_store::{Fatal, GroupLog, Machine, Options, Reader, Store, Txn, View};
use serde::{Deserialize, Serialize};

/// The state of a group, as a test expects it.
pub type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// One step of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Do {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
    DeleteRange(Vec<u8>, Option<Vec<u8>>),
    /// Adds to a counter: applied twice, or not at all, it shows.
    Add(Vec<u8>, u64),
    Get(Vec<u8>),
    Scan(Vec<u8>, Option<Vec<u8>>),
    Fail,
}

pub fn command(steps: &[Do]) -> Command {
    Command(postcard::to_stdvec(steps).unwrap().into())
}

/// What a step does to the model, and what it answers.
pub fn step_model(model: &mut Model, step: &Do) -> Vec<u8> {
    match step {
        Do::Put(key, value) => drop(model.insert(key.clone(), value.clone())),
        Do::Delete(key) => drop(model.remove(key)),
        Do::DeleteRange(from, to) => {
            model.retain(|key, _| key < from || to.as_ref().is_some_and(|to| key >= to))
        }
        Do::Add(key, amount) => {
            let sum = number(model.get(key).map(Vec::as_slice)).wrapping_add(*amount);
            model.insert(key.clone(), sum.to_be_bytes().to_vec());
        }
        Do::Get(key) => return postcard::to_stdvec(&model.get(key)).unwrap(),
        Do::Scan(from, to) => {
            let cells =
                model.iter().filter(|(key, _)| *key >= from && to.as_ref().is_none_or(|to| *key < to));
            return postcard::to_stdvec(&cells.collect::<Vec<_>>()).unwrap();
        }
        Do::Fail => {}
    }
    Vec::new()
}

fn number(value: Option<&[u8]>) -> u64 {
    value.and_then(|value| value.try_into().ok()).map_or(0, u64::from_be_bytes)
}

/// Executes commands of [`Do`] steps.
#[derive(Debug, Default)]
pub struct Kv {
    /// Cells at the last reload.
    pub loaded: usize,
    /// Calls of `committed`.
    pub commits: usize,
    /// The last replies.
    pub replies: Vec<Vec<u8>>,
}

impl Machine for Kv {
    fn apply(&mut self, txn: &mut Txn<'_>, command: &Bytes, _: bool) -> Result<Replies, Fatal> {
        let steps: Vec<Do> = postcard::from_bytes(command).map_err(|error| Fatal(error.to_string()))?;
        self.replies.clear();
        for step in steps {
            let mut reply = Vec::new();
            match step {
                Do::Put(key, value) => txn.put(key.as_slice(), value),
                Do::Delete(key) => txn.delete(key.as_slice()),
                Do::DeleteRange(from, to) => txn.delete_range(&from, to.as_deref())?,
                Do::Add(key, amount) => {
                    let sum = number(txn.get(&key)?.as_deref()).wrapping_add(amount);
                    txn.put(key.as_slice(), sum.to_be_bytes().to_vec());
                }
                Do::Get(key) => {
                    reply = postcard::to_stdvec(&txn.get(&key)?.map(|value| value.to_vec())).unwrap()
                }
                Do::Scan(from, to) => {
                    let mut cells = Vec::new();
                    for cell in txn.scan(&from, to.as_deref()) {
                        let (key, value) = cell?;
                        cells.push((key.to_vec(), value.to_vec()));
                    }
                    reply = postcard::to_stdvec(&cells).unwrap();
                }
                Do::Fail => return Err(Fatal("told to fail".to_owned())),
            }
            self.replies.push(reply);
        }
        Ok(Replies(self.replies.iter().cloned().map(Bytes::from).collect()))
    }

    fn reload(&mut self, view: &View) -> Result<(), Fatal> {
        self.loaded = 0;
        for cell in view.scan(&[], None) {
            cell?;
            self.loaded += 1;
        }
        Ok(())
    }

    fn committed(&mut self) {
        self.commits += 1;
    }
}

pub fn small(options: Options) -> Options {
    Options {
        block_cache_bytes: 8 << 20,
        memtable_bytes: 4 << 20,
        log_memtable_bytes: 4 << 20,
        log_tail_bytes: 0,
        queue_bytes: 4 << 20,
        ..options
    }
}

pub fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(LeaderIdOf::<TypeConfig>::new(term, 1), index)
}

pub fn vote(term: u64, node: u64) -> Vote {
    Vote::from_leader_id(LeaderIdOf::<TypeConfig>::new(term, node), false)
}

pub fn entry(term: u64, index: u64, command: Command) -> Entry {
    Entry { log_id: log_id(term, index), payload: EntryPayload::Normal(command) }
}

pub fn put(term: u64, index: u64, key: &str, value: &str) -> Entry {
    entry(term, index, command(&[Do::Put(key.into(), value.into())]))
}

/// Appends and waits for the sync.
pub async fn append(log: &mut GroupLog, entries: Vec<Entry>) -> std::io::Result<()> {
    append_later(log, entries).await?.await.unwrap()
}

/// Appends; what is returned waits for the sync.
pub async fn append_later(
    log: &mut GroupLog,
    entries: Vec<Entry>,
) -> std::io::Result<tokio::sync::oneshot::Receiver<std::io::Result<()>>> {
    use openraft::type_config::TypeConfigExt;
    let (sender, receiver) = TypeConfig::oneshot();
    log.append(entries, IOFlushed::signal(sender)).await?;
    Ok(receiver)
}

pub async fn apply<S: RaftStateMachine<TypeConfig>>(
    machine: &mut S,
    entries: Vec<Entry>,
) -> std::io::Result<()> {
    machine.apply(stream::iter(entries.into_iter().map(|entry| Ok((entry, None))))).await
}

/// Applies `from..=to` from the log.
pub async fn apply_from_log<S: RaftStateMachine<TypeConfig>>(
    machine: &mut S,
    log: &mut GroupLog,
    from: u64,
    to: u64,
) -> std::io::Result<()> {
    let entries = log.entries_stream(from..=to).await.map(|entry| entry.map(|entry| (entry, None)));
    machine.apply(Box::pin(entries)).await
}

/// The indexes that a log holds.
pub async fn indexes(log: &mut GroupLog) -> Vec<u64> {
    log.try_get_log_entries(..).await.unwrap().iter().map(|entry| entry.log_id.index).collect()
}

pub fn cells(reader: &Reader) -> Model {
    view_cells(&reader.view().unwrap())
}

pub fn view_cells(view: &View) -> Model {
    view.scan(&[], None)
        .map(|cell| cell.map(|(key, value)| (key.to_vec(), value.to_vec())).unwrap())
        .collect()
}

pub fn open(dir: &std::path::Path) -> Store {
    Store::open(small(Options::at(dir))).unwrap()
}
