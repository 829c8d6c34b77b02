//! Fetches images from the image service on request, on [`FETCH_THREADS`] threads of its own.
//!
//! Requests for the same image share its download. A failure is stored until a request after [`FETCH_RETRY`]. All
//! downloads end with the agent: a partial image has no name, and callers request it again.
//!
//! ```text
//! request ──► Waiting ──► Running ──► complete: no entry
//!                │           │  └───► Failed ──► request, after FETCH_RETRY
//!             cancel      cancel
//!                ▼           ▼
//!             no entry    Cancelled ──► no entry, and no image
//! ```

use std::error::Error as StdError;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use log::{info, warn};
use parking_lot::{Condvar, Mutex};

use crate::config::Config;
use crate::config::fixed::{FETCH_FAILURES, FETCH_QUEUE, FETCH_RETRY, FETCH_THREADS};
use crate::fetch::{Cancellation, Download, component};
use crate::import::{ImportReporter, import};
use crate::ops::Error;
use crate::os::peer::Share;
use crate::pool::{Quota, current};
use crate::storage::{self, Id, Volumes};

/// The error of an agent without an image service.
const OFF: &str = "cannot fetch images: this agent has no image service (--image-service); use \
                   mistify-libvirt image pull or image import";

/// The state of a requested image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// A thread fetches it, or it waits for a thread.
    Fetching,
    /// The fetch failed, for this reason.
    Failed(String),
    /// A caller cancelled it. The store may have parts for a moment, which the thread then removes.
    Cancelled,
}

/// The requested images.
pub(in crate::ops) struct Fetches {
    /// Whether the agent has an image service.
    is_on: bool,
    table: Arc<Table>,
}

#[derive(Debug)]
struct Entry {
    id: Id,
    /// The caller of the first request.
    caller: Share,
    state: State,
    cancellation: Arc<Cancellation>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Running,
    /// A thread still has it. Another entry of its id waits until the thread is done.
    Cancelled,
    Failed {
        why: String,
        since: Instant,
    },
}

impl Entry {
    fn is_fetching(&self) -> bool {
        matches!(self.state, State::Waiting | State::Running)
    }

    /// Returns whether a thread has it.
    fn is_taken(&self) -> bool {
        matches!(self.state, State::Running | State::Cancelled)
    }

    fn is_failed(&self) -> bool {
        matches!(self.state, State::Failed { .. })
    }
}

/// The requested images that are not complete, the oldest request first. The waiting entries are the queue.
#[derive(Default)]
struct Table {
    entries: Mutex<Vec<Entry>>,
    changed: Condvar,
}

impl Table {
    fn stage(&self, id: &Id) -> Option<Stage> {
        let entries = self.entries.lock();
        // A cancelled entry comes before a new request for the same image.
        let entry = entries.iter().rfind(|entry| entry.id == *id)?;
        Some(match &entry.state {
            State::Waiting | State::Running => Stage::Fetching,
            State::Failed { why, .. } => Stage::Failed(why.clone()),
            State::Cancelled => Stage::Cancelled,
        })
    }

    /// Appends an image to the queue, unless it is queued or being fetched.
    ///
    /// # Errors
    /// [`Error::NotFetched`] for an image that failed just before `now`, [`Error::Fetches`] if too many images wait.
    fn push(&self, id: &Id, now: Instant) -> Result<(), Error> {
        let mut entries = self.entries.lock();
        if entries.iter().any(|entry| entry.id == *id && entry.is_fetching()) {
            return Ok(());
        }
        let failed = entries.iter().find_map(|entry| match &entry.state {
            State::Failed { why, since } if entry.id == *id => Some((why, *since)),
            _ => None,
        });
        if let Some((why, _)) = failed.filter(|(_, since)| now < *since + FETCH_RETRY) {
            return Err(Error::NotFetched { id: id.to_string(), why: why.clone() });
        }
        let caller = current::caller();
        let waiting = entries.iter().filter(|entry| entry.state == State::Waiting);
        let mut holders = waiting.map(|entry| entry.caller);
        Quota::of(FETCH_QUEUE).admit(caller, &mut holders).map_err(Error::Fetches)?;
        entries.retain(|entry| entry.id != *id || !entry.is_failed());
        let (id, cancellation) = (id.clone(), Arc::default());
        entries.push(Entry { id, caller, state: State::Waiting, cancellation });
        self.changed.notify_all();
        Ok(())
    }

