//! The named bounds of the shard machine, each reached.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    dedup::{FORGET_MAX, MAX_ANSWERS, MAX_ANSWERS_BYTES},
    keys,
    machine::{self, RECLAIM_MAX_CELLS},
    query::{self, SCAN_MAX_CELLS},
};
use crate::{
    command::{
        Action, Answer, At, Command, Condition, MAX_READ_BYTES, MAX_ROW_CELLS, OpResult, Query, Reply, Retry,
        RowOp, Scan, Value, Write, Written,
    },
    config::Partitioner,
    ids::{GroupId, Span},
};

const SHARD: super::Shard = super::Shard { group: GroupId(1), partitioner: Partitioner::Xxh3 };

#[derive(Default)]
struct Shard(BTreeMap<Vec<u8>, Bytes>);

impl Shard {
    fn apply(&mut self, command: &Command, at: u64) -> Reply {
        let (reply, writes) = machine::apply(&self.0, SHARD, command, At(at)).unwrap();
        for (key, value) in writes.0 {
            match value {
                Some(value) => self.0.insert(key, value),
                None => self.0.remove(&key),
            };
        }
        reply
    }

    fn ask(&self, query: &Query) -> Answer {
        query::answer(&self.0, SHARD, Span::RING, query, At(0)).unwrap().unwrap()
    }

    fn count(&self, key: &[u8]) -> usize {
        self.0.keys().filter(|other| other[0] == key[0]).count()
    }
}

fn op(action: Action) -> RowOp {
    RowOp { table: "t".to_owned(), action, condition: Condition::Always }
}

fn put(column: String, bytes: Bytes, ttl_ms: Option<u64>) -> RowOp {
    op(Action::Put { column, value: Value { bytes, content_type: None, ttl_ms } })
}

fn get(column: &str) -> RowOp {
    op(Action::Get { column: column.to_owned() })
}

fn command(row: &str, ops: Vec<RowOp>) -> Command {
    Command { writes: vec![Write { row: row.to_owned(), ops }], retry: None }
}

fn nothing() -> Command {
    Command { writes: Vec::new(), retry: None }
}

/// Ten cells of an eighth of what may be read at once.
fn large_row(shard: &mut Shard) {
    let eighth = Bytes::from(vec![0; MAX_READ_BYTES / 8]);
    for column in 0..10 {
        shard.apply(&command("large", vec![put(column.to_string(), eighth.clone(), None)]), 0);
    }
}

#[test]
fn reads_of_a_command_are_bounded() {
    let mut shard = Shard::default();
    large_row(&mut shard);
    let seven: Vec<RowOp> = (0..7).map(|column| get(&column.to_string())).collect();
    let mut eight = seven.clone();
    eight.push(get("7"));
    let writes = |ops: &[&[RowOp]]| -> Vec<Write> {
        ops.iter().map(|ops| Write { row: "large".to_owned(), ops: ops.to_vec() }).collect()
    };
    let overwrite = put("7".to_owned(), Bytes::new(), None);
    let mut with_put = eight.clone();
    with_put.push(overwrite);
    let command = Command { writes: writes(&[&with_put, &seven, &[get("7")]]), retry: None };
    let Reply::Done(written) = shard.apply(&command, 0) else { panic!() };
    assert_eq!(written[0], Written::TooLarge);
    assert!(
        matches!(&written[1], Written::Applied { results, .. } if results.len() == 7),
        "nothing was used up"
    );
    assert_eq!(written[2], Written::TooLarge, "the bound is the command's, and the put did not happen");
}

#[test]
fn rows_are_bounded_for_readers() {
    let mut shard = Shard::default();
    large_row(&mut shard);
    let row = Query::Row { table: "t".to_owned(), row: "large".to_owned() };
    assert_eq!(shard.ask(&row), Answer::TooLarge);
    let mut scan = Scan {
        table: "t".to_owned(),
        prefix: String::new(),
        from: None,
        to: None,
        after: None,
        column: None,
        values: true,
        limit: 10,
        max_bytes: u32::MAX,
    };
    assert_eq!(shard.ask(&Query::Scan(scan.clone())), Answer::TooLarge);
    scan.values = false;
    assert!(matches!(shard.ask(&Query::Scan(scan)), Answer::Rows { rows, next: None } if rows.len() == 1));
}

