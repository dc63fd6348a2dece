//! The wall clock, read in one place. No safety rests on it: it only dates writes and ends
//! lifetimes, and what a leader stamped is made to grow by the machine that applies it.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::command::At;

/// Now.
pub fn now() -> At {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    At(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}
