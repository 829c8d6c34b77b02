//! Checks of the host itself.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::check::{Finding, can_use};
use crate::config::{BridgeType, Config, Nat};
use crate::fetch::{CURL, REMEDY, SOCKET};
use crate::guest::domain::VirDomain;
use crate::journal::default_state_dir;
use crate::libvirt::{self, Connection, XmlKind};
use crate::ops::{bridges_of, is_bridge_missing};
use crate::os::resolve::{ResolveError, TrustedUsers};
use crate::os::service::{agent_user, is_systemd};
use crate::os::{kvm as kvm_device, own, process, users};
use crate::sorted::OrderBy;

/// The program that libvirt runs for a network with DHCP.
const DNSMASQ: &str = "/usr/sbin/dnsmasq";
/// The programs with which libvirt makes NAT rules: one of these, depending on its version.
const FIREWALLS: [&str; 2] = ["/usr/sbin/iptables", "/usr/sbin/nft"];

/// Returns the user with its name, if it has one.
pub(super) fn named(user: u32) -> String {
    match users::user_name(user) {
        Ok(Some(name)) => format!("user {user} ({name})"),
        Ok(None) | Err(_) => format!("user {user}"),
    }
}

pub(super) fn kvm(_: &Config) -> Vec<Finding> {
    let device = Path::new(kvm_device::DEVICE);
    vec![match can_use(device) {
        // Some virtual machines have the device but not the processor feature: guests hang, or do not start.
        Ok(()) if kvm_device::lacks_virtualization() => Finding::warn(
            "kvm",
            "/dev/kvm opens, but the processor has neither vmx nor svm: guests of type kvm may not start, or hang",
            "enable nested virtualization for this machine, or create guests of type qemu",
        ),
        Ok(()) => Finding::ok("kvm", "/dev/kvm is usable"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Finding::warn(
            "kvm",
            "/dev/kvm does not exist: guests of type kvm cannot start",
            "load kvm_intel or kvm_amd, and enable virtualization in the firmware",
        ),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Finding::ok("kvm", "/dev/kvm exists, and QEMU's user opens it")
        }
        Err(error) => Finding::warn("kvm", format!("/dev/kvm: {error}"), "reload the kvm module"),
    }]
}

pub(super) fn cgroup(_: &Config) -> Vec<Finding> {
    let is_there = |path: &str| Path::new("/sys/fs/cgroup").join(path).exists();
    vec![match (is_there("cgroup.controllers"), is_there("cpuacct")) {
        (true, _) => Finding::ok("cgroup", "version 2: CPUMetrics reports each vCPU"),
        (false, true) => Finding::ok("cgroup", "version 1: CPUMetrics reports each host CPU"),
        (false, false) => Finding::warn(
            "cgroup",
            "not mounted: guests run without a cgroup of their own",
            "mount cgroup2 at /sys/fs/cgroup",
        ),
    }]
}

pub(super) fn bridges(config: &Config) -> Vec<Finding> {
    let none = "none found: guests with NICs cannot start";
    let mut findings = vec![match config.host.bridge_type {
        BridgeType::Nat(nat) => nat_bridge(nat, &|program| Path::new(program).exists()),
        BridgeType::OpenVSwitch => {
            // The paths in Debian, Fedora and upstream.
            let sockets = ["/run/openvswitch/db.sock", "/var/run/openvswitch/db.sock"];
            let remedy = "start openvswitch-switch, or set --bridge-type linux";
            match sockets.into_iter().find(|path| Path::new(path).exists()) {
                Some(path) => Finding::ok("bridges", format!("Open vSwitch is running: {path}")),
                None => Finding::warn("bridges", none, remedy),
            }
        }
        BridgeType::Linux => match linux_bridges().join(", ") {
            names if names.is_empty() => {
                Finding::warn("bridges", none, "create the bridge that NICs name")
            }
            names => Finding::ok("bridges", names),
        },
    }];
    // If libvirt does not answer, the finding of its own check says so.
    findings.extend(missing_bridges(config).unwrap_or_default());
    findings
}

