//! The command line: words in, a configuration or a reason to end out.

pub mod import;
mod logging;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lexopt::prelude::{Long, Short, Value};
use log::LevelFilter;

use crate::config::{
    BridgeType, Config, DEADLINE_S_MAX, DEFAULT_IMAGE_STORE_PORT, DEFAULT_METRICS_PORT,
    DEFAULT_PORT, SocketConfig, Store, VncListen,
};

pub use logging::start_log;

/// What `--help` prints.
pub const USAGE: &str = "\
mistify-libvirt: the agent of a hypervisor host. It creates, runs, stops, measures and deletes
guests, and is called with JSON-RPC over HTTP at /_mistify_RPC_.

Usage: mistify-libvirt [FLAG]...
       mistify-libvirt image import FILE ID [FLAG]...

The second form brings a raw or qcow2 disk or a zfs stream into the store as the image ID.

  -p, --port N              TCP port (default 20001; 0 lets the system choose)
      --listen ADDR[:PORT]  address to listen on, IPv6 in brackets; may be given several times
                            (default 127.0.0.1)
      --socket PATH         listen on a Unix socket too, for its owner and group (mode 0660)
      --socket-group GROUP  group of that socket; who may call is said by the next three
      --allow-user USER     user of this host that may call, besides root and the agent's own; name
                            or number; may be given several times
      --allow-group GROUP   group whose members may call; may be given several times
      --allow-any-local     let every user of this host call, as the original did
  -z, --zpool NAME          ZFS pool of the guests' disks (default mistify)
      --storage WHERE       where disks are made: zfs (default; the pool) or directory:PATH (sparse
                            files below PATH)
      --sparse              set no space aside for new disks
      --image-store         serve the image store's methods too, on a port of their own
      --image-store-port N  that port, on the addresses of --listen (default 19999)
  -l, --log-level LEVEL     debug, info, warning, error, critical, fatal or panic (default
                            warning); wins over RUST_LOG
      --libvirt-uri URI     libvirt to use (default qemu:///system)
      --bridge-type TYPE    what NICs are plugged into: openvswitch (default) or linux
      --vnc WHERE           where VNC displays listen: socket (default; a Unix socket for root and
                            qemu's user) or tcp (127.0.0.1, the guest's port)
      --nwfilter NAME       libvirt packet filter that every NIC of a new guest gets
      --allow-disk-path DIR let disk sources lie below DIR too; may be given several times
      --state-dir DIR       where the agent keeps what it must not forget (default $STATE_DIRECTORY,
                            else /var/lib/mistify-libvirt for root, else mistify-libvirt in
                            $XDG_STATE_HOME or ~/.local/state)
      --metrics-listen ADDR[:PORT]  serve /metrics and /healthz alone there, on loopback (port
                            9177); may be given several times
      --metrics-max-age N   seconds that a sample is good for further scrapes (default 1)
      --metrics-metadata NAME  a piece of guests' metadata that their _info series gets as a label;
                            may be given several times
      --workers LANE=N      workers of a lane: control, read, urgent (4 each) or storage (2)
      --queue N             jobs that may wait in each lane (default 64)
      --deadline-read SECONDS    longest that Status and the metrics may take (default 5)
      --deadline-change SECONDS  longest that a change may take (default 60)
  -h, --help                print this and end
      --version             print the version and end
";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// Run the agent.
    Run {
        /// What flags decided.
        config: Box<Config>,
        /// `--log-level`, where it was given.
        log_level: Option<LevelFilter>,
    },
    /// Bring an image into the store.
    Import {
        /// What flags decided.
        config: Box<Config>,
        /// The file.
        file: PathBuf,
        /// The image's id.
        id: String,
        /// `--log-level`, where it was given.
        log_level: Option<LevelFilter>,
    },
    /// Print [`USAGE`] on standard output.
    Help,
    /// Print the version on standard output.
    Version,
}

