//! Links libvirt and, with `--features bindgen`, writes its bindings from `wrapper.h`.
//!
//! The default build takes the committed `sys/bindings.rs` and needs only `libvirt.so`. Floor:
//! libvirt 8.0; nothing on the list below is younger, and the library is asked at run time.
//! `LIBVIRT_LIB_DIR` names a directory with libvirt.so outside the linker's own path.

use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

const MISSING: &str = "libvirt's library and headers were not found: install libvirt-dev (Debian, \
                       Ubuntu) or libvirt-devel (Fedora, RHEL), or set LIBVIRT_LIB_DIR";

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=wrapper.h");
    println!("cargo::rerun-if-env-changed=LIBVIRT_LIB_DIR");
    println!("cargo::rerun-if-env-changed=DOCS_RS");
    match link().and_then(|()| bindings()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            println!("cargo::error={sentence}");
            ExitCode::FAILURE
        }
    }
}

/// Tells the linker about libvirt; a linker that cannot find it is asked here, in one sentence.
fn link() -> Result<(), String> {
    if env::var_os("DOCS_RS").is_some() {
        return Ok(());
    }
    let directory = env::var("LIBVIRT_LIB_DIR").ok();
    if let Some(directory) = &directory {
        println!("cargo::rustc-link-search=native={directory}");
    }
    println!("cargo::rustc-link-lib=virt");
    carry_unwinder();
    pack_relocations();
    // A cross build's library is the cross linker's business.
    if env::var("HOST") != env::var("TARGET") || linker_finds_libvirt(directory.as_deref())? {
        return Ok(());
    }
    Err(MISSING.to_owned())
}

/// Puts gcc's unwinder into what is released, which then needs libvirt and libc alone. Panics are
/// caught, so it cannot go. Other builds keep libgcc_s.so, where AddressSanitizer looks for it.
fn carry_unwinder() {
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|found| found == value);
    if is("PROFILE", "release") && is("CARGO_CFG_TARGET_ENV", "gnu") {
        println!("cargo::rustc-link-lib=static:-bundle=gcc_eh");
    }
}

/// Writes the addresses that the loader corrects as a bit map where this host's loader can read that (glibc 2.36 and
/// later): a thirtieth of their usual 90 KiB.
fn pack_relocations() {
    const FLAG: &str = "-Wl,-z,pack-relative-relocs";
    let is_release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    if is_release && env::var("HOST") == env::var("TARGET") && starts_with(FLAG) {
        println!("cargo::rustc-link-arg-bins={FLAG}");
    }
}

/// Whether a program that is linked with this flag starts here.
fn starts_with(flag: &str) -> bool {
    let Ok(out) = env::var("OUT_DIR").map(PathBuf::from) else { return false };
    let (source, program) = (out.join("starts.c"), out.join("starts"));
    // A pointer that the loader has to correct.
    let text = "static int code; int *where = &code; int main(void) { return *where; }";
    let mut cc = Command::new(env::var("CC").unwrap_or_else(|_| "cc".to_owned()));
    cc.args(["-pie", "-fPIE", flag, "-o"]).arg(&program).arg(&source);
    let is_done = |command: &mut Command| command.output().is_ok_and(|it| it.status.success());
    std::fs::write(&source, text).is_ok() && is_done(&mut cc) && is_done(&mut Command::new(program))
}

/// Links an empty shared object against libvirt with the C compiler that rustc links with.
fn linker_finds_libvirt(directory: Option<&str>) -> Result<bool, String> {
    let out = PathBuf::from(env::var("OUT_DIR").map_err(|e| format!("OUT_DIR: {e}"))?);
    let mut cc = Command::new(env::var("CC").unwrap_or_else(|_| "cc".to_owned()));
    cc.args(["-shared", "-nostdlib", "-Wl,--no-as-needed", "-o"]).arg(out.join("probe.so"));
    if let Some(directory) = directory {
        cc.arg(format!("-L{directory}"));
    }
    let found =
        cc.arg("-lvirt").output().map_err(|e| format!("the C compiler does not start: {e}"))?;
    Ok(found.status.success())
}

