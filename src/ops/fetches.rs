//! Images that callers want from the image service, fetched one after the other on a thread of their own.
//!
//! Whoever asks for one that is on its way shares its download. What goes wrong is kept until it is asked for
//! again. All of it ends with the agent: what is half there has no name, and callers ask again.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use log::{info, warn};
use parking_lot::Mutex;

use crate::config::Config;
use crate::config::fixed::{FETCH_FAILURES, FETCH_QUEUE};
use crate::fetch::{component, download, host_of};
use crate::import::{Teller, import};
use crate::ops::Error;
use crate::storage::{Id, Volumes};

/// What is said where there is no image service.
const OFF: &str = "not supported: this agent has no image service (--image-service); use mistify-libvirt image pull \
                   or image import";

/// How far an image is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It is on its way, or waits for others.
    Fetching,
    /// Why it did not come.
    Failed(String),
}

/// The images that were asked for.
pub(super) struct Fetches {
    /// `None` without an image service.
    queue: Option<Sender<Id>>,
    stages: Arc<Stages>,
}

/// Of each image that was asked for and is not there, the oldest request first.
#[derive(Default)]
struct Stages(Mutex<Vec<(Id, Stage)>>);

impl Stages {
    fn of(&self, id: &Id) -> Option<Stage> {
        let stages = self.0.lock();
        stages.iter().find(|(other, _)| other == id).map(|(_, stage)| stage.clone())
    }

    /// The image came, where there is no error.
    fn end(&self, id: &Id, error: Option<String>) {
        let mut stages = self.0.lock();
        stages.retain(|(other, _)| other != id);
        stages.extend(error.map(|why| (id.clone(), Stage::Failed(why))));
        let failed = |(_, stage): &(Id, Stage)| *stage != Stage::Fetching;
        if stages.iter().filter(|it| failed(it)).count() > FETCH_FAILURES
            && let Some(oldest) = stages.iter().position(failed)
        {
            stages.remove(oldest);
        }
    }
}

impl Fetches {
    /// Starts the thread, where there is an image service.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn start(config: &Config, volumes: &Arc<dyn Volumes>) -> io::Result<Self> {
        let stages = Arc::new(Stages::default());
        let Some(service) = config.host.image_service.clone() else {
            return Ok(Self { queue: None, stages });
        };
        let (queue, wanted) = bounded(FETCH_QUEUE);
        let fetcher = Fetcher {
            service,
            volumes: Arc::clone(volumes),
            kill: config.storage.kill,
            stages: Arc::clone(&stages),
        };
        thread::Builder::new().name("fetch".to_owned()).spawn(move || fetcher.run(&wanted))?;
        Ok(Self { queue: Some(queue), stages })
    }

    /// Has an image fetched; one that is on its way already is not fetched twice.
    ///
    /// # Errors
    /// [`Error::Unsupported`] without an image service, [`Error::Fetches`] when too many wait.
    pub(super) fn request(&self, id: &Id) -> Result<(), Error> {
        let queue = self.queue.as_ref().ok_or(Error::Unsupported(OFF))?;
        let mut stages = self.stages.0.lock();
        if stages.iter().any(|(other, stage)| other == id && *stage == Stage::Fetching) {
            return Ok(());
        }
        queue.try_send(id.clone()).map_err(|_| Error::Fetches(FETCH_QUEUE))?;
        // The thread that has it waits for this lock before it can end it.
        stages.retain(|(other, _)| other != id);
        stages.push((id.clone(), Stage::Fetching));
        Ok(())
    }

    /// How far an image is that was asked for and is not there.
    pub(super) fn stage(&self, id: &Id) -> Option<Stage> {
        self.stages.of(id)
    }

    /// The images that are on their way, the oldest request first.
    pub(super) fn under_way(&self) -> Vec<Id> {
        let stages = self.stages.0.lock();
        let under_way = stages.iter().filter(|(_, stage)| *stage == Stage::Fetching);
        under_way.map(|(id, _)| id.clone()).collect()
    }
}

/// Where an image is at its service: `http://<image service>/images/<id>/download` (contract section 8).
pub(super) fn url_of(service: &str, id: &Id) -> String {
    format!("http://{service}/images/{}/download", component(id.as_str()))
}

struct Fetcher {
    /// A host, and a port if it is not that of http.
    service: String,
    volumes: Arc<dyn Volumes>,
    kill: Duration,
    stages: Arc<Stages>,
}

impl Fetcher {
    fn run(&self, wanted: &Receiver<Id>) {
        for id in wanted {
            let error = self.bring(&id).err().map(|error| error.to_string());
            match &error {
                None => info!("image {id} is fetched"),
                Some(why) => warn!("image {id} is not fetched: {why}"),
            }
            self.stages.end(&id, error);
        }
    }

    fn bring(&self, id: &Id) -> Result<(), Box<dyn StdError>> {
        let url = url_of(&self.service, id);
        let host = host_of(&self.service)?;
        let content = download(&*self.volumes, url, Some(host))?;
        let teller = Teller { progress: &|_, _| {}, warn: &|line| warn!("image {id}: {line}") };
        import(&*self.volumes, content, false, id, self.kill, &teller)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> Id {
        Id::parse(text).unwrap()
    }

    #[test]
    fn an_image_that_is_on_its_way_is_not_fetched_twice() {
        let (queue, wanted) = bounded(1);
        let fetches = Fetches { queue: Some(queue), stages: Arc::default() };
        for _ in 0..3 {
            fetches.request(&id("debian")).unwrap();
        }
        assert_eq!(fetches.stage(&id("debian")), Some(Stage::Fetching));
        assert_eq!(fetches.stage(&id("other")), None);
        let error = fetches.request(&id("other")).unwrap_err();
        assert_eq!(error.to_string(), format!("busy: {FETCH_QUEUE} images wait to be fetched"));
        assert_eq!(fetches.under_way(), [id("debian")]);
        assert_eq!(wanted.try_iter().collect::<Vec<_>>(), [id("debian")]);
    }

    #[test]
    fn a_failure_is_kept_until_the_image_is_asked_for_again() {
        let (queue, _wanted) = bounded(8);
        let fetches = Fetches { queue: Some(queue), stages: Arc::default() };
        fetches.request(&id("debian")).unwrap();
        fetches.stages.end(&id("debian"), Some("no route".to_owned()));
        assert_eq!(fetches.stage(&id("debian")), Some(Stage::Failed("no route".to_owned())));
        fetches.request(&id("debian")).unwrap();
        assert_eq!(fetches.stage(&id("debian")), Some(Stage::Fetching));
        fetches.stages.end(&id("debian"), None);
        assert_eq!(fetches.stage(&id("debian")), None);
    }

    #[test]
    fn the_oldest_failures_are_forgotten() {
        let stages = Stages::default();
        for number in 0..=FETCH_FAILURES {
            stages.end(&id(&format!("image-{number}")), Some(String::new()));
        }
        assert_eq!(stages.of(&id("image-0")), None);
        assert_eq!(stages.0.lock().len(), FETCH_FAILURES);
    }

    #[test]
    fn without_an_image_service_nothing_is_fetched() {
        let fetches = Fetches { queue: None, stages: Arc::default() };
        let error = fetches.request(&id("debian")).unwrap_err();
        assert!(matches!(error, Error::Unsupported(_)), "{error}");
    }

    #[test]
    fn an_images_id_is_one_part_of_its_address() {
        let url = url_of("images.example:8080", &id("debian_12.1"));
        assert_eq!(url, "http://images.example:8080/images/debian_12.1/download");
    }
}
