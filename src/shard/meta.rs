//! The shard's counters: one small record, read and written once per command.

use serde::{Deserialize, Serialize};

use super::{
    Shard, keys,
    view::{Fatal, State, View},
};
use crate::{
    command::{At, Version},
    ids::{Position, Span},
};

const FORMAT: u8 = 1;

/// What the shard knows about itself. Carried by snapshots like any other key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Meta {
    /// The last version given out.
    pub(super) version: Version,
    /// The latest time any entry was stamped with: time does not go back, whatever the clocks of
    /// successive leaders say, or an expired cell could come back to life.
    pub(super) last_at: At,
    /// Its arc, once the shard was split, or is the result of a split. Before that, all who have ever
    /// had a map agree on the arc, and nothing else lies where the shard keeps its cells.
    pub(super) arc: Option<Span>,
    /// How many marks of expiry there are, at most; with none, a write need not look for an older one.
    pub(super) expiring: u64,
    /// All marks of expiry are of this time's lot ([`super::keys::LOT_MS`]) or a later one.
    pub(super) marks_from: At,
    /// Before this there is nothing to reclaim. May be too early.
    pub(super) next_expiry: At,
    /// Remembered answers have the sequence numbers `[first_answer, next_answer)`.
    pub(super) first_answer: u64,
    /// See `first_answer`.
    pub(super) next_answer: u64,
    /// The sizes of the remembered answers, bytes.
    pub(super) answers_bytes: u64,
    /// No answer is too old before this. May be too early.
    pub(super) next_forget: At,
}

impl Default for Meta {
    fn default() -> Self {
        Self {
            version: 0,
            last_at: At(0),
            arc: None,
            expiring: 0,
            marks_from: At(u64::MAX),
            next_expiry: At(u64::MAX),
            first_answer: 0,
            next_answer: 0,
            answers_bytes: 0,
            next_forget: At(u64::MAX),
        }
    }
}

impl Meta {
    pub(super) fn read(view: &(impl View + ?Sized), shard: Shard) -> Result<Self, Fatal> {
        let Some(bytes) = view.get(&keys::meta(shard.group))? else { return Ok(Self::default()) };
        match bytes.split_first() {
            Some((&FORMAT, rest)) => postcard::from_bytes(rest)
                .map_err(|e| Fatal(format!("the shard's counters cannot be read: {e}"))),
            _ => Err(Fatal(format!(
                "the shard's counters are not of format {FORMAT}: they were written by a newer version"
            ))),
        }
    }

    pub(super) fn write(&self, state: &mut (impl State + ?Sized), shard: Shard) -> Result<(), Fatal> {
        let bytes = postcard::to_extend(self, vec![FORMAT])
            .map_err(|e| Fatal(format!("encode the shard's counters: {e}")))?;
        state.put(keys::meta(shard.group), bytes.into());
        Ok(())
    }

    /// Whether a position is the shard's.
    pub(super) fn has(&self, position: Position) -> bool {
        self.arc.is_none_or(|arc| arc.contains(position))
    }
}