/// Why the command line cannot be followed.
#[derive(Debug, PartialEq, Eq)]
pub enum Error {
    /// A word that is not understood: usage, status 2.
    Usage(String),
    /// A value that cannot be: one line, status 1.
    Value(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(why) | Self::Value(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Error {}

impl From<lexopt::Error> for Error {
    fn from(error: lexopt::Error) -> Self {
        Self::Usage(error.to_string())
    }
}

/// Reads the words after the program's name.
///
/// # Errors
/// The first word that is not understood or whose value cannot be.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Request, Error> {
    let mut parser = lexopt::Parser::from_args(words);
    let mut config = Config::default();
    let (mut port, mut listen, mut log_level) = (DEFAULT_PORT, Vec::new(), None);
    let (mut image_store, mut image_store_port) = (false, DEFAULT_IMAGE_STORE_PORT);
    let mut socket_group = None;
    let mut command = Vec::new();
    while let Some(flag) = parser.next()? {
        match flag {
            Short('h') | Long("help") => return Ok(Request::Help),
            Long("version") => return Ok(Request::Version),
            Short('p') | Long("port") => port = number("--port", &text(&mut parser)?)?,
            Long("listen") => listen.push(text(&mut parser)?),
            Long("socket") => {
                let path = folder("--socket", &text(&mut parser)?)?;
                config.socket = Some(SocketConfig { path, group: None });
            }
            Long("socket-group") => socket_group = Some(text(&mut parser)?),
            Long("allow-user") => config.callers.users.push(text(&mut parser)?),
            Long("allow-group") => config.callers.groups.push(text(&mut parser)?),
            Long("allow-any-local") => config.callers.any_local = true,
            Short('z') | Long("zpool") => config.host.zpool = pool_name(text(&mut parser)?)?,
            Short('l') | Long("log-level") => log_level = Some(level(&text(&mut parser)?)?),
            Long("image-store") => image_store = true,
            Long("image-store-port") => {
                image_store_port = number("--image-store-port", &text(&mut parser)?)?
            }
            Long("libvirt-uri") => config.host.libvirt_uri = text(&mut parser)?,
            Long("bridge-type") => config.host.bridge_type = bridge_type(&text(&mut parser)?)?,
            Long("vnc") => config.host.vnc = vnc(&text(&mut parser)?)?,
            Long("nwfilter") => config.host.nwfilter = Some(filter_name(text(&mut parser)?)?),
            Long("storage") => config.host.store = store(&text(&mut parser)?)?,
            Long("sparse") => config.host.sparse = true,
            Long("allow-disk-path") => {
                let path = folder("--allow-disk-path", &text(&mut parser)?)?;
                config.host.allow_disk_paths.push(path);
            }
            Long("state-dir") => {
                config.state_dir = Some(folder("--state-dir", &text(&mut parser)?)?);
            }
            Long("metrics-listen") => {
                config.metrics_listen.push(metrics_address(&text(&mut parser)?)?)
            }
            Long("metrics-max-age") => config.metrics.max_age = max_age(&text(&mut parser)?)?,
            Long("metrics-metadata") => metadata(&mut config, text(&mut parser)?)?,
            Long("workers") => workers(&mut config, &text(&mut parser)?)?,
            Long("queue") => config.pool.queue = at_least_one("--queue", &text(&mut parser)?)?,
            Long("deadline-read") => {
                config.deadlines.read = seconds("--deadline-read", &text(&mut parser)?)?
            }
            Long("deadline-change") => {
                config.deadlines.change = seconds("--deadline-change", &text(&mut parser)?)?
            }
            Value(word) if command.len() < IMPORT_WORDS => command.push(word),
            other => return Err(other.unexpected().into()),
        }
    }
    config.listen = addresses(&listen, port)?;
    match (&mut config.socket, socket_group) {
        (Some(socket), group) => socket.group = group,
        (None, None) => {}
        (None, Some(group)) => {
            return Err(Error::Value(format!("--socket-group {group}: there is no --socket")));
        }
    }
    if image_store {
        config.image_store = on_port(&config.listen, image_store_port);
    }
    let config = Box::new(config);
    match import(command)? {
        None => Ok(Request::Run { config, log_level }),
        Some((file, id)) => Ok(Request::Import { config, file, id, log_level }),
    }
}

/// Words of `image import FILE ID`, the one command there is.
const IMPORT_WORDS: usize = 4;

/// What a command imports; `None` without words.
fn import(words: Vec<OsString>) -> Result<Option<(PathBuf, String)>, Error> {
    if words.is_empty() {
        return Ok(None);
    }
    match <[OsString; IMPORT_WORDS]>::try_from(words) {
        Ok([image, import, file, id]) if image == "image" && import == "import" => {
            let id = id.into_string().map_err(|id| not_utf_8(&id))?;
            Ok(Some((file.into(), id)))
        }
        Ok(words) => Err(unexpected(&words)),
        Err(words) => Err(unexpected(&words)),
    }
}

fn unexpected(words: &[OsString]) -> Error {
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    Error::Usage(format!("{}: not a command; write image import FILE ID", words.join(" ")))
}

fn not_utf_8(word: &OsStr) -> Error {
    Error::Usage(format!("{}: not UTF-8", word.to_string_lossy()))
}

/// The same addresses with another port, each once.
fn on_port(addresses: &[SocketAddr], port: u16) -> Vec<SocketAddr> {
    let mut others: Vec<SocketAddr> = Vec::new();
    for address in addresses.iter().map(|address| SocketAddr::new(address.ip(), port)) {
        if !others.contains(&address) {
            others.push(address);
        }
    }
    others
}

/// The value that follows a flag.
fn text(parser: &mut lexopt::Parser) -> Result<String, Error> {
    let word = parser.value()?;
    word.into_string().map_err(|word| not_utf_8(&word))
}

/// `--listen`'s addresses, each with the port where it names none; loopback where there are none.
fn addresses(listen: &[String], port: u16) -> Result<Vec<SocketAddr>, Error> {
    if listen.is_empty() {
        return Ok(vec![SocketAddr::from((Ipv4Addr::LOCALHOST, port))]);
    }
    listen.iter().map(|text| address("--listen", text, port)).collect()
}

/// Nobody proves who he is there, so that only this host may ask.
fn metrics_address(text: &str) -> Result<SocketAddr, Error> {
    let address = address("--metrics-listen", text, DEFAULT_METRICS_PORT)?;
    if address.ip().is_loopback() {
        return Ok(address);
    }
    Err(Error::Value(format!(
        "--metrics-listen {text}: nobody authenticates there; write an address of loopback"
    )))
}

fn max_age(text: &str) -> Result<Duration, Error> {
    match number("--metrics-max-age", text)? {
        seconds @ 0..=60 => Ok(Duration::from_secs(seconds)),
        _ => Err(Error::Value(format!("--metrics-max-age {text}: write 0 to 60 seconds"))),
    }
}

/// The names become labels, where only letters and digits tell them apart.
fn metadata(config: &mut Config, name: String) -> Result<(), Error> {
    let label = |name: &str| name.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    let known = &mut config.metrics.metadata;
    if name.is_empty() || known.iter().any(|other| label(other) == label(&name)) {
        return Err(Error::Value(format!("--metrics-metadata {name}: empty, or as one before")));
    }
    known.push(name);
    Ok(())
}

fn address(flag: &str, text: &str, port: u16) -> Result<SocketAddr, Error> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let bracketed = bare.len() != text.len();
    match (bare.parse::<IpAddr>(), text.parse::<SocketAddr>()) {
        (Ok(ip), _) if ip.is_ipv6() == bracketed => Ok(SocketAddr::new(ip, port)),
        (_, Ok(address)) => Ok(address),
        _ => Err(Error::Value(format!(
            "{flag} {text}: not an address; write 127.0.0.1, 127.0.0.1:{port}, [::1] or \
             [::1]:{port}"
        ))),
    }
}

fn number<T: std::str::FromStr>(flag: &str, text: &str) -> Result<T, Error> {
    text.parse().map_err(|_| Error::Value(format!("{flag} {text}: not a number in range")))
}

fn at_least_one(flag: &str, text: &str) -> Result<usize, Error> {
    match number(flag, text)? {
        0 => Err(Error::Value(format!("{flag} {text}: at least 1 is needed"))),
        count @ 1..=1024 => Ok(count),
        _ => Err(Error::Value(format!("{flag} {text}: at most 1024"))),
    }
}

fn seconds(flag: &str, text: &str) -> Result<Duration, Error> {
    match number(flag, text)? {
        seconds @ 1..=DEADLINE_S_MAX => Ok(Duration::from_secs(seconds)),
        _ => Err(Error::Value(format!("{flag} {text}: write 1 to {DEADLINE_S_MAX} seconds"))),
    }
}

fn workers(config: &mut Config, text: &str) -> Result<(), Error> {
    let (lane, count) = text.split_once('=').unwrap_or((text, ""));
    let slot = match lane {
        "control" => &mut config.pool.control_workers,
        "read" => &mut config.pool.read_workers,
        "urgent" => &mut config.pool.urgent_workers,
        "storage" => &mut config.pool.storage_workers,
        _ => {
            return Err(Error::Value(format!(
                "--workers {text}: write control=N, read=N, urgent=N or storage=N"
            )));
        }
    };
    *slot = at_least_one(&format!("--workers {lane}"), count)?;
    Ok(())
}

fn bridge_type(text: &str) -> Result<BridgeType, Error> {
    match text {
        "openvswitch" => Ok(BridgeType::OpenVSwitch),
        "linux" => Ok(BridgeType::Linux),
        _ => Err(Error::Value(format!("--bridge-type {text}: write openvswitch or linux"))),
    }
}

fn vnc(text: &str) -> Result<VncListen, Error> {
    match text {
        "socket" => Ok(VncListen::Socket),
        "tcp" => Ok(VncListen::Tcp),
        _ => Err(Error::Value(format!("--vnc {text}: write socket or tcp"))),
    }
}

/// Whether the filter is there is libvirt's to say, when a guest is made.
fn filter_name(text: String) -> Result<String, Error> {
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(Error::Value(format!("--nwfilter {text}: not the name of a packet filter")));
    }
    Ok(text)
}

