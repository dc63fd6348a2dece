//! The CPU time and memory of processes of this machine, as `/proc` tells (proc(5)).
//!
//! CPU time is counted by the kernel in ticks (mostly of 10 ms): exact enough over seconds.

use std::{collections::BTreeMap, fs, time::Duration};

use rustix::param::clock_ticks_per_second;

/// Processes to be watched.
#[derive(Debug, Default)]
pub(super) struct Processes(Vec<u32>);

/// The reading of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reading {
    /// When it began, in ticks since the machine did: tells it from a later one of the same number.
    begun_ticks: u64,
    cpu_ticks: u64,
    resident_bytes: u64,
}

/// The readings of all processes watched.
#[derive(Debug, Default)]
pub(super) struct Readings(BTreeMap<u32, Reading>);

/// What processes have used between two readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Clocks {
    pub(super) processes: usize,
    pub(super) cpu: Duration,
    /// Memory held at the end, in bytes.
    pub(super) resident_bytes: u64,
}

impl Processes {
    pub(super) fn new(pids: Vec<u32>) -> Self {
        Self(pids)
    }

    /// This process.
    pub(super) fn own() -> Self {
        Self(vec![std::process::id()])
    }

    /// The first that is no process.
    pub(super) fn missing(&self) -> Option<u32> {
        self.0.iter().copied().find(|pid| read(*pid).is_none())
    }

    /// Reads those that run.
    pub(super) fn clocks(&self) -> Readings {
        Readings(self.0.iter().filter_map(|pid| Some((*pid, read(*pid)?))).collect())
    }
}

impl Clocks {
    /// `None` where nothing is watched, or where a process was started or ended in between: what it
    /// has used then is not known.
    pub(super) fn between(before: Readings, after: Readings) -> Option<Clocks> {
        let (before, after) = (before.0, after.0);
        let same = before.iter().all(|(pid, reading)| {
            after.get(pid).is_some_and(|later| later.begun_ticks == reading.begun_ticks)
        });
        if before.is_empty() || before.len() != after.len() || !same {
            return None;
        }
        let ticks = |readings: &BTreeMap<u32, Reading>| readings.values().map(|r| r.cpu_ticks).sum::<u64>();
        let spent = ticks(&after).saturating_sub(ticks(&before));
        let cpu = Duration::from_secs_f64(spent as f64 / clock_ticks_per_second() as f64);
        let resident_bytes = after.values().map(|reading| reading.resident_bytes).sum();
        Some(Clocks { processes: after.len(), cpu, resident_bytes })
    }
}

fn read(pid: u32) -> Option<Reading> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    parse(&stat, &status)
}

fn parse(stat: &str, status: &str) -> Option<Reading> {
    // The second field is the program's name in parentheses, and may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    // Numbered from 1 in proc(5); the third is the first one here.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let (user, system, begun_ticks) = (field(14)?, field(15)?, field(22)?);
    // A process that has ended and was not waited for has no memory any more.
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident_kib = resident.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    let resident_bytes = resident_kib.unwrap_or_default() << 10;
    Some(Reading { begun_ticks, cpu_ticks: user + system, resident_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_whatever_the_name() {
        let stat = "17 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 1200 34 0 0 20 0 8 0 998877 5 6";
        let status = "Name:\ta\nVmRSS:\t   2048 kB\nThreads:\t8\n";
        let reading = Reading { begun_ticks: 998_877, cpu_ticks: 1_234, resident_bytes: 2 << 20 };
        assert_eq!(parse(stat, status), Some(reading));
        assert_eq!(parse("17 (a) S 1 2", status), None);
        assert_eq!(parse(stat, "Name:\ta\n").unwrap().resident_bytes, 0);
    }

    #[test]
    fn own_time_is_seen_and_a_changed_process_is_not_counted() {
        let own = Processes::own();
        assert_eq!(own.missing(), None);
        let before = own.clocks();
        let first = Clocks::between(own.clocks(), own.clocks()).unwrap();
        assert_eq!(first.processes, 1);
        assert!(first.resident_bytes > 0);
        // Until the kernel has counted a tick for this process.
        let mut sum = 0_u64;
        loop {
            (0..1_000_000_u64).for_each(|number| sum = std::hint::black_box(sum ^ number));
            let after = Clocks::between(Readings(before.0.clone()), own.clocks()).unwrap();
            if !after.cpu.is_zero() {
                break;
            }
        }
        let mut other = before;
        other.0.values_mut().for_each(|reading| reading.begun_ticks += 1);
        assert_eq!(Clocks::between(other, own.clocks()), None);
        assert_eq!(Clocks::between(Readings::default(), own.clocks()), None);
        assert_eq!(Clocks::between(Readings::default(), Readings::default()), None);
    }
}
