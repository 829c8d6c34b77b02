//! Properties of the parsers for guests' output and for files with keys that hold for every input.

use serde_json::{Value, json};

use super::create::keys;
use super::reach::{is_greeting, usable};
use super::wait::{ERROR_CHARS, ERRORS_MAX, after, before_boot, cloud_init_errors};
use crate::config::fixed::SSH_ADDRESSES;

/// Parses the bytes as a console log whose first half was read before; as lines with addresses; as the greeting of
/// an SSH server; as a file with public keys. Only the new part of the log may count, errors must be bounded and
/// harmless on a terminal, and no address may lead to this host or be an option of ssh.
pub(crate) fn words_of_guests(data: &[u8]) {
    let log = String::from_utf8_lossy(data);
    let half = (0..=log.len() / 2).rev().find(|at| log.is_char_boundary(*at)).unwrap_or(0);
    let (before, new) = log.split_at(half);
    assert_eq!(after(&log, before), new);
    assert!(log.starts_with(before_boot(&log)));
    let errors = cloud_init_errors(&log).unwrap_or_default();
    assert!(errors.chars().count() <= ERRORS_MAX * (ERROR_CHARS + 2), "{errors:?}");
    assert!(!errors.contains(char::is_control), "{errors:?}");

    let listed: Value = log.lines().map(|line| json!({ "address": line })).collect();
    let addresses = usable(&listed);
    assert!(addresses.len() <= SSH_ADDRESSES, "{addresses:?}");
    for address in addresses {
        let word = address.to_string();
        assert!(word.starts_with(|c: char| c.is_ascii_hexdigit() || c == ':'), "{word}");
        assert!(!address.to_canonical().is_loopback() && !address.is_unspecified(), "{word}");
    }

    let (first, _) = data.split_at(data.len() / 2);
    assert!(!is_greeting(first) || is_greeting(data), "more bytes change nothing");

    for key in keys(&log).unwrap_or_default() {
        let key = key.as_str().expect("a line").to_owned();
        assert!(log.contains(&key) && !key.contains("PRIVATE KEY-----"), "{key:?}");
        assert!(!key.contains('\n') && !key.starts_with(['#', '-', ' ']), "{key:?}");
    }
}
