//! Whether ratios have fallen since an older run of the benchmarks:
//!
//!     make bench && cp target/bench/all.json old.json
//!     make bench-compare OLD=old.json
//!
//! Without a `target/bench/all.json` that runs the benchmarks first.
//!
//! It prints every ratio of both, and its status is 1 when one is worse by 10 % or more or is not
//! measured any more.

mod ratios;

use std::env;
use std::fs;
use std::process::ExitCode;

use serde_json::Value;

use crate::ratios::Compared;

fn main() -> ExitCode {
    // Cargo adds flags of its own: `cargo bench --bench compare -- OLD NEW`.
    let files: Vec<String> = env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let [old, new] = files.as_slice() else {
        println!("nothing to compare; it is `make bench-compare OLD=old.json`");
        return ExitCode::SUCCESS;
    };
    match compared(old, new) {
        Ok(all) => {
            println!("          old      new");
            all.iter().for_each(|each| println!("{each}"));
            let fallen = all.iter().filter(|each| each.has_fallen).count();
            println!("{fallen} of {} ratios fell by 10 % or more", all.len());
            if fallen == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn compared(old: &str, new: &str) -> Result<Vec<Compared>, String> {
    let read = |path: &str| -> Result<Value, String> {
        let text = fs::read(path).map_err(|error| format!("{path}: {error}"))?;
        serde_json::from_slice(&text).map_err(|error| format!("{path}: {error}"))
    };
    ratios::compare(&read(old)?, &read(new)?).map_err(|why| format!("{old}, {new}: {why}"))
}
