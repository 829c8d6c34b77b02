//! `image import` and `image pull`: import an image from a file or from a URL into the store, with
//! `crate::import`.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::config::Config;
use crate::fetch::{self, Cancellation, Download};
use crate::import::{ImportReporter, import, open};
use crate::os::resolve::TrustedUsers;
use crate::os::service::agent_user;
use crate::storage::{self, Id, MIB, StoredImage, Volumes};

/// Imports `file` as the image `id`; writes the progress to standard error and the image to standard output.
///
/// # Errors
/// One line with the cause. Nothing of the image remains then.
///
/// # Blocking
/// As [`import`].
pub fn run(config: &Config, file: &Path, id: &str) -> Result<(), String> {
    let image = import_file(config, file, id)
        .map_err(|error| format!("cannot import {}: {error}", file.display()))?;
    println!("{} {} MiB {}", image.id, image.size_mib(), image.snapshot);
    Ok(())
}

/// Downloads `url` and imports it as the image `id`, if `sha256` is its checksum.
///
/// # Errors
/// One line with the cause, also if the image exists. Nothing of the new image remains then.
///
/// # Blocking
/// As [`Download::run`], [`sha256`](crate::fetch::sha256) and [`import`].
pub fn pull(config: &Config, url: &str, id: &str, sha256: &str) -> Result<(), String> {
    let image = fetch_and_import(config, url, id, sha256)
        .map_err(|error| format!("cannot pull {url}: {error}"))?;
    println!("{} {} MiB {}", image.id, image.size_mib(), image.snapshot);
    Ok(())
}

fn fetch_and_import(
    config: &Config,
    url: &str,
    id: &str,
    sha256: &str,
) -> Result<StoredImage, Box<dyn Error>> {
    let id = Id::parse(id)?;
    let (volumes, _) = store(config)?;
    let deadline = Instant::now() + config.deadlines.change;
    match volumes.image(&id, deadline) {
        Ok(image) => return Err(storage::Error::Exists { name: image.volume.to_string() }.into()),
        Err(storage::Error::NotFound { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let service = config.host.image_service.as_deref();
    let (volumes, cancellation) = (&*volumes, &Cancellation::default());
    let download = Download { volumes, service, sharers: 1, deadline, cancellation };
    let content = download.run(url.to_owned())?;
    let sum = fetch::sha256(&content, config.storage.kill)?;
    if sum != sha256 {
        return Err(format!("SHA-256 checksum is {sum}, expected {sha256}").into());
    }
    let reporter =
        ImportReporter { progress: &report, warn: &|line| eprintln!("pulling {url}: {line}") };
    import(volumes, content, false, &id, config.storage.kill, &reporter)
}

fn report(done_bytes: u64, size_bytes: u64) {
    eprintln!("{} of {} MiB", done_bytes / MIB, size_bytes.div_ceil(MIB));
}

/// Opens the store; returns it with the users whose files it trusts.
fn store(config: &Config) -> Result<(Arc<dyn Volumes>, TrustedUsers), Box<dyn Error>> {
    let trusted = TrustedUsers::with_agent(agent_user()?);
    Ok((storage::open(&config.host, &config.storage, trusted, None)?, trusted))
}

fn import_file(config: &Config, file: &Path, id: &str) -> Result<StoredImage, Box<dyn Error>> {
    let id = Id::parse(id)?;
    let (volumes, trusted) = store(config)?;
    let (content, may_change) = open(file, trusted)?;
    let warn = |line: &str| eprintln!("importing {}: {line}", file.display());
    let reporter = ImportReporter { progress: &report, warn: &warn };
    import(&*volumes, content, may_change, &id, config.storage.kill, &reporter)
}
