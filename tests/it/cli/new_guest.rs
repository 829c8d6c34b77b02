//! `mistify-libvirt create` from options, on libvirt's test driver: the request, the seed, the plan and the waits.
//! `debian.rs` has a guest that is logged in to.

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::agent::PROGRAM;
use crate::harness::image_store::qemu_img;
use crate::harness::shell::Shell;
use crate::harness::skip::require;
use crate::harness::support::{Scratch, wait_until};

/// Longer than a loaded machine needs for what takes a second.
const SOON: Duration = Duration::from_secs(60);
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIH9x1m0Yk2Jx4b6cX1uT0zQwRrVd5sG7hN3pL8eK2fBt alice@example";
/// The options of every guest here.
const GUEST: [&str; 10] = [
    "create",
    "web-1",
    "--image",
    "small",
    "--memory",
    "64M",
    "--type",
    "test",
    "--network",
    "br0",
];

/// A shell beside an agent whose store has the image `small`, of 1 MiB.
struct Bed {
    shell: Shell,
    store: String,
}

impl Bed {
    fn new() -> Option<Self> {
        require("qemu", qemu_img())?;
        let directory = Scratch::new();
        let store = format!("directory:{}", directory.path().join("store").display());
        let raw = directory.path().join("small.raw");
        fs::write(&raw, vec![0; 1 << 20]).expect("a file can be written");
        let import = Command::new(PROGRAM)
            .args(["--config", "/dev/null", "--storage", &store, "image", "import"])
            .arg(&raw)
            .arg("small")
            .output()
            .expect("the program starts");
        assert!(import.status.success(), "{import:?}");
        fs::write(directory.path().join("key.pub"), format!("# mine\n\n{KEY}\n")).expect("a file");
        fs::write(directory.path().join("user-data"), "#!/bin/sh\nexit\n").expect("a file");
        let shell = Shell::with(directory, &["--storage", &store, "--bridge-type", "linux"]);
        Some(Self { shell, store })
    }

    fn file(&self, name: &str) -> String {
        self.shell.directory.path().join(name).display().to_string()
    }

    /// The documents of the seed of web-1.
    fn seed(&self) -> String {
        let directory = self.store.strip_prefix("directory:").expect("a directory");
        let seed = fs::read(format!("{directory}/guests/web-1/seed")).expect("a seed");
        String::from_utf8_lossy(&seed).into_owned()
    }

    /// What a command says, after its status, that has created web-1 and then fails. Its answer has the guest.
    fn fail_created(&self, words: &[&str]) -> String {
        let output = self.shell.feed(words, "");
        let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(answer["guest"]["id"], "web-1", "{words:?}: {output:?}");
        let why = String::from_utf8(output.stderr).expect("text");
        assert!(why.ends_with("; web-1 was created and stays\n"), "{words:?}: {why}");
        format!("{} {why}", output.status.code().expect("a status"))
    }

    fn ids(&self) -> Vec<Value> {
        let all = self.shell.ask(&["list"]);
        all.as_array().expect("a list").iter().map(|guest| guest["id"].clone()).collect()
    }
}

/// A command that runs meanwhile.
fn beside(shell: &Shell, words: &[&str]) -> std::process::Child {
    Command::new(PROGRAM)
        .args(["--config", "/dev/null", "--port", &shell.agent.address().port().to_string()])
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts")
}

