//! Networks that are cut, in both directions or in one, between processes that all go on.

mod coordinators;
mod leaders;
