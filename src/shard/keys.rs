//! The keys of a shard's state. The only file that builds or reads them.
//!
//! ```text
//! 01                                             the shard's counters
//! 02 table position row column                   a cell
//! 03 expires_at table position row column        a cell that will expire, by time
//! 04 key                                         a remembered answer, by its retry key
//! 05 sequence                                    the remembered answers, oldest first
//! ```
//!
//! Numbers are big-endian, so that byte order is number order. A table or row name is escaped (a
//! zero byte becomes `00 FF`) and ends with `00 01`, which keeps the order of names and lets no name
//! be the beginning of another's range; a column comes last and stands as it is. The kinds' numbers
//! are part of the format and never change their meaning (docs/FORMATS.md).

use std::borrow::Cow;

use super::view::Fatal;
use crate::{command::At, ids::Position};

const META: u8 = 1;
const CELL: u8 = 2;
const EXPIRY: u8 = 3;
const ANSWER: u8 = 4;
const ANSWER_ORDER: u8 = 5;

/// Behind the kind of a cell's key.
const CELL_BODY: usize = 1;
/// Behind the kind and the time of an expiry's key.
const EXPIRY_BODY: usize = 1 + 8;

const END: [u8; 2] = [0, 1];
/// Sorts behind every continuation of a name that ends with [`END`], and before every longer name.
const BEHIND: [u8; 2] = [0, 2];

/// The shard's counters.
pub fn meta() -> Vec<u8> {
    vec![META]
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

/// All cells: `[from, to)`.
pub fn cells() -> (Vec<u8>, Vec<u8>) {
    (vec![CELL], vec![CELL + 1])
}

/// The mark that the cell with this key expires at `at`.
pub fn expiry(at: At, cell_key: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(8 + cell_key.len());
    key.push(EXPIRY);
    key.extend_from_slice(&at.0.to_be_bytes());
    key.extend_from_slice(&cell_key[CELL_BODY..]);
    key
}

/// All marks of expiry: `[from, to)`.
pub fn expiries() -> (Vec<u8>, Vec<u8>) {
    (vec![EXPIRY], vec![EXPIRY + 1])
}

/// The time of a mark of expiry, and the key of its cell.
pub fn read_expiry(key: &[u8]) -> Result<(At, Vec<u8>), Fatal> {
    match (key.first(), key.get(1..EXPIRY_BODY).and_then(|at| at.try_into().ok())) {
        (Some(&EXPIRY), Some(at)) => {
            let mut cell = Vec::with_capacity(key.len() - 8);
            cell.push(CELL);
            cell.extend_from_slice(&key[EXPIRY_BODY..]);
            Ok((At(u64::from_be_bytes(at)), cell))
        }
        _ => Err(unreadable(key)),
    }
}

/// A remembered answer.
pub fn answer(retry_key: u128) -> Vec<u8> {
    let mut key = vec![ANSWER];
    key.extend_from_slice(&retry_key.to_be_bytes());
    key
}

/// The place of a remembered answer in the order in which they were given.
pub fn answer_order(sequence: u64) -> Vec<u8> {
    let mut key = vec![ANSWER_ORDER];
    key.extend_from_slice(&sequence.to_be_bytes());
    key
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
            let (at, back) = read_expiry(&expiry(At(position), &key)).unwrap();
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

        #[test]
        fn garbage_is_an_error_and_no_panic(bytes: Vec<u8>) {
            let _ = read_expiry(&bytes);
            if let Ok(name) = read_cell(&bytes) {
                prop_assert_eq!(cell(&name.table, name.position, &name.row, name.column), bytes);
            }
        }
    }
}
