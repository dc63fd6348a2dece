//! What readers see of a shard. Expired cells are skipped everywhere, and what is not in the asked
//! arc: a shard that does not have all of it says so, as its asker has an old map.
//!
//! Every answer is bounded: a row by [`MAX_READ_BYTES`], a scan by its own limits and by
//! [`SCAN_MAX_CELLS`], a list of tables by its limit.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::{
    Shard, cell, keys,
    meta::Meta,
    view::{Fatal, View},
};
use crate::{
    command::{Answer, At, Cell, MAX_READ_BYTES, Missing, Query, Scan, ScannedRow},
    config::Partitioner,
    ids::{Position, Span},
    ring::partitioner,
};

/// The most cells that one scan looks at before it says where to go on: bounds the time a query
/// takes where its filters keep little.
pub const SCAN_MAX_CELLS: usize = 100_000;

/// Answers a query as of `now`, or as of the shard's latest entry where that is later: what has
/// expired by then stays expired, also for a reader whose clock is behind. `None` where the shard
/// has not, or no longer, all that is asked for. What is not asked of a row is asked of `arc`.
pub fn answer<V: View + ?Sized>(
    view: &V,
    shard: Shard,
    arc: Span,
    query: &Query,
    now: At,
) -> Result<Option<Answer>, Fatal> {
    let meta = Meta::read(view, shard)?;
    let partitioner = shard.partitioner;
    let is_here = match query {
        Query::Cell { row, .. } | Query::Row { row, .. } => meta.has(partitioner::position(partitioner, row)),
        Query::HasTable { .. } | Query::Tables { .. } | Query::Scan(_) => {
            meta.arc.is_none_or(|own| own.covers(&arc))
        }
    };
    if !is_here {
        return Ok(None);
    }
    // A row says nothing about what is outside of the shard; a table of a row is looked for in all of it.
    let arc = match query {
        Query::Cell { .. } | Query::Row { .. } => meta.arc.unwrap_or(Span::RING),
        _ => arc,
    };
    let reader = Reader { view, partitioner, arc, now: now.max(meta.last_at) };
    let answer = match query {
        Query::Cell { table, row, column } => reader.cell(table, row, column),
        Query::Row { table, row } => reader.row(table, row),
        Query::HasTable { table } => reader.has_table(table).map(Answer::HasTable),
        Query::Tables { after, limit } => reader.tables(after.as_deref(), *limit).map(Answer::Tables),
        Query::Scan(scan) => reader.scan(scan),
    };
    answer.map(Some)
}

struct Reader<'v, V: ?Sized> {
    view: &'v V,
    partitioner: Partitioner,
    arc: Span,
    now: At,
}

