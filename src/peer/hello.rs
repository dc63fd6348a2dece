//! Who is there: the first message each way on a new connection, before any frame.
//!
//! A node number alone proves nothing: a worker whose disk was lost or rolled back must not be taken
//! for the voter it was. So a caller names the store it means, and what it has heard of it, and the
//! other side checks; each also holds what the other says of itself against what it has heard.

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::heights::Heard;
use crate::ids::{ClusterId, NodeId, Opening, StoreId};

/// The version of what follows the greeting.
const VERSION: u32 = 2;

/// The longest greeting, bytes.
const MAX_HELLO_BYTES: u32 = 4096;

/// What a connection is for. Bulk transfers have their own, so that they never delay a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Lane {
    /// Raft messages and forwarded requests.
    Main,
    /// Snapshots.
    Bulk,
}

/// Who a node says it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The cluster, once it belongs to one.
    pub cluster: Option<ClusterId>,
    /// Its number, once it has one.
    pub node: Option<NodeId>,
    /// Its store.
    pub store: StoreId,
    /// The opening of that store.
    pub opening: Opening,
}

/// The caller's greeting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    version: u32,
    /// The caller.
    pub from: Identity,
    /// Whom it means to talk to; `None` where it knows an address only.
    pub to: Option<(NodeId, StoreId)>,
    /// What for.
    pub lane: Lane,
    /// What the caller has heard of whom it means.
    pub heard: Option<Heard>,
}

impl Hello {
    /// A greeting of this version.
    pub fn new(from: Identity, to: Option<(NodeId, StoreId)>, lane: Lane, heard: Option<Heard>) -> Self {
        Self { version: VERSION, from, to, lane, heard }
    }

    /// The height that the directory of the node `me` had before it went back, if this caller knows so.
    pub fn outgrown(&self, me: &Identity) -> Option<u64> {
        let heard = self.heard.filter(|heard| heard.store == me.store)?;
        heard.outgrown(&me.opening)
    }

    /// Why the node `me` will not talk to this caller. `known` is the store that the map has for
    /// the caller's number.
    pub fn refusal(&self, me: &Identity, known: Option<StoreId>) -> Option<String> {
        if self.version != VERSION {
            return Some(format!("peer protocol {} is not spoken here, only {VERSION}", self.version));
        }
        if let (Some(theirs), Some(mine)) = (self.from.cluster, me.cluster)
            && theirs != mine
        {
            return Some(format!("this node belongs to cluster {mine}, the caller to {theirs}"));
        }
        if let Some((node, store)) = self.to
            && (me.node != Some(node) || me.store != store)
        {
            return Some(format!(
                "this is not node {node} with store {store}: it may have lost its directory"
            ));
        }
        if let (Some(node), Some(known)) = (self.from.node, known)
            && known != self.from.store
        {
            return Some(format!("node {node} is known with another store: the caller lost its directory"));
        }
        None
    }
}

/// The answer to a greeting.
pub type Welcome = Result<Identity, Refusal>;

/// Why a greeting is not answered by one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// For a reason that is a sentence.
    Other(String),
    /// The caller's directory went back to an earlier state: it was at this height before.
    Outgrown(u64),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::Other(why) => f.write_str(why),
            Refusal::Outgrown(height) => write!(
                f,
                "the caller's directory is an older copy: it was at height {height} before it was opened"
            ),
        }
    }
}

/// Why the greeting failed.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    /// The connection broke.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The other side speaks something else.
    #[error("the other side does not speak the peer protocol")]
    Malformed,
    /// The other side does not want to talk to us, and says why.
    #[error("refused: {0}")]
    Refused(Refusal),
}

/// Sends one greeting message.
pub async fn send<T: Serialize>(io: &mut (impl AsyncWrite + Unpin), message: &T) -> Result<(), HelloError> {
    let body = postcard::to_stdvec(message).map_err(|_| HelloError::Malformed)?;
    io.write_u32_le(u32::try_from(body.len()).map_err(|_| HelloError::Malformed)?).await?;
    io.write_all(&body).await?;
    io.flush().await?;
    Ok(())
}

/// Receives one greeting message.
pub async fn receive<T: for<'de> Deserialize<'de>>(
    io: &mut (impl AsyncRead + Unpin),
) -> Result<T, HelloError> {
    let length = io.read_u32_le().await?;
    if length > MAX_HELLO_BYTES {
        return Err(HelloError::Malformed);
    }
    let mut body = vec![0; length as usize];
    io.read_exact(&mut body).await?;
    postcard::from_bytes(&body).map_err(|_| HelloError::Malformed)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn identity(cluster: Option<u128>, node: Option<u64>, store: u128) -> Identity {
        Identity {
            cluster: cluster.map(|c| ClusterId(Uuid::from_u128(c))),
            node: node.map(NodeId),
            store: StoreId(Uuid::from_u128(store)),
            opening: Opening { id: 1, height: 1 },
        }
    }

    #[test]
    fn only_who_is_meant_answers() {
        let me = identity(Some(1), Some(5), 50);
        let caller = identity(Some(1), Some(6), 60);
        let meant = Some((NodeId(5), me.store));
        let hello = |from: &Identity, to| Hello::new(from.clone(), to, Lane::Main, None);

        assert_eq!(hello(&caller, meant).refusal(&me, Some(caller.store)), None);
        assert_eq!(hello(&caller, None).refusal(&me, None), None);
        assert_eq!(hello(&identity(None, None, 9), None).refusal(&me, None), None, "a newcomer may ask");

        let refused = |hello: Hello, known| hello.refusal(&me, known).expect("refused");
        assert!(refused(hello(&identity(Some(2), Some(6), 60), meant), None).contains("cluster"));
        assert!(refused(hello(&caller, Some((NodeId(7), me.store))), None).contains("not node 7"));
        let wiped = identity(None, None, 51).store;
        assert!(refused(hello(&caller, Some((NodeId(5), wiped))), None).contains("lost its directory"));
        assert!(refused(hello(&caller, meant), Some(wiped)).contains("another store"));
    }

    #[test]
    fn who_is_called_learns_that_its_directory_went_back() {
        let me = identity(Some(1), Some(5), 50);
        let tells = |store: &Identity, id, height| {
            let heard = Heard { store: store.store, last: Opening { id, height }, before: 0 };
            Hello::new(identity(Some(1), Some(6), 60), None, Lane::Main, Some(heard)).outgrown(&me)
        };
        assert_eq!(tells(&me, 2, 9), Some(9));
        assert_eq!(tells(&me, 1, 9), None, "of this very opening");
        assert_eq!(tells(&identity(None, None, 51), 2, 9), None, "of another store");
        assert_eq!(Hello::new(me.clone(), None, Lane::Main, None).outgrown(&me), None);
    }
}
