//! Arguments: what they come to mean, and the one line that wrong ones get.

use super::*;
use crate::config::{Node, Role};

fn parse(line: &str) -> Result<Command, String> {
    let words = line.split(' ').filter(|word| !word.is_empty());
    let parsed = Cli::try_parse_from(std::iter::once("quoring").chain(words));
    parsed.map(|cli| cli.command).map_err(|error| one_line(&error.to_string()))
}

fn worker(line: &str) -> Result<Node, String> {
    match parse(line)? {
        Command::Worker(worker) => worker.resolve(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_definition_is_sound_and_every_help_is_complete() {
    Cli::command().debug_assert();
    for command in Cli::command().get_subcommands_mut() {
        let name = command.get_name().to_owned();
        let help = command.render_long_help().to_string();
        assert!(help.contains("Example"), "{name} has no example");
        for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
            assert!(argument.get_help().is_some(), "{name}: {} has no help", argument.get_id());
        }
    }
}

#[test]
fn both_forms_of_worker_mean_the_same() {
    let positional = worker("worker 8001 d h:1,h:2 --zone a").unwrap();
    let flags =
        worker("worker --port 8001 --data-dir d --coordinator h:1 --coordinator h:2 --zone a").unwrap();
    assert_eq!(positional, flags);
    let coordinators = vec!["h:1".parse().unwrap(), "h:2".parse().unwrap()];
    assert_eq!(positional.role, Role::Worker { coordinators, zone: Some("a".to_owned()) });
    assert_eq!(worker("worker 8001 d --coordinator h:1,h:2 --zone a").unwrap(), positional);
    let unjoined = worker("worker --port 8001 --data-dir d").unwrap();
    assert_eq!(unjoined.role, Role::Worker { coordinators: vec![], zone: None });
    for line in ["worker --port 1 --no-persistence", "worker --port 1 --data-dir d --no-persistence"] {
        assert_eq!(worker(line).unwrap().dir, None, "{line}");
    }
}

#[test]
fn wrong_usage_is_one_line() {
    for (line, expected) in [
        (
            "worker 99999 d h:1",
            "invalid value '99999' for '[PORT]': 99999 is not in 1..=65535 (see quoring --help)",
        ),
        ("worker 0 d h:1", "invalid value '0' for '[PORT]': 0 is not in 1..=65535 (see quoring --help)"),
        (
            "worker x d h:1",
            "invalid value 'x' for '[PORT]': invalid digit found in string (see quoring --help)",
        ),
        ("worker", "a worker needs a port (see quoring worker --help)"),
        ("worker 8001", "a worker needs a directory, or --no-persistence (see quoring worker --help)"),
        (
            "worker 8001 d h",
            "invalid value 'h' for '[COORDINATOR]...': must be HOST:PORT, such as 127.0.0.1:7001 (see quoring --help)",
        ),
        (
            "worker 1 d h:1 --listen localhost",
            "invalid value 'localhost' for '--listen <IP>': invalid IP address syntax (see quoring --help)",
        ),
        (
            "worker 1 d h:1 --listen 0.0.0.0",
            "this node listens on all addresses; say with --advertise HOST:PORT where other nodes reach it",
        ),
    ] {
        assert_eq!(worker(line).unwrap_err(), expected, "{line}");
    }
    for (line, part) in [
        ("", "requires a subcommand but one was not provided"),
        ("worker 1 d h:1 --port 2", "the argument '[PORT]' cannot be used with '--port <PORT>'"),
        ("coordinator", "required arguments were not provided: <PORT>"),
        ("fly", "unrecognized subcommand 'fly'"),
        ("up --fast", "unexpected argument '--fast' found"),
        ("get", "required arguments were not provided"),
        ("put k", "2"),
        ("get a b c d", "'d'"),
        ("put k v --ttl 5", "'5' is no duration"),
        ("get k --timeout 1", "'1' is no duration"),
    ] {
        let error = parse(line).unwrap_err();
        assert!(error.contains(part), "{line}: {error}");
        assert!(!error.contains('\n'), "{line}: {error}");
    }
}

#[test]
fn values_may_look_like_numbers_and_dashes() {
    for line in ["put k -5", "put k -", "set t r c v", "update k -- --v", "put k v --ttl 30s"] {
        parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

#[test]
fn exit_codes_are_those_of_the_contract() {
    let text = String::new;
    let codes = [Failure::Closed, Failure::Failed(text()), Failure::Usage(text()), Failure::NotFound(text())];
    assert_eq!(codes.map(|failure| failure.code()), [0, 1, 2, 4]);
    let unreadable = crate::launcher::load("nowhere/cluster.toml".as_ref()).unwrap_err();
    let failure = Failure::from(unreadable);
    assert_eq!(failure.code(), 2);
    assert_eq!(
        failure.to_string(),
        "nowhere/cluster.toml: cannot be read: No such file or directory (os error 2); name another file with --config"
    );
}
