//! Addresses of running guests: what the agent remembers of each guest, and when it asks again.
//!
//! List, Describe, metrics and the page read this memory only. libvirt's events and definitions say which guests run,
//! with which NICs and which guest agent. The thread of `clocks` asks the guest agents one after the other, and asks
//! libvirt's networks and the kernel once for all guests.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use parking_lot::Mutex;

use crate::config::fixed::{
    ADDRESS_EVENTS, AGENT_GUESTS, AGENT_LIST, AGENT_REFRESH, AGENT_REFRESH_GAP,
    AGENT_REFRESH_SILENT, AGENT_REFRESH_SOON, AGENT_REFRESH_SOON_TRIES, AGENT_TEXT_CHARS,
    FILESYSTEMS_AGE, GUEST_ADDRESSES, GUEST_FILESYSTEMS, HOST_ADDRESSES, LEASE_NETWORKS,
    MOUNTPOINT_CHARS,
};
use crate::events::{EventKind, Events};
use crate::guest::device_xml::AddressSources;
use crate::guest::wire::agent::{Address, FileSystem, is_of_link};
use crate::libvirt::{NicAddresses, Source};
use crate::metrics::{GuestInside, MountedSize};
use crate::sorted::{IntoSorted, OrderBy};

/// What the agent knows of guest agents and of running guests.
#[derive(Debug, Default)]
pub(in crate::ops) struct GuestAgents {
    pub(in crate::ops) guests: Mutex<KnownGuests>,
    /// Whether the metrics include file systems, so that the agent asks guest agents for them.
    pub(super) wants_filesystems: bool,
    /// The guest agents that process a command now: the guest's id and the purpose.
    pub(in crate::ops) asked: Mutex<Vec<(String, &'static str)>>,
}

/// What the agent remembers of running guests.
#[derive(Debug, Default)]
pub(in crate::ops) struct KnownGuests {
    /// Ordered by guest id; at most [`AGENT_GUESTS`].
    known: Vec<Known>,
    /// When the agent last asked the networks and the kernel.
    host: Option<Instant>,
    /// When the agent last asked a guest agent without a caller's request.
    refreshed: Option<Instant>,
}

/// What the agent remembers of one guest.
#[derive(Debug, Default)]
struct Known {
    guest: String,
    /// The id of the guest's run. Another run has another guest agent and other addresses.
    run: u32,
    /// The sources of the guest's addresses, from its definition and libvirt's events.
    sources: AddressSources,
    /// When the last command to the guest agent ended.
    asked: Option<Instant>,
    /// Whether that command took too long.
    is_slow: bool,
    /// The guest's addresses by source, each with the time at which the source reported it.
    seen: Vec<(Address, Instant)>,
    /// The guest's file systems; `mounted_at` is the time at which its guest agent reported them.
    filesystems: Vec<MountedSize>,
    mounted_at: Option<Instant>,
    /// When to ask the guest agent next.
    due: Option<Instant>,
    /// How often the guest agent has reported no address since it connected.
    empty_reports: u32,
    /// The addresses in the last event; `reported_at` is the time of that event.
    reported: BTreeSet<String>,
    reported_at: Option<Instant>,
}

/// The agent's next query for addresses.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::ops) enum Refresh {
    /// Asks the guest agent of this guest.
    Guest(String),
    /// Asks these networks for their leases, and the kernel for neighbours.
    Host(BTreeSet<String>),
}

impl Known {
    fn new(guest: &str, run: u32) -> Self {
        Self { guest: guest.to_owned(), run, ..Self::default() }
    }

    /// Replaces the addresses of a source. Returns whether one of them reaches beyond the guest's link.
    fn see(&mut self, nics: Vec<NicAddresses>, source: Source, now: Instant) -> bool {
        let name = name_of(source);
        let mut found = Vec::new();
        add(&mut found, nics, name);
        found.truncate(GUEST_ADDRESSES);
        let has_any = found.iter().any(|address| !is_of_link(&address.address));
        self.seen.retain(|(address, _)| address.source != name);
        self.seen.extend(found.into_iter().map(|address| (address, now)));
        has_any
    }

