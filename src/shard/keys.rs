//! The keys of a shard's state. The only file that builds or reads them.
//!
//! ```text
//! 01 group                                             the shard's counters
//! 02 table position row column                         a cell
//! 03 lot position expires_at table position row column a cell that will expire, by time
//! 04 group key                                         a remembered answer, by its retry key
//! 05 group sequence                                    the remembered answers, oldest first
//! ```
//!
//! After a split two shards or more have their keys in one place. What is of a row is of the shard
//! whose arc has the row's position: of a table one range, and one of the marks of each lot, which
//! are those of one second. Within a lot marks are by position for that reason. The rest has the
//! shard's group in front.
//!
//! Numbers are big-endian, so that byte order is number order. A table or row name is escaped (a
//! zero byte becomes `00 FF`) and ends with `00 01`, which keeps the order of names and lets no name
//! be the beginning of another's range; a column comes last and stands as it is. The kinds' numbers
//! are part of the format and never change their meaning (docs/FORMATS.md).

use std::borrow::Cow;

use super::view::Fatal;
use crate::{
    command::At,
    ids::{GroupId, Position, Span},
};

const META: u8 = 1;
const CELL: u8 = 2;
const EXPIRY: u8 = 3;
const ANSWER: u8 = 4;
const ANSWER_ORDER: u8 = 5;

/// Behind the kind of a cell's key.
const CELL_BODY: usize = 1;
/// Behind the kind, the lot and the position of an expiry's key.
const EXPIRY_AT: usize = 1 + 8 + 8;
/// Behind the time, too.
const EXPIRY_BODY: usize = EXPIRY_AT + 8;

const LOT_BITS: u32 = 10;
/// How long the marks of expiry are that lie together, milliseconds.
pub const LOT_MS: u64 = 1 << LOT_BITS;

const END: [u8; 2] = [0, 1];
/// Sorts behind every continuation of a name that ends with [`END`], and before every longer name.
const BEHIND: [u8; 2] = [0, 2];

/// The shard's counters.
pub fn meta(group: GroupId) -> Vec<u8> {
    own(META, group, 0)
}

/// A cell.
pub fn cell(table: &str, position: Position, row: &str, column: &str) -> Vec<u8> {
    let mut key = row_prefix(table, position, row.as_bytes(), END, column.len());
    key.extend_from_slice(column.as_bytes());
    key
}

/// The cells of a row in a table: `[from, to)`.
pub fn row(table: &str, position: Position, row: &str) -> (Vec<u8>, Vec<u8>) {
    (row_prefix(table, position, row.as_bytes(), END, 0), behind_row(table, position, row))
}

/// The first place in ring order at which `row`, or one behind it, may have a cell.
pub fn at_row(table: &str, position: Position, row: &str) -> Vec<u8> {
    row_prefix(table, position, row.as_bytes(), END, 0)
}

/// The first place behind all cells of a row.
pub fn behind_row(table: &str, position: Position, row: &str) -> Vec<u8> {
    row_prefix(table, position, row.as_bytes(), BEHIND, 0)
}

/// The cells of a table: `[from, to)`.
pub fn table(table: &str) -> (Vec<u8>, Vec<u8>) {
    (table_prefix(table, END, 0), behind_table(table))
}

/// The first place behind all cells of a table.
pub fn behind_table(table: &str) -> Vec<u8> {
    table_prefix(table, BEHIND, 0)
}

/// The cells of a table in an arc: `[from, to)`.
pub fn table_in(name: &str, arc: Span) -> (Vec<u8>, Vec<u8>) {
    let at = |position: Position| row_prefix_start(name, position);
    (at(arc.start), if arc.end == Position(0) { behind_table(name) } else { at(arc.end) })
}

/// All cells: `[from, to)`.
pub fn cells() -> (Vec<u8>, Vec<u8>) {
    (vec![CELL], vec![CELL + 1])
}

/// The mark that the cell with this key expires at `at`.
pub fn expiry(at: At, position: Position, cell_key: &[u8]) -> Vec<u8> {
    let mut key = expiries_at(lot(at), position, EXPIRY_BODY - EXPIRY_AT + cell_key.len());
    key.extend_from_slice(&at.0.to_be_bytes());
    key.extend_from_slice(&cell_key[CELL_BODY..]);
    key
}

/// The lot of a time: its marks of expiry lie together.
pub fn lot(at: At) -> u64 {
    at.0 >> LOT_BITS
}

/// When a lot begins.
pub fn lot_start(lot: u64) -> At {
    At(lot.saturating_mul(LOT_MS))
}