/// Checks whether libvirt can provide the network with NAT.
fn nat_bridge(nat: Nat, exists: &dyn Fn(&str) -> bool) -> Finding {
    let (missing, package) = match (exists(DNSMASQ), FIREWALLS.into_iter().any(exists)) {
        (true, true) => {
            let seen = format!("{} can have {nat}: dnsmasq and a firewall exist", Nat::BRIDGE);
            return Finding::ok("bridges", seen);
        }
        (false, _) => (DNSMASQ, "dnsmasq-base"),
        (true, false) => (FIREWALLS[0], "iptables"),
    };
    let seen = format!("{missing} does not exist: {} cannot have {nat}", Nat::BRIDGE);
    Finding::warn(
        "bridges",
        seen,
        format!("install {package}, which libvirt needs for NAT and DHCP"),
    )
}

/// Returns the command with which an operator creates a missing bridge.
fn bridge_remedy(bridge: &str, bridge_type: BridgeType) -> String {
    match bridge_type {
        BridgeType::Nat(_) if bridge == Nat::BRIDGE => format!("virsh net-start {}", Nat::NETWORK),
        BridgeType::OpenVSwitch => format!("ovs-vsctl add-br {bridge}"),
        BridgeType::Linux | BridgeType::Nat(_) => {
            format!("create it, such as by ip link add {bridge} type bridge")
        }
    }
}

/// Finds the bridges that NICs of guests name and that do not exist.
fn missing_bridges(config: &Config) -> Result<Vec<Finding>, libvirt::Error> {
    let connection = Connection::open(&config.host.libvirt_uri)?;
    let mut missing = Vec::new();
    for domain in connection.list_domains()? {
        // A guest that was removed meanwhile, or cannot be read, needs no bridge here.
        let Ok(guest) = VirDomain::from_xml(&domain.xml(XmlKind::Inactive).unwrap_or_default())
        else {
            continue;
        };
        for (_, bridge) in bridges_of(&connection, &guest)? {
            if is_bridge_missing(&bridge, &config.host) {
                let seen = format!("{bridge} does not exist: cannot start {}", guest.name);
                let remedy = bridge_remedy(&bridge, config.host.bridge_type);
                missing.push(Finding::warn("bridges", seen, remedy));
            }
        }
    }
    Ok(missing)
}

fn linux_bridges() -> Vec<String> {
    let Ok(all) = fs::read_dir("/sys/class/net") else { return Vec::new() };
    let bridges = all.flatten().filter(|entry| entry.path().join("bridge").is_dir());
    let mut names: Vec<String> =
        bridges.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.order_by(&Ord::cmp);
    names
}

/// Checks the directory of the agent's state: the one of an agent with this process's user and environment.
pub(super) fn state(config: &Config) -> Vec<Finding> {
    let found = config.state_dir.clone();
    let Some(directory) =
        found.or_else(|| default_state_dir(|name| std::env::var_os(name), process::user()))
    else {
        let seen = "no directory for the agent's state";
        return vec![Finding::fail("state", seen, "set --state-dir")];
    };
    let mut found = vec![state_of(&directory)];
    found.extend(config.audit.log.as_deref().and_then(|log| exposed("state", log, own::check_log)));
    found
}

/// Returns the failure of a configured path that other users can change: the agent does not start with it.
pub(super) fn exposed(
    subject: &'static str,
    path: &Path,
    check: fn(&Path, TrustedUsers) -> Result<(), ResolveError>,
) -> Option<Finding> {
    let agent = agent_user().unwrap_or_else(|_| process::user());
    let why = check(path, TrustedUsers::with_agent(agent)).err()?;
    let remedy = format!("chown it to {} and chmod go-w, or set another path", named(agent));
    let seen = format!("{}: {why}", path.display());
    matches!(why, ResolveError::Exposed { .. }).then(|| Finding::fail(subject, seen, remedy))
}

