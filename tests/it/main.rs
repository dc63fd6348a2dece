//! One binary for all tests that use the crate, or the program, from outside.
//!
//! `scripts` and the properties judge the pure layers. The others are the cluster's tests: real
//! processes of the real binary, on loopback, in directories of their own. `harness` starts, faults
//! and stops them and speaks HTTP to them; the tests are divided by what a user relies on.

// A panic is a test's verdict here, and the reader of a test is its only user.
#![allow(clippy::unwrap_used, missing_docs)]

mod api;
mod bad_input;
mod cli;
mod cuts;
mod examples;
mod faults;
mod harness;
mod history;
#[path = "../linearizability/mod.rs"]
mod linearizability;
mod members;
mod partitioners;
mod plan_properties;
mod properties;
mod scripts;
mod split_properties;
