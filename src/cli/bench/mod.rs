//! `quoring bench`: a load on a running cluster, or on an etcd, and what it shows.
//!
//! `workload` and `zipf` say what is asked for, `pace` when, `link` with `http1` and `etcd` how, `lane`
//! and `drive` run it, `tally` and `cpu` measure, `report` shows. docs/BENCHMARKS.md has the method.

mod cpu;
mod drive;
mod etcd;
mod etcd_messages;
mod http1;
#[cfg(test)]
mod http1_test;
mod lane;
mod link;
mod pace;
mod plan;
mod report;
#[cfg(test)]
mod run_test;
mod tally;
mod workload;
mod zipf;

use std::{
    env, fs,
    io::{self, IsTerminal as _, Write as _},
    thread,
};

pub(super) use self::plan::Bench;
use self::{
    cpu::Processes,
    drive::Progress,
    plan::{Plan, Target},
    report::Report,
};
use super::exit::{Failure, say};
use crate::launcher::Launcher;

impl Bench {
    pub(super) fn run(self) -> Result<(), Failure> {
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        let plan = self.plan(cpus, env::var("QUORING_SERVER").ok())?;
        let servers = self.processes(&plan)?;
        let shown = io::stderr().is_terminal();
        let mut watch = |progress: Progress<'_>| {
            if shown {
                // Progress that nobody reads is no reason to stop.
                let _ = writeln!(io::stderr(), "{}", report::progress(&progress));
            }
        };
        let measured = drive::run(&plan, &servers, &mut watch).map_err(Failure::Failed)?;
        let report = Report::new(&plan, measured);
        if let Some(path) = &self.json {
            let mut json = serde_json::to_vec_pretty(&report).expect("texts and finite numbers");
            json.push(b'\n');
            fs::write(path, json)
                .map_err(|error| Failure::Failed(format!("cannot write {}: {error}", path.display())))?;
        }
        say(&report.text())?;
        report.in_vain().map_or(Ok(()), |why| Err(Failure::Failed(why)))
    }

    /// The processes whose CPU time counts: those that were named, or all nodes of the cluster.toml
    /// that describes the servers, if they run here.
    fn processes(&self, plan: &Plan) -> Result<Processes, Failure> {
        if !self.pids.is_empty() {
            let named = Processes::new(self.pids.clone());
            return match named.missing() {
                Some(pid) => Err(Failure::Usage(format!("--pids: {pid} is no process of this machine"))),
                None => Ok(named),
            };
        }
        if plan.target != Target::Quoring || !self.config.exists() {
            return Ok(Processes::default());
        }
        let program = env::current_exe()
            .map_err(|error| Failure::Failed(format!("cannot find this program's own file: {error}")))?;
        let nodes = Launcher::open(&self.config, program)?.nodes();
        let here = |host: &str| matches!(host, "127.0.0.1" | "localhost");
        let described = plan.servers.iter().all(|server| {
            server.host_port().rsplit_once(':').is_some_and(|(host, port)| {
                here(host) && nodes.iter().any(|node| node.port.to_string() == port)
            })
        });
        if !described {
            return Ok(Processes::default());
        }
        let mut pids = Vec::new();
        for node in &nodes {
            pids.extend(node.process()?.map(|process| process.pid()));
        }
        Ok(Processes::new(pids))
    }
}
