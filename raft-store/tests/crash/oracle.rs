//! The parent's knowledge of what must, may and must not be on disk, and the comparison with it.

use std::collections::BTreeMap;
use std::path::Path;

use openraft::storage::{RaftLogReader, RaftLogStorage, RaftStateMachine};
use raft_store::Store;
use raft_store::types::{LogId, Vote};

use crate::common::{Kv, Model, apply_from_log, cells, log_id, open, vote};
use crate::node::{GROUPS, advance, entry_at};

/// What a run has seen, to tell that it was not an empty one.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) entries_checked: usize,
    pub(crate) votes_checked: usize,
    pub(crate) cells_checked: usize,
    /// Groups whose state was behind what had been applied.
    pub(crate) replayed: usize,
    pub(crate) purges: usize,
    pub(crate) installs: usize,
    pub(crate) drops: usize,
    /// Openings that came after a height was told.
    pub(crate) heights_checked: usize,
    pub(crate) truncations: usize,
    /// Steps that the kill met between beginning and end.
    pub(crate) torn_installs: usize,
    pub(crate) torn_drops: usize,
}

#[derive(Default)]
pub(crate) struct Oracle {
    groups: BTreeMap<u64, Group>,
    /// The highest that the store was said to stand.
    height: u64,
    seen: Tally,
}

#[derive(Default)]
struct Group {
    /// Confirmed, and begun.
    vote: Option<Vote>,
    vote_begun: Option<Vote>,
    /// Confirmed entries: index to term. They must be there unless they were purged.
    acked: BTreeMap<u64, u64>,
    /// Entries that may be there: index to terms.
    begun: BTreeMap<u64, Vec<u64>>,
    /// Terms of the entries that are part of the state, from index 1.
    terms: Vec<u64>,
    /// The largest index that may be applied.
    applied_max: u64,
    /// What an install has confirmed to be durable.
    installed: u64,
    /// An install that was begun: its index and term.
    installing: Option<(u64, u64)>,
    purge_max: u64,
    dropping: bool,
}

impl Oracle {
    /// Takes in one line of the child.
    pub(crate) fn hear(&mut self, line: &str) {
        let mut words = line.trim_start_matches("@ ").split(' ');
        let step = words.next().unwrap();
        let numbers: Vec<u64> = words.map(|word| word.parse().unwrap()).collect();
        let Some((&group, numbers)) = numbers.split_first() else { return };
        let group = self.groups.entry(group).or_default();
        // What is confirmed is told with the store's height, last.
        let numbers = match (step, numbers.split_last()) {
            ("A" | "V" | "T" | "D", Some((height, rest))) => {
                self.height = self.height.max(*height);
                rest
            }
            _ => numbers,
        };
        match (step, numbers) {
            ("a", &[first, count, term]) => {
                (first..first + count).for_each(|index| group.begun.entry(index).or_default().push(term));
            }
            ("A", &[first, count, term]) => {
                group.acked.extend((first..first + count).map(|index| (index, term)))
            }
            ("t", &[last]) => drop(group.acked.split_off(&(last + 1))),
            ("T", &[last]) => {
                group.begun.split_off(&(last + 1));
                self.seen.truncations += 1;
            }
            ("v", &[term, node]) => group.vote_begun = Some(vote(term, node)),
            ("V", &[term, node]) => (group.vote, group.vote_begun) = (Some(vote(term, node)), None),
            ("c", &[upto]) => group.applied_max = upto,
            ("C", &[upto]) => {
                let known = group.terms.len() as u64;
                group.terms.extend((known + 1..=upto).map(|index| group.acked[&index]));
            }
            ("p", &[upto]) => {
                group.purge_max = upto;
                self.seen.purges += 1;
            }
            ("s", &[upto, term]) => {
                group.installing = Some((upto, term));
                group.applied_max = upto;
            }
            ("S", &[upto, term]) => {
                group.finish_install(upto, term);
                group.installed = upto;
                group.purge_max = upto;
                self.seen.installs += 1;
            }
            ("d", &[]) => group.dropping = true,
            ("D", &[]) => {
                group.forget();
                self.seen.drops += 1;
            }
            _ => panic!("not a line of the child: {line}"),
        }
    }

    /// Opens the directory and compares; then applies what was applied before, as a restarted node
    /// would, and compares again.
    pub(crate) fn verify(&mut self, dir: &Path, tally: &mut Tally) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let store = open(dir);
            let opened_at = store.opened_at();
            assert!(opened_at > self.height, "opened at {opened_at}, and was at {} before", self.height);
            self.seen.heights_checked += usize::from(self.height > 0);
            self.height = opened_at;
            for id in 1..=GROUPS {
                self.groups.entry(id).or_default().verify(id, &store, &mut self.seen).await;
            }
            assert_eq!(*store.failed().borrow(), None);
            store.shutdown().unwrap();
        });
        let seen = std::mem::take(&mut self.seen);
        tally.entries_checked += seen.entries_checked;
        tally.votes_checked += seen.votes_checked;
        tally.cells_checked += seen.cells_checked;
        tally.replayed += seen.replayed;
        tally.purges += seen.purges;
        tally.installs += seen.installs;
        tally.drops += seen.drops;
        tally.heights_checked += seen.heights_checked;
        tally.truncations += seen.truncations;
        tally.torn_installs += seen.torn_installs;
        tally.torn_drops += seen.torn_drops;
    }
}

