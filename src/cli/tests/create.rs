//! Tests of the options of `create`, and of the arguments of `ssh`.

use std::time::Duration;

use super::super::*;
use super::{NO_FILE, error, request};
use crate::client::{Create, NewGuest, WaitFor};

/// Returns the parsed `create` with these arguments.
fn creation(args: &[&str]) -> Create {
    match request(args, &[], NO_FILE) {
        Ok(Request::Do(Command::Create { create, .. }, _)) => *create,
        other => panic!("{args:?}: {other:?}"),
    }
}

/// Returns the guest that the options describe.
fn new_guest(args: &[&str]) -> serde_json::Value {
    let all = [&["create", "web-1", "--image", "debian-12", "--memory=1G"], args].concat();
    match creation(&all).guest {
        NewGuest::Options { guest, .. } => guest,
        other @ NewGuest::File(_) => panic!("{args:?}: {other:?}"),
    }
}

#[test]
fn options_of_create_describe_a_guest() {
    let args = [
        "create",
        "web-1",
        "--image",
        "debian-12",
        "--size=10G",
        "--memory",
        "1G",
        "--cpu",
        "2",
        "--network",
        "mistify0,vlan=7,mac=02:00:00:00:00:07,address=192.0.2.7/24,gateway=192.0.2.1",
        "--network",
        "br1",
        "--ssh-key",
        "a.pub",
        "--ssh-key=b.pub",
        "--user",
        "alice",
        "--hostname",
        "web",
        "--type",
        "kvm",
        "--firmware",
        "uefi",
        "--cpu-model",
        "maximum",
        "--run",
        "--wait",
        "ssh",
        "--timeout",
        "30",
        "--dry-run",
        "-o",
        "json",
    ];
    let expected = serde_json::json!({
        "id": "web-1", "type": "kvm", "memory": 1024, "cpu": 2, "firmware": "uefi", "cpu_model": "maximum",
        "disks": [{ "image": "debian-12", "size": 10240 }],
        "nics": [
            {
                "name": "eth0", "network": "mistify0", "model": "virtio", "mac": "02:00:00:00:00:07", "vlans": [7],
                "address": "192.0.2.7/24", "gateway": "192.0.2.1",
            },
            { "name": "eth1", "network": "br1", "model": "virtio", "mac": "02:42:6e:4b:08:aa" },
        ],
        "cloud_init": { "user": "alice", "hostname": "web" },
    });
    let create = creation(&args);
    let ssh_keys = ["a.pub", "b.pub"].map(Into::into).to_vec();
    assert_eq!(create.guest, NewGuest::Options { guest: expected, ssh_keys, user_data: None });
    assert_eq!((create.wait, create.limit), (Some(WaitFor::Ssh), Duration::from_secs(30)));
    assert!(create.run && create.dry_run && create.prints_request);
}

#[test]
fn create_without_a_guests_options_reads_a_file() {
    let create = creation(&["create", "web-1.json", "--run", "--wait=cloud-init"]);
    assert_eq!(create.guest, NewGuest::File("web-1.json".into()));
    assert_eq!((create.wait, create.limit.as_secs()), (Some(WaitFor::CloudInit), 600));
    assert_eq!(creation(&["create", "-"]).guest, NewGuest::File("-".into()));
    assert!(!creation(&["create", "-"]).run);
    // Before the subcommand, an option may belong to another subcommand.
    for args in [&["--wait=ssh", "create", "-", "--run"][..], &["--wait", "ssh", "create", "-"]] {
        let why = "--wait: valid only with shutdown and create";
        assert_eq!(error(args), Error::Usage(why.to_owned()), "{args:?}");
    }
}

#[test]
fn a_seed_is_made_for_what_only_a_seed_can_tell() {
    let has_seed = |args: &[&str]| !new_guest(args)["cloud_init"].is_null();
    assert!(!has_seed(&[]) && !has_seed(&["--network", "a,vlan=1,gateway=192.0.2.1"]));
    for args in [
        &["--network", "a,address=2001:db8::7/64"][..],
        &["--ssh-key", "a.pub"],
        &["--user-data", "a.yaml"],
        &["--hostname", "web"],
    ] {
        assert!(has_seed(args), "{args:?}");
    }
}

#[test]
fn a_macless_nic_gets_the_same_address_each_time() {
    let macs = || {
        let guest = new_guest(&["--network", "a", "--network", "b"]);
        [0, 1].map(|nic| guest["nics"][nic]["mac"].as_str().unwrap().to_owned())
    };
    assert_eq!(macs(), macs());
    let [first, second] = macs();
    assert_ne!(first, second);
    assert!(crate::guest::check::is_mac(&first) && first.starts_with("02:"), "{first}");
    let other = creation(&["create", "web-2", "--image=a", "--memory=1G", "--network", "a"]).guest;
    assert!(
        matches!(other, NewGuest::Options { guest, .. } if guest["nics"][0]["mac"] != first.as_str())
    );
}

