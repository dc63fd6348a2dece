//! The shard machine against a model: ordered maps, a clock and counters, without keys, codecs,
//! marks of expiry or bounds on upkeep.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use quoring::{
    command::{
        Action, Answer, At, Cell, Command, Condition, Missing, OpResult, Proposal, Query, Reply, Retry,
        RowOp, Scan, ScannedRow, Value, Version, Write, Written,
    },
    config::Partitioner,
    ids::{GroupId, Span},
    ring::partitioner::position,
    router::calls::encode_command,
    shard::{Shard, machine, query, view::Overlay, view::Writes},
};

pub(super) const ANSWER_AGE_MS: u64 = 600_000;

pub(super) type Keys = BTreeMap<Vec<u8>, Bytes>;

/// What became of the rows of a request.
type Rows = Vec<(String, Written)>;

/// What the machine must be indistinguishable from.
#[derive(Default, Clone)]
pub(super) struct Model {
    now: u64,
    version: Version,
    /// By table, row, column.
    cells: BTreeMap<(String, String, String), Cell>,
    /// By retry key: the time, the fingerprint, and what became of each row.
    answers: BTreeMap<u128, (u64, u128, Rows)>,
}

impl Model {
    /// Keeps what is of these rows, and all that is of none.
    pub(super) fn retain(&mut self, is_kept: impl Fn(&str) -> bool) {
        self.cells.retain(|(_, row, _), _| is_kept(row));
    }

    pub(super) fn now(&self) -> u64 {
        self.now
    }

    pub(super) fn apply(&mut self, command: &Command, at: At) -> Reply {
        self.now = self.now.max(at.0);
        let now = self.now;
        self.cells.retain(|_, cell| cell.expires_at.is_none_or(|at| now < at.0));
        self.answers.retain(|_, (at, ..)| now < *at + ANSWER_AGE_MS);
        if let Some(retry) = &command.retry
            && let Some((_, fingerprint, _)) = self.answers.get(&retry.key)
            && *fingerprint != retry.fingerprint
        {
            return Reply::RetryMismatch;
        }
        let first = command.retry.as_ref().and_then(|retry| self.answers.get(&retry.key).cloned());
        let first = first.map(|(_, _, rows)| rows).unwrap_or_default();
        let is_repeat = command.writes.iter().map(|write| &write.row).eq(first.iter().map(|(row, _)| row));
        if is_repeat && command.retry.as_ref().is_some_and(|retry| self.answers.contains_key(&retry.key)) {
            return Reply::Done(first.into_iter().map(|(_, written)| written).collect());
        }
        let known = |row: &String| first.iter().rev().find(|(known, _)| known == row).map(|(_, w)| w.clone());
        let all_known = command.writes.iter().all(|write| known(&write.row).is_some());
        let written: Vec<Written> = command
            .writes
            .iter()
            .map(|write| known(&write.row).unwrap_or_else(|| self.write(write)))
            .collect();
        if let Some(retry) = &command.retry
            && !(all_known && self.answers.contains_key(&retry.key))
        {
            let rows = command.writes.iter().map(|write| write.row.clone());
            let mut rows: Vec<(String, Written)> = rows.zip(written.iter().cloned()).collect();
            let new: Vec<String> = rows.iter().map(|(row, _)| row.clone()).collect();
            rows.extend(first.iter().filter(|(row, _)| !new.contains(row)).cloned());
            self.answers.insert(retry.key, (now, retry.fingerprint, rows));
        }
        let reply = Reply::Done(written);
        // A cell that lives for no time is gone before anybody can look.
        self.cells.retain(|_, cell| cell.expires_at.is_none_or(|at| now < at.0));
        reply
    }

