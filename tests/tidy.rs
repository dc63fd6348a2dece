//! Style as a test: what the house rules ask of the tree and a machine can judge. Each rule is a
//! function from text to complaints, and has a test of its own that shows it complaining.
//!
//! Not here: what rustfmt, clippy and rustdoc judge already.

#![allow(clippy::unwrap_used)]

#[path = "tidy/rules.rs"]
mod rules;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The longest a source file may be, lines.
const MAX_LINES: usize = 500;

/// Words that do not belong in a pure layer: waiting, time, chance, sharing, talking.
const IMPURE: [&str; 16] = [
    "async",
    "await",
    "tokio",
    "futures_util",
    "Instant",
    "SystemTime",
    "rand",
    "Mutex",
    "RwLock",
    "AtomicU64",
    "tracing",
    "metrics",
    "openraft",
    "raft_store",
    "thread",
    "println",
];

/// The layers that must be pure.
const PURE: [&str; 8] = ["ids", "error", "command", "config", "units", "ring", "coordinator", "shard"];

/// A source file: its path from the root, and its text.
struct Source {
    path: String,
    text: String,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below `dir` with this extension, in order.
fn files(dir: &str, extension: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut dirs = vec![root().join(dir)];
    while let Some(dir) = dirs.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                let text = fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
                found.push(Source { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn rust_files() -> Vec<Source> {
    ["src", "raft-store", "tests", "benches"].into_iter().flat_map(|dir| files(dir, "rs")).collect()
}

fn complain(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// The text without comments and without what stands in quotes; lines stay where they are.
fn code(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = raw_string(rest, out.chars().next_back()) {
            length
        } else if first == '"' {
            string(rest)
        } else if first == '\'' && char_literal(rest) > 0 {
            char_literal(rest)
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        out.extend(rest[..skipped].chars().filter(|c| *c == '\n'));
        rest = &rest[skipped..];
    }
    out
}

fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn raw_string(text: &str, before: Option<char>) -> Option<usize> {
    if before.is_some_and(|c| c.is_alphanumeric() || c == '_') && before != Some('b') {
        return None;
    }
    let hashes = text.strip_prefix('r')?.chars().take_while(|c| *c == '#').count();
    let body = text[1 + hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(body.find(&end).map_or(text.len(), |at| 1 + hashes + 1 + at + end.len()))
}

/// The length of a character literal, 0 for a lifetime.
fn char_literal(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => {
            text[2..].char_indices().skip(1).find(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 3)
        }
        Some(_) => chars.next().filter(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 1),
        None => 0,
    }
}

/// The words of a code text, each with its line.
fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    code.lines().enumerate().flat_map(move |(line, text)| {
        text.split(move |c| !word(c)).filter(|word| !word.is_empty()).map(move |word| (line + 1, word))
    })
}

/// The part of a source text that is not its tests: all before the module of its tests.
fn before_tests(path: &str, text: &str) -> String {
    let name = path.rsplit('/').next().unwrap();
    if name == "tests.rs"
        || name.ends_with("_test.rs")
        || path.contains("/tests/")
        || path.starts_with("tests/")
    {
        return String::new();
    }
    let lines: Vec<_> = text.lines().collect();
    let tests = lines.windows(2).position(|pair| {
        pair[0].trim() == "#[cfg(test)]" && pair[1].trim_start().starts_with("mod ") && pair[1].ends_with('{')
    });
    lines[..tests.unwrap_or(lines.len())].join("\n")
}

/// The layers as `src/lib.rs` declares them, lowest first: its groups of modules.
fn layers(lib: &str) -> BTreeMap<String, usize> {
    let mut layers = BTreeMap::new();
    for (rank, group) in code(lib).split("\n\n").enumerate() {
        for line in group.lines() {
            if let Some(name) = line.strip_prefix("pub mod ").and_then(|rest| rest.strip_suffix(';')) {
                layers.insert(name.to_owned(), rank);
            }
        }
    }
    layers
}

/// The modules that `crate::` paths in a code text begin with.
fn imports(code: &str) -> BTreeSet<String> {
    let ident =
        |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(tree) = rest.strip_prefix('{') else {
            found.insert(ident(rest));
            continue;
        };
        let (mut depth, mut first) = (0, true);
        for (at, c) in tree.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => first = true,
                c if first && !c.is_whitespace() => {
                    found.insert(ident(&tree[at..]));
                    first = false;
                }
                _ => {}
            }
        }
    }
    found
}

fn layering(path: &str, text: &str, layers: &BTreeMap<String, usize>) -> Vec<String> {
    let own = path.strip_prefix("src/").unwrap().split(['/', '.']).next().unwrap();
    if own == "lib" || own == "main" {
        return Vec::new();
    }
    let Some(rank) = layers.get(own) else {
        return vec![format!("{path}: {own} is in no layer of src/lib.rs")];
    };
    let imported = imports(&code(text));
    let wrong = imported.iter().filter(|module| layers.get(*module).is_none_or(|other| other > rank));
    wrong.map(|module| format!("{path}: {own} uses {module}, which is not in its layer or below")).collect()
}

fn length(path: &str, text: &str) -> Vec<String> {
    let lines = text.lines().count();
    if lines <= MAX_LINES {
        Vec::new()
    } else {
        vec![format!("{path}: {lines} lines, more than {MAX_LINES}")]
    }
}

fn header(path: &str, text: &str) -> Vec<String> {
    if text.starts_with("//! ") {
        Vec::new()
    } else {
        vec![format!("{path}: does not begin with what it is for (//!)")]
    }
}

fn unwraps(path: &str, text: &str) -> Vec<String> {
    let code = code(&before_tests(path, text));
    let lines = code.lines().enumerate().filter(|(_, line)| line.contains(".unwrap()"));
    lines.map(|(line, _)| format!("{path}:{}: unwrap() outside tests", line + 1)).collect()
}

fn sleeps(path: &str, text: &str) -> Vec<String> {
    let code = code(text);
    let called = words(&code).filter(|(line, word)| {
        *word == "sleep" && code.lines().nth(line - 1).is_some_and(|line| line.contains("sleep("))
    });
    called.map(|(line, _)| format!("{path}:{line}: a sleep instead of a condition")).collect()
}

fn leftovers(path: &str, text: &str) -> Vec<String> {
    let code = code(text);
    let macros = ["todo!", "dbg!", "unimplemented!"].into_iter().filter(|word| code.contains(word));
    let notes =
        ["FIXME", "XXX", "TODO"].into_iter().filter(|word| words(text).any(|(_, found)| found == *word));
    macros.chain(notes).map(|word| format!("{path}: {word} was left behind")).collect()
}

fn purity(path: &str, text: &str) -> Vec<String> {
    let code = code(&before_tests(path, text));
    let impure = words(&code).filter(|(_, word)| IMPURE.contains(word));
    impure.map(|(line, word)| format!("{path}:{line}: {word} in a pure layer")).collect()
}

/// The targets of a Markdown text's links, without those in code.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (number, block) in text.split("```").enumerate() {
        if number % 2 == 1 {
            continue;
        }
        for (number, part) in block.split('`').enumerate() {
            // A link's text may be code; its target is not.
            let rest = if number % 2 == 0 { part } else { continue };
            found.extend(
                rest.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(to, _)| to.to_owned()),
            );
        }
    }
    found
}

