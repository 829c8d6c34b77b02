//! Helpers of tests: waiting on a condition, temporary directories, signals.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use super::skip::Skip;

/// The interval of checks of a condition.
const POLL: Duration = Duration::from_millis(5);

/// Waits until `done` returns `true`; fails the test with `what` after `limit`.
pub(crate) fn wait_until(what: &str, limit: Duration, mut done: impl FnMut() -> bool) {
    wait_for(what, limit, || done().then_some(()));
}

/// Waits like [`wait_until`] for a value.
pub(crate) fn wait_for<T>(what: &str, limit: Duration, get: impl FnMut() -> Option<T>) -> T {
    poll(limit, get).unwrap_or_else(|| panic!("waited {limit:?} in vain: {what}"))
}

/// Returns the value as soon as there is one, or `None` after `limit`.
pub(crate) fn poll<T>(limit: Duration, mut get: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        let late = Instant::now() >= end;
        let value = get();
        if late || value.is_some() {
            return value;
        }
        thread::sleep(POLL);
    }
}

/// Returns the path of a test in the test program; `module` is the `module_path!()` of the test.
pub(crate) fn test_path(module: &str, test: &str) -> String {
    let (_, module) = module.split_once("::").expect("a module of the test program");
    format!("{module}::{test}")
}

/// Sets a flag at the end of its scope, also if the test fails, so that threads that check the flag end.
pub(crate) struct AtEnd<'a>(pub(crate) &'a AtomicBool);

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Pseudo-random numbers, the same in every run with the same seed; the constants are from Numerical
/// Recipes.
pub(crate) struct Random(AtomicU64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    pub(crate) fn below(&self, limit: u64) -> u64 {
        let step = |state: u64| {
            Some(state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223) % (1 << 32))
        };
        let state = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step);
        (state.unwrap_or_default() >> 8) % limit
    }
}

/// Sends a signal by its name without `SIG` to a process.
pub(crate) fn signal(pid: u32, name: &str) {
    // The shell's own kill, because not every machine has procps.
    let status = Command::new("/bin/sh").args(["-c", &format!("kill -s {name} {pid}")]).status();
    assert!(status.is_ok_and(|s| s.success()), "SIG{name} reaches process {pid}");
}

/// Runs a program with a text on its standard input.
///
/// # Errors
/// If the program does not start.
pub(crate) fn feed(program: &str, words: &[&str], text: &str) -> Result<Output, Skip> {
    let mut child = Command::new(program)
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| Skip(format!("{program} does not start: {error}")))?;
    let mut input = child.stdin.take().expect("piped");
    input.write_all(text.as_bytes()).expect("it reads");
    drop(input);
    Ok(child.wait_with_output().expect("it ends"))
}

/// Adds the paths of all files and directories below this one.
pub(crate) fn files_below(directory: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(directory).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files_below(&path, found);
        }
        found.push(path.display().to_string());
    }
}

/// A directory for one test, removed on drop.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("mistify-test-{}-{number}", process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).expect("a folder for scratch files can be made");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A directory that remains in target/ does no harm.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Returns a line of a definition without the domain's uuid in marks: each new domain has another uuid.
pub(crate) fn without_domain(line: &str) -> String {
    match line.split_once(" domain=\"") {
        Some((before, rest)) => {
            let (_, after) = rest.split_once('"').expect("its end");
            format!("{before}{after}")
        }
        None => line.to_owned(),
    }
}
