//! What can go wrong in the store, in words for the person who runs it.
//!
//! Two kinds matter to callers: errors of one group or one call (`Dropped`, `Snapshot…`,
//! `PurgeAhead`), and errors that end the store (`Poisoned` and what caused it). After the latter
//! nothing is written any more: what the disk then holds is unknown, and guessing is how
//! acknowledged writes are lost.

use std::io;
use std::path::PathBuf;

/// An error of the store.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// A file or directory of the store could not be used.
    #[error("cannot {verb} {}: {reason}", .path.display())]
    File {
        /// What was tried, as in "cannot create".
        verb: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        reason: String,
    },
    /// Another process holds the directory.
    #[error(
        "the directory {} is in use by another process; stop that process or choose another directory",
        .dir.display()
    )]
    Locked {
        /// The store's directory.
        dir: PathBuf,
    },
    /// A later version of the program wrote the directory.
    #[error(
        "the directory {} was written in store format {found}, but this program reads formats up to \
         {known}; start it with the newer program that wrote it",
        .dir.display()
    )]
    NewerFormat {
        /// The store's directory.
        dir: PathBuf,
        /// The format found there.
        found: u8,
        /// The newest format this program reads.
        known: u8,
    },
    /// The parts of the directory do not belong together, or a part is missing.
    #[error(
        "the directory {} is damaged: {what}; start this node with an empty directory, and its data \
         is copied from the other nodes",
        .dir.display()
    )]
    Damaged {
        /// The store's directory.
        dir: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// RocksDB failed.
    #[error("RocksDB cannot {verb}: {reason}")]
    Engine {
        /// What was tried, as in "cannot write the log".
        verb: &'static str,
        /// What RocksDB said.
        reason: String,
    },
    /// A stored or received record cannot be read.
    #[error("{what} cannot be decoded: {reason}")]
    Corrupt {
        /// The kind of record.
        what: &'static str,
        /// Where it breaks.
        reason: &'static str,
    },
    /// An earlier write failed; the store takes no further one.
    #[error("the store stopped after a failed write: {0}; check the disk and restart this node")]
    Poisoned(String),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// The handle belongs to a replica that was dropped.
    #[error("the replica of group {0} on this node was dropped; open the group anew")]
    Dropped(u64),
    /// A second state machine was asked for while the first is in use.
    #[error("group {0} already has a state machine in this process; drop it first")]
    InUse(u64),
    /// Entries were appended that do not follow the log's last one.
    #[error("group {group}: entry {index} does not follow the log, which ends before {expected}")]
    Hole {
        /// The group.
        group: u64,
        /// The index that was to be appended.
        index: u64,
        /// The index that the log can take.
        expected: u64,
    },
    /// A purge reaches beyond what the state machine has made durable.
    #[error(
        "group {group}: log entries up to {index} cannot be purged, as they are not applied and durable yet"
    )]
    PurgeAhead {
        /// The group.
        group: u64,
        /// The index to purge up to.
        index: u64,
    },
    /// A chunk of a snapshot arrived damaged; ask for it again from the sink's position.
    #[error("chunk {seq} of a snapshot is damaged: {reason}")]
    SnapshotChunk {
        /// The chunk's number.
        seq: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A chunk of a snapshot is not the next one; ask again from the sink's position.
    #[error("chunk {found} of a snapshot arrived where chunk {expected} is next")]
    SnapshotOrder {
        /// The next chunk's number.
        expected: u64,
        /// The number that came.
        found: u64,
    },
    /// A snapshot cannot be used here.
    #[error("group {group}: the snapshot cannot be used: {reason}")]
    SnapshotRefused {
        /// The group.
        group: u64,
        /// Why.
        reason: &'static str,
    },
}

impl StoreError {
    pub(crate) fn engine(verb: &'static str) -> impl FnOnce(rocksdb::Error) -> StoreError {
        move |error| StoreError::Engine { verb, reason: error.into_string() }
    }

    pub(crate) fn file(
        verb: &'static str,
        path: &std::path::Path,
    ) -> impl FnOnce(io::Error) -> StoreError + use<> {
        let path = path.to_owned();
        move |error| StoreError::File { verb, path, reason: error.to_string() }
    }

    /// True if a chunk was refused and the same transfer may go on from the sink's position.
    pub fn is_chunk_error(&self) -> bool {
        matches!(self, StoreError::SnapshotChunk { .. } | StoreError::SnapshotOrder { .. })
    }
}

impl From<StoreError> for io::Error {
    fn from(error: StoreError) -> io::Error {
        io::Error::other(error)
    }
}

/// Why a [`crate::Machine`] cannot go on. The replica stops: had it answered and gone on, it would
/// differ from the others.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct Fatal(pub String);

impl From<StoreError> for Fatal {
    fn from(error: StoreError) -> Fatal {
        Fatal(error.to_string())
    }
}
