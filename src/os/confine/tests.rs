use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Output, Stdio};

use super::*;

const MIB: u64 = 1024 * 1024;

/// A directory of one test, removed at its end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let name = format!("mistify-confine-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, content: &str) -> (PathBuf, File) {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        (path.clone(), File::options().read(true).write(true).open(path).unwrap())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn run(program: &str, words: &[&str], files: &[(&File, Access)]) -> Output {
    run_within(program, words, files, 512 * MIB, 30)
}

fn run_within(
    program: &str,
    words: &[&str],
    files: &[(&File, Access)],
    memory_bytes: u64,
    cpu_s: u64,
) -> Output {
    let mut command = Command::new(program);
    command.args(words).env_clear().env("LC_ALL", "C").stdin(Stdio::null());
    let cpu = Duration::from_secs(cpu_s);
    Confinement { scope: AccessScope::Files(files), memory_bytes, file_bytes: 16 * MIB, cpu }
        .apply(&mut command)
        .unwrap();
    command.output().unwrap()
}

/// Reports a skipped test, as `tests/it/harness/skip.rs` does: directly, because the runner hides the output of a test
/// that passes.
fn skip() {
    let thread = std::thread::current();
    let (test, why) = (thread.name().unwrap_or("a test"), "the kernel has no Landlock");
    writeln!(std::io::stderr(), "{test} does not run, it needs landlock: {why}").unwrap();
    let Some(path) = std::env::var_os("MISTIFY_TEST_SKIPS") else { return };
    let mut file = File::options().create(true).append(true).open(path).unwrap();
    file.write_all(format!("landlock\t{test}\t{why}\n").as_bytes()).unwrap();
}

/// Returns whether the kernel has no Landlock. Fails if the kernel must have it: by its own list, or by
/// `MISTIFY_TEST_REQUIRE`.
fn lacks_landlock() -> bool {
    let lacks = !has_landlock().unwrap();
    if lacks {
        let has = |path: &str, word: &str| {
            let list = fs::read_to_string(path).unwrap_or_default();
            list.trim().split(',').any(|it| it == word)
        };
        assert!(!has("/sys/kernel/security/lsm", "landlock"), "this kernel has Landlock");
        let required = std::env::var("MISTIFY_TEST_REQUIRE").unwrap_or_default();
        assert!(!required.split(',').any(|it| it == "landlock"), "landlock is required here");
        skip();
    }
    lacks
}