/// The anchors of a Markdown text's headings, as GitHub names them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    headings
        .map(|line| line.trim_start_matches('#').trim().to_lowercase())
        .map(|title| title.chars().filter(kept).map(|c| if c == ' ' { '-' } else { c }).collect())
        .collect()
}

/// `read` gives the text of a file by its path from the root, an empty one for a folder.
fn dead_links(path: &str, text: &str, read: impl Fn(&Path) -> Option<String>) -> Vec<String> {
    let mut dead = Vec::new();
    for link in links(text) {
        if link.contains("://") || link.starts_with("mailto:") {
            continue;
        }
        let (file, anchor) =
            link.split_once('#').map_or((&*link, None), |(file, anchor)| (file, Some(anchor)));
        let target =
            if file.is_empty() { PathBuf::from(path) } else { Path::new(path).parent().unwrap().join(file) };
        match read(&target) {
            None => dead.push(format!("{path}: the link to {link} leads nowhere")),
            Some(text) if anchor.is_some_and(|anchor| !anchors(&text).contains(anchor)) => {
                dead.push(format!("{path}: the link to {link} leads to no heading"));
            }
            Some(_) => {}
        }
    }
    dead
}

/// Dependencies of a member's Cargo.toml that are not those of the workspace.
fn own_versions(path: &str, text: &str) -> Vec<String> {
    let mut section = "";
    let mut own = Vec::new();
    for line in text.lines() {
        if line.starts_with('[') {
            section = line;
        } else if section.ends_with("dependencies]")
            && section != "[workspace.dependencies]"
            && line.contains('=')
            && !line.contains("workspace = true")
            && !line.contains("path = ")
        {
            own.push(format!("{path}: a version outside the workspace's table: {line}"));
        }
    }
    own
}

