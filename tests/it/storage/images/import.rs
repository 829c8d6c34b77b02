//! `mistify-libvirt image import`.

use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::{Bed, MIB, QEMU_IMG, qemu_img};
use crate::harness::skip::require;
use crate::harness::support::{AtEnd, Random};

fn run_qemu_img(words: &[&str], directory: &Path) {
    let status = Command::new(QEMU_IMG).args(words).current_dir(directory).output();
    assert!(status.as_ref().is_ok_and(|output| output.status.success()), "{status:?}");
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(super) fn raw_and_qcow2_become_images_of_the_same_content(bed: Bed) {
    if require("qemu", qemu_img()).is_none() {
        return;
    }
    let directory = bed.scratch.path();
    let mut content = vec![0; 8 * MIB];
    content[5 * MIB..][..5].copy_from_slice(b"there");
    fs::write(directory.join("a.raw"), &content).expect("the directory takes files");
    run_qemu_img(&["convert", "-O", "qcow2", "a.raw", "a.qcow2"], directory);
    assert!(fs::metadata(directory.join("a.qcow2")).expect("it is made").len() < 8 << 20);

    for (file, id) in [("a.raw", "raw"), ("a.qcow2", "qcow2")] {
        let output = bed.run_import(file, id);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let said = format!("{id} 8 MiB {}@", bed.full(&format!("images/{id}")));
        assert!(text(&output.stdout).starts_with(&said), "{output:?}");
        let progress = text(&output.stderr);
        assert!(progress.ends_with("8 of 8 MiB\n"), "{progress}");

        let clone = json!({ "id": id, "dest": format!("guests/{id}/disk-0") });
        bed.ok("CloneImage", &clone);
        let cloned = fs::read(bed.path(&format!("guests/{id}/disk-0"))).expect("a file");
        assert!(cloned == content, "{file}");
    }
    bed.agent.end();
}

pub(super) fn file_named_like_a_url_is_a_file(bed: Bed) {
    if require("qemu", qemu_img()).is_none() {
        return;
    }
    let name = "nbd:127.0.0.1:1";
    fs::write(bed.scratch.path().join(name), vec![0; MIB]).expect("the directory takes files");
    let output = bed.run_import(name, "a");
    assert!(output.status.success(), "{output:?}");
    bed.agent.end();
}

pub(super) fn impossible_import_is_one_line_and_leaves_nothing(bed: Bed) {
    if require("qemu", qemu_img()).is_none() {
        return;
    }
    let directory = bed.scratch.path();
    fs::write(directory.join("a.raw"), vec![0; MIB]).expect("the directory takes files");
    run_qemu_img(&["create", "-f", "vmdk", "a.vmdk", "1M"], directory);
    run_qemu_img(&["create", "-f", "qcow2", "-F", "raw", "-b", "a.raw", "top.qcow2"], directory);
    let stream = [&[0; 8], &0x2_f5ba_cbac_u64.to_le_bytes()[..], &[0; 312]].concat();
    fs::write(directory.join("a.zfs"), stream).expect("the directory takes files");
    let no_stream = if bed.pool.is_some() { "cannot receive" } else { "invalid argument: " };
    for (file, id, why) in [
        ("none", "a", "No such file or directory"),
        ("a.raw", "a/b", "invalid argument: id \"a/b\" "),
        ("a.vmdk", "a", "the format is vmdk, not raw, qcow2 or a zfs stream"),
        ("top.qcow2", "a", "the disk needs another file"),
        ("a.zfs", "a", no_stream),
    ] {
        let output = bed.run_import(file, id);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{file}: {said}");
        let lines: Vec<&str> = said.lines().filter(|line| !line.ends_with(" MiB")).collect();
        let [error] = lines[..] else { panic!("one line beside the progress: {said}") };
        assert!(
            error.starts_with("mistify-libvirt: cannot import ") && error.contains(why),
            "{error}"
        );
    }
    assert_eq!(bed.ok("ListImages", &json!({})), json!({ "images": [] }));
    assert_eq!(bed.volumes(), [""; 0]);

    assert!(bed.run_import("a.raw", "a").status.success());
    let again = bed.run_import("a.raw", "a");
    assert_eq!(again.status.code(), Some(1));
    let taken = format!("cannot create {}: it already exists", bed.full("images/a"));
    assert!(text(&again.stderr).contains(&taken), "{again:?}");
    bed.agent.end();
}

pub(super) fn an_incomplete_qcow2_disk_is_refused(bed: Bed) {
    if require("qemu", qemu_img()).is_none() {
        return;
    }
    let directory = bed.scratch.path();
    fs::write(directory.join("a.raw"), vec![7; 3 * MIB]).expect("the directory takes files");
    run_qemu_img(&["convert", "-O", "qcow2", "a.raw", "whole.qcow2"], directory);
    let whole = fs::read(directory.join("whole.qcow2")).expect("it is made");
    for (name, bytes) in [("cut.qcow2", whole.len() * 2 / 3), ("head.qcow2", 400_000)] {
        fs::write(directory.join(name), &whole[..bytes]).expect("the directory takes files");
        let output = bed.run_import(name, "cut");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{name}: {said}");
        assert!(said.contains("the qcow2 file is damaged or incomplete: "), "{said}");
    }
    assert_eq!(bed.ok("ListImages", &json!({})), json!({ "images": [] }));
    assert_eq!(bed.volumes(), [""; 0]);
    bed.agent.end();
}

pub(super) fn a_compressed_disk_is_decompressed_or_refused(bed: Bed) {
    if require("qemu", qemu_img()).is_none() {
        return;
    }
    let directory = bed.scratch.path();
    let content = vec![7; 3 * MIB];
    fs::write(directory.join("a.raw"), &content).expect("the directory takes files");
    run_qemu_img(&["convert", "-O", "qcow2", "a.raw", "a.qcow2"], directory);
    let compress = |words: &[&str]| {
        let status = Command::new(words[0]).args(&words[1..]).current_dir(directory).status();
        assert!(status.is_ok_and(|it| it.success()), "{words:?}");
    };
    compress(&["gzip", "-k", "a.raw"]);
    // A minimal Debian has gzip alone.
    let has_xz = Path::new("/usr/bin/xz").exists();
    if has_xz {
        compress(&["xz", "-k", "a.qcow2"]);
    } else {
        fs::write(directory.join("a.qcow2.xz"), b"\xfd7zXZ\0").expect("the directory takes files");
    }
    for (file, id) in [("a.raw.gz", "gz"), ("a.qcow2.xz", "xz")] {
        let output = bed.run_import(file, id);
        if id == "xz" && !has_xz {
            let said = text(&output.stderr);
            assert!(said.contains("compressed with xz; decompress it first"), "{said}");
            continue;
        }
        assert!(output.status.success(), "{file}: {output:?}");
        assert!(text(&output.stdout).starts_with(&format!("{id} 3 MiB ")), "{output:?}");
        let clone = json!({ "id": id, "dest": format!("guests/{id}/disk-0") });
        bed.ok("CloneImage", &clone);
        let cloned = fs::read(bed.path(&format!("guests/{id}/disk-0"))).expect("a file");
        assert!(cloned == content, "{file}");
    }
    let gz = fs::read(directory.join("a.raw.gz")).expect("it is made");
    fs::write(directory.join("cut.gz"), &gz[..gz.len() / 2]).expect("the directory takes files");
    fs::write(directory.join("a.bz2"), b"BZh91AY&SY").expect("the directory takes files");
    for (file, why) in [
        ("cut.gz", "cannot decompress the file with gzip: "),
        ("a.bz2", "the file is compressed with bzip2; decompress it first"),
    ] {
        let output = bed.run_import(file, "none");
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains(why), "{file}: {said}");
    }
    bed.agent.end();
}

