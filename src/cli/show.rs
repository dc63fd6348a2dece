//! Tables and texts for people.

use std::fmt::Write as _;

use crate::{
    config::Config,
    coordinator::status::{Cluster, Coordinators, Seat, ShardStatus},
    launcher::Status,
};

/// What to try, now or, where nobody has waited for it, once the nodes are ready.
pub(super) fn urls(config: &Config, ready: bool) -> String {
    let coordinator = format!("http://127.0.0.1:{}", config.coordinators[0]);
    let first = config.workers.first().map_or(config.coordinators[0], |worker| worker.port);
    let last = config.workers.last().map_or(config.coordinators[0], |worker| worker.port);
    format!(
        "\nThe cluster \"{}\" {}. Try:\n  \
         curl -X PUT --data-binary hello http://127.0.0.1:{first}/data/t/r/c\n  \
         curl http://127.0.0.1:{last}/data/t/r/c\n  \
         curl {coordinator}/workers\n\
         and in a browser: {coordinator}/\n",
        config.settings.name,
        if ready { "is up" } else { "is starting" },
    )
}

/// Columns, each as wide as its widest cell.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<_> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let head = head.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            // Writing to a String does not fail.
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn shards(shards: &[ShardStatus]) -> String {
    let rows: Vec<_> = shards
        .iter()
        .map(|shard| {
            let replicas: Vec<_> = shard.replicas.iter().map(ToString::to_string).collect();
            let (id, start) = (shard.id.to_string(), shard.start.to_string());
            vec![id, start, or_dash(shard.leader.as_ref()), replicas.join(",")]
        })
        .collect();
    table(&["SHARD", "START", "LEADER", "REPLICAS"], &rows)
}

/// What `quoring status` shows.
pub(super) fn status(status: &Status) -> String {
    let rows: Vec<_> = status
        .nodes
        .iter()
        .map(|node| {
            vec![
                node.role.as_str().to_owned(),
                or_dash(node.id.as_ref()),
                node.addr.clone(),
                or_dash(node.pid),
                node.health.as_str().to_owned(),
                node.log.display().to_string(),
            ]
        })
        .collect();
    let mut text = table(&["ROLE", "ID", "ADDR", "PID", "HEALTH", "LOG"], &rows);
    text.push('\n');
    if status.shards.is_empty() {
        text.push_str("No node tells of any shard.");
    } else {
        text.push_str(shards(&status.shards).trim_end());
    }
    text
}

/// The coordinator group, its members and who is on the way in or out.
pub(super) fn coordinators(group: &Coordinators) -> String {
    let members = group.members.iter().map(|(node, addr)| {
        let role = if group.leader == Some(*node) {
            "leader".to_owned()
        } else if let Some(change) = group.changes.iter().find(|change| change.node == *node) {
            let behind = change.behind.map(|behind| format!(", {behind} entries behind")).unwrap_or_default();
            format!("being added{behind}")
        } else if group.silent.contains(node) {
            "does not answer".to_owned()
        } else {
            "member".to_owned()
        };
        vec![node.to_string(), addr.clone(), role]
    });
    let leaving = group.changes.iter().filter(|change| change.change == Seat::Removing);
    let leaving =
        leaving.map(|change| vec![change.node.to_string(), "-".to_owned(), "being removed".to_owned()]);
    table(&["COORDINATOR", "ADDR", "ROLE"], &members.chain(leaving).collect::<Vec<_>>())
}

/// What `STATUS` in the shell shows.
pub(super) fn cluster(cluster: &Cluster) -> String {
    let mut text = format!("cluster {}, map epoch {}\n\n", cluster.name, cluster.epoch);
    text.push_str(&coordinators(&cluster.coordinators));
    text.push('\n');
    let rows: Vec<_> = cluster
        .workers
        .iter()
        .map(|worker| {
            let state = match (worker.joined, worker.active, worker.draining) {
                (false, _, _) => "not joined",
                (true, false, _) => "inactive",
                (true, true, true) => "draining",
                (true, true, false) => "active",
            };
            vec![
                worker.id.to_string(),
                worker.addr.clone(),
                or_dash(worker.zone.as_ref()),
                state.to_owned(),
                worker.leads.to_string(),
                worker.holds.to_string(),
            ]
        })
        .collect();
    text.push_str(&table(&["WORKER", "ADDR", "ZONE", "STATE", "LEADS", "HOLDS"], &rows));
    text.push('\n');
    text.push_str(shards(&cluster.shards).trim_end());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["é".to_owned(), "x".to_owned()], vec!["longer".to_owned(), String::new()]];
        assert_eq!(table(&["A", "B"], &rows), "A       B\né       x\nlonger\n");
    }
}
