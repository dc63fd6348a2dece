//! One shard's data as a pure state machine: cells with versions, conditions, expiry, and the
//! remembered answers to repeated requests.
//!
//! Not here: who leads, what is on which disk, when an entry is committed. The state is a range of
//! keys behind [`view::View`]; [`machine::apply`] turns a command into changes of it, and
//! [`query::answer`] reads it.

pub mod cell;
pub mod keys;
pub mod machine;
pub mod query;
pub mod view;

mod dedup;
mod meta;

#[cfg(test)]
mod bounds_test;