    /// Returns the guest's addresses with their ages. Leases come first, then neighbours, then the guest agent, which
    /// can report any address; addresses that reach only the guest's link come last. Only the guest agent knows the
    /// interface of an address.
    fn addresses(&self) -> Vec<Address> {
        let mut shown: Vec<Address> = Vec::new();
        for wants_narrow in [false, true] {
            for source in [Source::Lease, Source::Arp, Source::Agent].map(name_of) {
                for (address, when) in &self.seen {
                    if address.source != source || is_of_link(&address.address) != wants_narrow {
                        continue;
                    }
                    match shown.iter_mut().find(|it| it.address == address.address) {
                        Some(known) if known.interface.is_empty() && known.mac == address.mac => {
                            known.interface.clone_from(&address.interface);
                            known.prefix = known.prefix.max(address.prefix);
                        }
                        Some(_) => {}
                        None => {
                            let age_s = when.elapsed().as_secs();
                            shown.push(Address { age_s, ..address.clone() });
                        }
                    }
                }
            }
        }
        shown
    }

    /// Replaces the file systems. Keeps the first ones, each mount point once: the mount point is a label of metrics.
    fn mount(&mut self, found: &[FileSystem], now: Instant) {
        self.filesystems.clear();
        for FileSystem { mountpoint, total_bytes, used_bytes, .. } in found {
            let mountpoint: String = mountpoint.chars().take(MOUNTPOINT_CHARS).collect();
            let is_new = self.filesystems.iter().all(|known| known.mountpoint != mountpoint);
            if let (Some(used_bytes), true) = (*used_bytes, is_new) {
                let size_bytes = *total_bytes;
                self.filesystems.push(MountedSize { mountpoint, size_bytes, used_bytes });
            }
            if self.filesystems.len() >= GUEST_FILESYSTEMS {
                break;
            }
        }
        self.mounted_at = Some(now);
    }

    /// Returns the guest's part of the metrics; `None` for a guest without a channel for a guest agent.
    fn view(&self) -> Option<GuestInside> {
        let is_connected = self.sources.agent?;
        let is_young = self.mounted_at.is_some_and(|at| at.elapsed() < FILESYSTEMS_AGE);
        let filesystems = if is_young { self.filesystems.clone() } else { Vec::new() };
        Some(GuestInside { guest: self.guest.clone(), is_connected, filesystems })
    }

    /// Returns whether the agent must send an event about the addresses, and then records them as sent: if they differ
    /// from those of the last event, and that event is at least [`ADDRESS_EVENTS`] old.
    fn is_news(&mut self, now: Instant) -> bool {
        let reported_at =
            self.reported_at.filter(|at| now.saturating_duration_since(*at) < ADDRESS_EVENTS);
        let found = self.seen.iter().map(|(address, _)| address.address.clone()).into_set();
        if reported_at.is_some() || found == self.reported {
            return false;
        }
        (self.reported, self.reported_at) = (found, Some(now));
        true
    }
}

impl KnownGuests {
    fn position(&self, guest: &str) -> Result<usize, usize> {
        self.known.binary_search_by(|known| known.guest.as_str().cmp(guest))
    }

    fn find(&self, guest: &str, run: u32) -> Option<&Known> {
        let position = self.position(guest).ok()?;
        self.known.get(position).filter(|known| known.run == run)
    }

    fn find_any(&mut self, guest: &str) -> Option<&mut Known> {
        let position = self.position(guest).ok()?;
        self.known.get_mut(position)
    }

    /// Returns the entry of this run of a guest, and forgets former runs. When the table is full, it first forgets the
    /// guest whose guest agent has not been asked for the longest time.
    fn entry(&mut self, guest: &str, run: u32) -> Option<&mut Known> {
        if self.position(guest).is_err() && self.known.len() >= AGENT_GUESTS {
            let oldest = self.known.iter().enumerate().min_by_key(|(_, known)| known.asked);
            if let Some(position) = oldest.map(|(position, _)| position) {
                drop(self.known.remove(position));
            }
        }
        let position = match self.position(guest) {
            Ok(position) => position,
            Err(position) => {
                self.known.insert(position, Known::new(guest, run));
                position
            }
        };
        let known = self.known.get_mut(position)?;
        if known.run != run {
            *known = Known::new(guest, run);
        }
        Some(known)
    }

