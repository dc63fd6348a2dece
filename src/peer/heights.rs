//! How high the stores of other nodes were heard to stand. A store's height is a count on its disk that
//! rises with every sync of votes and entries and with every opening of its directory, and is told
//! only once it is on that disk (`raft_store::Store::height`). So a directory that is opened no higher
//! than it was heard to be before went back to an earlier state, and has forgotten what it promised
//! since.
//!
//! Invariants:
//! - What is heard is of one store and only ever from itself: on a connection whose greeting named it.
//!   Nobody passes on what was heard of others.
//! - On every connection a node's height comes before all that the node says at that height, so whoever
//!   counts on an answer has heard the height that covers it.
//! - What was heard of an opening is not held against that same opening: it greets with the height at
//!   which it was opened, also when it has risen since.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::ids::{Opening, StoreId};

/// Reads the height of this node's own store.
pub type OwnHeight = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What was heard of one store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// The store.
    pub store: StoreId,
    /// Its last opening, with the greatest height that it was heard at since.
    pub last: Opening,
    /// The greatest height that it was heard at before that opening.
    pub before: u64,
}

impl Heard {
    /// The height that the directory is known to have had before it was opened so, if that shows that
    /// it went back.
    pub fn outgrown(&self, opening: &Opening) -> Option<u64> {
        let is_last = self.last.id == opening.id;
        let known = if is_last { self.before } else { self.before.max(self.last.height) };
        (opening.height <= known).then_some(known)
    }
}

/// What was heard of all of them.
#[derive(Debug, Default)]
pub(super) struct Heights(Mutex<HashMap<StoreId, Entry>>);

#[derive(Debug)]
struct Entry {
    /// The id of the last opening.
    opening: u64,
    /// The greatest height of that opening. Its connections raise it.
    last: Arc<AtomicU64>,
    /// The greatest height of all before. Connections of the one before may still raise it.
    before: Arc<AtomicU64>,
    /// The store is a member's. What is heard of others is forgotten with their connections.
    is_member: bool,
}

impl Entry {
    fn heard(&self, store: StoreId) -> Heard {
        let last = Opening { id: self.opening, height: self.last.load(Ordering::Relaxed) };
        Heard { store, last, before: self.before.load(Ordering::Relaxed) }
    }

    fn is_held(&self) -> bool {
        Arc::strong_count(&self.last) > 1
    }
}

impl Heights {
    /// Goes on with what an earlier life of this node has heard of members.
    pub(super) fn recall(&self, heard: impl IntoIterator<Item = Heard>) {
        self.0.lock().extend(heard.into_iter().map(|heard| {
            let last = Arc::new(AtomicU64::new(heard.last.height));
            let before = Arc::new(AtomicU64::new(heard.before));
            (heard.store, Entry { opening: heard.last.id, last, before, is_member: true })
        }));
    }

    /// Who is a member from now on.
    pub(super) fn set_members(&self, members: &HashSet<StoreId>) {
        self.0.lock().retain(|store, entry| {
            entry.is_member = members.contains(store);
            entry.is_member || entry.is_held()
        });
    }

    /// Further members.
    pub(super) fn add_members(&self, members: impl IntoIterator<Item = StoreId>) {
        let mut entries = self.0.lock();
        for store in members {
            if let Some(entry) = entries.get_mut(&store) {
                entry.is_member = true;
            }
        }
    }

    /// All that was heard of members, by store.
    pub(super) fn of_members(&self) -> Vec<Heard> {
        let entries = self.0.lock();
        let members = entries.iter().filter(|(_, entry)| entry.is_member);
        let mut heard: Vec<_> = members.map(|(store, entry)| entry.heard(*store)).collect();
        heard.sort_unstable_by_key(|heard| heard.store);
        heard
    }

    /// What was heard of one.
    pub(super) fn of(&self, store: StoreId) -> Option<Heard> {
        self.0.lock().get(&store).map(|entry| entry.heard(store))
    }

