//! How the shard machine sees the state below it, and what it hands back to be written.
//!
//! Invariant: the machine's whole state is what a [`View`] shows; nothing is remembered between two
//! calls, so a snapshot of the keys is a snapshot of the machine.

use std::{collections::BTreeMap, ops::ControlFlow};

use bytes::Bytes;

/// This replica cannot go on: its disk failed, or holds what this version cannot read. Never an
/// effect of a command, so other replicas are fine; the node must stop using the shard.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fatal(pub String);

/// The visitor of [`View::scan`]: key and value; [`ControlFlow::Break`] ends the scan.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// A consistent state of one shard: keys are those of [`super::keys`].
pub trait View {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Fatal>;

    /// Visits the keys of `[from, to)` in ascending order, until the visitor breaks.
    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), Fatal>;
}

/// A view that can be changed, and shows its changes.
pub trait State: View {
    /// Sets a key.
    fn put(&mut self, key: Vec<u8>, value: Bytes);

    /// Removes a key.
    fn delete(&mut self, key: Vec<u8>);
}

impl View for BTreeMap<Vec<u8>, Bytes> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Fatal> {
        Ok(BTreeMap::get(self, key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), Fatal> {
        if from < to {
            for (key, value) in self.range::<[u8], _>((bound(from), std::ops::Bound::Excluded(to))) {
                if visit(key, value).is_break() {
                    break;
                }
            }
        }
        Ok(())
    }
}

fn bound(from: &[u8]) -> std::ops::Bound<&[u8]> {
    std::ops::Bound::Included(from)
}

/// What a command changes: keys in ascending order, each once; `None` removes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Writes(pub Vec<(Vec<u8>, Option<Bytes>)>);

/// A view with changes on top of it, to be written all at once or not at all.
#[derive(Debug)]
pub struct Overlay<'v, V: ?Sized> {
    base: &'v V,
    changed: BTreeMap<Vec<u8>, Option<Bytes>>,
}

impl<'v, V: View + ?Sized> Overlay<'v, V> {
    /// An overlay without changes.
    pub fn new(base: &'v V) -> Self {
        Self { base, changed: BTreeMap::new() }
    }

    /// The changes made.
    pub fn into_writes(self) -> Writes {
        Writes(self.changed.into_iter().collect())
    }
}

impl<V: View + ?Sized> State for Overlay<'_, V> {
    fn put(&mut self, key: Vec<u8>, value: Bytes) {
        self.changed.insert(key, Some(value));
    }

    fn delete(&mut self, key: Vec<u8>) {
        self.changed.insert(key, None);
    }
}

impl<V: View + ?Sized> View for Overlay<'_, V> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Fatal> {
        match self.changed.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.base.get(key),
        }
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), Fatal> {
        if from >= to {
            return Ok(());
        }
        let mut changed =
            self.changed.range::<[u8], _>((bound(from), std::ops::Bound::Excluded(to))).peekable();
        let mut stopped = false;
        self.base.scan(from, to, &mut |key, value| {
            while let Some((own, change)) = changed.next_if(|(own, _)| own.as_slice() <= key) {
                if let Some(change) = change
                    && visit(own, change).is_break()
                {
                    stopped = true;
                    return ControlFlow::Break(());
                }
                if own.as_slice() == key {
                    return ControlFlow::Continue(());
                }
            }
            let flow = visit(key, value);
            stopped = flow.is_break();
            flow
        })?;
        if !stopped {
            for (key, change) in changed {
                if let Some(change) = change
                    && visit(key, change).is_break()
                {
                    break;
                }
            }
        }
        Ok(())
    }
}
