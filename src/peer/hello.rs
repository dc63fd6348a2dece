//! Who is there: the first message each way on a new connection, before any frame.
//!
//! A node number alone proves nothing: a worker whose disk was lost or rolled back must not be taken
//! for the voter it was. So a caller names the store it means, and the other side checks.

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::ids::{ClusterId, NodeId, StoreId};

/// The version of what follows the greeting.
const VERSION: u32 = 1;

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
}

impl Hello {
    /// A greeting of this version.
    pub fn new(from: Identity, to: Option<(NodeId, StoreId)>, lane: Lane) -> Self {
        Self { version: VERSION, from, to, lane }
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
pub type Welcome = Result<Identity, String>;

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
    Refused(String),
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
        }
    }

    #[test]
    fn only_who_is_meant_answers() {
        let me = identity(Some(1), Some(5), 50);
        let caller = identity(Some(1), Some(6), 60);
        let meant = Some((NodeId(5), me.store));
        let hello = |from: &Identity, to| Hello::new(from.clone(), to, Lane::Main);

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
}
