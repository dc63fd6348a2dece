//! Golden scripts: transcripts of commands and their exact answers, under `tests/scripts/`.
//!
//! A line that begins with `>` is a command, the lines behind it up to the next empty line are its
//! answer, a line that begins with `#` says what a reader should see. `UPDATE_SCRIPTS=1 cargo test
//! scripts` writes the answers anew: for people who can explain the difference.

mod coordinator;
mod shard;

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

/// Runs every script of a folder, each on a fresh `start()`.
fn run<S>(folder: &str, start: impl Fn() -> S, command: impl Fn(&mut S, &str) -> String) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts").join(folder);
    let mut scripts: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "script"))
        .collect();
    scripts.sort();
    assert!(!scripts.is_empty(), "no scripts in {}", folder.display());
    let mut failed = Vec::new();
    for path in scripts {
        let script = fs::read_to_string(&path).unwrap();
        let mut state = start();
        let played = play(&script, |line| command(&mut state, line));
        if script == played {
            continue;
        }
        if std::env::var_os("UPDATE_SCRIPTS").is_some() {
            fs::write(&path, played).unwrap();
        } else {
            failed.push(difference(&path, &script, &played));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

fn play(script: &str, mut command: impl FnMut(&str) -> String) -> String {
    let mut played = String::new();
    let mut in_answer = false;
    for line in script.lines() {
        if let Some(line) = line.strip_prefix('>') {
            let answer = command(line.trim());
            writeln!(played, "> {}", line.trim()).unwrap();
            for line in answer.lines() {
                writeln!(played, "{}", line.trim_end()).unwrap();
            }
            in_answer = true;
        } else if line.is_empty() || line.starts_with('#') {
            in_answer = false;
            writeln!(played, "{line}").unwrap();
        } else {
            assert!(in_answer, "neither a command nor an answer: {line}");
        }
    }
    played
}

fn difference(path: &Path, expected: &str, played: &str) -> String {
    let (expected, played): (Vec<_>, Vec<_>) = (expected.lines().collect(), played.lines().collect());
    let first = (0..).find(|line| expected.get(*line) != played.get(*line)).unwrap();
    let command = played[..=first.min(played.len() - 1)].iter().rev().find(|line| line.starts_with('>'));
    format!(
        "{}:{}: at {}\n  expected {:?}\n  got      {:?}",
        path.display(),
        first + 1,
        command.unwrap_or(&"the beginning"),
        expected.get(first),
        played.get(first)
    )
}

/// The words of a command: plain ones in order, and those of the form `name=value`.
struct Words<'l> {
    plain: std::vec::IntoIter<&'l str>,
    named: BTreeMap<&'l str, &'l str>,
    line: &'l str,
}

impl<'l> Words<'l> {
    fn new(line: &'l str) -> Self {
        let (named, plain): (Vec<_>, Vec<_>) = line.split_whitespace().partition(|word| word.contains('='));
        let named = named.into_iter().map(|word| word.split_once('=').unwrap()).collect();
        Self { plain: plain.into_iter(), named, line }
    }

    fn next(&mut self) -> &'l str {
        self.plain.next().unwrap_or_else(|| panic!("too few words: {}", self.line))
    }

    fn number(&mut self) -> u64 {
        self.next().parse().unwrap_or_else(|e| panic!("{e}: {}", self.line))
    }

    fn rest(&mut self) -> Vec<&'l str> {
        self.plain.by_ref().collect()
    }

    fn named(&mut self, name: &str) -> Option<&'l str> {
        self.named.remove(name)
    }

    fn named_number(&mut self, name: &str) -> Option<u64> {
        self.named(name).map(|value| value.parse().unwrap_or_else(|e| panic!("{e}: {}", self.line)))
    }
}

impl Drop for Words<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.plain.next().is_none() && self.named.is_empty(), "words left: {}", self.line);
        }
    }
}