impl<V: View + ?Sized> Reader<'_, V> {
    fn cell(&self, table: &str, row: &str, column: &str) -> Result<Answer, Fatal> {
        let position = partitioner::position(self.partitioner, row);
        if let Some(bytes) = self.view.get(&keys::cell(table, position, row, column))? {
            let (header, _) = cell::read(&bytes)?;
            if header.is_live(self.now) {
                return cell::decode(&bytes).map(Answer::Cell);
            }
        }
        let (from, to) = keys::row(table, position, row);
        if self.first_live(&from, &to)?.is_some() {
            return Ok(Answer::Missing(Missing::Column));
        }
        self.missing_row(table)
    }

    fn row(&self, table: &str, row: &str) -> Result<Answer, Fatal> {
        let position = partitioner::position(self.partitioner, row);
        let (from, to) = keys::row(table, position, row);
        let mut columns = Vec::new();
        let mut size_bytes = 0;
        let mut outcome = Ok(());
        self.view.scan(&from, &to, &mut |key, bytes| {
            match self.live_column(key, bytes, true) {
                Ok(Some(column)) => {
                    size_bytes += bytes.len() + column.0.len();
                    columns.push(column);
                }
                Ok(None) => {}
                Err(fatal) => outcome = Err(fatal),
            }
            if outcome.is_err() || size_bytes > MAX_READ_BYTES {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        outcome?;
        if size_bytes > MAX_READ_BYTES {
            Ok(Answer::TooLarge)
        } else if columns.is_empty() {
            self.missing_row(table)
        } else {
            Ok(Answer::Row(columns))
        }
    }

    fn missing_row(&self, table: &str) -> Result<Answer, Fatal> {
        let missing = if self.has_table(table)? { Missing::Row } else { Missing::Table };
        Ok(Answer::Missing(missing))
    }

    fn has_table(&self, table: &str) -> Result<bool, Fatal> {
        let (from, to) = keys::table_in(table, self.arc);
        Ok(self.first_live(&from, &to)?.is_some())
    }

    /// Two seeks per table: to its first cell, whoever's it is, and to the first live one in the arc;
    /// the next table is behind its range.
    fn tables(&self, after: Option<&str>, limit: u32) -> Result<Vec<String>, Fatal> {
        let (mut from, to) = keys::cells();
        if let Some(after) = after {
            from = keys::behind_table(after);
        }
        let mut tables = Vec::new();
        while (tables.len() as u64) < u64::from(limit) {
            let mut found = Ok(None);
            self.view.scan(&from, &to, &mut |key, _| {
                found = keys::read_cell(key).map(|name| Some(name.table.into_owned()));
                ControlFlow::Break(())
            })?;
            let Some(table) = found? else { break };
            from = keys::behind_table(&table);
            if self.has_table(&table)? {
                tables.push(table);
            }
        }
        Ok(tables)
    }

    /// The key of the first live cell in a range.
    fn first_live(&self, from: &[u8], to: &[u8]) -> Result<Option<Vec<u8>>, Fatal> {
        let mut found = Ok(None);
        self.view.scan(from, to, &mut |key, bytes| {
            match cell::read(bytes) {
                Ok((header, _)) if !header.is_live(self.now) => return ControlFlow::Continue(()),
                Ok(_) => found = Ok(Some(key.to_vec())),
                Err(fatal) => found = Err(fatal),
            }
            ControlFlow::Break(())
        })?;
        found
    }

    fn live_column(&self, key: &[u8], bytes: &[u8], values: bool) -> Result<Option<(String, Cell)>, Fatal> {
        let (header, value) = cell::read(bytes)?;
        if !header.is_live(self.now) {
            return Ok(None);
        }
        let value = if values { Bytes::copy_from_slice(value) } else { Bytes::new() };
        Ok(Some((keys::read_cell(key)?.column.to_owned(), cell::build(&header, value))))
    }

    fn scan(&self, scan: &Scan) -> Result<Answer, Fatal> {
        let Some((from, to)) = self.scan_range(scan) else {
            return Ok(Answer::Rows { rows: Vec::new(), next: None });
        };
        let mut page = Page::new(scan);
        let mut outcome = Ok(());
        self.view.scan(&from, &to, &mut |key, bytes| {
            let flow = self.scan_cell(&mut page, key, bytes);
            flow.unwrap_or_else(|fatal| {
                outcome = Err(fatal);
                ControlFlow::Break(())
            })
        })?;
        outcome?;
        Ok(page.into_answer())
    }

    /// Where the rows that a scan may return lie: `[from, to)`; `None` for nowhere.
    fn scan_range(&self, scan: &Scan) -> Option<(Vec<u8>, Vec<u8>)> {
        let (mut from, mut to) = keys::table_in(&scan.table, self.arc);
        if self.partitioner == Partitioner::Ordered {
            let position = |row: &str| partitioner::position(Partitioner::Ordered, row);
            let first = scan.from.as_deref().unwrap_or_default().max(&scan.prefix);
            from = from.max(keys::at_row(&scan.table, position(first), first));
            if let Some(last) = scan.to.as_deref() {
                to = to.min(keys::at_row(&scan.table, position(last), last));
            }
        }
        if let Some((position, row)) = &scan.after {
            from = from.max(keys::behind_row(&scan.table, Position(*position), row));
        }
        (from < to).then_some((from, to))
    }

    fn scan_cell(&self, page: &mut Page<'_>, key: &[u8], bytes: &[u8]) -> Result<ControlFlow<()>, Fatal> {
        let name = keys::read_cell(key)?;
        if !page.is_in(name.position.0, &name.row) {
            if page.end_row().is_break() {
                return Ok(ControlFlow::Break(()));
            }
            let behind_prefix = !name.row.starts_with(&page.scan.prefix) && *name.row > *page.scan.prefix;
            if self.partitioner == Partitioner::Ordered && behind_prefix {
                return Ok(ControlFlow::Break(()));
            }
            if page.is_full() {
                page.stop();
                return Ok(ControlFlow::Break(()));
            }
            page.begin_row(name.position.0, &name.row);
        }
        page.cells += 1;
        let wanted = page.wanted && page.scan.column.as_deref().is_none_or(|column| column == name.column);
        if wanted && let Some(column) = self.live_column(key, bytes, page.scan.values)? {
            return Ok(page.add(column));
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// A page on its way: rows that are complete, and the one being read.
struct Page<'s> {
    scan: &'s Scan,
    rows: Vec<ScannedRow>,
    bytes: usize,
    /// Cells looked at.
    cells: usize,
    /// The row being read, wanted or not.
    current: Option<ScannedRow>,
    current_bytes: usize,
    /// Whether the row being read passes the filters.
    wanted: bool,
    /// The last row that was looked at to its end and need not be looked at again.
    last: Option<(u64, String)>,
    /// Whether there is more behind `last`.
    stopped: bool,
    too_large: bool,
}

impl<'s> Page<'s> {
    fn new(scan: &'s Scan) -> Self {
        Self {
            scan,
            rows: Vec::new(),
            bytes: 0,
            cells: 0,
            current: None,
            current_bytes: 0,
            wanted: false,
            last: scan.after.clone(),
            stopped: false,
            too_large: false,
        }
    }

    fn is_in(&self, position: u64, row: &str) -> bool {
        self.current.as_ref().is_some_and(|current| current.position == position && current.row == row)
    }

    fn is_full(&self) -> bool {
        self.rows.len() as u64 >= u64::from(self.scan.limit) || self.cells >= SCAN_MAX_CELLS
    }

    fn begin_row(&mut self, position: u64, row: &str) {
        let scan = self.scan;
        self.wanted = row.starts_with(&scan.prefix)
            && scan.from.as_deref().is_none_or(|from| from <= row)
            && scan.to.as_deref().is_none_or(|to| row < to);
        self.current_bytes = row.len();
        self.current = Some(ScannedRow { position, row: row.to_owned(), columns: Vec::new() });
    }

    fn add(&mut self, column: (String, Cell)) -> ControlFlow<()> {
        let Some(current) = &mut self.current else { return ControlFlow::Continue(()) };
        self.current_bytes += column.0.len() + column.1.bytes.len();
        current.columns.push(column);
        if self.current_bytes <= MAX_READ_BYTES {
            return ControlFlow::Continue(());
        }
        // Behind other rows it is left to the next page, which then has to say so.
        self.too_large = self.rows.is_empty();
        self.current = None;
        self.stop();
        ControlFlow::Break(())
    }

    /// Takes the row being read into the page, or stops where the page has no room for it.
    fn end_row(&mut self) -> ControlFlow<()> {
        let Some(row) = self.current.take() else { return ControlFlow::Continue(()) };
        let place = (row.position, row.row.clone());
        if !row.columns.is_empty() {
            let bytes = self.bytes + self.current_bytes;
            if !self.rows.is_empty() && bytes as u64 > u64::from(self.scan.max_bytes) {
                self.stop();
                return ControlFlow::Break(());
            }
            self.bytes = bytes;
            self.rows.push(row);
        }
        self.last = Some(place);
        ControlFlow::Continue(())
    }

    fn stop(&mut self) {
        self.stopped = true;
    }

    fn into_answer(mut self) -> Answer {
        if !self.stopped {
            // The range's end: the last row is complete.
            let _ = self.end_row();
        }
        if self.too_large {
            return Answer::TooLarge;
        }
        let next = if self.stopped { self.last } else { None };
        Answer::Rows { rows: self.rows, next }
    }
}
