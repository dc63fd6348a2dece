//! Whom of a shard's replicas to ask next, while it is not known who leads it.

use crate::ids::NodeId;

/// The turns of one request. In a round everybody has one: hints alone can lead in a circle, as of two
/// replicas that each believe the other to lead.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Who was asked in this round.
    asked: Vec<NodeId>,
    /// Who could not be reached last.
    failed: Option<NodeId>,
}

impl Turns {
    /// Who is next: the node believed to lead, if it was not asked in this round and could be reached, or
    /// else the first of `replicas`, of which there is one at least, that was not. The hint may name a node
    /// that is no replica by this map: while a shard moves it may be led by who is not in it yet, or no longer.
    pub(super) fn next(&mut self, hint: Option<NodeId>, replicas: &[NodeId]) -> NodeId {
        let hint = hint.filter(|id| self.failed != Some(*id));
        let is_new = |id: &NodeId| !self.asked.contains(id);
        let next = hint.filter(is_new).or_else(|| replicas.iter().copied().find(is_new));
        let next = next.unwrap_or_else(|| {
            self.asked.clear();
            hint.unwrap_or(replicas[0])
        });
        self.asked.push(next);
        next
    }

    /// Whether a node that was just named as the leader is worth asking without a pause: only those are
    /// that had no turn, and not more of them than there are replicas.
    pub(super) fn is_worth(&self, leader: NodeId, replicas: &[NodeId]) -> bool {
        !self.asked.contains(&leader) && self.asked.len() <= replicas.len()
    }

    /// A node could not be reached, or could not serve: hints that name it count for nothing, until another
    /// one fails.
    pub(super) fn failed(&mut self, node: NodeId) {
        self.failed = Some(node);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const REPLICAS: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

    /// Whom a request asks until it finds the leader, where every node names one (or none); as the router
    /// does it, nodes that are down fail.
    fn asked(
        names: &BTreeMap<u64, u64>,
        down: &[u64],
        leader: u64,
        hint: Option<u64>,
        most: usize,
    ) -> Vec<u64> {
        let (mut turns, mut hint, mut asked) = (Turns::default(), hint.map(NodeId), Vec::new());
        while asked.len() < most && asked.last() != Some(&leader) {
            let node = turns.next(hint, &REPLICAS);
            asked.push(node.0);
            if down.contains(&node.0) {
                turns.failed(node);
                hint = None;
            } else {
                hint = names.get(&node.0).copied().map(NodeId).filter(|named| *named != node);
            }
        }
        asked
    }

    #[test]
    fn the_leader_is_asked_first_and_a_named_one_next() {
        let names = BTreeMap::from([(1, 3), (2, 3)]);
        assert_eq!(asked(&names, &[], 3, Some(3), 9), [3]);
        assert_eq!(asked(&names, &[], 3, None, 9), [1, 3]);
    }

    #[test]
    fn a_leader_outside_of_the_map_is_followed() {
        // The shard has moved to 4, or still is there.
        let names = BTreeMap::from([(1, 4), (2, 4), (3, 4)]);
        assert_eq!(asked(&names, &[], 4, None, 9), [1, 4]);
        // And left again, if it is one no more: only 3 knows better.
        let names = BTreeMap::from([(1, 4), (2, 4), (4, 1)]);
        assert_eq!(asked(&names, &[], 3, None, 9), [1, 4, 2, 3]);
    }

    #[test]
    fn hints_in_a_circle_do_not_keep_the_others_from_their_turn() {
        let names = BTreeMap::from([(1, 2), (2, 1)]);
        assert_eq!(asked(&names, &[], 3, Some(1), 9), [1, 2, 3]);
    }

    #[test]
    fn a_named_leader_that_is_down_is_left_for_the_others() {
        // All name 1, until 2 is elected.
        let names = BTreeMap::from([(2, 1), (3, 1)]);
        assert_eq!(asked(&names, &[1], 9, Some(1), 6), [1, 2, 3, 1, 2, 3]);
    }

    #[test]
    fn only_who_had_no_turn_is_asked_without_a_pause() {
        let mut turns = Turns::default();
        let first = turns.next(None, &REPLICAS);
        assert!(!turns.is_worth(first, &REPLICAS) && turns.is_worth(NodeId(9), &REPLICAS));
        // Names without end, each of a node that was never heard of.
        let named = (10..).map(NodeId).take_while(|named| {
            let is_worth = turns.is_worth(*named, &REPLICAS);
            turns.next(Some(*named), &REPLICAS);
            is_worth
        });
        assert_eq!(named.count(), REPLICAS.len());
    }

    proptest! {
        /// Whatever nodes believe, a leader among the replicas is found in one round, in which nobody but
        /// who is no replica adds to the number of questions.
        #[test]
        fn a_replica_that_leads_is_found(
            names in proptest::collection::btree_map(1_u64..8, 1_u64..8, 0..8),
            leader in 1_u64..=3,
            hint in proptest::option::of(1_u64..8),
        ) {
            let asked = asked(&names, &[], leader, hint, 20);
            prop_assert_eq!(asked.last(), Some(&leader));
            let replicas = asked.iter().filter(|id| **id <= 3).count();
            prop_assert!(replicas <= REPLICAS.len() && asked.len() <= 7, "{:?}", asked);
        }
    }
}
