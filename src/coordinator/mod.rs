//! The coordinator group's state and its plans, as pure functions.

pub mod machine;
pub mod plan;
pub mod status;
