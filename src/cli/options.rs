//! The settings: one table for options, environment, file and usage.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use log::LevelFilter;

use crate::cli::values::{
    absolute, at_least_one, bridge_type, filter_name, image_service, level, log_format, max_age,
    metadata, number, on_or_off, on_port, pool_name, profile, seconds, store, tcp_address, vnc,
    workers,
};
use crate::cli::{LogFormat, Options};
use crate::config::{
    Config, DEFAULT_IMAGE_STORE_PORT, DEFAULT_METRICS_PORT, DEFAULT_PORT, DEFAULT_ZPOOL,
    SocketConfig, Store,
};

/// One setting: `--name VALUE`, `MISTIFY_NAME=VALUE`, and `name = VALUE` in the file.
#[derive(Debug)]
pub(super) struct ConfigOption {
    /// The name without leading dashes.
    pub(super) name: &'static str,
    /// The one-letter option, if any.
    pub(super) short: Option<char>,
    pub(super) takes: Takes,
    /// The description, as one paragraph.
    pub(super) help: &'static str,
    /// Parses a value into the draft; the error says what is wrong with the value.
    pub(super) apply: Apply,
}

pub(super) type Apply = fn(&mut Draft, &str) -> Result<(), String>;

/// The values that a setting takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    /// None as an option, `true` or `false` in the environment and the file.
    Switch,
    /// One, with its name in the usage.
    One(&'static str),
    /// Any number: options and lines are repeated, and commas separate them in a variable.
    Many(&'static str),
}

impl ConfigOption {
    const fn one(
        name: &'static str,
        value: &'static str,
        help: &'static str,
        apply: Apply,
    ) -> Self {
        Self { name, short: None, takes: Takes::One(value), help, apply }
    }

    const fn many(
        name: &'static str,
        value: &'static str,
        help: &'static str,
        apply: Apply,
    ) -> Self {
        Self { name, short: None, takes: Takes::Many(value), help, apply }
    }

    const fn switch(name: &'static str, help: &'static str, apply: Apply) -> Self {
        Self { name, short: None, takes: Takes::Switch, help, apply }
    }

    const fn short(mut self, letter: char) -> Self {
        self.short = Some(letter);
        self
    }

    /// Returns its environment variable.
    pub(super) fn variable(&self) -> String {
        format!("MISTIFY_{}", self.name.to_ascii_uppercase().replace('-', "_"))
    }
}

/// Returns the setting of that name.
pub(super) fn option(name: &str) -> Option<&'static ConfigOption> {
    OPTIONS.iter().find(|option| option.name == name)
}

/// The setting of the log format.
pub(super) const LOG_FORMAT: &str = "log-format";

