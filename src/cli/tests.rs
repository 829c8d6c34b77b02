use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::client::ClientCommand;
use crate::config::{SocketConfig, Store};

/// A file that does not exist.
const NO_FILE: &str = "/nonexistent/mistify-libvirt.conf";

fn request(args: &[&str], variables: &[(&str, &str)], file: &str) -> Result<Request, Error> {
    let variable = |name: &str| {
        let found = variables.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| OsString::from(value))
    };
    parse(args.iter().map(OsString::from), variable, file)
}

fn options(args: &[&str], variables: &[(&str, &str)], file: &str) -> Options {
    match request(args, variables, file) {
        Ok(Request::Do(Command::Run, options)) => options,
        other => panic!("{args:?}: {other:?}"),
    }
}

fn run(args: &[&str]) -> (Config, Option<LevelFilter>) {
    let options = options(args, &[], NO_FILE);
    (*options.config, options.log_level)
}

fn error(args: &[&str]) -> Error {
    request(args, &[], NO_FILE).unwrap_err()
}

fn value(why: impl Into<String>) -> Error {
    Error::Value { why: why.into(), log_format: LogFormat::Text }
}

/// Writes a file with these lines; returns its path.
fn file(name: &str, lines: &str) -> String {
    let path = std::env::temp_dir().join(format!("mistify-cli-{}-{name}", std::process::id()));
    fs::write(&path, lines).unwrap();
    path.to_string_lossy().into_owned()
}

#[test]
fn without_arguments_the_original_defaults_apply() {
    let (config, level) = run(&[]);
    assert_eq!(config, Config::default());
    assert_eq!(config.listen, ["127.0.0.1:20001".parse().unwrap()]);
    assert_eq!((config.host.zpool.as_str(), level), ("mistify", None));
    assert_eq!(config.host.libvirt_uri, "qemu:///system");
}

#[test]
fn short_and_long_flags_mean_the_same() {
    let args = ["-p", "7", "-z", "tank", "-l", "debug"];
    assert_eq!(run(&args), run(&["--port=7", "--zpool=tank", "--log-level=debug"]));
    assert_eq!(run(&["-p7"]).0.listen, ["127.0.0.1:7".parse().unwrap()]);
}

#[test]
fn listen_takes_the_port_where_it_names_none() {
    let args = ["--listen", "[::1]", "-p", "8", "--listen", "127.0.0.2:9", "--listen=::ffff"];
    assert!(matches!(error(&args), Error::Value { .. }), "an IPv6 address wants brackets");
    let (config, _) = run(&args[..6]);
    let expected: Vec<SocketAddr> =
        vec!["[::1]:8".parse().unwrap(), "127.0.0.2:9".parse().unwrap()];
    assert_eq!(config.listen, expected);
    assert_eq!(run(&["--listen", "[::1]:10"]).0.listen, ["[::1]:10".parse().unwrap()]);
}

#[test]
fn a_port_is_decimal_with_or_without_zeros() {
    assert_eq!(run(&["-p", "047041"]).0.listen, ["127.0.0.1:47041".parse().unwrap()]);
    // Go derives the base from the prefix.
    for port in ["0x4e21", "0o47041", "0b1", "20_001"] {
        let why = error(&["-p", port]).to_string();
        assert!(why.contains("--port") && why.contains(port), "{why}");
    }
}

#[test]
fn deadlines_are_seconds_from_1_to_3600() {
    let (config, _) = run(&["--deadline-read", "1", "--deadline-change=3600"]);
    assert_eq!(config.deadlines.read, Duration::from_secs(1));
    assert_eq!(config.deadlines.change, Duration::from_secs(3600));
}

#[test]
fn a_fetcher_has_the_image_service_of_all_settings() {
    let service = |text: &str| Ok(Some(Service::parse(text).unwrap()));
    let path = file("fetch", "image-service = file.example\nqueue = 5\n");
    for (args, variables, file, expected) in [
        (&["fetch"][..], &[][..], NO_FILE, Ok(None)),
        (&["fetch"], &[], &path, service("file.example")),
        (&["fetch", "-i", "flag.example:8080"], &[], &path, service("flag.example:8080")),
        (&["fetch"], &[("MISTIFY_IMAGE_SERVICE", "a.example")], NO_FILE, service("a.example")),
    ] {
        assert_eq!(request(args, variables, file), Ok(Request::Fetch(expected)), "{args:?}");
    }
    fs::remove_file(path).unwrap();
    // The caller that requests an image gets the configuration error with which the agent would not
    // start.
    for args in [["fetch", "--config", NO_FILE], ["fetch", "--queue", "0"]] {
        let Ok(Request::Fetch(Err(why))) = request(&args, &[], NO_FILE) else { panic!("{args:?}") };
        assert!(why.contains(args[2]), "{why}");
    }
}