/// The first place of a lot's marks of expiry, of positions from this one on.
pub fn expiries_from(lot: u64, position: Position) -> Vec<u8> {
    expiries_at(lot, position, 0)
}

fn expiries_at(lot: u64, position: Position, more: usize) -> Vec<u8> {
    let mut key = Vec::with_capacity(EXPIRY_AT + more);
    key.push(EXPIRY);
    key.extend_from_slice(&lot.to_be_bytes());
    key.extend_from_slice(&position.0.to_be_bytes());
    key
}

/// All marks of expiry: `[from, to)`.
pub fn expiries() -> (Vec<u8>, Vec<u8>) {
    (vec![EXPIRY], vec![EXPIRY + 1])
}

/// The lot and the position of a mark of expiry.
pub fn read_mark(key: &[u8]) -> Result<(u64, Position), Fatal> {
    parse_mark(key).ok_or_else(|| unreadable(key))
}

fn parse_mark(key: &[u8]) -> Option<(u64, Position)> {
    let rest = key.strip_prefix(&[EXPIRY])?;
    let (lot, rest) = rest.split_first_chunk()?;
    let (position, _) = rest.split_first_chunk()?;
    Some((u64::from_be_bytes(*lot), Position(u64::from_be_bytes(*position))))
}

/// The time of a mark of expiry, and the key of its cell.
pub fn read_expiry(key: &[u8]) -> Result<(At, Vec<u8>), Fatal> {
    match (key.first(), key.get(EXPIRY_AT..EXPIRY_BODY).and_then(|at| at.try_into().ok())) {
        (Some(&EXPIRY), Some(at)) => {
            let mut cell = Vec::with_capacity(1 + key.len() - EXPIRY_BODY);
            cell.push(CELL);
            cell.extend_from_slice(&key[EXPIRY_BODY..]);
            Ok((At(u64::from_be_bytes(at)), cell))
        }
        _ => Err(unreadable(key)),
    }
}

/// A remembered answer.
pub fn answer(group: GroupId, retry_key: u128) -> Vec<u8> {
    let mut key = own(ANSWER, group, 16);
    key.extend_from_slice(&retry_key.to_be_bytes());
    key
}

/// The place of a remembered answer in the order in which they were given.
pub fn answer_order(group: GroupId, sequence: u64) -> Vec<u8> {
    let mut key = own(ANSWER_ORDER, group, 8);
    key.extend_from_slice(&sequence.to_be_bytes());
    key
}

/// All remembered answers of a shard, and their order: `[from, to)` each.
pub fn answers(group: GroupId) -> [(Vec<u8>, Vec<u8>); 2] {
    [ANSWER, ANSWER_ORDER].map(|kind| (own(kind, group, 0), behind_own(kind, group)))
}

/// The same key of another shard, where the key is of no row.
pub fn of_group(key: &[u8], group: GroupId) -> Option<Vec<u8>> {
    let (kind, rest) = key.split_first()?;
    let rest = matches!(*kind, META | ANSWER | ANSWER_ORDER).then_some(rest)?.get(8..)?;
    let mut other = own(*kind, group, rest.len());
    other.extend_from_slice(rest);
    Some(other)
}

/// Whether a key is one that a shard has for itself.
pub fn is_own(key: &[u8], group: GroupId) -> bool {
    of_group(key, group).is_some_and(|own| own == key)
}

/// Whether a key is a shard's, by its arc, and the first key behind it of which that may be
/// otherwise. What is no key of this format is nobody's.
pub fn run(key: &[u8], group: GroupId, arc: Span) -> (bool, Option<Vec<u8>>) {
    match key.first() {
        Some(kind @ (&META | &ANSWER | &ANSWER_ORDER)) => {
            let (from, to) = (own(*kind, group, 0), behind_own(*kind, group));
            if key < from.as_slice() {
                (false, Some(from))
            } else if key < to.as_slice() {
                (true, Some(to))
            } else {
                (false, Some(vec![kind + 1]))
            }
        }
        Some(&CELL) => {
            let Some((table, position)) = parse_position(key) else { return (false, Some(vec![EXPIRY])) };
            let (from, to) = table_in(&table, arc);
            if position < arc.start {
                (false, Some(from))
            } else if arc.is_before_end(position) {
                (true, Some(to))
            } else {
                (false, Some(behind_table(&table)))
            }
        }
        Some(&EXPIRY) => {
            let Some((lot, position)) = parse_mark(key) else { return (false, Some(vec![ANSWER])) };
            let next = |lot: u64| match lot.checked_add(1) {
                Some(next) => expiries_from(next, arc.start),
                None => vec![ANSWER],
            };
            if position < arc.start {
                (false, Some(expiries_from(lot, arc.start)))
            } else if !arc.is_before_end(position) {
                (false, Some(next(lot)))
            } else if arc.end == Position(0) {
                let behind = lot.checked_add(1).map(|next| expiries_from(next, Position(0)));
                (true, Some(behind.unwrap_or_else(|| vec![ANSWER])))
            } else {
                (true, Some(expiries_from(lot, arc.end)))
            }
        }
        _ => (false, None),
    }
}