    /// Takes the oldest waiting request whose image no thread has.
    fn try_take(entries: &mut [Entry]) -> Option<(Id, Arc<Cancellation>)> {
        let is_taken = |id: &Id| entries.iter().any(|entry| entry.id == *id && entry.is_taken());
        let is_next = |entry: &Entry| entry.state == State::Waiting && !is_taken(&entry.id);
        let next = entries.iter().position(is_next)?;
        let entry = entries.get_mut(next)?;
        entry.state = State::Running;
        Some((entry.id.clone(), Arc::clone(&entry.cancellation)))
    }

    /// Waits for a request, and takes it.
    fn take(&self) -> (Id, Arc<Cancellation>) {
        let mut entries = self.entries.lock();
        loop {
            if let Some(taken) = Self::try_take(&mut entries) {
                return taken;
            }
            self.changed.wait(&mut entries);
        }
    }

    /// Cancels a request; returns whether there was one.
    fn cancel(&self, id: &Id) -> bool {
        let mut entries = self.entries.lock();
        let found = entries.iter().position(|entry| entry.id == *id && entry.is_fetching());
        let Some(index) = found else { return false };
        match entries.get_mut(index) {
            Some(entry) if entry.state == State::Running => {
                entry.state = State::Cancelled;
                entry.cancellation.cancel();
            }
            _ => drop(entries.remove(index)),
        }
        true
    }

    /// Ends the entry that a thread has; without an error, the image is complete. Returns `false` if the entry was
    /// cancelled before: it then stays until [`Table::forget`].
    fn end(&self, id: &Id, error: Option<String>) -> bool {
        let mut entries = self.entries.lock();
        let Some(index) = entries.iter().position(|entry| entry.id == *id && entry.is_taken())
        else {
            return true;
        };
        match (entries.get_mut(index), error) {
            (Some(entry), _) if entry.state == State::Cancelled => return false,
            (Some(entry), Some(why)) => {
                entry.state = State::Failed { why, since: Instant::now() };
            }
            _ => drop(entries.remove(index)),
        }
        if entries.iter().filter(|entry| entry.is_failed()).count() > FETCH_FAILURES
            && let Some(oldest) = entries.iter().position(Entry::is_failed)
        {
            entries.remove(oldest);
        }
        true
    }

    /// Removes a cancelled entry, whose image is removed from the store by now.
    fn forget(&self, id: &Id) {
        let mut entries = self.entries.lock();
        entries.retain(|entry| entry.id != *id || entry.state != State::Cancelled);
        self.changed.notify_all();
    }
}

impl Fetches {
    /// Starts the threads, if the agent has an image service.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub(in crate::ops) fn start(config: &Config, volumes: &Arc<dyn Volumes>) -> io::Result<Self> {
        let table = Arc::new(Table::default());
        let Some(service) = config.host.image_service.clone() else {
            return Ok(Self { is_on: false, table });
        };
        for number in 0..FETCH_THREADS {
            let fetcher = Fetcher {
                service: service.clone(),
                volumes: Arc::clone(volumes),
                kill: config.storage.kill,
                time_limit: config.deadlines.change,
                table: Arc::clone(&table),
            };
            thread::Builder::new().name(format!("fetch-{number}")).spawn(move || fetcher.run())?;
        }
        Ok(Self { is_on: true, table })
    }

    /// Requests an image, unless it is queued or being fetched.
    ///
    /// # Errors
    /// [`Error::Unsupported`] without an image service, [`Error::NotFetched`] for an image that failed within
    /// [`FETCH_RETRY`], [`Error::Fetches`] if too many images wait.
    pub(in crate::ops) fn request(&self, id: &Id) -> Result<(), Error> {
        match self.is_on {
            true => self.table.push(id, Instant::now()),
            false => Err(Error::Unsupported(OFF)),
        }
    }

    /// Cancels the request for an image, so that the image does not appear. Returns whether there was one.
    pub(in crate::ops) fn cancel(&self, id: &Id) -> bool {
        self.table.cancel(id)
    }

    /// Returns the state of a requested image that is not complete.
    pub(super) fn stage(&self, id: &Id) -> Option<Stage> {
        self.table.stage(id)
    }

    /// Returns the images that are queued or being fetched, the oldest request first.
    pub(super) fn under_way(&self) -> Vec<Id> {
        let entries = self.table.entries.lock();
        let under_way = entries.iter().filter(|entry| entry.is_fetching());
        under_way.map(|entry| entry.id.clone()).collect()
    }
}

