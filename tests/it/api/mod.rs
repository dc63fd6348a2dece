//! The contract of docs/API.md, row by row, on a running cluster and through every node.

mod batch;
mod bounds;
mod cells;
mod conditions;
mod expiry;
mod flat_keys;
mod membership;
mod message;
mod million;
mod names;
mod observing;
mod openapi;
mod retries;
mod rows;
mod scans;
mod schema;
mod stale;
mod statuses;
