//! Skips tests that cannot run here: a skipped test prints the reason, is counted, and fails if the machine has
//! promised to meet its requirement.
//!
//! - `MISTIFY_TEST_REQUIRE`: the needs that must be met, by comma: `qemu,ovs,nwfilter,lab,users,mount,promtool`,
//!   `openrpc`: python3-jsonschema and jsonrpcclient, `browser`: Chromium and its driver, `go`: Go,
//!   `landlock`: a kernel with Landlock (unit tests of `src/os/confine`), and `no-zfs`: a host without ZFS's programs.
//!   `lab` is met only in the virtual machine of `make test-lab`, and `bare` only in `make test-new-user`; these
//!   targets require them.
//! - `MISTIFY_TEST_SKIPS`: a file that gets a line for each skip: need, test and reason, separated by tabs.

use std::env;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::thread;

/// The reason why a test cannot run here.
#[derive(Clone, Debug)]
pub(crate) struct Skip(pub(crate) String);

/// Returns the resource that a test needs, or `None` if the test must end here:
/// `let Some(stack) = require("qemu", Stack::shared()) else { return };`
pub(crate) fn require<T>(need: &str, found: Result<T, Skip>) -> Option<T> {
    let Skip(why) = match found {
        Ok(found) => return Some(found),
        Err(skip) => skip,
    };
    let required = env::var("MISTIFY_TEST_REQUIRE").unwrap_or_default();
    assert!(!names(&required, need), "{need} is required here, but {why}");
    note(need, &why).expect("the skip is written down");
    None
}

fn names(list: &str, need: &str) -> bool {
    list.split(',').any(|word| word.trim() == need)
}

/// Reports a skip on standard error itself: the test runner hides `eprintln` of a test that passes.
fn note(need: &str, why: &str) -> io::Result<()> {
    let why = why.replace(['\n', '\t'], " ");
    let thread = thread::current();
    let test = thread.name().unwrap_or("a test");
    writeln!(io::stderr(), "{test} does not run, it needs {need}: {why}")?;
    let Some(path) = env::var_os("MISTIFY_TEST_SKIPS") else { return Ok(()) };
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    // One write a line, so that lines of several processes do not mix.
    file.write_all(format!("{need}\t{test}\t{why}\n").as_bytes())
}

#[test]
fn list_matches_whole_words_only() {
    assert!(names("qemu, ovs", "ovs"));
    assert!(!names("qemu,ovs", "qem"));
    assert!(!names("", "qemu"));
}
