//! Histories of concurrent clients under faults, judged by a linearizability checker.

mod checker;
mod checker_test;
mod client;
mod recorder;
mod under_cuts;
mod under_faults;
