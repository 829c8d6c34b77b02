//! The names of the Go package that this agent replaces, and their counterparts.
//!
//! Each type and function of the Go package of the same name, and what the agent uses in its place.
//! Handles stay with the connection that they come from, so lookups are a connection's; the model
//! of domains and networks is data. Fields have Rust's names, in JSON the original's.
//!
//! | there | here |
//! |---|---|
//! | `StateNames` | [`crate::guest::state::STATE_NAMES`] |
//! | `GetState` | [`crate::ops::get_state`] |
//! | `Connection` | [`crate::libvirt::Connection`] |
//! | `Connection.Release` | [`crate::libvirt::Connection::release`] |
//! | `Device` | [`crate::guest::domain::Device`] |
//! | `Disk` | [`crate::guest::domain::Disk`] |
//! | `DiskDriver` | [`crate::guest::domain::DiskDriver`] |
//! | `DiskSource` | [`crate::guest::domain::DiskSource`] |
//! | `DiskTarget` | [`crate::guest::domain::DiskTarget`] |
//! | `Domain` | [`crate::libvirt::Domain`] |
//! | `FilterRef` | [`crate::guest::domain::FilterRef`] |
//! | `FilterRefParameter` | [`crate::guest::domain::FilterRefParameter`] |
//! | `Graphics` | [`crate::guest::domain::Graphics`] |
//! | `Interface` | [`crate::guest::domain::Interface`] |
//! | `InterfaceAlias` | [`crate::guest::domain::InterfaceAlias`] |
//! | `InterfaceMac` | [`crate::guest::domain::InterfaceMac`] |
//! | `InterfaceModel` | [`crate::guest::domain::InterfaceModel`] |
//! | `InterfaceSource` | [`crate::guest::domain::InterfaceSource`] |
//! | `InterfaceTarget` | [`crate::guest::domain::InterfaceTarget`] |
//! | `Libvirt` | [`crate::ops::Libvirt`] |
//! | `NewLibvirt` | [`crate::ops::Libvirt::new`] |
//! | `Libvirt.CPUMetrics` | [`crate::ops::Libvirt::cpu_metrics`] |
//! | `Libvirt.Create` | [`crate::ops::Libvirt::create`] |
//! | `Libvirt.CreateGuest` | [`crate::ops::Libvirt::create_guest`] |
//! | `Libvirt.Delete` | [`crate::ops::Libvirt::delete`] |
//! | `Libvirt.DiskMetrics` | [`crate::ops::Libvirt::disk_metrics`] |
//! | `Libvirt.DomainWrapper` | [`crate::ops::Libvirt::domain_wrapper`] |
//! | `Libvirt.DomainXML` | [`crate::guest::domain::VirDomain::domain_xml`] |
//! | `Libvirt.LookupDomainByName` | [`crate::libvirt::Connection::lookup_domain_by_name`] |
//! | `Libvirt.LookupNetworkByName` | [`crate::libvirt::Connection::lookup_network_by_name`] |
//! | `Libvirt.NetworkXML` | [`crate::guest::network::NetworkDefinition::network_xml`] |
//! | `Libvirt.NewDomain` | [`crate::ops::new_domain`] |
//! | `Libvirt.NicMetrics` | [`crate::ops::Libvirt::nic_metrics`] |
//! | `Libvirt.Poweroff` | [`crate::ops::Libvirt::poweroff`] |
//! | `Libvirt.Reboot` | [`crate::ops::Libvirt::reboot`] |
//! | `Libvirt.Restart` | [`crate::ops::Libvirt::restart`] |
//! | `Libvirt.Run` | [`crate::ops::Libvirt::run`] |
//! | `Libvirt.RunHTTP` | [`crate::ops::Libvirt::run_http`] |
//! | `Libvirt.Shutdown` | [`crate::ops::Libvirt::shutdown`] |
//! | `Libvirt.Status` | [`crate::ops::Libvirt::status`] |
//! | `Metadata` | [`crate::guest::metadata::Metadata`] |
//! | `MetadataDevice` | [`crate::guest::metadata::MetadataDevice`] |
//! | `MetadataDisk` | [`crate::guest::metadata::MetadataDisk`] |
//! | `Os` | [`crate::guest::domain::Os`] |
//! | `OsBoot` | [`crate::guest::domain::OsBoot`] |
//! | `OsType` | [`crate::guest::domain::OsType`] |
//! | `UserMetadata` | [`crate::guest::metadata::UserMetadata`] |
//! | `UserMetadataParameter` | [`crate::guest::metadata::UserMetadataParameter`] |
//! | `VirDomain` | [`crate::guest::domain::VirDomain`] |
//!
//! The verbs take and answer what the wire does:
//!
//! ```
//! use mistify_libvirt::guest::wire::{Guest, GuestDisk, GuestRequest, Nic};
//! use mistify_libvirt::guest::wire::metrics::GuestMetricsRequest;
//! use mistify_libvirt::guest::wire::verbs::ShutdownRequest;
//! use mistify_libvirt::{guest::state::State, ops::Libvirt, pool::Lane};
//!
//! let agent = Libvirt::new("test:///default", "mistify", 4)?;
//! let guest = Guest {
//!     id: "web-1".into(),
//!     kind: "test".into(),
//!     memory_mib: 64,
//!     cpu: 1,
//!     nics: vec![Nic {
//!         name: "eth0".into(),
//!         network: "mistify0".into(),
//!         mac: "02:00:00:00:00:01".into(),
//!         ..Nic::default()
//!     }],
//!     disks: vec![GuestDisk { source: "/dev/zvol/mistify/web-1".into(), ..GuestDisk::default() }],
//!     ..Guest::default()
//! };
//! let guest = agent.create_guest(GuestRequest { guest: Some(guest), ..GuestRequest::default() })?;
//! let request = || GuestRequest { guest: guest.guest.clone(), ..GuestRequest::default() };
//!
//! let running = agent.run(request())?.guest.unwrap();
//! assert_eq!((running.state.as_str(), running.nics[0].device.as_str()), ("running", "testnet0"));
//! let metrics = || GuestMetricsRequest { guest: Some(running.clone()), ..Default::default() };
//! assert_eq!(agent.cpu_metrics(metrics())?.cpu.len(), 2);
//! assert!(agent.disk_metrics(metrics())?.disk.contains_key("vda"));
//! assert!(agent.nic_metrics(metrics())?.nic.contains_key("eth0"));
//!
//! let state = |answer: mistify_libvirt::guest::wire::GuestResponse| answer.guest.unwrap().state;
//! assert_eq!(state(agent.reboot(request())?), "running");
//! assert_eq!(state(agent.restart(request())?), "running");
//! let paused = agent.domain_wrapper("Pause", Lane::Control, request(), |domain, state| {
//!     if state == State::Running { domain.suspend() } else { Ok(()) }
//! })?;
//! assert_eq!(state(paused), "paused");
//! assert_eq!(state(agent.status(request())?), "paused");
//! assert_eq!(state(agent.poweroff(request())?), "shutoff");
//! assert_eq!(state(agent.create(request())?), "running");
//! let off = ShutdownRequest { guest: guest.guest.clone(), ..ShutdownRequest::default() };
//! assert_eq!(state(agent.shutdown(off, &|| false)?), "shutoff");
//! agent.delete(request())?;
//! assert!(agent.status(request()).is_err());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Below them are handles, and XML as data:
//!
//! ```
//! use mistify_libvirt::config::{BridgeType, HostConfig};
//! use mistify_libvirt::guest::domain::{
//!     Device, Disk, DiskDriver, DiskSource, DiskTarget, FilterRef, FilterRefParameter, Graphics,
//!     Interface, InterfaceAlias, InterfaceMac, InterfaceModel, InterfaceSource, InterfaceTarget,
//!     Os, OsBoot, OsType, VirDomain,
//! };
//! use mistify_libvirt::guest::metadata::{
//!     Metadata, MetadataDevice, MetadataDisk, UserMetadata, UserMetadataParameter,
//! };
//! use mistify_libvirt::guest::network::NetworkDefinition;
//! use mistify_libvirt::guest::state::{STATE_NAMES, State};
//! use mistify_libvirt::guest::wire::{Guest, Nic};
//! use mistify_libvirt::libvirt::{Connection, Domain, XmlKind};
//! use mistify_libvirt::ops::{get_state, new_domain};
//!
//! mistify_libvirt::libvirt::start()?;
//! let connection = Connection::open("test:///default")?;
//!
//! let guest = Guest { id: "new".into(), kind: "test".into(), memory_mib: 64, cpu: 1,
//!     ..Guest::default() };
//! let domain: Domain = new_domain(&connection, &guest, &HostConfig::default(), &[])?;
//! assert_eq!(get_state(&domain)?, State::Shutoff);
//! assert!(STATE_NAMES.contains(&(State::Shutoff, "shutoff")));
//! assert_eq!(connection.lookup_domain_by_name("new")?.uuid()?, domain.uuid()?);
//!
//! let nic = Nic { mac: "02:00:00:00:00:02".into(), network: "br0".into(), ..Nic::default() };
//! let network = NetworkDefinition::for_nic(&nic, BridgeType::OpenVSwitch, "new", "");
//! connection.define_network(&network.network_xml())?;
//! let found = connection.lookup_network_by_name("02:00:00:00:00:02")?.xml()?;
//! assert!(network.same_connection(&NetworkDefinition::from_xml(&found)?));
//!
//! let interface = Interface {
//!     kind: "network".into(),
//!     source: InterfaceSource { network: nic.mac.clone(), ..InterfaceSource::default() },
//!     mac: InterfaceMac { address: nic.mac.clone() },
//!     model: InterfaceModel { kind: "virtio".into() },
//!     filterref: FilterRef {
//!         filter: "clean-traffic".into(),
//!         parameters: vec![FilterRefParameter { name: "IP".into(), value: "10.0.0.2".into() }],
//!     },
//!     target: InterfaceTarget { device: "tap0".into() },
//!     alias: InterfaceAlias::default(),
//!     ..Interface::default()
//! };
//! let disk = Disk {
//!     kind: "block".into(),
//!     device: "disk".into(),
//!     driver: DiskDriver { name: "qemu".into(), kind: "raw".into(), ..DiskDriver::default() },
//!     source: DiskSource { device: "/dev/zvol/mistify/a".into(), ..DiskSource::default() },
//!     target: DiskTarget { device: "vda".into(), bus: "virtio".into() },
//!     ..Disk::default()
//! };
//! let model = VirDomain {
//!     kind: "test".into(),
//!     name: "model".into(),
//!     memory_kib: 65536,
//!     memory_max_kib: 0,
//!     vcpu: 1,
//!     vcpu_max: 0,
//!     devices: Device {
//!         disks: vec![disk],
//!         beside_disks: Vec::new(),
//!         interfaces: vec![interface],
//!         graphics: Graphics { kind: "vnc".into(), port: "5901".into(), ..Graphics::default() },
//!         console_log: String::new(),
//!     },
//!     os: Os {
//!         kind: OsType { kind: "hvm".into(), arch: "i686".into(), ..OsType::default() },
//!         boot: OsBoot { device: "hd".into() },
//!     },
//!     metadata: Metadata {
//!         device: MetadataDevice {
//!             disks: vec![MetadataDisk { device: "vda".into(), ..MetadataDisk::default() }],
//!         },
//!         user_metadata: UserMetadata {
//!             parameters: vec![UserMetadataParameter { name: "owner".into(), value: "a".into() }],
//!         },
//!         ..Metadata::default()
//!     },
//!     ..VirDomain::default()
//! };
//! let defined = connection.define_domain(&model.domain_xml())?;
//! let read = VirDomain::from_xml(&defined.xml(XmlKind::Inactive)?)?;
//! let filled_in = model.hardware.clone();
//! assert_eq!(VirDomain { uuid: String::new(), hardware: filled_in, ..read }, model);
//!
//! drop((domain, defined));
//! connection.release()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! And the whole service, which a signal ends:
//!
//! ```standalone_crate
//! use std::net::{TcpListener, TcpStream};
//! use std::process::{Command, id};
//! use mistify_libvirt::ops::Libvirt;
//!
//! let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
//! let agent = Libvirt::new("test:///default", "mistify", 4)?;
//! let service = std::thread::spawn(move || agent.run_http(port));
//! while TcpStream::connect(("127.0.0.1", port)).is_err() {
//!     assert!(!service.is_finished());
//! }
//! Command::new("/bin/sh").args(["-c", &format!("kill -s TERM {}", id())]).status()?;
//! service.join().unwrap()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use crate::guest::wire::metrics::{GuestMetricsRequest, GuestMetricsResponse};
use crate::guest::wire::verbs::ShutdownRequest;
use crate::guest::wire::{GuestRequest, GuestResponse};
use crate::ops::{DomainAction, Error, Libvirt};
use crate::pool::Lane;