#[test]
fn a_confined_program_reads_its_file_alone() {
    if lacks_landlock() {
        return;
    }
    let directory = Directory::new("read");
    let (allowed, file) = directory.file("allowed", "open");
    let (other, _) = directory.file("other", "secret");
    let files = [(&file, Access::Read)];
    let output = run("/bin/cat", &[allowed.to_str().unwrap()], &files);
    assert!(output.status.success() && output.stdout == b"open", "{output:?}");
    let link = directory.0.join("link");
    std::os::unix::fs::symlink(&other, &link).unwrap();
    for path in [other.as_path(), &link, Path::new("/etc/passwd"), Path::new("/proc/self/maps")] {
        let output = run("/bin/cat", &[path.to_str().unwrap()], &files);
        assert!(!output.status.success() && output.stdout.is_empty(), "{path:?}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("Permission denied"), "{path:?}: {said}");
    }
}

#[test]
fn a_file_that_takes_the_place_is_not_read() {
    if lacks_landlock() {
        return;
    }
    let directory = Directory::new("swap");
    let (path, file) = directory.file("allowed", "open");
    let (other, _) = directory.file("other", "secret");
    fs::rename(other, &path).unwrap();
    let output = run("/bin/cat", &[path.to_str().unwrap()], &[(&file, Access::Read)]);
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
}

#[test]
fn a_confined_program_writes_only_where_it_may() {
    if lacks_landlock() {
        return;
    }
    let directory = Directory::new("write");
    let (target, file) = directory.file("target", "before");
    let script = |path: &Path| format!("echo after > {}", path.display());
    let write = |path: &Path, access| run("/bin/sh", &["-c", &script(path)], &[(&file, access)]);
    assert!(!write(&target, Access::Read).status.success());
    assert_eq!(fs::read_to_string(&target).unwrap(), "before");
    assert!(!write(&directory.0.join("new"), Access::ReadWrite).status.success());
    assert!(!directory.0.join("new").exists());
    let output = write(&target, Access::ReadWrite);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(fs::read_to_string(&target).unwrap(), "after\n");
}

#[test]
fn a_confined_program_starts_no_other_program() {
    if lacks_landlock() {
        return;
    }
    let output = run("/bin/sh", &["-c", "/usr/bin/env"], &[]);
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
}

#[test]
fn a_confined_program_makes_no_socket() {
    // bash opens sockets by these names.
    let connect = |path: &str| {
        let output = run("/bin/bash", &["-c", &format!("exec 3<>{path}")], &[]);
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    for kind in ["tcp", "udp"] {
        let (connected, said) = connect(&format!("/dev/{kind}/127.0.0.1/{port}"));
        assert!(!connected && said.contains("Permission denied"), "{kind}: {said}");
    }
}

#[test]
fn a_confined_program_changes_no_mode_and_no_owner() {
    let directory = Directory::new("mode");
    let (path, file) = directory.file("file", "");
    let files = [(&file, Access::ReadWrite)];
    for (program, argument) in [("/bin/chmod", "777"), ("/bin/chown", "65534")] {
        let output = run(program, &[argument, path.to_str().unwrap()], &files);
        assert!(!output.status.success(), "{program}: {output:?}");
    }
    let found = fs::metadata(&path).unwrap();
    assert_eq!((found.mode() & 0o111, found.uid()), (0, process::user()));
}

#[test]
fn confined_program_can_only_read() {
    // The program waits for input, so that its flags can be read.
    let mut command = Command::new("/bin/cat");
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    let (memory_bytes, cpu) = (512 * MIB, Duration::from_secs(30));
    Confinement { scope: AccessScope::Files(&[]), memory_bytes, file_bytes: 0, cpu }
        .apply(&mut command)
        .unwrap();
    let mut child = command.spawn().unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    drop(child.stdin.take());
    child.wait().unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    let effective = u64::from_str_radix(effective.trim(), 16).unwrap();
    assert_eq!(effective & !(1 << CAP_DAC_READ_SEARCH), 0, "{status}");
}

#[test]
fn a_file_that_grows_over_its_limit_ends_the_program() {
    let directory = Directory::new("grow");
    let (path, file) = directory.file("file", "");
    let of = format!("of={}", path.display());
    let files = [(&file, Access::ReadWrite)];
    for (seek, fits) in [("seek=8", true), ("seek=32", false)] {
        let output = run("/bin/dd", &["if=/dev/null", "bs=1M", seek, &of], &files);
        assert_eq!(output.status.success(), fits, "{seek}: {output:?}");
    }
    assert!(fs::metadata(&path).unwrap().len() <= 16 * MIB);
}

#[test]
fn memory_and_processor_time_have_limits() {
    // 16 MiB of text, and copies of that text.
    let script = "x=xxxxxxxxxxxxxxxx; for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do \
                  x=$x$x; done; echo done";
    for (memory_bytes, is_enough) in [(1024 * MIB, true), (16 * MIB, false)] {
        let output = run_within("/bin/sh", &["-c", script], &[], memory_bytes, 30);
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said == "done\n", is_enough, "{memory_bytes}: {output:?}");
    }
    let output = run_within("/bin/sh", &["-c", "while :; do :; done"], &[], 512 * MIB, 1);
    let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
    assert_eq!(signal, Some(libc::SIGXCPU), "{output:?}");
}

#[test]
fn rights_are_those_of_the_kernels_version() {
    // linux/landlock.h: REFER, TRUNCATE and IOCTL_DEV exist since versions 2, 3 and 5.
    let rights = [1, 2, 3, 4, 5, 6, 7].map(filesystem_rights);
    assert_eq!(rights, [0x1fff, 0x3fff, 0x7fff, 0x7fff, 0xffff, 0xffff, 0xffff]);
    assert_eq!((rights[1] & TRUNCATE, rights[2] & TRUNCATE), (0, TRUNCATE));
    assert_eq!((rights[3] & IOCTL_DEV, rights[4] & IOCTL_DEV), (0, IOCTL_DEV));
}
