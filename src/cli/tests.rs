use super::*;

fn run(words: &[&str]) -> (Config, Option<LevelFilter>) {
    match parse(words.iter().map(OsString::from)) {
        Ok(Request::Run { config, log_level }) => (*config, log_level),
        other => panic!("{words:?}: {other:?}"),
    }
}

fn error(words: &[&str]) -> Error {
    parse(words.iter().map(OsString::from)).unwrap_err()
}

#[test]
fn without_words_it_is_the_originals_defaults() {
    let (config, level) = run(&[]);
    assert_eq!(config, Config::default());
    assert_eq!(config.listen, ["127.0.0.1:20001".parse().unwrap()]);
    assert_eq!((config.host.zpool.as_str(), level), ("mistify", None));
    assert_eq!(config.host.libvirt_uri, "qemu:///system");
}

#[test]
fn short_and_long_flags_mean_the_same() {
    let words = ["-p", "7", "-z", "tank", "-l", "debug"];
    assert_eq!(run(&words), run(&["--port=7", "--zpool=tank", "--log-level=debug"]));
    assert_eq!(run(&["-p7"]).0.listen, ["127.0.0.1:7".parse().unwrap()]);
}

#[test]
fn listen_takes_the_port_where_it_names_none() {
    let words = ["--listen", "[::1]", "-p", "8", "--listen", "127.0.0.2:9", "--listen=::ffff"];
    assert!(matches!(error(&words), Error::Value(_)), "an IPv6 address wants brackets");
    let (config, _) = run(&words[..6]);
    let expected: Vec<SocketAddr> =
        vec!["[::1]:8".parse().unwrap(), "127.0.0.2:9".parse().unwrap()];
    assert_eq!(config.listen, expected);
    assert_eq!(run(&["--listen", "[::1]:10"]).0.listen, ["[::1]:10".parse().unwrap()]);
}

#[test]
fn deadlines_are_seconds_from_1_to_3600() {
    let (config, _) = run(&["--deadline-read", "1", "--deadline-change=3600"]);
    assert_eq!(config.deadlines.read, Duration::from_secs(1));
    assert_eq!(config.deadlines.change, Duration::from_secs(3600));
}

#[test]
fn unknown_words_are_usage_errors() {
    for words in [
        &["--nope"][..],
        &["word"],
        &["-x"],
        &["--port"],
        &["image"],
        &["image", "import", "a.raw"],
        &["image", "export", "a.raw", "a"],
        &["image", "import", "a.raw", "a", "b"],
    ] {
        assert!(matches!(error(words), Error::Usage(_)), "{words:?}");
    }
}

#[test]
fn values_that_cannot_be_name_their_flag() {
    let cases: [&[&str]; 25] = [
        &["--port", "65536"],
        &["--port", "x"],
        &["--listen", "host"],
        &["--listen", "[127.0.0.1]"],
        &["--zpool", "a/b"],
        &["--zpool", ""],
        &["--log-level", "loud"],
        &["--bridge-type", "vde"],
        &["--vnc", "udp"],
        &["--nwfilter", ""],
        &["--allow-disk-path", "relative"],
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
        &["--socket", "relative"],
        &["--socket-group", "callers"],
    ];
    for words in cases {
        let Error::Value(why) = error(words) else { panic!("{words:?}") };
        assert!(why.starts_with(words[0]), "{why}");
    }
}

#[test]
fn every_level_of_the_original_is_taken_and_critical_too() {
    for (word, expected) in [
        ("panic", LevelFilter::Error),
        ("fatal", LevelFilter::Error),
        ("critical", LevelFilter::Error),
        ("error", LevelFilter::Error),
        ("warn", LevelFilter::Warn),
        ("warning", LevelFilter::Warn),
        ("info", LevelFilter::Info),
        ("debug", LevelFilter::Debug),
    ] {
        assert_eq!(run(&["-l", word]).1, Some(expected), "{word}");
    }
}

#[test]
fn limits_of_the_pool_are_flags() {
    let (config, _) = run(&["--workers", "read=9", "--workers=storage=1", "--queue", "5"]);
    assert_eq!((config.pool.read_workers, config.pool.storage_workers), (9, 1));
    assert_eq!(config.pool.queue, 5);
}

#[test]
fn help_names_every_flag_that_is_parsed() {
    for flag in
        ["--port", "--listen", "--zpool", "--log-level", "--libvirt-uri"].into_iter().chain([
            "--bridge-type",
            "--vnc",
            "--nwfilter",
            "--allow-disk-path",
            "--state-dir",
            "--storage",
            "--sparse",
            "--image-store",
            "--image-store-port",
            "--workers",
            "--queue",
            "--version",
            "--socket",
            "--socket-group",
            "--allow-user",
            "--allow-group",
            "--allow-any-local",
        ])
    {
        assert!(USAGE.contains(flag), "{flag}");
    }
}

#[test]
fn the_store_and_its_space_are_flags() {
    let (config, _) = run(&["--storage", "directory:/srv/disks", "--sparse"]);
    assert_eq!(config.host.store, Store::Directory("/srv/disks".into()));
    assert!(config.host.sparse);
    assert_eq!(run(&["--storage=zfs"]).0, Config::default());
}

#[test]
fn the_state_lies_where_a_flag_says() {
    assert_eq!(run(&["--state-dir", "/srv/state"]).0.state_dir, Some("/srv/state".into()));
    assert_eq!(run(&[]).0.state_dir, None);
}

#[test]
fn the_image_store_is_served_on_the_same_hosts_with_a_port_of_its_own() {
    assert_eq!(run(&["--image-store-port", "5"]).0.image_store, []);
    let address = |text: &str| text.parse::<SocketAddr>().unwrap();
    assert_eq!(run(&["--image-store"]).0.image_store, [address("127.0.0.1:19999")]);
    let listen = ["--listen", "127.0.0.1:1", "--listen", "127.0.0.1:2", "--listen", "[::1]"];
    let words = [&["--image-store-port=0", "--image-store"], &listen[..]].concat();
    assert_eq!(run(&words).0.image_store, [address("127.0.0.1:0"), address("[::1]:0")]);
}

#[test]
fn who_may_call_and_the_socket_are_flags() {
    let words = ["--socket-group", "g", "--allow-user", "a", "--allow-user=7", "--allow-group=b"];
    let (config, _) = run(&[&words[..], &["--socket=/run/s", "--allow-any-local"]].concat());
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
fn an_import_is_four_words_among_flags() {
    let words = ["-z", "tank", "image", "import", "--sparse", "./a.raw", "web", "-l", "info"];
    let request = parse(words.map(OsString::from)).unwrap();
    let Request::Import { config, file, id, log_level } = request else { panic!("{request:?}") };
    assert_eq!((config.host.zpool.as_str(), config.host.sparse), ("tank", true));
    assert_eq!((file.as_path(), id.as_str()), (Path::new("./a.raw"), "web"));
    assert_eq!(log_level, Some(LevelFilter::Info));
}
