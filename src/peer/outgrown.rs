//! A store that went back to an earlier state: who meets it turns it away, and a node that learns it of
//! its own store speaks to nobody any more.

use std::sync::{Arc, atomic::AtomicU64};

use futures_util::{StreamExt, stream};
use tokio::{sync::watch, time::Instant};

use super::{
    Heard, Identity, Lane, Links, Peer,
    hello::{Hello, Refusal},
};

/// Nodes that are greeted at once.
const GREETED_AT_ONCE: usize = 64;

impl Links {
    /// Goes on with what an earlier life of this node has heard of the heights of others.
    pub fn recall(&self, heard: impl IntoIterator<Item = Heard>) {
        self.heights.recall(heard);
    }

    /// What was heard of the heights of all members, for keeping.
    pub fn heard(&self) -> Vec<Heard> {
        self.heights.of_members()
    }

    /// The height that this node's directory was at before it went back to an earlier state, as soon as
    /// that is known.
    pub fn outgrown(&self) -> Option<u64> {
        *self.outgrown.borrow()
    }

    /// The same, for waiting.
    pub fn watch_outgrown(&self) -> watch::Receiver<Option<u64>> {
        self.outgrown.subscribe()
    }

    /// This node's directory went back: it was at this height before. Whatever it promised since is
    /// forgotten, so it says nothing to anybody any more.
    pub fn take_part_no_more(&self, height: u64) {
        // The first one to know is enough.
        self.outgrown.send_if_modified(|known| known.is_none() && known.replace(height).is_none());
        self.close();
    }

    /// Greets all of these and does nothing else: so a node whose directory went back learns it from
    /// whoever of them can tell.
    pub async fn greet_all(self: &Arc<Self>, peers: Vec<Peer>, deadline: Instant) {
        let greet = |peer: Peer| async move {
            // Whoever cannot be reached is greeted again as soon as there is something to say.
            let _ = self.connection(&peer, Lane::Main, deadline).await;
        };
        stream::iter(peers).map(greet).buffer_unordered(GREETED_AT_ONCE).collect::<()>().await;
    }

    /// Holds a caller against what was heard of it, and this node against what the caller has heard.
    pub(super) fn judge(&self, hello: &Hello, me: &Identity) -> Result<Arc<AtomicU64>, Refusal> {
        if let Some(height) = hello.outgrown(me) {
            self.take_part_no_more(height);
        }
        if self.outgrown().is_some() {
            return Err(Refusal::Other("the directory of this node is an older copy of itself".into()));
        }
        self.meet(&hello.from).map_err(Refusal::Outgrown)
    }

    pub(super) fn meet(&self, peer: &Identity) -> Result<Arc<AtomicU64>, u64> {
        let is_member = self.directory().values().any(|(_, store)| *store == peer.store);
        self.heights.meet(peer.store, peer.opening, is_member)
    }
}
