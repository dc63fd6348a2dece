//! `POST /batch`: many operations at once. Those on one row are atomic together; per shard there is
//! one proposal, and all shards work at once. Reads of rows that the batch also changes travel with
//! the change, so that they see the row as it was right before it; other reads are queries.

use std::collections::BTreeMap;

use futures_util::{StreamExt as _, future::join_all, stream};
use serde::{Serialize, Serializer, ser::SerializeMap as _};

use super::{
    batch_ops::{self, Act, Op},
    cells::{not_understood, retry_mismatch, too_large},
    error::{Kind, Problem},
    limits::{MAX_BATCH_READS_IN_FLIGHT, MAX_BATCH_REPLY_BYTES, MAX_MAP_RETRIES},
    request::Call,
    response::{self, Response},
    retry::{Fingerprint, retry},
    values,
};
use crate::{
    command::{
        Action, Answer, Cell, Command, Condition, KV_COLUMN, KV_TABLE, OpResult, Query, Reply, Retry, RowOp,
        Version, Write, Written,
    },
    error::Error,
    ids::GroupId,
    router::{Consistency, Target},
};

/// `POST /batch`.
pub(crate) async fn post(mut call: Call) -> Result<Response, Problem> {
    let ops = batch_ops::parse(&call.body, call.max_value_bytes)?;
    let body = std::mem::take(&mut call.body);
    let token = |purpose: &str| {
        let path = ["batch", purpose];
        retry(&call.parts.headers, &call.parts.method, &path, |print: Fingerprint| print.part(&body))
    };
    let retry = token("rows")?;
    if let Some(anchor) = token("anchor")? {
        claim_key(&call, anchor).await?;
    }
    drop(body);

    let (rows, reads) = split_by_row(&ops, retry.is_some());
    let mut outcomes: Vec<Option<Outcome>> = Vec::new();
    outcomes.resize_with(ops.len(), || None);
    let (written, read) = tokio::join!(write_rows(&call, &ops, rows, retry), read_cells(&call, &ops, reads));
    let mut bytes_left = MAX_BATCH_REPLY_BYTES;
    for (index, outcome) in written.into_iter().chain(read) {
        outcomes[index] = Some(outcome.within(&mut bytes_left));
    }
    let missed = || Outcome::Failed(not_understood());
    let outcomes: Vec<_> = outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(missed)).collect();
    response::json(&outcomes)
}

/// What became of one operation.
#[derive(Debug)]
enum Outcome {
    Put(Version),
    Deleted(Version),
    Got(Cell),
    NotThere,
    Failed(Problem),
}

impl Outcome {
    /// Lets a value through while there is room for it in the reply.
    fn within(self, bytes_left: &mut usize) -> Self {
        let Outcome::Got(cell) = &self else { return self };
        match bytes_left.checked_sub(cell.bytes.len()) {
            Some(left) => {
                *bytes_left = left;
                self
            }
            None => Outcome::Failed(over_reply_limit()),
        }
    }
}

impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Conflict<'a> {
            #[serde(flatten)]
            problem: super::error::ProblemJson<'a>,
            version: Version,
        }
        let mut members = match self {
            Outcome::NotThere => {
                return Problem::new(Kind::NotFound, "the cell does not exist")
                    .to_json()
                    .serialize(serializer);
            }
            Outcome::Failed(problem) => {
                return match problem.current {
                    Some(version) => Conflict { problem: problem.to_json(), version }.serialize(serializer),
                    None => problem.to_json().serialize(serializer),
                };
            }
            Outcome::Put(_) | Outcome::Deleted(_) | Outcome::Got(_) => serializer.serialize_map(None)?,
        };
        members.serialize_entry("status", &200)?;
        match self {
            Outcome::Put(version) | Outcome::Deleted(version) => {
                members.serialize_entry("version", version)?
            }
            Outcome::Got(cell) => values::serialize_members(cell, &mut members)?,
            Outcome::NotThere | Outcome::Failed(_) => {}
        }
        members.end()
    }
}

