//! `quoring coordinators`: who belongs to the coordinator group, and who comes and goes.

use std::time::Duration;

use clap::{Args, Subcommand};
use tokio::time::{Instant, sleep};

use super::{
    data::{Connection, block_on},
    exit::{Failure, say},
    show,
};
use crate::{
    client::{Client, Seated},
    config::Address,
};

/// Between two looks at how far a change is.
const POLL: Duration = Duration::from_millis(200);

/// How long a change is waited for.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(60);

/// Show the coordinators of a running cluster, add one, or remove one
///
/// A coordinator to be added runs already, on an empty directory: quoring coordinator PORT --dir DIR
/// --join. Replacing one is adding another and removing the old one; one whose directory was lost may
/// come back at its old address, and adding it then takes the old one's place. The group goes on
/// serving meanwhile, one change at a time.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    quoring coordinators\n  \
    quoring coordinators add 10.0.0.4:7001\n  \
    quoring coordinators remove 10.0.0.2:7001\n  \
    quoring coordinators remove 2 --server http://10.0.0.1:7001")]
pub(super) struct Coordinators {
    #[command(subcommand)]
    order: Option<Order>,
    #[command(flatten)]
    connection: Connection,
}

/// What to do with the group.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub(super) enum Order {
    /// Show the members, their numbers and addresses, and changes under way
    List,
    /// Bring a running, empty coordinator into the group, and wait until it votes
    Add {
        /// Where it listens
        #[arg(value_name = "HOST:PORT")]
        addr: Address,
    },
    /// Take a coordinator out of the group for good, and wait until it is out
    Remove {
        /// Its number, or its HOST:PORT
        #[arg(value_name = "ID")]
        which: String,
    },
}

impl Coordinators {
    pub(super) fn run(self) -> Result<(), Failure> {
        let client = self.connection.client()?;
        block_on(carry_out(&client, self.order.unwrap_or(Order::List)))
    }
}

/// Does what is asked, and tells of it.
pub(super) async fn carry_out(client: &Client, order: Order) -> Result<(), Failure> {
    match order {
        Order::List => say(show::coordinators(&client.coordinators().await?).trim_end()),
        Order::Add { addr } => {
            let seated = client.add_coordinator(addr.as_str()).await?;
            until_done(client, &seated).await?;
            let replaces = seated.replaces.map(|old| format!(", in the place of {old}")).unwrap_or_default();
            say(&format!("{} is coordinator {}{replaces}", seated.addr, seated.node))
        }
        Order::Remove { which } => {
            let seated = client.remove_coordinator(&which).await?;
            until_done(client, &seated).await?;
            say(&format!("coordinator {} at {} has left; stop its process", seated.node, seated.addr))
        }
    }
}

/// Returns once the group's members are what was asked for.
async fn until_done(client: &Client, seated: &Seated) -> Result<(), Failure> {
    let deadline = Instant::now() + CHANGE_TIMEOUT;
    let mut done = seated.done;
    while !done {
        if Instant::now() >= deadline {
            return Err(Failure::Failed(format!(
                "the change of coordinator {} is still under way after {} s, and goes on; see quoring coordinators",
                seated.node,
                CHANGE_TIMEOUT.as_secs()
            )));
        }
        sleep(POLL).await;
        // Nobody may be able to tell while another takes the lead.
        let group = client.coordinators().await;
        done = group.is_ok_and(|group| group.settled);
    }
    Ok(())
}
