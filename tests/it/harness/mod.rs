//! What the tests stand on: clusters of real processes, their faults, and clients for them.
//!
//! Nothing here sleeps in place of a condition: all waiting goes through [`eventually`].

mod cluster;
mod command;
mod disk;
mod http;
mod kept;
mod load;
mod network;
mod node;
mod ports;
mod process;
mod raw;
mod spec;
mod wait;
mod workdir;

pub(crate) use self::{
    cluster::{Cluster, private},
    command::{Output, quoring, quoring_with_stdin, spawn_quoring},
    disk::Disk,
    http::{Answer, Call, Failure, Http, check_times, names},
    kept::Kept,
    load::Load,
    network::{Network, in_network},
    node::{Node, Role},
    ports::free_port,
    process::{Process, own_memory},
    raw::Raw,
    spec::Spec,
    wait::{HEAL, START, eventually},
    workdir::Workdir,
};

/// The binary under test.
pub(crate) const QUORING: &str = env!("CARGO_BIN_EXE_quoring");
