//! The cluster's tests: real processes of the real binary, on loopback, in directories of their own.
//!
//! `harness` starts, faults and stops them and speaks HTTP to them; everything else is tests, by
//! what a user relies on. Not here: tests of one layer, which stand beside its code.

// A panic is a test's verdict here, and the reader of a test is its only user.
#![allow(clippy::unwrap_used, missing_docs)]

mod api;
mod bad_input;
mod cli;
mod faults;
mod harness;
mod history;
mod partitioners;
