// made by bindgen 0.72.1 from libvirt 9.0.0: `make bindings`

pub type virFreeCallback = ::std::option::Option<
    unsafe extern "C" fn(opaque: *mut ::std::os::raw::c_void),
>;
pub type virTypedParameterType = ::std::os::raw::c_uint;
pub type virTypedParameter = _virTypedParameter;
pub type virTypedParameterPtr = *mut virTypedParameter;
pub type virConnect = _virConnect;
pub type virConnectPtr = *mut virConnect;
pub type virStream = _virStream;
pub type virStreamPtr = *mut virStream;
pub type virConnectCloseFunc = ::std::option::Option<
    unsafe extern "C" fn(
        conn: virConnectPtr,
        reason: ::std::os::raw::c_int,
        opaque: *mut ::std::os::raw::c_void,
    ),
>;
pub type virDomain = _virDomain;
pub type virDomainPtr = *mut virDomain;
pub type virDomainState = ::std::os::raw::c_uint;
pub type virDomainModificationImpact = ::std::os::raw::c_uint;
pub type virDomainInfo = _virDomainInfo;
pub type virDomainInfoPtr = *mut virDomainInfo;
pub type virDomainBlockStatsStruct = _virDomainBlockStats;
pub type virDomainBlockStatsPtr = *mut virDomainBlockStatsStruct;
pub type virDomainInterfaceStatsStruct = _virDomainInterfaceStats;
pub type virDomainInterfaceStatsPtr = *mut virDomainInterfaceStatsStruct;
pub type virDomainShutdownFlagValues = ::std::os::raw::c_uint;
pub type virDomainRebootFlagValues = ::std::os::raw::c_uint;
pub type virDomainMemoryModFlags = ::std::os::raw::c_uint;
pub type virDomainMetadataType = ::std::os::raw::c_uint;
pub type virDomainXMLFlags = ::std::os::raw::c_uint;
pub type virDomainBlockResizeFlags = ::std::os::raw::c_uint;
pub type virDomainUndefineFlagsValues = ::std::os::raw::c_uint;
pub type virConnectListAllDomainsFlags = ::std::os::raw::c_uint;
pub type virDomainVcpuFlags = ::std::os::raw::c_uint;
pub type virDomainDeviceModifyFlags = ::std::os::raw::c_uint;
pub type virDomainStatsRecord = _virDomainStatsRecord;
pub type virDomainStatsRecordPtr = *mut virDomainStatsRecord;
pub type virDomainStatsTypes = ::std::os::raw::c_uint;
pub type virConnectGetAllDomainStatsFlags = ::std::os::raw::c_uint;
pub type virDomainEventType = ::std::os::raw::c_uint;
pub type virConnectDomainEventGenericCallback = ::std::option::Option<
    unsafe extern "C" fn(
        conn: virConnectPtr,
        dom: virDomainPtr,
        opaque: *mut ::std::os::raw::c_void,
    ),
>;
pub type virDomainEventID = ::std::os::raw::c_uint;
pub type virDomainSetTimeFlags = ::std::os::raw::c_uint;
pub type virDomainInterfaceAddressesSource = ::std::os::raw::c_uint;
pub type virDomainIPAddress = _virDomainInterfaceIPAddress;
pub type virDomainIPAddressPtr = *mut virDomainIPAddress;
pub type virDomainInterface = _virDomainInterface;
pub type virDomainInterfacePtr = *mut virDomainInterface;
pub type virDomainSetUserPasswordFlags = ::std::os::raw::c_uint;
pub type virDomainGuestInfoTypes = ::std::os::raw::c_uint;
pub type virDomainAgentResponseTimeoutValues = ::std::os::raw::c_int;
pub type virEventHandleType = ::std::os::raw::c_uint;
pub type virEventHandleCallback = ::std::option::Option<
    unsafe extern "C" fn(
        watch: ::std::os::raw::c_int,
        fd: ::std::os::raw::c_int,
        events: ::std::os::raw::c_int,
        opaque: *mut ::std::os::raw::c_void,
    ),
>;
pub type virEventAddHandleFunc = ::std::option::Option<
    unsafe extern "C" fn(
        fd: ::std::os::raw::c_int,
        event: ::std::os::raw::c_int,
        cb: virEventHandleCallback,
        opaque: *mut ::std::os::raw::c_void,
        ff: virFreeCallback,
    ) -> ::std::os::raw::c_int,
>;
pub type virEventUpdateHandleFunc = ::std::option::Option<
    unsafe extern "C" fn(watch: ::std::os::raw::c_int, event: ::std::os::raw::c_int),
>;
pub type virEventRemoveHandleFunc = ::std::option::Option<
    unsafe extern "C" fn(watch: ::std::os::raw::c_int) -> ::std::os::raw::c_int,
>;
pub type virEventTimeoutCallback = ::std::option::Option<
    unsafe extern "C" fn(
        timer: ::std::os::raw::c_int,
        opaque: *mut ::std::os::raw::c_void,
    ),
>;
pub type virEventAddTimeoutFunc = ::std::option::Option<
    unsafe extern "C" fn(
        timeout: ::std::os::raw::c_int,
        cb: virEventTimeoutCallback,
        opaque: *mut ::std::os::raw::c_void,
        ff: virFreeCallback,
    ) -> ::std::os::raw::c_int,
>;
pub type virEventUpdateTimeoutFunc = ::std::option::Option<
    unsafe extern "C" fn(timer: ::std::os::raw::c_int, timeout: ::std::os::raw::c_int),
>;
pub type virEventRemoveTimeoutFunc = ::std::option::Option<
    unsafe extern "C" fn(timer: ::std::os::raw::c_int) -> ::std::os::raw::c_int,
>;
pub type virNetwork = _virNetwork;
pub type virNetworkPtr = *mut virNetwork;
pub type virNetworkUpdateCommand = ::std::os::raw::c_uint;
pub type virNetworkUpdateSection = ::std::os::raw::c_uint;
pub type virNetworkUpdateFlags = ::std::os::raw::c_uint;
pub type virNetworkDHCPLease = _virNetworkDHCPLease;
pub type virNetworkDHCPLeasePtr = *mut virNetworkDHCPLease;
pub type virStoragePool = _virStoragePool;
pub type virStoragePoolPtr = *mut virStoragePool;
pub type virStorageVol = _virStorageVol;
pub type virStorageVolPtr = *mut virStorageVol;
pub type virErrorLevel = ::std::os::raw::c_uint;
pub type virErrorDomain = ::std::os::raw::c_uint;
pub type virError = _virError;
pub type virErrorPtr = *mut virError;
pub type virErrorNumber = ::std::os::raw::c_uint;
pub type virErrorFunc = ::std::option::Option<
    unsafe extern "C" fn(userData: *mut ::std::os::raw::c_void, error: virErrorPtr),
