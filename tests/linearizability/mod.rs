//! Histories of concurrent clients, and whether they are linearizable: for real processes (`tests/it`)
//! and for the simulation (`tests/sim`) alike.

mod checker;
#[cfg(test)]
mod checker_test;
mod recorder;

pub(crate) use checker::{Op, Outcome, Value};
pub(crate) use recorder::Recorder;
