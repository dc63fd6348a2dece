//! The workers' tokens on the ring, and the clockwise walk over those that are still open.
//!
//! A worker's tokens are hashes of its node number: they stay where they are, whoever else comes
//! and goes (Karger et al. 1997).

use xxhash_rust::xxh3::xxh3_64;

use crate::ids::{NodeId, Position};

/// How far the walk goes token by token before it looks at the workers one by one instead: a walk
/// is short unless most of what is open is unsuitable.
const WALK_MAX_TOKENS: usize = 64;

/// All tokens, in ring order.
pub(super) struct Tokens {
    /// The place of each and its worker's index.
    ring: Vec<(u64, usize)>,
    /// Each worker's tokens, as ascending indices into `ring`.
    own: Vec<Vec<usize>>,
}

impl Tokens {
    /// `each` tokens for each of the workers, which are named by their index from here on.
    pub(super) fn new(workers: &[NodeId], each: u32) -> Self {
        let mut ring: Vec<(u64, usize)> = Vec::with_capacity(workers.len() * each as usize);
        for (worker, node) in workers.iter().enumerate() {
            let mut name = [0; 12];
            name[..8].copy_from_slice(&node.0.to_be_bytes());
            for token in 0..each {
                name[8..].copy_from_slice(&token.to_be_bytes());
                ring.push((xxh3_64(&name), worker));
            }
        }
        ring.sort_unstable();
        let mut own = vec![Vec::with_capacity(each as usize); workers.len()];
        for (index, (_, worker)) in ring.iter().enumerate() {
            own[*worker].push(index);
        }
        Self { ring, own }
    }

    /// The places of a worker's tokens, ascending.
    pub(super) fn of(&self, worker: usize) -> impl DoubleEndedIterator<Item = u64> {
        self.own[worker].iter().map(|index| self.ring[*index].0)
    }

    /// How far clockwise a worker's next token is.
    fn distance(&self, worker: usize, from: Position) -> Option<u64> {
        let own = &self.own[worker];
        let next = own.partition_point(|index| self.ring[*index].0 < from.0);
        let index = own.get(next).or(own.first())?;
        Some(self.ring[*index].0.wrapping_sub(from.0))
    }
}

/// The tokens of those workers that may still be given something. Workers only leave it, so that
/// the tokens between two open ones are skipped at once, by union-find with path halving.
pub(super) struct Open<'t> {
    tokens: &'t Tokens,
    /// For each token one at or behind which the next open one is; the last stands for the end.
    skip: Vec<usize>,
    open: Vec<bool>,
}

impl<'t> Open<'t> {
    pub(super) fn new(tokens: &'t Tokens, is_open: impl Fn(usize) -> bool) -> Self {
        let open: Vec<bool> = (0..tokens.own.len()).map(is_open).collect();
        let mut next = tokens.ring.len();
        let mut skip = vec![next; next + 1];
        for (index, (_, worker)) in tokens.ring.iter().enumerate().rev() {
            if open[*worker] {
                next = index;
            }
            skip[index] = next;
        }
        Self { tokens, skip, open }
    }

    pub(super) fn close(&mut self, worker: usize) {
        if std::mem::replace(&mut self.open[worker], false) {
            for index in &self.tokens.own[worker] {
                self.skip[*index] = index + 1;
            }
        }
    }

    fn next_open(&mut self, mut index: usize) -> usize {
        while self.skip[index] != index {
            self.skip[index] = self.skip[self.skip[index]];
            index = self.skip[index];
        }
        index
    }

    /// The first suitable worker clockwise from a position.
    pub(super) fn pick(&mut self, from: Position, suits: impl Fn(usize) -> bool) -> Option<usize> {
        let end = self.tokens.ring.len();
        let mut index = self.tokens.ring.partition_point(|(token, _)| *token < from.0);
        let mut wrapped = false;
        for _ in 0..WALK_MAX_TOKENS {
            index = self.next_open(index);
            if index == end {
                if wrapped {
                    return None;
                }
                (wrapped, index) = (true, self.next_open(0));
                if index == end {
                    return None;
                }
            }
            let worker = self.tokens.ring[index].1;
            if suits(worker) {
                return Some(worker);
            }
            index += 1;
        }
        // The walk would end at the suitable worker whose next token is the nearest one.
        (0..self.open.len())
            .filter(|worker| self.open[*worker] && suits(*worker))
            .min_by_key(|worker| (self.tokens.distance(*worker, from), *worker))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Both ways of walking end at the worker that plain iteration over all tokens finds.
        #[test]
        fn the_walk_finds_the_next_suitable_worker(
            workers in 1usize..40, each in 1u32..8, from: u64, closed: u64, unsuited: u64,
        ) {
            let nodes: Vec<NodeId> = (1..=workers as u64).map(NodeId).collect();
            let tokens = Tokens::new(&nodes, each);
            let mut open = Open::new(&tokens, |worker| !worker.is_multiple_of(5));
            for worker in (0..workers).filter(|worker| closed >> worker & 1 == 1) {
                open.close(worker);
            }
            let suits = |worker: usize| unsuited >> worker & 1 == 0;
            let is_open = |worker: usize| !worker.is_multiple_of(5) && closed >> worker & 1 == 0;
            let behind = tokens.ring.iter().filter(|(token, _)| *token >= from);
            let before = tokens.ring.iter().filter(|(token, _)| *token < from);
            let expected =
                behind.chain(before).map(|(_, worker)| *worker).find(|w| is_open(*w) && suits(*w));
            prop_assert_eq!(open.pick(Position(from), suits), expected);
        }
    }
}
