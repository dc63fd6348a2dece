//! Coordinators that `cluster.toml` has gained since the cluster was founded: they are started empty
//! and given a seat in the group.

use tokio::time::{Instant, sleep};

use super::{
    Error, Launcher, NodeRole, POLL_INTERVAL, Report,
    start::{READY_TIMEOUT, ask},
};
use crate::client::{self, Client};

impl Launcher {
    /// Gives every coordinator of the file that is no founder a seat, unless it has one; tells of each,
    /// and of what could not be done in time.
    pub(super) async fn seat_newcomers(&self, report: Report<'_>) -> Result<(), Error> {
        let (newcomers, others): (Vec<_>, Vec<_>) = self
            .nodes()
            .into_iter()
            .partition(|spec| spec.role == NodeRole::Coordinator && !self.founders.contains(&spec.port));
        if newcomers.is_empty() {
            return Ok(());
        }
        // A newcomer knows no cluster that it could ask.
        let servers: Vec<_> = others.iter().map(super::Spec::server).collect();
        if servers.is_empty() {
            return Ok(());
        }
        let client = Client::new(servers, &client::Options::default());
        let deadline = Instant::now() + READY_TIMEOUT;
        for spec in newcomers {
            let addr = spec.address().to_string();
            let seated = loop {
                let seated = match ask(&spec.server()).healthy().await {
                    Ok(()) => seat(&client, &addr).await,
                    Err(error) => Err(Failed::Yet(error.to_string())),
                };
                match seated {
                    Err(Failed::Yet(_)) if Instant::now() < deadline => sleep(POLL_INTERVAL).await,
                    result => break result,
                }
            };
            match seated {
                Ok(false) => {}
                Ok(true) => report(&format!("{spec} was added to the coordinator group")),
                Err(Failed::Yet(why) | Failed::Refused(why)) => report(&format!(
                    "{spec} could not be added to the coordinator group: {why}; try quoring coordinators add {addr}"
                )),
            }
        }
        Ok(())
    }
}

/// Why a coordinator has no seat.
enum Failed {
    /// It may get one yet.
    Yet(String),
    /// It gets none as it is.
    Refused(String),
}

/// Gives a coordinator that answers a seat where it has none, and tells whether it did.
async fn seat(client: &Client, addr: &str) -> Result<bool, Failed> {
    let group = client.coordinators().await.map_err(|error| Failed::Yet(error.to_string()))?;
    if !group.settled {
        return Err(Failed::Yet("another change of the group is under way".to_owned()));
    }
    if group.members.values().any(|member| member == addr) {
        return Ok(false);
    }
    // Where the answer is lost, the group tells, next time.
    client.add_coordinator(addr).await.map(|_| true).map_err(|error| {
        match error.status().map(|status| status.as_u16()) {
            Some(409) => Failed::Refused(error.to_string()),
            _ => Failed::Yet(error.to_string()),
        }
    })
}
