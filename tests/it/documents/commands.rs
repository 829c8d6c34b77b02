//! Every command that the documents show is run: in a world of its own, with the documents' own
//! example files, or by a step of the gate. A command that this file does not know is a failure.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::agent::PROGRAM;
use crate::harness::boot_sector;
use crate::harness::linux::small;
use crate::harness::skip::{Skip, require};
use crate::harness::stack::{Stack, installed};
use crate::harness::support::{Scratch, wait_until};

const CHECKOUT: &str = env!("CARGO_MANIFEST_DIR");
const SETUP: &str = concat!(include_str!("documents.sh"), include_str!("downloads.sh"));
const SOON: Duration = Duration::from_secs(90);
/// The documents beside `src`.
const TOP: [&str; 4] = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"];
/// The pages that lead from nothing to a first guest, on a real libvirtd.
const WALKS: [&str; 2] = ["README.md", GETTING_STARTED];
pub(crate) const GETTING_STARTED: &str = "docs/getting-started.md";
const MANUAL: &str = "man/mistify-libvirt.8";
/// What the first guest writes to its serial console.
const LOGIN: &str = "\r\nweb-1 login: ";

/// How a command that begins like this is run.
#[derive(Clone, Copy)]
enum How {
    /// By these lines of shell, `$it` being the file with the command.
    Shell(&'static str),
    /// By this line of `.ci/run` or of `make verify`.
    Gate(&'static str),
    /// By `make test-new-user`, as a step of "Getting started".
    NewUser,
    /// By `make test-new-user`, once the first guest runs.
    Systemd,
    /// By the lab, which has ZFS.
    Lab,
    /// On another machine, which no test has.
    Elsewhere,
    /// By a person, as it runs the gates themselves: its file or make target exists.
    Person,
}

/// Commands by their first words; the first match counts.
const COMMANDS: [(&str, How); 44] = [
    ("apt-get update", How::NewUser),
    ("apt-get install ", How::NewUser),
    ("apt install ./target/debian/", How::NewUser),
    ("make deb", How::NewUser),
    ("systemctl restart mistify-libvirt", How::Shell("restarts")),
    ("systemctl ", How::Systemd),
    ("systemd-analyze ", How::Systemd),
    ("journalctl ", How::Systemd),
    ("install -D -m 0644 /usr/share/mistify-libvirt/", How::Systemd),
    ("zpool create ", How::Lab),
    ("zfs create ", How::Lab),
    ("zfs allow ", How::Lab),
    ("ssh ", How::Elsewhere),
    ("ssh-keygen ", How::Shell(". $it")),
    ("make demo", How::Shell("demo")),
    ("make test-lab", How::Gate("make test-lab-agent")),
    ("make test-systemd", How::Gate("make test-systemd")),
    ("make test-new-user", How::Gate("make test-new-user")),
    ("make test", How::Gate("tests/run-tests.sh gate")),
    ("make ", How::Person),
    (".ci/run", How::Person),
    ("tests/", How::Person),
    // Which is what `make build` does for this step.
    ("cargo build --release", How::Gate(r#"step "compile release" make build"#)),
    ("target/release/mistify-libvirt", How::Shell("serve")),
    ("make install PREFIX=/usr", How::Shell("in_checkout . $it; is_installed")),
    (
        "openssl rand -hex 32 | install -m 0600 /dev/stdin /etc/mistify-libvirt-metrics.token",
        How::Shell(". $it; listen_for_metrics"),
    ),
    ("openssl rand", How::Shell(". $it; listen_beyond")),
    ("scp /etc/mistify-libvirt-metrics.token ", How::Shell("copies_here")),
    ("openssl req", How::Shell(". $it")),
    ("stunnel ", How::Shell(". $it")),
    ("curl -fLO https://cloud.debian.org/", How::Shell("downloads disk.raw")),
    ("sha512sum ", How::Shell(". $it")),
    ("curl -H ", How::Shell("says '\"libvirt\"'")),
    // It listens for ever, and ends with this world.
    ("curl -N ", How::Shell("timeout 60 grep -q '^event: connected' <(bash $it)")),
    ("curl --cacert ", How::Shell("says '\"libvirt\"'")),
    ("curl ", How::Shell(". $it")),
    ("cat > ", How::Shell(". $it")),
    ("mistify-libvirt image import ", How::Shell("imports")),
    ("mistify-libvirt image pull ", How::Shell("pulls_from_here")),
    ("mistify-libvirt status ", How::Shell("says '\"running\"'")),
    ("mistify-libvirt create web-1 ", How::Shell("creates_without_ssh")),
    ("mistify-libvirt ssh ", How::NewUser),
    ("promtool check config ", How::Shell(". $it")),
    ("mistify-libvirt ", How::Shell(". $it")),
];

fn how(command: &str) -> How {
    let known = COMMANDS.iter().find(|(begin, _)| command.starts_with(begin));
    known.unwrap_or_else(|| panic!("nothing runs this command: {command}")).1
}

/// What a fenced block of a document is.
#[derive(Debug, PartialEq)]
pub(crate) enum Shown {
    /// A command, and the answer to it where the next block shows one.
    Command(String, Option<Value>),
    /// A file: its path, which its first line has as a comment, and its text.
    File(String, String),
}

/// The commands and files of a Markdown text, in their order.
pub(crate) fn shown(text: &str) -> Vec<Shown> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    // Where the answer to the last command may stand: behind its block and an empty line.
    let (mut before, mut is_answer) = ("", false);
    while let Some(line) = lines.next() {
        let is_indented = before.is_empty() && line.starts_with("    ");
        assert!(!is_indented, "a fence shows better that this is code: {line}");
        if let Some(kind) = line.strip_prefix("```") {
            let body: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            match kind {
                "text" | "mermaid" => {}
                "sh" => found.extend(commands(&body)),
                "json" => {
                    let text = body.join("\n");
                    let value = serde_json::from_str(&text).unwrap_or_else(|error| {
                        panic!("{error}: {text}");
                    });
                    if let (true, Some(Shown::Command(_, answer))) = (is_answer, found.last_mut()) {
                        *answer = Some(value);
                    }
                }
                "yaml" | "ini" => {
                    let name = body[0].trim_start_matches(['#', ';', ' ']).to_owned();
                    assert!(name.starts_with('/'), "the first line names no file: {}", body[0]);
                    found.push(Shown::File(name, body.join("\n") + "\n"));
                }
                other => panic!("a block of {other:?}"),
            }
            is_answer = kind == "sh";
        } else if !line.is_empty() {
            is_answer = false;
        }
        before = line;
    }
    found
}

/// A command a line; a backslash, a quote or a here-document continues one.
fn commands(block: &[&str]) -> Vec<Shown> {
    let mut found = Vec::new();
    let mut lines = block.iter();
    while let Some(line) = lines.next() {
        let mut command = (*line).to_owned();
        let more = |command: &mut String, line: &str| *command += &format!("\n{line}");
        // A backslash at the end, or a quote that is open, continues the command.
        while command.ends_with('\\') || command.matches('\'').count() % 2 == 1 {
            more(&mut command, lines.next().expect("a line that continues it"));
        }
        if let Some((_, end)) = line.split_once("<<'") {
            let end = end.split('\'').next().unwrap_or_default();
            for line in lines.by_ref() {
                more(&mut command, line);
                if *line == end {
                    break;
                }
            }
        }
        if !command.is_empty() && !command.starts_with('#') {
            found.push(Shown::Command(command, None));
        }
    }
    found
}

/// The examples of a manual page.
fn examples(manual: &str) -> Vec<Shown> {
    let section = manual.split(".SH EXAMPLES\n").nth(1).expect("a section");
    let section = section.split("\n.SH ").next().unwrap_or_default();
    let blocks = section.split("\n.nf\n").skip(1);
    let lines = blocks.flat_map(|block| block.split("\n.fi").next().unwrap_or_default().lines());
    let plain = |line: &str| line.replace(r"\-", "-").replace(r"\(aq", "'").replace(r"\e", r"\");
    commands(&lines.map(plain).collect::<Vec<_>>().iter().map(String::as_str).collect::<Vec<_>>())
}

pub(crate) fn read(name: &str) -> String {
    fs::read_to_string(name).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The documents for people: those beside `src`, and the pages in `docs`.
pub(crate) fn documents() -> Vec<String> {
    let pages = fs::read_dir("docs").expect("it is there");
    let pages = pages.map(|entry| {
        format!("docs/{}", entry.expect("it can be listed").file_name().to_string_lossy())
    });
    let mut pages: Vec<String> = pages.filter(|name| name.ends_with(".md")).collect();
    pages.sort();
    TOP.iter().map(ToString::to_string).chain(pages).collect()
}

/// The pages whose commands any libvirt can run, with these.
fn pages() -> Vec<(String, Vec<Shown>)> {
    let all = documents().into_iter().filter(|name| !WALKS.contains(&name.as_str()));
    let mut all: Vec<_> = all.map(|name| (name.clone(), shown(&read(&name)))).collect();
    all.push((MANUAL.to_owned(), examples(&read(MANUAL))));
    all
}

/// The pages that lead to a first guest, with their commands.
fn walks() -> Vec<(String, Vec<Shown>)> {
    WALKS.iter().map(|name| ((*name).to_owned(), shown(&read(name)))).collect()
}

/// All commands of all documents.
fn all_commands() -> impl Iterator<Item = String> {
    let all = walks().into_iter().chain(pages()).flat_map(|(_, all)| all);
    all.filter_map(|it| match it {
        Shown::Command(command, _) => Some(command),
        Shown::File(..) => None,
    })
}

/// The commands that need systemd, which `make test-new-user` runs when the first guest runs.
pub(crate) fn for_systemd() -> Vec<String> {
    all_commands().filter(|command| matches!(how(command), How::Systemd)).collect()
}

/// The commands that need a pool. The lab has the tests' program without the documents.
pub(crate) fn for_the_lab() -> Vec<String> {
    let all = shown(include_str!("../../../docs/storage.md")).into_iter();
    let commands = all.filter_map(|it| match it {
        Shown::Command(command, _) => Some(command),
        Shown::File(..) => None,
    });
    commands.filter(|command| matches!(how(command), How::Lab)).collect()
}

fn tools(names: &[&str]) -> Result<(), Skip> {
    let lacks = names.iter().find(|name| !installed(name));
    lacks.map_or(Ok(()), |name| Err(Skip(format!("{name} is not installed"))))
}

/// A directory for the world, where root can make one.
fn world() -> Result<Scratch, Skip> {
    tools(&["unshare", "ip", "make", "openssl", "curl", "stunnel"])?;
    let can = Command::new("unshare").args(["-m", "-n", "true"]).status();
    match can {
        Ok(status) if status.success() => Ok(Scratch::new()),
        other => Err(Skip(format!("unshare: {other:?}"))),
    }
}

/// Writes a script into the directory that runs these pages, each after `begin_page`, which `setup` has, with
/// the tests' program where cargo puts it and guests of this type.
fn write_script(world: &Path, setup: &str, kind: &str, pages: Vec<(String, Vec<Shown>)>) {
    let release = world.join("target/release");
    fs::create_dir_all(&release).expect("a directory can be made");
    symlink(PROGRAM, release.join("mistify-libvirt")).expect("a link can be made");
    boot_sector::write_telling_image(&world.join("disk.raw"), 4 << 20, LOGIN)
        .expect("it can be written");
    let mut script = format!("cd {}\n{SETUP}{setup}\n", world.display());
    let mut number = 0;
    for (page, all) in pages {
        let (mut files, mut commands) = (String::new(), String::new());
        for it in all {
            number += 1;
            let file = world.join(format!("it-{number}"));
            let write = |path: &Path, text: &str| fs::write(path, text).expect("it can be written");
            let name = file.display();
            match it {
                Shown::File(path, text) => {
                    write(&file, &text);
                    files += &format!("has_file {name} {path}\n");
                }
                Shown::Command(text, answer) => {
                    let How::Shell(lines) = how(&text) else { continue };
                    write(&file, &of_type(&text, kind));
                    let compare = answer.map(|answer| {
                        write(&file.with_extension("answer"), &of_type(&answer.to_string(), kind));
                        format!("answers_as_shown {lines}")
                    });
                    let lines = compare.unwrap_or_else(|| lines.to_owned());
                    commands += &format!("it={name}; cat $it; echo; {lines}\n");
                }
            }
        }
        script += &format!("begin_page {page}\n{files}{commands}");
    }
    write_all_ran(world, &script);
}

fn write_all_ran(world: &Path, script: &str) {
    fs::write(world.join("script"), format!("{script}echo all of it ran\n"))
        .expect("it can be written");
}

/// A guest of the documents as this libvirt has it.
pub(crate) fn of_type(text: &str, kind: &str) -> String {
    let types = [r#""type": "kvm""#, r#""type":"kvm""#];
    let text = text.replace("--type kvm", &format!("--type {kind}"));
    types.iter().fold(text, |text, it| text.replace(it, &format!("\"type\": {kind:?}")))
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
    crate::harness::cost::slow("runs every command of the documents");
    let Some(world) = require("mount", world()) else { return };
    // Which the demo would make, but finds no network there.
    let Some(_) = require("qemu", small()) else { return };
    // They come together, with what the gate needs.
    let Some(()) = require("promtool", tools(&["promtool", "systemctl"])) else { return };
    write_script(world.path(), "on_the_test_driver", "test", pages());
    // It takes seconds; whatever hangs in it hangs no longer than this.
    let mut unshare = Command::new("timeout");
    unshare.args(["600", "unshare", "-m", "-n", "-p", "--fork", "--mount-proc", "--kill-child"]);
    run_script(unshare, world.path());
}

/// Runs this page of [`WALKS`] on a libvirtd of its own.
fn walk_on_a_stack(page: &str) {
    let Some(_) = require("qemu", small()) else { return };
    let Some(stack) = require("qemu", Stack::start()) else { return };
    let Some(world) = require("mount", world()) else { return };
    let walks = walks().into_iter().filter(|(name, _)| name == page).collect();
    write_script(world.path(), "on_a_stack", "qemu", walks);
    let mut unshare = stack.command("timeout");
    // The agent ends with it; the guest is libvirtd's.
    unshare.args(["600", "unshare", "-m", "-p", "--fork", "--mount-proc", "--kill-child"]);
    run_script(unshare, world.path());
    wait_until("the guest writes to its disk", SOON, || stack.writes("web-1") > 0);
}

#[test]
fn the_readme_leads_to_a_real_guest() {
    walk_on_a_stack("README.md");
}

#[test]
fn getting_started_leads_to_a_real_guest() {
    walk_on_a_stack(GETTING_STARTED);
}

#[test]
fn long_commands_of_documents_run_in_the_gate() {
    let gates = read(".ci/run") + &read("tests/gate/verify.sh");
    let makefile = read("Makefile");
    let walk = shown(&read(GETTING_STARTED));
    let (mut by_gates, mut by_persons, mut elsewhere) = (0, 0, 0);
    for command in all_commands() {
        match how(&command) {
            How::Shell(_) | How::Systemd => {}
            How::Lab => {
                assert!(for_the_lab().contains(&command), "the lab has other pages only: {command}")
            }
            How::Elsewhere => elsewhere += 1,
            How::NewUser => {
                assert!(walk.contains(&Shown::Command(command.clone(), None)), "{command}");
                by_gates += 1;
            }
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
    assert!(elsewhere <= 1, "{elsewhere} commands that nothing runs");
    let build = ["\nbuild:\n", "\n\t$(CARGO) build --release\n"];
    for rule in build.into_iter().chain(["\n\t$(MAKE) deb\n"]) {
        assert!(makefile.contains(rule), "{rule:?}");
    }
}

#[test]
fn commands_and_files_in_sentences_exist() {
    let makefile = read("Makefile");
    let manifest = read("Cargo.toml");
    let mut count = 0;
    for name in documents() {
        let text = read(&name);
        for code in text.split('`').skip(1).step_by(2) {
            for command in code.split(" && ") {
                let words: Vec<&str> = command.split_whitespace().collect();
                let is_there = match words.as_slice() {
                    ["make", target, ..] => makefile.contains(&format!("\n{target}:")),
                    ["cargo", "bench", "--bench", bench] => {
                        manifest.contains(&format!("name = \"{bench}\""))
                    }
                    [path, ..]
                        if ["tests/", "dist/", "man/", "src/", ".ci/"]
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
    let text = "```sh\nmistify-libvirt list\ncurl -s \\\n  x\n```\n\n```json\n{\"a\": 1}\n```\n\nElse:\n\n\
                ```json\n{}\n```\n\n```sh\ncat > a <<'END'\n{\nEND\n```\n";
    let command = |text: &str, answer| Shown::Command(text.to_owned(), answer);
    let expected = [
        command("mistify-libvirt list", None),
        command("curl -s \\\n  x", Some(json!({ "a": 1 }))),
        command("cat > a <<'END'\n{\nEND", None),
    ];
    assert_eq!(shown(text), expected);
    assert!(std::panic::catch_unwind(|| how("rm -rf /")).is_err());
    assert!(std::panic::catch_unwind(|| shown("Words:\n\n    mistify-libvirt list\n")).is_err());
}

/// The anchors of a page's titles, as forges make them.
fn anchors(page: &str) -> Vec<String> {
    let mut is_code = false;
    let titles = page.lines().filter(|line| {
        is_code ^= line.starts_with("```");
        !is_code && line.starts_with('#')
    });
    let anchor = |title: &str| {
        let letters = title.trim_start_matches('#').trim().chars();
        let kept = letters.filter(|it| it.is_alphanumeric() || [' ', '-', '_'].contains(it));
        kept.collect::<String>().to_lowercase().replace(' ', "-")
    };
    titles.map(anchor).collect()
}

/// The targets of a page's links and pictures.
fn links(page: &str) -> Vec<&str> {
    let ends = page.split("](").skip(1);
    ends.filter_map(|rest| rest.split([')', ' ', '\n']).next()).collect()
}

#[test]
fn every_link_of_the_documents_leads_somewhere() {
    let mut count = 0;
    for name in documents() {
        let text = read(&name);
        let directory = Path::new(&name).parent().expect("it has a name");
        for link in links(&text).into_iter().filter(|link| !link.starts_with("http")) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target =
                if path.is_empty() { Path::new(&name).to_owned() } else { directory.join(path) };
            assert!(target.exists(), "{name}: {link}");
            let known = || anchors(&read(target.to_str().expect("UTF-8")));
            assert!(anchor.is_empty() || known().iter().any(|it| it == anchor), "{name}: {link}");
            count += 1;
        }
    }
    assert!(count >= 60, "{count}");
}

#[test]
fn every_page_is_listed_and_short() {
    let index = read("docs/README.md");
    for name in documents() {
        let text = read(&name);
        let page = name.trim_start_matches("docs/");
        let is_listed = !name.starts_with("docs/") || page == "README.md" || index.contains(page);
        assert!(is_listed, "docs/README.md lacks {page}");
        let written = without_generated(&text);
        let most = if name == "README.md" { 200 } else { 400 };
        let lines = written.lines().count();
        assert!(name == "docs/methods.md" || lines <= most, "{name}: {lines} lines");
    }
}

/// A page without what `make docs` writes into it.
fn without_generated(text: &str) -> String {
    let mut parts = text.split("<!-- generated: ");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split("<!-- end: ").nth(1).unwrap_or_default())
}
