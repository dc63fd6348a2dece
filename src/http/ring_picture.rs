//! The ring as a picture: an inline SVG, each arc in the colour of its primary.

use std::collections::BTreeMap;

use maud::{Markup, html};

use crate::{
    coordinator::status::ShardStatus,
    ids::{Position, WorkerId},
};

/// The circle's radius and the ring's width, in the picture's own units; it is 200 wide.
const RADIUS: f64 = 80.0;
const WIDTH: f64 = 26.0;

/// The colours of workers: one each, far apart for neighbours in the list.
pub(crate) struct Colours(BTreeMap<WorkerId, String>);

impl Colours {
    pub(crate) fn new<'a>(workers: impl Iterator<Item = &'a WorkerId>) -> Self {
        /// The golden angle: multiples of it never come close to each other soon.
        const GOLDEN_DEGREES: f64 = 137.508;
        let mut colours: BTreeMap<_, _> = workers.map(|id| (id.clone(), String::new())).collect();
        for (index, colour) in colours.values_mut().enumerate() {
            *colour = format!("hsl({:.0} 62% 52%)", (210.0 + index as f64 * GOLDEN_DEGREES) % 360.0);
        }
        Self(colours)
    }

    /// A worker's colour, as CSS; grey for nobody.
    pub(crate) fn of(&self, worker: Option<&WorkerId>) -> &str {
        worker.and_then(|id| self.0.get(id)).map_or("#999", String::as_str)
    }
}

/// A stretch of the ring with one primary; an end of zero is the ring's end.
#[derive(Debug, PartialEq)]
struct Stretch<'a> {
    start: Position,
    end: Position,
    primary: Option<&'a WorkerId>,
    shards: usize,
}

/// Joins neighbouring shards of one primary, so that the picture's size follows what can be seen.
fn stretches(shards: &[ShardStatus]) -> Vec<Stretch<'_>> {
    let mut stretches: Vec<Stretch<'_>> = Vec::new();
    for shard in shards {
        let primary = shard.replicas.first();
        match stretches.last_mut() {
            Some(last) if last.primary == primary && last.end == shard.start => {
                last.end = shard.end;
                last.shards += 1;
            }
            _ => stretches.push(Stretch { start: shard.start, end: shard.end, primary, shards: 1 }),
        }
    }
    stretches
}

/// The part of the whole ring before a position, 0 to 1.
fn turn(position: Position) -> f64 {
    position.0 as f64 / 2f64.powi(64)
}

/// The point of the circle at a turn, clockwise from the top.
fn point(turn: f64) -> (f64, f64) {
    let angle = turn * std::f64::consts::TAU;
    (100.0 + RADIUS * angle.sin(), 100.0 - RADIUS * angle.cos())
}

/// The picture.
pub(crate) fn draw(shards: &[ShardStatus], colours: &Colours) -> Markup {
    let stretches = stretches(shards);
    html! {
        svg.ring viewBox="0 0 200 200" role="img" aria-label="The ring, coloured by primary" {
            circle cx="100" cy="100" r=(RADIUS) fill="none" stroke="currentColor" stroke-opacity="0.12" stroke-width=(WIDTH) {}
            @for stretch in &stretches {
                (arc(stretch, colours.of(stretch.primary)))
            }
            text x="100" y="97" text-anchor="middle" class="count" { (shards.len()) }
            text x="100" y="113" text-anchor="middle" class="unit" { @if shards.len() == 1 { "shard" } @else { "shards" } }
        }
    }
}

fn arc(stretch: &Stretch<'_>, colour: &str) -> Markup {
    let from = turn(stretch.start);
    let to = if stretch.end == Position(0) { 1.0 } else { turn(stretch.end) };
    let title = html! {
        title {
            (stretch.start) " – " @if stretch.end == Position(0) { "end" } @else { (stretch.end) }
            ": " @match stretch.primary { Some(id) => (id), None => "nobody" }
            " (" (stretch.shards) ")"
        }
    };
    if to - from >= 1.0 {
        return html! {
            circle cx="100" cy="100" r=(RADIUS) fill="none" stroke=(colour) stroke-width=(WIDTH) { (title) }
        };
    }
    let ((x1, y1), (x2, y2)) = (point(from), point(to));
    let large = u8::from(to - from > 0.5);
    let path = format!("M{x1:.2} {y1:.2}A{RADIUS} {RADIUS} 0 {large} 1 {x2:.2} {y2:.2}");
    html! { path d=(path) fill="none" stroke=(colour) stroke-width=(WIDTH) { (title) } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::GroupId;

    fn shard(start: u64, end: u64, primary: &str) -> ShardStatus {
        ShardStatus {
            spread: true,
            id: GroupId(start),
            start: Position(start),
            end: Position(end),
            replicas: vec![primary.parse().unwrap()],
            leader: None,
            term: None,
            commit: None,
            applied: None,
            bytes: None,
        }
    }

    #[test]
    fn neighbours_with_one_primary_are_one_stretch() {
        let shards = [shard(0, 10, "a"), shard(10, 20, "a"), shard(20, 30, "b"), shard(30, 0, "a")];
        let joined = stretches(&shards);
        let told: Vec<_> =
            joined.iter().map(|s| (s.start.0, s.end.0, s.primary.unwrap().as_str(), s.shards)).collect();
        assert_eq!(told, [(0, 20, "a", 2), (20, 30, "b", 1), (30, 0, "a", 1)]);
    }

    #[test]
    fn a_quarter_is_drawn_as_a_quarter_and_one_shard_as_the_whole() {
        let (a, b): (WorkerId, WorkerId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let colours = Colours::new([&a, &b].into_iter());
        assert_ne!(colours.of(Some(&a)), colours.of(Some(&b)));
        let quarter = draw(&[shard(0, 1 << 62, "a"), shard(1 << 62, 0, "b")], &colours).into_string();
        assert!(quarter.contains("M100.00 20.00A80 80 0 0 1 180.00 100.00"), "{quarter}");
        assert!(quarter.contains("M180.00 100.00A80 80 0 1 1 100.00 20.00"), "{quarter}");
        let whole = draw(&[shard(0, 0, "a")], &colours).into_string();
        assert_eq!(whole.matches("<circle").count(), 2);
        assert!(draw(&[], &colours).into_string().contains(">0<"));
    }
}
