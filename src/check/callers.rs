//! Checks the addresses of the agent and its permitted callers.

use std::fs;
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::check::Finding;
use crate::check::host::{exposed, named};
use crate::config::{CallerConfig, Config, DEFAULT_PORT};
use crate::daemon::{IMAGE_STORE, METRICS, RPC};
use crate::http::{ipv6_twin, look_at_token};
use crate::os::service::agent_user;
use crate::os::socket_owners::SocketOwners;
use crate::os::{own, process, users};
use crate::sorted::OrderBy;

/// The kernel's name of the orchestrator's process, at most 15 bytes long.
const ORCHESTRATOR: &str = "mistify-agent";

pub(super) fn callers(config: &Config) -> Vec<Finding> {
    let CallerConfig { users, groups, any_local, .. } = &config.callers;
    let mut addresses: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
    addresses.extend(config.socket.iter().map(|socket| socket.path.display().to_string()));
    let mut who = vec!["root".to_owned()];
    who.extend(users.iter().map(|user| format!("user {user}")));
    who.extend(groups.iter().map(|group| format!("group {group}")));
    let seen = format!("{}: permitted callers are {}", addresses.join(", "), who.join(", "));
    let mut found = vec![match any_local {
        true => Finding::warn(
            "callers",
            format!("{}: every local user is permitted", addresses.join(", ")),
            "name the permitted users with --allow-user instead of --allow-any-local",
        ),
        false => Finding::ok("callers", seen),
    }];
    found.extend(unknown(&config.callers));
    let socket = config.socket.as_ref();
    found.extend(socket.and_then(|it| exposed("callers", &it.path, own::check_place)));
    found.extend(orchestrators().into_iter().map(|(pid, uid)| {
        let seen = format!("{ORCHESTRATOR} (process {pid}) runs as user {uid}");
        match may_call(&config.callers, uid) {
            true => Finding::ok("callers", format!("{seen}, which is permitted")),
            false => Finding::fail(
                "callers",
                format!("{seen}, which is not permitted"),
                format!("set --allow-user {uid}"),
            ),
        }
    }));
    found
}

/// Checks which users' processes listen on the agent's ports: the ports need no privileges, so any user can
/// take one while the agent is stopped.
pub(super) fn ports(config: &Config) -> Vec<Finding> {
    let with = |name| move |address: &SocketAddr| (*address, name);
    let configured = config.listen.iter().map(with(RPC));
    let configured = configured.chain(config.image_store.iter().map(with(IMAGE_STORE)));
    let configured = configured.chain(config.metrics_listen.iter().map(with(METRICS)));
    let has_ipv6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    let twin = |address| ipv6_twin(address).filter(|_| has_ipv6);
    let with_twin = |(address, name): (SocketAddr, &'static str)| {
        [Some((address, name)), twin(address).map(|twin| (twin, name))]
    };
    let mut addresses: Vec<_> = configured.flat_map(with_twin).flatten().collect();
    addresses.retain(|(address, _)| address.port() != 0);
    addresses.order_by(&Ord::cmp);
    addresses.dedup();
    let mut owners = match SocketOwners::open() {
        Ok(owners) => owners,
        Err(error) => {
            return vec![Finding::fail("ports", error.to_string(), "modprobe tcp_diag")];
        }
    };
    let agent = agent_user();
    let look = |(address, name): (SocketAddr, &str)| match owners.listener(address) {
        Ok(None) => Finding::warn(
            "ports",
            format!("no process listens on {address}: every local user can take it"),
            held_by(address, name),
        ),
        Ok(Some(user)) if user == 0 || agent == Ok(user) => {
            Finding::ok("ports", format!("the listener on {address} belongs to {}", named(user)))
        }
        Ok(Some(user)) => Finding::fail(
            "ports",
            format!(
                "the listener on {address} belongs to {}, not to the agent's user",
                named(user)
            ),
            "stop that process: it receives what callers send, including tokens",
        ),
        Err(error) => Finding::warn("ports", format!("{address}: {error}"), ""),
    };
    addresses.into_iter().map(look).collect()
}

/// Returns how systemd can hold a port while the agent is stopped, by a socket unit with this
/// `FileDescriptorName=`.
fn held_by(address: SocketAddr, name: &str) -> String {
    let unit = "mistify-libvirt.socket";
    let how = match name {
        RPC if address.ip().is_loopback() && address.port() == DEFAULT_PORT => {
            format!("{unit} holds the port")
        }
        RPC => format!("{unit} with ListenStream={address} in a drop-in holds the port"),
        _ => format!(
            "a socket unit of yours with ListenStream={address}, FileDescriptorName={name} and \
             Service=mistify-libvirt.service holds the port"
        ),
    };
    format!("start the agent; {how} while the agent is stopped")
}

/// Checks the files with the tokens of callers beyond this host: the agent does not start with a file that
/// it does not accept.
pub(super) fn tokens(config: &Config) -> Vec<Finding> {
    let CallerConfig { token_file, metrics_token_file, .. } = &config.callers;
    let files = [("--token-file", token_file), ("--metrics-token-file", metrics_token_file)];
    let user = match agent_user() {
        Ok(user) => user,
        Err(why) => {
            return vec![Finding::warn("tokens", why, "set User= of the unit to an existing user")];
        }
    };
    let look = |(flag, file): (&'static str, &Option<PathBuf>)| {
        let file = file.as_ref()?;
        Some(match look_at_token(user, flag, file) {
            Ok(()) => Finding::ok("tokens", format!("{flag} {}", file.display())),
            Err(error) => Finding::fail(
                "tokens",
                error.to_string(),
                "create one with openssl rand -hex 32 | install -m 0600 /dev/stdin FILE",
            ),
        })
    };
    let found: Vec<Finding> = files.into_iter().filter_map(look).collect();
    if found.is_empty() {
        return vec![Finding::ok("tokens", "no token is set: other hosts are not permitted")];
    }
    found
}

