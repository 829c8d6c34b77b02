//! Parsers for the values of settings.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use log::LevelFilter;

use crate::cli::{Error, LogFormat};
use crate::config::{BridgeType, DEADLINE_S_MAX, Nat, PoolLimits, Profile, Store, VncListen};
use crate::fetch::Service;
use crate::storage::PoolName;

/// The parsed value, or the error without the name of the setting, which the caller adds.
type Outcome<T> = Result<T, String>;

fn wrong<T>(why: &str) -> Outcome<T> {
    Err(why.to_owned())
}

pub(super) fn on_or_off(text: &str) -> Outcome<bool> {
    text.parse().or_else(|_| wrong("write true or false"))
}

pub(super) fn number<T: FromStr>(text: &str) -> Outcome<T> {
    text.parse().or_else(|_| wrong("not a number in range"))
}

pub(super) fn at_least_one(text: &str) -> Outcome<usize> {
    match number(text)? {
        0 => wrong("must be at least 1"),
        count @ 1..=1024 => Ok(count),
        _ => wrong("must be at most 1024"),
    }
}

pub(super) fn seconds(text: &str) -> Outcome<Duration> {
    match number(text)? {
        seconds @ 1..=DEADLINE_S_MAX => Ok(Duration::from_secs(seconds)),
        _ => Err(format!("must be 1 to {DEADLINE_S_MAX} seconds")),
    }
}

/// Parses a size with a binary unit into MiB: `512M`, `10G`, `1TiB`.
pub(super) fn mebibytes(text: &str) -> Outcome<u64> {
    let bare = text.strip_suffix("iB").unwrap_or(text);
    let digits = bare.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let count = digits.parse::<u64>().ok().filter(|_| !digits.starts_with('+'));
    let mebi = match bare.strip_prefix(digits) {
        Some("K" | "k") => return kibibytes(count),
        Some("M" | "m") => 1,
        Some("G" | "g") => 1 << 10,
        Some("T" | "t") => 1 << 20,
        _ => return wrong(SIZE),
    };
    match count.and_then(|count| count.checked_mul(mebi)) {
        Some(size @ 1..) => Ok(size),
        _ => wrong(SIZE),
    }
}

const SIZE: &str =
    "write a whole number and a unit, such as 512M or 10G (K, M, G, T: powers of 1024 bytes)";

fn kibibytes(count: Option<u64>) -> Outcome<u64> {
    match count {
        Some(count) if count > 0 && count % 1024 == 0 => Ok(count / 1024),
        Some(1..) => wrong("not a whole number of MiB"),
        _ => wrong(SIZE),
    }
}

pub(super) fn max_age(text: &str) -> Outcome<Duration> {
    match number(text)? {
        seconds @ 0..=60 => Ok(Duration::from_secs(seconds)),
        _ => wrong("must be 0 to 60 seconds"),
    }
}

/// Parses an address; `port` is the default port.
pub(super) fn tcp_address(text: &str, port: u16) -> Outcome<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let bracketed = bare.len() != text.len();
    match (bare.parse::<IpAddr>(), text.parse::<SocketAddr>()) {
        (Ok(ip), _) if ip.is_ipv6() == bracketed => Ok(SocketAddr::new(ip, port)),
        (_, Ok(address)) => Ok(address),
        _ => {
            Err(format!("not an address; write 127.0.0.1, 127.0.0.1:{port}, [::1] or [::1]:{port}"))
        }
    }
}

/// Returns the same addresses with another port, each once.
pub(super) fn on_port(addresses: &[SocketAddr], port: u16) -> Vec<SocketAddr> {
    let mut others: Vec<SocketAddr> = Vec::new();
    for address in addresses.iter().map(|address| SocketAddr::new(address.ip(), port)) {
        if !others.contains(&address) {
            others.push(address);
        }
    }
    others
}

pub(super) fn absolute(text: &str) -> Outcome<PathBuf> {
    if Path::new(text).is_absolute() {
        return Ok(PathBuf::from(text));
    }
    wrong("not an absolute path")
}

