//! Guest agents: who asks one, and what GuestInfo says by them.
//!
//! A guest agent may be absent, silent, slow, or anybody's. It is asked one thing at a time, and delays no other call.
//! It can delay GuestInfo by two response timeouts: the last thing that it is asked begins within the first. What it
//! says is cut to a bound.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::config::fixed::{
    AGENT_ANSWER, AGENT_COMMAND, AGENT_GUESTS, AGENT_LIST, AGENT_PAUSE, AGENT_TEXT_CHARS,
};
use crate::guest::wire::GuestRequest;
use crate::guest::wire::agent::{Address, FileSystem, GuestInfo, OperatingSystem, TimeZone, User};
use crate::libvirt::{self, Code, Domain, Name, Source, Topic, Value, Wiring};
use crate::ops::{Error, Libvirt, Question, Session, named_guest};
use crate::pool::{CallShare, JobName, Permit, Pool, Ration, current};

impl Libvirt {
    /// What is known of a guest from inside: by its agent, and where that does not answer by the leases of
    /// libvirt's networks and the host's neighbours. `virDomainGetGuestInfo`, `virDomainInterfaceAddresses`.
    ///
    /// An agent that was slow or silent is not asked again for [`AGENT_PAUSE`]; the answer says so, and has the addresses
    /// of its last answer with their age.
    ///
    /// # Errors
    /// As [`Libvirt::status`]. A guest without an agent is none.
    ///
    /// # Blocking
    /// Up to [`Deadlines::read`](crate::config::Deadlines::read); two seconds where the agent is slow or silent, beside
    /// what it is asked before.
    pub fn guest_info(&self, request: GuestRequest) -> Result<GuestInfo, Error> {
        let guest = named_guest(request.guest)?;
        let deadline = self.read_deadline(&request.args)?;
        let (id, agents) = (guest.id.clone(), Arc::clone(&self.agents));
        let question = Question::new("GuestInfo", guest.id.clone(), deadline, move |session| {
            session.read(|connection| {
                let domain = connection.lookup_domain_by_name(&id)?;
                Ok(look(&domain, &id, &agents)?)
            })
        });
        let found = self.ask(question.of_emulator())?;
        Ok(GuestInfo { guest: Some(guest), ..found })
    }
}

/// A permit for a call that asks a guest's agent, for which it waits on this thread, in turn with all others.
///
/// # Errors
/// [`Error::Pool`] where there is none by `deadline`.
///
/// # Blocking
/// Up to `deadline`.
pub(super) fn permit(
    pool: &Pool<Session>,
    name: &JobName,
    deadline: Instant,
) -> Result<Permit, Error> {
    let (user, guest) = (current::caller(), name.guest.as_str().into());
    let share = CallShare { ration: Ration::Agent, user, guest };
    pool.wait_for_permit(&share, deadline).map_err(|why| {
        Error::Pool(pool.no_permit(why, &share, &name.to_string(), current::arrived()))
    })
}

/// What is known of guest agents.
#[derive(Debug, Default)]
pub(super) struct Agents {
    /// By the uuid of their domains.
    learned: Mutex<HashMap<String, Learned>>,
    /// Those that are asked now, by the ids of their guests: what for.
    asked: Mutex<Vec<(String, &'static str)>>,
}

/// What was learned of one.
#[derive(Clone, Debug)]
struct Learned {
    /// The run of the guest: another one has another agent.
    run: u32,
    /// When it was last asked: the end of that.
    asked: Instant,
    /// Whether it took too long then.
    is_slow: bool,
    /// The addresses of its last answer, and when.
    addresses: Option<(Vec<Address>, Instant)>,
}

impl Learned {
    /// Why it is left alone, if it is.
    fn left_alone(&self, now: Instant) -> Option<LeftAlone> {
        let pause = AGENT_PAUSE.checked_sub(now - self.asked).filter(|_| self.is_slow);
        pause.map(LeftAlone::Silent)
    }
}

/// Why a guest's agent is not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftAlone {
    /// It was slow or silent a moment ago: for how long it is left alone still.
    Silent(Duration),
    /// It is asked something else: by this method, or for this.
    Busy(&'static str),
}

impl fmt::Display for LeftAlone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent(pause) => {
                let rest = pause.as_secs().max(1);
                write!(f, "the guest agent did not answer in time; it is asked again in {rest} s")
            }
            Self::Busy(what) => write!(f, "the guest agent is busy with {what}"),
        }
    }
}

