//! How long a node keeps memory that was freed. Left alone, mimalloc gives all of it back after a second, and it
//! is faulted in again, page by small page, as the next memtable fills (docs/BENCHMARKS.md).

use std::{env, os::unix::process::CommandExt as _, process::Command};

/// mimalloc's name for it; whoever sets it is obeyed.
const VARIABLE: &str = "MIMALLOC_PURGE_DELAY";

/// Longer than a memtable takes to fill under load, ms.
const KEPT_FOR_MS: &str = "60000";

/// Begins this process again with the allocator told so: it reads its options from the environment, and
/// before `main`. To be called before anything else is done. Where it cannot be, the node is only slower.
pub(super) fn keep_what_is_freed() {
    if env::var_os(VARIABLE).is_some() {
        return;
    }
    let mut arguments = env::args_os();
    if let (Ok(program), Some(name)) = (env::current_exe(), arguments.next()) {
        // It returns only where it failed.
        let _ = Command::new(program).arg0(name).args(arguments).env(VARIABLE, KEPT_FOR_MS).exec();
    }
}
