//! `GET /`: the cluster for a person, rendered here whole, so that it works without scripts. What
//! it shows comes from the coordinator group or, when that cannot be asked, from this node's own
//! map, and the page says which.

use hyper::header::{CONTENT_SECURITY_POLICY, HeaderValue};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use tokio::time::Instant;

use super::{
    Identity, Role,
    error::Problem,
    limits::{MAX_SHARDS_SHOWN, PAGE_TIMEOUT},
    request::Call,
    response::{self, Response},
    ring_picture::{self, Colours},
};
use crate::{
    coordinator::status::{Cluster, Coordinators, Move, Range, Seat, ShardStatus, WorkerStatus},
    ids::{Position, WorkerId},
    ring::map::Map,
};

/// Everything on the page.
struct View {
    identity: Identity,
    ready: Result<(), String>,
    cluster: Option<Cluster>,
    /// Why the coordinator group did not say it.
    not_asked: Option<String>,
}

/// `GET /`.
pub(crate) async fn get(call: Call) -> Result<Response, Problem> {
    let deadline = call.deadline.min(Instant::now() + PAGE_TIMEOUT);
    let asked = tokio::time::timeout_at(deadline, call.backend().cluster(deadline)).await;
    let (cluster, not_asked) = match asked {
        Ok(Ok(cluster)) => (Some(cluster), None),
        Ok(Err(error)) => (call.backend().map().map(|map| from_map(&map)), Some(error.to_string())),
        Err(_) => {
            (call.backend().map().map(|map| from_map(&map)), Some("no answer came within a second".into()))
        }
    };
    let node = &call.front.node;
    let view = View { identity: node.identity(), ready: node.ready(), cluster, not_asked };
    let mut answer = response::typed("text/html; charset=utf-8", render(&view).into_string());
    answer.headers_mut().insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
    );
    Ok(answer)
}

/// What the map alone tells of the cluster. Whether workers are active, and who leads what, it does
/// not know.
fn from_map(map: &Map) -> Cluster {
    let name = |node: &crate::ids::NodeId| map.workers.get(node).map(|worker| worker.id.clone());
    let mut shards: Vec<ShardStatus> = Vec::with_capacity(map.shards.len());
    let mut ends = map.shards.keys().skip(1).copied();
    for (start, shard) in &map.shards {
        shards.push(ShardStatus {
            spread: map.is_spread(shard),
            id: shard.group,
            start: *start,
            end: ends.next().unwrap_or(Position(0)),
            replicas: shard.replicas.iter().filter_map(name).collect(),
            leader: None,
            term: None,
            commit: None,
            applied: None,
            bytes: None,
        });
    }
    let workers = map.workers.iter().map(|(node, worker)| WorkerStatus {
        id: worker.id.clone(),
        node: Some(*node),
        addr: worker.addr.clone(),
        zone: worker.zone.clone(),
        active: true,
        joined: true,
        draining: worker.draining,
        last_ping: None,
        clock_off_ms: None,
        leads: 0,
        holds: count(&shards, |shard| shard.replicas.contains(&worker.id)),
        ranges: shards
            .iter()
            .filter(|shard| shard.replicas.first() == Some(&worker.id))
            .map(|shard| Range { start: shard.start, end: shard.end })
            .collect(),
    });
    let workers = workers.collect();
    let members = map.coordinators.iter().map(|(node, coordinator)| (*node, coordinator.addr.clone()));
    Cluster {
        epoch: map.epoch,
        cluster: map.cluster,
        name: map.settings.name.clone(),
        coordinators: Coordinators { members: members.collect(), ..Coordinators::default() },
        workers,
        shards,
        moves: Vec::new(),
    }
}

fn count(shards: &[ShardStatus], which: impl Fn(&ShardStatus) -> bool) -> u32 {
    u32::try_from(shards.iter().filter(|shard| which(shard)).count()).unwrap_or(u32::MAX)
}

const STYLE: &str = include_str!("page.css");