pub(super) fn a_qcow2_that_a_guest_writes_to_is_refused(bed: Bed) {
    let qemu_io = "/usr/bin/qemu-io";
    if require("qemu", qemu_img()).is_none() || !Path::new(qemu_io).exists() {
        return;
    }
    run_qemu_img(&["create", "-f", "qcow2", "a.qcow2", "1M"], bed.scratch.path());
    // qemu-io takes the locks of an image as a guest's QEMU does, and answers when it has them.
    let mut writer = Command::new(qemu_io)
        .args(["-f", "qcow2", "a.qcow2"])
        .current_dir(bed.scratch.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut input = writer.stdin.take().expect("piped");
    input.write_all(b"length\n").expect("it reads");
    let mut answer = String::new();
    let mut output = BufReader::new(writer.stdout.take().expect("piped"));
    output.read_line(&mut answer).expect("it answers");
    assert!(answer.contains("1 MiB"), "{answer}");
    let refused = bed.run_import("a.qcow2", "locked");
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("Failed to get shared \"write\" lock"), "{said}");
    drop(input);
    writer.wait().expect("it ends with its input");
    assert!(bed.run_import("a.qcow2", "free").status.success());
    bed.agent.end();
}

/// Imports while an attacker is at work; each one that raced some of its steps would bring the secret in.
const ATTACKED_IMPORTS: usize = 12;
/// The last of them, if all before have ended the same way.
const ATTACKED_IMPORTS_MAX: usize = 100;
/// The attacker changes the file this often at least: an import takes some 100 ms.
const ATTACK_PAUSE_MS: u64 = 30;
/// Where the headers of these tests have names of files.
const NAME_AT: u64 = 0x400;
const BACKING_FILE_AT: u64 = 8;
const FEATURES_AT: u64 = 72;
const DATA_FILE: u64 = 1 << 2;

