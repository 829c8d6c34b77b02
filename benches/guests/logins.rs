//! From `create --run --wait ssh` to the prompt of a Debian guest, and the agent's share of that time.
//!
//! The share is the sum of two differences: between `create --run` and the same work by hand, which is to copy the
//! disks and have virsh reserve the address, and define and start the guest; and between the greeting of the guest's
//! SSH server and the end of the command that waits for it. A program that asks every 5 ms sees the greeting, so the
//! second difference can be below zero by as much.

use std::fs;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::report::{Aim, Report};
use crate::common::sample::float;
use crate::common::server::AGENT;
use crate::skip::Skip;
use crate::stack::Stack;
use crate::support::{Scratch, wait_until};
use crate::world::{run, text};
use crate::{Plan, linux, sample};

const ADDRESS: &str = "192.168.77.2";
const NETWORK: &str = "mistify0,address=192.168.77.2/24";
/// The libvirt network that the agent provides, which outlives its guests.
const PROVIDED: &str = "mistify-nat";
/// Longer than a loaded machine needs to start the agent.
const START: Duration = Duration::from_secs(60);
/// Ends when the SSH server at an address greets. An attempt to connect takes at most 50 ms, because an absent host
/// does not answer. After a connection the program waits for the greeting: many connections at once would delay it.
const GREETS: &str = "
import socket, sys, time
while True:
    try:
        with socket.create_connection((sys.argv[1], 22), 0.05) as server:
            server.settimeout(30)
            if server.recv(4) == b'SSH-':
                break
    except OSError:
        time.sleep(0.005)
";
/// The limit of `create --wait`, for boots without KVM on a loaded machine, in seconds.
const BOOT_S: &str = "1800";

/// Starts guests with Debian's image, by the command and by hand in turns, and then waits for the login of some.
///
/// # Errors
/// Why Debian's image cannot be made here, or no private libvirtd can run.
pub(crate) fn measure(plan: &Plan, report: &mut Report) -> Result<(), Skip> {
    let image = linux::debian("cloud-amd64")?;
    let host = Host::new()?;
    eprintln!("{} guests by the command and by hand", plan.lives);
    host.agent(&["image", "import", &text(&image), "debian"]);
    let key = text(&image.with_file_name("id_ed25519.pub"));
    let mut hand = Hand::new(&host.stack);
    let (mut by_command, mut by_hand) = (Vec::new(), Vec::new());
    // The first turn is not measured: it fills caches.
    for turn in 0..=plan.lives {
        let create = create("login-turn", &key);
        let begin = Instant::now();
        host.agent(&create);
        let command = begin.elapsed();
        let copies = Copies::of(&host, "login-turn");
        host.agent(&["poweroff", "login-turn"]);
        host.agent(&["delete", "login-turn"]);
        let manual = hand.make(&copies);
        copies.remove(&host.stack);
        if turn > 0 {
            by_command.push(command);
            by_hand.push(manual);
        }
    }
    let (mut boots, mut late) = (Vec::new(), Vec::<f64>::new());
    for _ in 0..plan.boots {
        eprintln!("booting a Debian until it is waited for");
        let (boot, after_greeting) = host.login(&key);
        boots.push(boot);
        late.push(after_greeting);
    }
    let mut medians = Vec::new();
    for (name, latencies) in [
        ("create --run", by_command),
        ("the same by hand", by_hand),
        ("create --run --wait ssh", boots),
    ] {
        let mut sample = sample(latencies);
        let median = sample.percentile_us(50) / 1000.0;
        let cells = [
            ("times", float(sample.latencies.len())),
            ("median ms", median),
            ("longest ms", sample.percentile_us(100) / 1000.0),
        ];
        medians.push(median);
        report.row(name, &cells);
    }
    let [command, hand, boot] = medians[..] else { unreachable!("three samples") };
    late.sort_by(f64::total_cmp);
    let (longest, late) = (late[late.len() - 1], late[late.len() / 2]);
    let cells = [("times", float(plan.boots)), ("median ms", late), ("longest ms", longest)];
    report.row("... from the greeting to the end", &cells);
    let what = "`create --run --wait ssh` of a Debian guest without KVM: to the prompt";
    report.claim(what, boot / 1000.0, "s", Aim::None);
    let share = (command - hand) + late;
    let what = "... the agent's share of it, beside libvirt, QEMU and the guest";
    report.claim(what, share, "ms", Aim::AtMost(100.0));
    Ok(())
}

