//! The clocks of guests that stood still, set when they go on.
//!
//! A guest that was paused, saved or waited for a full disk goes on with the time at which it stopped. libvirt tells
//! when one goes on, whoever resumed it. Its guest agent then sets the clock; no call waits for that.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use log::{debug, info};

use crate::config::fixed::{AGENT_CLOCK, AGENT_CLOCKS, AGENT_LATE};
use crate::libvirt::Code;
use crate::ops::agents::{Agents, set_clock};
use crate::ops::{Error, Session, begun};
use crate::os::peer::Share;
use crate::os::process;
use crate::pool::{CallShare, Job, JobName, Lane, Pool, Ration};

/// Sets clocks on a thread of its own, `guest-clock`, one after the other. It ends with this value.
pub(super) struct Clocks(Sender<String>);

struct Thread {
    pool: Arc<Pool<Session>>,
    agents: Arc<Agents>,
    resumed: Receiver<String>,
}

impl Clocks {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives none.
    pub(super) fn start(pool: &Arc<Pool<Session>>, agents: &Arc<Agents>) -> io::Result<Self> {
        let (sender, resumed) = bounded(AGENT_CLOCKS);
        let thread = Thread { pool: Arc::clone(pool), agents: Arc::clone(agents), resumed };
        thread::Builder::new().name("guest-clock".to_owned()).spawn(move || thread.run())?;
        Ok(Self(sender))
    }

    /// Has the clock of this guest set, which goes on. Waits for nothing.
    pub(super) fn resumed(&self, guest: &str) {
        if self.0.try_send(guest.to_owned()).is_err() {
            info!("cannot set a guest's clock: too many guests wait for that; guest={guest:?}");
        }
    }
}

impl Thread {
    fn run(self) {
        for guest in &self.resumed {
            let began = Instant::now();
            match self.set(&guest) {
                Ok(()) => debug!("a guest that goes on has its clock set; guest={guest:?}"),
                // It boots, or has no guest agent. One that is there and silent has the same code, later.
                Err(Error::Libvirt(error))
                    if is_absence(error.code) && began.elapsed() < AGENT_CLOCK =>
                {
                    debug!("cannot set a guest's clock: {error}; guest={guest:?}");
                }
                Err(error) => info!("cannot set a guest's clock: {error}; guest={guest:?}"),
            }
        }
    }

    fn set(&self, guest: &str) -> Result<(), Error> {
        let (arrived, name) = (Instant::now(), JobName::new("set the clock of", guest));
        let deadline = arrived + AGENT_LATE;
        let user = Share::User(process::user());
        let share = CallShare { ration: Ration::Agent, user, guest: guest.into() };
        // One call for a guest's agent at once.
        let _permit = self.pool.wait_for_permit(&share, deadline).map_err(|why| {
            Error::Pool(self.pool.no_permit(why, &share, &name.to_string(), arrived))
        })?;
        let (guest, agents) = (guest.to_owned(), Arc::clone(&self.agents));
        let work = move |session: &mut Session| {
            session.read(|connection| {
                let domain = connection.lookup_domain_by_name(&guest)?;
                Ok(set_clock(&domain, &agents)?)
            })
        };
        let job = Job { name: name.of_emulator(), deadline };
        self.pool.run(Lane::Read, job, None, begun(deadline, work))?
    }
}

/// Whether libvirt says that there is no guest agent, or no such guest any more.
fn is_absence(code: Code) -> bool {
    let absent = [Code::AGENT_UNRESPONSIVE, Code::ARGUMENT_UNSUPPORTED, Code::NO_SUPPORT];
    absent.contains(&code) || [Code::NO_DOMAIN, Code::OPERATION_INVALID].contains(&code)
}