    fn write(&mut self, write: &Write) -> Written {
        let now = self.now;
        self.cells.retain(|_, cell| cell.expires_at.is_none_or(|at| now < at.0));
        let before = self.cells.clone();
        for (index, op) in write.ops.iter().enumerate() {
            let current = match &op.action {
                Action::DeleteRow => before
                    .iter()
                    .filter(|((table, row, _), _)| (table, row) == (&op.table, &write.row))
                    .map(|(_, cell)| cell.version)
                    .max(),
                Action::Get { column } | Action::Put { column, .. } | Action::Delete { column } => {
                    let key = (op.table.clone(), write.row.clone(), column.clone());
                    before.get(&key).map(|cell| cell.version)
                }
            };
            let holds = match &op.condition {
                Condition::Always => true,
                Condition::Exists => current.is_some(),
                Condition::Absent => current.is_none(),
                Condition::VersionIn(these) => these.iter().any(|version| Some(*version) == current),
                Condition::VersionNotIn(these) => these.iter().all(|version| Some(*version) != current),
            };
            if !holds {
                return Written::Failed { op: index as u32, current };
            }
        }
        let version = self.version + 1;
        let results: Vec<OpResult> = write
            .ops
            .iter()
            .map(|op| {
                let key = |column: &String| (op.table.clone(), write.row.clone(), column.clone());
                match &op.action {
                    Action::Get { column } => OpResult::Got(before.get(&key(column)).cloned()),
                    Action::Put { column, value } => {
                        let cell = Cell {
                            version,
                            written_at: At(now),
                            expires_at: value.ttl_ms.map(|ttl| At(now.saturating_add(ttl))),
                            content_type: value.content_type.clone(),
                            bytes: value.bytes.clone(),
                        };
                        self.cells.insert(key(column), cell);
                        OpResult::Put
                    }
                    Action::Delete { column } => {
                        let cell = self.cells.remove(&key(column));
                        let live = cell.is_some_and(|cell| cell.expires_at.is_none_or(|at| now < at.0));
                        OpResult::Deleted(u64::from(live))
                    }
                    Action::DeleteRow => {
                        let mut removed = 0;
                        self.cells.retain(|(table, row, _), cell| {
                            let is_of_row = (table, row) == (&op.table, &write.row);
                            removed += u64::from(is_of_row && cell.expires_at.is_none_or(|at| now < at.0));
                            !is_of_row
                        });
                        OpResult::Deleted(removed)
                    }
                }
            })
            .collect();
        if results.iter().any(|result| !matches!(result, OpResult::Got(_) | OpResult::Deleted(0))) {
            self.version = version;
        }
        Written::Applied { version: self.version, results }
    }

    /// The live cells at a reader's time.
    pub(super) fn live(&self, now: At) -> BTreeMap<(String, String, String), Cell> {
        let now = now.0.max(self.now);
        let mut cells = self.cells.clone();
        cells.retain(|_, cell| cell.expires_at.is_none_or(|at| now < at.0));
        cells
    }

    pub(super) fn answer(&self, query: &Query, now: At, partitioner: Partitioner) -> Answer {
        let cells = self.live(now);
        let missing = |table: &String, row: &String| {
            let has_row = cells.keys().any(|(t, r, _)| (t, r) == (table, row));
            let has_table = cells.keys().any(|(t, ..)| t == table);
            Answer::Missing(match (has_table, has_row) {
                (_, true) => Missing::Column,
                (true, _) => Missing::Row,
                _ => Missing::Table,
            })
        };
        let columns = |table: &String, row: &String| -> Vec<(String, Cell)> {
            let of_row = cells.iter().filter(|((t, r, _), _)| (t, r) == (table, row));
            of_row.map(|((_, _, column), cell)| (column.clone(), cell.clone())).collect()
        };
        match query {
            Query::Cell { table, row, column } => {
                match cells.get(&(table.clone(), row.clone(), column.clone())) {
                    Some(cell) => Answer::Cell(cell.clone()),
                    None => missing(table, row),
                }
            }
            Query::Row { table, row } => {
                let columns = columns(table, row);
                if columns.is_empty() { missing(table, row) } else { Answer::Row(columns) }
            }
            Query::HasTable { table } => Answer::HasTable(cells.keys().any(|(t, ..)| t == table)),
            Query::Tables { after, limit } => {
                let mut tables: Vec<String> = cells.keys().map(|(table, ..)| table.clone()).collect();
                tables.dedup();
                tables.retain(|table| after.as_ref().is_none_or(|after| table > after));
                tables.truncate(*limit as usize);
                Answer::Tables(tables)
            }
            Query::Scan(scan) => {
                let mut rows: Vec<ScannedRow> = Vec::new();
                for (table, row, _) in cells.keys() {
                    let position = position(partitioner, row).0;
                    let selected = *table == scan.table
                        && row.starts_with(&scan.prefix)
                        && scan.from.as_ref().is_none_or(|from| row >= from)
                        && scan.to.as_ref().is_none_or(|to| row < to)
                        && scan.after.as_ref().is_none_or(|after| (position, row) > (after.0, &after.1));
                    if !selected || rows.last().is_some_and(|last| last.row == *row) {
                        continue;
                    }
                    let mut columns = columns(table, row);
                    columns.retain(|(column, _)| scan.column.as_ref().is_none_or(|only| only == column));
                    if !scan.values {
                        columns.iter_mut().for_each(|(_, cell)| cell.bytes.clear());
                    }
                    if !columns.is_empty() {
                        rows.push(ScannedRow { position, row: row.clone(), columns });
                    }
                }
                rows.sort_by(|a, b| (a.position, &a.row).cmp(&(b.position, &b.row)));
                Answer::Rows { rows, next: None }
            }
        }
    }
}

