//! A transaction against a map: commands see every earlier write, of the same call too.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use raft_store::{Options, Store};

use crate::common::{Do, Kv, Model, apply, cells, command, entry, small, step_model};

mod common;

/// Keys are few and short, so that steps meet; some are long or extreme.
fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => proptest::collection::vec(prop_oneof![Just(0u8), Just(7), Just(255)], 0..4),
        1 => proptest::collection::vec(any::<u8>(), 0..40),
        1 => Just(vec![255; 70]),
    ]
}

fn end() -> impl Strategy<Value = Option<Vec<u8>>> {
    prop_oneof![3 => key().prop_map(Some), 1 => Just(None)]
}

fn step() -> impl Strategy<Value = Do> {
    prop_oneof![
        4 => (key(), any::<Vec<u8>>()).prop_map(|(key, value)| Do::Put(key, value)),
        2 => key().prop_map(Do::Delete),
        1 => (key(), end()).prop_map(|(from, to)| Do::DeleteRange(from, to)),
        2 => (key(), any::<u64>()).prop_map(|(key, amount)| Do::Add(key, amount)),
        3 => key().prop_map(Do::Get),
        2 => (key(), end()).prop_map(|(from, to)| Do::Scan(from, to)),
        // Enough cells for a later range deletion to be a tombstone and not single deletions.
        1 => key().prop_map(|prefix| Do::Put(prefix, vec![1])),
    ]
}

fn many(prefix: &[u8]) -> Vec<Do> {
    (0u16..400).map(|n| Do::Put([prefix, &n.to_be_bytes()].concat(), vec![2])).collect()
}

/// One `apply` call: commands of steps.
fn call() -> impl Strategy<Value = Vec<Vec<Do>>> {
    let commands = proptest::collection::vec(step(), 1..12);
    let bulk =
        proptest::sample::select(vec![vec![], vec![0u8], vec![7, 7], vec![255]]).prop_map(|p| many(&p));
    proptest::collection::vec(prop_oneof![6 => commands, 1 => bulk], 1..5)
}

fn check(calls: Vec<Vec<Vec<Do>>>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let store = Store::open(small(Options::in_memory())).unwrap();
    // Neighbours in the key space must not be touched or seen.
    let mut neighbour = store.machine(1, Kv::default()).unwrap();
    let mut machine = store.machine(2, Kv::default()).unwrap();
    let mut other = store.machine(3, Kv::default()).unwrap();
    runtime.block_on(async {
        for machine in [&mut neighbour, &mut other] {
            let steps = [Do::Put(vec![], b"mine".to_vec()), Do::Put(vec![255; 80], b"mine".to_vec())];
            apply(machine, vec![entry(1, 1, command(&steps))]).await.unwrap();
        }
        let before = cells(&store.reader(1));
        let mut model = Model::new();
        let mut index = 0;
        for call in calls {
            let mut entries = Vec::new();
            let mut expected = Vec::new();
            for steps in call {
                index += 1;
                expected = steps.iter().map(|step| step_model(&mut model, step)).collect();
                entries.push(entry(1, index, command(&steps)));
            }
            apply(&mut machine, entries).await.unwrap();
            assert_eq!(machine.machine().replies, expected);
            assert_eq!(cells(&store.reader(2)), model);
        }
        assert_eq!(cells(&store.reader(1)), before);
        assert_eq!(cells(&store.reader(3)), before);
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn commands_see_earlier_writes(calls in proptest::collection::vec(call(), 1..6)) {
        check(calls);
    }
}

#[test]
fn writes_after_a_range_deletion_are_kept() {
    let range = Do::DeleteRange(vec![0], Some(vec![1]));
    let (inside, scan) = (vec![0, 0, 9], Do::Scan(vec![], None));
    check(vec![
        vec![many(&[0])],
        vec![vec![range.clone(), Do::Put(inside.clone(), vec![3]), Do::Get(inside.clone()), scan.clone()]],
        vec![vec![Do::Delete(inside.clone()), range.clone(), scan.clone()]],
        vec![many(&[0]), vec![range.clone(), range, Do::Get(inside), scan.clone()]],
        vec![
            many(&[0]),
            vec![Do::DeleteRange(vec![0, 1], None), Do::DeleteRange(vec![], Some(vec![0, 0, 200])), scan],
        ],
    ]);
}
