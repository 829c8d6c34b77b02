//! Seeds that a guest reads as items of QEMU's fw_cfg (<https://www.qemu.org/docs/master/specs/fw_cfg.html>): a
//! configuration of Ignition, or credentials of systemd. Each item is a file of the host that the definition names. A
//! value in the definition itself would appear in libvirt's files and logs, and in QEMU's arguments.

use serde::de::IgnoredAny;

use crate::guest::invalid::{CREDENTIAL_NAME_BYTES_MAX, Fault, Invalid};
use crate::guest::seed::SEED_BYTES_MAX;
use crate::guest::wire::Guest;
use crate::guest::wire::seed::{Credentials, Secret};

/// The maximum number of credentials of a guest. QEMU's machines have room for 32 items, and need some 20 themselves.
pub const CREDENTIALS_MAX: usize = 8;
/// The items from which Fedora CoreOS and Flatcar read their configuration.
const IGNITION_ITEMS: [&str; 2] = ["opt/com.coreos/config", "opt/org.flatcar-linux/config"];
/// The prefix of the items from which systemd reads credentials (<https://systemd.io/CREDENTIALS>).
const CREDENTIAL_ITEMS: &str = "opt/io.systemd.credentials/";
const IGNITION: &str = "ignition";
const CREDENTIALS: &str = "credentials";

/// Returns the seed members in a guest's request; a guest can have one of them.
pub fn given(guest: &Guest) -> Vec<&'static str> {
    let members = [
        ("cloud_init", guest.cloud_init.is_some()),
        (IGNITION, !guest.ignition.0.is_empty()),
        (CREDENTIALS, !guest.credentials.0.is_empty()),
    ];
    members.into_iter().filter(|(_, is_given)| *is_given).map(|(member, _)| member).collect()
}

/// Returns the prefix of the fingerprint and the whole content as bytes of a seed in files; `None` for other seeds.
/// Different seeds have different bytes.
pub fn canonical(guest: &Guest) -> Option<(&'static str, Vec<u8>)> {
    if !guest.ignition.0.is_empty() {
        return Some(("ignition-", format!("{IGNITION}:{}", guest.ignition.0).into_bytes()));
    }
    if guest.credentials.0.is_empty() {
        return None;
    }
    let mut bytes = format!("{CREDENTIALS}:").into_bytes();
    for text in guest.credentials.0.iter().flat_map(|(name, value)| [name, value]) {
        bytes.extend(text.len().to_be_bytes());
        bytes.extend(text.as_bytes());
    }
    Some(("credentials-", bytes))
}

/// Returns whether a guest with a seed of this fingerprint has a seed disk.
pub fn is_on_disk(fingerprint: &str) -> bool {
    let is_files = |member: &str| {
        fingerprint.strip_prefix(member).is_some_and(|digits| digits.starts_with('-'))
    };
    !fingerprint.is_empty() && ![IGNITION, CREDENTIALS].into_iter().any(is_files)
}

/// Returns the files of a guest's seed: the name and content of each.
pub fn contents(guest: &Guest) -> Vec<(String, String)> {
    let mut found = Vec::new();
    if !guest.ignition.0.is_empty() {
        found.push((IGNITION.to_owned(), guest.ignition.0.clone()));
    }
    for (name, value) in &guest.credentials.0 {
        found.push((credential_file(name), value.clone()));
    }
    found
}

/// Returns the items of a guest's seed: the name of each, and the name of its file.
pub fn items(guest: &Guest) -> Vec<(String, String)> {
    let mut found = Vec::new();
    if !guest.ignition.0.is_empty() {
        for item in IGNITION_ITEMS {
            found.push((item.to_owned(), IGNITION.to_owned()));
        }
    }
    for name in guest.credentials.0.keys() {
        found.push((CREDENTIAL_ITEMS.to_owned() + name, credential_file(name)));
    }
    found
}

fn credential_file(name: &str) -> String {
    format!("credential-{name}")
}

/// Returns the fault of a guest's seed members. No error repeats their content.
pub fn fault(guest: &Guest) -> Option<Invalid> {
    let (Secret(ignition), Credentials(credentials)) = (&guest.ignition, &guest.credentials);
    let member = if ignition.is_empty() { CREDENTIALS } else { IGNITION };
    let is_object = ignition.trim_start().starts_with('{')
        && serde_json::from_str::<IgnoredAny>(ignition).is_ok();
    let bytes = contents(guest).iter().map(|(name, text)| name.len() + text.len()).sum();
    let fault = match given(guest)[..] {
        [first, second, ..] => {
            let (member, fault) = (second.to_owned(), Fault::Beside(first));
            return Some(Invalid::Member { member, fault });
        }
        _ if !ignition.is_empty() && !is_object => Fault::NotObject,
        _ if credentials.len() > CREDENTIALS_MAX => {
            let (count, max) = (credentials.len(), CREDENTIALS_MAX);
            return Some(Invalid::TooMany { member, count, max });
        }
        _ if credentials.values().any(String::is_empty) => Fault::EmptyValue,
        _ if !credentials.keys().all(|name| is_name(name)) => Fault::NotCredential,
        _ if bytes > SEED_BYTES_MAX => Fault::TooLarge { bytes, max: SEED_BYTES_MAX },
        _ => return None,
    };
    Some(Invalid::Member { member: member.to_owned(), fault })
}

