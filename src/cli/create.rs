//! The options of `create`: the guest that they describe, and the steps after its creation.

use std::ffi::OsString;
use std::net::IpAddr;

use serde_json::{Map, Value};

use crate::cli::Error;
use crate::cli::switches::{NETWORK, Switches};
use crate::cli::values::{mebibytes, number, seconds, utf_8};
use crate::client::{Create, NewGuest, WaitFor};
use crate::config::fixed::WAIT_LIMIT;

/// The options that describe a guest. With one of them the argument of `create` is the guest's id, otherwise a
/// file.
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

/// Parses `create WORD` with these options.
///
/// # Errors
/// Options that contradict each other, and invalid values.
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
        Some(text) => seconds(text).map_err(|why| Error::Usage(format!("--timeout: {why}")))?,
    };
    if switches.value("output").is_some_and(|format| format != "json") {
        return wrong("--output: write json");
    }
    let (dry_run, prints_request) = (switches.has("dry-run"), switches.has("output"));
    Ok(Create { guest, dry_run, prints_request, run, wait, limit })
}

/// Parses the value of an option into the form of the API.
type Read = fn(&str) -> Result<Value, String>;

/// The options that are members of the guest, of its disk, and of its seed.
const OF_GUEST: [(&str, &str, Read); 5] = [
    ("memory", "memory", size),
    ("cpu", "cpu", count),
    ("type", "type", text),
    ("firmware", "firmware", text),
    ("cpu-model", "cpu_model", text),
];
const OF_DISK: [(&str, &str, Read); 2] = [("image", "image", text), ("size", "size", size)];
const OF_SEED: [(&str, &str, Read); 2] = [("user", "user", text), ("hostname", "hostname", text)];
/// The options after the bridge in `--network`, with the members of the NIC.
const OF_NIC: [(&str, &str, Read); 4] = [
    ("vlan", "vlans", tag),
    ("mac", "mac", text),
    ("address", "address", with_prefix),
    ("gateway", "gateway", address),
];

fn text(value: &str) -> Result<Value, String> {
    Ok(Value::String(value.to_owned()))
}

fn size(value: &str) -> Result<Value, String> {
    mebibytes(value).map(Value::from)
}

fn count(value: &str) -> Result<Value, String> {
    number::<u64>(value).map(Value::from)
}

fn tag(value: &str) -> Result<Value, String> {
    Ok(Value::Array(vec![count(value)?]))
}

/// Parses an IP address.
fn address(value: &str) -> Result<Value, String> {
    value.parse::<IpAddr>().map_err(|_| String::new())?;
    text(value)
}

/// Parses an IP address with a prefix length.
fn with_prefix(value: &str) -> Result<Value, String> {
    let (ip, prefix) = value.split_once('/').unwrap_or_default();
    let bits = if ip.contains(':') { 128 } else { 32 };
    address(ip)?;
    match number::<u64>(prefix)? {
        prefix if prefix <= bits => text(value),
        _ => Err(String::new()),
    }
}

/// Returns the members that these options set.
fn members(all: &[(&str, &str, Read)], switches: &Switches) -> Result<Value, Error> {
    let mut object = Map::new();
    for (option, member, read) in all {
        if let Some(value) = switches.value(option) {
            let value = read(value).map_err(|why| Error::Usage(format!("--{option}: {why}")))?;
            object.insert((*member).to_owned(), value);
        }
    }
    Ok(Value::Object(object))
}

/// Returns the guest that the options describe.
fn described(id: &str, switches: &Switches) -> Result<NewGuest, Error> {
    if !switches.has("image") || !switches.has("memory") {
        return wrong("create ID: --image IMAGE and --memory SIZE are required");
    }
    let has_data = switches.has("user-data");
    if switches.has("user") && has_data {
        return wrong("--user: not possible with --user-data");
    }
    if switches.has("user") && !switches.has("ssh-key") {
        return wrong("--user: requires --ssh-key");
    }
    let mut guest = members(&OF_GUEST, switches)?;
    guest["id"] = id.into();
    if !switches.has("cpu") {
        guest["cpu"] = 1.into();
    }
    guest["disks"] = Value::Array(vec![members(&OF_DISK, switches)?]);
    // A guest reads the address of a NIC from its seed.
    let mut has_seed = has_data || switches.has("ssh-key") || switches.has("hostname");
    let mut nics = Vec::new();
    for network in switches.values("network") {
        let Some(nic) = nic(id, nics.len(), network) else {
            return Err(Error::Usage(format!("--network: {network:?}: write {NETWORK}")));
        };
        has_seed |= nic["address"].is_string();
        nics.push(nic);
    }
    if !nics.is_empty() {
        guest["nics"] = Value::Array(nics);
    }
    if has_seed {
        guest["cloud_init"] = members(&OF_SEED, switches)?;
    }
    let mut ssh_keys = Vec::new();
    for file in switches.values("ssh-key") {
        ssh_keys.push(file.into());
    }
    let user_data = switches.value("user-data").map(Into::into);
    Ok(NewGuest::Options { guest, ssh_keys, user_data })
}

/// Returns the NIC of a `--network`; `None` if it is invalid.
fn nic(id: &str, index: usize, network: &str) -> Option<Value> {
    let mut nic = Value::Null;
    let mut parts = network.split(',');
    let bridge = parts.next().filter(|name| !name.is_empty() && !name.contains('='))?;
    nic["name"] = format!("eth{index}").into();
    nic["network"] = bridge.into();
    nic["model"] = "virtio".into();
    for part in parts {
        let (name, value) = part.split_once('=').filter(|(_, value)| !value.is_empty())?;
        let (_, member, read) = OF_NIC.iter().find(|(known, ..)| *known == name)?;
        if !nic[*member].is_null() {
            return None;
        }
        nic[*member] = read(value).ok()?;
    }
    if nic["mac"].is_null() {
        nic["mac"] = mac(id, index).into();
    }
    Some(nic)
}

/// Returns a MAC address for a NIC of a guest. It is the same each time, so that a repeated command sends the
/// same request. It is locally administered, with 40 bits that depend on the guest's id.
fn mac(id: &str, index: usize) -> String {
    let sum = hmac_sha256::Hash::hash(format!("{index} {id}").as_bytes());
    let [a, b, c, d, e, ..] = sum;
    format!("02:{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}")
}