>;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct _virTypedParameter {
    pub field: [::std::os::raw::c_char; 80usize],
    pub type_: ::std::os::raw::c_int,
    pub value: _virTypedParameter__bindgen_ty_1,
}
#[repr(C)]
#[derive(Debug)]
pub struct _virConnect {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug)]
pub struct _virStream {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug)]
pub struct _virDomain {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct _virDomainInfo {
    pub state: ::std::os::raw::c_uchar,
    pub maxMem: ::std::os::raw::c_ulong,
    pub memory: ::std::os::raw::c_ulong,
    pub nrVirtCpu: ::std::os::raw::c_ushort,
    pub cpuTime: ::std::os::raw::c_ulonglong,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct _virDomainBlockStats {
    pub rd_req: ::std::os::raw::c_longlong,
    pub rd_bytes: ::std::os::raw::c_longlong,
    pub wr_req: ::std::os::raw::c_longlong,
    pub wr_bytes: ::std::os::raw::c_longlong,
    pub errs: ::std::os::raw::c_longlong,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct _virDomainInterfaceStats {
    pub rx_bytes: ::std::os::raw::c_longlong,
    pub rx_packets: ::std::os::raw::c_longlong,
    pub rx_errs: ::std::os::raw::c_longlong,
    pub rx_drop: ::std::os::raw::c_longlong,
    pub tx_bytes: ::std::os::raw::c_longlong,
    pub tx_packets: ::std::os::raw::c_longlong,
    pub tx_errs: ::std::os::raw::c_longlong,
    pub tx_drop: ::std::os::raw::c_longlong,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct _virDomainStatsRecord {
    pub dom: virDomainPtr,
    pub params: virTypedParameterPtr,
    pub nparams: ::std::os::raw::c_int,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct _virDomainInterfaceIPAddress {
    pub type_: ::std::os::raw::c_int,
    pub addr: *mut ::std::os::raw::c_char,
    pub prefix: ::std::os::raw::c_uint,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct _virDomainInterface {
    pub name: *mut ::std::os::raw::c_char,
    pub hwaddr: *mut ::std::os::raw::c_char,
    pub naddrs: ::std::os::raw::c_uint,
    pub addrs: virDomainIPAddressPtr,
}
#[repr(C)]
#[derive(Debug)]
pub struct _virNetwork {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct _virNetworkDHCPLease {
    pub iface: *mut ::std::os::raw::c_char,
    pub expirytime: ::std::os::raw::c_longlong,
    pub type_: ::std::os::raw::c_int,
    pub mac: *mut ::std::os::raw::c_char,
    pub iaid: *mut ::std::os::raw::c_char,
    pub ipaddr: *mut ::std::os::raw::c_char,
    pub prefix: ::std::os::raw::c_uint,
    pub hostname: *mut ::std::os::raw::c_char,
    pub clientid: *mut ::std::os::raw::c_char,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct _virStoragePool {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct _virStorageVol {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct _virError {
    pub code: ::std::os::raw::c_int,
    pub domain: ::std::os::raw::c_int,
    pub message: *mut ::std::os::raw::c_char,
    pub level: virErrorLevel,
    pub conn: virConnectPtr,
    pub dom: virDomainPtr,
    pub str1: *mut ::std::os::raw::c_char,
    pub str2: *mut ::std::os::raw::c_char,
    pub str3: *mut ::std::os::raw::c_char,
    pub int1: ::std::os::raw::c_int,
    pub int2: ::std::os::raw::c_int,
    pub net: virNetworkPtr,
}
pub const VIR_TYPED_PARAM_FIELD_LENGTH: u32 = 80;
pub const VIR_UUID_BUFLEN: u32 = 16;
pub const VIR_TYPED_PARAM_INT: virTypedParameterType = 1;
pub const VIR_TYPED_PARAM_UINT: virTypedParameterType = 2;
pub const VIR_TYPED_PARAM_LLONG: virTypedParameterType = 3;
pub const VIR_TYPED_PARAM_ULLONG: virTypedParameterType = 4;
pub const VIR_TYPED_PARAM_DOUBLE: virTypedParameterType = 5;
pub const VIR_TYPED_PARAM_BOOLEAN: virTypedParameterType = 6;
pub const VIR_TYPED_PARAM_STRING: virTypedParameterType = 7;
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of _virTypedParameter__bindgen_ty_1",
    ][::std::mem::size_of::<_virTypedParameter__bindgen_ty_1>() - 8usize];
    [
        "Alignment of _virTypedParameter__bindgen_ty_1",
    ][::std::mem::align_of::<_virTypedParameter__bindgen_ty_1>() - 8usize];
    [
        "Offset of field: _virTypedParameter__bindgen_ty_1::i",
    ][::std::mem::offset_of!(_virTypedParameter__bindgen_ty_1, i) - 0usize];
    [
        "Offset of field: _virTypedParameter__bindgen_ty_1::ui",
    ][::std::mem::offset_of!(_virTypedParameter__bindgen_ty_1, ui) - 0usize];
    [
        "Offset of field: _virTypedParameter__bindgen_ty_1::l",
    ][::std::mem::offset_of!(_virTypedParameter__bindgen_ty_1, l) - 0usize];
    [
        "Offset of field: _virTypedParameter__bindgen_ty_1::ul",
    ][::std::mem::offset_of!(_virTypedParameter__bindgen_ty_1, ul) - 0usize];
    [
        "Offset of field: _virTypedParameter__bindgen_ty_1::d",
    ][::std::mem::offset_of!(_virTypedParameter__bindgen_ty_1, d) - 0usize];
    [
        "Offset of field: _virTypedParameter__bindgen_ty_1::b",
    ][::std::mem::offset_of!(_virTypedParameter__bindgen_ty_1, b) - 0usize];
    [
        "Offset of field: _virTypedParameter__bindgen_ty_1::s",
    ][::std::mem::offset_of!(_virTypedParameter__bindgen_ty_1, s) - 0usize];
};
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of _virTypedParameter",
    ][::std::mem::size_of::<_virTypedParameter>() - 96usize];
    [
        "Alignment of _virTypedParameter",
    ][::std::mem::align_of::<_virTypedParameter>() - 8usize];
    [
        "Offset of field: _virTypedParameter::field",
    ][::std::mem::offset_of!(_virTypedParameter, field) - 0usize];
    [
        "Offset of field: _virTypedParameter::type_",
    ][::std::mem::offset_of!(_virTypedParameter, type_) - 80usize];
    [
        "Offset of field: _virTypedParameter::value",
    ][::std::mem::offset_of!(_virTypedParameter, value) - 88usize];
};
pub const VIR_DOMAIN_NOSTATE: virDomainState = 0;
pub const VIR_DOMAIN_RUNNING: virDomainState = 1;
pub const VIR_DOMAIN_BLOCKED: virDomainState = 2;
pub const VIR_DOMAIN_PAUSED: virDomainState = 3;
pub const VIR_DOMAIN_SHUTDOWN: virDomainState = 4;
pub const VIR_DOMAIN_SHUTOFF: virDomainState = 5;
pub const VIR_DOMAIN_CRASHED: virDomainState = 6;
pub const VIR_DOMAIN_PMSUSPENDED: virDomainState = 7;
pub const VIR_DOMAIN_AFFECT_CURRENT: virDomainModificationImpact = 0;
pub const VIR_DOMAIN_AFFECT_LIVE: virDomainModificationImpact = 1;
pub const VIR_DOMAIN_AFFECT_CONFIG: virDomainModificationImpact = 2;
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of _virDomainInfo"][::std::mem::size_of::<_virDomainInfo>() - 40usize];
    ["Alignment of _virDomainInfo"][::std::mem::align_of::<_virDomainInfo>() - 8usize];
    [
        "Offset of field: _virDomainInfo::state",
    ][::std::mem::offset_of!(_virDomainInfo, state) - 0usize];
    [
        "Offset of field: _virDomainInfo::maxMem",
    ][::std::mem::offset_of!(_virDomainInfo, maxMem) - 8usize];
    [
        "Offset of field: _virDomainInfo::memory",
    ][::std::mem::offset_of!(_virDomainInfo, memory) - 16usize];
    [
        "Offset of field: _virDomainInfo::nrVirtCpu",
    ][::std::mem::offset_of!(_virDomainInfo, nrVirtCpu) - 24usize];
    [
        "Offset of field: _virDomainInfo::cpuTime",
    ][::std::mem::offset_of!(_virDomainInfo, cpuTime) - 32usize];
};
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of _virDomainBlockStats",
    ][::std::mem::size_of::<_virDomainBlockStats>() - 40usize];
    [
        "Alignment of _virDomainBlockStats",
    ][::std::mem::align_of::<_virDomainBlockStats>() - 8usize];
    [
        "Offset of field: _virDomainBlockStats::rd_req",
    ][::std::mem::offset_of!(_virDomainBlockStats, rd_req) - 0usize];
    [
        "Offset of field: _virDomainBlockStats::rd_bytes",
    ][::std::mem::offset_of!(_virDomainBlockStats, rd_bytes) - 8usize];
    [
        "Offset of field: _virDomainBlockStats::wr_req",
    ][::std::mem::offset_of!(_virDomainBlockStats, wr_req) - 16usize];
    [
        "Offset of field: _virDomainBlockStats::wr_bytes",
    ][::std::mem::offset_of!(_virDomainBlockStats, wr_bytes) - 24usize];
    [
        "Offset of field: _virDomainBlockStats::errs",
    ][::std::mem::offset_of!(_virDomainBlockStats, errs) - 32usize];
};
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of _virDomainInterfaceStats",
    ][::std::mem::size_of::<_virDomainInterfaceStats>() - 64usize];
    [
        "Alignment of _virDomainInterfaceStats",
    ][::std::mem::align_of::<_virDomainInterfaceStats>() - 8usize];
    [
        "Offset of field: _virDomainInterfaceStats::rx_bytes",
    ][::std::mem::offset_of!(_virDomainInterfaceStats, rx_bytes) - 0usize];
    [
        "Offset of field: _virDomainInterfaceStats::rx_packets",
    ][::std::mem::offset_of!(_virDomainInterfaceStats, rx_packets) - 8usize];
    [
        "Offset of field: _virDomainInterfaceStats::rx_errs",
    ][::std::mem::offset_of!(_virDomainInterfaceStats, rx_errs) - 16usize];
    [
        "Offset of field: _virDomainInterfaceStats::rx_drop",
    ][::std::mem::offset_of!(_virDomainInterfaceStats, rx_drop) - 24usize];
    [
        "Offset of field: _virDomainInterfaceStats::tx_bytes",
    ][::std::mem::offset_of!(_virDomainInterfaceStats, tx_bytes) - 32usize];
    [
        "Offset of field: _virDomainInterfaceStats::tx_packets",
    ][::std::mem::offset_of!(_virDomainInterfaceStats, tx_packets) - 40usize];
    [
        "Offset of field: _virDomainInterfaceStats::tx_errs",
    ][::std::mem::offset_of!(_virDomainInterfaceStats, tx_errs) - 48usize];
    [
        "Offset of field: _virDomainInterfaceStats::tx_drop",
    ][::std::mem::offset_of!(_virDomainInterfaceStats, tx_drop) - 56usize];
};
pub const VIR_DOMAIN_SHUTDOWN_DEFAULT: virDomainShutdownFlagValues = 0;
pub const VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN: virDomainShutdownFlagValues = 1;
pub const VIR_DOMAIN_SHUTDOWN_GUEST_AGENT: virDomainShutdownFlagValues = 2;
pub const VIR_DOMAIN_SHUTDOWN_INITCTL: virDomainShutdownFlagValues = 4;
pub const VIR_DOMAIN_SHUTDOWN_SIGNAL: virDomainShutdownFlagValues = 8;
pub const VIR_DOMAIN_SHUTDOWN_PARAVIRT: virDomainShutdownFlagValues = 16;
pub const VIR_DOMAIN_REBOOT_DEFAULT: virDomainRebootFlagValues = 0;
pub const VIR_DOMAIN_REBOOT_ACPI_POWER_BTN: virDomainRebootFlagValues = 1;
pub const VIR_DOMAIN_REBOOT_GUEST_AGENT: virDomainRebootFlagValues = 2;
pub const VIR_DOMAIN_REBOOT_INITCTL: virDomainRebootFlagValues = 4;
pub const VIR_DOMAIN_REBOOT_SIGNAL: virDomainRebootFlagValues = 8;
pub const VIR_DOMAIN_REBOOT_PARAVIRT: virDomainRebootFlagValues = 16;
pub const VIR_DOMAIN_MEM_CURRENT: virDomainMemoryModFlags = 0;
pub const VIR_DOMAIN_MEM_LIVE: virDomainMemoryModFlags = 1;
pub const VIR_DOMAIN_MEM_CONFIG: virDomainMemoryModFlags = 2;
pub const VIR_DOMAIN_MEM_MAXIMUM: virDomainMemoryModFlags = 4;
pub const VIR_DOMAIN_METADATA_DESCRIPTION: virDomainMetadataType = 0;
pub const VIR_DOMAIN_METADATA_TITLE: virDomainMetadataType = 1;
pub const VIR_DOMAIN_METADATA_ELEMENT: virDomainMetadataType = 2;
pub const VIR_DOMAIN_XML_SECURE: virDomainXMLFlags = 1;
pub const VIR_DOMAIN_XML_INACTIVE: virDomainXMLFlags = 2;
pub const VIR_DOMAIN_XML_UPDATE_CPU: virDomainXMLFlags = 4;
pub const VIR_DOMAIN_XML_MIGRATABLE: virDomainXMLFlags = 8;
pub const VIR_DOMAIN_BLOCK_RESIZE_BYTES: virDomainBlockResizeFlags = 1;
pub const VIR_DOMAIN_UNDEFINE_MANAGED_SAVE: virDomainUndefineFlagsValues = 1;
pub const VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA: virDomainUndefineFlagsValues = 2;
pub const VIR_DOMAIN_UNDEFINE_NVRAM: virDomainUndefineFlagsValues = 4;
pub const VIR_DOMAIN_UNDEFINE_KEEP_NVRAM: virDomainUndefineFlagsValues = 8;
pub const VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA: virDomainUndefineFlagsValues = 16;
pub const VIR_DOMAIN_UNDEFINE_TPM: virDomainUndefineFlagsValues = 32;
pub const VIR_DOMAIN_UNDEFINE_KEEP_TPM: virDomainUndefineFlagsValues = 64;
pub const VIR_CONNECT_LIST_DOMAINS_ACTIVE: virConnectListAllDomainsFlags = 1;
pub const VIR_CONNECT_LIST_DOMAINS_INACTIVE: virConnectListAllDomainsFlags = 2;
pub const VIR_CONNECT_LIST_DOMAINS_PERSISTENT: virConnectListAllDomainsFlags = 4;
pub const VIR_CONNECT_LIST_DOMAINS_TRANSIENT: virConnectListAllDomainsFlags = 8;
pub const VIR_CONNECT_LIST_DOMAINS_RUNNING: virConnectListAllDomainsFlags = 16;
pub const VIR_CONNECT_LIST_DOMAINS_PAUSED: virConnectListAllDomainsFlags = 32;
pub const VIR_CONNECT_LIST_DOMAINS_SHUTOFF: virConnectListAllDomainsFlags = 64;
pub const VIR_CONNECT_LIST_DOMAINS_OTHER: virConnectListAllDomainsFlags = 128;
pub const VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE: virConnectListAllDomainsFlags = 256;
pub const VIR_CONNECT_LIST_DOMAINS_NO_MANAGEDSAVE: virConnectListAllDomainsFlags = 512;
pub const VIR_CONNECT_LIST_DOMAINS_AUTOSTART: virConnectListAllDomainsFlags = 1024;
pub const VIR_CONNECT_LIST_DOMAINS_NO_AUTOSTART: virConnectListAllDomainsFlags = 2048;
pub const VIR_CONNECT_LIST_DOMAINS_HAS_SNAPSHOT: virConnectListAllDomainsFlags = 4096;
pub const VIR_CONNECT_LIST_DOMAINS_NO_SNAPSHOT: virConnectListAllDomainsFlags = 8192;
pub const VIR_CONNECT_LIST_DOMAINS_HAS_CHECKPOINT: virConnectListAllDomainsFlags = 16384;
pub const VIR_CONNECT_LIST_DOMAINS_NO_CHECKPOINT: virConnectListAllDomainsFlags = 32768;
pub const VIR_DOMAIN_VCPU_CURRENT: virDomainVcpuFlags = 0;
pub const VIR_DOMAIN_VCPU_LIVE: virDomainVcpuFlags = 1;
pub const VIR_DOMAIN_VCPU_CONFIG: virDomainVcpuFlags = 2;
pub const VIR_DOMAIN_VCPU_MAXIMUM: virDomainVcpuFlags = 4;
pub const VIR_DOMAIN_VCPU_GUEST: virDomainVcpuFlags = 8;
pub const VIR_DOMAIN_VCPU_HOTPLUGGABLE: virDomainVcpuFlags = 16;
pub const VIR_DOMAIN_DEVICE_MODIFY_CURRENT: virDomainDeviceModifyFlags = 0;
pub const VIR_DOMAIN_DEVICE_MODIFY_LIVE: virDomainDeviceModifyFlags = 1;
pub const VIR_DOMAIN_DEVICE_MODIFY_CONFIG: virDomainDeviceModifyFlags = 2;
pub const VIR_DOMAIN_DEVICE_MODIFY_FORCE: virDomainDeviceModifyFlags = 4;
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of _virDomainStatsRecord",
    ][::std::mem::size_of::<_virDomainStatsRecord>() - 24usize];
    [
        "Alignment of _virDomainStatsRecord",
    ][::std::mem::align_of::<_virDomainStatsRecord>() - 8usize];
    [
        "Offset of field: _virDomainStatsRecord::dom",
    ][::std::mem::offset_of!(_virDomainStatsRecord, dom) - 0usize];
    [
        "Offset of field: _virDomainStatsRecord::params",
    ][::std::mem::offset_of!(_virDomainStatsRecord, params) - 8usize];
    [
        "Offset of field: _virDomainStatsRecord::nparams",
    ][::std::mem::offset_of!(_virDomainStatsRecord, nparams) - 16usize];
};
pub const VIR_DOMAIN_STATS_STATE: virDomainStatsTypes = 1;
pub const VIR_DOMAIN_STATS_CPU_TOTAL: virDomainStatsTypes = 2;
pub const VIR_DOMAIN_STATS_BALLOON: virDomainStatsTypes = 4;
pub const VIR_DOMAIN_STATS_VCPU: virDomainStatsTypes = 8;
pub const VIR_DOMAIN_STATS_INTERFACE: virDomainStatsTypes = 16;
pub const VIR_DOMAIN_STATS_BLOCK: virDomainStatsTypes = 32;
pub const VIR_DOMAIN_STATS_PERF: virDomainStatsTypes = 64;
pub const VIR_DOMAIN_STATS_IOTHREAD: virDomainStatsTypes = 128;
pub const VIR_DOMAIN_STATS_MEMORY: virDomainStatsTypes = 256;
pub const VIR_DOMAIN_STATS_DIRTYRATE: virDomainStatsTypes = 512;
pub const VIR_DOMAIN_STATS_VM: virDomainStatsTypes = 1024;
pub const VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE: virConnectGetAllDomainStatsFlags = 1;
pub const VIR_CONNECT_GET_ALL_DOMAINS_STATS_INACTIVE: virConnectGetAllDomainStatsFlags = 2;
pub const VIR_CONNECT_GET_ALL_DOMAINS_STATS_PERSISTENT: virConnectGetAllDomainStatsFlags = 4;
pub const VIR_CONNECT_GET_ALL_DOMAINS_STATS_TRANSIENT: virConnectGetAllDomainStatsFlags = 8;
pub const VIR_CONNECT_GET_ALL_DOMAINS_STATS_RUNNING: virConnectGetAllDomainStatsFlags = 16;
pub const VIR_CONNECT_GET_ALL_DOMAINS_STATS_PAUSED: virConnectGetAllDomainStatsFlags = 32;
pub const VIR_CONNECT_GET_ALL_DOMAINS_STATS_SHUTOFF: virConnectGetAllDomainStatsFlags = 64;
pub const VIR_CONNECT_GET_ALL_DOMAINS_STATS_OTHER: virConnectGetAllDomainStatsFlags = 128;
pub const VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT: virConnectGetAllDomainStatsFlags = 536870912;
pub const VIR_CONNECT_GET_ALL_DOMAINS_STATS_BACKING: virConnectGetAllDomainStatsFlags = 1073741824;
pub const VIR_CONNECT_GET_ALL_DOMAINS_STATS_ENFORCE_STATS: virConnectGetAllDomainStatsFlags = 2147483648;
pub const VIR_DOMAIN_EVENT_DEFINED: virDomainEventType = 0;
pub const VIR_DOMAIN_EVENT_UNDEFINED: virDomainEventType = 1;
pub const VIR_DOMAIN_EVENT_STARTED: virDomainEventType = 2;
pub const VIR_DOMAIN_EVENT_SUSPENDED: virDomainEventType = 3;
pub const VIR_DOMAIN_EVENT_RESUMED: virDomainEventType = 4;
pub const VIR_DOMAIN_EVENT_STOPPED: virDomainEventType = 5;
pub const VIR_DOMAIN_EVENT_SHUTDOWN: virDomainEventType = 6;
pub const VIR_DOMAIN_EVENT_PMSUSPENDED: virDomainEventType = 7;
pub const VIR_DOMAIN_EVENT_CRASHED: virDomainEventType = 8;
pub const VIR_DOMAIN_EVENT_ID_LIFECYCLE: virDomainEventID = 0;
pub const VIR_DOMAIN_EVENT_ID_REBOOT: virDomainEventID = 1;
pub const VIR_DOMAIN_EVENT_ID_RTC_CHANGE: virDomainEventID = 2;
pub const VIR_DOMAIN_EVENT_ID_WATCHDOG: virDomainEventID = 3;
pub const VIR_DOMAIN_EVENT_ID_IO_ERROR: virDomainEventID = 4;
pub const VIR_DOMAIN_EVENT_ID_GRAPHICS: virDomainEventID = 5;
pub const VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON: virDomainEventID = 6;
pub const VIR_DOMAIN_EVENT_ID_CONTROL_ERROR: virDomainEventID = 7;
pub const VIR_DOMAIN_EVENT_ID_BLOCK_JOB: virDomainEventID = 8;
pub const VIR_DOMAIN_EVENT_ID_DISK_CHANGE: virDomainEventID = 9;
pub const VIR_DOMAIN_EVENT_ID_TRAY_CHANGE: virDomainEventID = 10;
pub const VIR_DOMAIN_EVENT_ID_PMWAKEUP: virDomainEventID = 11;
pub const VIR_DOMAIN_EVENT_ID_PMSUSPEND: virDomainEventID = 12;
pub const VIR_DOMAIN_EVENT_ID_BALLOON_CHANGE: virDomainEventID = 13;
pub const VIR_DOMAIN_EVENT_ID_PMSUSPEND_DISK: virDomainEventID = 14;
pub const VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED: virDomainEventID = 15;
pub const VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2: virDomainEventID = 16;
pub const VIR_DOMAIN_EVENT_ID_TUNABLE: virDomainEventID = 17;
pub const VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE: virDomainEventID = 18;
pub const VIR_DOMAIN_EVENT_ID_DEVICE_ADDED: virDomainEventID = 19;
pub const VIR_DOMAIN_EVENT_ID_MIGRATION_ITERATION: virDomainEventID = 20;
pub const VIR_DOMAIN_EVENT_ID_JOB_COMPLETED: virDomainEventID = 21;
pub const VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED: virDomainEventID = 22;
pub const VIR_DOMAIN_EVENT_ID_METADATA_CHANGE: virDomainEventID = 23;
pub const VIR_DOMAIN_EVENT_ID_BLOCK_THRESHOLD: virDomainEventID = 24;
pub const VIR_DOMAIN_EVENT_ID_MEMORY_FAILURE: virDomainEventID = 25;
pub const VIR_DOMAIN_EVENT_ID_MEMORY_DEVICE_SIZE_CHANGE: virDomainEventID = 26;
pub const VIR_DOMAIN_TIME_SYNC: virDomainSetTimeFlags = 1;
pub const VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE: virDomainInterfaceAddressesSource = 0;
pub const VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT: virDomainInterfaceAddressesSource = 1;
pub const VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP: virDomainInterfaceAddressesSource = 2;
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of _virDomainInterfaceIPAddress",
    ][::std::mem::size_of::<_virDomainInterfaceIPAddress>() - 24usize];
    [
        "Alignment of _virDomainInterfaceIPAddress",
    ][::std::mem::align_of::<_virDomainInterfaceIPAddress>() - 8usize];
    [
        "Offset of field: _virDomainInterfaceIPAddress::type_",
    ][::std::mem::offset_of!(_virDomainInterfaceIPAddress, type_) - 0usize];
    [
        "Offset of field: _virDomainInterfaceIPAddress::addr",
    ][::std::mem::offset_of!(_virDomainInterfaceIPAddress, addr) - 8usize];
    [
        "Offset of field: _virDomainInterfaceIPAddress::prefix",
    ][::std::mem::offset_of!(_virDomainInterfaceIPAddress, prefix) - 16usize];
};
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of _virDomainInterface",
    ][::std::mem::size_of::<_virDomainInterface>() - 32usize];
    [
        "Alignment of _virDomainInterface",
    ][::std::mem::align_of::<_virDomainInterface>() - 8usize];
    [
        "Offset of field: _virDomainInterface::name",
    ][::std::mem::offset_of!(_virDomainInterface, name) - 0usize];
    [
        "Offset of field: _virDomainInterface::hwaddr",
    ][::std::mem::offset_of!(_virDomainInterface, hwaddr) - 8usize];
    [
        "Offset of field: _virDomainInterface::naddrs",
    ][::std::mem::offset_of!(_virDomainInterface, naddrs) - 16usize];
    [
        "Offset of field: _virDomainInterface::addrs",
    ][::std::mem::offset_of!(_virDomainInterface, addrs) - 24usize];
};
pub const VIR_DOMAIN_PASSWORD_ENCRYPTED: virDomainSetUserPasswordFlags = 1;
pub const VIR_DOMAIN_GUEST_INFO_USERS: virDomainGuestInfoTypes = 1;
pub const VIR_DOMAIN_GUEST_INFO_OS: virDomainGuestInfoTypes = 2;
pub const VIR_DOMAIN_GUEST_INFO_TIMEZONE: virDomainGuestInfoTypes = 4;
pub const VIR_DOMAIN_GUEST_INFO_HOSTNAME: virDomainGuestInfoTypes = 8;
pub const VIR_DOMAIN_GUEST_INFO_FILESYSTEM: virDomainGuestInfoTypes = 16;
pub const VIR_DOMAIN_GUEST_INFO_DISKS: virDomainGuestInfoTypes = 32;
pub const VIR_DOMAIN_GUEST_INFO_INTERFACES: virDomainGuestInfoTypes = 64;
pub const VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK: virDomainAgentResponseTimeoutValues = -2;
pub const VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_DEFAULT: virDomainAgentResponseTimeoutValues = -1;
pub const VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_NOWAIT: virDomainAgentResponseTimeoutValues = 0;
pub const VIR_EVENT_HANDLE_READABLE: virEventHandleType = 1;
pub const VIR_EVENT_HANDLE_WRITABLE: virEventHandleType = 2;
pub const VIR_EVENT_HANDLE_ERROR: virEventHandleType = 4;
pub const VIR_EVENT_HANDLE_HANGUP: virEventHandleType = 8;
pub const VIR_NETWORK_UPDATE_COMMAND_NONE: virNetworkUpdateCommand = 0;
pub const VIR_NETWORK_UPDATE_COMMAND_MODIFY: virNetworkUpdateCommand = 1;
pub const VIR_NETWORK_UPDATE_COMMAND_DELETE: virNetworkUpdateCommand = 2;
pub const VIR_NETWORK_UPDATE_COMMAND_ADD_LAST: virNetworkUpdateCommand = 3;
pub const VIR_NETWORK_UPDATE_COMMAND_ADD_FIRST: virNetworkUpdateCommand = 4;
pub const VIR_NETWORK_SECTION_NONE: virNetworkUpdateSection = 0;
pub const VIR_NETWORK_SECTION_BRIDGE: virNetworkUpdateSection = 1;
pub const VIR_NETWORK_SECTION_DOMAIN: virNetworkUpdateSection = 2;
pub const VIR_NETWORK_SECTION_IP: virNetworkUpdateSection = 3;
pub const VIR_NETWORK_SECTION_IP_DHCP_HOST: virNetworkUpdateSection = 4;
pub const VIR_NETWORK_SECTION_IP_DHCP_RANGE: virNetworkUpdateSection = 5;
pub const VIR_NETWORK_SECTION_FORWARD: virNetworkUpdateSection = 6;
pub const VIR_NETWORK_SECTION_FORWARD_INTERFACE: virNetworkUpdateSection = 7;
pub const VIR_NETWORK_SECTION_FORWARD_PF: virNetworkUpdateSection = 8;
pub const VIR_NETWORK_SECTION_PORTGROUP: virNetworkUpdateSection = 9;
pub const VIR_NETWORK_SECTION_DNS_HOST: virNetworkUpdateSection = 10;
pub const VIR_NETWORK_SECTION_DNS_TXT: virNetworkUpdateSection = 11;
pub const VIR_NETWORK_SECTION_DNS_SRV: virNetworkUpdateSection = 12;
pub const VIR_NETWORK_UPDATE_AFFECT_CURRENT: virNetworkUpdateFlags = 0;
pub const VIR_NETWORK_UPDATE_AFFECT_LIVE: virNetworkUpdateFlags = 1;
pub const VIR_NETWORK_UPDATE_AFFECT_CONFIG: virNetworkUpdateFlags = 2;
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of _virNetworkDHCPLease",
    ][::std::mem::size_of::<_virNetworkDHCPLease>() - 72usize];
    [
        "Alignment of _virNetworkDHCPLease",
    ][::std::mem::align_of::<_virNetworkDHCPLease>() - 8usize];
    [
        "Offset of field: _virNetworkDHCPLease::iface",
    ][::std::mem::offset_of!(_virNetworkDHCPLease, iface) - 0usize];
    [
        "Offset of field: _virNetworkDHCPLease::expirytime",
    ][::std::mem::offset_of!(_virNetworkDHCPLease, expirytime) - 8usize];
    [
        "Offset of field: _virNetworkDHCPLease::type_",
    ][::std::mem::offset_of!(_virNetworkDHCPLease, type_) - 16usize];
    [
        "Offset of field: _virNetworkDHCPLease::mac",
    ][::std::mem::offset_of!(_virNetworkDHCPLease, mac) - 24usize];
    [
        "Offset of field: _virNetworkDHCPLease::iaid",
    ][::std::mem::offset_of!(_virNetworkDHCPLease, iaid) - 32usize];
    [
        "Offset of field: _virNetworkDHCPLease::ipaddr",
    ][::std::mem::offset_of!(_virNetworkDHCPLease, ipaddr) - 40usize];
    [
        "Offset of field: _virNetworkDHCPLease::prefix",
    ][::std::mem::offset_of!(_virNetworkDHCPLease, prefix) - 48usize];
    [
        "Offset of field: _virNetworkDHCPLease::hostname",
    ][::std::mem::offset_of!(_virNetworkDHCPLease, hostname) - 56usize];
    [
        "Offset of field: _virNetworkDHCPLease::clientid",
    ][::std::mem::offset_of!(_virNetworkDHCPLease, clientid) - 64usize];
};
pub const VIR_ERR_NONE: virErrorLevel = 0;
pub const VIR_ERR_WARNING: virErrorLevel = 1;
pub const VIR_ERR_ERROR: virErrorLevel = 2;
pub const VIR_FROM_NONE: virErrorDomain = 0;
pub const VIR_FROM_XEN: virErrorDomain = 1;
pub const VIR_FROM_XEND: virErrorDomain = 2;
pub const VIR_FROM_XENSTORE: virErrorDomain = 3;
pub const VIR_FROM_SEXPR: virErrorDomain = 4;
pub const VIR_FROM_XML: virErrorDomain = 5;
pub const VIR_FROM_DOM: virErrorDomain = 6;
pub const VIR_FROM_RPC: virErrorDomain = 7;
pub const VIR_FROM_PROXY: virErrorDomain = 8;
pub const VIR_FROM_CONF: virErrorDomain = 9;
pub const VIR_FROM_QEMU: virErrorDomain = 10;
pub const VIR_FROM_NET: virErrorDomain = 11;
pub const VIR_FROM_TEST: virErrorDomain = 12;
pub const VIR_FROM_REMOTE: virErrorDomain = 13;
pub const VIR_FROM_OPENVZ: virErrorDomain = 14;
pub const VIR_FROM_XENXM: virErrorDomain = 15;
pub const VIR_FROM_STATS_LINUX: virErrorDomain = 16;
pub const VIR_FROM_LXC: virErrorDomain = 17;
pub const VIR_FROM_STORAGE: virErrorDomain = 18;
pub const VIR_FROM_NETWORK: virErrorDomain = 19;
pub const VIR_FROM_DOMAIN: virErrorDomain = 20;
pub const VIR_FROM_UML: virErrorDomain = 21;
pub const VIR_FROM_NODEDEV: virErrorDomain = 22;
pub const VIR_FROM_XEN_INOTIFY: virErrorDomain = 23;
pub const VIR_FROM_SECURITY: virErrorDomain = 24;
pub const VIR_FROM_VBOX: virErrorDomain = 25;
pub const VIR_FROM_INTERFACE: virErrorDomain = 26;
pub const VIR_FROM_ONE: virErrorDomain = 27;
pub const VIR_FROM_ESX: virErrorDomain = 28;
pub const VIR_FROM_PHYP: virErrorDomain = 29;
pub const VIR_FROM_SECRET: virErrorDomain = 30;
pub const VIR_FROM_CPU: virErrorDomain = 31;
pub const VIR_FROM_XENAPI: virErrorDomain = 32;
pub const VIR_FROM_NWFILTER: virErrorDomain = 33;
pub const VIR_FROM_HOOK: virErrorDomain = 34;
pub const VIR_FROM_DOMAIN_SNAPSHOT: virErrorDomain = 35;
pub const VIR_FROM_AUDIT: virErrorDomain = 36;
pub const VIR_FROM_SYSINFO: virErrorDomain = 37;
pub const VIR_FROM_STREAMS: virErrorDomain = 38;
pub const VIR_FROM_VMWARE: virErrorDomain = 39;
pub const VIR_FROM_EVENT: virErrorDomain = 40;
pub const VIR_FROM_LIBXL: virErrorDomain = 41;
pub const VIR_FROM_LOCKING: virErrorDomain = 42;
pub const VIR_FROM_HYPERV: virErrorDomain = 43;
pub const VIR_FROM_CAPABILITIES: virErrorDomain = 44;
pub const VIR_FROM_URI: virErrorDomain = 45;
pub const VIR_FROM_AUTH: virErrorDomain = 46;
pub const VIR_FROM_DBUS: virErrorDomain = 47;
pub const VIR_FROM_PARALLELS: virErrorDomain = 48;
pub const VIR_FROM_DEVICE: virErrorDomain = 49;
pub const VIR_FROM_SSH: virErrorDomain = 50;
pub const VIR_FROM_LOCKSPACE: virErrorDomain = 51;
pub const VIR_FROM_INITCTL: virErrorDomain = 52;
pub const VIR_FROM_IDENTITY: virErrorDomain = 53;
pub const VIR_FROM_CGROUP: virErrorDomain = 54;
pub const VIR_FROM_ACCESS: virErrorDomain = 55;
pub const VIR_FROM_SYSTEMD: virErrorDomain = 56;
pub const VIR_FROM_BHYVE: virErrorDomain = 57;
pub const VIR_FROM_CRYPTO: virErrorDomain = 58;
pub const VIR_FROM_FIREWALL: virErrorDomain = 59;
pub const VIR_FROM_POLKIT: virErrorDomain = 60;
pub const VIR_FROM_THREAD: virErrorDomain = 61;
pub const VIR_FROM_ADMIN: virErrorDomain = 62;
pub const VIR_FROM_LOGGING: virErrorDomain = 63;
pub const VIR_FROM_XENXL: virErrorDomain = 64;
pub const VIR_FROM_PERF: virErrorDomain = 65;
pub const VIR_FROM_LIBSSH: virErrorDomain = 66;
pub const VIR_FROM_RESCTRL: virErrorDomain = 67;
pub const VIR_FROM_FIREWALLD: virErrorDomain = 68;
pub const VIR_FROM_DOMAIN_CHECKPOINT: virErrorDomain = 69;
pub const VIR_FROM_TPM: virErrorDomain = 70;
pub const VIR_FROM_BPF: virErrorDomain = 71;
pub const VIR_FROM_CH: virErrorDomain = 72;
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of _virError"][::std::mem::size_of::<_virError>() - 80usize];
    ["Alignment of _virError"][::std::mem::align_of::<_virError>() - 8usize];
    [
        "Offset of field: _virError::code",
    ][::std::mem::offset_of!(_virError, code) - 0usize];
    [
        "Offset of field: _virError::domain",
    ][::std::mem::offset_of!(_virError, domain) - 4usize];
    [
        "Offset of field: _virError::message",
    ][::std::mem::offset_of!(_virError, message) - 8usize];
    [
        "Offset of field: _virError::level",
    ][::std::mem::offset_of!(_virError, level) - 16usize];
    [
        "Offset of field: _virError::conn",
    ][::std::mem::offset_of!(_virError, conn) - 24usize];
    [
        "Offset of field: _virError::dom",
    ][::std::mem::offset_of!(_virError, dom) - 32usize];
    [
        "Offset of field: _virError::str1",
    ][::std::mem::offset_of!(_virError, str1) - 40usize];
    [
        "Offset of field: _virError::str2",
    ][::std::mem::offset_of!(_virError, str2) - 48usize];
    [
        "Offset of field: _virError::str3",
    ][::std::mem::offset_of!(_virError, str3) - 56usize];
    [
        "Offset of field: _virError::int1",
    ][::std::mem::offset_of!(_virError, int1) - 64usize];
    [
        "Offset of field: _virError::int2",
    ][::std::mem::offset_of!(_virError, int2) - 68usize];
    [
        "Offset of field: _virError::net",
    ][::std::mem::offset_of!(_virError, net) - 72usize];
};
pub const VIR_ERR_OK: virErrorNumber = 0;
pub const VIR_ERR_INTERNAL_ERROR: virErrorNumber = 1;
pub const VIR_ERR_NO_MEMORY: virErrorNumber = 2;
pub const VIR_ERR_NO_SUPPORT: virErrorNumber = 3;
pub const VIR_ERR_UNKNOWN_HOST: virErrorNumber = 4;
pub const VIR_ERR_NO_CONNECT: virErrorNumber = 5;
pub const VIR_ERR_INVALID_CONN: virErrorNumber = 6;
pub const VIR_ERR_INVALID_DOMAIN: virErrorNumber = 7;
pub const VIR_ERR_INVALID_ARG: virErrorNumber = 8;
pub const VIR_ERR_OPERATION_FAILED: virErrorNumber = 9;
pub const VIR_ERR_GET_FAILED: virErrorNumber = 10;
pub const VIR_ERR_POST_FAILED: virErrorNumber = 11;
pub const VIR_ERR_HTTP_ERROR: virErrorNumber = 12;
pub const VIR_ERR_SEXPR_SERIAL: virErrorNumber = 13;
pub const VIR_ERR_NO_XEN: virErrorNumber = 14;
pub const VIR_ERR_XEN_CALL: virErrorNumber = 15;
pub const VIR_ERR_OS_TYPE: virErrorNumber = 16;
pub const VIR_ERR_NO_KERNEL: virErrorNumber = 17;
pub const VIR_ERR_NO_ROOT: virErrorNumber = 18;
pub const VIR_ERR_NO_SOURCE: virErrorNumber = 19;
pub const VIR_ERR_NO_TARGET: virErrorNumber = 20;
pub const VIR_ERR_NO_NAME: virErrorNumber = 21;
pub const VIR_ERR_NO_OS: virErrorNumber = 22;
pub const VIR_ERR_NO_DEVICE: virErrorNumber = 23;
pub const VIR_ERR_NO_XENSTORE: virErrorNumber = 24;
pub const VIR_ERR_DRIVER_FULL: virErrorNumber = 25;
pub const VIR_ERR_CALL_FAILED: virErrorNumber = 26;
pub const VIR_ERR_XML_ERROR: virErrorNumber = 27;
pub const VIR_ERR_DOM_EXIST: virErrorNumber = 28;
pub const VIR_ERR_OPERATION_DENIED: virErrorNumber = 29;
pub const VIR_ERR_OPEN_FAILED: virErrorNumber = 30;
pub const VIR_ERR_READ_FAILED: virErrorNumber = 31;
pub const VIR_ERR_PARSE_FAILED: virErrorNumber = 32;
pub const VIR_ERR_CONF_SYNTAX: virErrorNumber = 33;
pub const VIR_ERR_WRITE_FAILED: virErrorNumber = 34;
pub const VIR_ERR_XML_DETAIL: virErrorNumber = 35;
pub const VIR_ERR_INVALID_NETWORK: virErrorNumber = 36;
pub const VIR_ERR_NETWORK_EXIST: virErrorNumber = 37;
pub const VIR_ERR_SYSTEM_ERROR: virErrorNumber = 38;
pub const VIR_ERR_RPC: virErrorNumber = 39;
pub const VIR_ERR_GNUTLS_ERROR: virErrorNumber = 40;
pub const VIR_WAR_NO_NETWORK: virErrorNumber = 41;
pub const VIR_ERR_NO_DOMAIN: virErrorNumber = 42;
pub const VIR_ERR_NO_NETWORK: virErrorNumber = 43;
pub const VIR_ERR_INVALID_MAC: virErrorNumber = 44;
pub const VIR_ERR_AUTH_FAILED: virErrorNumber = 45;
pub const VIR_ERR_INVALID_STORAGE_POOL: virErrorNumber = 46;
pub const VIR_ERR_INVALID_STORAGE_VOL: virErrorNumber = 47;
pub const VIR_WAR_NO_STORAGE: virErrorNumber = 48;
pub const VIR_ERR_NO_STORAGE_POOL: virErrorNumber = 49;
pub const VIR_ERR_NO_STORAGE_VOL: virErrorNumber = 50;
pub const VIR_WAR_NO_NODE: virErrorNumber = 51;
pub const VIR_ERR_INVALID_NODE_DEVICE: virErrorNumber = 52;
pub const VIR_ERR_NO_NODE_DEVICE: virErrorNumber = 53;
pub const VIR_ERR_NO_SECURITY_MODEL: virErrorNumber = 54;
pub const VIR_ERR_OPERATION_INVALID: virErrorNumber = 55;
pub const VIR_WAR_NO_INTERFACE: virErrorNumber = 56;
pub const VIR_ERR_NO_INTERFACE: virErrorNumber = 57;
pub const VIR_ERR_INVALID_INTERFACE: virErrorNumber = 58;
pub const VIR_ERR_MULTIPLE_INTERFACES: virErrorNumber = 59;
pub const VIR_WAR_NO_NWFILTER: virErrorNumber = 60;
pub const VIR_ERR_INVALID_NWFILTER: virErrorNumber = 61;
pub const VIR_ERR_NO_NWFILTER: virErrorNumber = 62;
pub const VIR_ERR_BUILD_FIREWALL: virErrorNumber = 63;
pub const VIR_WAR_NO_SECRET: virErrorNumber = 64;
pub const VIR_ERR_INVALID_SECRET: virErrorNumber = 65;
pub const VIR_ERR_NO_SECRET: virErrorNumber = 66;
pub const VIR_ERR_CONFIG_UNSUPPORTED: virErrorNumber = 67;
pub const VIR_ERR_OPERATION_TIMEOUT: virErrorNumber = 68;
pub const VIR_ERR_MIGRATE_PERSIST_FAILED: virErrorNumber = 69;
pub const VIR_ERR_HOOK_SCRIPT_FAILED: virErrorNumber = 70;
pub const VIR_ERR_INVALID_DOMAIN_SNAPSHOT: virErrorNumber = 71;
pub const VIR_ERR_NO_DOMAIN_SNAPSHOT: virErrorNumber = 72;
pub const VIR_ERR_INVALID_STREAM: virErrorNumber = 73;
pub const VIR_ERR_ARGUMENT_UNSUPPORTED: virErrorNumber = 74;
pub const VIR_ERR_STORAGE_PROBE_FAILED: virErrorNumber = 75;
pub const VIR_ERR_STORAGE_POOL_BUILT: virErrorNumber = 76;
pub const VIR_ERR_SNAPSHOT_REVERT_RISKY: virErrorNumber = 77;
pub const VIR_ERR_OPERATION_ABORTED: virErrorNumber = 78;
pub const VIR_ERR_AUTH_CANCELLED: virErrorNumber = 79;
pub const VIR_ERR_NO_DOMAIN_METADATA: virErrorNumber = 80;
pub const VIR_ERR_MIGRATE_UNSAFE: virErrorNumber = 81;
pub const VIR_ERR_OVERFLOW: virErrorNumber = 82;
pub const VIR_ERR_BLOCK_COPY_ACTIVE: virErrorNumber = 83;
pub const VIR_ERR_OPERATION_UNSUPPORTED: virErrorNumber = 84;
pub const VIR_ERR_SSH: virErrorNumber = 85;
pub const VIR_ERR_AGENT_UNRESPONSIVE: virErrorNumber = 86;
pub const VIR_ERR_RESOURCE_BUSY: virErrorNumber = 87;
pub const VIR_ERR_ACCESS_DENIED: virErrorNumber = 88;
pub const VIR_ERR_DBUS_SERVICE: virErrorNumber = 89;
pub const VIR_ERR_STORAGE_VOL_EXIST: virErrorNumber = 90;
pub const VIR_ERR_CPU_INCOMPATIBLE: virErrorNumber = 91;
pub const VIR_ERR_XML_INVALID_SCHEMA: virErrorNumber = 92;
pub const VIR_ERR_MIGRATE_FINISH_OK: virErrorNumber = 93;
pub const VIR_ERR_AUTH_UNAVAILABLE: virErrorNumber = 94;
pub const VIR_ERR_NO_SERVER: virErrorNumber = 95;
pub const VIR_ERR_NO_CLIENT: virErrorNumber = 96;
pub const VIR_ERR_AGENT_UNSYNCED: virErrorNumber = 97;
pub const VIR_ERR_LIBSSH: virErrorNumber = 98;
pub const VIR_ERR_DEVICE_MISSING: virErrorNumber = 99;
pub const VIR_ERR_INVALID_NWFILTER_BINDING: virErrorNumber = 100;
pub const VIR_ERR_NO_NWFILTER_BINDING: virErrorNumber = 101;
pub const VIR_ERR_INVALID_DOMAIN_CHECKPOINT: virErrorNumber = 102;
pub const VIR_ERR_NO_DOMAIN_CHECKPOINT: virErrorNumber = 103;
pub const VIR_ERR_NO_DOMAIN_BACKUP: virErrorNumber = 104;
pub const VIR_ERR_INVALID_NETWORK_PORT: virErrorNumber = 105;
pub const VIR_ERR_NETWORK_PORT_EXIST: virErrorNumber = 106;
pub const VIR_ERR_NO_NETWORK_PORT: virErrorNumber = 107;
pub const VIR_ERR_NO_HOSTNAME: virErrorNumber = 108;
pub const VIR_ERR_CHECKPOINT_INCONSISTENT: virErrorNumber = 109;
pub const VIR_ERR_MULTIPLE_DOMAINS: virErrorNumber = 110;
#[repr(C)]
#[derive(Copy, Clone)]
pub union _virTypedParameter__bindgen_ty_1 {
    pub i: ::std::os::raw::c_int,
    pub ui: ::std::os::raw::c_uint,
    pub l: ::std::os::raw::c_longlong,
    pub ul: ::std::os::raw::c_ulonglong,
    pub d: f64,
    pub b: ::std::os::raw::c_char,
    pub s: *mut ::std::os::raw::c_char,
}
unsafe extern "C" {
    pub fn virTypedParamsClear(
        params: virTypedParameterPtr,
        nparams: ::std::os::raw::c_int,
    );
    pub fn virTypedParamsFree(
        params: virTypedParameterPtr,
        nparams: ::std::os::raw::c_int,
    );
    pub fn virGetVersion(
        libVer: *mut ::std::os::raw::c_ulong,
        type_: *const ::std::os::raw::c_char,
        typeVer: *mut ::std::os::raw::c_ulong,
    ) -> ::std::os::raw::c_int;
    pub fn virInitialize() -> ::std::os::raw::c_int;
    pub fn virConnectOpen(name: *const ::std::os::raw::c_char) -> virConnectPtr;
    pub fn virConnectClose(conn: virConnectPtr) -> ::std::os::raw::c_int;
    pub fn virConnectGetLibVersion(
        conn: virConnectPtr,
        libVer: *mut ::std::os::raw::c_ulong,
    ) -> ::std::os::raw::c_int;
    pub fn virConnectSetKeepAlive(
        conn: virConnectPtr,
        interval: ::std::os::raw::c_int,
        count: ::std::os::raw::c_uint,
    ) -> ::std::os::raw::c_int;
    pub fn virConnectRegisterCloseCallback(
        conn: virConnectPtr,
        cb: virConnectCloseFunc,
        opaque: *mut ::std::os::raw::c_void,
        freecb: virFreeCallback,
    ) -> ::std::os::raw::c_int;
    pub fn virConnectUnregisterCloseCallback(
        conn: virConnectPtr,
        cb: virConnectCloseFunc,
    ) -> ::std::os::raw::c_int;
    pub fn virConnectGetCapabilities(conn: virConnectPtr) -> *mut ::std::os::raw::c_char;
    pub fn virConnectIsAlive(conn: virConnectPtr) -> ::std::os::raw::c_int;
    pub fn virConnectGetDomainCapabilities(
        conn: virConnectPtr,
        emulatorbin: *const ::std::os::raw::c_char,
        arch: *const ::std::os::raw::c_char,
        machine: *const ::std::os::raw::c_char,
        virttype: *const ::std::os::raw::c_char,
        flags: ::std::os::raw::c_uint,
    ) -> *mut ::std::os::raw::c_char;
    pub fn virDomainCreateXML(
        conn: virConnectPtr,
        xmlDesc: *const ::std::os::raw::c_char,
        flags: ::std::os::raw::c_uint,
    ) -> virDomainPtr;
    pub fn virDomainLookupByName(
        conn: virConnectPtr,
        name: *const ::std::os::raw::c_char,
    ) -> virDomainPtr;
    pub fn virDomainShutdownFlags(
        domain: virDomainPtr,
        flags: ::std::os::raw::c_uint,
    ) -> ::std::os::raw::c_int;
    pub fn virDomainReboot(
        domain: virDomainPtr,
        flags: ::std::os::raw::c_uint,
    ) -> ::std::os::raw::c_int;
    pub fn virDomainReset(
        domain: virDomainPtr,
        flags: ::std::os::raw::c_uint,
    ) -> ::std::os::raw::c_int;
    pub fn virDomainDestroy(domain: virDomainPtr) -> ::std::os::raw::c_int;
    pub fn virDomainFree(domain: virDomainPtr) -> ::std::os::raw::c_int;
    pub fn virDomainSuspend(domain: virDomainPtr) -> ::std::os::raw::c_int;
    pub fn virDomainResume(domain: virDomainPtr) -> ::std::os::raw::c_int;
    pub fn virDomainPMWakeup(
        domain: virDomainPtr,
        flags: ::std::os::raw::c_uint,
    ) -> ::std::os::raw::c_int;
    pub fn virDomainHasManagedSaveImage(
        dom: virDomainPtr,
        flags: ::std::os::raw::c_uint,
    ) -> ::std::os::raw::c_int;
    pub fn virDomainManagedSaveRemove(
        dom: virDomainPtr,
        flags: ::std::os::raw::c_uint,
    ) -> ::std::os::raw::c_int;
    pub fn virDomainManagedSaveGetXMLDesc(
        domain: virDomainPtr,
        flags: ::std::os::raw::c_uint,
    ) -> *mut ::std::os::raw::c_char;
    pub fn virDomainScreenshot(
        domain: virDomainPtr,
        stream: virStreamPtr,
        screen: ::std::os::raw::c_uint,
        flags: ::std::os::raw::c_uint,
    ) -> *mut ::std::os::raw::c_char;
    pub fn virDomainGetInfo(
        domain: virDomainPtr,
        info: virDomainInfoPtr,
    ) -> ::std::os::raw::c_int;
    pub fn virDomainGetState(
        domain: virDomainPtr,
        state: *mut ::std::os::raw::c_int,
        reason: *mut ::std::os::raw::c_int,
        flags: ::std::os::raw::c_uint,
    ) -> ::std::os::raw::c_int;
    pub fn virDomainGetCPUStats(
        domain: virDomainPtr,
        params: virTypedParameterPtr,
        nparams: ::std::os::raw::c_uint,
        start_cpu: ::std::os::raw::c_int,
        ncpus: ::std::os::raw::c_uint,
        flags: ::std::os::raw::c_uint,
    ) -> ::std::os::raw::c_int;
    pub fn virDomainGetName(domain: virDomainPtr) -> *const ::std::os::raw::c_char;
    pub fn virDomainGetID(domain: virDomainPtr) -> ::std::os::raw::c_uint;
    pub fn virDomainGetUUID(
        domain: virDomainPtr,
        uuid: *mut ::std::os::raw::c_uchar,
    ) -> ::std::os::raw::c_int;
    pub fn virDomainSetMemoryFlags(
        domain: virDomainPtr,
        memory: ::std::os::raw::c_ulong,
        flags: ::std::os::raw::c_uint,
    ) -> ::std::os::raw::c_int;
    pub fn virDomainSetMemoryStatsPeriod(
        domain: virDomainPtr,
        period: ::std::os::raw::c_int,
        flags: ::std::os::raw::c_uint,
    ) -> ::std::os::raw::c_int;
    pub fn virDomainSetMetadata(
        domain: virDomainPtr,
        type_: ::std::os::raw::c_int,
        metadata: *const ::std::os::raw::c_char,
        key: *const ::std::os::raw::c_char,
        uri: *const ::std::os::raw::c_char,
        flags: ::std::os::raw::c_uint,
    ) -> ::std::os::raw::c_int;
    pub fn virDomainGetXMLDesc(
        domain: virDomainPtr,
        flags: ::std::os::raw::c_uint,
    ) -> *mut ::std::os::raw::c_char;
    pub fn virDomainBlockStats(
        dom: virDomainPtr,
        disk: *const ::std::os::raw::c_char,
        stats: virDomainBlockStatsPtr,
        size: usize,
    ) -> ::std::os::raw::c_int;
    pub fn virDomainBlockStatsFlags(
        dom: virDomainPtr,
        disk: *const ::std::os::raw::c_char,
        params: virTypedParameterPtr,
        nparams: *mut ::std::os::raw::c_int,
        flags: ::std::os::raw::c_uint,
    ) -> ::std::os::raw::c_int;
    pub fn virDomainInterfaceStats(
        dom: virDomainPtr,
        device: *const ::std::os::raw::c_char,
        stats: virDomainInterfaceStatsPtr,
        size: usize,
    ) -> ::std::os::raw::c_int;
    pub fn virDomainSetInterfaceParameters(
        dom: virDomainPtr,
        device: *const ::std::os::raw::c_char,
        params: virTypedParameterPtr,
        nparams: ::std::os::raw::c_int,
        flags: ::std::os::raw::c_uint,
    ) -> ::std::os::raw::c_int;
    pub fn virDomainBlockResize(
        dom: virDomainPtr,
        disk: *const ::std::os::raw::c_char,
        size: ::std::os::raw::c_ulonglong,
        flags: ::std::os::raw::c_uint,
    ) -> ::std::os::raw::c_int;
    pub fn virDomainDefineXML(
        conn: virConnectPtr,
        xml: *const ::std::os::raw::c_char,
    ) -> virDomainPtr;
    pub fn virDomainUndefine(domain: virDomainPtr) -> ::std::os::raw::c_int;
    pub fn virDomainUndefineFlags(
        domain: virDomainPtr,
        flags: ::std::os::raw::c_uint,
    ) -> ::std::os::raw::c_int;
    pub fn virConnectListAllDomains(
        conn: virConnectPtr,
        domains: *mut *mut virDomainPtr,
        flags: ::std::os::raw::c_uint,
    ) -> ::std::os::raw::c_int;
    pub fn virDomainCreate(domain: virDomainPtr) -> ::std::os::raw::c_int;
    pub fn virDomainGetAutostart(
        domain: virDomainPtr,
        autostart: *mut ::std::os::raw::c_int,
    ) -> ::std::os::raw::c_int;
    pub fn virDomainSetAutostart(
        domain: virDomainPtr,
        autostart: ::std::os::raw::c_int,
    ) -> ::std::os::raw::c_int;
    pub fn virDomainSetVcpusFlags(
        domain: virDomainPtr,
        nvcpus: ::std::os::raw::c_uint,
        flags: ::std::os::raw::c_uint,
    ) -> ::std::os::raw::c_int;
    pub fn virDomainAttachDeviceFlags(
        domain: virDomainPtr,
        xml: *const ::std::os::raw::c_char,
        flags: ::std::os::raw::c_uint,
    ) -> ::std::os::raw::c_int;
    pub fn virDomainDetachDeviceFlags(
        domain: virDomainPtr,
        xml: *const ::std::os::raw::c_char,
        flags: ::std::os::raw::c_uint,
    ) -> ::std::os::raw::c_int;
    pub fn virDomainUpdateDeviceFlags(
        domain: virDomainPtr,
        xml: *const ::std::os::raw::c_char,
        flags: ::std::os::raw::c_uint,
    ) -> ::std::os::raw::c_int;
    pub fn virConnectGetAllDomainStats(
        conn: virConnectPtr,
        stats: ::std::os::raw::c_uint,
        retStats: *mut *mut virDomainStatsRecordPtr,
        flags: ::std::os::raw::c_uint,
    ) -> ::std::os::raw::c_int;
    pub fn virDomainListGetStats(
        doms: *mut virDomainPtr,
        stats: ::std::os::raw::c_uint,
        retStats: *mut *mut virDomainStatsRecordPtr,
        flags: ::std::os::raw::c_uint,
    ) -> ::std::os::raw::c_int;
    pub fn virDomainStatsRecordListFree(stats: *mut virDomainStatsRecordPtr);
    pub fn virDomainSetBlockIoTune(
        dom: virDomainPtr,
        disk: *const ::std::os::raw::c_char,
        params: virTypedParameterPtr,
        nparams: ::std::os::raw::c_int,
        flags: ::std::os::raw::c_uint,
    ) -> ::std::os::raw::c_int;
    pub fn virDomainIsActive(dom: virDomainPtr) -> ::std::os::raw::c_int;
    pub fn virDomainIsPersistent(dom: virDomainPtr) -> ::std::os::raw::c_int;
    pub fn virConnectDomainEventRegisterAny(
        conn: virConnectPtr,
        dom: virDomainPtr,
        eventID: ::std::os::raw::c_int,
        cb: virConnectDomainEventGenericCallback,
        opaque: *mut ::std::os::raw::c_void,
        freecb: virFreeCallback,
    ) -> ::std::os::raw::c_int;
    pub fn virConnectDomainEventDeregisterAny(
        conn: virConnectPtr,
        callbackID: ::std::os::raw::c_int,
    ) -> ::std::os::raw::c_int;
    pub fn virDomainFSTrim(
        dom: virDomainPtr,
        mountPoint: *const ::std::os::raw::c_char,
        minimum: ::std::os::raw::c_ulonglong,
        flags: ::std::os::raw::c_uint,
    ) -> ::std::os::raw::c_int;
    pub fn virDomainFSFreeze(
        dom: virDomainPtr,
        mountpoints: *mut *const ::std::os::raw::c_char,
        nmountpoints: ::std::os::raw::c_uint,
        flags: ::std::os::raw::c_uint,
    ) -> ::std::os::raw::c_int;
    pub fn virDomainFSThaw(
        dom: virDomainPtr,
        mountpoints: *mut *const ::std::os::raw::c_char,
        nmountpoints: ::std::os::raw::c_uint,
        flags: ::std::os::raw::c_uint,
    ) -> ::std::os::raw::c_int;
    pub fn virDomainSetTime(
        dom: virDomainPtr,
        seconds: ::std::os::raw::c_longlong,
        nseconds: ::std::os::raw::c_uint,
        flags: ::std::os::raw::c_uint,
    ) -> ::std::os::raw::c_int;
    pub fn virDomainInterfaceAddresses(
        dom: virDomainPtr,
        ifaces: *mut *mut virDomainInterfacePtr,
        source: ::std::os::raw::c_uint,
        flags: ::std::os::raw::c_uint,
    ) -> ::std::os::raw::c_int;
    pub fn virDomainInterfaceFree(iface: virDomainInterfacePtr);
    pub fn virDomainSetUserPassword(
        dom: virDomainPtr,
        user: *const ::std::os::raw::c_char,
        password: *const ::std::os::raw::c_char,
        flags: ::std::os::raw::c_uint,
    ) -> ::std::os::raw::c_int;
    pub fn virDomainGetGuestInfo(
        domain: virDomainPtr,
        types: ::std::os::raw::c_uint,
        params: *mut virTypedParameterPtr,
        nparams: *mut ::std::os::raw::c_int,
        flags: ::std::os::raw::c_uint,
    ) -> ::std::os::raw::c_int;
    pub fn virDomainAgentSetResponseTimeout(
        domain: virDomainPtr,
        timeout: ::std::os::raw::c_int,
        flags: ::std::os::raw::c_uint,
    ) -> ::std::os::raw::c_int;
    pub fn virDomainAuthorizedSSHKeysSet(
        domain: virDomainPtr,
        user: *const ::std::os::raw::c_char,
        keys: *mut *const ::std::os::raw::c_char,
        nkeys: ::std::os::raw::c_uint,
        flags: ::std::os::raw::c_uint,
    ) -> ::std::os::raw::c_int;
    pub fn virEventRegisterImpl(
        addHandle: virEventAddHandleFunc,
        updateHandle: virEventUpdateHandleFunc,
        removeHandle: virEventRemoveHandleFunc,
        addTimeout: virEventAddTimeoutFunc,
        updateTimeout: virEventUpdateTimeoutFunc,
        removeTimeout: virEventRemoveTimeoutFunc,
    );
    pub fn virNetworkLookupByName(
        conn: virConnectPtr,
        name: *const ::std::os::raw::c_char,
    ) -> virNetworkPtr;
    pub fn virNetworkDefineXML(
        conn: virConnectPtr,
        xmlDesc: *const ::std::os::raw::c_char,
    ) -> virNetworkPtr;
    pub fn virNetworkUndefine(network: virNetworkPtr) -> ::std::os::raw::c_int;
    pub fn virNetworkUpdate(
        network: virNetworkPtr,
        command: ::std::os::raw::c_uint,
        section: ::std::os::raw::c_uint,
        parentIndex: ::std::os::raw::c_int,
        xml: *const ::std::os::raw::c_char,
        flags: ::std::os::raw::c_uint,
    ) -> ::std::os::raw::c_int;
    pub fn virNetworkCreate(network: virNetworkPtr) -> ::std::os::raw::c_int;
    pub fn virNetworkDestroy(network: virNetworkPtr) -> ::std::os::raw::c_int;
    pub fn virNetworkFree(network: virNetworkPtr) -> ::std::os::raw::c_int;
    pub fn virNetworkGetUUID(
        network: virNetworkPtr,
        uuid: *mut ::std::os::raw::c_uchar,
    ) -> ::std::os::raw::c_int;
    pub fn virNetworkGetXMLDesc(
        network: virNetworkPtr,
        flags: ::std::os::raw::c_uint,
    ) -> *mut ::std::os::raw::c_char;
    pub fn virNetworkSetAutostart(
        network: virNetworkPtr,
        autostart: ::std::os::raw::c_int,
    ) -> ::std::os::raw::c_int;
    pub fn virNetworkIsActive(net: virNetworkPtr) -> ::std::os::raw::c_int;
    pub fn virNetworkDHCPLeaseFree(lease: virNetworkDHCPLeasePtr);
    pub fn virNetworkGetDHCPLeases(
        network: virNetworkPtr,
        mac: *const ::std::os::raw::c_char,
        leases: *mut *mut virNetworkDHCPLeasePtr,
        flags: ::std::os::raw::c_uint,
    ) -> ::std::os::raw::c_int;
    pub fn virStoragePoolLookupByName(
        conn: virConnectPtr,
        name: *const ::std::os::raw::c_char,
    ) -> virStoragePoolPtr;
    pub fn virStoragePoolFree(pool: virStoragePoolPtr) -> ::std::os::raw::c_int;
    pub fn virStorageVolLookupByName(
        pool: virStoragePoolPtr,
        name: *const ::std::os::raw::c_char,
    ) -> virStorageVolPtr;
    pub fn virStorageVolFree(vol: virStorageVolPtr) -> ::std::os::raw::c_int;
    pub fn virStorageVolGetPath(vol: virStorageVolPtr) -> *mut ::std::os::raw::c_char;
    pub fn virStreamNew(
        conn: virConnectPtr,
        flags: ::std::os::raw::c_uint,
    ) -> virStreamPtr;
    pub fn virStreamRecv(
        st: virStreamPtr,
        data: *mut ::std::os::raw::c_char,
        nbytes: usize,
    ) -> ::std::os::raw::c_int;
    pub fn virStreamFinish(st: virStreamPtr) -> ::std::os::raw::c_int;
    pub fn virStreamAbort(st: virStreamPtr) -> ::std::os::raw::c_int;
    pub fn virStreamFree(st: virStreamPtr) -> ::std::os::raw::c_int;
    pub fn virGetLastError() -> virErrorPtr;
    pub fn virSetErrorFunc(userData: *mut ::std::os::raw::c_void, handler: virErrorFunc);
}
