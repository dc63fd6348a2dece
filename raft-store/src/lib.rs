//! Durable storage for many openraft groups in one process, over RocksDB.
//!
//! One [`Store`] holds two RocksDB instances that all groups share: the *log* (entries, votes,
//! committed pointers, purge points; behind a write-ahead log of this crate) and the *data* (the applied state;
//! without one).
//! A group is a number. [`Store::log`] and [`Store::machine`] give what openraft wants of it;
//! [`Machine`] is what the program provides.
//!
//! # What is durable when
//!
//! | operation | on return | survives a crash |
//! |---|---|---|
//! | `append` | the entries can be read | when its callback was called |
//! | `save_vote`, `truncate_after`, [`Store::set_meta`] | | on return |
//! | `save_committed`, `purge` | takes effect in memory | with the next synced batch, or not at all: never before the entries they concern |
//! | `apply` | can be read, replies were sent | its log entries do; the state itself after the next flush |
//! | [`Store::flush`] | | all that was applied before the call |
//! | `install_snapshot`, [`Store::drop_group`] | | on return; a crash before leaves all of the old or all of the new |
//!
//! # Invariants
//!
//! 1. All writes to the log go through one thread, first in, first out. What is durable is a prefix
//!    of what was asked for.
//! 2. After a crash the state of a group is what it was at some applied log id, exactly; the log
//!    holds every later entry, as `purge` goes no further than what a flush has covered.
//! 3. The content of a snapshot is the state at the log id of its meta, exactly.
//! 4. The first failed write or sync is the last write: see [`Store::failed`].
//! 5. A vote is never forgotten, not even with its replica.
//! 6. The height of the store goes down only if something that was synced is lost.
//!
//! Assumed of the disk: what was synced stays, and a directory is used as a whole. A directory that
//! is put back to an earlier state is a node that has forgotten its votes; the program must not let
//! such a store in under its old number. [`Store::id`] is there for telling an emptied one, and
//! [`Store::height`] for telling one that went back.
//!
//! # Memory
//!
//! Bounded by [`Options`]: block cache, memtables of both instances, newest log entries, the
//! writer's queue; besides that, per group that is applying, its batch and the overlay over it
//! (8 MiB and one command, each), a chunk per running snapshot transfer, and what readers hold.
//!
//! # What is not here
//!
//! No network, no clock that decides anything, no policy: when to flush, to snapshot and to purge is
//! for the program to say, with openraft's `SnapshotPolicy::Never`.

mod chunk;
mod data;
mod db;
pub mod entry;
mod error;
mod fork;
mod health;
mod keys;
mod load;
mod log;
mod log_files;
mod logs;
mod machine;
mod options;
mod read;
mod snapshot;
mod stats;
mod storage;
mod store;
mod txn;
pub mod types;
mod wal;
mod writer;

pub use chunk::{CHUNK_BYTES, CHUNK_HEADER_BYTES, Chunk, Position};
pub use db::FORMAT;
pub use error::{Fatal, StoreError};
pub use fork::{Owned, Owner, Run};
pub use log::LogSize;
pub use machine::{Machine, SnapshotBuilder, StateMachine};
pub use options::Options;
pub use read::{Reader, Scan, View};
pub use snapshot::{Sink, SnapshotData, Source, Staged};
pub use stats::Stats;
pub use storage::GroupLog;
pub use store::Store;
pub use txn::Txn;
pub use writer::Pending;