/// Returns the URL of an image at its service: `http://<image service>/images/<id>/download` (contract section 8).
pub(super) fn url_of(service: &str, id: &Id) -> String {
    format!("http://{service}/images/{}/download", component(id.as_str()))
}

struct Fetcher {
    /// A host, and a port if it is not the port of HTTP.
    service: String,
    volumes: Arc<dyn Volumes>,
    kill: Duration,
    /// The time limit of the store.
    time_limit: Duration,
    table: Arc<Table>,
}

impl Fetcher {
    fn run(&self) {
        loop {
            let (id, cancellation) = self.table.take();
            let error = guarded(|| self.fetch(&id, &cancellation)).err();
            let is_wanted = self.table.end(&id, error.clone());
            match error {
                None if is_wanted => info!("image fetched; image={id}"),
                Some(why) if is_wanted => warn!("image fetch failed; image={id}: {why}"),
                error => {
                    // An import is not stopped midway. After a failure nothing is removed: an image of that id would be
                    // another one.
                    let removed =
                        if error.is_none() { guarded(|| self.remove(&id)) } else { Ok(()) };
                    match removed {
                        Ok(()) => info!("image fetch dropped after a delete; image={id}"),
                        Err(why) => {
                            warn!("cannot remove an image that was deleted; image={id}: {why}");
                        }
                    }
                    self.table.forget(&id);
                }
            }
        }
    }

    fn fetch(&self, id: &Id, cancellation: &Cancellation) -> Result<(), Box<dyn StdError>> {
        if self.has(id)? {
            return Ok(());
        }
        let download = Download {
            volumes: &*self.volumes,
            service: Some(&self.service),
            sharers: FETCH_THREADS.try_into()?,
            deadline: Instant::now() + self.time_limit,
            cancellation,
        };
        let content = download.run(url_of(&self.service, id))?;
        if cancellation.is_cancelled() {
            return Err("cancelled".into());
        }
        let reporter =
            ImportReporter { progress: &|_, _| {}, warn: &|line| warn!("image {id}: {line}") };
        match import(&*self.volumes, content, false, id, self.kill, &reporter) {
            // An operator has imported the image meanwhile.
            Err(error) if is_exists(&*error) && self.has(id)? => Ok(()),
            imported => imported.map(|_| ()),
        }
    }

