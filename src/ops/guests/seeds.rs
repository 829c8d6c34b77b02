//! The seeds of guests: their content, and the fingerprints that distinguish them.

use std::path::{Path, PathBuf};
use std::time::Instant;
use std::{fs, io};

use hmac_sha256::HMAC;
use parking_lot::Mutex;

use crate::config::Profile;
use crate::guest::domain_xml::with_fw_cfg;
use crate::guest::metadata::Metadata;
use crate::guest::profile;
use crate::guest::seed::files::{self, canonical, given};
use crate::guest::seed::{self, SEED_MIB};
use crate::guest::wire::seed::CloudInit;
use crate::guest::wire::{Guest, GuestRequest, GuestResponse};
use crate::libvirt::XmlKind;
use crate::ops::disks::volume_owners::guest_of;
use crate::ops::guests::devices::change::persistent;
use crate::ops::guests::saved_memory::not_saved;
use crate::ops::guests::seed_files::{SeedFiles, at};
use crate::ops::hypervisor::definition::unreadable;
use crate::ops::metadata::Stored;
use crate::ops::requests::{named_guest, respond};
use crate::ops::{Core, Error, Guests, Session, args};
use crate::os::{files as os_files, own, random};
use crate::pool::GuestLock;
use crate::storage::{
    AdoptionRule, Content, CreatedVolume, Dataset, Id, Maker, PoolName, VolumeSpec, Volumes,
};

/// The file of the key, in the state directory.
const KEY: &str = "seed.key";
const KEY_BYTES: usize = 32;
/// The prefix of a fingerprint, which names its algorithm.
const PREFIX: &str = "hmac-sha256:";

/// The key of the fingerprints of seeds. The metadata of the domain has the fingerprint, and every user of libvirt can
/// read it. The key prevents those users from guessing short secrets from the fingerprint.
#[derive(Default)]
pub(in crate::ops) struct SeedKey {
    directory: Option<PathBuf>,
    key: Mutex<Option<[u8; KEY_BYTES]>>,
}

impl SeedKey {
    /// Creates a key that is read or made on first use: in this directory, or without a directory in memory.
    pub(in crate::ops) fn new(directory: Option<PathBuf>) -> Self {
        Self { directory, ..Self::default() }
    }

    /// Returns the fingerprint of a seed. Without a stored key no seed has a fingerprint yet: with [`KeyAccess::Read`]
    /// the result then comes from a random key, and matches none.
    ///
    /// # Errors
    /// If the key can neither be read nor made.
    fn fingerprint(&self, text: &[u8], access: KeyAccess) -> io::Result<String> {
        let mut hmac = HMAC::new(self.key(access)?);
        hmac.update(text);
        let digits: String = hmac.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(PREFIX.to_owned() + &digits)
    }

    fn key(&self, access: KeyAccess) -> io::Result<[u8; KEY_BYTES]> {
        let mut known = self.key.lock();
        if let Some(key) = *known {
            return Ok(key);
        }
        let stored = match &self.directory {
            Some(directory) => stored_key(directory)?,
            None => None,
        };
        let key = match (stored, &self.directory, access) {
            (Some(key), ..) => key,
            (None, _, KeyAccess::Read) => return Ok(random::bytes()),
            (None, Some(directory), KeyAccess::Make) => new_key(directory)?,
            (None, None, KeyAccess::Make) => random::bytes(),
        };
        *known = Some(key);
        Ok(key)
    }
}

/// The libvirt job of SetSeed.
type Work = Box<dyn FnOnce(&mut Session) -> Result<(), Error> + Send>;

/// Permitted access to the key of fingerprints.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::ops) enum KeyAccess {
    /// Only reads the key.
    Read,
    /// Makes the key if there is none.
    Make,
}

/// Reads the key in a directory, if there is one.
fn stored_key(directory: &Path) -> io::Result<Option<[u8; KEY_BYTES]>> {
    let path = directory.join(KEY);
    let bytes = match os_files::read_own(&path, 2 * KEY_BYTES as u64) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at("read", &path, &error)),
        Ok(bytes) => bytes,
    };
    let wrong = |_| io::Error::new(io::ErrorKind::InvalidData, "it does not have 32 bytes");
    bytes.try_into().map(Some).map_err(wrong).map_err(|error| at("read", &path, &error))
}