/// All settings, in the order of the usage.
pub(super) const OPTIONS: &[ConfigOption] = &[
    ConfigOption::one(
        "port",
        "N",
        "Listen on TCP port N (default 20001; 0: the system chooses)",
        |draft, text| number(text).map(|port| draft.port = port),
    )
    .short('p'),
    ConfigOption::many(
        "listen",
        "ADDR[:PORT]",
        "Listen on ADDR, IPv6 in brackets; 127.0.0.1 includes [::1] (default 127.0.0.1)",
        |draft, text| {
            // The default port is a placeholder; the address is parsed again when the port is
            // known.
            tcp_address(text, DEFAULT_PORT).map(|_| draft.listen.push(text.to_owned()))
        },
    ),
    ConfigOption::one(
        "socket",
        "PATH",
        "Listen also on a Unix socket at PATH, mode 0660; the agent removes it at exit",
        |draft, text| absolute(text).map(|path| draft.socket = Some(path)),
    ),
    ConfigOption::one(
        "socket-group",
        "GROUP",
        "Set the group that owns the Unix socket of --socket (default: the agent's group; access: \
         see --allow-*)",
        |draft, text| {
            draft.socket_group = Some(text.to_owned());
            Ok(())
        },
    ),
    ConfigOption::many(
        "allow-user",
        "USER",
        "Let the local user USER (name or number) call, in addition to root and the agent's user",
        |draft, text| {
            draft.config.callers.users.push(text.to_owned());
            Ok(())
        },
    ),
    ConfigOption::many(
        "allow-group",
        "GROUP",
        "Let members of the local group GROUP (name or number) call",
        |draft, text| {
            draft.config.callers.groups.push(text.to_owned());
            Ok(())
        },
    ),
    ConfigOption::switch(
        "allow-any-local",
        "Let every local user call, as the original agent did; the agent logs a warning at start",
        |draft, text| on_or_off(text).map(|is_on| draft.config.callers.any_local = is_on),
    ),
    ConfigOption::one(
        "token-file",
        "FILE",
        "Require the token in FILE (mode 0600 or 0640) from other hosts, as Authorization: Bearer; \
         --listen beyond loopback needs it",
        |draft, text| absolute(text).map(|path| draft.config.callers.token_file = Some(path)),
    ),
    ConfigOption::many(
        "allow-host",
        "NAME",
        "Accept NAME as a name of this host in requests, besides its addresses and localhost",
        |draft, text| {
            draft.config.callers.host_names.push(text.to_owned());
            Ok(())
        },
    ),
    ConfigOption::one(
        "audit-log",
        "FILE",
        "Append a line of JSON to FILE for each changing call; SIGHUP reopens FILE",
        |draft, text| absolute(text).map(|path| draft.config.audit.log = Some(path)),
    ),
    ConfigOption::one(
        "zpool",
        "NAME",
        "Store disks in the ZFS pool or dataset NAME (default mistify; empty: no store)",
        |draft, text| pool_name(text).map(|name| draft.zpool = Some(name)),
    )
    .short('z'),
    ConfigOption::one(
        "storage",
        "WHERE",
        "Create disks in the ZFS pool (zfs, the default) or as sparse files below PATH \
         (directory:PATH)",
        |draft, text| store(text).map(|store| draft.store = Some(store)),
    ),
    ConfigOption::switch(
        "sparse",
        "Reserve no space for new disks; they may then run out of space while a guest writes",
        |draft, text| on_or_off(text).map(|is_on| draft.config.host.sparse = is_on),
    ),
    ConfigOption::switch(
        "image-store",
        "Serve the methods of the image store, on the port of --image-store-port",
        |draft, text| on_or_off(text).map(|is_on| draft.image_store = is_on),
    ),
    ConfigOption::one(
        "image-store-port",
        "N",
        "Serve the image store on TCP port N, on the addresses of --listen (default 19999)",
        |draft, text| number(text).map(|port| draft.image_store_port = port),
    ),
    ConfigOption::one(
        "image-service",
        "HOST[:PORT]",
        "Fetch images for RequestImage from HOST over HTTP (default port 80); without it \
         RequestImage is off; set it in the configuration file, which the fetch unit also \
         reads",
        |draft, text| {
            image_service(text).map(|()| draft.config.host.image_service = Some(text.to_owned()))
        },
    )
    .short('i'),
    ConfigOption::one(
        "log-level",
        "LEVEL",
        "Log at LEVEL: debug, info, warning, error, critical, fatal or panic (default warning); \
         overrides RUST_LOG",
        |draft, text| level(text).map(|level| draft.log_level = Some(level)),
    )
    .short('l'),
    ConfigOption::one(
        LOG_FORMAT,
        "FORMAT",
        "Log as text (default; with priorities under systemd) or json (as the original agent)",
        |draft, text| log_format(text).map(|format| draft.log_format = format),
    ),
    ConfigOption::one(
        "libvirt-uri",
        "URI",
        "Connect to the libvirt at URI (default qemu:///system)",
        |draft, text| {
            draft.config.host.libvirt_uri = text.to_owned();
            Ok(())
        },
    ),
    ConfigOption::one(
        "guest-profile",
        "PROFILE",
        "Create guests as modern (default: q35, the host's processor, virtio) or classic (as before \
         version 0.2.0, for images without virtio drivers) where a request leaves it open",
        |draft, text| profile(text).map(|profile| draft.config.host.profile = profile),
    ),
    ConfigOption::one(
        "bridge-type",
        "TYPE",
        "Connect NICs to bridges of TYPE openvswitch (default) or linux (without VLAN tags); nat:CIDR, such as \
         nat:192.168.77.0/24, is linux and provides the bridge mistify0 with DHCP and NAT",
        |draft, text| bridge_type(text).map(|kind| draft.config.host.bridge_type = kind),
    ),
    ConfigOption::one(
        "vnc",
        "WHERE",
        "Let VNC displays listen on a Unix socket for root and QEMU's user (socket, the default) \
         or on 127.0.0.1 at the guest's port (tcp)",
        |draft, text| vnc(text).map(|listen| draft.config.host.vnc = listen),
    ),
    ConfigOption::one(
        "nwfilter",
        "NAME",
        "Apply the libvirt network filter NAME to every NIC of new guests (default none)",
        |draft, text| filter_name(text).map(|name| draft.config.host.nwfilter = Some(name)),
    ),
    ConfigOption::many(
        "allow-disk-path",
        "DIR",
        "Permit disk sources below DIR as well; / permits every path, as the original agent did",
        |draft, text| absolute(text).map(|path| draft.config.host.allow_disk_paths.push(path)),
    ),
    ConfigOption::one(
        "state-dir",
        "DIR",
        "Store the agent's state in DIR (default $STATE_DIRECTORY, else /var/lib/mistify-libvirt \
         for root, else mistify-libvirt in $XDG_STATE_HOME or ~/.local/state)",
        |draft, text| absolute(text).map(|path| draft.config.state_dir = Some(path)),
    ),
    ConfigOption::many(
        "metrics-listen",
        "ADDR[:PORT]",
        "Serve only /metrics and /healthz on ADDR (default port 9177); beyond loopback it needs \
         --metrics-token-file or --metrics-open",
        |draft, text| {
            let address = tcp_address(text, DEFAULT_METRICS_PORT);
            address.map(|address| draft.config.metrics_listen.push(address))
        },
    ),
    ConfigOption::one(
        "metrics-token-file",
        "FILE",
        "Require the token in FILE from other hosts at --metrics-listen",
        |draft, text| {
            absolute(text).map(|path| draft.config.callers.metrics_token_file = Some(path))
        },
    ),
    ConfigOption::switch(
        "metrics-open",
        "Let every client that reaches --metrics-listen read it without a token",
        |draft, text| on_or_off(text).map(|is_on| draft.config.callers.metrics_open = is_on),
    ),
    ConfigOption::one(
        "metrics-max-age",
        "SECONDS",
        "Answer scrapes from a sample up to this age, 0 to 60 (default 1)",
        |draft, text| max_age(text).map(|age| draft.config.metrics.max_age = age),
    ),
    ConfigOption::many(
        "metrics-metadata",
        "NAME",
        "Add the guest metadata NAME as a label to the _info series of guests",
        |draft, text| metadata(&mut draft.config.metrics.metadata, text),
    ),
    ConfigOption::switch(
        "metrics-filesystems",
        "Add the size and use of guests' file systems, by their guest agents, to the metrics",
        |draft, text| on_or_off(text).map(|is_on| draft.config.metrics.filesystems = is_on),
    ),
    ConfigOption::switch(
        "no-touch",
        "Do not ask running guests for memory statistics that their definitions do not ask for",
        |draft, text| on_or_off(text).map(|is_on| draft.config.metrics.may_touch = !is_on),
    ),
    ConfigOption::many(
        "workers",
        "LANE=N",
        "Run N workers in LANE: control, read, urgent (default 4 each) or storage (default 2)",
        |draft, text| workers(&mut draft.config.pool, text),
    ),
    ConfigOption::one(
        "queue",
        "N",
        "Let at most N calls wait in each lane, 1 to 1024 (default 1024)",
        |draft, text| at_least_one(text).map(|count| draft.config.pool.queue = count),
    ),
    ConfigOption::one(
        "deadline-read",
        "SECONDS",
        "Set the deadline of Status and the metrics, 1 to 3600 (default 5)",
        |draft, text| seconds(text).map(|time| draft.config.deadlines.read = time),
    ),
    ConfigOption::one(
        "deadline-change",
        "SECONDS",
        "Set the deadline of changing calls, 1 to 3600 (default 60)",
        |draft, text| seconds(text).map(|time| draft.config.deadlines.change = time),
    ),
];