fn state_of(directory: &PathBuf) -> Finding {
    let name = directory.display();
    if let Some(exposed) = exposed("state", directory, own::check_directory) {
        return exposed;
    }
    match fs::metadata(directory) {
        Ok(found) if !found.is_dir() => {
            Finding::fail("state", format!("{name} is not a directory"), "move the file away")
        }
        Ok(_) => Finding::ok("state", name.to_string()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Finding::ok("state", format!("{name}: the agent creates it at its first start"))
        }
        Err(error) => Finding::fail(
            "state",
            format!("{name}: {error}"),
            "let the agent's user read and write the directory",
        ),
    }
}

/// Checks whether images can be fetched from the image service.
pub(super) fn images(config: &Config) -> Vec<Finding> {
    let Some(service) = &config.host.image_service else {
        return vec![Finding::ok("images", "not fetched: --image-service is not set")];
    };
    // Without the unit, a child process fetches images as nobody, which needs an agent that runs as root and
    // may reach the network.
    let needs_socket = is_systemd() || agent_user() != Ok(0);
    vec![fetching(service, Path::new(CURL), Path::new(SOCKET), needs_socket)]
}

fn fetching(service: &str, curl: &Path, socket: &Path, needs_socket: bool) -> Finding {
    if let Err(error) = fs::metadata(curl) {
        let seen = format!("cannot fetch images: {}: {error}", curl.display());
        return Finding::warn("images", seen, "install curl");
    }
    match socket.exists() {
        false if needs_socket => Finding::warn(
            "images",
            format!(
                "cannot fetch images: {} does not exist, and the agent has no network access",
                socket.display()
            ),
            REMEDY,
        ),
        _ => Finding::ok("images", format!("fetched from {service}")),
    }
}

/// Checks whether systemd starts the agent.
pub(super) fn unit(_: &Config) -> Vec<Finding> {
    if !is_systemd() {
        return vec![Finding::warn(
            "unit",
            "systemd is not running",
            "start mistify-libvirt with your service manager; restart it on exit status 75",
        )];
    }
    let asked = Command::new("systemctl")
        .args(["is-enabled", "mistify-libvirt.service", "mistify-libvirt.socket"])
        .stdin(Stdio::null())
        .output();
    let says = match asked {
        Ok(output) => String::from_utf8_lossy(&output.stdout).trim().replace('\n', ", socket "),
        Err(error) => error.to_string(),
    };
    let user = agent_user().map_or_else(|why| why, |user| format!("runs as {}", named(user)));
    let is_enabled = says.contains("enabled");
    let says = format!("{says}, {user}");
    vec![match is_enabled {
        true => Finding::ok("unit", says),
        false => Finding::warn(
            "unit",
            format!("not enabled: {says}"),
            "systemctl enable --now mistify-libvirt",
        ),
    }]
}

/// Checks which service shuts guests down when the host stops.
pub(super) fn stop(_: &Config) -> Vec<Finding> {
    let mut found = Vec::new();
    for unit in ["mistify-libvirt-guests.service", "libvirt-guests.service"] {
        let says = |question: &str, answer: &str| {
            let asked =
                Command::new("systemctl").args([question, unit]).stdin(Stdio::null()).output();
            // A unit that does not exist is neither.
            asked.is_ok_and(|asked| asked.stdout.starts_with(answer.as_bytes()))
        };
        // systemd stops only units that it has started.
        if says("is-enabled", "enabled") && says("is-active", "active") {
            found.push(unit);
        }
    }
    let conf = fs::read_to_string("/etc/libvirt/qemu.conf").unwrap_or_default();
    if shuts_down(&conf) {
        found.push("libvirt (auto_shutdown in qemu.conf)");
    }
    vec![match found.as_slice() {
        [] => Finding::warn(
            "stop",
            "no unit that shuts guests down when the host stops is enabled and started: they are killed",
            "systemctl enable --now mistify-libvirt-guests",
        ),
        found => Finding::ok("stop", format!("shuts guests down: {}", found.join(", "))),
    }]
}

