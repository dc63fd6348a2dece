//! The coordinator group's state and its plans, as pure functions.
//!
//! Not here: who leads the group, where its records are kept, how heartbeats come in, and who
//! carries the plans out.

pub mod clocks;
pub mod command;
mod joining;
pub mod leave;
pub mod machine;
pub mod observed;
pub mod plan;
pub mod records;
pub mod seats;
pub mod split;
pub mod status;