impl Agents {
    /// The right to ask the agent of the guest with this id for `what`. Nobody else has it until it is dropped, which
    /// is when the job that asks is over, also where its caller was answered before: how long libvirt waits for answers
    /// is set for the guest, not for a command.
    ///
    /// # Errors
    /// [`LeftAlone::Busy`] where somebody has it.
    pub(super) fn turn(
        self: &Arc<Self>,
        guest: &str,
        what: &'static str,
    ) -> Result<Turn, LeftAlone> {
        let mut asked = self.asked.lock();
        if let Some((_, other)) = asked.iter().find(|(it, _)| it == guest) {
            return Err(LeftAlone::Busy(other));
        }
        asked.push((guest.to_owned(), what));
        Ok(Turn { agents: Arc::clone(self), guest: guest.to_owned() })
    }

    /// The same where one guest's agent at most is asked for this.
    ///
    /// # Errors
    /// [`LeftAlone::Busy`] where somebody has it, or another guest's agent is asked for `what`.
    pub(super) fn only_turn(
        self: &Arc<Self>,
        guest: &str,
        what: &'static str,
    ) -> Result<Turn, LeftAlone> {
        let turn = self.turn(guest, what)?;
        let others = |asked: &[(String, &str)]| asked.iter().filter(|(_, it)| *it == what).count();
        match others(&self.asked.lock()) {
            1 => Ok(turn),
            _ => Err(LeftAlone::Busy(what)),
        }
    }

    /// What is known of this run's agent.
    fn of(&self, uuid: &str, run: u32) -> Option<Learned> {
        self.learned.lock().get(uuid).filter(|learned| learned.run == run).cloned()
    }

    fn learn(&self, uuid: &str, learned: Learned) {
        let mut all = self.learned.lock();
        if all.len() >= AGENT_GUESTS && !all.contains_key(uuid) {
            let oldest = all.iter().min_by_key(|(_, it)| it.asked).map(|(uuid, _)| uuid.clone());
            oldest.map(|uuid| all.remove(&uuid));
        }
        all.insert(uuid.to_owned(), learned);
    }
}

/// The right to ask a guest's agent. See [`Agents::turn`].
pub(super) struct Turn {
    agents: Arc<Agents>,
    guest: String,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.agents.asked.lock().retain(|(guest, _)| *guest != self.guest);
    }
}

/// What a guest's agent is to do.
pub(super) type Command<'a> = &'a dyn Fn(&Domain) -> Result<(), libvirt::Error>;

impl Turn {
    /// Has the guest's agent do something that takes no time.
    ///
    /// # Errors
    /// [`Error::AgentLeftAlone`]; what libvirt says, [`Code::AGENT_UNRESPONSIVE`] where the agent is not connected or
    /// does not answer. Its text may be the guest's, cut to a bound.
    ///
    /// # Blocking
    /// Up to [`AGENT_COMMAND`] for each of the agent's answers, which are two at most, beside four round trips.
    pub(super) fn command(&self, domain: &Domain, command: Command<'_>) -> Result<(), Error> {
        self.command_within(domain, AGENT_COMMAND, command)
    }

    /// The same where each answer may take this long.
    ///
    /// # Errors
    /// As [`Turn::command`].
    pub(super) fn command_within(
        &self,
        domain: &Domain,
        time: Duration,
        command: Command<'_>,
    ) -> Result<(), Error> {
        // Of a guest that is off libvirt says so.
        let Some(run) = domain.id() else { return Ok(command(domain)?) };
        let (uuid, began) = (domain.uuid()?, Instant::now());
        let known = self.agents.of(&uuid, run);
        if let Some(why) = known.as_ref().and_then(|known| known.left_alone(began)) {
            return Err(Error::AgentLeftAlone(why));
        }
        domain.set_agent_timeout(Some(time))?;
        let done = command(domain);
        // The time is the domain's, for others' commands too.
        let reset = domain.set_agent_timeout(None);
        let is_unresponsive = matches!(&done, Err(error) if error.code == Code::AGENT_UNRESPONSIVE);
        // One that is not connected says so at once. libvirt does not always say that one has not answered.
        let took = began.elapsed();
        let is_slow = took > time || is_unresponsive && took > AGENT_ANSWER;
        let addresses = known.and_then(|known| known.addresses);
        self.agents.learn(&uuid, Learned { run, asked: Instant::now(), is_slow, addresses });
        done.and(reset).map_err(|error| {
            Error::Libvirt(libvirt::Error { message: short(&error.message), ..error })
        })
    }
}