fn table() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["t", "t\0", "tt", "u"]).prop_map(str::to_owned)
}

pub(super) fn row() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "a\0", "aa", "b", "é", "aaaaaaaaa", "aaaaaaaab"]).prop_map(str::to_owned)
}

fn column() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["c", "c\0", "d"]).prop_map(str::to_owned)
}

fn value() -> impl Strategy<Value = Value> {
    let ttl = prop_oneof![3 => Just(None), 2 => (0u64..300).prop_map(Some), 1 => Just(Some(u64::MAX))];
    let content_type = prop::option::of(Just("text/plain".to_owned()));
    (prop::collection::vec(any::<u8>(), 0..9), content_type, ttl)
        .prop_map(|(bytes, content_type, ttl_ms)| Value { bytes: bytes.into(), content_type, ttl_ms })
}

fn condition() -> impl Strategy<Value = Condition> {
    let versions = || prop::collection::vec(0u64..40, 1..8);
    prop_oneof![
        6 => Just(Condition::Always),
        1 => Just(Condition::Exists),
        1 => Just(Condition::Absent),
        1 => versions().prop_map(Condition::VersionIn),
        1 => versions().prop_map(Condition::VersionNotIn),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => (column(), value()).prop_map(|(column, value)| Action::Put { column, value }),
        2 => column().prop_map(|column| Action::Get { column }),
        2 => column().prop_map(|column| Action::Delete { column }),
        1 => Just(Action::DeleteRow),
    ]
}

fn write() -> impl Strategy<Value = Write> {
    let op = (table(), action(), condition()).prop_map(|(table, action, condition)| RowOp {
        table,
        action,
        condition,
    });
    (row(), prop::collection::vec(op, 1..4)).prop_map(|(row, ops)| Write { row, ops })
}

pub(super) fn command() -> impl Strategy<Value = Command> {
    let retry = (0u128..6, 0u128..2).prop_map(|(key, fingerprint)| Retry { key, fingerprint });
    (prop::collection::vec(write(), 0..4), prop::option::weighted(0.3, retry))
        .prop_map(|(writes, retry)| Command { writes, retry })
}

fn scan() -> impl Strategy<Value = Scan> {
    let prefix = prop::sample::select(vec!["", "a", "aa", "aaaaaaaa", "x"]).prop_map(str::to_owned);
    (
        (table(), prefix, prop::option::of(row()), prop::option::of(row())),
        (
            prop::option::of(column()),
            any::<bool>(),
            1u32..5,
            prop_oneof![Just(1u32), Just(20), Just(1 << 20)],
        ),
    )
        .prop_map(|((table, prefix, from, to), (column, values, limit, max_bytes))| Scan {
            table,
            prefix,
            from,
            to,
            after: None,
            column,
            values,
            limit,
            max_bytes,
        })
}

pub(super) fn queries() -> impl Strategy<Value = Query> {
    prop_oneof![
        (table(), row(), column()).prop_map(|(table, row, column)| Query::Cell { table, row, column }),
        (table(), row()).prop_map(|(table, row)| Query::Row { table, row }),
        table().prop_map(|table| Query::HasTable { table }),
        (prop::option::of(table()), 0u32..4).prop_map(|(after, limit)| Query::Tables { after, limit }),
        scan().prop_map(Query::Scan),
    ]
}

pub(super) fn partitioner() -> impl Strategy<Value = Partitioner> {
    prop::sample::select(vec![Partitioner::Xxh3, Partitioner::Md5, Partitioner::Crc32, Partitioner::Ordered])
}

/// The clock of the leader that stamps an entry: mostly forward, sometimes back, rarely far ahead.
pub(super) fn step() -> impl Strategy<Value = i64> {
    prop_oneof![6 => 0i64..120, 2 => -500i64..0, 1 => Just(ANSWER_AGE_MS as i64 - 1), 1 => Just(ANSWER_AGE_MS as i64)]
}

