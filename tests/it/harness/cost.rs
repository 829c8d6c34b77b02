//! Reasons for slow tests: code that takes seconds states its reason, and the gate's table shows the reasons beside
//! the time of each test over 5 s.
//!
//! `MISTIFY_TEST_COSTS` names a file that gets a line for each reason: test and reason, separated by a tab.

use std::env;
use std::fs::OpenOptions;
use std::io::Write;
use std::thread;

/// States why the calling test is slow, as `waits for a real guest boot`.
pub(crate) fn slow(why: &str) {
    println!("slow: {why}");
    let Some(path) = env::var_os("MISTIFY_TEST_COSTS") else { return };
    let thread = thread::current();
    let test = thread.name().unwrap_or("a test");
    let file = OpenOptions::new().create(true).append(true).open(path);
    // One write a line, so that lines of several tests do not mix.
    let noted = file.and_then(|mut file| file.write_all(format!("{test}\t{why}\n").as_bytes()));
    noted.expect("the reason can be written down");
}