/// Returns whether a credential can have this name. libvirt passes the name to QEMU in a list with commas.
fn is_name(name: &str) -> bool {
    let is_fine = |c: u8| c.is_ascii_alphanumeric() || b"._-@".contains(&c);
    (1..=CREDENTIAL_NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_fine)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use std::collections::BTreeMap;

    use super::*;

    fn guest(members: &serde_json::Value) -> Guest {
        let mut guest = members.clone();
        guest["id"] = json!("web-1");
        serde_json::from_value(guest).unwrap()
    }

    fn texts(members: &serde_json::Value) -> Vec<String> {
        fault(&guest(members)).iter().map(Invalid::plain).collect()
    }

    #[test]
    fn a_guest_has_one_seed() {
        let all = json!({ "cloud_init": {}, "ignition": "{}", "credentials": { "a": "b" } });
        assert_eq!(texts(&all), ["ignition must not be set with cloud_init"]);
        let two = json!({ "ignition": "{}", "credentials": { "a": "b" } });
        assert_eq!(texts(&two), ["credentials must not be set with ignition"]);
        for one in
            [json!({ "ignition": " {\"a\": 1}\n" }), json!({ "credentials": { "a.b@c_d-e": "f" } })]
        {
            assert!(texts(&one).is_empty(), "{one}");
        }
    }

    #[test]
    fn seeds_that_no_guest_can_have_are_refused() {
        for ignition in ["[]", "{", "secret", "{} {}", "null", " "] {
            let found = texts(&json!({ "ignition": ignition }));
            assert_eq!(found, ["ignition must be a JSON object; its content is secret"]);
        }
        let longest = "n".repeat(CREDENTIAL_NAME_BYTES_MAX);
        assert!(texts(&json!({ "credentials": { longest.clone(): "x" } })).is_empty());
        for name in ["", "a/b", "a,b", "a b", "é", "a\n", "a:b", &format!("{longest}n")] {
            let found = texts(&json!({ "credentials": { name: "x" } }));
            assert!(found[0].starts_with("credentials must have names of 1 to 28"), "{found:?}");
        }
        let empty = texts(&json!({ "credentials": { "a": "" } }));
        assert_eq!(empty, ["credentials must not have an empty value"]);
        let many: BTreeMap<String, String> =
            (0..=CREDENTIALS_MAX).map(|n| (format!("n{n}"), "x".to_owned())).collect();
        let found = texts(&json!({ "credentials": many }));
        assert_eq!(found, ["9 credentials; a guest can have at most 8"]);
        let large = format!("{{\"a\": \"{}\"}}", "x".repeat(SEED_BYTES_MAX));
        for member in [json!({ "ignition": large }), json!({ "credentials": { "a": large } })] {
            assert_eq!(texts(&member).len(), 1, "it is larger than {SEED_BYTES_MAX} bytes");
        }
    }

    #[test]
    fn seeds_that_differ_have_other_texts() {
        let seeds = [
            json!({ "ignition": "{}" }),
            json!({ "ignition": "{ }" }),
            json!({ "credentials": { "a": "bc" } }),
            json!({ "credentials": { "ab": "c" } }),
            json!({ "credentials": { "a": "b", "c": "d" } }),
        ];
        for (index, one) in seeds.iter().enumerate() {
            for (other_index, other) in seeds.iter().enumerate() {
                let is_same = canonical(&guest(one)) == canonical(&guest(other));
                assert_eq!(is_same, index == other_index, "{one} {other}");
            }
        }
        assert_eq!(canonical(&guest(&json!({ "cloud_init": {} }))), None);
    }

    #[test]
    fn fingerprint_tells_the_medium_of_the_seed() {
        for (fingerprint, on_disk) in [
            ("", false),
            ("hmac-sha256:00", true),
            ("ignition-hmac-sha256:00", false),
            ("credentials-hmac-sha256:00", false),
            ("x", true),
        ] {
            assert_eq!(is_on_disk(fingerprint), on_disk, "{fingerprint}");
        }
    }

    #[test]
    fn nothing_secret_is_shown() {
        let guest = guest(&json!({ "ignition": "{\"a\": 7}", "credentials": { "n": "horse" } }));
        let shown = format!("{guest:?}{}", serde_json::to_string(&guest).unwrap());
        for secret in ["7}", "horse", "\"n\"", "ignition\"", "credentials\""] {
            assert!(!shown.contains(secret), "{secret} in {shown}");
        }
    }
}