    /// Returns when the last command to the guest agent ended, if the guest agent did not answer that in time.
    pub(super) fn silent_since(&self, guest: &str, run: u32) -> Option<Instant> {
        self.find(guest, run).filter(|known| known.is_slow)?.asked
    }

    /// Records that the agent asked a guest agent.
    pub(super) fn note_asked(&mut self, guest: &str, run: u32, is_slow: bool) {
        let now = Instant::now();
        let Some(known) = self.entry(guest, run) else { return };
        (known.asked, known.is_slow) = (Some(now), is_slow);
        if is_slow {
            known.due = Some(now + AGENT_REFRESH_SILENT);
        }
    }

    /// Returns the query that is due, else the time of the next one.
    fn due(&mut self, now: Instant) -> Result<Refresh, Option<Instant>> {
        let has_nics = self.known.iter().any(|known| !known.sources.macs.is_empty());
        let host = has_nics.then(|| self.host.map_or(now, |last| last + HOST_ADDRESSES));
        if host.is_some_and(|host| host <= now) {
            self.host = Some(now);
            let mut networks = BTreeSet::new();
            for network in self.known.iter().flat_map(|known| known.sources.networks()) {
                if networks.len() < LEASE_NETWORKS {
                    networks.insert(network);
                }
            }
            return Ok(Refresh::Host(networks));
        }
        let connected = self.known.iter_mut().filter(|it| it.sources.agent == Some(true));
        let next = connected.filter(|it| it.due.is_some()).min_by_key(|known| known.due);
        let gap = self.refreshed.map(|last| last + AGENT_REFRESH_GAP);
        let at = next
            .as_ref()
            .and_then(|known| known.due)
            .map(|due| gap.map_or(due, |gap| due.max(gap)));
        match (next, at) {
            (Some(known), Some(at)) if at <= now => {
                known.due = Some(now + AGENT_REFRESH);
                self.refreshed = Some(now);
                Ok(Refresh::Guest(known.guest.clone()))
            }
            _ => Err([host, at].into_iter().flatten().min()),
        }
    }
}

impl GuestAgents {
    /// Records that a guest runs, or that its devices changed, from its live definition.
    pub(in crate::ops) fn runs(&self, guest: &str, run: u32, sources: AddressSources) {
        let mut guests = self.guests.lock();
        let Some(known) = guests.entry(guest, run) else { return };
        if sources.agent == Some(true) && known.sources.agent != Some(true) {
            known.due = Some(Instant::now());
        }
        known.sources = sources;
    }

    /// Forgets a guest that is off.
    pub(in crate::ops) fn forget(&self, guest: &str) {
        self.guests.lock().known.retain(|known| known.guest != guest);
    }

    /// Forgets all guests but these.
    pub(in crate::ops) fn retain(&self, is_running: &dyn Fn(&str) -> bool) {
        self.guests.lock().known.retain(|known| is_running(&known.guest));
    }

    /// Records whether the guest agent of a guest is connected.
    pub(in crate::ops) fn is_connected(&self, guest: &str, is_connected: bool) {
        let mut guests = self.guests.lock();
        let Some(known) = guests.find_any(guest) else { return };
        known.sources.agent = Some(is_connected);
        if is_connected {
            // A guest agent that reconnects all the time is asked only now and then.
            let now = Instant::now();
            known.due = Some(known.asked.map_or(now, |last| now.max(last + AGENT_REFRESH_SOON)));
            known.empty_reports = 0;
        }
    }

    /// Stores the addresses that a source reports for this run of a guest.
    pub(super) fn report(
        &self,
        guest: &str,
        run: u32,
        nics: Vec<NicAddresses>,
        source: Source,
        events: &Events,
    ) {
        let now = Instant::now();
        let mut guests = self.guests.lock();
        let Some(known) = guests.entry(guest, run) else { return };
        let has_any = known.see(nics, source, now);
        // A guest that has just booted may have no address yet.
        if source == Source::Agent && !has_any && known.empty_reports < AGENT_REFRESH_SOON_TRIES {
            known.empty_reports += 1;
            known.due = Some(now + AGENT_REFRESH_SOON);
        }
        let is_news = known.is_news(now);
        drop(guests);
        if is_news {
            events.note(guest, EventKind::Agent { state: "addresses" });
        }
    }

