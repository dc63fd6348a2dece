//! Placement as pure functions: row → position → shard → workers.

pub mod map;
pub mod partitioner;
pub mod placement;