fn look(domain: &Domain, id: &str, agents: &Arc<Agents>) -> Result<GuestInfo, libvirt::Error> {
    let Some(run) = domain.id() else {
        return Ok(GuestInfo { message: "the guest is off".to_owned(), ..GuestInfo::default() });
    };
    let (uuid, begin) = (domain.uuid()?, Instant::now());
    // What is known is from before this turn.
    let turn = agents.turn(id, "GuestInfo");
    let known = agents.of(&uuid, run);
    let left_alone = match &turn {
        Err(why) => Some(*why),
        Ok(_) => known.as_ref().and_then(|known| known.left_alone(begin)),
    };
    let mut addresses = known.and_then(|known| known.addresses);
    let mut info = GuestInfo::default();
    match left_alone {
        Some(why) => info.message = why.to_string(),
        None => {
            let asked = ask(domain, &mut info, begin);
            let is_slow = begin.elapsed() > AGENT_ANSWER;
            match asked {
                Ok(nics) => {
                    let mut told = Vec::new();
                    add(&mut told, nics, "agent", 0);
                    addresses = Some((told, begin));
                    info.agent = true;
                }
                Err(error) if error.connection_lost() || error.code == Code::NO_DOMAIN => {
                    return Err(error);
                }
                // libvirt's test driver, whose version 9.0 crashes when it is asked for addresses.
                Err(error) if error.code == Code::NO_SUPPORT => {
                    info.message = short(&error.message);
                    return Ok(info);
                }
                Err(error) => info.message = short(&error.message),
            }
            let learned =
                Learned { run, asked: Instant::now(), is_slow, addresses: addresses.clone() };
            agents.learn(&uuid, learned);
        }
    }
    if let Some((told, when)) = addresses {
        let age_s = when.elapsed().as_secs();
        info.addresses.extend(told.into_iter().map(|address| Address { age_s, ..address }));
    }
    for (source, name) in [(Source::Lease, "lease"), (Source::Arp, "arp")] {
        match domain.addresses(source) {
            Ok(nics) => add(&mut info.addresses, nics, name, 0),
            Err(error) if error.connection_lost() => return Err(error),
            // Not every driver and network has them.
            Err(_) => {}
        }
    }
    Ok(info)
}

/// Asks a guest's agent for its NICs, and then for one thing after the other until it has taken its time: each
/// answer may take as long as the first. What is unknown to it stays absent.
fn ask(
    domain: &Domain,
    info: &mut GuestInfo,
    begin: Instant,
) -> Result<Vec<Wiring>, libvirt::Error> {
    domain.set_agent_timeout(Some(AGENT_ANSWER))?;
    let nics = domain.addresses(Source::Agent);
    if nics.is_ok() {
        let mut params = Vec::new();
        for topic in Topic::ALL {
            if begin.elapsed() > AGENT_ANSWER {
                break;
            }
            match domain.agent_info(topic) {
                Ok(told) => params.extend(told),
                Err(error) if error.code == Code::AGENT_UNRESPONSIVE => break,
                // It does not know this.
                Err(_) => {}
            }
        }
        *info = told(&params);
    }
    // The time is the domain's, for others' commands too.
    let reset = domain.set_agent_timeout(None);
    nics.and_then(|nics| reset.map(|()| nics))
}

/// What libvirt's parameters say.
fn told(params: &[(Name, Value)]) -> GuestInfo {
    let find = |name: &str| params.iter().find(|(own, _)| **own == *name).map(|(_, value)| value);
    let text = |name: &str| match find(name) {
        Some(Value::Text(text)) => short(text),
        _ => String::new(),
    };
    let number = |name: &str| find(name).and_then(Value::as_u64);
    let each = |list: &str| {
        let count = number(&format!("{list}.count")).unwrap_or_default();
        let count = usize::try_from(count).unwrap_or(AGENT_LIST);
        (0..count.min(AGENT_LIST)).map({
            let list = list.to_owned();
            move |index| format!("{list}.{index}")
        })
    };
    let os = OperatingSystem {
        id: text("os.id"),
        name: text("os.pretty-name"),
        version: text("os.version-id"),
        kernel: text("os.kernel-release"),
        machine: text("os.machine"),
    };
    let offset = find("timezone.offset").and_then(Value::as_i64);
    GuestInfo {
        hostname: text("hostname"),
        os: Some(os).filter(|os| *os != OperatingSystem::default()),
        timezone: offset.map(|offset_s| TimeZone { name: text("timezone.name"), offset_s }),
        users: each("user")
            .map(|user| User {
                name: text(&format!("{user}.name")),
                since_ms: number(&format!("{user}.login-time")).unwrap_or_default(),
            })
            .collect(),
        filesystems: each("fs")
            .map(|fs| FileSystem {
                mountpoint: text(&format!("{fs}.mountpoint")),
                device: text(&format!("{fs}.name")),
                kind: text(&format!("{fs}.fstype")),
                total_bytes: number(&format!("{fs}.total-bytes")).unwrap_or_default(),
                used_bytes: number(&format!("{fs}.used-bytes")),
                disks: each(&format!("{fs}.disk"))
                    .map(|disk| text(&format!("{disk}.alias")))
                    .filter(|disk| !disk.is_empty())
                    .collect(),
            })
            .collect(),
        ..GuestInfo::default()
    }
}