#[test]
fn unknown_arguments_are_usage_errors() {
    for args in [
        &["--nope"][..],
        &["word"],
        &["-x"],
        &["--port"],
        &["image"],
        &["image", "import", "a.raw"],
        &["image", "export", "a.raw", "a"],
        &["image", "import", "a.raw", "a", "b"],
        // The original ignored surplus arguments.
        &["-p", "7", "surplus"],
        &["check", "surplus"],
        &["list", "surplus"],
    ] {
        assert!(matches!(error(args), Error::Usage(_)), "{args:?}");
    }
}

#[test]
fn the_name_of_a_pool_is_one_that_the_store_takes() {
    let longest = "a".repeat(100);
    assert_eq!(run(&["--zpool", &longest]).0.host.zpool, longest);
    let longer = error(&["--zpool", &format!("{longest}a")]).to_string();
    assert!(longer.ends_with(": not a ZFS pool: it is too long"), "{longer}");
}

#[test]
fn values_that_cannot_be_name_their_flag() {
    let cases: [&[&str]; 33] = [
        &["--port", "65536"],
        &["--port", "x"],
        &["--listen", "host"],
        &["--listen", "[127.0.0.1]"],
        &["--zpool", "a//b"],
        &["--zpool", "/a"],
        &["--log-level", "loud"],
        &["--bridge-type", "vde"],
        &["--bridge-type", "nat:192.168.77.1/24"],
        &["--vnc", "udp"],
        &["--nwfilter", ""],
        &["--allow-disk-path", "relative"],
        &["--audit-log", "relative"],
        &["--state-dir", "state"],
        &["--workers", "control"],
        &["--workers", "fast=2"],
        &["--queue", "0"],
        &["--deadline-read", "0"],
        &["--deadline-change", "3601"],
        &["--deadline-change", "1.5"],
        &["--storage", "btrfs"],
        &["--storage", "directory:"],
        &["--storage", "directory:relative"],
        &["--storage", "zfs:"],
        &["--image-store-port", "65536"],
        &["--image-service", "http://images.example"],
        &["--image-service", "images.example/images"],
        &["--image-service", "images.example:0"],
        &["--socket", "relative"],
        &["--token-file", "relative"],
        &["--metrics-token-file", "relative"],
        &["--metrics-listen", "host"],
        &["--socket-group", "callers"],
    ];
    for args in cases {
        let Error::Value { why, .. } = error(args) else { panic!("{args:?}") };
        assert!(why.starts_with(args[0]), "{why}");
    }
}

#[test]
fn original_log_levels_and_critical_are_accepted() {
    for (arg, expected) in [
        ("panic", LevelFilter::Error),
        ("fatal", LevelFilter::Error),
        ("critical", LevelFilter::Error),
        ("error", LevelFilter::Error),
        ("warn", LevelFilter::Warn),
        ("warning", LevelFilter::Warn),
        ("info", LevelFilter::Info),
        ("debug", LevelFilter::Debug),
    ] {
        assert_eq!(run(&["-l", arg]).1, Some(expected), "{arg}");
    }
}

#[test]
fn limits_of_the_pool_are_flags() {
    let (config, _) = run(&["--workers", "read=9", "--workers=storage=1", "--queue", "5"]);
    assert_eq!((config.pool.read_workers, config.pool.storage_workers), (9, 1));
    assert_eq!(config.pool.queue, 5);
}

#[test]
fn help_lists_options_and_commands_in_100_columns() {
    let usage = usage();
    for option in OPTIONS {
        assert!(
            usage.contains(&format!("--{} ", option.name))
                || usage.contains(&format!("--{}\n", option.name)),
            "{}",
            option.name
        );
    }
    for (args, _) in commands::COMMANDS {
        assert!(usage.contains(&format!("\n  {args} ")), "{args}");
    }
    for line in usage.lines() {
        assert!(line.len() <= 100 && line == line.trim_end(), "{line:?}");
    }
}

