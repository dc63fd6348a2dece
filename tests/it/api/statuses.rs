//! Every status of the error table is provoked for real by some test on a running cluster: which
//! one, and that no status is without.

use std::collections::BTreeSet;

/// A status, and the test whose requests are answered with it.
const PROVOKED: [(u16, &str, &str); 17] = [
    (400, "api/names.rs", "what_is_no_name_is_refused"),
    (404, "api/cells.rs", "a_404_says_what_is_missing"),
    (405, "api/openapi.rs", "check_not_allowed"),
    (408, "api/bounds.rs", "bodies_in_memory_are_bounded_and_slow_ones_end"),
    (409, "api/membership.rs", "orders_that_cannot_be_obeyed_are_refused"),
    (411, "api/bounds.rs", "a_write_without_a_body_or_with_a_coded_one"),
    (412, "api/conditions.rs", "a_write_over_one_version_only"),
    (413, "api/bounds.rs", "a_body_too_large_is_refused_before_it_is_read"),
    (414, "api/bounds.rs", "urls_and_headers_are_bounded"),
    (415, "api/bounds.rs", "a_write_without_a_body_or_with_a_coded_one"),
    (422, "api/retries.rs", "another_request_under_the_same_key_is_refused"),
    (424, "api/batch.rs", "the_operations_on_a_row_happen_together_or_not"),
    (429, "api/bounds.rs", "bodies_in_memory_are_bounded_and_slow_ones_end"),
    (431, "api/bounds.rs", "urls_and_headers_are_bounded"),
    (501, "api/bounds.rs", "a_write_without_a_body_or_with_a_coded_one"),
    (503, "faults/majority.rs", "with_two_of_three_workers_dead_nothing_is_applied_and_nothing_lost"),
    (504, "faults/majority.rs", "writes_without_an_answer_are_unknown_then_refused"),
];

/// The statuses of lines that begin with `before` and go on with three digits.
fn statuses(text: &str, before: &str) -> BTreeSet<u16> {
    let rest = text.lines().filter_map(|line| line.trim_start().strip_prefix(before));
    rest.filter_map(|rest| rest.get(..3)?.parse().ok()).filter(|status| *status >= 400).collect()
}

#[test]
fn every_status_of_the_table_has_its_test() {
    let provoked: BTreeSet<u16> = PROVOKED.iter().map(|(status, ..)| *status).collect();
    // The documented table, and the one of the program.
    assert_eq!(statuses(include_str!("../../../docs/API.md"), "| "), provoked);
    let program = include_str!("../../../src/http/error.rs");
    let program: BTreeSet<u16> = program
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("(Kind::")?.split_once(", "))
        .filter_map(|(_, rest)| rest.get(..3)?.parse().ok())
        .collect();
    assert_eq!(program, provoked);
}

#[test]
fn the_tests_named_exist_and_speak_of_their_status() {
    for (status, file, test) in PROVOKED {
        let path = format!("{}/tests/it/{file}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap();
        let body =
            text.split_once(&format!("fn {test}(")).unwrap_or_else(|| panic!("{file} has no {test}")).1;
        let body = body.split("\n}\n").next().unwrap();
        assert!(body.contains(&status.to_string()), "{file}, {test}: {status} is not there");
    }
}
