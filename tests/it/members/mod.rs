//! Workers and coordinators that come and go under a steady load.

mod coordinators;
mod moves;
mod put_back;
mod restart;
mod workers;