/// Adds a name of metadata. Names become labels, which can differ only in letters and digits.
pub(super) fn metadata(known: &mut Vec<String>, name: &str) -> Outcome<()> {
    let label = |name: &str| name.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    if name.is_empty() || known.iter().any(|other| label(other) == label(name)) {
        return wrong("empty, or the same label as an earlier name");
    }
    known.push(name.to_owned());
    Ok(())
}

pub(super) fn workers(pool: &mut PoolLimits, text: &str) -> Outcome<()> {
    let (lane, count) = text.split_once('=').unwrap_or((text, ""));
    let slot = match lane {
        "control" => &mut pool.control_workers,
        "read" => &mut pool.read_workers,
        "urgent" => &mut pool.urgent_workers,
        "storage" => &mut pool.storage_workers,
        _ => return wrong("write control=N, read=N, urgent=N or storage=N"),
    };
    *slot = at_least_one(count)?;
    Ok(())
}

pub(super) fn bridge_type(text: &str) -> Outcome<BridgeType> {
    match text {
        "openvswitch" => Ok(BridgeType::OpenVSwitch),
        "linux" => Ok(BridgeType::Linux),
        _ => match text.strip_prefix("nat:").and_then(Nat::parse) {
            Some(nat) => Ok(BridgeType::Nat(nat)),
            None => wrong(
                "write openvswitch, linux, or nat: and an IPv4 network with a prefix of 8 to 29, such as nat:192.168.77.0/24",
            ),
        },
    }
}

pub(super) fn profile(text: &str) -> Outcome<Profile> {
    match text {
        "modern" => Ok(Profile::Modern),
        "classic" => Ok(Profile::Classic),
        _ => wrong("write modern or classic"),
    }
}

pub(super) fn vnc(text: &str) -> Outcome<VncListen> {
    match text {
        "socket" => Ok(VncListen::Socket),
        "tcp" => Ok(VncListen::Tcp),
        _ => wrong("write socket or tcp"),
    }
}

/// Parses the name of a network filter. libvirt checks that it exists when a guest is created.
pub(super) fn filter_name(text: &str) -> Outcome<String> {
    if text.is_empty() || text.chars().any(char::is_control) {
        return wrong("not the name of a network filter");
    }
    Ok(text.to_owned())
}

/// Checks the host, and optional port, from which images are fetched.
pub(super) fn image_service(text: &str) -> Outcome<()> {
    match Service::parse(text) {
        Ok(_) => Ok(()),
        Err(_) => wrong("write HOST or HOST:PORT"),
    }
}

/// Parses the name of the pool, which becomes part of paths and commands. An empty name means no
/// store, as with the original.
pub(super) fn pool_name(text: &str) -> Outcome<Option<String>> {
    if text.is_empty() {
        return Ok(None);
    }
    let name = PoolName::parse(text).map_err(|bad| format!("not a ZFS pool: it {}", bad.why))?;
    Ok(Some(name.as_str().to_owned()))
}

pub(super) fn store(text: &str) -> Outcome<Store> {
    match text.strip_prefix("directory:") {
        None if text == "zfs" => Ok(Store::Zfs),
        Some(path) if Path::new(path).is_absolute() => Ok(Store::Directory(PathBuf::from(path))),
        _ => wrong("write zfs or directory:PATH, with an absolute PATH"),
    }
}

/// Parses a level of the original. Its help lists `critical`, which its code refused.
pub(super) fn level(text: &str) -> Outcome<LevelFilter> {
    match text.to_ascii_lowercase().as_str() {
        "debug" => Ok(LevelFilter::Debug),
        "info" => Ok(LevelFilter::Info),
        "warn" | "warning" => Ok(LevelFilter::Warn),
        "error" | "critical" | "fatal" | "panic" => Ok(LevelFilter::Error),
        _ => wrong("write debug, info, warning, error, critical, fatal or panic"),
    }
}

pub(super) fn log_format(text: &str) -> Outcome<LogFormat> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => wrong("write text or json"),
    }
}

pub(super) fn utf_8(word: &OsString) -> Result<String, Error> {
    let text = word.to_str().map(str::to_owned);
    text.ok_or_else(|| Error::Usage(format!("{}: not valid UTF-8", word.to_string_lossy())))
}