/// Makes `good.qcow2`, and `secret.raw`; the content of the one and the path of the other.
fn good_and_secret(directory: &Path) -> (Vec<u8>, String) {
    crate::harness::cost::slow("imports many times while the file changes");
    let mut content = vec![0; 4 * MIB];
    content[2 * MIB..3 * MIB].fill(7);
    fs::write(directory.join("good.raw"), &content).expect("the directory takes files");
    run_qemu_img(&["convert", "-O", "qcow2", "good.raw", "good.qcow2"], directory);
    fs::write(directory.join("secret.raw"), b"secret ".repeat(MIB))
        .expect("the directory takes files");
    (content, directory.join("secret.raw").to_str().expect("UTF-8").to_owned())
}

/// Imports `attacked.qcow2` again and again while `attack` runs again and again. Each import either fails
/// with a line that says why, or has the content of the good disk.
fn import_under_attack(bed: &Bed, id: &str, content: &[u8], attack: impl Fn(bool) + Sync) {
    let (stop, random) = (AtomicBool::new(false), Random::new(19));
    thread::scope(|scope| {
        let _end = AtEnd(&stop);
        scope.spawn(|| {
            let mut is_evil = true;
            while !stop.load(Ordering::SeqCst) {
                attack(is_evil);
                is_evil = !is_evil;
                thread::sleep(Duration::from_millis(random.below(ATTACK_PAUSE_MS)));
            }
        });
        let (mut imported, mut refused) = (0, 0);
        for index in 0..ATTACKED_IMPORTS_MAX {
            if index >= ATTACKED_IMPORTS && imported > 0 && refused > 0 {
                break;
            }
            let id = format!("{id}-{index}");
            let output = bed.run_import("attacked.qcow2", &id);
            let said = text(&output.stderr);
            if !output.status.success() {
                let errors: Vec<&str> = said.lines().filter(|it| !it.ends_with(" MiB")).collect();
                let prefix = "mistify-libvirt: cannot import attacked.qcow2: ";
                assert!(errors.len() == 1 && errors[0].starts_with(prefix), "{said}");
                println!("refused: {}", errors[0]);
                refused += 1;
                continue;
            }
            let clone = json!({ "id": id, "dest": format!("guests/{id}/disk-0") });
            bed.ok("CloneImage", &clone);
            let cloned = fs::read(bed.path(&format!("guests/{id}/disk-0"))).expect("a file");
            assert!(!cloned.windows(6).any(|bytes| bytes == b"secret"), "import {index}");
            assert!(cloned == content, "import {index}");
            println!("imported: {id}");
            imported += 1;
        }
        // Else none of them met the change.
        assert!(imported > 0 && refused > 0, "{imported} imported, {refused} refused");
    });
    // Without an attack the same file is imported.
    attack(false);
    let output = bed.run_import("attacked.qcow2", &format!("{id}-calm"));
    assert!(output.status.success(), "{}", text(&output.stderr));
}

