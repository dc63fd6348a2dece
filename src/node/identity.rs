//! Who this node is, across restarts: its name in the file `id`, what it became a member of in its
//! store.

use std::{fs, io::Write, path::Path};

use anyhow::Context;
use raft_store::Store;
use rand::RngExt;
use serde::{Deserialize, Serialize};

use crate::{
    ids::{ClusterId, NodeId, StoreId, WorkerId},
    peer::Heard,
    ring::map::Map,
};

/// The file with a worker's name, in its directory.
const ID_FILE: &str = "id";

/// Letters in the name of a new worker.
const ID_LETTERS: usize = 5;

const MEMBER: &str = "member";
const MAP: &str = "map";
const HEARD: &str = "heard";
const OUTGROWN: &str = "outgrown";

/// The format of the records here.
const FORMAT: u8 = 1;

/// What a node became when it joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Member {
    /// Its number.
    pub(super) node: NodeId,
    /// The cluster; a coordinator learns it after its number.
    pub(super) cluster: Option<ClusterId>,
}

/// The store's identity.
pub(super) fn store_id(store: &Store) -> StoreId {
    StoreId(store.id())
}

/// The worker's name: read from its directory, or made there. Without a directory it lasts as long
/// as the process.
pub(super) fn worker_id(dir: Option<&Path>) -> anyhow::Result<WorkerId> {
    let Some(dir) = dir else { return Ok(new_worker_id()) };
    let path = dir.join(ID_FILE);
    match fs::read_to_string(&path) {
        Ok(text) => {
            text.trim().parse().with_context(|| format!("{} does not hold a worker id", path.display()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let id = new_worker_id();
            let written = || -> std::io::Result<()> {
                // Under another name first: a crash must not leave half a name.
                let fresh = dir.join("id.new");
                let mut file = fs::File::create(&fresh)?;
                writeln!(file, "{id}")?;
                file.sync_all()?;
                fs::rename(&fresh, &path)?;
                fs::File::open(dir)?.sync_all()
            };
            written().with_context(|| format!("write {}", path.display()))?;
            Ok(id)
        }
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

fn new_worker_id() -> WorkerId {
    let mut rng = rand::rng();
    let letters: String = (0..ID_LETTERS).map(|_| rng.random_range('a'..='z')).collect();
    letters.parse().expect("five lower-case letters are a worker id")
}

/// What this store's node became a member of.
pub(super) fn member(store: &Store) -> anyhow::Result<Option<Member>> {
    load(store, MEMBER)
}

/// Notes down what this store's node is a member of; durable on return.
pub(super) fn set_member(store: &Store, member: Member) -> anyhow::Result<()> {
    save(store, MEMBER, &member)
}

/// The last map that this node had.
pub(super) fn map(store: &Store) -> anyhow::Result<Option<Map>> {
    load(store, MAP)
}

/// Keeps the map, so that a restarted worker serves before it has found a coordinator.
pub(super) fn set_map(store: &Store, map: &Map) -> anyhow::Result<()> {
    save(store, MAP, map)
}

/// What this node has heard of the heights of other members' stores.
pub(super) fn heard(store: &Store) -> anyhow::Result<Vec<Heard>> {
    Ok(load(store, HEARD)?.unwrap_or_default())
}

/// Keeps what was heard, so that a restart of this node forgets none of it that is older than that.
pub(super) fn set_heard(store: &Store, heard: &[Heard]) -> anyhow::Result<()> {
    save(store, HEARD, &heard)
}

/// The height that this directory was at before it went back, where this node was told so.
pub(super) fn outgrown(store: &Store) -> anyhow::Result<Option<u64>> {
    load(store, OUTGROWN)
}

/// Notes down that this directory went back: what it has forgotten does not come back by itself.
pub(super) fn set_outgrown(store: &Store, height: u64) -> anyhow::Result<()> {
    save(store, OUTGROWN, &height)
}

fn load<T: for<'de> Deserialize<'de>>(store: &Store, name: &str) -> anyhow::Result<Option<T>> {
    let Some(bytes) = store.meta(name)? else { return Ok(None) };
    match bytes.split_first() {
        Some((&FORMAT, rest)) => postcard::from_bytes(rest)
            .map(Some)
            .with_context(|| format!("the store's record `{name}` is damaged")),
        _ => anyhow::bail!("the store's record `{name}` was written by a newer version"),
    }
}

fn save<T: Serialize + ?Sized>(store: &Store, name: &str, value: &T) -> anyhow::Result<()> {
    let bytes = postcard::to_extend(value, vec![FORMAT])?;
    Ok(store.set_meta(name, &bytes)?)
}
