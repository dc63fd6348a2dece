//! Whether a history of one key is linearizable: whether each operation can be given one moment
//! between its call and its return, so that in the order of these moments a plain register would
//! have given the same answers.
//!
//! The search is that of Wing and Gong (1993), with the memory of visited configurations that Lowe
//! added ("Testing for linearizability", 2017). Keys are independent, so each is judged by itself
//! (Herlihy and Wing 1990: linearizability is local).
//!
//! An operation whose fate is unknown never returns: it may take effect at any later time, or never.
//! Many of them make the search long, but most are alike: a value that no other operation names cannot
//! be told from another such one, and of unknown operations that do the same, the one that was called
//! first can always go first.

use std::collections::HashSet;

/// A value; every write has its own.
pub(crate) type Value = u64;

/// What a client asked of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Op {
    Get,
    Put(Value),
    Delete,
    /// A write only over what is expected (`If-Match`), or where nothing is (`If-None-Match: *`).
    Swap {
        expected: Option<Value>,
        new: Value,
    },
}

/// What it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Got(Option<Value>),
    Written,
    /// Whether there was something to delete.
    Deleted(bool),
    /// Whether the condition held.
    Swapped(bool),
    /// It may have happened, or may yet happen.
    Unknown,
}

/// An operation, and when it was called and returned, in moments of one order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) op: Op,
    pub(crate) outcome: Outcome,
    pub(crate) called: u64,
    /// Not used where the outcome is unknown.
    pub(crate) returned: u64,
}

/// Configurations visited before the search gives up, which is a verdict of its own: a test with
/// such a history asks too much.
const MAX_CONFIGURATIONS: usize = 2_000_000;

/// The checker's verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Linearizable,
    /// The most operations that could be put in order before it became impossible.
    NotLinearizable {
        explained: usize,
    },
    TooHard,
}

/// The state after an operation at `state`, if it can have had this outcome there.
fn step(state: Option<Value>, op: Op, outcome: Outcome) -> Option<Option<Value>> {
    match (op, outcome) {
        (Op::Get, Outcome::Got(value)) => (value == state).then_some(state),
        (Op::Get, Outcome::Unknown) => Some(state),
        (Op::Put(value), Outcome::Written | Outcome::Unknown) => Some(Some(value)),
        (Op::Delete, Outcome::Deleted(existed)) => (existed == state.is_some()).then_some(None),
        (Op::Delete, Outcome::Unknown) => Some(None),
        (Op::Swap { expected, new }, Outcome::Swapped(true)) => (expected == state).then_some(Some(new)),
        (Op::Swap { expected, .. }, Outcome::Swapped(false)) => (expected != state).then_some(state),
        (Op::Swap { expected, new }, Outcome::Unknown) => {
            Some(if expected == state { Some(new) } else { state })
        }
        // An answer that does not belong to the question.
        _ => None,
    }
}

/// The history with one value in the place of all those that are written and named nowhere else.
fn with_few_values(history: &[Entry]) -> Vec<Entry> {
    let mut named = HashSet::new();
    for entry in history {
        if let Outcome::Got(Some(value)) = entry.outcome {
            named.insert(value);
        }
        if let Op::Swap { expected: Some(value), .. } = entry.op {
            named.insert(value);
        }
    }
    let unnamed = (0..).find(|value| !named.contains(value)).unwrap_or_default();
    let known_as = |value| if named.contains(&value) { value } else { unnamed };
    let renamed = history.iter().map(|entry| {
        let op = match entry.op {
            Op::Put(value) => Op::Put(known_as(value)),
            Op::Swap { expected, new } => Op::Swap { expected, new: known_as(new) },
            op => op,
        };
        Entry { op, ..*entry }
    });
    renamed.collect()
}

/// A set of entries by their places.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Done(Vec<u64>);

impl Done {
    fn with(&self, place: usize) -> Self {
        let mut words = self.0.clone();
        words[place / 64] |= 1 << (place % 64);
        Self(words)
    }

    fn has(&self, place: usize) -> bool {
        self.0[place / 64] >> (place % 64) & 1 == 1
    }
}

/// A point of the search: what has been put in order, and the state after it.
struct Point {
    done: Done,
    state: Option<Value>,
    /// Every entry before this place is done.
    from: usize,
    /// Entries with a known outcome that are done.
    known: usize,
}

/// Judges the history of one key, which begins without a value.
pub(crate) fn check(history: &[Entry]) -> Verdict {
    let mut entries = with_few_values(history);
    entries.sort_by_key(|entry| entry.called);
    let known = entries.iter().filter(|entry| entry.outcome != Outcome::Unknown).count();
    let none = Done(vec![0; entries.len().div_ceil(64)]);
    let mut visited = HashSet::from([(none.clone(), None)]);
    let mut points = vec![Point { done: none, state: None, from: 0, known: 0 }];
    let mut explained = 0;
    while let Some(mut point) = points.pop() {
        explained = explained.max(point.known);
        if point.known == known {
            return Verdict::Linearizable;
        }
        while point.done.has(point.from) {
            point.from += 1;
        }
        // An operation may be next only if none that is left returned before it was called.
        let mut first_return = u64::MAX;
        let mut next = Vec::new();
        let mut unknown = HashSet::new();
        for (place, entry) in entries.iter().enumerate().skip(point.from) {
            if entry.called > first_return {
                break;
            }
            if point.done.has(place) {
                continue;
            }
            if entry.outcome != Outcome::Unknown {
                first_return = first_return.min(entry.returned);
            } else if !unknown.insert(entry.op) {
                continue;
            }
            next.push((place, entry));
        }
        // The search goes depth first from the last one pushed: known outcomes before unknown ones,
        // which most often explain nothing.
        next.sort_by_key(|(place, entry)| (entry.outcome != Outcome::Unknown, std::cmp::Reverse(*place)));
        for (place, entry) in next {
            let Some(state) = step(point.state, entry.op, entry.outcome) else { continue };
            let unknown = entry.outcome == Outcome::Unknown;
            if unknown && state == point.state {
                continue;
            }
            let done = point.done.with(place);
            if visited.insert((done.clone(), state)) {
                points.push(Point {
                    done,
                    state,
                    from: point.from,
                    known: point.known + usize::from(!unknown),
                });
            }
        }
        if visited.len() > MAX_CONFIGURATIONS {
            return Verdict::TooHard;
        }
    }
    Verdict::NotLinearizable { explained }
}
