//! Guests with a screen, and their screenshots.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::boot_sector::telling_boot_sector;
use super::support::Scratch;

/// Halts.
#[rustfmt::skip]
const HALTS: [u8; 3] = [
    // done:
    0xF4,             // hlt
    0xEB, 0xFD,       // jmp  done
];

/// Decodes a base64 text into a file.
pub(crate) fn unbase64(text: &str, to: &Path) {
    let script = "import base64, sys
data = base64.b64decode(sys.stdin.read(), validate=True)
open(sys.argv[1], 'wb').write(data)";
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", script]).arg(to).stdin(std::process::Stdio::piped());
    let mut python = python.spawn().expect("python3 starts");
    let mut input = python.stdin.take().expect("standard input was piped");
    std::io::Write::write_all(&mut input, text.as_bytes()).expect("it reads");
    drop(input);
    assert!(python.wait().expect("it ends").success());
}

/// Returns a guest with a screen that writes a text to its serial console.
pub(crate) fn telling(id: &str, text: &[u8], files: &Scratch) -> Value {
    let disk = files.path().join(id);
    let mut image = telling_boot_sector(text, &HALTS).to_vec();
    image.resize(1 << 20, 0);
    fs::write(&disk, image).expect("scratch is writable");
    json!({
        "id": id, "type": "qemu", "memory": 32, "cpu": 1, "vnc": -1, "disks": [{ "source": disk }],
    })
}