/// The command that creates and runs a guest.
fn create<'a>(id: &'a str, key: &'a str) -> [&'a str; 13] {
    [
        "create",
        id,
        "--image",
        "debian",
        "--memory",
        "1G",
        "--type",
        "qemu",
        "--network",
        NETWORK,
        "--ssh-key",
        key,
        "--run",
    ]
}

/// A private libvirtd whose guests get addresses from the agent's network, as after "Getting started".
struct Host {
    stack: Stack,
    files: Scratch,
    agent: Child,
}

impl Host {
    fn new() -> Result<Self, Skip> {
        let (stack, files) = (Stack::start()?, Scratch::new());
        run(stack.command("ip").args(["link", "delete", "mistify0"]));
        let mut command = Self::command(&stack, &files);
        command.args(["--libvirt-uri", "qemu:///system", "--bridge-type", "nat:192.168.77.0/24"]);
        command.env("STATE_DIRECTORY", files.path().join("state"));
        let agent = command.stdin(Stdio::null()).spawn().expect("the agent starts");
        let host = Self { stack, files, agent };
        wait_until("the agent answers", START, || {
            let list = Self::command(&host.stack, &host.files).arg("list").output();
            list.is_ok_and(|output| output.status.success())
        });
        Ok(host)
    }

    /// Returns a command of the program, in the stack's network, where guests have addresses.
    fn command(stack: &Stack, files: &Scratch) -> Command {
        let directory = text(files.path());
        let mut command = stack.command(AGENT);
        command.args(["--config", "/dev/null", "--socket", &format!("{directory}/socket")]);
        command.args(["--storage", &format!("directory:{directory}/store")]);
        command
    }

    /// Runs a command of the program, which must succeed.
    fn agent(&self, words: &[&str]) {
        run(Self::command(&self.stack, &self.files).args(words));
    }

    fn path(&self, name: &str) -> String {
        text(&self.files.path().join(name))
    }

