//! The command line, as a person or a script uses it.

mod data;
mod down;
mod shell;
mod up;