#[test]
fn every_setting_is_a_flag_a_variable_and_a_line() {
    let values = [
        ("port", "7"),
        ("listen", "127.0.0.2"),
        ("socket", "/run/s"),
        ("allow-user", "a"),
        ("allow-group", "b"),
        ("allow-any-local", "true"),
        ("token-file", "/a"),
        ("allow-host", "hv1"),
        ("audit-log", "/srv/audit"),
        ("zpool", "tank"),
        ("storage", "directory:/srv"),
        ("sparse", "true"),
        ("image-store", "true"),
        ("image-service", "images.example:8080"),
        ("log-level", "debug"),
        ("log-format", "json"),
        ("libvirt-uri", "test:///default"),
        ("guest-profile", "classic"),
        ("bridge-type", "linux"),
        ("vnc", "tcp"),
        ("nwfilter", "f"),
        ("allow-disk-path", "/srv"),
        ("state-dir", "/srv"),
        ("metrics-listen", "127.0.0.3"),
        ("metrics-token-file", "/b"),
        ("metrics-open", "true"),
        ("metrics-max-age", "2"),
        ("metrics-metadata", "owner"),
        ("metrics-filesystems", "true"),
        ("no-touch", "true"),
        ("workers", "read=9"),
        ("queue", "5"),
        ("deadline-read", "6"),
        ("deadline-change", "7"),
    ];
    // These two have an effect only together with another setting.
    let beside = [
        ("socket-group", "g", "socket", "/run/s"),
        ("image-store-port", "5", "image-store", "true"),
    ];
    let singles = values.map(|(name, value)| (name, value, "queue", "64"));
    let all: Vec<_> = singles.iter().chain(&beside).collect();
    assert_eq!(all.len(), OPTIONS.len(), "each setting is tried here");
    for &&(name, value, other, other_value) in &all {
        let args = |name, value| match options::option(name).unwrap().takes {
            Takes::Switch => format!("--{name}"),
            _ => format!("--{name}={value}"),
        };
        let flags = [args(other, other_value), args(name, value)];
        let by_flag = options(&[&flags[0], &flags[1]], &[], NO_FILE);
        assert_ne!(by_flag, options(&[&flags[0]], &[], NO_FILE), "{name}");
        let names = [name, other].map(|name| options::option(name).unwrap().variable());
        let variables = [(names[0].as_str(), value), (names[1].as_str(), other_value)];
        assert_eq!(options(&[], &variables, NO_FILE), by_flag, "{name}");
        let path =
            file(name, &format!("# a comment\n\n {name} = {value} \n{other}={other_value}\n"));
        // The other setting may be the same one, which the file then contains once.
        if name != other {
            assert_eq!(options(&[], &[], &path), by_flag, "{name}");
            assert_eq!(options(&["--config", &path], &[], NO_FILE), by_flag, "{name}");
            assert_eq!(options(&[], &[("MISTIFY_CONFIG", &path)], NO_FILE), by_flag, "{name}");
        }
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn flag_overrides_variable_which_overrides_file() {
    let path = file("order", "queue = 1\nallow-user = a\nallow-user = b\nsparse = true\n");
    let queue = |args: &[&str], variables: &[(&str, &str)]| {
        options(args, variables, &path).config.pool.queue
    };
    assert_eq!(queue(&["--queue", "3"], &[("MISTIFY_QUEUE", "2")]), 3);
    assert_eq!(queue(&[], &[("MISTIFY_QUEUE", "2")]), 2);
    assert_eq!(queue(&[], &[("MISTIFY_QUEUE", "")]), 1, "empty is not set");
    // A layer that sets some of several values replaces all of them.
    let users = |variables: &[(&str, &str)]| options(&[], variables, &path).config.callers.users;
    assert_eq!(users(&[]), ["a", "b"]);
    assert_eq!(users(&[("MISTIFY_ALLOW_USER", "c, d")]), ["c", "d"]);
    assert!(!options(&[], &[("MISTIFY_SPARSE", "false")], &path).config.host.sparse);
    fs::remove_file(path).unwrap();
}

#[test]
fn invalid_line_is_reported_with_file_and_number() {
    for (lines, number, why) in [
        ("queue = 1\nqeue = 2", 2, "qeue = 2: unknown option"),
        ("\n\nqueue", 3, "queue: write name = value or # comment"),
        ("queue = 0", 1, "queue = 0: must be at least 1"),
        ("queue = 1\nqueue = 2", 2, "queue = 2: set in an earlier line"),
        ("sparse = yes", 1, "sparse = yes: write true or false"),
        ("config = /etc/other", 1, "config = /etc/other: unknown option"),
        ("port = 70000", 1, "port = 70000: not a number in range"),
    ] {
        let path = file("lines", lines);
        // The file's error counts, even if an option overrides the value.
        let error = request(&["--queue=5"], &[], &path).unwrap_err();
        assert_eq!(error, value(format!("{path}:{number}: {why}")));
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn invalid_value_is_reported_with_its_variable() {
    let error = request(&[], &[("MISTIFY_PORT", "70000")], NO_FILE).unwrap_err();
    assert_eq!(error, value("MISTIFY_PORT=70000: not a number in range"));
}

#[test]
fn named_file_must_exist_and_be_small() {
    let error = request(&["--config", NO_FILE], &[], NO_FILE).unwrap_err();
    let why = format!("cannot read {NO_FILE}: No such file or directory (os error 2)");
    assert_eq!(error, value(why));
    let path = file("large", &"# much\n".repeat(10_000));
    let error = request(&[], &[], &path).unwrap_err();
    assert_eq!(error, value(format!("cannot read {path}: larger than 64 KiB")));
    fs::remove_file(path).unwrap();
    assert_eq!(options(&["--config", "/dev/null"], &[], NO_FILE).config, Box::default());
}

#[test]
fn to_check_the_settings_is_to_read_them() {
    let checked = |args: &[&str]| request(args, &[], NO_FILE);
    assert!(matches!(checked(&["--check-config"]), Ok(Request::Do(Command::CheckConfig, _))));
    assert!(matches!(checked(&["--check-config", "--queue=0"]), Err(Error::Value { .. })));
}

#[test]
fn the_store_and_its_space_are_flags() {
    let (config, _) = run(&["--storage", "directory:/srv/disks", "--sparse"]);
    assert_eq!(config.host.store, Store::Directory("/srv/disks".into()));
    assert!(config.host.sparse);
    let (config, default) = (run(&["--storage=zfs"]).0, Config::default());
    assert_eq!((config.host.store, &config.host.zpool), (Store::Zfs, &default.host.zpool));
    assert_eq!((config.host.wants_store, default.host.wants_store), (true, false));
}

#[test]
fn a_pool_may_be_a_dataset_or_none() {
    let host = run(&["-z", "tank/hosts/a"]).0.host;
    assert_eq!((host.zpool.as_str(), host.store), ("tank/hosts/a", Store::Zfs));
    assert_eq!(run(&["-z", ""]).0.host.store, Store::None);
    let path = file("pool", "zpool =");
    assert_eq!(options(&[], &[], &path).config.host.store, Store::None);
    fs::remove_file(path).unwrap();
    for args in [&["-z", "", "--storage", "zfs"][..], &["-z", "", "--image-store"]] {
        assert!(matches!(error(args), Error::Value { .. }), "{args:?}");
    }
}

#[test]
fn an_error_has_the_format_of_the_agents_log() {
    let format = |args: &[&str], variables: &[(&str, &str)], file: &str| match request(
        args, variables, file,
    ) {
        Err(Error::Value { log_format, .. }) => log_format,
        other => panic!("{other:?}"),
    };
    let json = ("MISTIFY_LOG_FORMAT", "json");
    let bad_line = file("format", "log-format = json\nqueue = 0");
    for (args, variables, file, expected) in [
        (&["-p", "x", "--log-format", "json"][..], &[][..], NO_FILE, LogFormat::Json),
        (&["-p", "x"], &[json], NO_FILE, LogFormat::Json),
        (&["-p", "x", "--log-format", "text"], &[json], NO_FILE, LogFormat::Text),
        (&["-p", "x", "--log-format", "xml"], &[json], NO_FILE, LogFormat::Text),
        (&["--config", "/nonexistent/other.conf"], &[json], NO_FILE, LogFormat::Json),
        (&[], &[], &bad_line, LogFormat::Json),
        (&["list", "-p", "x"], &[json], NO_FILE, LogFormat::Text),
    ] {
        assert_eq!(format(args, variables, file), expected, "{args:?}");
    }
    fs::remove_file(bad_line).unwrap();
}

#[test]
fn the_state_lies_where_a_flag_says() {
    assert_eq!(run(&["--state-dir", "/srv/state"]).0.state_dir, Some("/srv/state".into()));
    assert_eq!(run(&[]).0.state_dir, None);
}

#[test]
fn image_store_uses_the_same_hosts_on_its_own_port() {
    assert_eq!(run(&["--image-store-port", "5"]).0.image_store, []);
    let address = |text: &str| text.parse::<SocketAddr>().unwrap();
    assert_eq!(run(&["--image-store"]).0.image_store, [address("127.0.0.1:19999")]);
    let listen = ["--listen", "127.0.0.1:1", "--listen", "127.0.0.1:2", "--listen", "[::1]"];
    let args = [&["--image-store-port=0", "--image-store"], &listen[..]].concat();
    assert_eq!(run(&args).0.image_store, [address("127.0.0.1:0"), address("[::1]:0")]);
}

#[test]
fn permitted_callers_and_the_socket_are_flags() {
    let args = ["--socket-group", "g", "--allow-user", "a", "--allow-user=7", "--allow-group=b"];
    let (config, _) = run(&[&args[..], &["--socket=/run/s", "--allow-any-local"]].concat());
    let socket = SocketConfig { path: "/run/s".into(), group: Some("g".into()) };
    assert_eq!(config.socket, Some(socket));
    assert_eq!(
        (config.callers.users, config.callers.groups.len()),
        (vec!["a".into(), "7".into()], 1)
    );
    assert!(config.callers.any_local && !run(&[]).0.callers.any_local);
    assert_eq!(run(&["--socket", "/run/s"]).0.socket.unwrap().group, None);
}

#[test]
fn credentials_of_remote_callers_are_flags() {
    let names = ["--allow-host", "hv1", "--allow-host=hv1.example"];
    let files = ["--token-file=/a", "--metrics-token-file", "/b", "--metrics-open"];
    let callers = run(&[&names[..], &files[..]].concat()).0.callers;
    assert_eq!(callers.host_names, ["hv1", "hv1.example"]);
    assert_eq!(callers.token_file, Some("/a".into()));
    assert_eq!((callers.metrics_token_file, callers.metrics_open), (Some("/b".into()), true));
    let listen = run(&["--metrics-listen", "192.0.2.1"]).0.metrics_listen;
    assert_eq!(listen, ["192.0.2.1:9177".parse().unwrap()], "judged when it is bound");
}

#[test]
fn import_takes_four_arguments_among_flags() {
    let args = ["-z", "tank", "image", "import", "--sparse", "./a.raw", "web", "-l", "info"];
    let request = request(&args, &[], NO_FILE).unwrap();
    let Request::Do(Command::Import { file, id }, options) = request else { panic!("{request:?}") };
    let host = options.config.host;
    assert_eq!((host.zpool.as_str(), host.sparse), ("tank", true));
    assert_eq!((file.as_path(), id.as_str()), (Path::new("./a.raw"), "web"));
    assert_eq!(options.log_level, Some(LevelFilter::Info));
}

#[test]
fn other_subcommands_refuse_a_subcommands_options() {
    for (args, why) in [
        (&["list", "--wait"][..], "--wait: valid only with shutdown and create"),
        (&["shutdown", "a", "--wait=0"], "--wait: write 1 to 3600 seconds"),
        (&["shutdown", "a", "--wait="], "--wait: write 1 to 3600 seconds"),
        (&["shutdown", "a", "--wait", "60"], "60: write --wait=60"),
        (
            &["shutdown", "a", "--wait=5", "--force-after=6"],
            "--force-after: must not be more than --wait",
        ),
        (&["stop-guests", "--remove"], "--remove: valid only with leftovers"),
        (&["stop-guests", "--check-config"], "stop-guests: takes no --check-config"),
        (&["shutdown", "a", "--force-after", "1h"], "--force-after: write 1 to 3600 seconds"),
        (&["list", "--remove"], "--remove: valid only with leftovers"),
        (&["--remove"], "--remove: valid only with leftovers"),
        (&["image", "import", "a", "b", "--sha256=1"], "--sha256: valid only with image pull"),
        (&["leftovers", "--remove", "--remove"], "--remove: given twice"),
        (&["--remove", "leftoversx"], "--remove: valid only with leftovers"),
        (&["image", "pull", "a", "b"], "image pull: --sha256 SUM is required"),
    ] {
        assert_eq!(error(args), Error::Usage(why.to_owned()), "{args:?}");
    }
    // The program's own options may be repeated, and every option may stand anywhere.
    for args in [&["--json", "--remove", "leftovers", "--json"][..], &["leftovers", "--remove"]] {
        let ask = ClientCommand::Leftovers { guest: String::new(), remove: true };
        let asked = request(args, &[], NO_FILE);
        assert!(matches!(asked, Ok(Request::Do(Command::Ask { ask: it, .. }, _)) if it == ask));
    }
}

mod create;