/// Finds names of users and groups that do not exist on this host: the agent does not start with them.
fn unknown(callers: &CallerConfig) -> Vec<Finding> {
    let lacks = |flag: &str, name: &String, is_known: bool| {
        (!is_known).then(|| {
            Finding::fail(
                "callers",
                format!("{flag} {name}: not known on this host"),
                "create it, or remove the option",
            )
        })
    };
    let users = callers.users.iter().filter_map(|name| {
        lacks("--allow-user", name, matches!(users::user_id(name), Ok(Some(_))))
    });
    let groups = callers.groups.iter().filter_map(|name| {
        lacks("--allow-group", name, matches!(users::group_id(name), Ok(Some(_))))
    });
    users.chain(groups).collect()
}

fn may_call(callers: &CallerConfig, uid: u32) -> bool {
    let is = |name: &String| matches!(users::user_id(name), Ok(Some(id)) if id == uid);
    let has = |name: &String, groups: &[u32]| matches!(users::group_id(name), Ok(Some(id)) if groups.contains(&id));
    uid == 0
        || uid == process::user()
        || callers.any_local
        || callers.users.iter().any(is)
        || users::groups(uid)
            .is_ok_and(|groups| callers.groups.iter().any(|name| has(name, &groups)))
}

/// Returns the processes of the orchestrator and their users.
fn orchestrators() -> Vec<(String, u32)> {
    let Ok(all) = fs::read_dir("/proc") else { return Vec::new() };
    let is_it = |entry: &fs::DirEntry| {
        fs::read_to_string(entry.path().join("comm")).is_ok_and(|name| name.trim() == ORCHESTRATOR)
    };
    let found = all.flatten().filter(is_it);
    // A process that has just ended is left out.
    let owner = |entry: fs::DirEntry| {
        Some((entry.file_name().to_string_lossy().into_owned(), entry.metadata().ok()?.uid()))
    };
    found.filter_map(owner).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::check::Level;

    #[test]
    fn root_may_call_and_others_only_by_a_flag() {
        let stranger = 3_999_999_999;
        let mut callers = CallerConfig::default();
        assert!(may_call(&callers, 0) && !may_call(&callers, stranger));
        callers.users.push(stranger.to_string());
        assert!(may_call(&callers, stranger));
        assert!(may_call(&CallerConfig { any_local: true, ..CallerConfig::default() }, stranger));
    }

    #[test]
    fn agent_user_must_be_able_to_read_the_token() {
        let file = std::env::temp_dir().join(format!("mistify-token-{}", std::process::id()));
        fs::write(&file, "0123456789abcdef0123456789abcdef\n").unwrap();
        let look = |user: u32, mode: u32| {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            look_at_token(user, "--token-file", &file).map_err(|error| error.to_string())
        };
        let (own, stranger) = (process::user(), 3_999_999_999);
        assert_eq!(look(own, 0o600), Ok(()));
        assert!(look(own, 0o644).unwrap_err().contains("its mode is 0644"));
        // Either the owner is wrong, or the user cannot read the file.
        let error = look(stranger, 0o640).unwrap_err();
        assert!(error.contains("its owner is user") || error.contains("cannot read it"), "{error}");
        fs::remove_file(&file).unwrap();
    }

    #[test]
    fn check_names_the_socket_unit_of_each_port() {
        let unit = include_str!("../../dist/mistify-libvirt.socket");
        let loopback = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        for (address, name) in [
            (loopback(20001), RPC),
            (SocketAddr::from((Ipv6Addr::LOCALHOST, 20001)), RPC),
            (loopback(20002), RPC),
            ("192.0.2.1:20001".parse().unwrap(), RPC),
            (loopback(19999), IMAGE_STORE),
            (loopback(9177), METRICS),
        ] {
            let is_in_unit = unit.lines().any(|line| line == format!("ListenStream={address}"));
            let remedy = held_by(address, name);
            let says = remedy.contains("; mistify-libvirt.socket holds the port");
            assert_eq!(says, is_in_unit, "{remedy}");
            let rest = format!("ListenStream={address}");
            assert!(is_in_unit || remedy.contains(&rest), "{remedy}");
            let is_own = remedy.contains(&format!("FileDescriptorName={name}"));
            assert_eq!(is_own, name != RPC, "{remedy}");
        }
    }

    #[test]
    fn a_port_without_a_listener_is_a_warning() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = Config { listen: Vec::new(), image_store: vec![free], ..Config::default() };
        let found = ports(&config);
        let of_port = found.iter().find(|it| it.seen.contains(&free.to_string())).unwrap();
        assert_eq!(of_port.level, Level::Warn);
        assert!(of_port.remedy.contains("FileDescriptorName=image-store"), "{}", of_port.remedy);
    }

    #[test]
    fn unknown_user_and_group_names_are_failures() {
        let name = "mistify-nobody-has-this".to_owned();
        let callers = CallerConfig {
            users: vec![name.clone()],
            groups: vec![name],
            any_local: true,
            ..CallerConfig::default()
        };
        let config = Config { callers, ..Config::default() };
        let levels: Vec<Level> = super::callers(&config).iter().map(|found| found.level).collect();
        assert_eq!(levels[..3], [Level::Warn, Level::Fail, Level::Fail]);
    }
}
