//! The options of `create`: the guest that they describe, and what is done with it.

use std::ffi::OsString;
use std::net::IpAddr;

use serde_json::{Map, Value, json};

use crate::cli::Error;
use crate::cli::commands::utf_8;
use crate::cli::switches::{NETWORK, Switches};
use crate::cli::values::{mebibytes, number, seconds};
use crate::client::{Create, NewGuest, WaitFor};
use crate::config::fixed::WAIT_LIMIT;

/// The options that describe a guest. With one of them the word behind `create` is the guest's id, else a file.
const GUEST: [&str; 12] = [
    "image",
    "size",
    "memory",
    "cpu",
    "network",
    "ssh-key",
    "user",
    "user-data",
    "hostname",
    "type",
    "firmware",
    "cpu-model",
];

fn wrong<T>(why: &str) -> Result<T, Error> {
    Err(Error::Usage(why.to_owned()))
}

/// What `create WORD` with these options does.
///
/// # Errors
/// Options that contradict each other, and values that cannot be.
pub(super) fn create(word: &OsString, switches: &Switches) -> Result<Create, Error> {
    let guest = match GUEST.iter().any(|name| switches.has(name)) {
        true => described(&utf_8(word)?, switches)?,
        false => NewGuest::File(word.into()),
    };
    let run = switches.has("run");
    let wait = match switches.value("wait") {
        None => None,
        Some(_) if !run => return wrong("--wait: requires --run"),
        Some("ssh") => Some(WaitFor::Ssh),
        Some("cloud-init") => Some(WaitFor::CloudInit),
        Some(_) => return wrong("--wait: write ssh or cloud-init"),
    };
    let limit = match switches.value("timeout") {
        None => WAIT_LIMIT,
        Some(_) if wait.is_none() => return wrong("--timeout: requires --wait"),
        Some(text) => value("timeout", seconds(text))?,
    };
    if switches.value("output").is_some_and(|format| format != "json") {
        return wrong("--output: write json");
    }
    let (dry_run, prints_request) = (switches.has("dry-run"), switches.has("output"));
    Ok(Create { guest, dry_run, prints_request, run, wait, limit })
}

/// The guest of the options.
fn described(id: &str, switches: &Switches) -> Result<NewGuest, Error> {
    let (Some(image), Some(memory)) = (switches.value("image"), switches.value("memory")) else {
        return wrong("create ID: --image IMAGE and --memory SIZE are required");
    };
    let mut disk = json!({ "image": image });
    if let Some(size) = switches.value("size") {
        disk["size"] = json!(value("size", mebibytes(size))?);
    }
    let cpu: u64 = value("cpu", number(switches.value("cpu").unwrap_or("1")))?;
    let nics = switches.values("network").enumerate();
    let nics = nics.map(|(index, text)| value("network", nic(id, index, text)));
    let nics: Vec<Value> = nics.collect::<Result<_, _>>()?;
    let has_addresses = nics.iter().any(|nic| nic["address"].is_string());
    let memory = value("memory", mebibytes(memory))?;
    let mut guest = json!({ "id": id, "memory": memory, "cpu": cpu, "disks": [disk] });
    if !nics.is_empty() {
        guest["nics"] = json!(nics);
    }
    for (option, member) in [("type", "type"), ("firmware", "firmware"), ("cpu-model", "cpu_model")]
    {
        if let Some(text) = switches.value(option) {
            guest[member] = json!(text);
        }
    }
    let ssh_keys: Vec<_> = switches.values("ssh-key").map(Into::into).collect();
    let user_data = switches.value("user-data").map(Into::into);
    let user = switches.value("user");
    match user {
        Some(_) if user_data.is_some() => return wrong("--user: not possible with --user-data"),
        Some(_) if ssh_keys.is_empty() => return wrong("--user: requires --ssh-key"),
        _ => {}
    }
    let hostname = switches.value("hostname");
    let texts = [("user", user), ("hostname", hostname)];
    let texts = texts.into_iter().filter_map(|(name, text)| Some((name.to_owned(), json!(text?))));
    let seed: Map<String, Value> = texts.collect();
    // The guest gets the address of a NIC from its seed.
    if has_addresses || !seed.is_empty() || !ssh_keys.is_empty() || user_data.is_some() {
        guest["cloud_init"] = Value::Object(seed);
    }
    Ok(NewGuest::Options { guest, ssh_keys, user_data })
}

/// The NIC of a `--network`.
fn nic(id: &str, index: usize, text: &str) -> Result<Value, String> {
    let cannot = |why: &str| format!("{why}; write {NETWORK}");
    let mut parts = text.split(',');
    let network = parts.next().filter(|name| !name.is_empty() && !name.contains('='));
    let network = network.ok_or_else(|| cannot("it does not begin with a bridge"))?;
    let mut nic = json!({ "name": format!("eth{index}"), "network": network, "model": "virtio" });
    for part in parts {
        let (name, text) = part.split_once('=').unwrap_or((part, ""));
        let (member, set) = match name {
            "vlan" => ("vlans", text.parse::<i64>().ok().map(|tag| json!([tag]))),
            "mac" if text.is_empty() => ("mac", None),
            "mac" => ("mac", Some(json!(text))),
            "address" => ("address", is_with_prefix(text).then(|| json!(text))),
            "gateway" => ("gateway", text.parse::<IpAddr>().ok().map(|ip| json!(ip))),
            _ => return Err(cannot(&format!("{part}: unknown"))),
        };
        if !nic[member].is_null() {
            return Err(cannot(&format!("{name}: given twice")));
        }
        nic[member] = set.ok_or_else(|| cannot(&format!("{part}: not a value of {name}")))?;
    }
    if nic["mac"].is_null() {
        nic["mac"] = json!(mac(id, index));
    }
    Ok(nic)
}

/// Whether it is an IP address with the length of its prefix.
fn is_with_prefix(text: &str) -> bool {
    let (address, prefix) = text.split_once('/').unwrap_or_default();
    let bits = match address.parse() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    prefix.parse::<u8>().is_ok_and(|prefix| prefix <= bits)
}

/// A MAC address for a NIC of a guest: the same each time, so that a repeated command is the same request. It is
/// locally administered, and of 40 bits that depend on the guest's id.
fn mac(id: &str, index: usize) -> String {
    let sum = hmac_sha256::Hash::hash(format!("{index} {id}").as_bytes());
    let bytes = sum.iter().take(5).map(|byte| format!(":{byte:02x}"));
    format!("02{}", bytes.collect::<String>())
}

/// The value of an option, or what is wrong with it.
fn value<T>(option: &str, read: Result<T, String>) -> Result<T, Error> {
    read.map_err(|why| Error::Usage(format!("--{option}: {why}")))
}