fn over_reply_limit() -> Problem {
    Problem::new(
        Kind::TooLarge,
        format!(
            "the values read by one batch are more than {MAX_BATCH_REPLY_BYTES} bytes; read the rest by itself"
        ),
    )
}

/// The operations of a row that is changed, by index.
type RowOps = (String, Vec<usize>);

/// Parts rows that go through a log from cells that are only read. With an `Idempotency-Key` all go
/// through the log: what was read is part of the first answer too.
fn split_by_row(ops: &[Op], remembered: bool) -> (Vec<RowOps>, Vec<usize>) {
    let mut rows: BTreeMap<&str, (bool, Vec<usize>)> = BTreeMap::new();
    for (index, op) in ops.iter().enumerate() {
        let (logged, indexes) = rows.entry(&op.cell.row).or_insert((remembered, Vec::new()));
        *logged |= op.act != Act::Get || op.condition != Condition::Always;
        indexes.push(index);
    }
    let mut logged_rows = Vec::new();
    let mut reads = Vec::new();
    for (row, (logged, indexes)) in rows {
        if logged {
            logged_rows.push((row.to_owned(), indexes));
        } else {
            reads.extend(indexes);
        }
    }
    (logged_rows, reads)
}

/// Claims the `Idempotency-Key` for this body, in one place that depends on the key alone: another
/// body may touch other shards, which would not know that the key was used. Nothing of the batch
/// has been proposed yet, so whatever goes wrong, nothing was applied.
async fn claim_key(call: &Call, anchor: Retry) -> Result<(), Problem> {
    let op = RowOp {
        table: KV_TABLE.into(),
        action: Action::Get { column: KV_COLUMN.into() },
        condition: Condition::Always,
    };
    let write = Write { row: format!("{:032x}", anchor.key), ops: vec![op] };
    let command = Command { writes: vec![write], retry: Some(anchor) };
    match call.backend().write(command, call.deadline).await {
        Ok(Reply::Done(_)) => Ok(()),
        Ok(Reply::RetryMismatch) => Err(retry_mismatch()),
        Ok(Reply::NotHere | Reply::Split(_)) => Err(not_understood()),
        Err(Error::Unknown(why)) => Err(Problem::new(Kind::Unavailable, why)),
        Err(error) => Err(error.into()),
    }
}

/// Proposes the rows, one command per shard, all shards at once.
async fn write_rows(
    call: &Call,
    ops: &[Op],
    mut pending: Vec<RowOps>,
    retry: Option<Retry>,
) -> Vec<(usize, Outcome)> {
    let mut outcomes = Vec::with_capacity(ops.len());
    let mut map_retries = 0;
    while !pending.is_empty() {
        let mut shards: BTreeMap<GroupId, Vec<RowOps>> = BTreeMap::new();
        for (row, indexes) in pending.drain(..) {
            match call.backend().locate(&row) {
                Ok(located) => shards.entry(located.group).or_default().push((row, indexes)),
                Err(error) => fail(&mut outcomes, indexes, &error.into()),
            }
        }
        let proposals = shards.into_values().map(|rows| async {
            let writes = rows.iter().map(|(row, indexes)| write_of(ops, row, indexes)).collect();
            let command = Command { writes, retry: retry.clone() };
            (call.backend().write(command, call.deadline).await, rows)
        });
        for (reply, rows) in join_all(proposals).await {
            match reply {
                Ok(Reply::Done(written)) if written.len() == rows.len() => {
                    for ((_, indexes), written) in rows.into_iter().zip(written) {
                        row_outcomes(&mut outcomes, ops, indexes, written);
                    }
                }
                Ok(Reply::Done(_) | Reply::NotHere | Reply::Split(_)) => {
                    fail_rows(&mut outcomes, rows, &not_understood());
                }
                Ok(Reply::RetryMismatch) => fail_rows(&mut outcomes, rows, &retry_mismatch()),
                // A shard was split or moved since the map was read; nothing happened there.
                Err(Error::NotHere { .. }) if map_retries < MAX_MAP_RETRIES => pending.extend(rows),
                Err(error) => fail_rows(&mut outcomes, rows, &error.into()),
            }
        }
        map_retries += 1;
    }
    outcomes
}

