//! The texts of errors: as the contract fixes them for callers of `/_mistify_RPC_`, and in plain words for all others.

use std::fmt::Write;

use crate::journal::{Direction, Verb};
use crate::ops::Error;
use crate::pool::{self, RunningJob, Span};
use crate::storage;

/// Returns the string in `error` for a caller of `/_mistify_RPC_` (contract section 9, "Error strings").
pub(super) fn on_old_path(error: &Error) -> String {
    match error {
        Error::Libvirt(error) => {
            format!("[Code-{}] [Domain-{}] {}", error.code.raw(), error.domain.raw(), error.message)
        }
        // libvirt's words for this error: VIR_ERR_OPERATION_FAILED from VIR_FROM_DOMAIN.
        Error::Exists { id, uuid } => format!(
            "[Code-9] [Domain-20] operation failed: domain '{id}' already exists with uuid {uuid}"
        ),
        Error::Open { verb, cause } => {
            format!("{} (cannot {} an earlier {verb})", on_old_path(cause), recover(*verb))
        }
        Error::Incomplete(cause) => {
            format!("deleted the domain; the rest is not deleted yet: {}", on_old_path(cause))
        }
        Error::DisksMissing { disks, cause } => {
            format!("{} (missing: {})", on_old_path(cause), disks.join(", "))
        }
        Error::BridgeMissing { mac, bridge, cause, .. } => {
            format!("{} (missing: bridge {bridge} of NIC {mac})", on_old_path(cause))
        }
        Error::Step { step, cause, left } if left.is_empty() => {
            format!("{} ({step}; undone)", on_old_path(cause))
        }
        Error::Step { step, cause, left } => {
            format!("{} ({step}; left behind: {})", on_old_path(cause), left.join(", "))
        }
        Error::Silent { age } => format!("libvirt does not answer since {} ago", Span(*age)),
        Error::Pool(error) => of_pool(error),
        Error::NoGuest
        | Error::Unfit(_)
        | Error::Invalid(_)
        | Error::Refused(_)
        | Error::Unsupported(_)
        | Error::NotFetched { .. }
        | Error::Fetches(_)
        | Error::InUse { .. }
        | Error::Saved { .. }
        | Error::Panicked { .. }
        | Error::AgentLeftAlone(_)
        | Error::StillRuns { .. }
        | Error::NoDevice(_)
        | Error::Taken(_)
        | Error::NoSample(_)
        | Error::Listeners(_)
        | Error::Storage(_)
        | Error::VolumesLeft(_)
        | Error::Left(_)
        | Error::Jobs(_)
        | Error::Journal(_)
        | Error::Seed(_) => error.to_string(),
    }
}

/// Returns what recovery does with an unfinished change.
fn recover(verb: Verb) -> &'static str {
    match verb.direction() {
        Direction::Back => "undo",
        Direction::Forward => "complete",
    }
}

fn of_pool(error: &pool::Error) -> String {
    let waiting_for = |text: String, running: Option<&RunningJob>| match running {
        Some(RunningJob { what, age }) => {
            format!("{text}; {what} is still running since {} ago", Span(*age))
        }
        None => text,
    };
    match error {
        pool::Error::Busy { full, limit, running } => {
            let full = pool::Error::Busy { full: full.clone(), limit: *limit, running: None };
            waiting_for(full.to_string(), running.as_ref())
        }
        pool::Error::GuestLocked { guest, waited, running } => {
            let (guest, waited) = (guest.clone(), *waited);
            let held = pool::Error::GuestLocked { guest, waited, running: None };
            waiting_for(held.to_string(), running.as_ref())
        }
        pool::Error::Unrun { what, lane, waited, running } => {
            let (what, lane, waited) = (what.clone(), *lane, *waited);
            let unrun = pool::Error::Unrun { what, lane, waited, running: None };
            waiting_for(unrun.to_string(), running.as_ref())
        }
        pool::Error::Late { what, waited, age, .. } => format!(
            "deadline: {what} not done in {}, still running since {} ago",
            Span(*waited),
            Span(*age)
        ),
        pool::Error::Overdue { running: RunningJob { what, age } } => {
            format!("deadline: not started, as {what} is still running since {} ago", Span(*age))
        }
        pool::Error::Panicked { .. } | pool::Error::Stopping => error.to_string(),
    }
}

