//! Membership of users in the groups that may call. A lookup in the user databases can take long,
//! so a thread does it and the front goes on.

use std::collections::HashMap;
use std::io;
use std::thread;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::config::HttpLimits;
use crate::os::users;

/// Cached memberships of users who are permitted by a group or not at all.
pub(super) struct Members {
    known: HashMap<u32, (Instant, bool)>,
    /// Users whose lookup is in flight.
    asked: Vec<u32>,
    questions: Sender<u32>,
    answers: Receiver<(u32, bool)>,
}

impl Members {
    /// Starts the thread, which ends when this is dropped and its last lookup is complete.
    ///
    /// # Errors
    /// When the thread does not start.
    pub(super) fn start(
        groups: Vec<u32>,
        limits: &HttpLimits,
        wake_front: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        let (questions, asked) = bounded::<u32>(limits.memberships);
        let (answer, answers) = bounded(limits.memberships);
        let run = move || {
            for uid in asked {
                // The channel has room for every lookup in flight, unless the front has ended.
                if answer.send((uid, is_member(uid, &groups))).is_err() {
                    return;
                }
                wake_front();
            }
        };
        thread::Builder::new().name("http-members".into()).spawn(run)?;
        Ok(Self { known: HashMap::new(), asked: Vec::new(), questions, answers })
    }

    /// Returns whether this user is a member; `None` while the lookup is in flight.
    pub(super) fn is_member(
        &mut self,
        uid: u32,
        limits: &HttpLimits,
        now: Instant,
    ) -> Option<bool> {
        let is_fresh = |at: Instant| now.duration_since(at) < limits.membership;
        if let Some((_, is_member)) = self.known.get(&uid).filter(|(at, _)| is_fresh(*at)) {
            return Some(*is_member);
        }
        // A user for whom there is no room is looked up at the next call, or after an answer.
        let has_room = self.asked.len() < limits.memberships && !self.asked.contains(&uid);
        if has_room && self.questions.try_send(uid).is_ok() {
            self.asked.push(uid);
        }
        None
    }

    /// Takes the answers that have arrived; returns whether there were any.
    pub(super) fn learn(&mut self, limits: &HttpLimits, now: Instant) -> bool {
        let mut has_learned = false;
        for (uid, is_member) in self.answers.try_iter() {
            has_learned = true;
            self.asked.retain(|asked| *asked != uid);
            if self.known.len() >= limits.memberships {
                self.known.clear();
            }
            self.known.insert(uid, (now, is_member));
        }
        has_learned
    }
}

fn is_member(uid: u32, allowed: &[u32]) -> bool {
    match users::groups(uid) {
        Ok(groups) => groups.iter().any(|group| allowed.contains(group)),
        Err(error) => {
            log::warn!("cannot look up the groups of user {uid}: {error}");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const STRANGER: u32 = 3_999_999_999;

    /// Makes a cache whose lookups the test answers.
    fn silent() -> (Members, Receiver<u32>, Sender<(u32, bool)>) {
        let ((questions, asked), (answer, answers)) = (bounded(2), bounded(2));
        (Members { known: HashMap::new(), asked: Vec::new(), questions, answers }, asked, answer)
    }

    fn limits() -> HttpLimits {
        HttpLimits { memberships: 2, ..HttpLimits::default() }
    }

    #[test]
    fn an_answer_holds_for_a_while() {
        let (mut members, asked, answer) = silent();
        let (limits, now) = (limits(), Instant::now());
        assert_eq!(members.is_member(7, &limits, now), None);
        assert_eq!(members.is_member(7, &limits, now), None);
        assert_eq!(asked.try_iter().collect::<Vec<_>>(), [7], "asked once");
        assert!(!members.learn(&limits, now));
        answer.send((7, true)).unwrap();
        assert!(members.learn(&limits, now));
        assert_eq!(members.is_member(7, &limits, now), Some(true));
        let later = now + limits.membership + Duration::from_secs(1);
        assert_eq!(members.is_member(7, &limits, later), None);
        assert_eq!(asked.try_iter().collect::<Vec<_>>(), [7], "asked anew");
    }

    #[test]
    fn few_are_asked_about_and_kept_at_once() {
        let (mut members, asked, answer) = silent();
        let (limits, now) = (limits(), Instant::now());
        for uid in 0..5 {
            assert_eq!(members.is_member(uid, &limits, now), None);
        }
        assert_eq!(asked.try_iter().collect::<Vec<_>>(), [0, 1]);
        for uid in 0..5 {
            answer.send((uid, false)).unwrap();
            members.learn(&limits, now);
            assert!(members.known.len() <= 2);
        }
        assert_eq!(members.is_member(4, &limits, now), Some(false));
    }

    #[test]
    fn a_member_is_one_by_any_of_his_groups() {
        let own = users::groups(0).unwrap();
        assert!(is_member(0, &[STRANGER, own[0]]));
        assert!(!is_member(0, &[STRANGER]));
        assert!(!is_member(STRANGER, &own));
    }
}