#[test]
fn the_cells_that_a_scan_looks_at_are_bounded() {
    let mut shard = Shard::default();
    let rows = 2 * SCAN_MAX_CELLS + SCAN_MAX_CELLS / 2;
    let writes = (0..rows)
        .map(|row| Write { row: format!("row{row}"), ops: vec![put("c".to_owned(), Bytes::new(), None)] })
        .collect();
    shard.apply(&Command { writes, retry: None }, 0);
    let mut scan = Scan {
        table: "t".to_owned(),
        prefix: format!("row{}", rows - 1),
        from: None,
        to: None,
        after: None,
        column: None,
        values: true,
        limit: 10,
        max_bytes: u32::MAX,
    };
    let mut found = 0;
    let mut pages = 0;
    loop {
        let Answer::Rows { rows, next } = shard.ask(&Query::Scan(scan.clone())) else { panic!() };
        (found, pages) = (found + rows.len(), pages + 1);
        match next {
            Some(next) => scan.after = Some(next),
            None => break,
        }
    }
    assert_eq!((found, pages), (1, 3));
}

#[test]
fn the_cells_that_a_row_may_lose_at_once_are_bounded() {
    let mut shard = Shard::default();
    let columns = |range: std::ops::Range<usize>| -> Vec<RowOp> {
        range.map(|column| put(column.to_string(), Bytes::new(), None)).collect()
    };
    shard.apply(&command("r", columns(0..MAX_ROW_CELLS + 1)), 0);
    let delete_row = command("r", vec![op(Action::DeleteRow)]);
    assert_eq!(shard.apply(&delete_row, 0), Reply::Done(vec![Written::TooLarge]));
    shard.apply(&command("r", vec![op(Action::Delete { column: "0".to_owned() })]), 0);
    let results = vec![OpResult::Deleted(MAX_ROW_CELLS as u64)];
    assert_eq!(shard.apply(&delete_row, 0), Reply::Done(vec![Written::Applied { version: 3, results }]));
}

/// The lot of what expires within the first ms is past.
const PAST: At = At(keys::LOT_MS);

#[test]
fn what_a_command_reclaims_is_bounded_and_follows_its_size() {
    let mut shard = Shard::default();
    let cells = 10 * RECLAIM_MAX_CELLS;
    let ops = (0..cells).map(|column| put(column.to_string(), Bytes::new(), Some(10))).collect();
    shard.apply(&command("r", ops), 0);
    let left = |shard: &Shard| (shard.count(&keys::cells().0), shard.count(&keys::expiries().0));
    assert_eq!(left(&shard), (cells, cells));
    shard.apply(&nothing(), PAST.0);
    let cells = cells - RECLAIM_MAX_CELLS;
    assert_eq!(left(&shard), (cells, cells));
    shard.apply(&command("s", vec![get("c"), get("d")]), PAST.0);
    let cells = cells - RECLAIM_MAX_CELLS - 2;
    assert_eq!(left(&shard), (cells, cells));
    for _ in 0..cells.div_ceil(RECLAIM_MAX_CELLS) {
        assert!(machine::wants_upkeep(&shard.0, SHARD, PAST).unwrap());
        shard.apply(&nothing(), PAST.0);
    }
    assert_eq!(left(&shard), (0, 0));
    assert!(!machine::wants_upkeep(&shard.0, SHARD, PAST).unwrap());
}

fn retried(key: u64, ops: Vec<RowOp>) -> Command {
    Command { retry: Some(Retry { key: key.into(), fingerprint: 1 }), ..command("r", ops) }
}

