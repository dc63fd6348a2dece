//! Nodes that are killed, stopped, paused and started again, under a steady load.

mod coordinators;
mod disk;
mod graceful;
mod idle;
mod kill;
mod majority;
mod pause;
mod retry;
mod shortening;
mod splits;
