//! The shard's state machine: a command, the time its leader stamped on it, and the state before
//! give the reply and the changes, the same on every replica.
//!
//! Rules that are decided here and nowhere else:
//! - Time is the entry's [`At`], and never goes back: an entry with an earlier stamp than one before
//!   it counts as of that one's time.
//! - A cell is absent from its expiry on, for conditions, reads and deletes alike. Its space is
//!   reclaimed by later commands, a bounded number of cells each; a command without writes does
//!   nothing else ([`wants_upkeep`] says when one is worthwhile).
//! - A command with a row outside of the shard's arc is refused as a whole and leaves no trace: what
//!   it wants is another shard's to decide.
//! - Versions come from one counter of the shard. A write takes the next one if it puts a cell or
//!   removes one; a write that only reads, or deletes what is not there, takes none.
//! - The writes of a command happen in order, each on the state that the ones before it left. Within
//!   a write, all conditions and reads are of the state before it.
//! - A row of a command with a retry key that was seen within ten minutes gets its first answer
//!   again and is not changed; with another fingerprint the command is refused. It is by the row, as
//!   a request may come again when some of its rows belong to another shard.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::{
    Shard,
    cell::{self, Header},
    dedup, keys,
    meta::Meta,
    reclaim,
    view::{Fatal, Overlay, State, View, Writes},
};
use crate::{
    command::{
        Action, At, Command, Condition, MAX_READ_BYTES, MAX_ROW_CELLS, OpResult, Reply, RowOp, Value,
        Version, Write, Written,
    },
    ids::Position,
    ring::partitioner,
};

/// The most expired cells that a command removes, beside one for each of its operations: so a shard
/// reclaims at least as fast as it is written to, and no command costs much more than its own work.
pub const RECLAIM_MAX_CELLS: usize = 64;

/// Applies one command on its own.
pub fn apply<V: View + ?Sized>(
    view: &V,
    shard: Shard,
    command: &Command<impl AsRef<str>, impl AsRef<[u8]>>,
    at: At,
) -> Result<(Reply, Writes), Fatal> {
    let mut state = Overlay::new(view);
    let reply = apply_to(&mut state, shard, command, at)?;
    Ok((reply, state.into_writes()))
}

/// Applies a command on top of those already in `state`.
pub fn apply_to<S: State + ?Sized>(
    state: &mut S,
    shard: Shard,
    command: &Command<impl AsRef<str>, impl AsRef<[u8]>>,
    at: At,
) -> Result<Reply, Fatal> {
    let mut meta = Meta::read(state, shard)?;
    let position = |row: &str| partitioner::position(shard.partitioner, row);
    let mut rows = command.writes.iter().map(|write| write.row.as_ref());
    if meta.arc.is_some() && !rows.all(|row| meta.has(position(row))) {
        return Ok(Reply::NotHere);
    }
    let now = at.max(meta.last_at);
    meta.last_at = now;
    dedup::forget_old(state, shard, &mut meta, now)?;
    let first = match &command.retry {
        Some(retry) => dedup::find(state, shard, retry, now)?,
        None => None,
    };
    let known = first.as_ref().map(|first| first.of(command));
    let reply = match known {
        Some(dedup::Known::All(reply)) => reply,
        known => {
            let mut answers = match known {
                Some(dedup::Known::Some(answers)) => answers,
                _ => vec![None; command.writes.len()],
            };
            let ops: usize = command.writes.iter().map(|write| write.ops.len()).sum();
            reclaim::reclaim(state, &mut meta, now, RECLAIM_MAX_CELLS + ops)?;
            let mut apply = Apply { state, meta: &mut meta, now, readable_bytes: MAX_READ_BYTES };
            for (write, answer) in command.writes.iter().zip(&mut answers) {
                if answer.is_none() {
                    *answer = Some(apply.write(position(write.row.as_ref()), write)?);
                }
            }
            let written: Vec<Written> = answers.into_iter().flatten().collect();
            if let Some(retry) = &command.retry {
                let rows = command.writes.iter().map(|write| write.row.as_ref());
                dedup::remember(state, shard, &mut meta, retry, first, rows.zip(&written), now)?;
            }
            Reply::Done(written)
        }
    };
    meta.write(state, shard)?;
    Ok(reply)
}

/// Whether there is space to reclaim: then an empty command, proposed while nobody writes, does it.
pub fn wants_upkeep(view: &(impl View + ?Sized), shard: Shard, now: At) -> Result<bool, Fatal> {
    let meta = Meta::read(view, shard)?;
    Ok(meta.next_forget <= now || reclaim::is_wanted(view, &meta, now)?)
}

