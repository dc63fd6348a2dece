//! Shards that are split, over and over, against a model that is parted with them: all of them have
//! their keys in one place, and what any of them does must depend on its own keys alone.

use std::collections::BTreeMap;

use proptest::prelude::*;
use quoring::{
    command::{Answer, At, Command, Query, Reply, Split},
    config::Partitioner,
    ids::{GroupId, Position, Span},
    ring::partitioner::position,
    shard::{self, Shard, keys, machine, query, view::Overlay},
};

use super::properties::{
    ANSWER_AGE_MS, Keys, Model, command, partitioner, queries, row, scan_all, step, write_down,
};

/// A shard, what it must be indistinguishable from, and a replica that has nobody beside it.
struct Half {
    group: GroupId,
    arc: Span,
    model: Model,
    alone: Keys,
}

/// What happens to the shards.
#[derive(Debug, Clone)]
enum Event {
    /// A command to one of them, with its own rows only, or with all.
    Command(prop::sample::Index, Command, bool),
    /// A split of one of them, where a row begins.
    Split(prop::sample::Index, String),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (any::<prop::sample::Index>(), command(), prop::bool::weighted(0.8))
            .prop_map(|(which, command, own)| Event::Command(which, command, own)),
        1 => (any::<prop::sample::Index>(), row()).prop_map(|(which, row)| Event::Split(which, row)),
    ]
}

fn own(keys: &Keys, half: (GroupId, Span)) -> Keys {
    let owned = |(key, _): &(&Vec<u8>, &_)| keys::run(key, half.0, half.1).0;
    keys.iter().filter(owned).map(|(key, value)| (key.clone(), value.clone())).collect()
}

struct World {
    partitioner: Partitioner,
    keys: Keys,
    halves: Vec<Half>,
}

impl World {
    fn new(partitioner: Partitioner) -> World {
        let whole = Half { group: GroupId(1), arc: Span::RING, model: Model::default(), alone: Keys::new() };
        World { partitioner, keys: Keys::new(), halves: vec![whole] }
    }

    fn shard(&self, group: GroupId) -> Shard {
        Shard { group, partitioner: self.partitioner }
    }

    fn apply(&mut self, which: usize, command: &Command, at: At) -> Result<(), TestCaseError> {
        let shard = self.shard(self.halves[which].group);
        let place = |row: &str| position(self.partitioner, row);
        let half = &mut self.halves[which];
        let (reply, writes) = machine::apply(&self.keys, shard, command, at).unwrap();
        let (alone_reply, alone_writes) = machine::apply(&half.alone, shard, command, at).unwrap();
        prop_assert_eq!(&reply, &alone_reply);
        prop_assert_eq!(&writes, &alone_writes, "what others have here changes nothing");
        let is_here = command.writes.iter().all(|write| half.arc.contains(place(&write.row)));
        let expected = if is_here { half.model.apply(command, at) } else { Reply::NotHere };
        prop_assert_eq!(&reply, &expected);
        prop_assert!(is_here || writes.0.is_empty());
        write_down(&mut half.alone, alone_writes);
        write_down(&mut self.keys, writes);
        Ok(())
    }

    fn split(&mut self, which: usize, row: &str, at: At) -> Result<(), TestCaseError> {
        let point = position(self.partitioner, row);
        let child = GroupId(1 + self.halves.len() as u64);
        let shard = self.shard(self.halves[which].group);
        let arc = self.halves[which].arc;
        let split = Split { child, at: point, arc: Span::RING };
        let mut state = Overlay::new(&self.keys);
        let done = shard::split(&mut state, shard, &split, at).unwrap();
        let writes = state.into_writes();
        prop_assert_eq!(done, arc.contains(point) && arc.start != point);
        write_down(&mut self.keys, writes);
        let half = &mut self.halves[which];
        // An entry without a command, to the model.
        let nothing = Command { writes: Vec::new(), retry: None };
        half.model.apply(&nothing, at);
        if done {
            let lower = Span { start: arc.start, end: point };
            let upper = Span { start: point, end: arc.end };
            let place = |row: &str| position(self.partitioner, row);
            let mut model = half.model.clone();
            model.retain(|row| upper.contains(place(row)));
            half.model.retain(|row| lower.contains(place(row)));
            (half.arc, half.alone) = (lower, own(&self.keys, (half.group, lower)));
            let alone = own(&self.keys, (child, upper));
            self.halves.push(Half { group: child, arc: upper, model, alone });
        } else {
            half.alone = own(&self.keys, (half.group, arc));
        }
        Ok(())
    }

