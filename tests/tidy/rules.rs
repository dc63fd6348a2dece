//! Each rule of `tidy.rs`, shown complaining, and content with what it should let pass.

use super::*;

fn texts(complaints: Vec<String>) -> String {
    complaints.join("; ")
}

#[test]
fn code_is_what_is_left_of_comments_and_texts() {
    let text = "a // b\n\"c // \\\" d\" e /* f\n g */ h '\"' i r#\"j \"k\" \"# l 'm b\"n\" '\\'' o br\"p\" q";
    assert_eq!(code(text), "a \n e \n h  i  l 'm b  o b q");
}

#[test]
fn imports_are_found_in_every_form() {
    let text = "use crate::a::b; use crate::{c, d::{e, f}, g::h}; crate::i::j(); use crate::{\n    k,\n};";
    let found: Vec<_> = imports(text).into_iter().collect();
    assert_eq!(found, ["a", "c", "d", "g", "i", "k"]);
}

#[test]
fn a_file_may_only_look_down() {
    let layers = layers("//! pub mod no;\n\npub mod low;\npub mod same;\n\npub mod mid;\n\npub mod high;\n");
    let judge = |path: &str, text: &str| texts(layering(path, text, &layers));
    assert_eq!(judge("src/mid/x.rs", "use crate::{low::A, mid, same}; // crate::high"), "");
    assert_eq!(judge("src/low.rs", "use crate::same;"), "");
    assert_eq!(
        judge("src/mid/x.rs", "use crate::{low, high::A};"),
        "src/mid/x.rs: mid uses high, which is not in its layer or below"
    );
    assert!(judge("src/low.rs", "crate::new::f()").contains("low uses new"));
    assert!(judge("src/new.rs", "").contains("new is in no layer"));
}

#[test]
fn length_and_header_are_judged() {
    assert!(length("a", &"x\n".repeat(MAX_LINES)).is_empty());
    assert_eq!(texts(length("a", &"x\n".repeat(MAX_LINES + 1))), "a: 501 lines, more than 500");
    assert!(header("a", "//! What.\n").is_empty());
    assert_eq!(header("a", "use x;\n//! What.\n").len(), 1);
}

#[test]
fn unwraps_are_found_outside_tests_only() {
    let text =
        "fn a() { x.unwrap(); }\n// .unwrap()\n#[cfg(test)]\nmod tests {\n  fn b() { x.unwrap() }\n}\n";
    assert_eq!(texts(unwraps("src/a.rs", text)), "src/a.rs:1: unwrap() outside tests");
    assert!(unwraps("src/a/tests.rs", text).is_empty());
    let declared = "#[cfg(test)]\nmod tests;\nfn a() { x.unwrap() }\n";
    assert_eq!(unwraps("src/a.rs", declared).len(), 1);
}

#[test]
fn sleeps_and_leftovers_are_found() {
    assert_eq!(texts(sleeps("a", "\nthread::sleep(x)")), "a:2: a sleep instead of a condition");
    assert!(sleeps("a", "// sleep(x)\nf(\"sleep(\")").is_empty());
    assert_eq!(
        texts(leftovers("a", "fn f() { todo!() } // FIXME: x")),
        "a: todo! was left behind; a: FIXME was left behind"
    );
    assert!(leftovers("a", "\"todo!\" // PREFIXME").is_empty());
}

#[test]
fn impurity_is_found() {
    let found = texts(purity("a.rs", "// tokio\nasync fn f(x: std::time::Instant) { grand(\"rand\") }"));
    assert_eq!(found, "a.rs:2: async in a pure layer; a.rs:2: Instant in a pure layer");
    assert!(purity("a.rs", "fn f() {}\n#[cfg(test)]\nmod tests {\n use rand::x;\n}").is_empty());
}

#[test]
fn dead_links_are_found() {
    let read = |path: &Path| (path == Path::new("docs/b.md")).then(|| "# The `x`, then y\n".to_owned());
    let judge = |text: &str| texts(dead_links("docs/a.md", text, read));
    assert_eq!(judge("[b](b.md) [y](b.md#the-x-then-y) [z](https://c) `[c](d)`\n```\n[e](f)\n```\n"), "");
    assert_eq!(judge("[`b`](c.md)"), "docs/a.md: the link to c.md leads nowhere");
    assert_eq!(judge("[b](b.md#y)"), "docs/a.md: the link to b.md#y leads to no heading");
}

#[test]
fn own_versions_are_found() {
    let good =
        "[workspace.dependencies]\na = \"1\"\n[dependencies]\na.workspace = true\nb = { path = \"b\" }\n";
    assert!(own_versions("a", good).is_empty());
    let bad = own_versions("a", "[dev-dependencies]\na = \"1\"\n[package]\nversion = \"1\"\n");
    assert_eq!(texts(bad), "a: a version outside the workspace's table: a = \"1\"");
}