/// The first operation of a write that keeps it from happening.
enum Obstacle {
    Condition { op: u32, current: Option<Version> },
    TooLarge,
}

/// What phase one found out about an operation.
struct Looked {
    /// The bytes of its cell, where they were read, live or not.
    cell: Option<Option<Bytes>>,
    /// What a `Get` returns.
    got: Option<crate::command::Cell>,
}

struct Apply<'a, S: ?Sized> {
    state: &'a mut S,
    meta: &'a mut Meta,
    now: At,
    /// What the command's remaining `Get`s may return.
    readable_bytes: usize,
}

impl<S: State + ?Sized> Apply<'_, S> {
    fn write(
        &mut self,
        position: Position,
        write: &Write<impl AsRef<str>, impl AsRef<[u8]>>,
    ) -> Result<Written, Fatal> {
        let row = write.row.as_ref();
        let mut looked = Vec::with_capacity(write.ops.len());
        let readable_bytes = self.readable_bytes;
        for (index, op) in write.ops.iter().enumerate() {
            match self.look(index, position, row, op)? {
                Ok(found) => looked.push(found),
                Err(obstacle) => {
                    self.readable_bytes = readable_bytes;
                    return Ok(match obstacle {
                        Obstacle::Condition { op, current } => Written::Failed { op, current },
                        Obstacle::TooLarge => Written::TooLarge,
                    });
                }
            }
        }
        let version = self.meta.version + 1;
        // With several operations, an earlier one may have changed what a later one had looked at.
        let alone = write.ops.len() == 1;
        let mut changed = false;
        let mut results = Vec::with_capacity(write.ops.len());
        for (op, looked) in write.ops.iter().zip(looked) {
            let known = if alone { looked.cell } else { None };
            let result = match &op.action {
                Action::Get { .. } => OpResult::Got(looked.got),
                Action::Put { column, value } => {
                    let key = keys::cell(op.table.as_ref(), position, row, column.as_ref());
                    self.put(position, key, known, version, value)?;
                    OpResult::Put
                }
                Action::Delete { column } => {
                    let key = keys::cell(op.table.as_ref(), position, row, column.as_ref());
                    OpResult::Deleted(self.delete(position, key, known)?)
                }
                Action::DeleteRow => OpResult::Deleted(self.delete_row(op.table.as_ref(), position, row)?),
            };
            changed |= !matches!(result, OpResult::Got(_) | OpResult::Deleted(0));
            results.push(result);
        }
        if changed {
            self.meta.version = version;
        }
        Ok(Written::Applied { version: self.meta.version, results })
    }

    /// Reads what an operation needs of the state before its write, and judges its condition.
    fn look(
        &mut self,
        index: usize,
        position: Position,
        row: &str,
        op: &RowOp<impl AsRef<str>, impl AsRef<[u8]>>,
    ) -> Result<Result<Looked, Obstacle>, Fatal> {
        let table = op.table.as_ref();
        let (cell, current) = match &op.action {
            Action::DeleteRow => match self.row_version(table, position, row)? {
                Some(current) => (None, current),
                None => return Ok(Err(Obstacle::TooLarge)),
            },
            // A write that depends on nothing reads nothing.
            Action::Put { .. } if op.condition == Condition::Always => (None, None),
            Action::Get { column } | Action::Put { column, .. } | Action::Delete { column } => {
                let cell = self.state.get(&keys::cell(table, position, row, column.as_ref()))?;
                let current = match &cell {
                    Some(bytes) => {
                        let (header, _) = cell::read(bytes)?;
                        header.is_live(self.now).then_some(header.version)
                    }
                    None => None,
                };
                (Some(cell), current)
            }
        };
        if !holds(&op.condition, current) {
            let op = u32::try_from(index).unwrap_or(u32::MAX);
            return Ok(Err(Obstacle::Condition { op, current }));
        }
        let got = match (&op.action, &cell) {
            (Action::Get { .. }, Some(Some(bytes))) if current.is_some() => {
                if bytes.len() > self.readable_bytes {
                    return Ok(Err(Obstacle::TooLarge));
                }
                self.readable_bytes -= bytes.len();
                Some(cell::decode(bytes)?)
            }
            _ => None,
        };
        Ok(Ok(Looked { cell, got }))
    }

    fn put(
        &mut self,
        position: Position,
        key: Vec<u8>,
        known: Option<Option<Bytes>>,
        version: Version,
        value: &Value<impl AsRef<str>, impl AsRef<[u8]>>,
    ) -> Result<(), Fatal> {
        if self.meta.expiring > 0
            && let Some(old) = self.find(&key, known)?
        {
            self.forget_expiry(position, &key, &old)?;
        }
        let expires_at = value.ttl_ms.map(|ttl_ms| At(self.now.0.saturating_add(ttl_ms)));
        let content_type = value.content_type.as_ref().map(AsRef::as_ref);
        let header = Header { version, written_at: self.now, expires_at, content_type };
        if let Some(expires_at) = expires_at {
            self.state.put(keys::expiry(expires_at, position, &key), Bytes::new());
            self.meta.expiring += 1;
            self.meta.marks_from = self.meta.marks_from.min(expires_at);
            self.meta.next_expiry = self.meta.next_expiry.min(expires_at);
        }
        self.state.put(key, cell::encode(&header, value.bytes.as_ref())?);
        Ok(())
    }

    /// Removes a cell; how many live ones that were.
    fn delete(
        &mut self,
        position: Position,
        key: Vec<u8>,
        known: Option<Option<Bytes>>,
    ) -> Result<u64, Fatal> {
        let Some(old) = self.find(&key, known)? else { return Ok(0) };
        let (header, _) = cell::read(&old)?;
        self.forget_expiry(position, &key, &old)?;
        self.state.delete(key);
        Ok(u64::from(header.is_live(self.now)))
    }

    fn delete_row(&mut self, table: &str, position: Position, row: &str) -> Result<u64, Fatal> {
        let mut found = Vec::new();
        self.scan_row(table, position, row, |key, header| {
            found.push((key.to_vec(), header.expires_at));
            ControlFlow::Continue(())
        })?;
        let mut removed = 0;
        for (key, expires_at) in found {
            removed += u64::from(expires_at.is_none_or(|at| self.now < at));
            self.forget_mark(position, &key, expires_at);
            self.state.delete(key);
        }
        Ok(removed)
    }

    /// The version of the newest live cell of a row; `None` where the row has more than
    /// [`MAX_ROW_CELLS`].
    fn row_version(
        &self,
        table: &str,
        position: Position,
        row: &str,
    ) -> Result<Option<Option<Version>>, Fatal> {
        let mut cells = 0;
        let mut newest = None;
        self.scan_row(table, position, row, |_, header| {
            cells += 1;
            if header.is_live(self.now) {
                newest = newest.max(Some(header.version));
            }
            if cells > MAX_ROW_CELLS { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok((cells <= MAX_ROW_CELLS).then_some(newest))
    }

    fn scan_row(
        &self,
        table: &str,
        position: Position,
        row: &str,
        mut visit: impl FnMut(&[u8], &Header<'_>) -> ControlFlow<()>,
    ) -> Result<(), Fatal> {
        let (from, to) = keys::row(table, position, row);
        let mut outcome = Ok(());
        self.state.scan(&from, &to, &mut |key, bytes| match cell::read(bytes) {
            Ok((header, _)) => visit(key, &header),
            Err(fatal) => {
                outcome = Err(fatal);
                ControlFlow::Break(())
            }
        })?;
        outcome
    }

    fn find(&self, key: &[u8], known: Option<Option<Bytes>>) -> Result<Option<Bytes>, Fatal> {
        match known {
            Some(known) => Ok(known),
            None => self.state.get(key),
        }
    }

    fn forget_expiry(&mut self, position: Position, key: &[u8], old: &[u8]) -> Result<(), Fatal> {
        let (header, _) = cell::read(old)?;
        self.forget_mark(position, key, header.expires_at);
        Ok(())
    }

    fn forget_mark(&mut self, position: Position, key: &[u8], expires_at: Option<At>) {
        if let Some(expires_at) = expires_at {
            self.state.delete(keys::expiry(expires_at, position, key));
            self.meta.expiring = self.meta.expiring.saturating_sub(1);
        }
    }
}

fn holds(condition: &Condition, current: Option<Version>) -> bool {
    match condition {
        Condition::Always => true,
        Condition::Exists => current.is_some(),
        Condition::Absent => current.is_none(),
        Condition::VersionIn(versions) => current.is_some_and(|version| versions.contains(&version)),
        Condition::VersionNotIn(versions) => current.is_none_or(|version| !versions.contains(&version)),
    }
}