pub(super) fn write_down(keys: &mut Keys, writes: Writes) {
    for (key, value) in writes.0 {
        match value {
            Some(value) => keys.insert(key, value),
            None => keys.remove(&key),
        };
    }
}

/// All pages of a scan, each of which keeps to its limits.
pub(super) fn scan_all(keys: &Keys, shard: Shard, arc: Span, scan: &Scan, now: At) -> Vec<ScannedRow> {
    let mut scan = scan.clone();
    let mut all: Vec<ScannedRow> = Vec::new();
    loop {
        let answer = query::answer(keys, shard, arc, &Query::Scan(scan.clone()), now).unwrap();
        let Some(Answer::Rows { rows, next }) = answer else { panic!("{answer:?}") };
        assert!(rows.len() <= scan.limit as usize, "{} rows of {}", rows.len(), scan.limit);
        let bytes: usize = rows.iter().map(size).sum();
        assert!(rows.len() <= 1 || bytes <= scan.max_bytes as usize, "{bytes} bytes of {}", scan.max_bytes);
        all.extend(rows);
        match next {
            Some(next) => assert!(scan.after.replace(next.clone()).is_none_or(|after| after < next)),
            None => return all,
        }
    }
}

fn size(row: &ScannedRow) -> usize {
    row.row.len() + row.columns.iter().map(|(column, cell)| column.len() + cell.bytes.len()).sum::<usize>()
}

proptest! {
    #[test]
    fn the_machine_is_the_model(
        partitioner in partitioner(),
        mut commands in prop::collection::vec((step(), command(), any::<bool>()), 1..40),
        repeats in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..4),
        queries in prop::collection::vec((0u64..400, queries()), 8),
    ) {
        let shard = Shard { group: GroupId(1), partitioner };
        for (to, from) in repeats {
            let (to, from) = (to.index(commands.len()), from.index(commands.len()));
            commands[to].1 = commands[from].1.clone();
        }
        let mut model = Model::default();
        let mut keys = Keys::new();
        let mut clock = 10_000i64;
        // Commands joined to one batch are as good as commands alone.
        let base = keys.clone();
        let mut joined = Overlay::new(&base);
        for (step, command, look) in &commands {
            clock = (clock + step).max(0);
            let at = At(clock as u64);
            let (reply, writes) = machine::apply(&keys, shard, command, at).unwrap();
            let sorted = writes.0.windows(2).all(|pair| pair[0].0 < pair[1].0);
            prop_assert!(sorted, "writes are in key order, each key once");
            write_down(&mut keys, writes);
            prop_assert_eq!(&reply, &model.apply(command, at));
            // As replicas apply it: borrowed from the entry.
            let entry = encode_command(command);
            let Ok(Proposal::<&str, &[u8]>::Command(borrowed)) = postcard::from_bytes(&entry) else { panic!() };
            prop_assert_eq!(&machine::apply_to(&mut joined, shard, &borrowed, at).unwrap(), &reply);
            for (ahead, query) in queries.iter().filter(|_| *look) {
                let now = At(clock as u64 + ahead);
                let expected = model.answer(query, now, partitioner);
                let answer = match query {
                    Query::Scan(scan) => {
                        Answer::Rows { rows: scan_all(&keys, shard, Span::RING, scan, now), next: None }
                    }
                    _ => query::answer(&keys, shard, Span::RING, query, now).unwrap().unwrap(),
                };
                prop_assert_eq!(&answer, &expected, "{:?}", query);
            }
        }
        let mut from_joined = Keys::new();
        write_down(&mut from_joined, joined.into_writes());
        prop_assert_eq!(&from_joined, &keys);

        // In the end nothing is left of what has expired or is too old.
        let late = At(model.now + 2 * ANSWER_AGE_MS);
        for _ in 0..1 + commands.len() {
            if machine::wants_upkeep(&keys, shard, late).unwrap() {
                let nothing: Command = Command { writes: Vec::new(), retry: None };
                let (_, writes) = machine::apply(&keys, shard, &nothing, late).unwrap();
                write_down(&mut keys, writes);
            }
        }
        prop_assert!(!machine::wants_upkeep(&keys, shard, late).unwrap());
        let live = model.live(late);
        let marks = live.values().filter(|cell| cell.expires_at.is_some()).count();
        prop_assert_eq!(keys.len(), 1 + live.len() + marks, "counters, live cells, marks of expiry");
    }
}