    /// Stores the addresses that a source of the host reports for all guests, by the MAC addresses of their NICs.
    pub(super) fn report_all(&self, mut nics: Vec<NicAddresses>, source: Source, events: &Events) {
        nics.iter_mut().for_each(|nic| nic.mac.make_ascii_lowercase());
        nics.order_by(&|a, b| a.mac.cmp(&b.mac));
        let now = Instant::now();
        let mut news = Vec::new();
        let mut guests = self.guests.lock();
        for known in guests.known.iter_mut().filter(|known| !known.sources.macs.is_empty()) {
            let mut found = Vec::new();
            for mac in &known.sources.macs {
                let from = nics.partition_point(|nic| nic.mac < *mac);
                let own = nics.iter().skip(from).take_while(|nic| nic.mac == *mac);
                found.extend(own.take(GUEST_ADDRESSES).cloned());
            }
            known.see(found, source, now);
            if known.is_news(now) {
                news.push(known.guest.clone());
            }
        }
        drop(guests);
        for guest in news {
            events.note(&guest, EventKind::Agent { state: "addresses" });
        }
    }

    /// Returns the last seen addresses of this run of a guest. Addresses that reach beyond the guest's link come first.
    pub(in crate::ops) fn addresses(&self, guest: &str, run: u32) -> Vec<Address> {
        self.guests.lock().find(guest, run).map(Known::addresses).unwrap_or_default()
    }

    /// Stores the file systems that the guest agent of this run of a guest reports.
    pub(super) fn mount(&self, guest: &str, run: u32, found: &[FileSystem]) {
        let mut guests = self.guests.lock();
        if let Some(known) = guests.entry(guest, run).filter(|_| self.wants_filesystems) {
            known.mount(found, Instant::now());
        }
    }

    /// Returns the metrics of all running guests that have a channel for a guest agent.
    pub(in crate::ops) fn views(&self) -> Vec<GuestInside> {
        self.guests.lock().known.iter().filter_map(Known::view).collect()
    }

    /// Returns the query for addresses that is due, else the time of the next one, if any.
    pub(in crate::ops) fn due(&self, now: Instant) -> Result<Refresh, Option<Instant>> {
        self.guests.lock().due(now)
    }
}

fn name_of(source: Source) -> &'static str {
    match source {
        Source::Agent => "agent",
        Source::Lease => "lease",
        Source::Arp => "arp",
    }
}

/// Adds the addresses that are not in the list yet, at most [`AGENT_LIST`]. Addresses that work on the link alone come
/// last.
fn add(addresses: &mut Vec<Address>, nics: Vec<NicAddresses>, source: &'static str) {
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
            let made = Address {
                address,
                prefix: prefix.into(),
                mac: short(&nic.mac),
                // The name from another source is the host's device.
                interface: if source == "agent" { short(&nic.name) } else { String::new() },
                source,
                age_s: 0,
            };
            if is_of_link(&made.address) { narrow.push(made) } else { wide.push(made) }
        }
    }
    addresses.extend(wide.into_iter().chain(narrow));
}

/// Parses the complete entries of the kernel's ARP table (`/proc/net/arp`).
pub(super) fn neighbours(table: &str) -> Vec<NicAddresses> {
    /// `ATF_COM` of the kernel's `if_arp.h`: the entry is complete.
    const COMPLETE: u64 = 2;
    let read = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let address = fields.next()?.to_owned();
        let flags = fields.nth(1)?.strip_prefix("0x")?;
        let is_complete = u64::from_str_radix(flags, 16).ok()? & COMPLETE != 0;
        let mac = fields.next()?.to_owned();
        let nic = NicAddresses { name: String::new(), mac, addresses: vec![(address, 0)] };
        is_complete.then_some(nic)
    };
    table.lines().skip(1).filter_map(read).collect()
}

