//! Groups that come into being out of others, without a copy: what they are, that they are born once,
//! and that each has its own part of the space only. What a SIGKILL leaves is in `forks_crash.rs`.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use openraft::storage::{RaftLogReader, RaftLogStorage, RaftStateMachine};
use openraft::{EntryPayload, Membership};
use raft_store::types::{Entry, Node};
use raft_store::{SnapshotData, Source, StateMachine, Store};
use tempfile::TempDir;

use crate::common::part::{Cells, Part, Step, begin, entry, part, state};
use crate::common::{append, apply, log_id, open, vote};

mod common;

/// The counters that a snapshot hands over, by a copy in another store.
async fn copied(group: u64, source: Source) -> Cells {
    let store = Store::open(common::small(raft_store::Options::in_memory())).unwrap();
    let mut copy = store.machine(group, part(group)).unwrap();
    let meta = source.meta().clone();
    copy.install_snapshot(&meta, SnapshotData::Source(source)).await.unwrap();
    let found = common::cells(&store.reader(group));
    assert!(found.keys().all(|key| key[0] == b'd' || *key == common::part::meta(group)), "{found:?}");
    state(&copy, &store, group)
}

async fn source(machine: &mut StateMachine<Part>) -> Source {
    let snapshot = machine.get_current_snapshot().await.unwrap().unwrap();
    let SnapshotData::Source(source) = snapshot.snapshot else { panic!("not a source") };
    source
}

fn members(index: u64) -> Entry {
    let nodes: BTreeMap<u64, Node> = [(1, Node::default()), (2, Node::default())].into();
    let membership = Membership::new_with_defaults(vec![[1, 2].into()], nodes.keys().copied());
    Entry { log_id: log_id(7, index), payload: EntryPayload::Membership(membership) }
}

/// Group 1 with counters 0 to 199, forked at 100 into group 2 by entry 4.
async fn forked(store: &Store) -> StateMachine<Part> {
    let mut parent = store.machine(1, part(1)).unwrap();
    let adds: Vec<Step> = (0..200).map(|key| Step::Add(key, u64::from(key) + 1)).collect();
    let fork = [Step::Add(150, 1), Step::Fork(2, 100), Step::Add(50, 1)];
    let after = entry(7, 5, &[Step::Add(99, 1)]);
    apply(&mut parent, vec![members(1), entry(7, 2, &adds), entry(7, 3, &[]), entry(7, 4, &fork), after])
        .await
        .unwrap();
    assert_eq!(parent.machine().born, Some(true));
    parent
}

fn lower() -> Cells {
    (0..100).map(|key| (key, u64::from(key) + 1 + u64::from(key == 50 || key == 99))).collect()
}

fn upper() -> Cells {
    (100..200).map(|key| (key, u64::from(key) + 1 + u64::from(key == 150))).collect()
}

#[tokio::test]
async fn a_fork_is_a_group_of_its_own_and_no_copy() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let mut parent = forked(&store).await;
    assert_eq!(store.groups(), [1, 2]);
    assert_eq!((store.stats().forks_total, store.stats().installs_total), (1, 0));
    let (mut log, mut child) = begin(&store, 2).await;
    let (applied, membership) = child.applied_state().await.unwrap();
    let applied = applied.unwrap();
    assert_eq!((applied.leader_id.term, applied.leader_id.node_id, applied.index), (0, 0, 4));
    assert_eq!(*membership.log_id(), Some(applied), "of no term of the parent's");
    assert_eq!(membership.membership().voter_ids().collect::<Vec<_>>(), [1, 2]);
    assert_eq!((state(&parent, &store, 1), state(&child, &store, 2)), (lower(), upper()));

    // It has a log of its own from there on, and nothing that either does is seen by the other.
    log.save_vote(&vote(1, 1)).await.unwrap();
    let more = entry(1, 5, &[Step::Add(100, 10)]);
    append(&mut log, vec![more.clone()]).await.unwrap();
    apply(&mut child, vec![more]).await.unwrap();
    apply(&mut parent, vec![entry(7, 6, &[Step::Add(0, 10)])]).await.unwrap();
    let (mut low, mut high) = (lower(), upper());
    *low.get_mut(&0).unwrap() += 10;
    *high.get_mut(&100).unwrap() += 10;
    assert_eq!((state(&parent, &store, 1), state(&child, &store, 2)), (low.clone(), high.clone()));
    assert_eq!(store.trim(1000).unwrap(), 0, "nothing there is nobody's");

    // Each half goes to another store as a snapshot of itself.
    assert_eq!(copied(1, source(&mut parent).await).await, low);
    assert_eq!(copied(2, source(&mut child).await).await, high);

    // A restart changes nothing.
    drop((parent, child, log));
    store.shutdown().unwrap();
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.groups(), [1, 2]);
    let (_, parent) = begin(&store, 1).await;
    let (mut log, mut child) = begin(&store, 2).await;
    assert_eq!((state(&parent, &store, 1), state(&child, &store, 2)), (low.clone(), high));
    assert_eq!(log.read_vote().await.unwrap(), Some(vote(1, 1)));

    // What the child leaves behind is removed while an earlier reader still sees it.
    let late = source(&mut child).await;
    drop((log, child));
    store.drop_group(2).unwrap();
    assert!(store.trim(1000).unwrap() > 0);
    assert_eq!(store.trim(1000).unwrap(), 0);
    assert_eq!(copied(2, late).await.len(), 100);
    let left: Vec<_> = common::cells(&store.reader(1)).into_keys().collect();
    assert_eq!(left.len(), 101, "100 counters and the range: {left:?}");
    assert_eq!(state(&parent, &store, 1), low);
}

