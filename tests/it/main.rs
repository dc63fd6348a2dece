//! One binary for all tests that use the crate from outside.
#![allow(clippy::unwrap_used)]

mod properties;
mod scripts;
