//! The names of users, from a user database that may hang.

use std::collections::HashMap;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use log::warn;

use crate::config::AuditConfig;
use crate::threads::panic_text;

/// The cached names of users, and the thread `audit-names` that looks up others.
pub(super) struct Names {
    /// Names, each with the time of the database's answer.
    known: HashMap<u32, (Instant, Option<String>)>,
    /// The user whose lookup is in flight.
    asked: Option<u32>,
    questions: Sender<u32>,
    answers: Receiver<(u32, Option<String>)>,
    /// As [`AuditConfig::user`].
    fresh: Duration,
    /// As [`AuditConfig::user_wait`].
    wait: Duration,
    /// As [`AuditConfig::users`].
    most: usize,
}

impl Names {
    /// Starts the thread, which ends when this is dropped and its last lookup is complete.
    ///
    /// # Errors
    /// When the system cannot start a thread.
    pub(super) fn start(
        limits: &AuditConfig,
        name_of: impl Fn(u32) -> io::Result<Option<String>> + Send + 'static,
    ) -> io::Result<Self> {
        // One lookup at a time, and so one answer.
        let ((questions, uids), (answer, answers)) = (bounded(1), bounded(1));
        let run = move || {
            for uid in uids {
                // A user stays unnamed for a while even when the database fails: the uid is enough. A
                // module of the database that panics has failed, too; the panic is logged.
                let name = panic::catch_unwind(AssertUnwindSafe(|| name_of(uid)));
                let name = name.map_err(panic_text).ok().and_then(Result::ok).flatten();
                if answer.send((uid, name)).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new().name("audit-names".to_owned()).spawn(run)?;
        let AuditConfig { user: fresh, user_wait: wait, users: most, .. } = *limits;
        Ok(Self { known: HashMap::new(), asked: None, questions, answers, fresh, wait, most })
    }

    /// Returns the name of a user; `None` when the database has none, or does not answer in time.
    ///
    /// While the database hangs, only the first record waits for it.
    ///
    /// # Blocking
    /// Up to [`AuditConfig::user_wait`].
    pub(super) fn name(&mut self, uid: u32) -> Option<String> {
        if let Ok(answer) = self.answers.try_recv() {
            self.learn(answer);
        }
        if let Some((_, name)) = self.known.get(&uid).filter(|(at, _)| at.elapsed() < self.fresh) {
            return name.clone();
        }
        if self.asked.is_some() || self.questions.try_send(uid).is_err() {
            return None;
        }
        self.asked = Some(uid);
        match self.answers.recv_timeout(self.wait) {
            Ok(answer) => {
                let name = answer.1.clone();
                self.learn(answer);
                name
            }
            Err(RecvTimeoutError::Timeout) => {
                let wait_ms = u64::try_from(self.wait.as_millis()).unwrap_or(u64::MAX);
                warn!(
                    uid, wait_ms;
                    "user database does not answer; audit records lack user names until it does"
                );
                None
            }
            Err(RecvTimeoutError::Disconnected) => None,
        }
    }

    fn learn(&mut self, (uid, name): (u32, Option<String>)) {
        self.asked = None;
        if self.known.len() >= self.most {
            self.known.clear();
        }
        self.known.insert(uid, (Instant::now(), name));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn limits() -> AuditConfig {
        AuditConfig { user_wait: PATIENCE, users: 4, ..AuditConfig::default() }
    }

    /// Makes a database that counts its lookups.
    fn counting(limits: &AuditConfig) -> (Names, Arc<AtomicUsize>) {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let name_of = move |uid: u32| {
            counted.fetch_add(1, Ordering::SeqCst);
            Ok((uid < 100).then(|| format!("user-{uid}")))
        };
        (Names::start(limits, name_of).unwrap(), count)
    }

    #[test]
    fn a_user_is_asked_for_once_in_a_while() {
        let (mut names, count) = counting(&limits());
        for _ in 0..3 {
            assert_eq!(names.name(7).as_deref(), Some("user-7"));
            assert_eq!(names.name(100), None, "that there is none is known as well");
        }
        assert_eq!(count.load(Ordering::SeqCst), 2);
        let (mut forgetful, count) = counting(&AuditConfig { user: Duration::ZERO, ..limits() });
        (0..3).for_each(|_| assert_eq!(forgetful.name(7).as_deref(), Some("user-7")));
        assert_eq!(count.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn few_users_are_remembered() {
        let (mut names, _) = counting(&limits());
        for uid in 0..10 {
            assert_eq!(names.name(uid), Some(format!("user-{uid}")));
            assert!(names.known.len() <= 4);
        }
    }

    #[test]
    fn failing_user_database_yields_no_name() {
        let mut names = Names::start(&limits(), |_| Err(io::Error::other("away"))).unwrap();
        assert_eq!(names.name(7), None);
        assert!(names.asked.is_none(), "it has answered");
    }

    #[test]
    fn a_hanging_database_is_waited_for_once() {
        let ((begin, started), (go, gone)) = (bounded(8), bounded::<()>(0));
        let name_of = move |uid: u32| {
            begin.send(uid).unwrap();
            let _ = gone.recv();
            Ok(Some(format!("user-{uid}")))
        };
        let limits = AuditConfig { user_wait: Duration::ZERO, ..limits() };
        let mut names = Names::start(&limits, name_of).unwrap();
        assert_eq!(names.name(7), None);
        assert_eq!(started.recv_timeout(PATIENCE), Ok(7));
        // A second wait would take longer than this.
        names.wait = PATIENCE;
        let until = Instant::now() + PATIENCE;
        assert_eq!((names.name(7), names.name(8)), (None, None));
        assert!(Instant::now() < until && started.is_empty(), "nobody else is asked for");
        drop(go);
        while names.name(7).is_none() {
            assert!(Instant::now() < until, "its answer is learned in the end");
            thread::yield_now();
        }
        assert_eq!(names.name(8).as_deref(), Some("user-8"));
    }
}