#[tokio::test]
async fn a_space_stays_while_anybody_has_it() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let parent = forked(&store).await;
    drop(parent);
    // The parent goes first.
    store.drop_group(1).unwrap();
    store.flush().unwrap();
    let (log, child) = begin(&store, 2).await;
    assert_eq!(state(&child, &store, 2), upper());
    while store.trim(10).unwrap() > 0 {}
    assert_eq!(common::cells(&store.reader(2)).len(), 101);
    assert_eq!(state(&child, &store, 2), upper());
    drop((log, child));
    store.shutdown().unwrap();
    drop(store);
    let store = open(dir.path());
    let (_log, mut child) = begin(&store, 2).await;
    assert_eq!(state(&child, &store, 2), upper());
    // And a fork of the fork.
    apply(&mut child, vec![entry(1, 5, &[Step::Fork(3, 150)])]).await.unwrap();
    let (_, third) = begin(&store, 3).await;
    assert_eq!(state(&third, &store, 3), upper().split_off(&150));
}

#[tokio::test]
async fn a_child_that_is_or_was_here_is_not_born_again() {
    let fork = |index| entry(7, index, &[Step::Fork(2, 100)]);
    let add = entry(7, 1, &[Step::Add(1, 1), Step::Add(150, 1)]);
    // Somebody has opened it, waiting for its state from elsewhere.
    let store = Store::open(common::small(raft_store::Options::in_memory())).unwrap();
    let waiting = store.machine(2, part(2)).unwrap();
    let mut parent = store.machine(1, part(1)).unwrap();
    apply(&mut parent, vec![add.clone(), fork(2)]).await.unwrap();
    assert_eq!(parent.machine().born, Some(false));
    assert_eq!(store.stats().forks_total, 0);
    // The parent no longer owns it all the same, and what nobody owns goes.
    assert_eq!(state(&parent, &store, 1), [(1, 1)].into());
    assert_eq!(store.trim(10).unwrap(), 1);
    drop(waiting);
    // It has voted, or was here and only its vote, or not even that, is left.
    for case in 0..3 {
        let store = Store::open(common::small(raft_store::Options::in_memory())).unwrap();
        let mut log = store.log(2);
        if case == 0 || case == 1 {
            log.save_vote(&vote(3, 2)).await.unwrap();
        }
        drop(log);
        if case > 0 {
            store.drop_group(2).unwrap();
        }
        let mut parent = store.machine(1, part(1)).unwrap();
        apply(&mut parent, vec![add.clone(), fork(2)]).await.unwrap();
        assert_eq!(parent.machine().born, Some(false), "{case}");
    }
    // It was just forked, in the same batch or an earlier one.
    let store = Store::open(common::small(raft_store::Options::in_memory())).unwrap();
    let mut parent = store.machine(1, part(1)).unwrap();
    apply(&mut parent, vec![add.clone(), fork(2)]).await.unwrap();
    assert_eq!(parent.machine().born, Some(true));
    apply(&mut parent, vec![fork(3)]).await.unwrap();
    assert_eq!(parent.machine().born, Some(false));
}
