//! Console and Screenshot: on real guests, and what the test driver has of them.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use mistify_libvirt::guest::png;
use serde_json::json;

use crate::harness::agent::{Agent, PROGRAM};
use crate::harness::screens::{telling, unbase64};
use crate::harness::skip::require;
use crate::harness::stack::Stack;
use crate::harness::support::{Scratch, wait_until};

/// Longer than a loaded machine needs for what a guest does within a second or two.
const SOON: Duration = Duration::from_secs(90);

/// Compares a PNG with a PPM by Python's zlib, checksums included.
const COMPARE: &str = "
import struct, sys, zlib
png, ppm = (open(name, 'rb').read() for name in sys.argv[1:3])
assert png[:8] == b'\\x89PNG\\r\\n\\x1a\\n'
at, chunks = 8, []
while at < len(png):
    length, kind = struct.unpack('>I4s', png[at:at + 8])
    data = png[at + 8:at + 8 + length]
    assert struct.unpack('>I', png[at + 8 + length:at + 12 + length])[0] == zlib.crc32(kind + data)
    chunks.append((kind, data))
    at += 12 + length
assert [kind for kind, _ in chunks] == [b'IHDR', b'IDAT', b'IEND']
width, height, *rest = struct.unpack('>IIBBBBB', chunks[0][1])
assert rest == [8, 2, 0, 0, 0]
raw = zlib.decompress(chunks[1][1])
step = 1 + 3 * width
assert len(raw) == step * height
above, rows = bytes(3 * width), []
for start in range(0, len(raw), step):
    row = raw[start + 1:start + step]
    if raw[start] == 2:
        row = bytes((a + b) & 255 for a, b in zip(row, above))
    else:
        assert raw[start] == 0
    rows.append(row)
    above = row
assert b'P6\\n%d %d\\n255\\n' % (width, height) + b''.join(rows) == ppm
";

/// Why the pictures are not the same.
fn difference(png: &Path, ppm: &Path) -> Option<String> {
    let compare = Command::new("/usr/bin/python3").args(["-c", COMPARE]).args([png, ppm]).output();
    let compare = compare.expect("python3 starts");
    let why = String::from_utf8_lossy(&compare.stderr).into_owned();
    (!compare.status.success()).then_some(why)
}

#[test]
fn another_program_reads_pictures_of_every_run_length() {
    let files = Scratch::new();
    let (png, ppm) = (files.path().join("it.png"), files.path().join("it.ppm"));
    // A row of runs of 0 to 800 equal bytes, each of a value that differs from the one before;
    // twice, and then one like no other.
    let runs = (0..800_usize).flat_map(|length| vec![(length * 7).to_le_bytes()[0]; length]);
    let mut row: Vec<u8> = runs.collect();
    row.truncate(row.len() / 3 * 3);
    let odd =
        row.iter().enumerate().map(|(index, byte)| byte ^ (index * index % 251).to_le_bytes()[0]);
    let odd: Vec<u8> = odd.collect();
    let head = format!("P6\n{} 3\n255\n", row.len() / 3);
    let picture = [head.as_bytes(), &row, &row, &odd].concat();
    fs::write(&png, png::of_ppm(&picture).expect("a picture")).expect("scratch is writable");
    fs::write(&ppm, picture).expect("scratch is writable");
    assert_eq!(difference(&png, &ppm), None);
}

#[test]
fn test_driver_picture_passes_and_has_no_console() {
    let agent = Agent::on_test_driver();
    let guest = json!({ "id": "test" });
    let answer = agent.call("Screenshot", &guest);
    // libvirt's own picture is not installed everywhere.
    if answer["error"].is_null() {
        assert_eq!(answer["result"]["type"], "image/png");
        let data = answer["result"]["data"].as_str().expect("base64");
        assert!(data.starts_with("iVBORw0KGgo"), "{data}");
    }
    let error = agent.error("Console", &guest);
    let why = "cannot read the console of test: its definition has no console log";
    assert_eq!(error, format!("invalid argument: {why}"));
    for method in ["Console", "Screenshot"] {
        assert!(agent.error(method, &json!({ "id": "nobody" })).starts_with("[Code-42] "));
        assert_eq!(agent.error(method, &json!({})), "invalid argument");
    }
    agent.end();
}

#[test]
fn console_survives_starts_until_guest_is_deleted() {
    let Some(stack) = require("qemu", Stack::start()) else { return };
    let files = Scratch::new();
    let directory = files.path().to_str().expect("UTF-8");
    let flags = ["--libvirt-uri", "qemu:///system", "--allow-disk-path", directory];
    let agent = Agent::run(stack.command_outside_network(PROGRAM), &flags);
    let guest = telling("tells", b"one <two>\r\n\xFF!", &files);
    let console = || agent.ok("Console", &guest)["console"].as_str().map(str::to_owned);
    agent.ok("CreateGuest", &guest);
    assert_eq!(console().as_deref(), Some(""));
    for starts in 1..=2 {
        agent.ok("Run", &guest);
        let said = "one <two>\r\n\u{FFFD}!".repeat(starts);
        wait_until("it says its text", SOON, || console().as_deref() == Some(&said));
        agent.ok("Poweroff", &guest);
        assert_eq!(console(), Some(said));
    }
    let log = stack.path("/var/log/libvirt/qemu/tells.tty");
    fs::copy(&log, log.with_extension("tty.0")).expect("the stack's own directory");
    agent.ok("Delete", &guest);
    assert!(!log.exists() && !log.with_extension("tty.0").exists());
    agent.ok("CreateGuest", &guest);
    assert_eq!(console().as_deref(), Some(""), "another guest's is not shown");
}

#[test]
fn a_screenshot_is_what_libvirt_sees() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let files = Scratch::new();
    let directory = files.path().to_str().expect("UTF-8");
    let agent = Agent::start(&["--libvirt-uri", &stack.uri(), "--allow-disk-path", directory]);
    let guest = telling("shown", b"x", &files);
    agent.ok("CreateGuest", &guest);
    assert!(agent.error("Screenshot", &guest).starts_with("[Code-55] "));
    agent.ok("Run", &guest);
    agent.ok("Suspend", &guest);
    let [png, seen, ppm] = ["it.png", "seen", "it.ppm"].map(|name| files.path().join(name));
    // Nothing moves any more but the cursor, which qemu has blink on a screen of text.
    wait_until("both see the same", SOON, || {
        stack.virsh_ok(&["screenshot", "shown", seen.to_str().expect("UTF-8")]);
        let shot = agent.ok("Screenshot", &guest);
        assert_eq!((&shot["type"], &shot["guest"]["id"]), (&json!("image/png"), &json!("shown")));
        unbase64(shot["data"].as_str().expect("base64"), &png);
        // libvirt passes on what qemu makes: PNG since 7.1, PPM before.
        let read = |path| fs::read(path).expect("it was written");
        read(&png) == read(&seen) || difference(&png, &seen).is_none()
    });
    let dump = format!("screendump {}", ppm.display());
    stack.virsh_ok(&["qemu-monitor-command", "shown", "--hmp", &dump]);
    let picture = fs::read(&ppm).expect("qemu has written it");
    fs::write(&png, png::of_ppm(&picture).expect("a picture")).expect("scratch is writable");
    assert_eq!(difference(&png, &ppm), None);
    let most = picture.len() / 20;
    assert!(fs::metadata(&png).is_ok_and(|found| found.len() < most as u64), "{most}");
    agent.ok("Delete", &guest);
    agent.end();
}
