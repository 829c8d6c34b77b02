//! Every command that the documents show is run: in a world of its own, with the documents' own
//! example files, or by a step of the gate. A command that this file does not know is a failure.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::agent::PROGRAM;
use crate::boot_sector;
use crate::skip::{Skip, require};
use crate::stack::{Stack, installed};
use crate::support::{Scratch, wait_until};

const CHECKOUT: &str = env!("CARGO_MANIFEST_DIR");
const SETUP: &str = include_str!("documents.sh");
const SOON: Duration = Duration::from_secs(90);
/// The documents, of which the README is the first.
const DOCUMENTS: [&str; 7] = [
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "docs/from-the-go-agent.md",
    "docs/security.md",
    "docs/testing.md",
];

/// How a command that begins like this is run.
#[derive(Clone, Copy)]
enum How {
    /// By these lines of shell, `$it` being the file with the command.
    Shell(&'static str),
    /// By this line of `.ci/run` or of `make verify`.
    Gate(&'static str),
    /// By a person, as it runs the gates themselves: its file or make target exists.
    Person,
}

/// By the words that it begins with; the first that fits counts.
const COMMANDS: [(&str, How); 29] = [
    // By somebody who has nothing yet.
    ("apt-get install ", How::Gate("make test-new-user")),
    ("systemctl restart mistify-libvirt", How::Gate("make test-new-user")),
    ("make demo", How::Shell("demo")),
    ("make test-lab", How::Gate("make test-lab-agent")),
    ("make verify", How::Person),
    ("make stress", How::Person),
    (".ci/run", How::Person),
    ("make test", How::Gate("tests/run-tests.sh gate")),
    // In the lab, by systemd's tests.
    ("make deb", How::Gate("make test-systemd")),
    ("apt install ./target/debian/", How::Gate("make test-systemd")),
    // Which is what `make build` does for this step.
    ("cargo build --release", How::Gate(r#"step "compile release" make build"#)),
    ("target/release/mistify-libvirt", How::Shell("serve")),
    ("make install PREFIX=/usr", How::Shell("in_checkout . $it")),
    ("systemctl daemon-reload && systemctl enable --now", How::Shell("enables_the_unit")),
    ("openssl rand", How::Shell(". $it; listen_beyond")),
    ("openssl req", How::Shell(". $it")),
    ("stunnel ", How::Shell(". $it")),
    ("curl -H ", How::Shell("says '\"libvirt\"'")),
    // It listens for ever, and ends with this world.
    ("curl -N ", How::Shell("timeout 60 grep -q '^event: connected' <(bash $it)")),
    ("curl --cacert ", How::Shell("says '\"libvirt\"'")),
    ("curl -s http://127.0.0.1:20001/_mistify_RPC_ ", How::Shell("answers_as_shown")),
    ("curl -s http://127.0.0.1:20001/rpc ", How::Shell("answers_as_shown")),
    (
        "mistify-libvirt image import ",
        How::Shell("qemu-img convert -O qcow2 disk.raw disk.qcow2; . $it"),
    ),
    ("mistify-libvirt image pull ", How::Shell("pulls_from_here")),
    ("mistify-libvirt status ", How::Shell("says '\"running\"'")),
    ("ip link add mistify0 ", How::Shell(". $it")),
    // The guest that is asked for by its file again has to be the one that it is by then.
    (
        "mistify-libvirt call SetMemory ",
        How::Shell(r#". $it; sed -i 's/"memory":512/"memory":1024/' web-1.json"#),
    ),
    ("promtool check config ", How::Shell(". $it")),
    ("mistify-libvirt ", How::Shell(". $it")),
];

fn how(command: &str) -> How {
    let known = COMMANDS.iter().find(|(begin, _)| command.starts_with(begin));
    known.unwrap_or_else(|| panic!("nothing runs this command: {command}")).1
}

/// What a block of a document is.
#[derive(Debug, PartialEq)]
pub(crate) enum Shown {
    /// A command, and what it answers where that is shown.
    Command(String, Option<String>),
    Json(String),
    /// A file that begins with the name it is to have.
    File(String, String),
}

/// The blocks of a Markdown text that are indented by four blanks or fenced.
pub(crate) fn shown(text: &str) -> Vec<Shown> {
    let mut found = Vec::new();
    let (mut lines, mut before) = (text.lines().peekable(), "");
    while let Some(line) = lines.next() {
        if let Some(kind) = line.strip_prefix("```") {
            let body: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            match kind {
                // The usage, which a test of its own compares.
                "text" => {}
                "yaml" | "ini" => {
                    let name = body[0].trim_start_matches(['#', ';', ' ']).to_owned();
                    found.push(Shown::File(name, body.join("\n") + "\n"));
                }
                other => panic!("a block of {other:?}"),
            }
        } else if before.is_empty() && line.starts_with("    ") {
            let mut block = vec![line];
            while let Some(more) = lines.next_if(|line| line.starts_with("    ")) {
                block.push(more);
            }
            found.extend(indented(&block));
        }
        before = line;
    }
    found
}

fn indented(block: &[&str]) -> Vec<Shown> {
    let lines: Vec<&str> = block.iter().map(|line| &line[4..]).collect();
    let text = lines.join("\n");
    if text.starts_with('{') {
        return vec![Shown::Json(text)];
    }
    // The rooms.
    if text.starts_with("main -> ") {
        return Vec::new();
    }
    let mut found: Vec<Shown> = Vec::new();
    for line in text.replace("\\\n", "\\\u{0}").split('\n') {
        let line = line.replace('\u{0}', "\n");
        match (line.starts_with('{'), found.last_mut()) {
            (true, Some(Shown::Command(_, answer))) => *answer = Some(line),
            _ => found.push(Shown::Command(line, None)),
        }
    }
    found
}

/// The manual's examples.
fn examples(manual: &str) -> Vec<Shown> {
    let section = manual.split(".SH EXAMPLES\n.nf\n").nth(1).expect("a section");
    let lines = section.split("\n.fi").next().unwrap_or_default().lines();
    let plain = |line: &str| line.replace(r"\-", "-").replace(r"\(aq", "'").replace(r"\e", r"\");
    lines.map(|line| Shown::Command(plain(line), None)).collect()
}

pub(crate) fn read(name: &str) -> String {
    fs::read_to_string(name).expect("it is there")
}

/// The README's section that needs a libvirtd, and the rest of the README.
fn first_guest_and_rest() -> (String, String) {
    let readme = read("README.md");
    let title = "\n## A first guest\n";
    let (before, section) = readme.split_once(title).expect("a section");
    let (section, after) = section.split_once("\n## ").expect("more sections");
    (section.to_owned(), format!("{before}\n## {after}"))
}

/// Everything that any libvirt will do for.
fn everything() -> Vec<Shown> {
    let mut all = shown(&first_guest_and_rest().1);
    for name in &DOCUMENTS[1..] {
        all.extend(shown(&read(name)));
    }
    all.extend(examples(&read("dist/mistify-libvirt.8")));
    all
}

fn tools(names: &[&str]) -> Result<(), Skip> {
    let lacks = names.iter().find(|name| !installed(name));
    lacks.map_or(Ok(()), |name| Err(Skip(format!("{name} is not installed"))))
}

/// A folder for the world, where root can make one.
fn world() -> Result<Scratch, Skip> {
    tools(&["unshare", "ip", "make", "openssl", "curl", "stunnel"])?;
    let can = Command::new("unshare").args(["-m", "-n", "true"]).status();
    match can {
        Ok(status) if status.success() => Ok(Scratch::new()),
        other => Err(Skip(format!("unshare: {other:?}"))),
    }
}

/// Writes a script into the folder that runs all of these in their order, after `setup`, with the
/// tests' program where cargo puts it and guests of this type.
fn write_script(world: &Path, setup: &str, kind: &str, all: Vec<Shown>) {
    let release = world.join("target/release");
    fs::create_dir_all(&release).expect("a folder can be made");
    symlink(PROGRAM, release.join("mistify-libvirt")).expect("a link can be made");
    boot_sector::write_image(&world.join("disk.raw"), 4 << 20).expect("it can be written");
    let (mut files, mut commands) = (String::new(), String::new());
    for (number, it) in all.into_iter().enumerate() {
        let file = world.join(format!("it-{number}"));
        let name = file.display();
        match it {
            Shown::Json(text) => {
                let guest: Value = serde_json::from_str(&text).expect(&text);
                if guest["id"] == "web-1" {
                    // As this libvirt has it.
                    let text = guest.to_string().replace(r#""kvm""#, &format!("{kind:?}"));
                    fs::write(world.join("web-1.json"), text).expect("it can be written");
                }
            }
            Shown::File(path, text) => {
                fs::write(&file, text).expect("it can be written");
                files += &format!("install -D -m 644 {name} {path}\n");
            }
            Shown::Command(text, answer) => {
                let How::Shell(lines) = how(&text) else { continue };
                fs::write(&file, text).expect("it can be written");
                let shown = file.with_extension("answer");
                if let Some(answer) = answer {
                    fs::write(shown, answer).expect("it can be written");
                }
                commands += &format!("it={name}; cat $it; echo; {lines}\n");
            }
        }
    }
    let script =
        format!("cd {}\n{SETUP}{files}{setup}\n{commands}echo all of it ran\n", world.display());
    fs::write(world.join("script"), script).expect("it can be written");
}

/// Runs the script of this world by these words.
fn run_script(mut unshare: Command, world: &Path) {
    let output = unshare
        .arg("bash")
        .arg(world.join("script"))
        .env("CHECKOUT", CHECKOUT)
        .env_remove("MISTIFY_CONFIG")
        .stdin(Stdio::null())
        .output()
        .expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let why = String::from_utf8_lossy(&output.stderr);
    let log = fs::read_to_string(world.join("agent.log")).unwrap_or_default();
    assert!(
        output.status.success() && text.ends_with("all of it ran\n"),
        "{}\n{text}\n{why}\n{log}",
        output.status
    );
}

#[test]
fn every_command_of_the_documents_runs() {
    crate::cost::slow("runs every command of the documents");
    let Some(world) = require("mount", world()) else { return };
    // They come together, with what the gate needs.
    let Some(()) = require("promtool", tools(&["promtool", "systemctl"])) else { return };
    write_script(world.path(), "on_the_test_driver", "test", everything());
    // It takes seconds; whatever hangs in it hangs no longer than this.
    let mut unshare = Command::new("timeout");
    unshare.args(["600", "unshare", "-m", "-n", "-p", "--fork", "--mount-proc", "--kill-child"]);
    run_script(unshare, world.path());
}

#[test]
fn the_first_guest_of_the_readme_runs_on_a_real_host() {
    let Some(stack) = require("qemu", Stack::start()) else { return };
    let Some(world) = require("mount", world()) else { return };
    write_script(world.path(), "on_a_stack", "qemu", shown(&first_guest_and_rest().0));
    let mut unshare = stack.command("timeout");
    // The agent ends with it; the guest is libvirtd's.
    unshare.args(["600", "unshare", "-m", "-p", "--fork", "--mount-proc", "--kill-child"]);
    run_script(unshare, world.path());
    wait_until("the guest writes to its disk", SOON, || stack.writes("web-1") > 0);
}

#[test]
fn what_is_too_long_for_a_test_is_run_by_the_gate() {
    let gates = read(".ci/run") + &read("tests/gate/verify.sh");
    let makefile = read("Makefile");
    let (mut by_gates, mut by_persons) = (0, 0);
    for it in everything() {
        let Shown::Command(command, _) = it else { continue };
        match how(&command) {
            How::Shell(_) => {}
            How::Gate(line) => {
                assert!(gates.contains(line), "{command}: {line} is in no gate");
                by_gates += 1;
            }
            How::Person => {
                let words: Vec<&str> = command.split_whitespace().collect();
                let is_there = match words.as_slice() {
                    ["make", target, ..] => makefile.contains(&format!("\n{target}:")),
                    [path, ..] => Path::new(path).exists(),
                    [] => false,
                };
                assert!(is_there, "{command}");
                by_persons += 1;
            }
        }
    }
    assert!(by_gates >= 5 && by_persons >= 3, "{by_gates} and {by_persons}");
    let build = ["\nbuild:\n", "\n\t$(CARGO) build --release\n"];
    for rule in build.into_iter().chain(["\n\t$(MAKE) deb\n"]) {
        assert!(makefile.contains(rule), "{rule:?}");
    }
}

#[test]
fn what_is_named_in_a_sentence_is_there() {
    let makefile = read("Makefile");
    let manifest = read("Cargo.toml");
    let mut count = 0;
    for name in DOCUMENTS {
        let text = read(name);
        for code in text.split('`').skip(1).step_by(2) {
            for command in code.split(" && ") {
                let words: Vec<&str> = command.split_whitespace().collect();
                let is_there = match words.as_slice() {
                    ["make", target, ..] => makefile.contains(&format!("\n{target}:")),
                    ["cargo", "bench", "--bench", bench] => {
                        manifest.contains(&format!("name = \"{bench}\""))
                    }
                    [path, ..]
                        if ["tests/", "dist/", "src/", ".ci/"]
                            .iter()
                            .any(|it| path.starts_with(it)) =>
                    {
                        Path::new(path).exists()
                    }
                    _ => continue,
                };
                assert!(is_there, "{name}: {command}");
                count += 1;
            }
        }
    }
    assert!(count >= 20, "{count}");
}

#[test]
fn a_command_that_nothing_runs_is_noticed() {
    let text = "Words:\n\n    mistify-libvirt list   # all\n    curl -s \\\n      x\n    {\"a\":1}\n\n    {\"b\":\n     2}\n";
    let expected = [
        Shown::Command("mistify-libvirt list   # all".to_owned(), None),
        Shown::Command("curl -s \\\n  x".to_owned(), Some("{\"a\":1}".to_owned())),
        Shown::Json("{\"b\":\n 2}".to_owned()),
    ];
    assert_eq!(shown(text), expected);
    assert!(std::panic::catch_unwind(|| how("rm -rf /")).is_err());
}
