//! Quoring: a distributed key-value store over plain HTTP, sharded by a consistent-hash ring, each
//! shard its own Raft group. See `docs/ARCHITECTURE.md` for the life of a write and of a read.
//!
//! Layers, lowest first; a module uses its own folder and lower layers only (`tests/tidy.rs`).

pub mod command;
pub mod config;
pub mod error;
pub mod ids;
pub mod units;

pub mod ring;

pub mod coordinator;
pub mod shard;

pub mod clock;
pub mod metrics;

pub mod peer;

pub mod consensus;

pub mod client;
pub mod router;

pub mod http;

pub mod node;

pub mod cli;
pub mod launcher;
