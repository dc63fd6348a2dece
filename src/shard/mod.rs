//! One shard's data as a pure state machine: cells with versions, conditions, expiry, and the
//! remembered answers to repeated requests.
//!
//! Not here: who leads, what is on which disk, when an entry is committed. The state is a range of
//! keys behind [`view::View`]; [`machine::apply`] turns a command into changes of it, and
//! [`query::answer`] reads it.

use crate::{config::Partitioner, ids::GroupId};

pub mod cell;
pub mod keys;
pub mod machine;
pub mod query;
pub mod view;

mod dedup;
mod meta;
mod reclaim;
mod split;

pub use split::{Estimate, Range, arc, middle, middle_of_sizes, ranges, split};

/// Which shard a state is of, or is looked at as: after a split, two of them have their keys in one
/// place, each cell in the arc of one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// Its group, under which it keeps what is not of a row.
    pub group: GroupId,
    /// How its rows become positions.
    pub partitioner: Partitioner,
}

#[cfg(test)]
mod bounds_test;