#[test]
fn create_refuses_options_that_contradict() {
    let common = ["create", "web-1", "--image", "debian-12", "--memory", "1G"];
    for (args, why) in [
        (&["--user", "a"][..], "--user: requires --ssh-key"),
        (&["--user=a", "--ssh-key=a", "--user-data=b"], "--user: not possible with --user-data"),
        (&["--wait", "ssh"], "--wait: requires --run"),
        (&["--run", "--wait", "boot"], "--wait: write ssh or cloud-init"),
        (&["--run", "--timeout", "5"], "--timeout: requires --wait"),
        (&["--run", "--wait=ssh", "--timeout=0"], "--timeout: must be 1 to 3600 seconds"),
        (&["-o", "xml"], "--output: write json"),
        (&["--memory", "2G"], "--memory: given twice"),
        (&["--run", "--run"], "--run: given twice"),
        (&["--remove"], "--remove: valid only with leftovers"),
        (&["--cpu", "two"], "--cpu: not a number in range"),
        (&["surplus"], "create web-1 surplus: not a subcommand"),
    ] {
        let why = Error::Usage(why.to_owned());
        assert_eq!(error(&[&common[..], args].concat()), why, "{args:?}");
    }
    let why = "create ID: --image IMAGE and --memory SIZE are required";
    for args in [&["create", "web-1", "--image", "a"][..], &["create", "web-1", "--memory=1G"]] {
        assert_eq!(error(args), Error::Usage(why.to_owned()), "{args:?}");
    }
    for args in [&["run", "web-1", "--run"][..], &["list", "--image", "a"], &["create"]] {
        assert!(matches!(error(args), Error::Usage(_)), "{args:?}");
    }
    for network in [
        "",
        "vlan=1",
        ",vlan=1",
        "a,",
        "a,vlan=x",
        "a,mac=",
        "a,address=192.0.2.7",
        "a,address=192.0.2.7/33",
        "a,address=192.0.2.7/24,address=192.0.2.8/24",
        "a,gateway=b",
        "a,mtu=9000",
        "a,model=e1000",
    ] {
        let Error::Usage(why) = error(&[&common[..], &["--network", network]].concat()) else {
            panic!("{network}")
        };
        assert!(why.starts_with("--network: ") && why.contains(": write BRIDGE["), "{why}");
    }
}

#[test]
fn sizes_have_binary_units_and_are_whole_mebibytes() {
    for (text, mebibytes) in [
        ("1M", 1),
        ("512m", 512),
        ("10G", 10240),
        ("10GiB", 10240),
        ("2T", 2 << 20),
        ("2048K", 2),
        ("1kiB", 0),
        ("1536K", 0),
        ("1024", 0),
        ("0G", 0),
        ("+1G", 0),
        ("-1G", 0),
        ("1.5G", 0),
        ("1GB", 0),
        ("G", 0),
        ("", 0),
        ("1 G", 0),
        ("1E", 0),
        ("iB", 0),
        ("1iB", 0),
        ("99999999999999999999G", 0),
        ("18446744073709551615T", 0),
    ] {
        assert_eq!(values::mebibytes(text).unwrap_or(0), mebibytes, "{text}");
    }
    assert!(values::mebibytes("1024").unwrap_err().contains("512M or 10G"));
}

#[test]
fn what_follows_a_guest_belongs_to_ssh() {
    let args = |args: &[&str]| match request(args, &[], NO_FILE) {
        Ok(Request::Do(Command::Ssh { id, args }, options)) => {
            assert_eq!((id.as_str(), options.config.pool.queue), ("web-1", 5), "{args:?}");
            args.iter().map(|arg| arg.to_str().unwrap()).collect::<Vec<_>>().join(" ")
        }
        other => panic!("{args:?}: {other:?}"),
    };
    for (given, expected) in [
        (&["ssh", "web-1"][..], ""),
        (&["ssh", "web-1", "--", "-l", "alice", "uptime"], "-l alice uptime"),
        (&["ssh", "web-1", "-l", "alice", "--", "uptime", "--help"], "-l alice -- uptime --help"),
        (&["ssh", "web-1", "--help", "--port", "7"], "--help --port 7"),
        (&["ssh", "--", "web-1", "a", "b", "c", "d", "e"], "a b c d e"),
    ] {
        assert_eq!(args(&[&["--queue=5"], given].concat()), expected, "{given:?}");
    }
    assert!(matches!(error(&["ssh"]), Error::Usage(_)));
    for option in ["-i", "-lroot", "-v", "--port=7", "--help", "--nope"] {
        let why = "ssh: write options of ssh(1) after the id, and options of the agent before ssh";
        assert_eq!(error(&["ssh", option, "web-1"]), Error::Usage(why.to_owned()), "{option}");
    }
}
