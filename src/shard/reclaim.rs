//! Giving back the space of what has expired, by the marks of expiry.
//!
//! What a command reclaims must be the same on every replica, and where a shard shares its place
//! with another one, the other's marks are there or not, differently on each. So nothing here
//! depends on them: the marks of a second, a *lot*, lie together by position, of which a shard's are
//! one range; a walk goes from lot to lot and never looks into another shard's part. It takes lots
//! that are past, so that within them every mark is due.

use std::ops::ControlFlow;

use super::{
    keys,
    meta::Meta,
    view::{Fatal, State, View},
};
use crate::{
    command::At,
    ids::{Position, Span},
};

/// The most lots that a walk of a shard which was split goes through: bounds its seeks.
const LOTS_MAX: u64 = 256;

/// Marks that are due, and how far the walk came.
struct Due {
    /// Mark and cell.
    marks: Vec<(Vec<u8>, Vec<u8>)>,
    /// All that is left is of this lot or a later one.
    reached: u64,
}

/// Removes cells that are due, at most `most`.
pub(super) fn reclaim(
    state: &mut (impl State + ?Sized),
    meta: &mut Meta,
    now: At,
    most: usize,
) -> Result<(), Fatal> {
    if now < meta.next_expiry {
        return Ok(());
    }
    let end = keys::lot(now);
    let due = walk(state, meta, end, most)?;
    meta.expiring = meta.expiring.saturating_sub(due.marks.len() as u64);
    meta.marks_from = keys::lot_start(due.reached);
    for (mark, cell) in due.marks {
        state.delete(mark);
        state.delete(cell);
    }
    meta.next_expiry = match meta.expiring {
        0 => At(u64::MAX),
        _ if due.reached < end => meta.marks_from,
        // Nobody knows what is next, but it is not due before this lot is past.
        _ => keys::lot_start(end + 1),
    };
    Ok(())
}

/// Whether there is something to reclaim, or to look for where a walk did not come through.
pub(super) fn is_wanted(view: &(impl View + ?Sized), meta: &Meta, now: At) -> Result<bool, Fatal> {
    if now < meta.next_expiry {
        return Ok(false);
    }
    let end = keys::lot(now);
    let due = walk(view, meta, end, 1)?;
    Ok(!due.marks.is_empty() || due.reached < end)
}

/// Walks the lots from the first that may have marks up to `end`, without it.
fn walk(view: &(impl View + ?Sized), meta: &Meta, end: u64, most: usize) -> Result<Due, Fatal> {
    let arc = meta.arc.unwrap_or(Span::RING);
    let mut lot = keys::lot(meta.marks_from).min(end);
    let end = if meta.arc.is_some() { end.min(lot.saturating_add(LOTS_MAX)) } else { end };
    let to = keys::expiries_from(end, Position(0));
    let mut due = Due { marks: Vec::new(), reached: end };
    while lot < end {
        let from = keys::expiries_from(lot, arc.start);
        let mut outcome = Ok(());
        let mut next = None;
        view.scan(&from, &to, &mut |mark, _| {
            let found = keys::read_mark(mark).and_then(|(lot, position)| {
                if !arc.contains(position) {
                    // Where the next of this shard's own may be.
                    next = Some(if position < arc.start { lot } else { lot + 1 });
                    return Ok(None);
                }
                if due.marks.len() >= most {
                    due.reached = lot;
                    return Ok(None);
                }
                keys::read_expiry(mark).map(|(_, cell)| Some(cell))
            });
            match found {
                Ok(Some(cell)) => {
                    due.marks.push((mark.to_vec(), cell));
                    ControlFlow::Continue(())
                }
                Ok(None) => ControlFlow::Break(()),
                Err(fatal) => {
                    outcome = Err(fatal);
                    ControlFlow::Break(())
                }
            }
        })?;
        outcome?;
        match next {
            Some(next) => lot = next,
            None => break,
        }
    }
    Ok(due)
}
