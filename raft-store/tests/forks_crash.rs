//! A child process writes for groups that fork each other and is killed at a random moment: what is on
//! disk then is the parent with the child, or the parent from before the fork, and nothing that was
//! acknowledged is lost. `FORKS_SEED` repeats a run's choices.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use openraft::storage::{RaftLogReader, RaftLogStorage, RaftStateMachine};
use raft_store::types::{Entry, LogId};
use raft_store::{GroupLog, StateMachine, Store};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;

use crate::common::part::{Cells, Part, Step, begin, entry, part, state};
use crate::common::{append, apply, apply_from_log, log_id, open, vote};

mod common;

/// Each forks the next one.
const GROUPS: u64 = 9;
/// Entries of a group before it forks.
const FORK_AFTER: u64 = 25;
const ROUNDS: u32 = 48;
const ROUNDS_PER_DIR: u32 = 8;
const LINES_MAX: u32 = 250;

/// The keys of a group before and after its fork.
fn range(group: u64, forked: bool) -> (u8, u8) {
    let starts = |group: u64| (group as u8 - 1) * 20;
    (starts(group), if forked { starts(group + 1) } else { u8::MAX })
}

fn fork_index(group: u64) -> u64 {
    group * FORK_AFTER
}

/// The content of a group's entry.
fn content(group: u64, index: u64) -> Vec<Step> {
    let mut rng = SmallRng::seed_from_u64(group << 32 | index);
    let (low, high) = range(group, index > fork_index(group));
    let mut steps: Vec<Step> =
        (0..rng.random_range(1..9)).map(|_| Step::Add(rng.random_range(low..high), rng.random())).collect();
    if index == fork_index(group) && group < GROUPS {
        steps.push(Step::Fork(group + 1, range(group + 1, false).0));
    }
    steps
}

/// Takes a group's counters from one index to another.
fn advance(cells: &mut Cells, group: u64, indexes: std::ops::RangeInclusive<u64>) {
    for step in indexes.flat_map(|index| content(group, index)) {
        if let Step::Add(key, amount) = step {
            let value = cells.entry(key).or_default();
            *value = value.wrapping_add(amount);
        }
    }
}

/// What a group begins with, and the index of its first entry.
fn beginning(group: u64) -> (Cells, u64) {
    if group == 1 {
        return (Cells::new(), 1);
    }
    let (mut cells, first) = beginning(group - 1);
    advance(&mut cells, group - 1, first..=fork_index(group - 1));
    (cells.split_off(&range(group, false).0), fork_index(group - 1) + 1)
}

/// The state of a group at an index.
fn model(group: u64, upto: u64) -> Cells {
    let (mut cells, first) = beginning(group);
    advance(&mut cells, group, first..=upto);
    if upto >= fork_index(group) && group < GROUPS {
        cells.retain(|key, _| *key < range(group, true).1);
    }
    cells
}

fn say(line: std::fmt::Arguments<'_>) {
    std::io::stdout().lock().write_all(format!("@ {line}\n").as_bytes()).unwrap();
}

/// Appends, applies and forks until it is killed, as nodes do it.
async fn child(dir: &Path, seed: u64) {
    let store = open(dir);
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut groups = BTreeMap::new();
    // The first one is there from the beginning.
    for group in [1].into_iter().chain(store.groups().into_iter().filter(|group| *group != 1)) {
        groups.insert(group, take_up(&store, group).await);
    }
    loop {
        let group = *groups.keys().nth(rng.random_range(0..groups.len())).unwrap();
        let (log, machine, last) = groups.get_mut(&group).unwrap();
        let count = rng.random_range(1..6);
        let entries: Vec<Entry> =
            (*last + 1..=*last + count).map(|index| entry(1, index, &content(group, index))).collect();
        append(log, entries.clone()).await.unwrap();
        *last += count;
        say(format_args!("A {group} {last}"));
        log.save_committed(Some(log_id(1, *last))).await.unwrap();
        apply(machine, entries).await.unwrap();
        if rng.random_ratio(1, 100) {
            let store = store.clone();
            tokio::task::spawn_blocking(move || store.flush().unwrap()).await.unwrap();
        }
        let (next, last) = (group + 1, *last);
        let is_forked = last >= fork_index(group) && group < GROUPS && !groups.contains_key(&next);
        // Seldom at once: what takes it up makes it durable.
        if is_forked && rng.random_ratio(1, 40) {
            assert!(store.groups().contains(&next), "the fork made no group {next}");
            groups.insert(next, take_up(&store, next).await);
            say(format_args!("F {next}"));
        }
    }
}