/// The settings while they are collected.
#[derive(Debug)]
pub(super) struct Draft {
    config: Config,
    port: u16,
    listen: Vec<String>,
    socket: Option<PathBuf>,
    socket_group: Option<String>,
    image_store: bool,
    image_store_port: u16,
    /// The pool's name; the inner `None` means no store.
    zpool: Option<Option<String>>,
    store: Option<Store>,
    log_level: Option<LevelFilter>,
    pub(super) log_format: LogFormat,
}

impl Default for Draft {
    fn default() -> Self {
        Self {
            config: Config::default(),
            port: DEFAULT_PORT,
            listen: Vec::new(),
            socket: None,
            socket_group: None,
            image_store: false,
            image_store_port: DEFAULT_IMAGE_STORE_PORT,
            zpool: None,
            store: None,
            log_level: None,
            log_format: LogFormat::Text,
        }
    }
}

impl Draft {
    /// Derives the values that depend on more than one setting.
    ///
    /// # Errors
    /// Settings that contradict each other.
    pub(super) fn finish(self) -> Result<Options, String> {
        let mut config = self.config;
        config.listen = match self.listen.is_empty() {
            true => vec![SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))],
            false => {
                let with_port = |text: &String| tcp_address(text, self.port);
                self.listen.iter().map(with_port).collect::<Result<_, _>>()?
            }
        };
        config.socket = match (self.socket, self.socket_group) {
            (Some(path), group) => Some(SocketConfig { path, group }),
            (None, None) => None,
            (None, Some(group)) => {
                return Err(format!("--socket-group {group}: requires --socket"));
            }
        };
        let host = &mut config.host;
        host.wants_store = self.zpool.is_some() || self.store.is_some() || self.image_store;
        match (self.zpool, self.store) {
            (Some(None), Some(_)) => {
                return Err("--zpool: empty means no store, but --storage names one".to_owned());
            }
            (Some(None), None) if self.image_store => {
                return Err("--image-store: requires a store, but --zpool is empty".to_owned());
            }
            (Some(None), None) => host.store = Store::None,
            (name, store) => {
                host.zpool = name.flatten().unwrap_or_else(|| DEFAULT_ZPOOL.to_owned());
                host.store = store.unwrap_or(Store::Zfs);
            }
        }
        if self.image_store {
            config.image_store = on_port(&config.listen, self.image_store_port);
        }
        let (log_level, log_format) = (self.log_level, self.log_format);
        Ok(Options { config: Box::new(config), log_level, log_format })
    }
}