impl Libvirt {
    /// Creates a guest: [`Guests::create_guest`](crate::ops::Guests::create_guest).
    ///
    /// # Errors
    /// As that method.
    pub fn create_guest(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        self.guests.create_guest(request)
    }

    /// Starts a guest: [`Guests::create`](crate::ops::Guests::create).
    ///
    /// # Errors
    /// As that method.
    pub fn create(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        self.guests.create(request)
    }

    /// Deletes a guest: [`Guests::delete`](crate::ops::Guests::delete).
    ///
    /// # Errors
    /// As that method.
    pub fn delete(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        self.guests.delete(request)
    }

    /// Forces a guest off and starts it: [`Guests::restart`](crate::ops::Guests::restart).
    ///
    /// # Errors
    /// As that method.
    pub fn restart(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        self.guests.restart(request)
    }

    /// Reboots a guest's operating system: [`Guests::reboot`](crate::ops::Guests::reboot).
    ///
    /// # Errors
    /// As that method.
    pub fn reboot(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        self.guests.reboot(request)
    }

    /// Forces a guest off: [`Guests::poweroff`](crate::ops::Guests::poweroff).
    ///
    /// # Errors
    /// As that method.
    pub fn poweroff(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        self.guests.poweroff(request)
    }

    /// Starts or resumes a guest: [`Guests::run`](crate::ops::Guests::run).
    ///
    /// # Errors
    /// As that method.
    pub fn run(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        self.guests.run(request)
    }

