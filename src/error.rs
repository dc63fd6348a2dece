//! What happened to a request that did not succeed. The one question every layer must be able to
//! answer is whether a write may still take effect; `http::error` turns the answer into a status.

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, NodeId};

/// Whether a failed write may have been applied, now or later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was not and will not be applied.
    None,
    /// It may have been applied, or may yet be.
    Unknown,
}

/// Why a request did not succeed. Every variant but [`Error::Unknown`] means: not applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Error {
    /// The node asked does not lead the group; `leader` is its best guess at who does.
    #[error("not the leader of this shard")]
    NotLeader {
        /// Where to ask next.
        leader: Option<NodeId>,
    },
    /// The node asked has no replica of the group, or the row is not in it: the asker's map is old,
    /// or the node's is.
    #[error("the shard is not on this node (map epoch {epoch})")]
    NotHere {
        /// The epoch of the answering node's map.
        epoch: Epoch,
    },
    /// Nobody can serve this now: no leader, no majority, or the node is stopping.
    #[error("{0}")]
    Unavailable(String),
    /// A named bound on work in flight is full.
    #[error("too much work in flight: {0}")]
    Busy(String),
    /// The request was handed on, and no answer came.
    #[error("{0}")]
    Unknown(String),
    /// The request cannot be right, whatever the state.
    #[error("{0}")]
    Invalid(String),
    /// The request is well-formed and refused in the present state; the sentence says why.
    #[error("{0}")]
    Refused(String),
    /// What the request names does not exist.
    #[error("{0}")]
    NotFound(String),
}

impl Error {
    /// Whether the write behind this error may have been applied.
    pub fn outcome(&self) -> Outcome {
        match self {
            Error::Unknown(_) => Outcome::Unknown,
            Error::NotLeader { .. }
            | Error::NotHere { .. }
            | Error::Unavailable(_)
            | Error::Busy(_)
            | Error::Invalid(_)
            | Error::Refused(_)
            | Error::NotFound(_) => Outcome::None,
        }
    }
}
