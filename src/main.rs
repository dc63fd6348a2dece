//! The binary `quoring`: everything is in the library, see [`quoring::cli`].

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    quoring::cli::main()
}