#[test]
fn options_make_a_guest_with_a_disk_a_nic_and_a_key() {
    let Some(bed) = Bed::new() else { return };
    let key = bed.file("key.pub");
    let more = ["--size", "2M", "--cpu", "2", "--ssh-key", &key, "--user", "alice"];
    let words = [&GUEST[..], &more].concat();
    let made = bed.shell.ask(&words);
    let guest = &made["guest"];
    let figures = (&guest["memory"], &guest["cpu"], &guest["disks"][0]["size"]);
    assert_eq!(figures, (&json!(64), &json!(2), &json!(2)), "{made}");
    assert_eq!(guest["nics"][0]["network"], "br0", "{made}");
    let seed = bed.seed();
    assert!(seed.contains(KEY) && seed.contains(r#""name":"alice""#), "{seed}");
    // The same command is the same guest; another is not.
    assert_eq!(bed.shell.ask(&words), made);
    let other = [&words[..], &["--hostname", "other"]].concat();
    assert!(bed.shell.fail(&other).starts_with("1 "), "another seed");
    assert_eq!(bed.ids().len(), 2);
}

#[test]
fn keys_beside_user_data_are_in_the_vendor_data() {
    let Some(bed) = Bed::new() else { return };
    let (key, data) = (bed.file("key.pub"), bed.file("user-data"));
    let words = [&GUEST[..], &["--ssh-key", &key, "--user-data", &data]].concat();
    bed.shell.ask(&words);
    let seed = bed.seed();
    let vendor = format!("#cloud-config\n{{\"ssh_authorized_keys\":[\"{KEY}\"]}}\n");
    assert!(seed.contains(&vendor) && seed.contains("#!/bin/sh\nexit\n"), "{seed}");
    // User data that has its own takes their place.
    for (own, text) in [
        ("users", "#cloud-config\nusers:\n - bob\n"),
        ("ssh_authorized_keys", "{\"ssh_authorized_keys\": []}"),
        ("", "#cloud-config\npackages: [users]\n# no users\n"),
    ] {
        fs::write(&data, text).expect("a file");
        let output = bed.shell.feed(&[&words[..], &["-o", "json"]].concat(), "");
        let warned = String::from_utf8(output.stderr).expect("text");
        let expected = format!(
            "warning: the user data has {own}: the keys of --ssh-key may not be installed\n"
        );
        assert_eq!(warned, if own.is_empty() { "" } else { &expected }, "{text}");
    }
}

#[test]
fn the_printed_request_makes_the_same_guest() {
    let Some(bed) = Bed::new() else { return };
    let key = bed.file("key.pub");
    let words = [&GUEST[..], &["--ssh-key", &key]].concat();
    // Nobody is at that port.
    let printed = [&words[..], &["-o", "json", "--run", "--wait", "ssh", "--port", "1"]].concat();
    let request = bed.shell.ask(&printed);
    assert_eq!(request["guest"]["cloud_init"]["ssh_keys"], json!([KEY]), "{request}");
    assert_eq!(bed.ids(), ["test"]);
    let output = bed.shell.feed(&["create", "-"], &request.to_string());
    let made: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(made, bed.shell.ask(&words));
    let dry = bed.shell.ask(&[&words[..], &["-o", "json", "--dry-run"]].concat());
    assert_eq!(dry["dry_run"], true);
    let output = bed.shell.feed(&["create", "-"], &dry.to_string());
    let plan: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(plan["plan"].is_object(), "a whole parameter is sent as it is: {plan}");
}

#[test]
fn files_that_are_no_keys_or_data_send_nothing() {
    let Some(bed) = Bed::new() else { return };
    let key = |name: &str, text: &str| {
        fs::write(bed.file(name), text).expect("a file");
        bed.shell.fail(&[&GUEST[..], &["--ssh-key", &bed.file(name), "--port", "1"]].concat())
    };
    let private =
        "-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n-----END OPENSSH PRIVATE KEY-----\n";
    for (name, text, why) in [
        ("private", private, "it contains a private key; name the file of the public key (.pub)"),
        ("both", &format!("{KEY}\n{private}"), "it contains a private key"),
        ("putty", "PuTTY-User-Key-File-3: ssh-ed25519\n", "it contains a private key"),
        ("other", &format!("{KEY}\nssh-ed25519 secret\n"), "line 2 is not an OpenSSH public key"),
        ("pem", "---- BEGIN SSH2 PUBLIC KEY ----\n", "line 1 is not an OpenSSH public key"),
        ("empty", "# none\n\n", "it has no public key"),
    ] {
        let said = key(name, text);
        let expected = format!("2 mistify-libvirt: cannot use --ssh-key {}: {why}", bed.file(name));
        assert!(said.starts_with(&expected), "{said}");
        assert!(!said.contains("secret") && !said.contains("c2Vj"), "{said}");
    }
    fs::write(bed.file("empty"), "\n").expect("a file");
    for (option, file, why) in [
        ("--user-data", bed.file("empty"), "it is empty"),
        ("--user-data", "/nonexistent".to_owned(), "cannot read /nonexistent"),
        ("--ssh-key", "/nonexistent".to_owned(), "cannot read /nonexistent"),
    ] {
        let said = bed.shell.fail(&[&GUEST[..], &[option, &file, "--port", "1"]].concat());
        assert!(said.starts_with("2 ") && said.contains(why), "{said}");
    }
    assert_eq!(bed.ids(), ["test"]);
}

#[test]
fn dry_run_of_options_is_a_readable_plan() {
    let Some(bed) = Bed::new() else { return };
    let key = bed.file("key.pub");
    let words = [&GUEST[..], &["--ssh-key", &key, "--dry-run", "--run", "--wait", "ssh"]].concat();
    let plan = bed.shell.ask(&words);
    assert_eq!(plan["plan"]["problems"], json!([]), "{plan}");
    let reported = bed.shell.left_on_terminal(&words.join(" "));
    for step in ["\nstep: define network 02:", "\nstep: define domain web-1\n", "guests/web-1/seed"]
    {
        assert!(reported.contains(step), "{step:?}: {reported}");
    }
    assert!(!reported.contains("ssh-ed25519"), "{reported}");
    assert_eq!(bed.ids(), ["test"]);
    // What would fail fails.
    let output = bed.shell.feed(&[&words[..], &["--network", "br1,mac=7"]].concat(), "");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let plan: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(!plan["plan"]["problems"].as_array().expect("a list").is_empty(), "{plan}");
    let why = String::from_utf8_lossy(&output.stderr);
    assert_eq!(why, "mistify-libvirt: cannot create web-1: the plan has problems\n");
}

#[test]
fn create_runs_the_guest_and_waits_within_bounds() {
    let Some(bed) = Bed::new() else { return };
    let running = bed.shell.ask(&[&GUEST[..], &["--run"]].concat());
    assert_eq!(running["guest"]["state"], "running", "{running}");
    assert_eq!(running["guest"]["memory"], 64, "it is CreateGuest's answer: {running}");
    let reported = bed.shell.left_on_terminal(&[&GUEST[..], &["--run"]].concat().join(" "));
    assert_eq!(reported, "web-1 created\nweb-1 running\n");
    // No guest of the test driver has an SSH server.
    let began = Instant::now();
    let said = bed.fail_created(&[&GUEST[..], &["--run", "--wait=ssh", "--timeout=1"]].concat());
    let begin = "1 mistify-libvirt: timed out after 1 s waiting for an SSH server of web-1: ";
    assert!(said.starts_with(begin), "{said}");
    assert!(began.elapsed() >= Duration::from_secs(1));
    let said = bed.fail_created(&[&GUEST[..], &["--run", "--wait=cloud-init"]].concat());
    assert!(said.contains("its definition has no console log"), "{said}");
    let no_nic = [&GUEST[..8], &["--run", "--wait=ssh"]].concat();
    let said = bed.shell.fail(&no_nic);
    assert!(
        said.starts_with("2 mistify-libvirt: cannot wait for SSH: the guest has no NIC"),
        "{said}"
    );
}

#[test]
fn wait_ends_when_its_guest_stops() {
    let Some(bed) = Bed::new() else { return };
    let words = [&GUEST[..], &["--run", "--wait", "ssh", "--timeout", "100"]].concat();
    let mut waiting = beside(&bed.shell, &words);
    let state = || bed.shell.feed(&["status", "web-1"], "");
    wait_until("it runs", SOON, || String::from_utf8_lossy(&state().stdout).contains("running"));
    let began = Instant::now();
    bed.shell.ask(&["poweroff", "web-1"]);
    let status = waiting.wait().expect("it is our child");
    assert!(began.elapsed() < SOON, "before its time is over");
    let mut said = String::new();
    waiting.stderr.take().expect("a pipe").read_to_string(&mut said).expect("text");
    assert_eq!(status.code(), Some(1), "{said}");
    let why = "mistify-libvirt: web-1 went shutoff while waiting for an SSH server of web-1; \
               web-1 was created and stays\n";
    assert_eq!(said, why);
}

#[test]
fn ssh_to_a_guest_without_an_address_says_so() {
    let Some(bed) = Bed::new() else { return };
    bed.shell.ask(&GUEST);
    let said = bed.shell.fail(&["ssh", "web-1", "--", "true"]);
    assert!(said.starts_with("1 mistify-libvirt: cannot reach web-1 by SSH: "), "{said}");
    assert!(said.contains("the guest is off"), "{said}");
    assert!(bed.shell.fail(&["ssh", "nobody"]).contains("not found"));
}
