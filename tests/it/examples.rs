//! The examples of docs/API.md, run as a reader would run them.
//!
//! An example is a block marked `sh test`, whose `$NODE` is a node's URL, and behind it a block marked
//! `text expect`: `HTTP` and the status, then headers that must be there, then, behind an empty line,
//! the body. `…` stands for anything.

use std::process::Command;

use crate::harness::{Cluster, Spec};

struct Example {
    line: usize,
    script: String,
    expected: String,
}

fn examples(document: &str) -> Vec<Example> {
    let mut blocks = Vec::new();
    let mut lines = document.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(kind) = line.strip_prefix("```").filter(|kind| ["sh test", "text expect"].contains(kind))
        else {
            continue;
        };
        let block: Vec<_> = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").collect();
        blocks.push((number + 1, kind, block.join("\n")));
    }
    let pairs = blocks.chunks(2).map(|pair| match pair {
        [(line, "sh test", script), (_, "text expect", expected)] => {
            Example { line: *line, script: script.clone(), expected: expected.clone() }
        }
        _ => panic!("line {}: an example needs a test and what to expect of it", pair[0].0),
    });
    pairs.collect()
}

/// Whether a text is what a pattern with `…` describes.
fn fits(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('…') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<_> = rest.split('…').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
    }
    text.ends_with(last)
}

/// What is wrong with an answer.
fn judge(expected: &str, answer: &str) -> Result<(), String> {
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("no HTTP answer: {answer:?}"))?;
    let (expected_head, expected_body) = match expected.split_once("\n\n") {
        Some((head, body)) => (head, Some(body.trim_end())),
        None => (expected.trim_end(), None),
    };
    let status = head.split(' ').nth(1).unwrap_or_default();
    let mut wanted = expected_head.lines();
    if wanted.next() != Some(format!("HTTP {status}").as_str()) {
        return Err(format!("the answer is {answer}"));
    }
    for header in wanted {
        let (name, value) = header.split_once(": ").ok_or_else(|| format!("{header:?} is no header"))?;
        let found = head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .any(|(other, found)| other.eq_ignore_ascii_case(name) && fits(value, found));
        if !found {
            return Err(format!("header {header:?} is missing in {head}"));
        }
    }
    match expected_body {
        Some(expected) if !fits(expected, body.trim_end()) => Err(format!("the body is {body}")),
        _ => Ok(()),
    }
}

#[tokio::test]
async fn the_examples_of_the_contract_hold() {
    let document = include_str!("../../docs/API.md");
    let examples = examples(document);
    assert!(examples.len() >= 40, "only {} examples were found", examples.len());
    let cluster = Cluster::start("examples", Spec::default()).await;
    let node = format!("http://127.0.0.1:{}", cluster.any().port);
    for Example { line, script, expected } in examples {
        let run = Command::new("sh").args(["-eu", "-c", &script]).env("NODE", &node).output().unwrap();
        let answer = String::from_utf8_lossy(&run.stdout);
        if let Err(why) = judge(&expected, &answer) {
            panic!("docs/API.md:{line}: {why}\n{}", String::from_utf8_lossy(&run.stderr));
        }
    }
}

#[test]
fn patterns_fit_and_do_not() {
    for (pattern, text, fit) in [
        ("abc", "abc", true),
        ("abc", "abcd", false),
        ("a…c", "abbbc", true),
        ("a…c", "abbb", false),
        ("…", "", true),
        ("a…b…c", "a1b2c", true),
        ("a…b…c", "a1c2b", false),
        ("…x", "axbx", true),
    ] {
        assert_eq!(fits(pattern, text), fit, "{pattern} {text}");
    }
    let answer = "HTTP/1.1 200 OK\r\nETag: \"3\"\r\n\r\nOK\n";
    assert_eq!(judge("HTTP 200\netag: \"…\"\n\nOK", answer), Ok(()));
    assert!(judge("HTTP 404", answer).is_err());
    assert!(judge("HTTP 200\netag: \"4\"", answer).is_err());
    assert!(judge("HTTP 200\n\nKO", answer).is_err());
}