    /// Takes the greeting of a store, and returns what its connection is to raise; or the height that
    /// it had before it was opened so, which no directory has that did not go back.
    pub(super) fn meet(
        &self,
        store: StoreId,
        opening: Opening,
        is_member: bool,
    ) -> Result<Arc<AtomicU64>, u64> {
        let mut entries = self.0.lock();
        if !is_member {
            entries.retain(|_, entry| entry.is_member || entry.is_held());
        }
        let last = Arc::new(AtomicU64::new(opening.height));
        match entries.get_mut(&store) {
            Some(entry) => {
                if let Some(known) = entry.heard(store).outgrown(&opening) {
                    return Err(known);
                }
                if entry.opening == opening.id {
                    return Ok(entry.last.clone());
                }
                let before = std::mem::replace(&mut entry.last, last.clone());
                before.fetch_max(entry.before.load(Ordering::Relaxed), Ordering::Relaxed);
                (entry.opening, entry.before) = (opening.id, before);
            }
            None => {
                let before = Arc::default();
                let entry = Entry { opening: opening.id, last: last.clone(), before, is_member };
                entries.insert(store, entry);
            }
        }
        Ok(last)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const STORE: StoreId = StoreId(Uuid::from_u128(7));

    fn opening(id: u64, height: u64) -> Opening {
        Opening { id, height }
    }

    fn raise(height: &AtomicU64, to: u64) {
        height.fetch_max(to, Ordering::Relaxed);
    }

    #[test]
    fn an_honest_store_is_never_turned_away() {
        let heights = Heights::default();
        let mut height = 0;
        for id in 1..=5 {
            let opening = opening(id, height + 1);
            // Two lanes, and connections made anew while it rises.
            for _ in 0..3 {
                let heard = heights.meet(STORE, opening, true).unwrap();
                height += 10;
                raise(&heard, height);
                assert_eq!(heights.of(STORE).unwrap().outgrown(&opening), None);
            }
        }
    }

    #[test]
    fn a_store_that_went_back_is_told_so() {
        let heights = Heights::default();
        raise(&heights.meet(STORE, opening(1, 1), true).unwrap(), 50);
        for back in [1, 49, 50] {
            assert_eq!(heights.meet(STORE, opening(2, back), true).err(), Some(50));
        }
        // Who was turned away is not what was heard last.
        raise(&heights.meet(STORE, opening(1, 1), true).unwrap(), 60);
        assert_eq!(heights.meet(STORE, opening(2, 51), true).err(), Some(60));
        // Another store is another matter.
        heights.meet(StoreId(Uuid::from_u128(8)), opening(2, 1), true).unwrap();
        assert!(heights.meet(STORE, opening(3, 61), true).is_ok());
        // Started again from a copy that was made just before that start.
        assert_eq!(heights.meet(STORE, opening(4, 61), true).err(), Some(61));
    }

    #[test]
    fn what_a_dead_process_has_said_still_counts() {
        let heights = Heights::default();
        let old = heights.meet(STORE, opening(1, 1), true).unwrap();
        heights.meet(STORE, opening(2, 20), true).unwrap();
        // Read from its connection only now. An honest disk was never that high.
        raise(&old, 19);
        assert!(heights.meet(STORE, opening(2, 20), true).is_ok());
        raise(&old, 30);
        assert_eq!(heights.meet(STORE, opening(2, 20), true).err(), Some(30));
    }

    #[test]
    fn it_is_kept_over_a_restart() {
        let heights = Heights::default();
        raise(&heights.meet(STORE, opening(1, 1), true).unwrap(), 50);
        raise(&heights.meet(STORE, opening(2, 60), true).unwrap(), 70);
        let kept = heights.of_members();
        assert_eq!(kept, [Heard { store: STORE, last: opening(2, 70), before: 50 }]);
        let heights = Heights::default();
        heights.recall(kept);
        assert!(heights.meet(STORE, opening(2, 60), true).is_ok(), "it still runs");
        assert_eq!(heights.meet(STORE, opening(3, 70), true).err(), Some(70));
    }

    #[test]
    fn only_members_are_remembered() {
        let heights = Heights::default();
        let (member, guest) = (STORE, StoreId(Uuid::from_u128(8)));
        heights.recall([Heard { store: member, last: opening(1, 5), before: 0 }]);
        let held = heights.meet(guest, opening(1, 5), false).unwrap();
        raise(&held, 9);
        assert_eq!(
            heights.meet(guest, opening(2, 9), false).err(),
            Some(9),
            "as long as its connection is there"
        );
        drop(held);
        heights.meet(guest, opening(3, 1), false).unwrap();
        assert_eq!(heights.of_members().len(), 1);
        // A guest becomes a member while its connection lasts, and a member leaves.
        let held = heights.meet(guest, opening(3, 1), false).unwrap();
        heights.set_members(&HashSet::from([guest]));
        raise(&held, 4);
        drop(held);
        assert_eq!(heights.of_members(), [Heard { store: guest, last: opening(3, 4), before: 0 }]);
        assert_eq!(heights.of(member), None);
    }
}