#[cfg(not(feature = "bindgen"))]
fn bindings() -> Result<(), String> {
    Ok(())
}

#[cfg(feature = "bindgen")]
fn bindings() -> Result<(), String> {
    generate::bindings()
}

#[cfg(feature = "bindgen")]
mod generate {
    use super::{MISSING, PathBuf, env};

    /// Every C function that is called, by name: an unlisted call does not compile.
    const FUNCTIONS: &[&str] = &[
        "virInitialize",
        "virGetVersion",
        "virGetLastError",
        "virSetErrorFunc",
        "virEventRegisterImpl",
        "virConnectOpen",
        "virConnectClose",
        "virConnectIsAlive",
        "virConnectSetKeepAlive",
        "virConnectGetLibVersion",
        "virConnectGetCapabilities",
        "virConnectGetDomainCapabilities",
        "virConnectListAllDomains",
        "virConnectGetAllDomainStats",
        "virConnectRegisterCloseCallback",
        "virConnectUnregisterCloseCallback",
        "virConnectDomainEventRegisterAny",
        "virConnectDomainEventDeregisterAny",
        "virDomainLookupByName",
        "virDomainDefineXML",
        "virDomainCreate",
        "virDomainCreateXML",
        "virDomainDestroy",
        "virDomainShutdownFlags",
        "virDomainReboot",
        "virDomainReset",
        "virDomainSuspend",
        "virDomainResume",
        "virDomainPMWakeup",
        "virDomainUndefine",
        "virDomainUndefineFlags",
        "virDomainIsActive",
        "virDomainIsPersistent",
        "virDomainHasManagedSaveImage",
        "virDomainManagedSaveRemove",
        "virDomainManagedSaveGetXMLDesc",
        "virDomainGetName",
        "virDomainGetID",
        "virDomainGetUUID",
        "virDomainGetState",
        "virDomainGetInfo",
        "virDomainGetXMLDesc",
        "virDomainGetCPUStats",
        "virDomainAttachDeviceFlags",
        "virDomainDetachDeviceFlags",
        "virDomainBlockResize",
        "virDomainBlockStats",
        "virDomainBlockStatsFlags",
        "virDomainInterfaceStats",
        "virDomainSetMetadata",
        "virDomainGetAutostart",
        "virDomainSetAutostart",
        "virDomainSetMemoryFlags",
        "virDomainSetVcpusFlags",
        "virDomainSetBlockIoTune",
        "virDomainSetInterfaceParameters",
        "virDomainSetMemoryStatsPeriod",
        "virDomainUpdateDeviceFlags",
        "virDomainScreenshot",
        "virDomainAgentSetResponseTimeout",
        "virDomainSetTime",
        "virDomainFSTrim",
        "virDomainFSFreeze",
        "virDomainFSThaw",
        "virDomainSetUserPassword",
        "virDomainAuthorizedSSHKeysSet",
        "virDomainGetGuestInfo",
        "virDomainInterfaceAddresses",
        "virDomainInterfaceFree",
        "virDomainListGetStats",
        "virDomainStatsRecordListFree",
        "virDomainFree",
        "virStreamNew",
        "virStreamRecv",
        "virStreamFinish",
        "virStreamAbort",
        "virStreamFree",
        "virNetworkLookupByName",
        "virNetworkDefineXML",
        "virNetworkCreate",
        "virNetworkDestroy",
        "virNetworkUndefine",
        "virNetworkSetAutostart",
        "virNetworkIsActive",
        "virNetworkUpdate",
        "virNetworkGetUUID",
        "virNetworkGetXMLDesc",
        "virNetworkGetDHCPLeases",
        "virNetworkDHCPLeaseFree",
        "virNetworkFree",
        "virStoragePoolLookupByName",
        "virStoragePoolFree",
        "virStorageVolLookupByName",
        "virStorageVolGetPath",
        "virStorageVolFree",
        "virTypedParamsClear",
        "virTypedParamsFree",
    ];