/// Takes the page's main part anew every two seconds while it is looked at.
const SCRIPT: &str = include_str!("page.js");

fn render(view: &View) -> Markup {
    let name = view.cluster.as_ref().map_or("no cluster yet", |cluster| cluster.name.as_str());
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                link rel="icon" href="data:,";
                title { (name) " · Quoring" }
                noscript { meta http-equiv="refresh" content="5"; }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    (heading(view, name))
                    @match &view.cluster {
                        Some(cluster) => (body(cluster, view.not_asked.is_none())),
                        None => p { "This node knows of no cluster yet: it waits to be joined to one." },
                    }
                }
                footer {
                    a href="/cluster" { "cluster as JSON" } " · " a href="/workers" { "workers" } " · "
                    a href="/metrics" { "metrics" } " · " a href="/openapi.json" { "API" }
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    }
}

fn heading(view: &View, name: &str) -> Markup {
    let Identity { role, id, addr, version } = &view.identity;
    html! {
        header {
            h1 { (name) }
            p.node {
                @match role { Role::Coordinator => "coordinator ", Role::Worker => "worker " }
                strong { (id) } " at " (addr) ", version " (version)
                @if let Some(cluster) = &view.cluster { ", map epoch " (cluster.epoch) }
            }
        }
        @if let Err(why) = &view.ready { p.notice role="status" { "This node is not ready: " (why) } }
        @if let Some(why) = &view.not_asked {
            p.notice role="status" {
                "The coordinator group could not be asked (" (why) "). "
                "What follows is this node's own map: who is active and who leads is not known here."
            }
        }
    }
}

fn body(cluster: &Cluster, asked: bool) -> Markup {
    let colours = Colours::new(cluster.workers.iter().map(|worker| &worker.id));
    let (active, inactive): (Vec<_>, Vec<_>) = cluster.workers.iter().partition(|worker| worker.active);
    html! {
        (health(cluster, active.len(), asked))
        section.columns {
            div {
                h2 { @if asked { "Active workers" } @else { "Workers" } }
                (workers(&active, &colours, asked))
                @if !inactive.is_empty() {
                    h2 { "Not active" }
                    (workers(&inactive, &colours, asked))
                }
                h2 { "Coordinators" }
                (coordinators(&cluster.coordinators))
            }
            div { (ring_picture::draw(&cluster.shards, &colours)) }
        }
        @if !cluster.moves.is_empty() {
            h2 { "Moves under way" }
            (moves(&cluster.moves))
        }
        h2 { "Shards" }
        (shards(&cluster.shards, &colours))
    }
}

fn health(cluster: &Cluster, active: usize, asked: bool) -> Markup {
    let led = count(&cluster.shards, |shard| shard.leader.is_some()) as usize;
    let all = cluster.shards.len();
    html! {
        @if asked {
            ul.health {
                // An id that only pinged is missed by nobody.
                @let missed = cluster.workers.iter().any(|worker| worker.joined && !worker.active);
                li class=(if missed { "bad" } else { "good" }) {
                    (active) " of " (cluster.workers.len()) " workers active"
                }
                li class=(if led == all { "good" } else { "bad" }) { (led) " of " (all) " shards have a leader" }
                li class=(if cluster.coordinators.leader.is_some() { "good" } else { "bad" }) {
                    @match cluster.coordinators.leader {
                        Some(leader) => { "coordinator " (leader) " leads" },
                        None => "the coordinators have no leader",
                    }
                }
                li.good { (cluster.moves.len()) " moves under way" }
            }
        }
    }
}

