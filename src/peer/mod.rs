//! Streams between nodes: calls with answers, many at a time over few connections. What a call
//! means is not known here; `consensus` and `node` give and take the methods.
//!
//! A connection begins as an HTTP/1.1 request on the node's one port (`Upgrade: quoring-peer/1`),
//! so that one firewall rule and one TLS setup cover everything. Then both sides say who they are
//! ([`hello`]) and speak [`frame`]s; either may call the other. Between two nodes there is one
//! connection per [`Lane`] and, where both connected at once, a second one that idles.
//!
//! Invariants:
//! - Calls on one connection arrive in the order they were sent; answers come in any order.
//! - A call fails with [`CallError::NotSent`], [`CallError::Refused`] or [`CallError::Busy`] only if the other side has not
//!   seen it and never will; every other failure leaves open what happened.
//! - A node that is not who the caller meant (another cluster, another store, a store that went back to
//!   an earlier state) answers nothing.

pub mod conn;
pub mod frame;
pub mod heights;
pub mod hello;
pub mod links;
pub mod network;
mod outgrown;

pub use conn::{Call, CallError, Conn, Handler, Reply};
pub use heights::Heard;
pub use hello::{Identity, Lane};
pub use links::{Links, Peer};
pub use network::{Network, Socket};

/// The protocol named in the `Upgrade` header.
pub const PROTOCOL: &str = "quoring-peer/1";

/// The path of the upgrade request.
pub const PATH: &str = "/peer";
