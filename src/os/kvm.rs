//! Checks whether this host can run guests of type `kvm`.

use std::fs;
use std::path::Path;

/// The device of KVM.
pub const DEVICE: &str = "/dev/kvm";

/// Returns whether this host has KVM, and a processor that supports it.
///
/// # Blocking
/// As long as reading `/proc/cpuinfo` takes.
pub fn runs_guests() -> bool {
    Path::new(DEVICE).exists() && !lacks_virtualization()
}

/// Returns whether the processor is an x86 without virtualisation. Some virtual machines have the device without the
/// feature.
///
/// # Blocking
/// As [`runs_guests`].
pub fn lacks_virtualization() -> bool {
    lacks(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
}

/// Returns the same from the kernel's list of the processor's features.
fn lacks(cpuinfo: &str) -> bool {
    let mut lines = cpuinfo.lines();
    let flags =
        lines.find(|line| line.split(':').next().is_some_and(|name| name.trim() == "flags"));
    flags.is_some_and(|line| !line.split_whitespace().any(|flag| ["vmx", "svm"].contains(&flag)))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_processor_without_vmx_or_svm_is_known() {
        for (cpuinfo, expected) in [
            ("model name\t: AMD EPYC\nflags\t\t: fpu hypervisor\n", true),
            ("flags\t\t: fpu svm lm\n", false),
            ("vmx flags\t: vnmi\nflags\t\t: fpu vmx\n", false),
            ("CPU implementer\t: 0x41\nFeatures\t: fp\n", false),
            ("", false),
        ] {
            assert_eq!(super::lacks(cpuinfo), expected, "{cpuinfo}");
        }
    }
}
