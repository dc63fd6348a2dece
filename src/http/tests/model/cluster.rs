//! What the model answers about the cluster itself.

use tokio::time::Instant;

use super::Model;
use crate::{
    coordinator::status::{Cluster, Coordinators},
    error::Error,
    ids::{NodeId, WorkerId},
    router::{ActiveWorker, calls::Seat},
};

impl Model {
    pub(crate) async fn ping(&self, id: WorkerId, addr: String, _: Instant) -> Result<(), Error> {
        self.begin().await;
        let mut state = self.0.lock();
        state.coordinators.clone()?;
        state.pings.insert(id, addr);
        Ok(())
    }

    pub(crate) async fn workers(&self, _: Instant) -> Result<Vec<ActiveWorker>, Error> {
        let state = self.0.lock();
        state.coordinators.clone()?;
        Ok(state.pings.iter().map(|(id, addr)| ActiveWorker { id: id.clone(), addr: addr.clone() }).collect())
    }

    pub(crate) async fn cluster(&self, _: Instant) -> Result<Cluster, Error> {
        self.begin().await;
        let state = self.0.lock();
        state.coordinators.clone()?;
        let map = state.real.as_ref().unwrap();
        Ok(Cluster {
            epoch: map.epoch,
            cluster: map.cluster,
            name: map.settings.name.clone(),
            coordinators: Coordinators { leader: Some(NodeId(1)), term: 2, ..Coordinators::default() },
            workers: Vec::new(),
            shards: Vec::new(),
            moves: Vec::new(),
        })
    }

    pub(crate) async fn drain(&self, id: WorkerId, draining: bool, _: Instant) -> Result<(), Error> {
        let mut state = self.0.lock();
        let known = state.real.as_ref().unwrap().workers.values().any(|worker| worker.id == id);
        if !known {
            return Err(Error::NotFound(format!("there is no worker {id}")));
        }
        if draining && state.draining.len() == 2 {
            return Err(Error::Refused("there is nowhere to go".into()));
        }
        if draining {
            state.draining.insert(id)
        } else {
            state.draining.remove(&id)
        };
        Ok(())
    }

    pub(crate) async fn coordinators(&self, _: Instant) -> Result<Coordinators, Error> {
        self.0.lock().coordinators.clone()?;
        let members = [(NodeId(1), "127.0.0.1:7001".to_owned())].into();
        Ok(Coordinators {
            leader: Some(NodeId(1)),
            term: 2,
            members,
            settled: true,
            ..Coordinators::default()
        })
    }

    pub(crate) async fn add_coordinator(&self, addr: String, _: Instant) -> Result<Seat, Error> {
        match addr.as_str() {
            "127.0.0.1:7001" => Err(Error::Refused(format!("{addr} is a member already"))),
            _ => Ok(Seat { node: NodeId(9), addr, replaces: None }),
        }
    }

    pub(crate) async fn remove_coordinator(&self, which: String, _: Instant) -> Result<Seat, Error> {
        match which.as_str() {
            "1" => Err(Error::Refused("coordinator 1 is the last one".into())),
            "127.0.0.1:7009" => Ok(Seat { node: NodeId(9), addr: which, replaces: None }),
            _ => Err(Error::NotFound(format!("there is no coordinator {which}"))),
        }
    }

    pub(crate) async fn remove(&self, id: WorkerId, _: Instant) -> Result<(), Error> {
        if self.0.lock().draining.remove(&id) {
            Ok(())
        } else {
            Err(Error::Refused(format!("worker {id} holds the last majority of a shard; drain it first")))
        }
    }
}