impl Group {
    fn finish_install(&mut self, upto: u64, term: u64) {
        self.terms.resize(upto as usize, term);
        // The purge that follows is not synced: the old entries may be there or not.
        self.acked.clear();
        self.installing = None;
    }

    /// All but the vote.
    fn forget(&mut self) {
        let (vote, vote_begun) = (self.vote, self.vote_begun);
        *self = Group { vote, vote_begun, ..Group::default() };
    }

    async fn verify(&mut self, id: u64, store: &Store, tally: &mut Tally) {
        let index = |id: Option<LogId>| id.map_or(0, |id| id.index);
        let mut log = store.log(id);
        let mut machine = store.machine(id, Kv::default()).unwrap();
        let state = log.get_log_state().await.unwrap();
        let (last, purged) = (index(state.last_log_id), index(state.last_purged_log_id));
        let applied_id = machine.applied_state().await.unwrap().0;
        let applied = index(applied_id);
        let case = format!("group {id}: purged {purged}, last {last}, applied {applied}");

        let found = log.read_vote().await.unwrap();
        assert!(
            found == self.vote || (found.is_some() && found == self.vote_begun),
            "{case}: vote {found:?}"
        );
        (self.vote, self.vote_begun) = (found, None);
        tally.votes_checked += usize::from(found.is_some());

        if self.dropping {
            tally.torn_drops += 1;
            // Of a replica that had nothing but a vote it cannot be told whether the drop has begun.
            let had_something = !self.acked.is_empty() || !self.terms.is_empty();
            if state.last_log_id.is_none() && applied_id.is_none() {
                let listed = had_something && store.groups().contains(&id);
                assert!(!listed, "{case}: a dropped group is listed");
                self.forget();
            }
            self.dropping = false;
        }

        // The log: no hole, nothing foreign, everything that was confirmed.
        assert!(purged <= self.purge_max.max(self.installing.map_or(0, |(upto, _)| upto)), "{case}");
        let entries = log.try_get_log_entries(..).await.unwrap();
        assert_eq!(entries.len() as u64, last - purged, "{case}");
        let mut present = BTreeMap::new();
        for (index, entry) in (purged + 1..).zip(&entries) {
            let term = entry.log_id.leader_id.term;
            assert_eq!(*entry, entry_at(id, term, index), "{case}");
            let begun = self.begun.get(&index).is_some_and(|terms| terms.contains(&term));
            assert!(begun, "{case}: entry {index} of term {term} was never written, or truncated");
            present.insert(index, term);
        }
        for (index, term) in self.acked.range(purged + 1..) {
            assert_eq!(present.get(index), Some(term), "{case}: entry {index} is lost");
            tally.entries_checked += 1;
        }

        // The state: of some log id between the last durable and the last possible one.
        if let Some((upto, term)) = self.installing.take() {
            tally.torn_installs += 1;
            if applied >= upto {
                self.finish_install(upto, term);
            }
        }
        let confirmed = self.terms.len() as u64;
        assert!(applied >= self.installed, "{case}: behind the snapshot installed at {}", self.installed);
        assert!(applied >= purged, "{case}: the state is behind what was purged");
        assert!(
            applied <= self.applied_max.max(confirmed),
            "{case}: not applied beyond {}",
            self.applied_max
        );
        for index in confirmed + 1..=applied {
            self.terms.push(present[&index]);
        }
        if applied > 0 {
            assert_eq!(applied_id, Some(log_id(self.terms[applied as usize - 1], applied)), "{case}");
        }
        self.compare(id, store, applied, &case, tally);

        // What a restarted node does.
        let committed = index(log.read_committed().await.unwrap());
        assert!(committed <= last.max(applied), "{case}: committed {committed} is not in the log");
        let target = self.terms.len() as u64;
        if applied < target {
            tally.replayed += 1;
            for index in applied + 1..=target {
                assert_eq!(
                    present.get(&index),
                    Some(&self.terms[index as usize - 1]),
                    "{case}: {index} is lost"
                );
            }
            apply_from_log(&mut machine, &mut log, applied + 1, target).await.unwrap();
            self.compare(id, store, target, &case, tally);
        }
        if last < applied {
            log.purge(applied_id.unwrap()).await.unwrap();
        }

        self.begun = present.iter().map(|(index, term)| (*index, vec![*term])).collect();
        self.acked = present;
        self.applied_max = target;
        self.purge_max = purged.max(if last < applied { applied } else { 0 });
    }

    fn compare(&self, id: u64, store: &Store, applied: u64, case: &str, tally: &mut Tally) {
        let mut model = Model::new();
        for (index, term) in (1..=applied).zip(&self.terms) {
            advance(&mut model, id, *term, index);
        }
        tally.cells_checked += model.len();
        assert!(
            cells(&store.reader(id)) == model,
            "{case}: the state at {applied} is not what the log makes"
        );
    }
}
