//! Properties that hold for any input from outside: for `make fuzz`, which searches for
//! counterexamples, and for a test, which uses the inputs in `fuzz/corpus`.
//!
//! Each target accepts any bytes, and panics if a property does not hold. Targets that need private
//! items of a module are in a `fuzz.rs` of that module.

mod guest;
mod names;
mod typed;

use crate::{cli, client, http, jobs, journal, rpc, storage};

/// A target: accepts any bytes, and panics if a property does not hold.
pub type Target = fn(&[u8]);

/// The targets, by the names of their directories in `fuzz/corpus`.
pub const TARGETS: [(&str, Target); 12] = [
    ("http-framing", http::http1::parse::fuzz::framing),
    ("rpc-decode", rpc::fuzz::decode),
    ("rpc-v2", rpc::fuzz_calls),
    ("guest-xml", guest::guest_to_xml),
    ("live-xml", guest::live_xml),
    ("dataset-names", names::dataset_names),
    ("zfs-output", storage::fuzz_zfs_output),
    ("typed-parameters", typed::typed_parameters),
    ("journal-file", journal::fuzz_journal_file),
    ("job-files", jobs::fuzz::job_files),
    ("configuration", cli::fuzz::configuration),
    ("guest-words", client::fuzz::words_of_guests),
];

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn invariants_hold_for_the_corpora() {
        let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        for (name, target) in TARGETS {
            let files = fs::read_dir(corpora.join(name)).unwrap();
            let count = files.map(|file| target(&fs::read(file.unwrap().path()).unwrap())).count();
            assert!(count >= 5, "{name}: {count} files");
        }
        assert_eq!(fs::read_dir(corpora).unwrap().count(), TARGETS.len());
    }

    #[test]
    fn arbitrary_input_is_accepted() {
        for (name, target) in TARGETS {
            for byte in [0, b'\n', b'[', b'<', b'a', 0xff] {
                for length in [0, 1, 2, 3, 40, 20_000] {
                    let bytes = vec![byte; length];
                    let holds = std::panic::catch_unwind(|| target(&bytes)).is_ok();
                    assert!(holds, "{name}: {length} times {byte:#x}");
                }
            }
        }
    }
}