#[test]
fn remembered_answers_are_bounded_in_number_and_age() {
    let mut shard = Shard::default();
    let answers = |shard: &Shard| {
        (shard.count(&keys::answer(SHARD.group, 0)), shard.count(&keys::answer_order(SHARD.group, 0)))
    };
    let ask = |key| retried(key, vec![op(Action::Delete { column: "c".to_owned() })]);
    for key in 0..MAX_ANSWERS + 5 {
        shard.apply(&ask(key), 0);
    }
    let most = MAX_ANSWERS as usize;
    assert_eq!(answers(&shard), (most, most));
    shard.apply(&command("r", vec![put("c".to_owned(), Bytes::new(), None)]), 0);
    let deleted = |cells| {
        Reply::Done(vec![Written::Applied { version: cells + 1, results: vec![OpResult::Deleted(cells)] }])
    };
    assert_eq!(
        shard.apply(&ask(MAX_ANSWERS), 0),
        Reply::Done(vec![Written::Applied { version: 0, results: vec![OpResult::Deleted(0)] }])
    );
    assert_eq!(shard.apply(&ask(4), 0), deleted(1), "the oldest were forgotten");
    shard.apply(&nothing(), super::dedup::ANSWER_AGE_MS);
    assert_eq!(answers(&shard), (most - FORGET_MAX, most - FORGET_MAX));
}

/// A retry key that comes again when its answer is too old, but not yet forgotten, has two places in
/// the order: forgetting the first must not take the second's answer away.
#[test]
fn a_retry_key_used_again_keeps_its_new_answer() {
    let mut shard = Shard::default();
    let ask = |key| retried(key, vec![put("c".to_owned(), Bytes::new(), None)]);
    let version = |version| Reply::Done(vec![Written::Applied { version, results: vec![OpResult::Put] }]);
    let old = FORGET_MAX as u64 + 4;
    for key in 0..old {
        assert_eq!(shard.apply(&ask(key), 0), version(key + 1));
    }
    let late = super::dedup::ANSWER_AGE_MS;
    assert_eq!(shard.apply(&ask(old - 1), late), version(old + 1), "a new request by now");
    assert_eq!(shard.count(&keys::answer(SHARD.group, 0)), 4, "three old ones and the new one");
    shard.apply(&nothing(), late);
    assert_eq!(
        (shard.count(&keys::answer(SHARD.group, 0)), shard.count(&keys::answer_order(SHARD.group, 0))),
        (1, 1)
    );
    assert_eq!(shard.apply(&ask(old - 1), late), version(old + 1), "and remembered as such");
}

#[test]
fn remembered_answers_are_bounded_in_bytes() {
    let mut shard = Shard::default();
    large_row(&mut shard);
    let columns: Vec<String> = (0..7).map(|column| column.to_string()).collect();
    let read = |key| {
        let ops = columns.iter().map(|column| RowOp { table: "t".to_owned(), ..get(column) }).collect();
        let write = Write { row: "large".to_owned(), ops };
        Command { writes: vec![write], retry: Some(Retry { key, fingerprint: 1 }) }
    };
    for key in 0..3 {
        shard.apply(&read(key), 0);
        let bytes: usize = shard
            .0
            .iter()
            .filter(|(key, _)| key[0] == keys::answer(SHARD.group, 0)[0])
            .map(|(_, v)| v.len())
            .sum();
        assert!(bytes as u64 <= MAX_ANSWERS_BYTES, "{bytes}");
        assert_eq!(shard.count(&keys::answer(SHARD.group, 0)), 1, "each is most of what may be kept");
    }
}

#[test]
fn what_cannot_be_read_stops_the_replica() {
    let mut shard = Shard::default();
    shard.apply(&command("r", vec![put("c".to_owned(), Bytes::new(), None)]), 0);
    let (cell, _) = shard.0.iter().find(|(key, _)| key[0] == keys::cells().0[0]).unwrap();
    let cell = cell.clone();
    shard.0.insert(cell, Bytes::from_static(b"\x09"));
    let delete = command("r", vec![op(Action::Delete { column: "c".to_owned() })]);
    let fatal = machine::apply(&shard.0, SHARD, &delete, At(0)).unwrap_err();
    assert!(fatal.0.contains("format 9"), "{fatal}");
    shard.0.insert(keys::meta(SHARD.group), Bytes::from_static(b"\x09"));
    assert!(machine::apply(&shard.0, SHARD, &nothing(), At(0)).is_err());
}
