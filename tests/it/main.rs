//! One binary for all tests that use the crate from outside.
#![allow(clippy::unwrap_used)]

mod plan_properties;
mod properties;
mod scripts;