fn own(kind: u8, group: GroupId, more: usize) -> Vec<u8> {
    let mut key = Vec::with_capacity(9 + more);
    key.push(kind);
    key.extend_from_slice(&group.0.to_be_bytes());
    key
}

fn behind_own(kind: u8, group: GroupId) -> Vec<u8> {
    match group.0.checked_add(1) {
        Some(next) => own(kind, GroupId(next), 0),
        None => vec![kind + 1],
    }
}

/// What the key of a cell says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CellName<'k> {
    /// Its table.
    pub table: Cow<'k, str>,
    /// Its row's place on the ring.
    pub position: Position,
    /// Its row.
    pub row: Cow<'k, str>,
    /// Its column.
    pub column: &'k str,
}

/// Reads the key of a cell.
pub fn read_cell(key: &[u8]) -> Result<CellName<'_>, Fatal> {
    parse_cell(key).ok_or_else(|| unreadable(key))
}

/// The table and the position of a cell's key.
fn parse_position(key: &[u8]) -> Option<(Cow<'_, str>, Position)> {
    let (table, rest) = unescape(key.strip_prefix(&[CELL])?)?;
    let (position, _) = rest.split_first_chunk()?;
    Some((table, Position(u64::from_be_bytes(*position))))
}

fn parse_cell(key: &[u8]) -> Option<CellName<'_>> {
    let (kind, rest) = key.split_first()?;
    let (table, rest) = unescape(rest)?;
    let (position, rest) = rest.split_first_chunk()?;
    let (row, column) = unescape(rest)?;
    let position = Position(u64::from_be_bytes(*position));
    (*kind == CELL).then_some(CellName { table, position, row, column: std::str::from_utf8(column).ok()? })
}

fn unreadable(key: &[u8]) -> Fatal {
    let hex: String = key.iter().take(64).map(|byte| format!("{byte:02x}")).collect();
    Fatal(format!("the store holds a key that this version cannot read: {hex}"))
}

fn table_prefix(table: &str, end: [u8; 2], more: usize) -> Vec<u8> {
    // Names rarely hold a zero byte: the capacity is exact but for those.
    let mut key = Vec::with_capacity(CELL_BODY + table.len() + end.len() + more);
    key.push(CELL);
    escape(&mut key, table.as_bytes());
    key.extend_from_slice(&end);
    key
}

fn row_prefix_start(table: &str, position: Position) -> Vec<u8> {
    let mut key = table_prefix(table, END, 8);
    key.extend_from_slice(&position.0.to_be_bytes());
    key
}

fn row_prefix(table: &str, position: Position, row: &[u8], end: [u8; 2], more: usize) -> Vec<u8> {
    let mut key = table_prefix(table, END, 8 + row.len() + end.len() + more);
    key.extend_from_slice(&position.0.to_be_bytes());
    escape(&mut key, row);
    key.extend_from_slice(&end);
    key
}

fn escape(key: &mut Vec<u8>, name: &[u8]) {
    let mut parts = name.split(|byte| *byte == 0);
    key.extend_from_slice(parts.next().unwrap_or_default());
    for part in parts {
        key.extend_from_slice(&[0, 0xFF]);
        key.extend_from_slice(part);
    }
}