    /// Returns the state of a guest: [`Guests::status`](crate::ops::Guests::status).
    ///
    /// # Errors
    /// As that method.
    pub fn status(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        self.guests.status(request)
    }

    /// Asks a guest's operating system to power off: [`Guests::shutdown`](crate::ops::Guests::shutdown).
    ///
    /// # Errors
    /// As that method.
    pub fn shutdown(
        &self,
        request: ShutdownRequest,
        is_gone: &dyn Fn() -> bool,
    ) -> Result<GuestResponse, Error> {
        self.guests.shutdown(request, is_gone)
    }

    /// Runs an action on a guest's domain: [`Guests::domain_wrapper`](crate::ops::Guests::domain_wrapper).
    ///
    /// # Errors
    /// As that method.
    pub fn domain_wrapper(
        &self,
        verb: &'static str,
        lane: Lane,
        request: GuestRequest,
        action: DomainAction,
    ) -> Result<GuestResponse, Error> {
        self.guests.domain_wrapper(verb, lane, request, action)
    }

    /// Returns the counters of a guest's processors: [`Telemetry::cpu_metrics`](crate::ops::Telemetry::cpu_metrics).
    ///
    /// # Errors
    /// As that method.
    pub fn cpu_metrics(&self, request: GuestMetricsRequest) -> Result<GuestMetricsResponse, Error> {
        self.telemetry.cpu_metrics(request)
    }

    /// Returns the counters of a guest's disks: [`Telemetry::disk_metrics`](crate::ops::Telemetry::disk_metrics).
    ///
    /// # Errors
    /// As that method.
    pub fn disk_metrics(
        &self,
        request: GuestMetricsRequest,
    ) -> Result<GuestMetricsResponse, Error> {
        self.telemetry.disk_metrics(request)
    }

    /// Returns the counters of a guest's NICs: [`Telemetry::nic_metrics`](crate::ops::Telemetry::nic_metrics).
    ///
    /// # Errors
    /// As that method.
    pub fn nic_metrics(&self, request: GuestMetricsRequest) -> Result<GuestMetricsResponse, Error> {
        self.telemetry.nic_metrics(request)
    }
}
