//! A disk below a pool that can be made to fail, and to work again.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::{Pool, fresh, quietly, run};

/// A device that fails on demand, and the pool on it, which has its name. Both go on drop.
pub(super) struct FailingDisk {
    name: String,
    file: PathBuf,
    device: String,
    sectors: String,
}

impl FailingDisk {
    /// Takes `mib` of the machine's own disk at most.
    pub(super) fn new(mib: u64) -> Self {
        let name = fresh("pool");
        let file = Path::new("/var/tmp").join(&name);
        File::create(&file).and_then(|file| file.set_len(mib << 20)).expect("there is room");
        let device = run("losetup", &["-f", "--show", file.to_str().expect("UTF-8")]);
        let device = device.trim().to_owned();
        let disk = Self { name, file, device, sectors: (mib << 11).to_string() };
        run("dmsetup", &["create", &disk.name, "--table", &disk.works()]);
        disk
    }

    /// Makes the pool.
    pub(super) fn pool(&self) -> Pool {
        run("zpool", &["create", &self.name, &format!("/dev/mapper/{}", self.name)]);
        Pool { name: self.name.clone(), file: None }
    }

    /// From now on every read and write fails.
    pub(super) fn fail(&self) {
        self.switch(&format!("0 {} error", self.sectors));
    }

    /// What was written before is there again, and the pool goes on.
    pub(super) fn work_again(&self) {
        self.switch(&self.works());
        quietly("zpool", &["clear", &self.name]);
    }

    /// From now on every read and write waits.
    pub(super) fn hang(&self) {
        run("dmsetup", &["suspend", "--noflush", "--nolockfs", &self.name]);
    }

    /// What waited is done now.
    pub(super) fn go_on(&self) {
        run("dmsetup", &["resume", &self.name]);
    }

    fn works(&self) -> String {
        format!("0 {} linear {} 0", self.sectors, self.device)
    }

    fn switch(&self, table: &str) {
        // Without a flush, which would wait for what fails.
        quietly("dmsetup", &["suspend", "--noflush", "--nolockfs", &self.name]);
        quietly("dmsetup", &["reload", &self.name, "--table", table]);
        quietly("dmsetup", &["resume", &self.name]);
    }
}

impl Drop for FailingDisk {
    fn drop(&mut self) {
        // A pool that still fails would keep the machine from its end.
        self.work_again();
        quietly("zpool", &["destroy", "-f", &self.name]);
        quietly("dmsetup", &["remove", &self.name]);
        quietly("losetup", &["-d", &self.device]);
        // The machine is thrown away after the tests: a file harms none of them.
        let _ = fs::remove_file(&self.file);
    }
}
