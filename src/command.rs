//! What a client may ask of a shard: commands, which change it and go through its log, and queries.
//! Plain data with limits; what they mean is in `shard::machine` and `shard::query`.
//!
//! The encoding (postcard) is part of the log's and the peers' format: fields are only appended,
//! behind a new format version (docs/FORMATS.md).

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::{GroupId, Position, Span};

/// The longest table, row or column name, in bytes of UTF-8. The shortest is 1.
pub const MAX_NAME_BYTES: usize = 1024;

/// The most operations in one `POST /batch`.
pub const MAX_BATCH_OPS: usize = 10_000;

/// The largest body of one `POST /batch`, in bytes as sent.
pub const MAX_BATCH_BYTES: usize = 32 << 20;

/// The most bytes of names and values that a command's `Get`s, or a query for a row, may return.
pub const MAX_READ_BYTES: usize = 64 << 20;

/// The most cells that one [`Action::DeleteRow`] removes.
pub const MAX_ROW_CELLS: usize = 100_000;

/// The column under which the flat keys of `/kv/{key}` keep their value, and their table.
pub const KV_COLUMN: &str = "value";
/// See [`KV_COLUMN`].
pub const KV_TABLE: &str = "kv";

/// Milliseconds since the Unix epoch, stamped into an entry by the leader that proposed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct At(pub u64);

/// A number that a shard gives to a write; it only grows. The `ETag` of a cell.
pub type Version = u64;

/// What a shard's leader may put into its log. `T` are its texts and `B` its values: owned, or, where it
/// is only looked at, borrowed from its encoding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Proposal<T = String, B = Bytes> {
    /// A client's.
    Command(Command<T, B>),
    /// The shard's own, as the map wants it.
    Split(Split),
}

/// Gives the upper part of a shard's arc to a new shard, with all that is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// The new shard.
    pub child: GroupId,
    /// Where its arc begins; it ends where the parent's did.
    pub at: Position,
    /// The parent's arc before, for a parent that was never split and does not know it.
    pub arc: Span,
}

/// One change of a shard. All writes of a command lie in the same shard; each is atomic on its own.
/// `T` and `B` as in [`Proposal`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command<T = String, B = Bytes> {
    /// Applied in order.
    pub writes: Vec<Write<T, B>>,
    /// Set where the client may repeat the request.
    pub retry: Option<Retry>,
}

/// A client's name for a request, so that a repeat gives the first answer again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// The scope (method and path) and the client's `Idempotency-Key`, hashed to 128 bits.
    pub key: u128,
    /// A hash of everything in the request that decides its meaning: another body is refused.
    pub fingerprint: u128,
}

/// Operations on one row: all of them happen, or none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write<T = String, B = Bytes> {
    /// The row, whose hash decides the shard.
    pub row: T,
    /// At least one. Conditions and `Get`s see the row as it was before this write; then the others
    /// happen in order, so that of two on the same cell the later one stands.
    pub ops: Vec<RowOp<T, B>>,
}

/// One operation on a row, in one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowOp<T = String, B = Bytes> {
    /// The table.
    pub table: T,
    /// What to do there.
    pub action: Action<T, B>,
    /// What must hold first.
    pub condition: Condition,
}

/// What a [`RowOp`] does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action<T = String, B = Bytes> {
    /// Reads a cell.
    Get {
        /// The column.
        column: T,
    },
    /// Writes a cell.
    Put {
        /// The column.
        column: T,
        /// The value and what is kept beside it.
        value: Value<T, B>,
    },
    /// Removes a cell; where there is none, nothing happens.
    Delete {
        /// The column.
        column: T,
    },
    /// Removes every cell of the row in this table.
    DeleteRow,
}

/// A value on its way into a cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Value<T = String, B = Bytes> {
    /// The bytes.
    pub bytes: B,
    /// The `Content-Type` it was stored with.
    pub content_type: Option<T>,
    /// Milliseconds to live, counted from the entry's [`At`].
    pub ttl_ms: Option<u64>,
}

/// What must hold of a cell for an operation to happen (RFC 9110, section 13). Of a row
/// ([`Action::DeleteRow`]): of its newest cell in the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// Always.
    Always,
    /// The cell exists (`If-Match: *`).
    Exists,
    /// The cell does not exist (`If-None-Match: *`, `if_version: 0`).
    Absent,
    /// The cell exists at one of these versions (`If-Match: "3", "7"`).
    VersionIn(Vec<Version>),
    /// The cell does not exist at one of these versions (`If-None-Match: "3"`).
    VersionNotIn(Vec<Version>),
}

