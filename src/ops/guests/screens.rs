//! Console and Screenshot: the output of a guest.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};

use log::warn;

use crate::config::HostConfig;
use crate::config::fixed::{CONSOLE_BYTES, CONSOLE_FILES, PNG_BYTES, SCREEN_BYTES};
use crate::guest::check::GuestId;
use crate::guest::paths::{console_log, is_console_log};
use crate::guest::png;
use crate::guest::wire::GuestRequest;
use crate::guest::wire::verbs::{ConsoleResponse, ScreenshotResponse};
use crate::libvirt::{Screen, XmlKind};
use crate::ops::base64::base64;
use crate::ops::hypervisor::definition::described;
use crate::ops::requests::named_guest;
use crate::ops::{Error, Guests, Question};
use crate::os::files;
use crate::pool::Lane;

impl Guests {
    /// Returns the last [`CONSOLE_BYTES`] that the guest wrote to its serial console, over all its
    /// starts, from the log of libvirt's virtlogd. Bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// As [`Guests::status`]; a guest whose definition has no such log, such as a guest of another
    /// tool; an unreadable log.
    ///
    /// # Blocking
    /// Up to [`Deadlines::read`](crate::config::Deadlines::read). Queries no emulator.
    pub fn console(&self, request: GuestRequest) -> Result<ConsoleResponse, Error> {
        let guest = named_guest(request.guest)?;
        let deadline = self.core.read_deadline(&request.args)?;
        let (id, own) = (guest.id.clone(), console_log(&guest.id, &self.core.host));
        let console =
            self.core.read(Lane::Read, "Console", &guest.id, deadline, move |connection| {
                let domain = connection.lookup_domain_by_name(&id)?;
                let log = described(&domain, XmlKind::Live)?.devices.console_log;
                if log.is_empty() {
                    let why = format!(
                        "cannot read the console of {id}: its definition has no console log"
                    );
                    return Err(Error::Invalid(why));
                }
                if is_console_log(&log) && own.as_ref() != Some(&log) {
                    let why = format!(
                        "cannot read the console of {id}: until the next Run its log is {log} of \
                     another guest"
                    );
                    return Err(Error::Invalid(why));
                }
                tail(&log).map_err(|error| {
                    Error::Invalid(format!("cannot read console log {log}: {error}"))
                })
            })?;
        let console = String::from_utf8_lossy(&console).into_owned();
        Ok(ConsoleResponse { guest: Some(guest), console })
    }

    /// Returns the guest's first screen as PNG. `virDomainScreenshot`.
    ///
    /// # Errors
    /// As [`Guests::status`]; a guest that is off or has no screen, such as a guest without `vnc`;
    /// a screen of more than [`SCREEN_BYTES`].
    ///
    /// # Blocking
    /// Up to [`Deadlines::read`](crate::config::Deadlines::read).
    pub fn screenshot(&self, request: GuestRequest) -> Result<ScreenshotResponse, Error> {
        let guest = named_guest(request.guest)?;
        let deadline = self.core.read_deadline(&request.args)?;
        let id = guest.id.clone();
        let question = Question::new("Screenshot", guest.id.clone(), deadline, move |session| {
            session.read(|connection| {
                let domain = connection.lookup_domain_by_name(&id)?;
                Ok(connection.screenshot(&domain, SCREEN_BYTES)?)
            })
        });
        let screen = self.core.ask(question.of_emulator())?;
        let png = picture(screen).map_err(|why| {
            Error::Invalid(format!("cannot capture the screen of {}: {why}", guest.id))
        })?;
        let (kind, data) = ("image/png".to_owned(), base64(&png));
        Ok(ScreenshotResponse { guest: Some(guest), kind, data })
    }
}

/// Converts a screen to PNG; the error names the other format.
fn picture(screen: Option<Screen>) -> Result<Vec<u8>, String> {
    let Some(Screen { mime, image }) = screen else { return Err("it is too large".to_owned()) };
    let png = match mime.as_str() {
        "image/png" => Some(image),
        "image/x-portable-pixmap" => png::of_ppm(&image),
        _ => None,
    };
    match png {
        None => Err(format!("libvirt returned {mime}, not an image")),
        Some(png) if png.len() > PNG_BYTES => Err("it is too large".to_owned()),
        Some(png) => Ok(png),
    }
}

