//! A child process writes for many groups and says what it did; it is killed at a random moment;
//! what it said must be true of what is on disk.
//!
//! Every line of the child is one `write` to a pipe, which survives its death. A line in upper case
//! is said after the store confirmed a step, in lower case before the step is begun. So the parent
//! knows what must be there, what may be there, and what must not.
//!
//! The content of an entry follows from its group, incarnation, term and index; the parent builds
//! the expected state from that alone. Counters in it show a command that was applied twice.
//!
//! `CRASH_SEED` repeats a run's choices (the moments of the kills depend on the machine),
//! `CRASH_ROUNDS` makes it longer. What a SIGKILL cannot show is the loss of the kernel's page
//! cache: that syncs happen before callbacks is for `store.rs` to show.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;

mod common;
#[path = "crash/node.rs"]
mod node;
#[path = "crash/oracle.rs"]
mod oracle;

const ROUNDS: u32 = 60;
/// Rounds before the next directory.
const ROUNDS_PER_DIR: u32 = 12;
/// A child is killed after at most so many of its lines.
const LINES_MAX: u32 = 900;

#[test]
fn nothing_acknowledged_is_lost() {
    if std::env::var_os("CRASH_CHILD_DIR").is_some() {
        return node::run();
    }
    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let seed = number("CRASH_SEED").unwrap_or_else(rand::random);
    let rounds = number("CRASH_ROUNDS").map_or(ROUNDS, |rounds| rounds as u32);
    println!("CRASH_SEED={seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut tally = oracle::Tally::default();
    let mut round = 0;
    while round < rounds {
        let dir = TempDir::new().unwrap();
        let mut oracle = oracle::Oracle::default();
        for _ in 0..ROUNDS_PER_DIR.min(rounds - round) {
            round += 1;
            // Some die while the store is opened or made.
            let lines = if rng.random_ratio(1, 8) { 0 } else { rng.random_range(1..LINES_MAX) };
            for line in live_and_die(dir.path(), rng.random(), lines) {
                oracle.hear(&line);
            }
            oracle.verify(dir.path(), &mut tally);
        }
    }
    println!("{rounds} kills: {tally:?}");
    // A run that shows nothing must not pass.
    assert!(tally.entries_checked > 0 && tally.votes_checked > 0 && tally.cells_checked > 0);
    assert!(tally.heights_checked > 0);
    if rounds >= ROUNDS {
        assert!(tally.purges > 0 && tally.installs > 0 && tally.drops > 0 && tally.truncations > 0);
        assert!(tally.replayed > 0, "no state was behind its log");
    }
}

/// Starts a child and kills it after so many lines; gives all that it said.
fn live_and_die(dir: &Path, seed: u64, lines: u32) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "nothing_acknowledged_is_lost", "--nocapture"])
        .env("CRASH_CHILD_DIR", dir)
        .env("CRASH_CHILD_SEED", seed.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map(KillOnDrop)
        .unwrap();
    let mut heard = Vec::new();
    let mut output = BufReader::new(child.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let said = |line: &String| line.starts_with("@ ");
    // The child says one line before it opens the store.
    heard.extend(output.by_ref().find(said));
    assert!(!heard.is_empty(), "the child ended before it began: {:?}", child.0.wait());
    while (heard.len() as u32) <= lines {
        match output.next() {
            Some(line) if said(&line) => heard.push(line),
            Some(_) => {}
            None => panic!("the child ended by itself: {:?}, {:?}", child.0.wait(), heard.last()),
        }
    }
    child.0.kill().unwrap();
    // What was in the pipe was said, too. A child's line is whole, or was not written.
    heard.extend(output.filter(said));
    child.0.wait().unwrap();
    heard
}

struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Says one line to the parent.
fn say(line: std::fmt::Arguments<'_>) {
    let line = format!("@ {line}\n");
    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
}
