//! Tables of figures, as Markdown for people and as JSON with the units in the names.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Map, Value};

/// A column: its name in JSON, what stands above it, and how many digits behind the point.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column(pub(crate) &'static str, pub(crate) &'static str, pub(crate) usize);

/// Rows of one kind.
#[derive(Debug, Serialize)]
pub(crate) struct Table {
    pub(crate) title: String,
    #[serde(skip)]
    columns: &'static [Column],
    rows: Vec<Map<String, Value>>,
}

impl Table {
    pub(crate) fn new(title: impl Into<String>, columns: &'static [Column]) -> Table {
        Table { title: title.into(), columns, rows: Vec::new() }
    }

    /// Adds a row; what no column shows is in the JSON alone.
    pub(crate) fn add(&mut self, row: Value) {
        if let Value::Object(row) = row {
            let line = self.line(&row);
            eprintln!("  {line}");
            self.rows.push(row);
        }
    }

    pub(crate) fn text(&self) -> String {
        let mut text = format!("### {}\n\n|", self.title);
        for Column(_, head, _) in self.columns {
            // Writing to a String does not fail.
            let _ = write!(text, " {head} |");
        }
        let _ = writeln!(text, "\n|{}", "---|".repeat(self.columns.len()));
        for row in &self.rows {
            let _ = writeln!(text, "{}", self.line(row));
        }
        text
    }

    fn line(&self, row: &Map<String, Value>) -> String {
        let mut line = "|".to_owned();
        for Column(name, _, digits) in self.columns {
            let shown = match &row.get(*name) {
                Some(Value::Number(number)) => grouped(number.as_f64().unwrap_or_default(), *digits),
                Some(Value::String(text)) => text.clone(),
                _ => "-".to_owned(),
            };
            let _ = write!(line, " {shown} |");
        }
        line
    }
}

/// A number with commas between thousands.
fn grouped(number: f64, digits: usize) -> String {
    let plain = format!("{number:.digits$}");
    let (whole, fraction) = plain.split_once('.').unwrap_or((&plain, ""));
    let mut shown = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) && !shown.ends_with('-') {
            shown.push(',');
        }
        shown.push(digit);
    }
    if fraction.is_empty() { shown } else { format!("{shown}.{fraction}") }
}
