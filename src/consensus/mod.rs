//! Raft groups: many in one process, over one store and shared connections.
//!
//! [`host::Host`] starts and stops the groups of a node and hands them their messages;
//! [`group::Group`] is what the layers above use: propose, read, change members. Nothing above
//! knows openraft.

pub mod alarms;
pub mod batch;
mod freshness;
pub mod group;
pub mod host;
mod liveness;
pub mod log_limits;
pub mod machine;
mod proposer;
mod pulse;
mod reads;
mod receive;
mod snapshots;
mod take_over;
pub mod transport;
pub mod types;
mod wire;
