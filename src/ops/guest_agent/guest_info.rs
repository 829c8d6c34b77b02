//! GuestInfo: data about the inside of a guest.
//!
//! The guest agent can delay the call by two response timeouts: the call's last command starts within the first. Texts
//! of the guest agent are cut to a bound.

use std::sync::Arc;
use std::time::Instant;

use crate::config::fixed::{AGENT_ANSWER, AGENT_LIST};
use crate::events::Events;
use crate::guest::wire::GuestRequest;
use crate::guest::wire::agent::{FileSystem, GuestInfo, OperatingSystem, TimeZone, User};
use crate::libvirt::{self, Code, Domain, Name, NicAddresses, Source, Topic, Value};
use crate::ops::guest_agent::turns::{GuestAgents, short};
use crate::ops::requests::named_guest;
use crate::ops::{Error, Guests, Question};

impl Guests {
    /// Returns data about the inside of a guest, from its guest agent. If that does not answer, the addresses are those
    /// of the leases of libvirt's networks and of the host's neighbours. `virDomainGetGuestInfo`,
    /// `virDomainInterfaceAddresses`.
    ///
    /// A guest agent that was slow or silent is not asked again for [`AGENT_PAUSE`](crate::config::fixed::AGENT_PAUSE).
    /// The answer says so, and has the addresses of its last answer with their age.
    ///
    /// # Errors
    /// As [`Guests::status`]. A guest without a guest agent is no error.
    ///
    /// # Blocking
    /// Up to [`Deadlines::read`](crate::config::Deadlines::read); two seconds if the guest agent is slow or silent,
    /// plus the time of earlier commands to it.
    pub fn guest_info(&self, request: GuestRequest) -> Result<GuestInfo, Error> {
        let guest = named_guest(request.guest)?;
        let deadline = self.core.read_deadline(&request.args)?;
        let (id, agents) = (guest.id.clone(), Arc::clone(&self.agents));
        let events = Arc::clone(&self.core.events);
        let question = Question::new("GuestInfo", guest.id.clone(), deadline, move |session| {
            session.read(|connection| {
                let domain = connection.lookup_domain_by_name(&id)?;
                let found = look(&domain, &id, &agents, &events)?;
                Ok(found)
            })
        });
        let found = self.core.ask(question.of_emulator())?;
        Ok(GuestInfo { guest: Some(guest), ..found })
    }
}

fn look(
    domain: &Domain,
    id: &str,
    agents: &Arc<GuestAgents>,
    events: &Events,
) -> Result<GuestInfo, libvirt::Error> {
    let Some(run) = domain.id() else {
        return Ok(GuestInfo { message: "the guest is off".to_owned(), ..GuestInfo::default() });
    };
    let begin = Instant::now();
    // While this call has the guard, no other command changes the record of the last answer.
    let agent_guard = agents.agent_guard(id, "GuestInfo");
    let unavailable = match &agent_guard {
        Err(why) => Some(*why),
        Ok(_) => agents.unavailable(id, run, begin),
    };
    let mut info = GuestInfo::default();
    match unavailable {
        Some(why) => info.message = why.to_string(),
        None => {
            let asked = ask(domain, &mut info, begin);
            agents.note_asked(id, run, begin.elapsed() > AGENT_ANSWER);
            match asked {
                Ok(nics) => {
                    info.agent = true;
                    agents.report(id, run, nics, Source::Agent, events);
                    if !info.filesystems.is_empty() {
                        agents.mount(id, run, &info.filesystems);
                    }
                }
                Err(error) if error.connection_lost() || error.code == Code::NO_DOMAIN => {
                    return Err(error);
                }
                // libvirt's test driver; its version 9.0 crashes on a request for addresses.
                Err(error) if error.code == Code::NO_SUPPORT => {
                    info.message = short(&error.message);
                    return Ok(info);
                }
                Err(error) => info.message = short(&error.message),
            }
        }
    }
    for source in [Source::Lease, Source::Arp] {
        match domain.addresses(source) {
            Ok(nics) => agents.report(id, run, nics, source, events),
            Err(error) if error.connection_lost() => return Err(error),
            // Not every driver and network provides them.
            Err(_) => {}
        }
    }
    info.addresses = agents.addresses(id, run);
    Ok(info)
}

/// Asks a guest agent for its NICs, and then for one topic after the other until [`AGENT_ANSWER`] has passed. Each
/// answer may take as long as the first. Topics that the guest agent does not know stay absent.
fn ask(
    domain: &Domain,
    info: &mut GuestInfo,
    begin: Instant,
) -> Result<Vec<NicAddresses>, libvirt::Error> {
    domain.set_agent_timeout(Some(AGENT_ANSWER))?;
    let nics = domain.addresses(Source::Agent);
    if nics.is_ok() {
        let mut params = Vec::new();
        for topic in Topic::ALL {
            if begin.elapsed() > AGENT_ANSWER {
                break;
            }
            match domain.agent_info(topic) {
                Ok(reported) => params.extend(reported),
                Err(error) if error.code == Code::AGENT_UNRESPONSIVE => break,
                // The guest agent does not know this topic.
                Err(_) => {}
            }
        }
        *info = info_from(&params);
    }
    // The timeout is set for the domain, so it also applies to commands of other callers.
    let reset = domain.set_agent_timeout(None);
    nics.and_then(|nics| reset.map(|()| nics))
}

/// Converts libvirt's parameters.
pub(super) fn info_from(params: &[(Name, Value)]) -> GuestInfo {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::fixed::AGENT_TEXT_CHARS;

    fn text(name: &str, text: &str) -> (Name, Value) {
        (name.into(), Value::Text(text.to_owned()))
    }

    #[test]
    fn guest_answer_is_cut_to_its_bounds() {
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
        let info = info_from(&params);
        assert_eq!(info.hostname.len(), AGENT_TEXT_CHARS);
        assert_eq!(info.filesystems.len(), AGENT_LIST);
        assert_eq!(info.filesystems[0].disks, ["vda"]);
        assert_eq!((info.filesystems[0].total_bytes, info.filesystems[0].used_bytes), (4096, None));
        assert_eq!((info.users.len(), info.os), (0, None));
        assert_eq!(info.timezone.map(|it| it.offset_s), Some(-3600));
    }
}
