//! The state of libvirt that the agent last saw, readable at any time without a call to libvirt.

use std::mem;
use std::time::{Duration, Instant};

use log::warn;
use parking_lot::Mutex;

use crate::libvirt;
use crate::ops::Error;
use crate::pool::Span;

/// Whether libvirt answers, refuses or is silent, and since when.
///
/// Only the opening of connections decides, because an open needs an answer. libvirt counts as
/// silent if a caller has given up on an open that has run for longer than a working libvirtd
/// needs. Such a libvirtd is stopped, or hangs as a whole.
#[derive(Debug)]
pub struct Health {
    state: Mutex<State>,
    /// As [`WatchLimits::answer`](crate::config::WatchLimits::answer).
    answer: Duration,
}

#[derive(Debug)]
struct State {
    /// The outcome of the last open.
    seen: HealthStatus,
    /// The open that runs now.
    opening: Option<Opening>,
}

#[derive(Debug)]
struct Opening {
    began: Instant,
    given_up: bool,
}

/// A snapshot of [`Health`].
#[derive(Clone, Debug)]
pub struct HealthStatus {
    /// Why libvirt is unusable; `None` if it answered the last open.
    pub error: Option<String>,
    /// Whether libvirt is silent: it neither answers nor refuses.
    pub silent: bool,
    /// Whether any open was tried.
    pub tried: bool,
    /// The start of the present state: answering, refusing or silent.
    pub since: Instant,
    /// The version of the libvirt that answered last, as libvirt counts: `major * 1,000,000 + minor
    /// * 1,000 + release`.
    pub version: Option<u64>,
}

impl Health {
    /// Creates the state before any open; `answer` is how long a working libvirt may take to
    /// answer.
    pub fn new(answer: Duration) -> Self {
        let since = Instant::now();
        let seen = HealthStatus { error: None, silent: false, tried: false, since, version: None };
        Self { state: Mutex::new(State { seen, opening: None }), answer }
    }

    /// Returns the present state.
    pub fn seen(&self) -> HealthStatus {
        let state = self.state.lock();
        match self.silent_since(&state) {
            Some(since) => HealthStatus {
                error: Some("libvirt does not answer".to_owned()),
                silent: true,
                since,
                ..state.seen.clone()
            },
            None => state.seen.clone(),
        }
    }

    /// Checks that libvirt is not known to be silent.
    ///
    /// # Errors
    /// [`Error::Silent`] if it is.
    pub fn may_answer(&self) -> Result<(), Error> {
        match self.silent_since(&self.state.lock()) {
            Some(since) => Err(Error::Silent { age: since.elapsed() }),
            None => Ok(()),
        }
    }

    /// Records the start of an open.
    pub(super) fn opening(&self) {
        self.state.lock().opening = Some(Opening { began: Instant::now(), given_up: false });
    }

    /// Records that a caller, which asked at `asked`, no longer waits for a connection. Returns the
    /// error for the caller.
    pub(super) fn given_up(&self, asked: Instant) -> Error {
        let mut state = self.state.lock();
        let (since, is_news) = match &mut state.opening {
            Some(opening) => (opening.began, !mem::replace(&mut opening.given_up, true)),
            None => (asked, false),
        };
        // The log may block this thread, and must not block others through this lock.
        drop(state);
        let age = since.elapsed();
        if is_news {
            let age = Span(age);
            warn!("libvirt has not answered for {age}; still waiting");
        }
        Error::Silent { age }
    }

    /// Records the outcome of the open: the version that answered, if known, or the error.
    pub(super) fn opened(&self, outcome: Result<Option<u64>, &libvirt::Error>) {
        let mut state = self.state.lock();
        let was_silent = self.silent_since(&state).is_some();
        let opening = state.opening.take();
        let seen = &mut state.seen;
        let error = outcome.err().map(ToString::to_string);
        if !seen.tried || was_silent || seen.error.is_some() != error.is_some() {
            seen.since = Instant::now();
        }
        seen.tried = true;
        seen.error = error;
        seen.version = outcome.ok().flatten().or(seen.version);
        drop(state);
        if let Some(Opening { began, given_up: true }) = opening {
            let age = Span(began.elapsed());
            match outcome {
                Ok(_) => warn!("libvirt answers again after {age}"),
                Err(error) => warn!("libvirt refused the connection after {age}: {error}"),
            }
        }
    }

    fn silent_since(&self, state: &State) -> Option<Instant> {
        let opening = state.opening.as_ref().filter(|opening| opening.given_up)?;
        (opening.began.elapsed() >= self.answer).then_some(opening.began)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error() -> libvirt::Error {
        libvirt::start().unwrap();
        libvirt::Connection::open("nonsense:///").unwrap_err()
    }

    #[test]
    fn abandoned_open_counts_as_silence_until_it_ends() {
        let health = Health::new(Duration::ZERO);
        health.opening();
        assert!(health.may_answer().is_ok(), "all still wait");
        let reported = health.given_up(Instant::now());
        assert!(matches!(reported, Error::Silent { .. }), "{reported}");
        assert!(health.may_answer().is_err());
        let seen = health.seen();
        assert!(seen.silent && seen.error.is_some());

        health.opened(Ok(Some(9_000_000)));
        assert!(health.may_answer().is_ok());
        let now = health.seen();
        assert!(!now.silent && now.error.is_none() && now.since >= seen.since);
        assert_eq!(now.version, Some(9_000_000));
    }

    #[test]
    fn impatient_caller_does_not_make_a_short_open_silent() {
        let health = Health::new(Duration::from_secs(3600));
        health.opening();
        health.given_up(Instant::now());
        assert!(health.may_answer().is_ok() && !health.seen().silent);
    }

    #[test]
    fn since_is_the_last_change_and_version_is_retained() {
        let health = Health::new(Duration::ZERO);
        assert!(!health.seen().tried);
        health.opened(Ok(Some(9_000_000)));
        let first = health.seen();
        health.opened(Ok(None));
        assert_eq!(health.seen().since, first.since);
        health.opened(Err(&error()));
        let refused = health.seen();
        assert!(refused.since > first.since && refused.error.is_some());
        assert_eq!(refused.version, Some(9_000_000));
    }
}
