//! The binary `quoring`: everything is in the library, see [`quoring::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    quoring::cli::main()
}
