//! Whether the store may still write. A failed write or sync is final.
//!
//! After a failed fsync the kernel may have dropped the dirty pages, and a second, "successful"
//! fsync would prove nothing (Rebello et al., "Can Applications Recover from fsync Failures?",
//! 2020). So the first failure is kept, every later write is refused, and the process is expected
//! to give up its leaderships and end.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use crate::error::StoreError;

pub(crate) struct Health {
    failed: watch::Sender<Option<String>>,
    closed: AtomicBool,
}

impl Health {
    pub(crate) fn new() -> Health {
        Health { failed: watch::Sender::new(None), closed: AtomicBool::new(false) }
    }

    /// To be asked before every write.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        if let Some(reason) = &*self.failed.borrow() {
            return Err(StoreError::Poisoned(reason.clone()));
        }
        if self.closed.load(Ordering::Acquire) {
            return Err(StoreError::Closed);
        }
        Ok(())
    }

    /// Ends all writing. The first reason stays.
    pub(crate) fn poison(&self, reason: &str) -> StoreError {
        let first = self.failed.send_if_modified(|failed| {
            if failed.is_none() {
                *failed = Some(reason.to_owned());
                return true;
            }
            false
        });
        if first {
            tracing::error!(reason, "the store takes no more writes");
        }
        StoreError::Poisoned(self.failed.borrow().clone().unwrap_or_else(|| reason.to_owned()))
    }

    /// Poisons the store if `result` is an error of a write.
    pub(crate) fn guard<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        result.map_err(|error| self.poison(&error.to_string()))
    }

    /// True if this call closed the store.
    pub(crate) fn close(&self) -> bool {
        !self.closed.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<String>> {
        self.failed.subscribe()
    }
}
