//! The capabilities that libvirt reports for domains of a type (`virConnectGetDomainCapabilities`), see
//! <https://libvirt.org/formatdomaincaps.html>.

use crate::guest::xml::{Element, Error};

/// The capabilities that libvirt reports for domains of a type on a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// The guests' type: `kvm` or `qemu`.
    pub kind: String,
    /// Architecture, for example `x86_64`.
    pub arch: String,
    /// The machine's exact version, for example `pc-q35-7.2`.
    pub machine: String,
    /// The maximum number of virtual processors of a guest.
    pub max_cpu: u64,
    /// Supported CPU modes, such as `host-model`.
    pub cpu_modes: Vec<String>,
    /// CPU models that a guest can have on this host.
    pub cpu_models: Vec<String>,
    /// CPU models that this host's processor does not support.
    pub unusable_cpu_models: Vec<String>,
    /// Firmware that libvirt can select by itself, such as `efi`.
    pub firmwares: Vec<String>,
    /// Whether firmware with Secure Boot is available.
    pub has_secure_boot: bool,
    /// Supported disk buses.
    pub disk_buses: Vec<String>,
    /// Supported video devices.
    pub videos: Vec<String>,
    /// Supported backends of a TPM, such as `emulator`.
    pub tpm_backends: Vec<String>,
}

/// Returns the user and group ids that emulators of a type run as, from the host's capabilities
/// (`virConnectGetCapabilities`, <https://libvirt.org/formatcaps.html>); `None` if libvirt does not report them.
///
/// # Errors
/// If the text is not the XML of host capabilities.
pub fn emulator_user(xml: &str, kind: &str) -> Result<Option<(u32, u32)>, Error> {
    let found = Element::from_xml(xml, "capabilities")?;
    let models = found.child("host").children_in("", "secmodel");
    let labels = models
        .filter(|model| model.child("model").trimmed() == "dac")
        .flat_map(|model| model.children_in("", "baselabel"));
    let mut labels = labels.filter(|label| label.attribute("type") == kind);
    let numbers = labels.next().and_then(|label| {
        let (user, group) = label.trimmed().split_once(':')?;
        let number = |text: &str| text.trim_start_matches('+').parse().ok();
        Some((number(user)?, number(group)?))
    });
    Ok(numbers)
}

impl Capabilities {
    /// Reads the answer of libvirt.
    ///
    /// # Errors
    /// If the text is not the XML of domain capabilities, or a number in it is invalid.
    pub fn from_xml(xml: &str) -> Result<Self, Error> {
        let found = Element::from_xml(xml, "domainCapabilities")?;
        let (os, cpu, devices) = (found.child("os"), found.child("cpu"), found.child("devices"));
        let modes = cpu.children_in("", "mode").filter(|mode| mode.attribute("supported") == "yes");
        let named: Vec<&Element> = cpu
            .children_in("", "mode")
            .filter(|mode| mode.attribute("name") == "custom")
            .flat_map(|mode| mode.children_in("", "model"))
            .collect();
        let (unusable, usable): (Vec<&Element>, Vec<&Element>) =
            named.into_iter().partition(|model| model.attribute("usable") == "no");
        let names = |models: Vec<&Element>| -> Vec<String> {
            models.into_iter().map(|model| model.trimmed().to_owned()).collect()
        };
        Ok(Self {
            kind: found.child("domain").trimmed().to_owned(),
            arch: found.child("arch").trimmed().to_owned(),
            machine: found.child("machine").trimmed().to_owned(),
            max_cpu: super::xml_values::number("vcpu max", found.child("vcpu").attribute("max"))?,
            cpu_modes: modes.map(|mode| mode.attribute("name").to_owned()).collect(),
            cpu_models: names(usable),
            unusable_cpu_models: names(unusable),
            firmwares: values(os, "firmware"),
            has_secure_boot: values(os.child("loader"), "secure").iter().any(|it| it == "yes"),
            disk_buses: values(devices.child("disk"), "bus"),
            videos: values(devices.child("video"), "modelType"),
            tpm_backends: values(devices.child("tpm"), "backendModel"),
        })
    }

    /// Returns the machine of a modern guest; `None` on architectures that this agent does not support.
    pub fn modern_machine(&self) -> Option<&'static str> {
        modern_machine(&self.arch)
    }

    /// Returns whether guests can have this video device.
    pub fn has_video(&self, model: &str) -> bool {
        self.videos.iter().any(|video| video == model)
    }
}

/// Returns the machine of a modern guest on an architecture.
pub fn modern_machine(arch: &str) -> Option<&'static str> {
    match arch {
        "x86_64" => Some("q35"),
        "aarch64" => Some("virt"),
        _ => None,
    }
}

/// Returns the values of the `<enum>` of this name.
fn values(element: &Element, name: &str) -> Vec<String> {
    let enums = element.children_in("", "enum").filter(|it| it.attribute("name") == name);
    enums.flat_map(|it| it.children_in("", "value")).map(|it| it.trimmed().to_owned()).collect()
}
