//! The seeds of guests: what they say, and the fingerprints by which they are told apart.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use hmac_sha256::HMAC;
use parking_lot::Mutex;

use crate::config::Profile;
use crate::guest::metadata::Metadata;
use crate::guest::wire::{Guest, GuestRequest, GuestResponse};
use crate::guest::{profile, seed};
use crate::ops::devices::persistent;
use crate::ops::metadata::Stored;
use crate::ops::{Error, Libvirt, Session, args, named_guest, respond};
use crate::os::{files, own, random};
use crate::storage::{Content, Dataset, Maker, Volumes, Wanted};

/// The file of the key, in the state directory.
const KEY: &str = "seed.key";
const KEY_BYTES: usize = 32;
/// Before a fingerprint, which says how it was made.
const PREFIX: &str = "hmac-sha256:";

/// The key of the fingerprints of seeds. Without it nobody can try out short secrets against a fingerprint, which
/// is in the metadata of the domain: everybody who may ask libvirt can read those.
#[derive(Debug, Default)]
pub(super) struct SeedKey {
    folder: Option<PathBuf>,
    key: Mutex<Option<[u8; KEY_BYTES]>>,
}

impl SeedKey {
    /// The key in this folder; without a folder one that ends with the process.
    pub(super) fn new(folder: Option<PathBuf>) -> Self {
        Self { folder, ..Self::default() }
    }

    /// The fingerprint of what a guest is told. Where there is no key yet, no seed has a fingerprint: then a
    /// caller that changes nothing is told one of no key.
    ///
    /// # Errors
    /// Where the key can neither be read nor be made.
    fn fingerprint(&self, guest: &str, text: &[u8], may: May) -> io::Result<String> {
        let mut hmac = HMAC::new(self.key(may)?);
        // The same seed in two guests is not to be seen.
        hmac.update(guest.len().to_be_bytes());
        hmac.update(guest.as_bytes());
        hmac.update(text);
        let digits: String = hmac.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(PREFIX.to_owned() + &digits)
    }

    fn key(&self, may: May) -> io::Result<[u8; KEY_BYTES]> {
        let mut known = self.key.lock();
        if let Some(key) = *known {
            return Ok(key);
        }
        let stored = match &self.folder {
            Some(folder) => stored_key(folder)?,
            None => None,
        };
        let key = match (stored, &self.folder, may) {
            (Some(key), ..) => key,
            (None, _, May::Read) => return Ok(random::bytes()),
            (None, Some(folder), May::Make) => new_key(folder)?,
            (None, None, May::Make) => random::bytes(),
        };
        *known = Some(key);
        Ok(key)
    }
}

/// What may be done for a fingerprint.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum May {
    /// The key is read.
    Read,
    /// The key is made where there is none.
    Make,
}

/// The key in a folder, if there is one.
fn stored_key(folder: &Path) -> io::Result<Option<[u8; KEY_BYTES]>> {
    let path = folder.join(KEY);
    let bytes = match files::read_own(&path, 2 * KEY_BYTES as u64) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at("read", &path, &error)),
        Ok(bytes) => bytes,
    };
    let wrong = |_| io::Error::new(io::ErrorKind::InvalidData, "it does not have 32 bytes");
    bytes.try_into().map(Some).map_err(wrong).map_err(|error| at("read", &path, &error))
}

/// Makes the key in a folder: it is complete under its name, or not there. A crash leaves a draft at most.
fn new_key(folder: &Path) -> io::Result<[u8; KEY_BYTES]> {
    let path = folder.join(KEY);
    let (key, draft) = (random::bytes(), folder.join(format!("{KEY}.new")));
    let write = || {
        own::make_directory(folder)?;
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        files::write_new(&draft, &key)?;
        fs::rename(&draft, &path)?;
        fs::File::open(folder)?.sync_all()
    };
    write().map_err(|error| at("create", &path, &error))?;
    Ok(key)
}

fn at(what: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {what} {}: {error}", path.display()))
}

/// Why a guest cannot be new: its seed is named by its fingerprint alone.
pub(super) fn unsaid(guest: &Guest) -> Option<Error> {
    let is_unsaid = guest.cloud_init.is_none() && !guest.seed.is_empty();
    let why = "seed is the fingerprint of cloud_init, which a new guest needs";
    is_unsaid.then(|| Error::Invalid(why.to_owned()))
}

impl Libvirt {
    /// Fills in the fingerprint of the seed that a guest is to have. What a request says of it counts only
    /// without `cloud_init`: then it is a guest as it was answered.
    ///
    /// # Errors
    /// [`Error::SeedKey`] where the key cannot be had.
    pub(super) fn fingerprint_seed(&self, guest: &mut Guest, may: May) -> Result<(), Error> {
        let Some(cloud_init) = &guest.cloud_init else { return Ok(()) };
        let made = self.seed_key.fingerprint(&guest.id, &cloud_init.canonical(), may);
        guest.seed = made.map_err(Error::SeedKey)?;
        Ok(())
    }