    /// Returns whether the store has the complete image.
    fn has(&self, id: &Id) -> Result<bool, storage::Error> {
        match self.volumes.image(id, Instant::now() + self.time_limit) {
            Ok(_) => Ok(true),
            Err(storage::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes an image that was imported although it was cancelled.
    fn remove(&self, id: &Id) -> Result<(), Box<dyn StdError>> {
        match self.volumes.delete_image(id, Instant::now() + self.time_limit) {
            Ok(()) | Err(storage::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Runs a function and turns a panic into an error, because the thread has further images to fetch.
fn guarded(work: impl FnOnce() -> Result<(), Box<dyn StdError>>) -> Result<(), String> {
    // The function shares the store, in which a panic leaves no half-changed state, and the table, which it does not
    // change.
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(outcome) => outcome.map_err(|error| error.to_string()),
        Err(_) => Err("the fetching thread panicked".to_owned()),
    }
}

fn is_exists(error: &(dyn StdError + 'static)) -> bool {
    matches!(error.downcast_ref(), Some(storage::Error::Exists { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> Id {
        Id::parse(text).unwrap()
    }

    fn fetches() -> Fetches {
        Fetches { is_on: true, table: Arc::default() }
    }

    fn taken(fetches: &Fetches) -> Option<Id> {
        Table::try_take(&mut fetches.table.entries.lock()).map(|(id, _)| id)
    }

    #[test]
    fn an_image_that_is_on_its_way_is_not_fetched_twice() {
        let fetches = fetches();
        for _ in 0..3 {
            fetches.request(&id("debian")).unwrap();
        }
        fetches.request(&id("other")).unwrap();
        assert_eq!(fetches.stage(&id("debian")), Some(Stage::Fetching));
        assert_eq!(fetches.stage(&id("absent")), None);
        assert_eq!(taken(&fetches), Some(id("debian")));
        fetches.request(&id("debian")).unwrap();
        assert_eq!(fetches.under_way(), [id("debian"), id("other")]);
        assert_eq!((taken(&fetches), taken(&fetches)), (Some(id("other")), None));
    }

    #[test]
    fn a_full_queue_is_busy() {
        let fetches = fetches();
        for number in 0..FETCH_QUEUE {
            fetches.request(&id(&format!("image-{number}"))).unwrap();
        }
        let error = fetches.request(&id("other")).unwrap_err();
        assert_eq!(error.to_string(), format!("busy: {FETCH_QUEUE} images wait to be fetched"));
        fetches.request(&id("image-0")).unwrap();
        taken(&fetches);
        fetches.request(&id("other")).unwrap();
    }

    #[test]
    fn a_failure_answers_requests_for_a_while() {
        let (fetches, debian) = (fetches(), id("debian"));
        fetches.request(&debian).unwrap();
        taken(&fetches);
        fetches.table.end(&debian, Some("no route".to_owned()));
        let error = fetches.request(&debian).unwrap_err();
        assert_eq!(error.to_string(), "cannot fetch image debian: no route");
        assert_eq!(fetches.stage(&debian), Some(Stage::Failed("no route".to_owned())));
        fetches.table.push(&debian, Instant::now() + FETCH_RETRY).unwrap();
        assert_eq!(fetches.stage(&debian), Some(Stage::Fetching));
        taken(&fetches);
        fetches.table.end(&debian, None);
        assert_eq!(fetches.stage(&debian), None);
    }

    #[test]
    fn the_oldest_failures_are_forgotten() {
        let fetches = fetches();
        for number in 0..=FETCH_FAILURES {
            let id = id(&format!("image-{number}"));
            fetches.request(&id).unwrap();
            taken(&fetches);
            fetches.table.end(&id, Some(String::new()));
        }
        assert_eq!(fetches.stage(&id("image-0")), None);
        assert_eq!(fetches.table.entries.lock().len(), FETCH_FAILURES);
    }

    #[test]
    fn waiting_fetch_is_cancelled_at_once() {
        let fetches = fetches();
        fetches.request(&id("debian")).unwrap();
        assert!(fetches.cancel(&id("debian")) && !fetches.cancel(&id("debian")));
        assert_eq!((fetches.stage(&id("debian")), taken(&fetches)), (None, None));
    }

    #[test]
    fn a_cancelled_image_ends_before_it_is_fetched_anew() {
        let (fetches, debian) = (fetches(), id("debian"));
        fetches.request(&debian).unwrap();
        let (_, cancellation) = fetches.table.take();
        assert!(fetches.cancel(&debian) && cancellation.is_cancelled());
        assert_eq!(fetches.stage(&debian), Some(Stage::Cancelled));
        assert_eq!(fetches.under_way(), [] as [Id; 0]);
        fetches.request(&debian).unwrap();
        assert_eq!(fetches.stage(&debian), Some(Stage::Fetching));
        assert_eq!(taken(&fetches), None, "a thread has it");
        assert!(!fetches.table.end(&debian, None), "it was cancelled");
        assert_eq!(taken(&fetches), None, "the image may still be there");
        fetches.table.forget(&debian);
        let (_, cancellation) = fetches.table.take();
        assert!(!cancellation.is_cancelled());
    }

    #[test]
    fn a_panic_is_an_error() {
        let error = guarded(|| panic!("for this test")).unwrap_err();
        assert_eq!(error, "the fetching thread panicked");
        assert_eq!(guarded(|| Err("late".into())), Err("late".to_owned()));
    }

    #[test]
    fn without_an_image_service_nothing_is_fetched() {
        let fetches = Fetches { is_on: false, table: Arc::default() };
        let error = fetches.request(&id("debian")).unwrap_err();
        assert!(matches!(error, Error::Unsupported(_)), "{error}");
    }

    #[test]
    fn an_images_id_is_one_part_of_its_address() {
        let url = url_of("images.example:8080", &id("debian_12.1"));
        assert_eq!(url, "http://images.example:8080/images/debian_12.1/download");
    }
}