/// Returns the message for callers of `/rpc` and for people: `cannot <do something>: <cause>`. The numbers of a libvirt
/// error are separate members.
pub(super) fn plain(error: &Error) -> String {
    match error {
        Error::Libvirt(error) => error.message.clone(),
        Error::Exists { id, uuid } => {
            format!("cannot create guest {id}: another domain of that name exists (uuid {uuid})")
        }
        Error::Open { verb, cause } => {
            format!("cannot {} an earlier {verb}: {}", recover(*verb), plain(cause))
        }
        Error::Incomplete(cause) => {
            format!("deleted the domain; the rest is not deleted yet: {}", plain(cause))
        }
        Error::DisksMissing { disks, cause } => {
            format!("{} (missing: {})", plain(cause), disks.join(", "))
        }
        Error::Step { step, cause, left } => {
            let mut text = format!("cannot {step}: {}", plain(cause));
            match left.is_empty() {
                true => text += "; all earlier steps are undone",
                // Writing to a string never fails.
                false => drop(write!(text, "; left behind: {}", left.join(", "))),
            }
            text
        }
        Error::Silent { .. } | Error::Pool(_) | Error::BridgeMissing { .. } => error.to_string(),
        Error::Storage(storage::Error::NotFound { name }) => format!("{name}: not found"),
        // Both paths have the same text.
        other => on_old_path(other),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::libvirt::{self, Code};
    use crate::pool::{Full, Lane};

    fn running() -> Option<RunningJob> {
        Some(RunningJob { what: "Run web-2".to_owned(), age: Duration::from_millis(61_400) })
    }

    /// Returns both texts of an error of the pool.
    fn texts(error: pool::Error) -> [String; 2] {
        let error = Error::Pool(error);
        [on_old_path(&error), plain(&error)]
    }

    #[test]
    fn busy_names_the_full_lane_and_its_blocker() {
        let full = Full::Queue(Lane::Control);
        assert_eq!(
            texts(pool::Error::Busy { full, limit: 64, running: running() }),
            [
                "busy: the control queue is full with 64 jobs; \
                 Run web-2 is still running since 61 s ago",
                "busy: the control queue is full with 64 jobs; Run web-2 is still running after 61 s"
            ]
        );
        let waiting = pool::Error::Busy { full: Full::Waiting, limit: 1024, running: None };
        assert_eq!(texts(waiting), ["busy: 1024 calls wait for their turn"; 2]);
    }

    #[test]
    fn deadlines_say_whether_the_call_ran() {
        let (what, waited) = ("Run web-1".to_owned(), Duration::from_millis(59_999));
        let (running_since, age) = (SystemTime::UNIX_EPOCH, Duration::from_millis(999));
        assert_eq!(
            texts(pool::Error::Late { what: what.clone(), waited, running_since, age }),
            [
                "deadline: Run web-1 not done in 60 s, still running since 999 ms ago",
                "deadline: Run web-1 did not end within 60 s; still running after 999 ms"
            ]
        );
        assert_eq!(
            texts(pool::Error::Overdue { running: running().unwrap() }),
            [
                "deadline: not started, as Run web-2 is still running since 61 s ago",
                "deadline: not started, as Run web-2 is still running after 61 s"
            ]
        );
        let lane = Lane::Storage;
        assert_eq!(
            texts(pool::Error::Unrun { what, lane, waited, running: running() }),
            [
                "deadline: Run web-1 did not start within 60 s in the storage queue; \
                 Run web-2 is still running since 61 s ago",
                "deadline: Run web-1 did not start within 60 s in the storage queue; \
                 Run web-2 is still running after 61 s"
            ]
        );
        let guest = "web-2".to_owned();
        assert_eq!(
            texts(pool::Error::GuestLocked { guest, waited, running: running() }),
            [
                "deadline: timed out after 60 s waiting for another operation on web-2; \
                 Run web-2 is still running since 61 s ago",
                "deadline: timed out after 60 s waiting for another operation on web-2; \
                 Run web-2 is still running after 61 s"
            ]
        );
    }

    #[test]
    fn a_failed_step_is_named_with_its_cause() {
        let message = "gone".to_owned();
        let domain = libvirt::ErrorDomain::RPC;
        let lost = libvirt::Error { code: Code::SYSTEM_ERROR, domain, message, call: "virDomain" };
        let step = |left| Error::Step {
            step: "define domain web-1".into(),
            cause: Box::new(Error::Libvirt(lost.clone())),
            left,
        };
        let undone = step(Vec::new());
        assert_eq!(on_old_path(&undone), "[Code-38] [Domain-7] gone (define domain web-1; undone)");
        let text = "cannot define domain web-1: gone";
        assert_eq!(plain(&undone), format!("{text}; all earlier steps are undone"));
        let left = step(vec!["network a".into(), "volume b".into()]);
        assert_eq!(plain(&left), format!("{text}; left behind: network a, volume b"));
        let silent = Error::Silent { age: Duration::from_secs(3) };
        assert_eq!(on_old_path(&silent), "libvirt does not answer since 3 s ago");
        assert_eq!(plain(&silent), "libvirt has not answered for 3 s; still waiting");
    }
}
