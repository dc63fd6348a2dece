//! What all clients asked and were told, in one order of calls and returns.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use super::checker::{Entry, Op, Outcome, Verdict, check};

/// A history under way.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    moment: AtomicU64,
    told: AtomicU64,
    entries: Mutex<BTreeMap<String, Vec<Entry>>>,
}

impl Recorder {
    /// The next moment: later than all before it, on whatever thread.
    pub(crate) fn moment(&self) -> u64 {
        self.moment.fetch_add(1, Ordering::SeqCst)
    }

    /// Notes an operation that returned just now.
    pub(crate) fn note(&self, key: &str, op: Op, outcome: Outcome, called: u64) {
        let entry = Entry { op, outcome, called, returned: self.moment() };
        self.entries.lock().unwrap().entry(key.to_owned()).or_default().push(entry);
        if outcome != Outcome::Unknown {
            self.told.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Operations whose outcome is known, so far.
    pub(crate) fn told(&self) -> u64 {
        self.told.load(Ordering::SeqCst)
    }

    /// Judges every key: a summary, or the history of the first key that no register explains.
    pub(crate) fn judge(&self) -> Result<String, String> {
        let entries = self.entries.lock().unwrap();
        let mut summary = String::new();
        for (key, history) in &*entries {
            let unknown = history.iter().filter(|entry| entry.outcome == Outcome::Unknown).count();
            let verdict = check(history);
            summary += &format!("{key}: {} operations, {unknown} unknown: {verdict:?}\n", history.len());
            if verdict != Verdict::Linearizable {
                let mut lines = history.clone();
                lines.sort_by_key(|entry| entry.called);
                let lines: Vec<_> = lines.iter().map(|entry| format!("{entry:?}")).collect();
                return Err(format!("{summary}{}", lines.join("\n")));
            }
        }
        Ok(summary)
    }
}
