//! Tests with libvirt's built-in test driver. All connections of one process share its state, so
//! each test uses its own names.

use std::thread;

use crate::libvirt::{Code, Connection, Domain, Error, XmlKind, start};

fn open() -> Connection {
    start().unwrap();
    Connection::open("test:///default").unwrap()
}

fn define(connection: &Connection, name: &str) -> Domain {
    let xml = format!(
        "<domain type='test'><name>{name}</name><memory unit='MiB'>64</memory><vcpu>2</vcpu>\
         <os><type>hvm</type></os></domain>"
    );
    connection.define_domain(&xml).unwrap()
}

fn network_xml(name: &str) -> String {
    format!("<network><name>{name}</name><forward mode='bridge'/><bridge name='br0'/></network>")
}

#[test]
fn missing_domain_is_code_42_and_names_the_call() {
    let error = open().lookup_domain_by_name("no-such-domain").unwrap_err();
    assert_eq!(error.code, Code::NO_DOMAIN);
    assert_eq!((error.code.raw(), error.domain.raw()), (42, 12));
    assert_eq!(error.message, "Domain not found");
    assert_eq!(error.call, "virDomainLookupByName");
    assert!(!error.connection_lost());
}

#[test]
fn a_missing_network_is_code_43() {
    let error = open().lookup_network_by_name("no-such-network").unwrap_err();
    assert_eq!((error.code, error.code.raw()), (Code::NO_NETWORK, 43));
}

#[test]
fn error_remains_valid_after_its_handles_are_dropped() {
    let connection = open();
    let domain = define(&connection, "lv-error-order");
    let error = domain.destroy().unwrap_err();
    domain.undefine().unwrap();
    drop(domain);
    drop(connection);
    assert_eq!(error.code, Code::OPERATION_INVALID);
    assert_eq!(error.message, "Requested operation is not valid: domain is not running");
}

#[test]
fn nul_byte_in_an_argument_is_refused_before_c() {
    let error = open().lookup_domain_by_name("test\0other").unwrap_err();
    assert_eq!(error.code, Code::INVALID_ARG);
    assert_eq!(open().lookup_domain_by_name("test").unwrap().name().unwrap(), "test");
}

#[test]
fn uri_without_a_driver_is_an_error() {
    start().unwrap();
    let error = Connection::open("nonsense:///x").unwrap_err();
    assert_eq!(error.call, "virConnectOpen");
    assert!(!error.message.is_empty());
}

#[test]
fn domain_passes_all_states_of_its_life() {
    let connection = open();
    let domain = define(&connection, "lv-life");
    assert_eq!(domain.state().unwrap().0, 5);
    assert!(!domain.is_active().unwrap());
    domain.create().unwrap();
    assert_eq!(domain.state().unwrap().0, 1);
    domain.suspend().unwrap();
    assert_eq!(domain.state().unwrap().0, 3);
    domain.resume().unwrap();
    domain.reboot().unwrap();
    assert!(domain.is_active().unwrap());
    domain.shutdown().unwrap();
    assert_eq!(domain.state().unwrap().0, 5);
    domain.create().unwrap();
    domain.destroy().unwrap();
    domain.undefine().unwrap();
    assert_eq!(domain.state().unwrap_err().code, Code::NO_DOMAIN);
}

#[test]
fn xml_is_returned_in_both_kinds() {
    let connection = open();
    let domain = define(&connection, "lv-xml");
    let inactive = domain.xml(XmlKind::Inactive).unwrap();
    assert!(inactive.contains("<name>lv-xml</name>"));
    assert!(inactive.contains(&domain.uuid().unwrap()));
    domain.create().unwrap();
    assert!(domain.xml(XmlKind::Live).unwrap().contains("id='"));
    domain.destroy().unwrap();
    domain.undefine().unwrap();
}

#[test]
fn name_used_by_another_uuid_is_code_9() {
    let connection = open();
    let domain = define(&connection, "lv-taken");
    let xml = "<domain type='test'><name>lv-taken</name><memory>1024</memory>\
               <os><type>hvm</type></os></domain>";
    let error = connection.define_domain(xml).unwrap_err();
    assert_eq!((error.code, error.code.raw()), (Code::OPERATION_FAILED, 9));
    domain.undefine().unwrap();
}

#[test]
fn undefine_also_works_where_the_driver_refuses_flags() {
    // The test driver does not know the NVRAM flag: the first attempt fails.
    let connection = open();
    let domain = define(&connection, "lv-undefine");
    domain.undefine().unwrap();
    let error = connection.lookup_domain_by_name("lv-undefine").unwrap_err();
    assert_eq!(error.code, Code::NO_DOMAIN);
}