/// The pool's name becomes part of paths and of commands.
fn pool_name(text: String) -> Result<String, Error> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    if text.starts_with(|first: char| first.is_ascii_alphabetic()) && text.bytes().all(fits) {
        return Ok(text);
    }
    Err(Error::Value(format!("--zpool {text}: not the name of a ZFS pool")))
}

fn store(text: &str) -> Result<Store, Error> {
    match text.strip_prefix("directory:") {
        None if text == "zfs" => Ok(Store::Zfs),
        Some(path) if Path::new(path).is_absolute() => Ok(Store::Directory(PathBuf::from(path))),
        _ => Err(Error::Value(format!(
            "--storage {text}: write zfs, or directory: and an absolute path"
        ))),
    }
}

fn folder(flag: &str, text: &str) -> Result<PathBuf, Error> {
    if Path::new(text).is_absolute() {
        return Ok(PathBuf::from(text));
    }
    Err(Error::Value(format!("{flag} {text}: not an absolute path")))
}

/// The original's levels, and `critical`, which its help lists and its code refused.
fn level(text: &str) -> Result<LevelFilter, Error> {
    match text.to_ascii_lowercase().as_str() {
        "debug" => Ok(LevelFilter::Debug),
        "info" => Ok(LevelFilter::Info),
        "warn" | "warning" => Ok(LevelFilter::Warn),
        "error" | "critical" | "fatal" | "panic" => Ok(LevelFilter::Error),
        _ => Err(Error::Value(format!(
            "--log-level {text}: write debug, info, warning, error, critical, fatal or panic"
        ))),
    }
}

#[cfg(test)]
mod tests;