/// Cuts a guest's text to a bound, and replaces characters that would move a terminal's cursor.
pub(in crate::ops) fn short(text: &str) -> String {
    let plain = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().take(AGENT_TEXT_CHARS).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::EventLimits;

    const MAC: &str = "02:00:00:00:00:01";

    fn nic(name: &str, mac: &str, addresses: &[&str]) -> NicAddresses {
        let addresses = addresses.iter().map(|it| ((*it).to_owned(), 24)).collect();
        NicAddresses { name: name.to_owned(), mac: mac.to_owned(), addresses }
    }

    fn sources(network: &str, agent: &str) -> AddressSources {
        let agent = format!("<target name='org.qemu.guest_agent.0' state='{agent}'/>");
        AddressSources::of(&format!(
            "<domain><devices><interface><mac address='{MAC}'/><source network='{network}'/></interface>
             <channel>{agent}</channel></devices></domain>"
        ))
        .unwrap()
    }

    fn shown(agents: &GuestAgents, run: u32) -> Vec<String> {
        agents.addresses("web", run).into_iter().map(|it| it.address + " " + it.source).collect()
    }

    /// Returns an agent that knows this running guest.
    fn with_guest(network: &str) -> (GuestAgents, Events) {
        let agents = GuestAgents::default();
        agents.runs("web", 1, sources(network, "connected"));
        (agents, Events::new(&EventLimits::default()))
    }

    #[test]
    fn host_observations_precede_guest_answers() {
        let (agents, events) = with_guest("");
        let own = vec![
            nic("lo", "", &["127.0.0.1", "::1"]),
            nic("eth0", MAC, &["fe80::1", "192.0.2.6", "192.0.2.7", "?"]),
        ];
        agents.report("web", 1, own, Source::Agent, &events);
        let arp = vec![nic("vnet0", MAC, &["192.0.2.7", "192.0.2.8"])];
        agents.report("web", 1, arp, Source::Arp, &events);
        let all = agents.addresses("web", 1);
        let all: Vec<_> =
            all.iter().map(|it| [&it.address, it.source, &it.interface].join(" ")).collect();
        let expected =
            ["192.0.2.7 arp eth0", "192.0.2.8 arp ", "192.0.2.6 agent eth0", "fe80::1 agent eth0"];
        assert_eq!(all, expected);
        assert_eq!(shown(&agents, 2), [""; 0], "another run has other addresses");
        agents.runs("web", 2, sources("", "connected"));
        assert_eq!(shown(&agents, 1), [""; 0], "the former run is over");
    }

    #[test]
    fn guest_answers_take_bounded_memory() {
        let (agents, events) = with_guest("");
        let many: Vec<String> = (0..=255).map(|it| format!("192.0.2.{it}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        agents.report("web", 1, vec![nic("eth0", MAC, &many)], Source::Agent, &events);
        assert_eq!(shown(&agents, 1).len(), GUEST_ADDRESSES);
        for index in 0..=AGENT_GUESTS {
            agents.note_asked(&format!("guest-{index}"), 1, true);
        }
        let guests = agents.guests.lock();
        assert_eq!(guests.known.len(), AGENT_GUESTS);
        // The agent did not record this guest agent as silent.
        assert!(guests.silent_since("web", 1).is_none());
        assert!(guests.silent_since("guest-0", 1).is_none(), "the one asked first is forgotten");
        assert!(guests.silent_since("guest-1", 1).is_some());
        assert!(guests.silent_since("guest-1", 2).is_none(), "another run has another agent");
    }

    #[test]
    fn leases_and_neighbours_are_of_the_nic_with_the_mac() {
        let (agents, events) = with_guest("default");
        let others = vec![
            nic("", "02:00:00:00:00:00", &["192.0.2.1"]),
            nic("", "02:00:00:00:00:02", &["192.0.2.2"]),
            nic("", "02:00:00:00:00:01", &["192.0.2.3"]),
        ];
        agents.report_all(others, Source::Lease, &events);
        let table = "IP address       HW type     Flags       HW address            Mask     Device\n\
            192.0.2.4        0x1         0x2         02:00:00:00:00:01     *        mistify0\n\
            192.0.2.5        0x1         0x0         02:00:00:00:00:01     *        mistify0\n\
            192.0.2.6        0x1\n";
        agents.report_all(neighbours(table), Source::Arp, &events);
        assert_eq!(shown(&agents, 1), ["192.0.2.3 lease", "192.0.2.4 arp"]);
        agents.report_all(Vec::new(), Source::Lease, &events);
        assert_eq!(shown(&agents, 1), ["192.0.2.4 arp"], "the lease has expired");
    }

    #[test]
    fn many_address_changes_are_one_event() {
        let (agents, events) = with_guest("");
        let first = events.last();
        let report = |address: &str| {
            let nics = vec![nic("eth0", MAC, &[address])];
            agents.report("web", 1, nics, Source::Agent, &events);
        };
        report("192.0.2.1");
        assert_eq!(events.last(), first + 1);
        report("192.0.2.1");
        report("192.0.2.2");
        assert_eq!(events.last(), first + 1, "the second change is a moment later");
        let later = Instant::now() + ADDRESS_EVENTS;
        let is_news = || agents.guests.lock().entry("web", 1).unwrap().is_news(later);
        assert_eq!([is_news(), is_news()], [true, false]);
    }

    #[test]
    fn guest_agents_are_asked_now_and_then() {
        let (agents, events) = with_guest("default");
        let begin = Instant::now();
        let host = Refresh::Host(["default".to_owned()].into_iter().into_set());
        assert_eq!(agents.due(begin), Ok(host));
        agents.runs("aaa", 1, sources("default", "connected"));
        agents.runs("off", 1, sources("default", "disconnected"));
        let ask = |guest: &str| Ok(Refresh::Guest(guest.to_owned()));
        let soon = begin + Duration::from_millis(10);
        assert_eq!(agents.due(soon), ask("web"));
        let next = soon + AGENT_REFRESH_GAP;
        assert_eq!(agents.due(soon), Err(Some(next)), "not at the same time");
        assert_eq!(agents.due(next), ask("aaa"));
        assert_eq!(agents.due(next), Err(Some(begin + HOST_ADDRESSES)));
        // A guest agent without an address is asked again soon, and a silent one seldom.
        agents.report("web", 1, vec![nic("eth0", MAC, &["fe80::1"])], Source::Agent, &events);
        agents.note_asked("aaa", 1, true);
        let dues = || {
            let guests = agents.guests.lock();
            guests.known.iter().map(|it| it.due.map(|due| due - begin)).collect::<Vec<_>>()
        };
        let [silent, none, empty] = dues()[..] else { panic!("three guests") };
        assert!(silent > Some(AGENT_REFRESH) && none.is_none(), "{silent:?}");
        assert!(empty < Some(AGENT_REFRESH), "{empty:?}");
        agents.forget("web");
        agents.retain(&|guest| guest == "off");
        assert_eq!(agents.guests.lock().known.len(), 1);
    }

    #[test]
    fn file_systems_of_a_guest_are_bounded_labels() {
        let (agents, _) = with_guest("");
        let mounted = |mountpoint: String, used_bytes| FileSystem {
            mountpoint,
            total_bytes: 9,
            used_bytes,
            ..FileSystem::default()
        };
        let long = "/".repeat(10_000);
        let mut found = vec![mounted(long.clone(), Some(1)), mounted(long, Some(2))];
        found.push(mounted("/proc".to_owned(), None));
        found.extend((0..100).map(|index| mounted(format!("/{index}"), Some(3))));
        agents.mount("web", 1, &found);
        assert_eq!(agents.views()[0].filesystems, [], "nobody wants them");
        let agents = GuestAgents::new(true);
        agents.runs("web", 1, sources("", "connected"));
        agents.mount("web", 1, &found);
        let view = agents.views().remove(0);
        assert!(view.is_connected);
        assert_eq!(view.filesystems.len(), GUEST_FILESYSTEMS);
        assert_eq!(view.filesystems[0].mountpoint.len(), MOUNTPOINT_CHARS);
        assert_eq!((view.filesystems[0].used_bytes, view.filesystems[1].used_bytes), (1, 3));
        agents.is_connected("web", false);
        assert!(!agents.views()[0].is_connected);
        agents.runs("web", 2, AddressSources::default());
        assert!(agents.views().is_empty(), "it has no channel");
    }

    #[test]
    fn a_network_of_one_nic_is_asked_for_no_leases() {
        assert_eq!(sources(MAC, "").networks().count(), 0);
        assert_eq!(sources("", "").networks().count(), 0);
        assert_eq!(sources("default", "").networks().collect::<Vec<_>>(), ["default"]);
    }
}
