//! Splits: two shards in one place, and where to part them.
//!
//! A split writes nothing but what is of no row: the parent's counters with the shorter arc, and for
//! the child the same counters with its own arc, and all remembered answers. So versions go on in
//! both halves, a repeated request finds its answer in whichever half its row is now, and cells and
//! marks of expiry change hands where they are.

use std::ops::ControlFlow;

use super::{
    Shard, keys,
    meta::Meta,
    view::{Fatal, State, View},
};
use crate::{
    command::{At, Split},
    ids::{Position, Span},
};

/// Applies a split; whether it was done now. It is not, where the point is not within the arc or is
/// its start, as when the same split is asked for twice.
pub fn split(state: &mut (impl State + ?Sized), shard: Shard, split: &Split, at: At) -> Result<bool, Fatal> {
    let mut meta = Meta::read(state, shard)?;
    meta.last_at = at.max(meta.last_at);
    let arc = meta.arc.unwrap_or(split.arc);
    let is_possible = arc.contains(split.at) && split.at != arc.start && split.child != shard.group;
    if is_possible {
        let child = Shard { group: split.child, ..shard };
        let upper = Meta { arc: Some(Span { start: split.at, end: arc.end }), ..meta };
        upper.write(state, child)?;
        let mut answers = Vec::new();
        for (from, to) in keys::answers(shard.group) {
            state.scan(&from, &to, &mut |key, value| {
                if let Some(key) = keys::of_group(key, split.child) {
                    answers.push((key, value.to_vec()));
                }
                ControlFlow::Continue(())
            })?;
        }
        for (key, value) in answers {
            state.put(key, value.into());
        }
        meta.arc = Some(Span { start: arc.start, end: split.at });
    }
    meta.write(state, shard)?;
    Ok(is_possible)
}

/// The arc that a shard knows to be its own; `None` before its first split.
pub fn arc(view: &(impl View + ?Sized), shard: Shard) -> Result<Option<Span>, Fatal> {
    Ok(Meta::read(view, shard)?.arc)
}

/// The most cells that [`middle`] looks at.
pub(super) const MIDDLE_MAX_CELLS: usize = 100_000;

/// The most tables whose sizes are asked for.
pub(super) const MIDDLE_MAX_TABLES: usize = 1_000;

/// What a look at a shard's cells says about their middle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Estimate {
    /// The first position of the upper half of the bytes.
    At(Position),
    /// All cells have one position.
    None,
    /// There are more cells than were looked at.
    TooMany,
}

/// Finds the middle of the cells of an arc by looking at each; where there are none, that of the arc.
pub fn middle(view: &(impl View + ?Sized), arc: Span) -> Result<Estimate, Fatal> {
    let mut cells: Vec<(Position, usize)> = Vec::new();
    let mut too_many = false;
    for table in tables(view)? {
        let (from, to) = keys::table_in(&table, arc);
        let mut outcome = Ok(());
        view.scan(&from, &to, &mut |key, value| match keys::read_cell(key) {
            Ok(name) if cells.len() < MIDDLE_MAX_CELLS => {
                cells.push((name.position, key.len() + value.len()));
                ControlFlow::Continue(())
            }
            Ok(_) => {
                too_many = true;
                ControlFlow::Break(())
            }
            Err(fatal) => {
                outcome = Err(fatal);
                ControlFlow::Break(())
            }
        })?;
        outcome?;
    }
    if too_many {
        return Ok(Estimate::TooMany);
    }
    if cells.is_empty() {
        return Ok(Estimate::At(arc.middle()));
    }
    cells.sort_unstable();
    let total: usize = cells.iter().map(|(_, bytes)| bytes).sum();
    let mut below = 0_usize;
    let mut best: Option<(usize, Position)> = None;
    for (index, (position, bytes)) in cells.iter().enumerate() {
        // All cells of a position stay together.
        let is_new = index == 0 || cells[index - 1].0 != *position;
        let distance = below.abs_diff(total - below);
        if is_new && index > 0 && *position > arc.start && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, *position));
        }
        below += bytes;
    }
    Ok(best.map_or(Estimate::None, |(_, position)| Estimate::At(position)))
}

/// Finds the middle of the cells of an arc by the sizes of parts of it.
pub fn middle_of_sizes(
    arc: Span,
    size: &mut dyn FnMut(Span) -> Result<u64, Fatal>,
) -> Result<Option<Position>, Fatal> {
    let half = size(arc)? / 2;
    let (mut low, mut high) = (arc.start.0, arc.last().0);
    if half == 0 || low == high {
        return Ok(None);
    }
    // The lower part is at most half the size up to `low`, and more up to `high`.
    while high - low > 1 {
        let at = low + (high - low) / 2;
        if size(Span { start: arc.start, end: Position(at) })? <= half { low = at } else { high = at }
    }
    Ok(Some(Position(low.max(arc.start.0 + 1))))
}

/// Keys from the first on, up to but without the second.
pub type Range = (Vec<u8>, Vec<u8>);

/// The ranges of keys that an arc's cells lie in: one for each table.
pub fn ranges(view: &(impl View + ?Sized), arc: Span) -> Result<Vec<Range>, Fatal> {
    Ok(tables(view)?.iter().map(|table| keys::table_in(table, arc)).collect())
}

/// The tables of a place, whoever's they are; the first [`MIDDLE_MAX_TABLES`].
fn tables(view: &(impl View + ?Sized)) -> Result<Vec<String>, Fatal> {
    let (mut from, to) = keys::cells();
    let mut tables = Vec::new();
    while tables.len() < MIDDLE_MAX_TABLES {
        let mut found = Ok(None);
        view.scan(&from, &to, &mut |key, _| {
            found = keys::read_cell(key).map(|name| Some(name.table.into_owned()));
            ControlFlow::Break(())
        })?;
        let Some(table) = found? else { break };
        from = keys::behind_table(&table);
        tables.push(table);
    }
    Ok(tables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_sizes_is_where_half_of_it_lies_below() {
        // 100 bytes at each of these positions.
        let places = [3u64, 10, 11, 40, 1 << 60, (1 << 60) + 1];
        let mut size =
            |arc: Span| Ok(places.iter().filter(|p| arc.contains(Position(**p))).count() as u64 * 100);
        let found = |arc, size: &mut dyn FnMut(Span) -> Result<u64, Fatal>| {
            middle_of_sizes(arc, size).unwrap().unwrap().0
        };
        assert_eq!(found(Span::RING, &mut size), 40);
        let part = |start, end| Span { start: Position(start), end: Position(end) };
        assert_eq!(found(part(0, 12), &mut size), 10, "one below, two behind");
        assert_eq!(found(part(1 << 60, 0), &mut size), (1 << 60) + 1);
        assert_eq!(middle_of_sizes(part(12, 40), &mut size).unwrap(), None, "nothing there");
    }
}