    /// Boots a Debian guest. Returns how long the command waits for the guest's SSH server, and how many ms of that are
    /// after the greeting.
    fn login(&self, key: &str) -> (Duration, f64) {
        let mut greeting = self.stack.command("python3");
        let mut greeting = greeting.args(["-c", GREETS, ADDRESS]).spawn().expect("python3 starts");
        let greeted = thread::spawn(move || {
            greeting.wait().expect("it is our child");
            Instant::now()
        });
        let create = create("login-debian", key);
        let begin = Instant::now();
        let wait = ["--wait", "ssh", "--timeout", BOOT_S];
        self.agent(&[&create[..], &wait].concat());
        let end = Instant::now();
        let greeted = greeted.join().expect("it does not panic");
        self.agent(&["poweroff", "login-debian"]);
        self.agent(&["delete", "login-debian"]);
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        (end - begin, ms(end - begin) - ms(greeted - begin))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The agent ends with the stack anyway.
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

/// The definitions of a guest that the agent made, and copies of its disks.
struct Copies {
    id: String,
    domain: PathBuf,
    networks: Vec<(String, PathBuf)>,
    /// The reservation of the guest's address in the agent's network, as an XML element.
    reservation: String,
    /// For each disk the path of the copy, and the path of the disk.
    disks: Vec<(PathBuf, PathBuf)>,
}

impl Copies {
    fn of(host: &Host, id: &str) -> Self {
        let saved = |name: &str, xml: &str| {
            let path = PathBuf::from(host.path(name));
            fs::write(&path, xml).expect("scratch is writable");
            path
        };
        let xml = host.stack.virsh_ok(&["dumpxml", "--inactive", "--security-info", id]);
        let names = host.stack.virsh_ok(&["net-list", "--name"]);
        let own = names.lines().filter(|name| !name.is_empty() && *name != PROVIDED);
        let networks = own.enumerate().map(|(index, name)| {
            let xml = host.stack.virsh_ok(&["net-dumpxml", "--inactive", name]);
            (name.to_owned(), saved(&format!("network-{index}.xml"), &xml))
        });
        let sources =
            xml.split("<source file='").skip(1).filter_map(|rest| rest.split('\'').next());
        let in_store = sources.filter(|path| path.starts_with(&host.path("store")));
        let disks = in_store.enumerate().map(|(index, path)| {
            let copy = PathBuf::from(host.path(&format!("disk-{index}")));
            copy_disk(Path::new(path), &copy);
            (copy, PathBuf::from(path))
        });
        let (disks, networks) = (disks.collect::<Vec<_>>(), networks.collect::<Vec<_>>());
        assert!(disks.len() == 2 && networks.len() == 1, "a disk, a seed and a NIC: {xml}");
        let provided = host.stack.virsh_ok(&["net-dumpxml", PROVIDED]);
        let reservation =
            provided.lines().find(|line| line.contains(ADDRESS) && line.contains("<host "));
        let reservation = reservation.expect("a reservation").trim().to_owned();
        Self { id: id.to_owned(), domain: saved("domain.xml", &xml), networks, reservation, disks }
    }

    fn remove(&self, stack: &Stack) {
        stack.virsh_ok(&["destroy", &self.id]);
        stack.virsh_ok(&["undefine", "--nvram", &self.id]);
        for (name, _) in &self.networks {
            stack.virsh_ok(&["net-destroy", name]);
            stack.virsh_ok(&["net-undefine", name]);
        }
        stack.virsh_ok(&[
            "net-update",
            PROVIDED,
            "delete",
            "ip-dhcp-host",
            &self.reservation,
            "--live",
            "--config",
        ]);
        for (_, disk) in &self.disks {
            fs::remove_file(disk).expect("it is there");
        }
    }
}

fn copy_disk(from: &Path, to: &Path) {
    run(Command::new("cp").args(["--sparse=always", "--reflink=auto"]).args([from, to]));
}

/// A person at virsh's prompt, who types without a pause.
struct Hand {
    virsh: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Hand {
    fn new(stack: &Stack) -> Self {
        let mut command = stack.command("stdbuf");
        command.args(["-o0", "virsh", "--quiet", "--connect", "qemu:///system"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut virsh = command.spawn().expect("virsh starts");
        let input = virsh.stdin.take().expect("standard input was piped");
        let output = BufReader::new(virsh.stdout.take().expect("standard output was piped"));
        Self { virsh, input, output }
    }

    /// Makes and starts a guest; returns the time that this takes.
    fn make(&mut self, copies: &Copies) -> Duration {
        for (_, disk) in &copies.disks {
            fs::create_dir_all(disk.parent().expect("it is in a folder"))
                .expect("scratch is writable");
        }
        let begin = Instant::now();
        for (copy, disk) in &copies.disks {
            copy_disk(copy, disk);
        }
        for (name, xml) in &copies.networks {
            self.types(&format!("net-define {}", text(xml)));
            self.types(&format!("net-autostart {name}"));
            self.types(&format!("net-start {name}"));
        }
        let reserve = format!("net-update {PROVIDED} add ip-dhcp-host \"{}\"", copies.reservation);
        self.types(&format!("{reserve} --live --config"));
        self.types(&format!("define {}", text(&copies.domain)));
        self.types(&format!("start {}", copies.id));
        begin.elapsed()
    }

    /// Types a command, and waits until it is done.
    fn types(&mut self, command: &str) {
        // virsh echoes the command, in which the quotes differ from this output, and writes no end of the line.
        const DONE: &[u8] = b"done so";
        writeln!(self.input, "{command}; echo done \"so\"").expect("virsh reads");
        let mut written = Vec::new();
        while !written.ends_with(DONE) {
            let mut byte = [0];
            self.output.read_exact(&mut byte).expect("virsh answers");
            written.extend(byte);
        }
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        // virsh ends with the stack anyway.
        let _ = self.virsh.kill();
        let _ = self.virsh.wait();
    }
}
