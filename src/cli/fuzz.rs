//! Properties of the configuration file that hold for every input.

use std::ffi::OsString;
use std::path::Path;
use std::str;

use super::layers::{OptionValue, combine, environment, lines};
use super::{Options, values};
use crate::config::DEADLINE_S_MAX;
use crate::storage::PoolName;

/// Returns whether the setting accepts this as the name of a pool.
pub(crate) fn takes_pool(name: &str) -> bool {
    values::pool_name(name).is_ok()
}

/// Parses the bytes as a configuration file. An error must name its place. An accepted file must be
/// within the bounds, and must mean the same as options, as variables, and as options that override
/// such a file.
pub(crate) fn configuration(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let read = || lines(Path::new("a.conf"), text);
    let given = match read() {
        Ok(given) => given,
        Err(error) => {
            let number = error.strip_prefix("a.conf:").and_then(|rest| rest.split(':').next());
            let number: usize = number.and_then(|it| it.parse().ok()).expect("it has a place");
            assert!((1..=text.lines().count()).contains(&number), "{error}");
            return;
        }
    };
    let flags = || {
        let flag = |given: &OptionValue| OptionValue::by_flag(given.option, given.text.clone());
        given.iter().map(flag).collect::<Vec<_>>()
    };
    let in_file = options(&[read().expect("as before")]);
    let by_flags = options(&[flags()]);
    match &in_file {
        Ok(options) => {
            assert_within_bounds(options);
            assert_eq!(by_flags, in_file);
            assert_eq!(settings_of_both(flags(), &given), in_file, "flags win");
        }
        Err(_) => assert!(by_flags.is_err(), "{by_flags:?}"),
    }
    // An empty variable is not set, and commas separate its values.
    if !given.iter().any(|given| given.text.is_empty() || given.text.contains([',', '\0'])) {
        let variables = environment(|name| variable(&given, name)).expect("it is UTF-8");
        let by_variables = options(&[variables]);
        assert_eq!(by_variables.is_ok(), in_file.is_ok(), "{by_variables:?}");
        assert!(in_file.is_err() || by_variables == in_file);
    }
}

fn options(layers: &[Vec<OptionValue>]) -> Result<Options, String> {
    combine(layers)?.finish()
}

fn settings_of_both(flags: Vec<OptionValue>, weaker: &[OptionValue]) -> Result<Options, String> {
    let weaker = weaker.iter().map(|given| OptionValue { place: String::new(), ..given.clone() });
    options(&[flags, weaker.collect()])
}

/// Returns the values of a setting in the form of its variable.
fn variable(given: &[OptionValue], name: &str) -> Option<OsString> {
    let of_it = given.iter().filter(|given| given.option.variable() == name);
    let texts: Vec<&str> = of_it.map(|given| given.text.as_str()).collect();
    (!texts.is_empty()).then(|| texts.join(",").into())
}

fn assert_within_bounds(options: &Options) {
    let config = &options.config;
    assert!(PoolName::parse(&config.host.zpool).is_ok(), "the store takes {}", config.host.zpool);
    let pool = &config.pool;
    let workers =
        [pool.control_workers, pool.read_workers, pool.urgent_workers, pool.storage_workers];
    assert!(workers.into_iter().chain([pool.queue]).all(|count| (1..=1024).contains(&count)));
    let seconds = [config.deadlines.read, config.deadlines.change].map(|it| it.as_secs());
    assert!(seconds.iter().all(|it| (1..=DEADLINE_S_MAX).contains(it)));
    assert!(config.metrics.max_age.as_secs() <= 60);
    assert!(!config.listen.is_empty());
    assert!(config.host.allow_disk_paths.iter().all(|path| path.is_absolute()));
}