/// Opens a group, and applies what its log has and its state has not.
async fn take_up(store: &Store, group: u64) -> (GroupLog, StateMachine<Part>, u64) {
    let (mut log, mut machine) = begin(store, group).await;
    log.save_vote(&vote(1, 1)).await.unwrap();
    let index = |id: Option<LogId>| id.map_or(0, |id| id.index);
    let last = index(log.get_log_state().await.unwrap().last_log_id);
    let applied = index(machine.applied_state().await.unwrap().0);
    if applied < last {
        apply_from_log(&mut machine, &mut log, applied + 1, last).await.unwrap();
    }
    (log, machine, last)
}

#[derive(Debug, Default)]
struct Tally {
    forks: usize,
    forks_again: usize,
    replayed: usize,
}

/// What must be true of the directory, whatever the moment of the kill.
async fn verify(dir: &Path, acked: &BTreeMap<u64, u64>, tally: &mut Tally) {
    let store = open(dir);
    let index = |id: Option<LogId>| id.map_or(0, |id| id.index);
    let groups = store.groups();
    for group in 1..=GROUPS {
        let case = format!("group {group} of {groups:?}");
        if !groups.contains(&group) {
            // Its parent's fork was lost with the state, and will be done again.
            let known = acked.get(&group);
            assert!(known.is_none_or(|last| *last == 0), "{case}: it was written to, up to {known:?}");
            continue;
        }
        let mut log = store.log(group);
        let mut machine = store.machine(group, part(group)).unwrap();
        let applied = index(machine.applied_state().await.unwrap().0);
        let last = index(log.get_log_state().await.unwrap().last_log_id);
        let base = if group == 1 { 0 } else { fork_index(group - 1) };
        if group > 1 {
            assert!(applied >= base, "{case}: at {applied}, before it was forked at {base}");
            tally.forks += 1;
        }
        assert!(last.max(applied) >= acked.get(&group).copied().unwrap_or(0), "{case}: entries are lost");
        assert_eq!(state(&machine, &store, group), model(group, applied), "{case}: the state at {applied}");
        let born = applied >= fork_index(group) && group < GROUPS;
        assert!(!born || groups.contains(&(group + 1)), "{case}: parent without child");
        if group > 1 && last > 0 {
            // Its base is durable before it has a log.
            assert!(log.read_vote().await.unwrap().is_some() || last == base, "{case}");
        }
        if applied < last {
            tally.replayed += 1;
            let born_before = store.stats().forks_total;
            if last > base {
                apply_from_log(&mut machine, &mut log, applied + 1, last).await.unwrap();
            }
            tally.forks_again += (store.stats().forks_total - born_before) as usize;
            assert_eq!(state(&machine, &store, group), model(group, last), "{case}: replayed to {last}");
        }
    }
    assert_eq!(*store.failed().borrow(), None);
}

#[test]
fn a_kill_leaves_parent_and_child_or_only_the_parent() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    if let Some(dir) = std::env::var_os("FORKS_CHILD_DIR") {
        std::panic::set_hook(Box::new(|info| {
            eprintln!("child: {info}");
            std::process::abort();
        }));
        println!();
        say(format_args!("open"));
        let seed = std::env::var("FORKS_CHILD_SEED").unwrap().parse().unwrap();
        return runtime.block_on(child(dir.as_ref(), seed));
    }
    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let seed = number("FORKS_SEED").unwrap_or_else(rand::random);
    println!("FORKS_SEED={seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut tally = Tally::default();
    for _ in 0..ROUNDS / ROUNDS_PER_DIR {
        let dir = TempDir::new().unwrap();
        let mut acked = BTreeMap::new();
        for _ in 0..ROUNDS_PER_DIR {
            for line in live_and_die(dir.path(), rng.random(), rng.random_range(0..LINES_MAX)) {
                let mut words = line.trim_start_matches("@ ").split(' ');
                if words.next() == Some("A") {
                    let mut number = || words.next().unwrap().parse::<u64>().unwrap();
                    acked.insert(number(), number());
                }
            }
            runtime.block_on(verify(dir.path(), &acked, &mut tally));
        }
    }
    println!("{tally:?}");
    // A run that shows nothing must not pass.
    assert!(tally.forks > 0 && tally.forks_again > 0 && tally.replayed > 0, "{tally:?}");
}

/// Starts a child and kills it after so many lines; gives all that it said.
fn live_and_die(dir: &Path, seed: u64, lines: u32) -> Vec<String> {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_kill_leaves_parent_and_child_or_only_the_parent", "--nocapture"])
        .env("FORKS_CHILD_DIR", dir)
        .env("FORKS_CHILD_SEED", seed.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = KillOnDrop(child.unwrap());
    let mut output = BufReader::new(child.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let said = |line: &String| line.starts_with("@ ");
    let mut heard: Vec<String> = output.by_ref().filter(said).take(lines as usize + 1).collect();
    assert_eq!(heard.len(), lines as usize + 1, "the child ended by itself: {:?}", child.0.wait());
    child.0.kill().unwrap();
    heard.extend(output.filter(said));
    child.0.wait().unwrap();
    heard
}

struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
