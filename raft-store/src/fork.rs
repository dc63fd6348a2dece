//! Forks: a group that comes into being out of another one's state, without a copy.
//!
//! While a command is applied, the program's machine says [`crate::Txn::fork`]. Then the batch that
//! carries the command's writes also carries a record of the child: the *same space* as the parent's,
//! the parent's members, and a log id of its own to begin at ([`base`]). From then on two groups have
//! their cells in one space, and each says with [`Owned`] which of them are its own: a snapshot, a
//! trim and whatever else walks a space keeps to that. Which keys these are must follow from the
//! machine's state alone, be disjoint between the groups of a space, and may only become fewer.
//!
//! Invariants:
//! - **A child is born once, or comes from elsewhere.** Where the group has a state, a log, a vote or
//!   only a tombstone here already, or is being opened, nothing is forked: this replica then gets the
//!   child's state from the child's leader. So no replica that has voted is ever set back to the base.
//!   (The parent's entry is applied twice only after a crash that lost the batch; and a child has
//!   no vote before its base is durable, see the next one.)
//! - **The base is durable before the child has a log.** A group whose state is ahead of its log is
//!   one whose log was lost to a snapshot; openraft then begins by purging the log up to the state,
//!   and [`crate::GroupLog`] flushes the state first. Until that has happened, nothing of the group is
//!   written to the log.
//! - **The base is of term 0**, whatever the parent's terms are: the child has voted in none of them,
//!   begins with elections at term 1, and every entry it ever has sorts behind its base. Its
//!   members are recorded as of the base, for the same reason. All replicas that apply the parent's
//!   entry find the same base, as its index is the entry's.
//!
//! What lies in a space and belongs to no group any more, as a child that was moved away leaves it
//! behind, is removed by [`crate::Store::trim`], a bounded number of ranges per call, while every
//! group that has the space stands still. Ranges are deleted with tombstones and not as files, since
//! those leave older snapshots whole: whoever still reads the state of the group that is gone sees
//! all of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use openraft::alias::LeaderIdOf;
use openraft::vote::RaftLeaderId;
use rocksdb::WriteBatch;

use crate::data::{Applied, Data, DataGroup, Space};
use crate::error::StoreError;
use crate::keys::{CELL_PREFIX_BYTES, DataKey};
use crate::read::scan_options;
use crate::types::{LogId, StoredMembership, TypeConfig};

/// Keys that follow each other, all of them a group's own or none of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Which of the two.
    pub owned: bool,
    /// The first key of which it may be otherwise; `None`: there is none.
    pub end: Option<Vec<u8>>,
}

/// Which keys are a group's own, in a space that it may share.
pub trait Owned: Send + Sync {
    /// The run that begins with `key`. Its end is behind `key`.
    fn run(&self, key: &[u8]) -> Run;
}

/// `None` where a group owns all of its space.
pub type Owner = Option<Arc<dyn Owned>>;

/// A child that a transaction brings into being. Nobody opens the group until this is dropped.
pub(crate) struct Birth {
    pub(crate) group: Arc<DataGroup>,
    /// Set when the entry was applied.
    pub(crate) base: Option<Applied>,
}

impl Birth {
    /// `None` where the group has a state, or is in use.
    pub(crate) fn claim(data: &Data, child: u64) -> Option<Birth> {
        let group = data.group(child);
        if !group.claim() {
            return None;
        }
        let birth = Birth { group, base: None };
        (!birth.group.has_record()).then_some(birth)
    }
}

impl Drop for Birth {
    fn drop(&mut self) {
        self.group.release();
    }
}

/// Where a child begins that was forked by the entry at `parent`, with the members of that moment.
pub(crate) fn base(parent: &LogId, membership: &StoredMembership) -> Applied {
    let last = LogId::new(LeaderIdOf::<TypeConfig>::new(0, 0).to_committed(), parent.index);
    let membership = StoredMembership::new(Some(last), membership.membership().clone());
    Applied { last: Some(last), membership: Arc::new(membership) }
}

impl Data {
    /// Removes what no group owns of the next `most` ranges of a space; how many there were. Blocks.
    pub(crate) fn trim(&self, most: usize) -> Result<usize, StoreError> {
        let mut spaces = BTreeMap::<u64, Arc<Space>>::new();
        for group in self.all() {
            if let Ok(space) = group.space() {
                spaces.insert(space.id, space);
            }
        }
        let mut removed = 0;
        for space in spaces.values() {
            if removed < most
                && let Some(next) = space.litter()
            {
                removed += self.trim_space(space, next, most - removed)?;
            }
        }
        Ok(removed)
    }

    fn trim_space(&self, space: &Space, mut next: Vec<u8>, most: usize) -> Result<usize, StoreError> {
        let holders = self.holders(space.id);
        let _commits: Vec<_> = holders.iter().map(|group| group.commit.lock()).collect();
        // Only a holder can let another group in, by a fork, and not while these are held.
        let now = self.holders(space.id);
        if now.len() != holders.len() || !now.iter().zip(&holders).all(|(a, b)| Arc::ptr_eq(a, b)) {
            return Ok(0);
        }
        let Some(owners) = holders.iter().map(|group| group.owner()).collect::<Option<Vec<Owner>>>() else {
            return Ok(0);
        };
        let Some(owners) = owners.into_iter().collect::<Option<Vec<_>>>() else {
            space.set_litter(None);
            return Ok(0);
        };
        let mut removed = 0;
        for _ in 0..most {
            let mut cells = self.db.raw_iterator_opt(scan_options(space.id, &next, None));
            cells.seek_to_first();
            let first = cells.key().map(|key| key[CELL_PREFIX_BYTES..].to_vec());
            cells.status().map_err(StoreError::engine("read the data"))?;
            let Some(first) = first else {
                space.set_litter(None);
                return Ok(removed);
            };
            let run = run_of_all(&owners, &first);
            if !run.owned {
                let end = run.end.as_deref();
                let to = end.map_or_else(
                    || DataKey::space_end(space.id),
                    |end| DataKey::Cell(space.id, end).encode(),
                );
                let mut batch = WriteBatch::default();
                batch.delete_range(DataKey::Cell(space.id, &first).encode(), to);
                self.write(batch)?;
                removed += 1;
            }
            match run.end {
                Some(end) => next = end,
                None => {
                    space.set_litter(None);
                    return Ok(removed);
                }
            }
        }
        space.set_litter(Some(next));
        Ok(removed)
    }
}

/// The run of what any of them owns; where nobody owns the key, it ends where the first of them may.
fn run_of_all(owners: &[Arc<dyn Owned>], key: &[u8]) -> Run {
    let mut nobody: Option<Vec<u8>> = None;
    for owner in owners {
        let run = owner.run(key);
        if run.owned {
            return run;
        }
        nobody = match (nobody, run.end) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
    Run { owned: false, end: nobody }
}