/// Adds the addresses that are not there yet, at most [`AGENT_LIST`] of them. Those that work on the link alone come
/// last.
fn add(addresses: &mut Vec<Address>, nics: Vec<Wiring>, source: &'static str, age_s: u64) {
    let (mut wide, mut narrow) = (Vec::new(), Vec::new());
    for nic in nics {
        for (address, prefix) in nic.addresses {
            let Ok(known) = address.parse::<IpAddr>() else { continue };
            let mut all = addresses.iter().chain(&wide).chain(&narrow);
            if known.is_loopback() || all.any(|it: &Address| it.address == address) {
                continue;
            }
            if wide.len() + narrow.len() >= AGENT_LIST {
                break;
            }
            let is_narrow = match known {
                IpAddr::V4(address) => address.is_link_local(),
                IpAddr::V6(address) => address.is_unicast_link_local(),
            };
            let made = Address {
                address,
                prefix: prefix.into(),
                mac: short(&nic.mac),
                // From other sources it is the host's device.
                interface: if source == "agent" { short(&nic.name) } else { String::new() },
                source,
                age_s,
            };
            if is_narrow { narrow.push(made) } else { wide.push(made) }
        }
    }
    addresses.extend(wide.into_iter().chain(narrow));
}

/// A guest's text, cut to a bound.
fn short(text: &str) -> String {
    text.chars().take(AGENT_TEXT_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(name: &str, text: &str) -> (Name, Value) {
        (name.into(), Value::Text(text.to_owned()))
    }

    #[test]
    fn what_a_guest_says_is_cut_to_its_bounds() {
        let mut params = vec![
            text("hostname", &"h".repeat(10_000)),
            ("fs.count".into(), Value::Unsigned(u64::MAX)),
            text("fs.0.mountpoint", "/"),
            ("fs.0.total-bytes".into(), Value::Unsigned(4096)),
            ("fs.0.disk.count".into(), Value::Unsigned(1)),
            text("fs.0.disk.0.alias", "vda"),
            ("user.count".into(), Value::Signed(-1)),
        ];
        params.push(("timezone.offset".into(), Value::Signed(-3600)));
        let info = told(&params);
        assert_eq!(info.hostname.len(), AGENT_TEXT_CHARS);
        assert_eq!(info.filesystems.len(), AGENT_LIST);
        assert_eq!(info.filesystems[0].disks, ["vda"]);
        assert_eq!((info.filesystems[0].total_bytes, info.filesystems[0].used_bytes), (4096, None));
        assert_eq!((info.users.len(), info.os), (0, None));
        assert_eq!(info.timezone.map(|it| it.offset_s), Some(-3600));
    }

    #[test]
    fn an_address_is_from_its_first_source_and_no_loopback() {
        let nic = |name: &str, addresses: &[&str]| Wiring {
            name: name.to_owned(),
            mac: "02:00:00:00:00:01".to_owned(),
            addresses: addresses.iter().map(|it| ((*it).to_owned(), 24)).collect(),
        };
        let mut all = Vec::new();
        let own =
            vec![nic("lo", &["127.0.0.1", "::1"]), nic("eth0", &["fe80::1", "192.0.2.7", "?"])];
        add(&mut all, own, "agent", 7);
        add(&mut all, vec![nic("vnet0", &["192.0.2.7", "192.0.2.8"])], "arp", 0);
        let found: Vec<_> =
            all.iter().map(|it| (it.address.as_str(), it.source, it.age_s)).collect();
        assert_eq!(
            found,
            [("192.0.2.7", "agent", 7), ("fe80::1", "agent", 7), ("192.0.2.8", "arp", 0)]
        );
        assert_eq!((all[0].interface.as_str(), all[2].interface.as_str()), ("eth0", ""));
    }

    #[test]
    fn of_too_many_agents_the_one_asked_first_is_forgotten() {
        let (agents, begin) = (Agents::default(), Instant::now());
        for index in 0..=AGENT_GUESTS {
            let asked = begin + Duration::from_millis(u64::try_from(index).unwrap());
            let learned = Learned { run: 1, asked, is_slow: true, addresses: None };
            agents.learn(&format!("uuid-{index}"), learned);
        }
        assert!(agents.of("uuid-0", 1).is_none() && agents.of("uuid-1", 1).is_some());
        assert!(agents.of("uuid-1", 2).is_none(), "another run has another agent");
    }
}
