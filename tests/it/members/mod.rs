//! Workers and coordinators that come and go under a steady load.

mod coordinators;
mod moves;
mod restart;
mod workers;