fn each(sources: &[Source], rule: impl Fn(&str, &str) -> Vec<String>) -> Vec<String> {
    sources.iter().flat_map(|source| rule(&source.path, &source.text)).collect()
}

#[test]
fn layers_are_kept() {
    let layers = layers(&fs::read_to_string(root().join("src/lib.rs")).unwrap());
    let order = ["ids", "ring", "coordinator", "consensus", "router", "http", "node", "cli"];
    let ranks: Vec<_> = order.iter().map(|name| layers[*name]).collect();
    assert!(ranks.is_sorted_by(|a, b| a < b), "src/lib.rs no longer declares {order:?} in this order");
    complain(each(&files("src", "rs"), |path, text| layering(path, text, &layers)));
}

#[test]
fn files_are_short_and_say_what_they_are_for() {
    let sources = rust_files();
    assert!(sources.len() > 20, "the sources were not found");
    complain([each(&sources, length), each(&sources, header)].concat());
}

#[test]
fn nothing_is_left_behind() {
    let (own, sources): (Vec<_>, _) =
        rust_files().into_iter().partition(|source| source.path.starts_with("tests/tidy"));
    assert_eq!(own.len(), 2);
    complain(each(&sources, leftovers));
}

#[test]
fn sources_do_not_unwrap_and_tests_do_not_sleep() {
    let sources: Vec<_> = ["src", "raft-store/src"].into_iter().flat_map(|dir| files(dir, "rs")).collect();
    let tests: Vec<_> = ["tests", "raft-store/tests"].into_iter().flat_map(|dir| files(dir, "rs")).collect();
    complain([each(&sources, unwraps), each(&tests, sleeps)].concat());
}

#[test]
fn pure_layers_are_pure() {
    let sources = files("src", "rs");
    let layer = |path: &str| path.split(['/', '.']).nth(1).unwrap().to_owned();
    let pure: Vec<_> = sources.into_iter().filter(|source| PURE.contains(&&*layer(&source.path))).collect();
    let found: BTreeSet<_> = pure.iter().map(|source| layer(&source.path)).collect();
    assert_eq!(found.len(), PURE.len(), "a pure layer is gone: {found:?}");
    complain(each(&pure, purity));
}

#[test]
fn links_lead_somewhere() {
    let read = |path: &Path| {
        let path = root().join(path);
        if path.is_dir() { Some(String::new()) } else { fs::read_to_string(path).ok() }
    };
    let mut documents = files("docs", "md");
    for name in ["README.md", "CHANGELOG.md"] {
        documents
            .push(Source { path: name.to_owned(), text: fs::read_to_string(root().join(name)).unwrap() });
    }
    complain(each(&documents, |path, text| dead_links(path, text, read)));
}

#[test]
fn the_licence_is_there_and_versions_are_the_workspaces() {
    for (name, phrase) in
        [("LICENSE-MIT", "Permission is hereby granted"), ("LICENSE-APACHE", "Version 2.0, January 2004")]
    {
        let text = fs::read_to_string(root().join(name)).unwrap();
        assert!(text.contains(phrase), "{name} is not the licence it should be");
    }
    let manifests = ["Cargo.toml", "raft-store/Cargo.toml"]
        .map(|name| Source { path: name.to_owned(), text: fs::read_to_string(root().join(name)).unwrap() });
    assert!(manifests[0].text.contains("license = \"MIT OR Apache-2.0\""));
    complain(each(&manifests, own_versions));
}