    /// Replaces what a guest finds in its seed. cloud-init reads it at the guest's next boot, and does once more
    /// what it does for each instance where the request's `mistify.new_instance` is `true`.
    ///
    /// The answer is the request's guest with the fingerprint of the seed. A call that was killed is to be
    /// repeated: it can leave a part of the new seed.
    ///
    /// # Errors
    /// [`Error::NoGuest`] without an id; [`Error::Unfit`] for a seed that cannot be; [`Error::NoDevice`] for a guest
    /// without a seed; what libvirt and storage say, a missing domain among it.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change).
    pub fn set_seed(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        let mut guest = named_guest(request.guest)?;
        let Some(cloud_init) = guest.cloud_init.clone() else {
            return Err(Error::Invalid("SetSeed needs cloud_init".to_owned()));
        };
        if let Some(fault) = cloud_init.faults().into_iter().next() {
            return Err(fault.into());
        }
        let is_new = args::is_new_instance(&request.args)?;
        let deadline = self.change_deadline(&request.args)?;
        self.fingerprint_seed(&mut guest, May::Make)?;
        let hold = self.hold(&guest.id, deadline)?;
        let (id, pool) = (guest.id.clone(), self.volumes.pool().clone());
        let find = move |session: &mut Session| {
            let domain = persistent(session, &id)?;
            let Metadata { guest, device, .. } = Stored::read(&domain)?.metadata;
            let mut volumes =
                device.disks.iter().filter_map(|it| pool.full_dataset(&it.volume).ok());
            match (guest, volumes.find(Dataset::is_seed)) {
                (Some(kept), Some(volume)) if !kept.seed.is_empty() => {
                    Ok((kept, volume, domain.uuid()?))
                }
                _ => Err(Error::NoDevice(format!(
                    "guest {id} has no seed; only CreateGuest with cloud_init makes one"
                ))),
            }
        };
        let (kept, volume, uuid) = self.held("SetSeed", deadline, &hold, find, |_, _| {})?;
        let maker = Maker::domain(&uuid);
        let rewrite = move |volumes: &dyn Volumes| {
            let make = |old: &[u8]| {
                let disk = match is_new {
                    true => cloud_init.disk(&kept, &random::uuid()),
                    false => cloud_init.disk_after(&kept, old, &uuid),
                };
                disk.map(Content::new)
            };
            volumes.rewrite(&volume, &maker, &make, deadline)
        };
        self.on_storage("SetSeed", &guest.id, Some(&hold), deadline, rewrite)?;
        // Last: until then CreateGuest with the new seed is another guest, and this call can be repeated.
        let (id, seed) = (guest.id.clone(), guest.seed.clone());
        let keep = move |session: &mut Session| {
            let domain = session.domain(&id)?;
            Stored::read(&domain)?.change_request(&domain, |request| request.seed = seed)
        };
        self.held("SetSeed", deadline, &hold, keep, |_, _| {})?;
        Ok(respond(guest))
    }

    /// Adds the disk of its seed to a guest that has one.
    pub(super) fn add_seed(&self, guest: &mut Guest) {
        let is_modern = profile::of(guest, self.host.profile) == Profile::Modern;
        guest.disks.extend(seed::disk(guest, is_modern));
    }

    /// Says of the seed's volume, the last one, what is in it. The domain's uuid is the instance id.
    ///
    /// # Errors
    /// Where it does not fit.
    pub(super) fn write_seed(
        &self,
        guest: &Guest,
        uuid: &str,
        wanted: &mut [Wanted],
    ) -> Result<(), Error> {
        let (Some(cloud_init), Some(last)) = (&guest.cloud_init, wanted.last_mut()) else {
            return Ok(());
        };
        let disk = cloud_init.disk(guest, uuid);
        let disk =
            disk.map_err(|error| Error::Invalid(format!("cloud_init does not fit: {error}")))?;
        last.content = Some(Content::new(disk));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_is_the_agents_alone() {
        let folder = std::env::temp_dir().join(format!("mistify-seed-key-{}", std::process::id()));
        let fingerprint = |guest, text: &[u8]| {
            SeedKey::new(Some(folder.clone())).fingerprint(guest, text, May::Make).unwrap()
        };
        let untouched = SeedKey::new(Some(folder.clone()));
        untouched.fingerprint("web-1", b"secret", May::Read).unwrap();
        assert!(!folder.exists());
        let first = fingerprint("web-1", b"secret");
        assert_eq!(first.len(), PREFIX.len() + 64);
        assert_eq!(fingerprint("web-1", b"secret"), first, "after a restart");
        assert_ne!(fingerprint("web-2", b"secret"), first);
        assert_ne!(fingerprint("web-1", b"other"), first);
        let mode = fs::metadata(folder.join(KEY)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(folder.join(KEY), "short").unwrap();
        let error = SeedKey::new(Some(folder.clone()))
            .fingerprint("web-1", b"secret", May::Make)
            .unwrap_err();
        assert!(error.to_string().contains("does not have 32 bytes"), "{error}");
        fs::remove_dir_all(&folder).unwrap();
        let other = SeedKey::default().fingerprint("web-1", b"secret", May::Make).unwrap();
        assert_ne!(other, first, "another host's");
    }
}