    /// Enumerations whose values are used; bindgen takes the values of a named one only with it.
    const ENUMERATIONS: &[&str] = &[
        "virConnectGetAllDomainStatsFlags",
        "virConnectListAllDomainsFlags",
        "virDomainBlockResizeFlags",
        "virDomainDeviceModifyFlags",
        "virDomainMemoryModFlags",
        "virDomainEventID",
        "virDomainEventType",
        "virDomainInterfaceAddressesSource",
        "virDomainGuestInfoTypes",
        "virDomainSetTimeFlags",
        "virDomainSetUserPasswordFlags",
        "virDomainAgentResponseTimeoutValues",
        "virDomainMetadataType",
        "virDomainModificationImpact",
        "virDomainRebootFlagValues",
        "virDomainShutdownFlagValues",
        "virDomainState",
        "virDomainStatsTypes",
        "virDomainUndefineFlagsValues",
        "virDomainVcpuFlags",
        "virDomainXMLFlags",
        "virNetworkUpdateSection",
        "virNetworkUpdateCommand",
        "virNetworkUpdateFlags",
        "virErrorDomain",
        "virErrorNumber",
        "virEventHandleType",
        "virTypedParameterType",
    ];

    /// Constants that are macros.
    const MACROS: &[&str] = &["VIR_UUID_BUFLEN", "VIR_TYPED_PARAM_FIELD_LENGTH"];

    pub(super) fn bindings() -> Result<(), String> {
        let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").map_err(|e| e.to_string())?);
        let out = PathBuf::from(env::var("OUT_DIR").map_err(|e| e.to_string())?);
        let mut builder = bindgen::Builder::default()
            .header(root.join("wrapper.h").to_string_lossy())
            .raw_line(format!("// {}", headers_version()?))
            .allowlist_recursively(true)
            .prepend_enum_name(false)
            .generate_comments(false)
            .generate_cstr(true)
            .layout_tests(true)
            .merge_extern_blocks(true)
            .sort_semantically(true)
            .wrap_unsafe_ops(true)
            .no_copy("_vir(Connect|Domain|Network|Stream)")
            .rust_target(bindgen::RustTarget::stable(85, 0).map_err(|e| e.to_string())?)
            .rust_edition(bindgen::RustEdition::Edition2024)
            .disable_header_comment()
            .formatter(bindgen::Formatter::Prettyplease);
        for name in FUNCTIONS {
            builder = builder.allowlist_function(name);
        }
        for name in ENUMERATIONS {
            builder = builder.allowlist_type(name);
        }
        for name in MACROS {
            builder = builder.allowlist_var(name);
        }
        let bindings = builder.generate().map_err(|_| MISSING.to_owned())?;
        bindings.write_to_file(out.join("bindings.rs")).map_err(|e| format!("bindings.rs: {e}"))
    }

    /// "made by bindgen 0.72.1 from libvirt 9.0.0": the gate compares texts of equal versions only.
    fn headers_version() -> Result<String, String> {
        let text = std::fs::read_to_string("/usr/include/libvirt/libvirt-common.h")
            .map_err(|_| MISSING.to_owned())?;
        let number: u64 = text
            .lines()
            .filter_map(|line| line.split("LIBVIR_VERSION_NUMBER ").nth(1))
            .find_map(|word| word.trim().parse().ok())
            .ok_or("libvirt-common.h names no LIBVIR_VERSION_NUMBER")?;
        let (major, minor, release) = (number / 1_000_000, number / 1000 % 1000, number % 1000);
        Ok(format!(
            "made by bindgen 0.72.1 from libvirt {major}.{minor}.{release}: `make bindings`"
        ))
    }
}
