//! Libraries that an agent loads before others, and that let calls fail: `faults.c` and `libvirt_fails.c`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Compiles a file of this directory to a library that is loaded before others.
fn library(source: &str) -> PathBuf {
    let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(source).with_extension("so");
    let source = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/harness")).join(source);
    let flags = ["-std=c17", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"];
    let mut cc = Command::new("cc");
    cc.args(flags).arg("-o").arg(&library).arg(&source).arg("-ldl");
    assert!(cc.status().is_ok_and(|status| status.success()), "cc compiles {source:?}");
    library
}

/// Returns the library that lets system calls fail.
pub(crate) fn faults() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| library("faults.c"))
}

/// Returns the library that lets libvirt's calls fail.
pub(crate) fn calls() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| library("libvirt_fails.c"))
}