/// Returns the console log of a guest, if it exists.
pub(in crate::ops) fn existing_console_log(id: &str, host: &HostConfig) -> Option<String> {
    let id = GuestId::parse(id).ok()?;
    console_log(id.as_str(), host).filter(|log| fs::exists(log).unwrap_or(false))
}

/// Removes a guest's console log, so that another guest of its id does not show it. A file that
/// cannot be removed stays, like libvirt's own logs of a guest.
pub(super) fn forget_console(id: &str, host: &HostConfig) {
    // Any other text could name another file.
    let Ok(id) = GuestId::parse(id) else { return };
    let Some(log) = console_log(id.as_str(), host) else { return };
    let former = (0..CONSOLE_FILES).map(|number| format!("{log}.{number}"));
    for path in std::iter::once(log.clone()).chain(former) {
        match fs::remove_file(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => break,
            Err(error) => return warn!("cannot remove {path}; guest={:?}: {error}", id.as_str()),
            Ok(()) => {}
        }
    }
}

/// Returns the end of a log. When virtlogd starts a new file, it renames the former to `.0`.
fn tail(log: &str) -> io::Result<Vec<u8>> {
    let missing = |error: &io::Error| error.kind() == ErrorKind::NotFound;
    let mut end = match tail_of(log, CONSOLE_BYTES) {
        // The guest has never been started.
        Err(error) if missing(&error) => Vec::new(),
        read => read?,
    };
    if end.len() < CONSOLE_BYTES {
        match tail_of(&format!("{log}.0"), CONSOLE_BYTES - end.len()) {
            Err(error) if missing(&error) => {}
            former => drop(end.splice(..0, former?)),
        }
    }
    Ok(end)
}

/// Returns the last bytes of a file, at most `bytes`.
fn tail_of(path: &str, bytes: usize) -> io::Result<Vec<u8>> {
    let mut file: File = files::straight(OpenOptions::new().read(true)).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "not a regular file"));
    }
    let limit = u64::try_from(bytes).unwrap_or(u64::MAX);
    file.seek(SeekFrom::Start(found.len().saturating_sub(limit)))?;
    let mut end = Vec::new();
    // The file may grow meanwhile.
    file.take(limit).read_to_end(&mut end)?;
    Ok(end)
}

#[cfg(test)]
mod tests {
    use std::{env, process};

    use super::*;

    #[test]
    fn invalid_or_oversized_screen_is_an_error() {
        let screen = |mime: &str, image: Vec<u8>| Some(Screen { mime: mime.to_owned(), image });
        let of = |screen| picture(screen).map(|png| png.len());
        assert_eq!(of(screen("image/png", vec![0; PNG_BYTES])), Ok(PNG_BYTES));
        for screen in [None, screen("image/png", vec![0; PNG_BYTES + 1])] {
            assert_eq!(of(screen), Err("it is too large".to_owned()));
        }
        for (mime, image) in [("image/x-portable-pixmap", "P6 2 2 255\nshort"), ("text/plain", "a")]
        {
            let why = format!("libvirt returned {mime}, not an image");
            assert_eq!(of(screen(mime, image.into())), Err(why));
        }
    }

    #[test]
    fn end_of_a_log_continues_in_the_previous_file() {
        let log = env::temp_dir().join(format!("mistify-console-{}", process::id()));
        let (log, before) = (log.display().to_string(), format!("{}.0", log.display()));
        assert_eq!(tail(&log).unwrap(), b"", "not started yet");
        fs::write(&log, "new").unwrap();
        assert_eq!(tail(&log).unwrap(), b"new");
        fs::write(&before, [vec![b'a'; 10], vec![b'b'; CONSOLE_BYTES - 3]].concat()).unwrap();
        assert_eq!(tail(&log).unwrap(), [vec![b'b'; CONSOLE_BYTES - 3], b"new".to_vec()].concat());
        fs::write(&log, [vec![b'c'; 10], vec![b'd'; CONSOLE_BYTES]].concat()).unwrap();
        assert_eq!(tail(&log).unwrap(), vec![b'd'; CONSOLE_BYTES]);
        fs::remove_file(&log).unwrap();
        fs::remove_file(&before).unwrap();
    }

    #[test]
    fn only_a_regular_file_is_a_log() {
        assert_eq!(tail("/dev/null").unwrap_err().to_string(), "not a regular file");
    }
}