fn workers(workers: &[&WorkerStatus], colours: &Colours, asked: bool) -> Markup {
    html! {
        div.table {
            table {
                thead {
                    tr {
                        th { "id" } th { "ip" } th { "port" } th { "page" } th { "zone" }
                        th.number { "leads" } th.number { "holds" } th { "state" }
                    }
                }
                tbody {
                    @for worker in workers {
                        @let (host, port) = split_addr(&worker.addr);
                        tr {
                            td { (dot(colours.of(Some(&worker.id)))) (worker.id) }
                            td { (host) }
                            td { (port) }
                            td { a href={ "http://" (worker.addr) "/" } { "open" } }
                            td { (worker.zone.as_deref().unwrap_or("")) }
                            td.number { @if asked { (worker.leads) } @else { "?" } }
                            td.number { (worker.holds) }
                            td {
                                @if !worker.joined { "pinged only" } @else if worker.draining { "draining" }
                                @if worker.clock_off_ms.is_some() { " its clock is wrong" }
                                @if let Some(at) = worker.last_ping.as_ref().filter(|_| !worker.active) {
                                    " last heard of " (at)
                                }
                            }
                        }
                    }
                    @if workers.is_empty() { tr { td colspan="8" { "none" } } }
                }
            }
        }
    }
}

/// Host and port of `host:port`; an IPv6 address without its brackets.
fn split_addr(addr: &str) -> (&str, &str) {
    let (host, port) = addr.rsplit_once(':').unwrap_or((addr, ""));
    (host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host), port)
}

fn coordinators(group: &Coordinators) -> Markup {
    html! {
        div.table {
            table {
                thead { tr { th { "node" } th { "address" } th { "role" } } }
                tbody {
                    @for (node, addr) in &group.members {
                        tr {
                            td { (node) }
                            td { a href={ "http://" (addr) "/" } { (addr) } }
                            td {
                                @if group.leader == Some(*node) { "leader, term " (group.term) }
                                @else if group.changes.iter().any(|change| change.node == *node) { "being added" }
                                @else if group.silent.contains(node) { "does not answer" }
                                @else { "member" }
                            }
                        }
                    }
                    @for gone in group.changes.iter().filter(|change| change.change == Seat::Removing) {
                        tr { td { (gone.node) } td { } td { "being removed" } }
                    }
                }
            }
        }
    }
}

fn moves(moves: &[Move]) -> Markup {
    html! {
        div.table {
            table {
                thead { tr { th { "shard" } th { "to" } th { "from" } th.number { "entries behind" } } }
                tbody {
                    @for moving in moves {
                        tr {
                            td { (moving.shard) }
                            td {
                                (names(&moving.adding))
                                @if let Some(into) = moving.into { "shard " (into) ", split off it" }
                            }
                            td { (names(&moving.removing)) }
                            td.number { @if let Some(behind) = moving.behind { (behind) } }
                        }
                    }
                }
            }
        }
    }
}

fn shards(shards: &[ShardStatus], colours: &Colours) -> Markup {
    html! {
        div.table {
            table {
                thead {
                    tr {
                        th { "shard" } th { "from" } th { "leader" } th { "replicas, primary first" }
                        th.number { "term" } th.number { "applied" } th.number { "KiB" }
                    }
                }
                tbody {
                    @for shard in shards.iter().take(MAX_SHARDS_SHOWN) {
                        tr {
                            td { (dot(colours.of(shard.replicas.first()))) (shard.id) }
                            td.position { (shard.start) }
                            td { @match &shard.leader { Some(leader) => (leader), None => "–" } }
                            td { (names(&shard.replicas)) }
                            td.number { @if let Some(term) = shard.term { (term) } }
                            td.number { @if let Some(applied) = shard.applied { (applied) } }
                            td.number { @if let Some(bytes) = shard.bytes { (bytes.div_ceil(1024)) } }
                        }
                    }
                }
            }
        }
        @if shards.len() > MAX_SHARDS_SHOWN {
            p { (shards.len() - MAX_SHARDS_SHOWN) " more are in " a href="/cluster" { "/cluster" } "." }
        }
    }
}

fn dot(colour: &str) -> Markup {
    html! { span.dot style={ "background:" (colour) } {} }
}

fn names(workers: &[WorkerId]) -> String {
    workers.iter().map(WorkerId::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[path = "page_test.rs"]
mod tests;