fn write_of(ops: &[Op], row: &str, indexes: &[usize]) -> Write {
    let ops = indexes.iter().map(|index| {
        let Op { cell, act, condition } = &ops[*index];
        let column = cell.column.clone();
        let action = match act {
            Act::Put(value) => Action::Put { column, value: value.clone() },
            Act::Get => Action::Get { column },
            Act::Delete => Action::Delete { column },
        };
        RowOp { table: cell.table.clone(), action, condition: condition.clone() }
    });
    Write { row: row.to_owned(), ops: ops.collect() }
}

fn fail(outcomes: &mut Vec<(usize, Outcome)>, indexes: Vec<usize>, problem: &Problem) {
    outcomes.extend(indexes.into_iter().map(|index| (index, Outcome::Failed(problem.clone()))));
}

fn fail_rows(outcomes: &mut Vec<(usize, Outcome)>, rows: Vec<RowOps>, problem: &Problem) {
    for (_, indexes) in rows {
        fail(outcomes, indexes, problem);
    }
}

/// What became of the operations of one row.
fn row_outcomes(outcomes: &mut Vec<(usize, Outcome)>, ops: &[Op], indexes: Vec<usize>, written: Written) {
    match written {
        Written::Applied { version, results } if results.len() == indexes.len() => {
            for (index, result) in indexes.into_iter().zip(results) {
                let outcome = match (&ops[index].act, result) {
                    (Act::Put(_), OpResult::Put) => Outcome::Put(version),
                    (Act::Delete, OpResult::Deleted(0)) | (Act::Get, OpResult::Got(None)) => {
                        Outcome::NotThere
                    }
                    (Act::Delete, OpResult::Deleted(_)) => Outcome::Deleted(version),
                    (Act::Get, OpResult::Got(Some(cell))) => Outcome::Got(cell),
                    _ => Outcome::Failed(not_understood()),
                };
                outcomes.push((index, outcome));
            }
        }
        Written::Applied { .. } => fail(outcomes, indexes, &not_understood()),
        Written::TooLarge => fail(outcomes, indexes, &too_large()),
        Written::Failed { op, current } => {
            for (at, index) in indexes.into_iter().enumerate() {
                let problem = if at == op as usize {
                    Problem::precondition_failed(current)
                } else {
                    Problem::new(Kind::FailedDependency, "another operation on this row failed its condition")
                };
                outcomes.push((index, Outcome::Failed(problem)));
            }
        }
    }
}

/// Reads cells of rows that the batch does not change.
async fn read_cells(call: &Call, ops: &[Op], reads: Vec<usize>) -> Vec<(usize, Outcome)> {
    let read = |index: usize| async move {
        let cell = &ops[index].cell;
        let query =
            Query::Cell { table: cell.table.clone(), row: cell.row.clone(), column: cell.column.clone() };
        let answer =
            call.backend().ask(Target::Row(&cell.row), query, Consistency::Linearizable, call.deadline).await;
        let outcome = match answer {
            Ok(Answer::Cell(cell)) => Outcome::Got(cell),
            Ok(Answer::Missing(_)) => Outcome::NotThere,
            Ok(_) => Outcome::Failed(Problem::unexpected_answer()),
            Err(error) => Outcome::Failed(error.into()),
        };
        (index, outcome)
    };
    let mut bytes_left = MAX_BATCH_REPLY_BYTES;
    let mut outcomes = Vec::with_capacity(reads.len());
    let mut answers = stream::iter(reads).map(read).buffer_unordered(MAX_BATCH_READS_IN_FLIGHT);
    while let Some((index, outcome)) = answers.next().await {
        outcomes.push((index, outcome.within(&mut bytes_left)));
    }
    outcomes
}