    fn check(&self, query: &Query, now: At) -> Result<(), TestCaseError> {
        for half in &self.halves {
            let shard = self.shard(half.group);
            let expected = half.model.answer(query, now, self.partitioner);
            let (answer, expected) = match query {
                Query::Cell { row, .. } | Query::Row { row, .. } => {
                    let is_here = half.arc.contains(position(self.partitioner, row));
                    let answer = query::answer(&self.keys, shard, Span::RING, query, now).unwrap();
                    (answer, is_here.then_some(expected))
                }
                Query::Scan(scan) => {
                    let rows = scan_all(&self.keys, shard, half.arc, scan, now);
                    (Some(Answer::Rows { rows, next: None }), Some(expected))
                }
                _ => (query::answer(&self.keys, shard, half.arc, query, now).unwrap(), Some(expected)),
            };
            prop_assert_eq!(&answer, &expected, "shard {}: {:?}", half.group, query);
            if half.arc != Span::RING && !matches!(query, Query::Cell { .. } | Query::Row { .. }) {
                let by_old_map = query::answer(&self.keys, shard, Span::RING, query, now).unwrap();
                prop_assert_eq!(by_old_map, None, "asked by a map from before the split");
            }
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn halves_are_the_halves_of_the_model(
        partitioner in partitioner(),
        events in prop::collection::vec((step(), event(), any::<bool>()), 1..50),
        queries in prop::collection::vec((0u64..400, queries()), 6),
    ) {
        let mut world = World::new(partitioner);
        let mut clock = 10_000i64;
        for (step, event, look) in &events {
            clock = (clock + step).max(0);
            let at = At(clock as u64);
            match event {
                Event::Command(which, command, only_own) => {
                    let which = which.index(world.halves.len());
                    let mut command = command.clone();
                    if *only_own {
                        let arc = world.halves[which].arc;
                        command.writes.retain(|write| arc.contains(position(partitioner, &write.row)));
                    }
                    world.apply(which, &command, at)?;
                }
                Event::Split(which, row) => world.split(which.index(world.halves.len()), row, at)?,
            }
            for (ahead, query) in queries.iter().filter(|_| *look) {
                world.check(query, At(clock as u64 + ahead))?;
            }
        }
        // Each key is of one of them, and each of them has what it has alone.
        let mut owners: BTreeMap<&Vec<u8>, usize> = BTreeMap::new();
        for half in &world.halves {
            let own = own(&world.keys, (half.group, half.arc));
            // The first shard did not know its arc before the first split, and has it all.
            prop_assert_eq!(&own, &half.alone);
            for key in world.keys.keys().filter(|key| own.contains_key(*key)) {
                *owners.entry(key).or_default() += 1;
            }
        }
        prop_assert_eq!(owners.len(), world.keys.len());
        prop_assert!(owners.values().all(|count| *count == 1));

        // In the end nothing is left of what has expired or is too old, in any of them.
        let now = world.halves.iter().map(|half| half.model.now()).max().unwrap();
        let late = At(now + 2 * ANSWER_AGE_MS);
        let nothing = Command { writes: Vec::new(), retry: None };
        for which in 0..world.halves.len() {
            let shard = world.shard(world.halves[which].group);
            for _ in 0..200 {
                if machine::wants_upkeep(&world.keys, shard, late).unwrap() {
                    world.apply(which, &nothing, late)?;
                }
            }
            prop_assert!(!machine::wants_upkeep(&world.keys, shard, late).unwrap());
        }
        let live: usize = world.halves.iter().map(|half| half.model.live(late).len()).sum();
        let marks: usize = world
            .halves
            .iter()
            .flat_map(|half| half.model.live(late).into_values())
            .filter(|cell| cell.expires_at.is_some())
            .count();
        prop_assert_eq!(world.keys.len(), world.halves.len() + live + marks);
    }

    /// The middle has less than half of the data below it, and the next position would have more.
    #[test]
    fn the_middle_parts_the_data(rows in prop::collection::btree_set("[a-z]{1,6}", 2..60)) {
        let shard = Shard { group: GroupId(1), partitioner: Partitioner::Ordered };
        let mut keys = Keys::new();
        for row in &rows {
            let value: quoring::command::Value = quoring::command::Value { bytes: vec![0; 500].into(), content_type: None, ttl_ms: None };
            let action = quoring::command::Action::Put { column: "c".to_owned(), value };
            let op = quoring::command::RowOp {
                table: "t".to_owned(),
                action,
                condition: quoring::command::Condition::Always,
            };
            let writes = vec![quoring::command::Write { row: row.clone(), ops: vec![op] }];
            let (_, writes) = machine::apply(&keys, shard, &Command { writes, retry: None }, At(1)).unwrap();
            write_down(&mut keys, writes);
        }
        let shard::Estimate::At(middle) = shard::middle(&keys, Span::RING).unwrap() else { panic!() };
        let below = rows.iter().filter(|row| position(Partitioner::Ordered, row) < middle).count();
        prop_assert!(below.abs_diff(rows.len() - below) <= 1, "{below} of {} below {middle}", rows.len());
        prop_assert!(middle > Position(0));
    }
}
