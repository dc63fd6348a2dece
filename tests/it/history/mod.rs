//! Histories of concurrent clients under faults, judged by a linearizability checker
//! (`tests/linearizability`).

mod client;
mod under_cuts;
mod under_faults;
