//! What is wrong is told in one clear line, or problem, and nothing is half-started.

mod config;
mod membership;
mod requests;
mod startup;
mod store;