#[test]
fn network_passes_all_states_of_its_life() {
    let connection = open();
    let network = connection.define_network(&network_xml("lv-net")).unwrap();
    assert!(!network.is_active().unwrap());
    network.set_autostart().unwrap();
    network.create().unwrap();
    assert!(network.is_active().unwrap());
    assert_eq!(network.create().unwrap_err().code, Code::OPERATION_INVALID);
    assert!(network.xml().unwrap().contains(&network.uuid().unwrap()));
    network.destroy().unwrap();

    network.undefine().unwrap();
    let error = connection.lookup_network_by_name("lv-net").unwrap_err();
    assert_eq!(error.code, Code::NO_NETWORK);
}

#[test]
fn cpu_stats_have_both_times_for_each_cpu() {
    let times = open().lookup_domain_by_name("test").unwrap().cpu_stats().unwrap();
    assert_eq!(times.len(), 2);
    assert!(times.iter().all(|time| time.cpu_ns >= time.vcpu_ns && time.vcpu_ns > 0));
}

#[test]
fn counters_of_an_unknown_interface_are_code_8() {
    let error = open().lookup_domain_by_name("test").unwrap().interface_stats("vnet9").unwrap_err();
    assert_eq!((error.code, error.code.raw()), (Code::INVALID_ARG, 8));
    assert_eq!(error.message, "invalid argument: 'vnet9' is not a known interface");
}

#[test]
fn older_block_stats_call_is_used_as_fallback() {
    let connection = open();
    let xml = "<domain type='test'><name>lv-block</name><memory>1024</memory><os><type>hvm</type>\
               </os><devices><disk type='file' device='disk'><source file='/nowhere'/>\
               <target dev='vda' bus='virtio'/></disk></devices></domain>";
    let domain = connection.define_domain(xml).unwrap();
    domain.create().unwrap();
    let stats = domain.block_stats("vda").unwrap();
    assert!(stats.read_bytes > 0 && stats.write_ops > 0, "{stats:?}");
    let error = domain.block_stats("vdz").unwrap_err();
    assert_eq!(error.code, Code::INVALID_ARG);
    domain.destroy().unwrap();
    domain.undefine().unwrap();
}

#[test]
fn the_list_has_running_domains_and_others() {
    let connection = open();
    let domain = define(&connection, "lv-list");
    let names: Vec<String> =
        connection.list_domains().unwrap().iter().map(|each| each.name().unwrap()).collect();
    assert!(names.contains(&"test".to_owned()), "{names:?}");
    assert!(names.contains(&"lv-list".to_owned()), "{names:?}");
    domain.undefine().unwrap();
}

#[test]
fn a_domain_outlives_the_handle_of_its_connection() {
    let connection = open();
    let domain = connection.lookup_domain_by_name("test").unwrap();
    drop(connection);
    assert_eq!(domain.state().unwrap().0, 1);
}

/// A call that fails, and the expected error code; each call gets its own word for the error's text.
type Failing = (&'static str, fn(&Connection, &Domain, &str) -> Error, Code);

const FAILING: [Failing; 6] = [
    ("lookup domain", |c, _, word| c.lookup_domain_by_name(word).unwrap_err(), Code::NO_DOMAIN),
    ("lookup network", |c, _, word| c.lookup_network_by_name(word).unwrap_err(), Code::NO_NETWORK),
    ("interface stats", |_, d, word| d.interface_stats(word).unwrap_err(), Code::INVALID_ARG),
    ("block stats", |_, d, word| d.block_stats(word).unwrap_err(), Code::INVALID_ARG),
    ("start", |_, d, _| d.create().unwrap_err(), Code::INTERNAL_ERROR),
    ("define", |c, _, word| define_nonsense(c, word), Code::XML_ERROR),
];

fn define_nonsense(connection: &Connection, word: &str) -> Error {
    let xml = format!(
        "<domain type='test'><name>{word}/</name><memory>1024</memory>\
         <os><type>hvm</type></os></domain>"
    );
    connection.define_domain(&xml).unwrap_err()
}

#[test]
fn each_of_100_000_errors_on_8_threads_is_its_own() {
    crate::cost::slow("makes 600,000 calls of libvirt");
    const THREADS: usize = 8;
    const CALLS: usize = 100_000 / THREADS;
    start().unwrap();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                let connection = open();
                let test = connection.lookup_domain_by_name("test").unwrap();
                for turn in 0..CALLS {
                    let word = format!("word-{thread}-{turn}");
                    for (kind, fail, code) in FAILING {
                        let error = fail(&connection, &test, &word);
                        assert_eq!(error.code, code, "{kind}: {error}");
                        let own = match kind {
                            "lookup domain" => error.message == "Domain not found",
                            "start" => error.message.contains("already running"),
                            _ => error.message.contains(&word),
                        };
                        assert!(own, "{kind}: {error}");
                    }
                }
            });
        }
    });
}

#[test]
fn an_alive_connection_says_so_and_knows_its_version() {
    let connection = open();
    assert!(connection.is_alive());
    assert!(connection.lib_version().unwrap() >= crate::libvirt::FLOOR);
}