/// The answer to a [`Command`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// One per [`Write`], in order.
    Done(Vec<Written>),
    /// The retry key was used before with another request. Nothing happened.
    RetryMismatch,
    /// A row of the command is not in the shard's arc any more. Nothing happened.
    NotHere,
    /// The answer to a [`Split`]: whether this did it; it was done before, or cannot be, if not.
    Split(bool),
}

/// What became of one [`Write`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Written {
    /// It happened.
    Applied {
        /// The one version of this write. A write that changed nothing uses none up, and this is the
        /// last one given out.
        version: Version,
        /// One per operation, in order.
        results: Vec<OpResult>,
    },
    /// A condition did not hold: nothing of this write happened.
    Failed {
        /// The index of the first operation whose condition failed.
        op: u32,
        /// The version of its cell, `None` where there is none.
        current: Option<Version>,
    },
    /// Nothing of this write happened: what its operations read would exceed [`MAX_READ_BYTES`]
    /// over the whole command, or it removes a row of more than [`MAX_ROW_CELLS`] cells.
    TooLarge,
}

/// What became of one operation of an applied write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OpResult {
    /// The cell was written, at the write's version.
    Put,
    /// How many cells were removed: 0 means that there was nothing.
    Deleted(u64),
    /// What was read.
    Got(Option<Cell>),
}

/// A cell as a reader sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// Its version.
    pub version: Version,
    /// When it was written.
    pub written_at: At,
    /// From when on it is absent.
    pub expires_at: Option<At>,
    /// The `Content-Type` it was stored with.
    pub content_type: Option<String>,
    /// The value.
    pub bytes: Bytes,
}

/// A question to one shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// One cell.
    Cell {
        /// Its table.
        table: String,
        /// Its row.
        row: String,
        /// Its column.
        column: String,
    },
    /// All cells of a row in a table.
    Row {
        /// Its table.
        table: String,
        /// The row.
        row: String,
    },
    /// Whether the table has a cell in this shard.
    HasTable {
        /// The table.
        table: String,
    },
    /// The tables that have a cell in this shard, in order.
    Tables {
        /// Only those behind this name.
        after: Option<String>,
        /// The most to return.
        limit: u32,
    },
    /// Rows of a table in ring order, from within this shard.
    Scan(Scan),
}

/// A page of a table within one shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scan {
    /// The table.
    pub table: String,
    /// Only rows with this prefix; empty for all.
    pub prefix: String,
    /// Only rows from this name on.
    pub from: Option<String>,
    /// Only rows before this name.
    pub to: Option<String>,
    /// Only rows behind this place in ring order: position and row of the last row already seen.
    pub after: Option<(u64, String)>,
    /// Only this column of each row; rows without it are skipped.
    pub column: Option<String>,
    /// Whether values are wanted, or only names and versions.
    pub values: bool,
    /// The most rows to return.
    pub limit: u32,
    /// The most bytes of names and values to return; at least one row is returned.
    pub max_bytes: u32,
}

/// The answer to a [`Query`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The cell asked for.
    Cell(Cell),
    /// The row asked for, at least one column, in order.
    Row(Vec<(String, Cell)>),
    /// What was asked for is not there.
    Missing(Missing),
    /// A row is larger than [`MAX_READ_BYTES`]: ask for its columns one by one.
    TooLarge,
    /// Whether the table has a cell here.
    HasTable(bool),
    /// The tables here.
    Tables(Vec<String>),
    /// The rows found, in ring order.
    Rows {
        /// The rows: position, name, columns.
        rows: Vec<ScannedRow>,
        /// The place to go on from ([`Scan::after`]), `None` where the shard has no more. May come
        /// with few rows, or none: a query looks at a bounded number of cells.
        next: Option<(u64, String)>,
    },
}

/// A row found by a scan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScannedRow {
    /// Its place on the ring.
    pub position: u64,
    /// Its name.
    pub row: String,
    /// Its columns, in order, at least one.
    pub columns: Vec<(String, Cell)>,
}

/// The outermost thing that is not there, as far as one shard can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Missing {
    /// The table has no cell in this shard; it may have one in another.
    Table,
    /// The row has no cell in this table.
    Row,
    /// The row is there, the column is not.
    Column,
}