/// An escaped name up to its end, and what follows.
fn unescape(bytes: &[u8]) -> Option<(Cow<'_, str>, &[u8])> {
    let mut owned: Option<Vec<u8>> = None;
    let mut start = 0;
    loop {
        let zero = start + bytes.get(start..)?.iter().position(|byte| *byte == 0)?;
        match bytes.get(zero + 1)? {
            0xFF => {
                let name = owned.get_or_insert_default();
                name.extend_from_slice(&bytes[start..=zero]);
                start = zero + 2;
            }
            1 => {
                let rest = &bytes[zero + 2..];
                let name = match owned {
                    None => Cow::Borrowed(std::str::from_utf8(&bytes[..zero]).ok()?),
                    Some(mut name) => {
                        name.extend_from_slice(&bytes[start..zero]);
                        Cow::Owned(String::from_utf8(name).ok()?)
                    }
                };
                return Some((name, rest));
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Names in which the bytes that matter to the codec are frequent.
    fn name() -> impl Strategy<Value = String> {
        proptest::collection::vec(
            prop_oneof![Just('\0'), Just('\u{1}'), Just('\u{2}'), Just('a'), Just('ÿ'), any::<char>()],
            1..6,
        )
        .prop_map(|chars| chars.into_iter().collect())
    }

    proptest! {
        #[test]
        fn cell_keys_read_back(table in name(), position: u64, row in name(), column in name()) {
            let key = cell(&table, Position(position), &row, &column);
            let read = read_cell(&key).unwrap();
            prop_assert_eq!(
                (read.table.as_ref(), read.position.0, read.row.as_ref(), read.column),
                (table.as_str(), position, row.as_str(), column.as_str())
            );
            let mark = expiry(At(position), Position(position), &key);
            prop_assert_eq!(read_mark(&mark).unwrap(), (lot(At(position)), Position(position)));
            let (at, back) = read_expiry(&mark).unwrap();
            prop_assert_eq!((at, back), (At(position), key));
        }

        #[test]
        fn keys_sort_as_what_they_name(
            a in (name(), 0u64..3, name(), name()),
            b in (name(), 0u64..3, name(), name()),
        ) {
            let key = |(t, p, r, c): &(String, u64, String, String)| cell(t, Position(*p), r, c);
            prop_assert_eq!(key(&a).cmp(&key(&b)), a.cmp(&b));
        }

        #[test]
        fn ranges_hold_their_own_and_nothing_else(
            a in (name(), 0u64..3, name(), name()),
            b in (name(), 0u64..3, name(), name()),
        ) {
            let key = cell(&b.0, Position(b.1), &b.2, &b.3);
            let within = |(from, to): (Vec<u8>, Vec<u8>)| from <= key && key < to;
            prop_assert_eq!(within(table(&a.0)), a.0 == b.0);
            prop_assert_eq!(within(row(&a.0, Position(a.1), &a.2)), (&a.0, a.1, &a.2) == (&b.0, b.1, &b.2));
            prop_assert!(within(cells()));
        }

        /// A key belongs to the shard of its position or group, a run says the same of all keys up to
        /// its end, and another one begins there.
        #[test]
        fn runs_part_the_keys_of_two_shards(
            table in name(), row in name(), position in 0u64..9, at in 0u64..5_000,
            start in 0u64..9, end in 0u64..9, group in 0u64..3, sequence: u64,
            other in (name(), name(), 0u64..9, 0u64..5_000, 0u64..3),
        ) {
            prop_assume!(end == 0 || start < end);
            let arc = Span { start: Position(start), end: Position(end) };
            let keys_of = |table: &str, row: &str, position: u64, at: u64, group: u64| {
                let key = cell(table, Position(position), row, "c");
                let mark = expiry(At(at), Position(position), &key);
                let of_row = arc.contains(Position(position));
                let of_group = group == 1;
                let group = GroupId(group);
                [
                    (key, of_row),
                    (mark, of_row),
                    (meta(group), of_group),
                    (answer(group, sequence.into()), of_group),
                    (answer_order(group, sequence), of_group),
                ]
            };
            let others = keys_of(&other.0, &other.1, other.2, other.3, other.4);
            for (key, expected) in keys_of(&table, &row, position, at, group) {
                let (owned, end) = run(&key, GroupId(1), arc);
                prop_assert_eq!(owned, expected);
                prop_assert!(end.as_ref().is_none_or(|end| key < *end));
                for (other, of_it) in &others {
                    let within = *other >= key && end.as_ref().is_none_or(|end| other < end);
                    prop_assert!(!within || *of_it == owned, "{key:?} {other:?} {end:?}");
                }
            }
        }

        #[test]
        fn garbage_is_an_error_and_no_panic(bytes: Vec<u8>) {
            let _ = (run(&bytes, GroupId(1), Span::RING), of_group(&bytes, GroupId(1)), read_mark(&bytes));
            let _ = read_expiry(&bytes);
            if let Ok(name) = read_cell(&bytes) {
                prop_assert_eq!(cell(&name.table, name.position, &name.row, name.column), bytes);
            }
        }
    }
}
