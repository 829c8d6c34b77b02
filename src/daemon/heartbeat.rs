//! Tells systemd's watchdog whether this process works: the front answers a request of its own, and
//! the pool starts what is queued. The state of libvirt and of the storage does not count, because
//! a restart of the agent would not repair them.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{io, mem};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use log::warn;

use crate::http::net::self_probe::SelfProbe;
use crate::ops::Libvirt;
use crate::os::notify::Notify;
use crate::pool::LaneSnapshot;

/// Notifies systemd, and owns the thread that sends a watchdog ping twice per watchdog interval.
#[derive(Debug)]
pub(super) struct Heartbeat {
    notify: Option<Arc<Notify>>,
    feeder: Option<(JoinHandle<()>, Sender<()>)>,
}

impl Heartbeat {
    /// Notifies systemd that the service is ready, and starts the watchdog thread where a watchdog
    /// is set.
    ///
    /// # Errors
    /// When the system cannot start a thread.
    pub(super) fn start(
        notify: Option<Notify>,
        agent: &Arc<Libvirt>,
        self_probe: Option<SelfProbe>,
    ) -> io::Result<Self> {
        let Some(notify) = notify.map(Arc::new) else {
            return Ok(Self { notify: None, feeder: None });
        };
        notify_systemd(&notify, &format!("READY=1\nSTATUS={}", status(agent)));
        let feeder = match (notify.watchdog(), self_probe) {
            (Some(time), Some(self_probe)) => Some(feed(&notify, agent, self_probe, time)?),
            _ => None,
        };
        Ok(Self { notify: Some(notify), feeder })
    }

    /// Notifies systemd that the service stops, and ends the pings: systemd bounds a stop by a
    /// timeout of its own.
    ///
    /// # Blocking
    /// Up to half of the watchdog interval, while the front does not answer.
    pub(super) fn stop(self) {
        if let Some(notify) = &self.notify {
            notify_systemd(notify, "STOPPING=1\nSTATUS=finishing requests in flight");
        }
        let Some((thread, stop)) = self.feeder else { return };
        drop(stop);
        if thread.join().is_err() {
            warn!("the heartbeat thread panicked");
        }
    }
}

fn feed(
    notify: &Arc<Notify>,
    agent: &Arc<Libvirt>,
    self_probe: SelfProbe,
    time: Duration,
) -> io::Result<(JoinHandle<()>, Sender<()>)> {
    let (notify, agent) = (Arc::clone(notify), Arc::clone(agent));
    let (stop, stopped) = bounded::<()>(0);
    let work = move || {
        let (mut lanes, mut sent) = (agent.core.pool().snapshot().lanes, status(&agent));
        while stopped.recv_timeout(time / 2) == Err(RecvTimeoutError::Timeout) {
            let before = mem::replace(&mut lanes, agent.core.pool().snapshot().lanes);
            match works(&before, &lanes).and_then(|()| front_answers(&self_probe, time / 4)) {
                Ok(()) => notify_systemd(&notify, "WATCHDOG=1"),
                Err(why) => warn!("watchdog ping not sent to systemd: {why}"),
            }
            let status = status(&agent);
            if status != sent {
                notify_systemd(&notify, &format!("STATUS={status}"));
                sent = status;
            }
        }
    };
    let thread = thread::Builder::new().name("heartbeat".to_owned()).spawn(work)?;
    Ok((thread, stop))
}

/// Sends a notification to systemd. A failure is only logged.
fn notify_systemd(notify: &Notify, lines: &str) {
    if let Err(error) = notify.send(lines) {
        warn!("cannot notify systemd of {lines:?}: {error}");
    }
}

fn front_answers(self_probe: &SelfProbe, patience: Duration) -> Result<(), String> {
    self_probe.probe(patience).map_err(|error| format!("the HTTP front does not answer: {error}"))
}

/// Returns an error for a lane that made no progress although jobs waited beside a free worker.
fn works(before: &[LaneSnapshot], now: &[LaneSnapshot]) -> Result<(), String> {
    let may_run = |lane: &LaneSnapshot| lane.queued.saturating_sub(lane.held_back);
    let is_idle = |lane: &LaneSnapshot| may_run(lane) > 0 && lane.running < lane.workers;
    for (before, now) in before.iter().zip(now) {
        if is_idle(before) && is_idle(now) && before.totals == now.totals {
            let (lane, queued) = (now.lane, now.queued);
            return Err(format!("lane {lane} does not start {queued} queued jobs on idle workers"));
        }
    }
    Ok(())
}

/// Returns the line of status for `systemctl status`.
fn status(agent: &Libvirt) -> String {
    let seen = agent.core.libvirt_last_seen();
    match (seen.error, seen.tried) {
        (Some(why), _) => format!("libvirt: {why}"),
        (None, true) => "libvirt answers".to_owned(),
        (None, false) => "libvirt has not been queried yet".to_owned(),
    }
    // A status is one line.
    .replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{Lane, Totals};

    fn lane(queued: usize, running: usize, finished: u64) -> LaneSnapshot {
        LaneSnapshot {
            lane: Lane::Read,
            workers: 4,
            queued,
            held_back: 0,
            running,
            stuck: 0,
            oldest: None,
            totals: Totals { finished, ..Totals::default() },
        }
    }

    #[test]
    fn lane_is_stalled_when_jobs_wait_beside_idle_workers() {
        let judge = |before, now| works(&[before], &[now]).is_ok();
        assert!(!judge(lane(3, 1, 7), lane(3, 1, 7)));
        assert!(judge(lane(3, 1, 7), lane(3, 1, 8)), "one was finished");
        assert!(judge(lane(3, 4, 7), lane(3, 4, 7)), "all workers hang below");
        assert!(judge(lane(0, 0, 7), lane(3, 1, 7)), "they have just come");
        assert!(judge(lane(0, 0, 7), lane(0, 0, 7)), "nothing to do");
        let held = || LaneSnapshot { held_back: 3, ..lane(3, 1, 7) };
        assert!(judge(held(), held()), "a guest that hangs holds its own jobs back");
        assert!(works(&[], &[lane(3, 1, 7)]).is_ok(), "the first look");
    }
}
