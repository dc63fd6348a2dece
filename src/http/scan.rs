//! Pages of a table over all shards, in ring order. A page asks one shard after the other, more of
//! them at once the fewer rows they have, and knows its place by position and row alone: so it
//! stays complete and without repeats while shards move, change leader or split.

use futures_util::future::join_all;
use tokio::time::Instant;

use super::{
    backend::Backend,
    cursor::Cursor,
    error::Problem,
    limits::{MAX_MAP_RETRIES, MAX_PAGE_BYTES, MAX_SHARDS_ASKED},
};
use crate::{
    command::{Answer, MAX_READ_BYTES, Query, Scan, ScannedRow},
    config::Partitioner,
    error::Error,
    ids::{GroupId, Position, Span},
    ring::map::Map,
    router::{Consistency, Target},
};

/// What is wanted of a table.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    pub(crate) table: String,
    pub(crate) prefix: String,
    pub(crate) from: Option<String>,
    pub(crate) to: Option<String>,
    pub(crate) column: Option<String>,
    pub(crate) values: bool,
    pub(crate) consistency: Consistency,
}

/// Some rows, and where to go on; `None` at the end.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) rows: Vec<ScannedRow>,
    pub(crate) next: Option<Cursor>,
    /// For stale reads, where known of all that is in it: see [`crate::router::Served`].
    pub(crate) as_of: Option<Instant>,
}

/// One shard's share of a page.
struct Share {
    rows: Vec<ScannedRow>,
    next: Option<(u64, String)>,
    as_of: Option<Instant>,
}

/// Reads up to `limit` rows behind `after`.
pub(crate) async fn page(
    backend: &Backend,
    selection: &Selection,
    mut after: Option<Cursor>,
    limit: u32,
    deadline: Instant,
) -> Result<Page, Problem> {
    let as_of = (selection.consistency == Consistency::Stale).then(Instant::now);
    let mut page = Page { rows: Vec::new(), next: None, as_of };
    let span = Wanted::of(backend, selection)?;
    // Everything before this position is on the page already, or was not wanted.
    let mut reached = after.as_ref().map_or(span.start, |cursor| span.start.max(Position(cursor.position)));
    let mut at_once = 1;
    let mut map_retries = 0;
    let mut bytes = 0;
    loop {
        let map = backend.require_map()?;
        let wave = shards_from(map.as_ref(), reached, span.last, at_once);
        if wave.is_empty() {
            return Ok(page);
        }
        let wanted = limit - page.rows.len() as u32;
        let shares = join_all(wave.iter().map(|(arc, group)| {
            share(
                backend,
                selection,
                Target::Shard(*group, *arc),
                after.clone(),
                wanted,
                MAX_PAGE_BYTES - bytes,
                deadline,
            )
        }))
        .await;
        let mut all_done = true;
        for ((arc, _), share) in wave.into_iter().zip(shares) {
            let share = match share {
                // The map is old, or ahead of the shard: look at it again.
                Err(Error::NotHere { .. }) if map_retries < MAX_MAP_RETRIES => {
                    map_retries += 1;
                    all_done = false;
                    break;
                }
                other => other?,
            };
            page.as_of = older(page.as_of, share.as_of);
            for row in share.rows {
                let row_bytes = size_of_row(&row);
                let fits = page.rows.is_empty() || bytes.saturating_add(row_bytes) <= MAX_PAGE_BYTES;
                if page.rows.len() == limit as usize || !fits {
                    page.next = after;
                    return Ok(page);
                }
                bytes = bytes.saturating_add(row_bytes).min(MAX_PAGE_BYTES);
                after = Some(Cursor { position: row.position, name: row.row.clone() });
                page.rows.push(row);
            }
            if let Some((position, name)) = share.next {
                reached = Position(position);
                after = Some(Cursor { position, name });
                all_done = false;
                break;
            }
            match arc.end {
                Position(0) => return Ok(page),
                end => reached = end,
            }
        }
        if page.rows.len() == limit as usize || bytes >= MAX_PAGE_BYTES {
            let more = !shards_from(&map, reached, span.last, 1).is_empty();
            page.next = after.filter(|_| more);
            return Ok(page);
        }
        at_once = if all_done { (at_once * 2).min(MAX_SHARDS_ASKED) } else { 1 };
    }
}

/// The positions that can hold what is wanted. Only where rows keep their order on the ring do
/// names bound positions.
struct Wanted {
    start: Position,
    last: Position,
}

impl Wanted {
    fn of(backend: &Backend, selection: &Selection) -> Result<Self, Problem> {
        /// The greatest text behind a prefix, as far as the ring looks (8 bytes).
        const GREATEST: &str = "\u{10ffff}\u{10ffff}";
        let mut span = Self { start: Position(0), last: Position(u64::MAX) };
        if backend.require_map()?.settings.partitioner != Partitioner::Ordered {
            return Ok(span);
        }
        let position = |name: &str| Ok::<_, Problem>(backend.locate(name)?.position);
        for name in selection.from.iter().chain((!selection.prefix.is_empty()).then_some(&selection.prefix)) {
            span.start = span.start.max(position(name)?);
        }
        if let Some(to) = &selection.to {
            span.last = span.last.min(position(to)?);
        }
        if !selection.prefix.is_empty() {
            span.last = span.last.min(position(&format!("{}{GREATEST}", selection.prefix))?);
        }
        Ok(span)
    }
}

/// Up to `count` shards from a position on, in ring order: their arcs and groups.
fn shards_from(map: &Map, from: Position, last: Position, count: usize) -> Vec<(Span, GroupId)> {
    if from > last {
        return Vec::new();
    }
    let first = map.shards.range(..=from).next_back().map_or(Position(0), |(start, _)| *start);
    let mut ends = map.shards.range(first..).skip(1).map(|(end, _)| *end);
    let wanted = map.shards.range(first..=last.max(first)).take(count);
    let arc = |start: &Position, end| Span { start: *start, end };
    wanted.map(|(start, shard)| (arc(start, ends.next().unwrap_or_default()), shard.group)).collect()
}

async fn share(
    backend: &Backend,
    selection: &Selection,
    target: Target<'_>,
    after: Option<Cursor>,
    limit: u32,
    max_bytes: u32,
    deadline: Instant,
) -> Result<Share, Error> {
    let scan = Scan {
        table: selection.table.clone(),
        prefix: selection.prefix.clone(),
        from: selection.from.clone(),
        to: selection.to.clone(),
        after: after.map(|cursor| (cursor.position, cursor.name)),
        column: selection.column.clone(),
        values: selection.values,
        limit,
        max_bytes,
    };
    let served = backend.query(target, Query::Scan(scan), selection.consistency, deadline).await?;
    match served.answer {
        Answer::Rows { rows, next } => Ok(Share { rows, next, as_of: served.as_of }),
        Answer::TooLarge => Err(row_too_large()),
        _ => Err(Error::Unavailable("the shard's answer was not understood".into())),
    }
}

/// The error of a row that is too large to be read at once.
pub(crate) fn row_too_large() -> Error {
    Error::Refused(format!("the row is larger than {MAX_READ_BYTES} bytes: read it column by column"))
}

/// The moment that holds for both, if both are known.
pub(crate) fn older(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.zip(other).map(|(one, other)| one.min(other))
}

fn size_of_row(row: &ScannedRow) -> u32 {
    let columns: usize = row.columns.iter().map(|(name, cell)| name.len() + cell.bytes.len()).sum();
    u32::try_from(row.row.len() + columns).unwrap_or(u32::MAX)
}