/// Makes the key in a directory. After a crash the file is complete or missing; a draft may remain.
fn new_key(directory: &Path) -> io::Result<[u8; KEY_BYTES]> {
    let path = directory.join(KEY);
    let (key, draft) = (random::bytes(), directory.join(format!("{KEY}.new")));
    let write = || {
        own::make_directory(directory)?;
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        os_files::write_new(&draft, &key)?;
        fs::rename(&draft, &path)?;
        fs::File::open(directory)?.sync_all()
    };
    write().map_err(|error| at("create", &path, &error))?;
    Ok(key)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn does_not_fit(error: io::Error) -> Error {
    Error::Invalid(format!("cloud_init does not fit: {error}"))
}

/// Returns why CreateGuest refuses a new guest that has only the fingerprint of a seed.
pub(in crate::ops) fn missing_seed(guest: &Guest) -> Option<Error> {
    let is_missing = given(guest).is_empty() && !guest.seed.is_empty();
    let why =
        "seed is the fingerprint of cloud_init, ignition or credentials, which a new guest needs";
    is_missing.then(|| Error::Invalid(why.to_owned()))
}

impl Guests {
    /// Fills in the fingerprint of a guest's seed. The `seed` of a request counts only without the seed itself: then
    /// the request is a guest from a former answer.
    ///
    /// # Errors
    /// [`Error::Seed`] if the key is unavailable.
    pub(in crate::ops) fn fingerprint_seed(
        &self,
        guest: &mut Guest,
        access: KeyAccess,
    ) -> Result<(), Error> {
        let (kind, text) = match (&guest.cloud_init, canonical(guest)) {
            (Some(cloud_init), _) => ("", cloud_init.canonical()),
            (None, Some(of_files)) => of_files,
            (None, None) => return Ok(()),
        };
        let made = self.core.seed_key.fingerprint(&text, access);
        guest.seed = kind.to_owned() + &made.map_err(Error::Seed)?;
        Ok(())
    }

    /// Replaces the seed of a guest that is off. cloud-init reads it at the guest's next boot; if the request's
    /// `mistify.new_instance` is `true`, it also repeats its tasks for a new instance.
    ///
    /// The answer is the request's guest with the fingerprint of the seed. A call that failed or was killed must be
    /// repeated: until then the guest may have no seed, and cannot start.
    ///
    /// # Errors
    /// [`Error::NoGuest`] without an id; [`Error::Unfit`] for an invalid seed; [`Error::NoDevice`] for a guest without
    /// a seed; [`Error::InUse`] for a running guest; [`Error::Saved`]; errors of libvirt and storage, including a
    /// missing domain.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change).
    pub fn set_seed(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        let mut guest = named_guest(request.guest)?;
        let faults = guest.cloud_init.iter().flat_map(CloudInit::faults);
        if let Some(fault) = faults.chain(files::fault(&guest)).next() {
            return Err(fault.into());
        }
        let is_new = args::is_new_instance(&request.args)?;
        let refused = match &guest.cloud_init {
            _ if given(&guest).is_empty() => "SetSeed needs cloud_init, ignition or credentials",
            None if is_new => "mistify.new_instance needs cloud_init",
            Some(cloud_init) if is_new && !cloud_init.meta_data.is_empty() => {
                "mistify.new_instance must not be set with cloud_init.meta_data"
            }
            _ => "",
        };
        if !refused.is_empty() {
            return Err(Error::Invalid(refused.to_owned()));
        }
        let deadline = self.core.change_deadline(&request.args)?;
        self.fingerprint_seed(&mut guest, KeyAccess::Make)?;
        let lock = self.core.lock_guest(&guest.id, deadline)?;
        match guest.cloud_init.clone() {
            Some(cloud_init) => self.set_disk(&guest, cloud_init, is_new, &lock, deadline)?,
            None => self.set_files(&guest, &lock, deadline)?,
        }
        Ok(respond(guest))
    }

    /// Runs SetSeed for files. After an error the guest has some of the new files and some of the old.
    fn set_files(&self, guest: &Guest, lock: &GuestLock, deadline: Instant) -> Result<(), Error> {
        let (asked, state) = (guest.clone(), self.core.state_dir());
        let set = move |session: &mut Session| {
            let domain = persistent(session, &asked.id)?;
            not_saved(&domain)?;
            let stored = Stored::read(&domain)?;
            let request = stored.metadata.guest.as_ref();
            let former = request.map_or("", |request| request.seed.as_str());
            let kind = |seed: &str| seed.split('-').next().map(str::to_owned);
            if former.is_empty() || kind(former) != kind(&asked.seed) {
                let why = "has no such seed; only CreateGuest makes one";
                return Err(Error::NoDevice(format!("guest {} {why}", asked.id)));
            }
            if domain.is_active()? {
                let (dataset, user) = ("the seed".to_owned(), asked.id.clone());
                return Err(Error::InUse { dataset, user, why: "is running" });
            }
            let files = SeedFiles::new(state.as_deref(), &domain.uuid()?)?;
            files.write(&asked).map_err(Error::Seed)?;
            let xml = domain.xml(XmlKind::Definition)?;
            let directory = files.directory().to_string_lossy();
            let changed =
                with_fw_cfg(&xml, &directory, &files.items(&asked)).map_err(unreadable)?;
            let domain = session.connection()?.define_domain(&changed)?;
            // Last: until then CreateGuest refuses the new seed as another guest's, and this call can be repeated.
            stored.change_request(&domain, |request| request.seed = asked.seed.clone())?;
            files.keep_only(&asked).map_err(Error::Seed)
        };
        self.set_seed_by(Box::new(set), lock, deadline)
    }

    /// Runs a libvirt job of SetSeed.
    fn set_seed_by(&self, work: Work, lock: &GuestLock, deadline: Instant) -> Result<(), Error> {
        self.core.run_locked("SetSeed", deadline, lock, work, |_, _| {})
    }

    /// Runs SetSeed for a disk of cloud-init.
    fn set_disk(
        &self,
        guest: &Guest,
        cloud_init: CloudInit,
        is_new: bool,
        lock: &GuestLock,
        deadline: Instant,
    ) -> Result<(), Error> {
        let (id, pool) = (guest.id.clone(), self.core.volumes.pool().clone());
        let find = move |session: &mut Session| {
            let domain = persistent(session, &id)?;
            not_saved(&domain)?;
            let metadata = Stored::read(&domain)?.metadata;
            let volume = metadata.seed(&pool).ok_or_else(|| {
                let why = "has no seed; only CreateGuest with cloud_init makes one";
                Error::NoDevice(format!("guest {id} {why}"))
            })?;
            if domain.is_active()? {
                let (dataset, user) = (volume.to_string(), id.clone());
                return Err(Error::InUse { dataset, user, why: "is running" });
            }
            let uuid = domain.uuid()?;
            let instance = match (is_new, metadata.besides.instance) {
                (true, _) => random::uuid(),
                (false, instance) if instance.is_empty() => uuid.clone(),
                (false, instance) => instance,
            };
            let stored = metadata.guest.unwrap_or_default();
            let disk = cloud_init.disk(&stored, &instance).map_err(does_not_fit)?;
            Ok((volume, uuid, instance, Content::new(disk)))
        };
        let (volume, uuid, instance, content) =
            self.core.run_locked("SetSeed", deadline, lock, find, |_, _| {})?;
        self.remake_seed(volume, &uuid, content, lock, deadline)?;
        // Last: until then CreateGuest refuses the new seed as another guest's, and this call can be repeated.
        let (id, seed) = (guest.id.clone(), guest.seed.clone());
        let keep = move |session: &mut Session| {
            let domain = session.domain(&id)?;
            let mut stored = Stored::read(&domain)?;
            stored.metadata.besides.instance =
                if instance == uuid { String::new() } else { instance };
            stored.change_request(&domain, |request| request.seed = seed)
        };
        self.set_seed_by(Box::new(keep), lock, deadline)
    }

    /// Destroys the seed of a domain and makes it again. The agent cannot overwrite the old one: libvirt has made
    /// qemu's user its owner, and does not restore the owner of a read-only disk.
    fn remake_seed(
        &self,
        volume: Dataset,
        uuid: &str,
        content: Content,
        lock: &GuestLock,
        deadline: Instant,
    ) -> Result<(), Error> {
        let maker = Maker::domain(uuid);
        let owner = guest_of(&volume).and_then(|id| Id::parse(id).ok());
        let in_use = self.core.others("SetSeed", lock.guest(), deadline)?.in_use;
        let wanted = VolumeSpec {
            volume: volume.clone(),
            image: None,
            size_mib: SEED_MIB,
            space: self.core.space(),
            owner: owner.clone(),
            maker: Some(maker.clone()),
            // A volume of this name that `take_back` did not destroy belongs to somebody else.
            adoption: AdoptionRule::Unwritten,
            unmarked: false,
            content: Some(content),
        };
        let made = CreatedVolume { volume, owner, maker: Some(maker), with_parent: false };
        let remake = move |volumes: &dyn Volumes| {
            volumes.take_back(&[made], &in_use, deadline)?.complete()?;
            volumes.provision(&wanted, deadline)
        };
        self.core.on_storage("SetSeed", lock.guest(), Some(lock), deadline, remake).map(drop)
    }

    /// Adds the disk of the seed to a guest that has a seed.
    pub(in crate::ops) fn add_seed(&self, guest: &mut Guest) {
        let is_modern = profile::of(guest, self.core.host.profile) == Profile::Modern;
        guest.disks.extend(seed::disk(guest, is_modern));
    }

    /// Sets the content of the seed's volume, which is always the last one. Storage writes it when it creates the
    /// volume. The domain's uuid is the instance id.
    ///
    /// # Errors
    /// If the content does not fit.
    pub(super) fn set_seed_content(
        &self,
        guest: &Guest,
        uuid: &str,
        wanted: &mut [VolumeSpec],
    ) -> Result<(), Error> {
        let (Some(cloud_init), Some(last)) = (&guest.cloud_init, wanted.last_mut()) else {
            return Ok(());
        };
        let disk = cloud_init.disk(guest, uuid).map_err(does_not_fit)?;
        last.content = Some(Content::new(disk));
        Ok(())
    }
}

impl Core {
    /// Returns the state directory of the agent, if it has one.
    pub(in crate::ops) fn state_dir(&self) -> Option<PathBuf> {
        self.seed_key.directory.clone()
    }

    /// Returns the files of the seed of the domain with this uuid.
    ///
    /// # Errors
    /// As [`SeedFiles::new`].
    pub(in crate::ops) fn seed_files(&self, uuid: &str) -> Result<SeedFiles, Error> {
        SeedFiles::new(self.seed_key.directory.as_deref(), uuid)
    }

    /// Returns the files of a guest's seed, if it has ignition or credentials.
    ///
    /// # Errors
    /// As [`SeedFiles::new`].
    pub(in crate::ops) fn own_seed_files(
        &self,
        guest: &Guest,
        uuid: &str,
    ) -> Result<Option<SeedFiles>, Error> {
        canonical(guest).map(|_| self.seed_files(uuid)).transpose()
    }
}

impl Metadata {
    /// Returns the volume of the guest's seed, the last disk of that name; `None` for a guest without a seed.
    pub(in crate::ops) fn seed(&self, pool: &PoolName) -> Option<Dataset> {
        let has_seed = self.guest.as_ref().is_some_and(|request| !request.seed.is_empty());
        let named = self.device.disks.iter().rev();
        let mut volumes = named.filter_map(|disk| pool.full_dataset(&disk.volume).ok());
        volumes.find(Dataset::is_seed).filter(|_| has_seed)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_is_the_agents_alone() {
        let directory =
            std::env::temp_dir().join(format!("mistify-seed-key-{}", std::process::id()));
        let fingerprint = |text: &[u8]| {
            SeedKey::new(Some(directory.clone())).fingerprint(text, KeyAccess::Make).unwrap()
        };
        let untouched = SeedKey::new(Some(directory.clone()));
        untouched.fingerprint(b"secret", KeyAccess::Read).unwrap();
        assert!(!directory.exists());
        let first = fingerprint(b"secret");
        assert_eq!(first.len(), PREFIX.len() + 64);
        assert_eq!(fingerprint(b"secret"), first, "after a restart");
        assert_ne!(fingerprint(b"other"), first);
        let mode = fs::metadata(directory.join(KEY)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(directory.join(KEY), "short").unwrap();
        let error = SeedKey::new(Some(directory.clone()))
            .fingerprint(b"secret", KeyAccess::Make)
            .unwrap_err();
        assert!(error.to_string().contains("does not have 32 bytes"), "{error}");
        fs::remove_dir_all(&directory).unwrap();
        let other = SeedKey::default().fingerprint(b"secret", KeyAccess::Make).unwrap();
        assert_ne!(other, first, "another host's");
    }
}