pub(super) fn a_qcow2_that_is_swapped_meanwhile_reads_no_secret(bed: Bed) {
    if require("qemu", qemu_img()).is_none() {
        return;
    }
    let directory = bed.scratch.path();
    let (content, secret) = good_and_secret(directory);
    run_qemu_img(
        &["create", "-f", "qcow2", "-F", "raw", "-b", &secret, "evil.qcow2", "4M"],
        directory,
    );
    fs::copy(directory.join("good.qcow2"), directory.join("attacked.qcow2")).expect("it is copied");
    import_under_attack(&bed, "swapped", &content, |is_evil| {
        let from = if is_evil { "evil.qcow2" } else { "good.qcow2" };
        fs::hard_link(directory.join(from), directory.join("next")).expect("a second name");
        fs::rename(directory.join("next"), directory.join("attacked.qcow2"))
            .expect("it is renamed");
        // Two names of one file stay where they are.
        let _ = fs::remove_file(directory.join("next"));
    });
    bed.agent.end();
}

pub(super) fn qcow2_rewritten_during_import_reads_no_secret(bed: Bed) {
    if require("qemu", qemu_img()).is_none() {
        return;
    }
    let directory = bed.scratch.path();
    let (content, secret) = good_and_secret(directory);
    let secret = secret.as_bytes();
    let length = u32::try_from(secret.len()).expect("a short name");
    let good = fs::read(directory.join("good.qcow2")).expect("it is made");

    let attacked = directory.join("attacked.qcow2");
    fs::write(&attacked, &good).expect("the directory takes files");
    let file = File::options().write(true).open(&attacked).expect("it is there");
    let write = |bytes: &[u8], at: u64| file.write_all_at(bytes, at).expect("it is written");
    write(secret, NAME_AT);
    import_under_attack(&bed, "backed", &content, |is_evil| {
        let mut name = [0; 12];
        if is_evil {
            name[..8].copy_from_slice(&NAME_AT.to_be_bytes());
            name[8..].copy_from_slice(&length.to_be_bytes());
        }
        write(&name, BACKING_FILE_AT);
    });
    write(&[0; 12], BACKING_FILE_AT);

    // The header's extensions begin where its length says: the name of the data file is the first of them.
    let header_bytes = u32::from_be_bytes(good[100..104].try_into().expect("four bytes"));
    let extension = [&0x4441_5441_u32.to_be_bytes()[..], &length.to_be_bytes(), secret].concat();
    let padding = extension.len().next_multiple_of(8) - extension.len();
    let extensions = [&extension[..], &vec![0; padding + 8]].concat();
    write(&extensions, u64::from(header_bytes));
    // Such a file is copied first.
    file.set_permissions(Permissions::from_mode(0o666)).expect("it is ours");
    import_under_attack(&bed, "data", &content, |is_evil| {
        let features = if is_evil { DATA_FILE } else { 0 };
        write(&features.to_be_bytes(), FEATURES_AT);
    });
    bed.agent.end();
}