/// Returns whether libvirt itself shuts down or saves guests, by its qemu.conf: since 11.2, if an operator sets
/// it.
fn shuts_down(conf: &str) -> bool {
    let mut lines = conf.lines().filter_map(|line| line.split_once('='));
    lines.any(|(name, value)| {
        let is_it = ["auto_shutdown_try_save", "auto_shutdown_try_shutdown"].contains(&name.trim());
        is_it && ["\"all\"", "\"persistent\""].contains(&value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Level;

    #[test]
    fn a_missing_bridge_has_the_remedy_of_its_type() {
        let nat = Nat::parse("192.168.77.0/24").unwrap();
        for (bridge, bridge_type, remedy) in [
            ("mistify0", BridgeType::Nat(nat), "virsh net-start mistify-nat"),
            ("br0", BridgeType::Nat(nat), "create it, such as by ip link add br0 type bridge"),
            ("mistify0", BridgeType::OpenVSwitch, "ovs-vsctl add-br mistify0"),
            ("br0", BridgeType::Linux, "create it, such as by ip link add br0 type bridge"),
        ] {
            assert_eq!(bridge_remedy(bridge, bridge_type), remedy);
        }
    }

    #[test]
    fn missing_nat_tools_are_named() {
        let nat = Nat::parse("192.168.77.0/24").unwrap();
        for (there, level, seen, remedy) in [
            (&["dnsmasq", "iptables"][..], Level::Ok, "can have 192.168.77.0/24", ""),
            (&["dnsmasq", "nft"], Level::Ok, "can have", ""),
            (&["iptables"], Level::Warn, "/usr/sbin/dnsmasq does not exist", "dnsmasq-base"),
            (&["dnsmasq"], Level::Warn, "/usr/sbin/iptables does not exist", "install iptables"),
        ] {
            let found = nat_bridge(nat, &|path| there.iter().any(|it| path.ends_with(it)));
            assert_eq!(found.level, level, "{found:?}");
            assert!(found.seen.contains(seen) && found.remedy.contains(remedy), "{found:?}");
        }
    }

    #[test]
    fn libvirts_own_shutdown_of_guests_is_known() {
        assert!(shuts_down("a = 1\nauto_shutdown_try_shutdown = \"all\"\n"));
        assert!(shuts_down("  auto_shutdown_try_save=\"persistent\""));
        assert!(!shuts_down(
            "#auto_shutdown_try_shutdown = \"all\"\nauto_shutdown_poweroff = \"all\""
        ));
        assert!(!shuts_down("auto_shutdown_try_shutdown = \"none\""));
    }

    #[test]
    fn missing_image_fetch_tools_are_a_warning() {
        let (there, absent) = (Path::new("/"), Path::new("/nonexistent/file"));
        for (curl, socket, needs_socket, level) in [
            (there, there, true, Level::Ok),
            (there, absent, false, Level::Ok),
            (there, absent, true, Level::Warn),
            (absent, there, true, Level::Warn),
        ] {
            let found = fetching("images.example", curl, socket, needs_socket);
            assert_eq!(found.level, level, "{found:?}");
        }
    }

    #[test]
    fn state_directory_writable_by_others_is_a_failure() {
        use std::os::unix::fs::PermissionsExt;

        let directory = std::env::temp_dir().join(format!("mistify-check-{}", std::process::id()));
        assert_eq!(state_of(&directory).level, Level::Ok, "it is made at the start");
        fs::create_dir(&directory).unwrap();
        for (mode, level) in [(0o700, Level::Ok), (0o755, Level::Ok), (0o775, Level::Fail)] {
            fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(state_of(&directory).level, level, "{mode:o}");
        }
        fs::remove_dir(&directory).unwrap();
        fs::write(&directory, "").unwrap();
        assert_eq!(state_of(&directory).level, Level::Fail, "a file");
        fs::remove_file(&directory).unwrap();
    }
}
