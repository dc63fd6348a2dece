//! A disk whose syncs hang when told to, for one node. A library stands before libc's `fsync` and
//! `fdatasync` in the node's process, so that nothing but that process is held up: no root is needed,
//! it can be killed at any time, and nothing is left behind. (A file system that is really frozen
//! keeps its processes from being killed.)

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Syncs that hang or return.
#[derive(Debug)]
pub(crate) struct Disk {
    library: PathBuf,
    /// There while they hang.
    switch: PathBuf,
}

impl Disk {
    /// Makes the library in `dir`, with the C compiler that Quoring is built with.
    pub(crate) fn new(dir: &Path) -> Self {
        fs::create_dir_all(dir).unwrap();
        let (source, library) = (dir.join("hang.c"), dir.join("hang.so"));
        fs::write(&source, include_str!("hang.c")).unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]).arg(&library).arg(&source);
        let made = cc.output().expect("a C compiler is there");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Self { library, switch: dir.join("hang") }
    }

    /// What stands before the command of a process that is to have this disk.
    pub(crate) fn before(&self) -> Vec<OsString> {
        let set = |name: &str, path: &Path| {
            let mut set = OsString::from(name);
            set.push("=");
            set.push(path);
            set
        };
        vec!["env".into(), set("LD_PRELOAD", &self.library), set("HANG_WHILE", &self.switch)]
    }

    /// From now on no sync returns.
    pub(crate) fn hang(&self) {
        fs::write(&self.switch, "").unwrap();
    }

    /// They return.
    pub(crate) fn heal(&self) {
        fs::remove_file(&self.switch).unwrap();
    }
}
