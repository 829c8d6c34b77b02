//! The golden XML against the libvirt of this machine, by `virsh` on the test driver: libvirt
//! accepts the definitions of this agent, and still returns the content of the dumped files.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mistify_libvirt::guest::domain::VirDomain;
use mistify_libvirt::guest::network::NetworkDefinition;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// What virsh prints for `script`, run in one session on the test driver; `None` without virsh.
fn virsh(script: &str) -> Option<String> {
    let output = Command::new("virsh")
        .args(["-q", "-c", "test:///default", script])
        .stdin(Stdio::null())
        .env("LC_ALL", "C")
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => {
            let required = std::env::var("MISTIFY_TEST_REQUIRE").unwrap_or_default();
            assert!(!required.split(',').any(|need| need == "virsh"), "virsh: {error}");
            eprintln!("skipped: no virsh: {error}");
            return None;
        }
    };
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {error}");
    Some(String::from_utf8(output.stdout).expect("libvirt writes UTF-8"))
}

#[test]
fn libvirt_accepts_and_returns_every_domain() {
    for (file, name) in [("domain-full", "web-1"), ("domain-least", "least")] {
        let define = golden(&format!("{file}.define.xml"));
        let script = format!("define {}; dumpxml {name}", define.display());
        let Some(dump) = virsh(&script) else { return };
        let recorded = std::fs::read_to_string(golden(&format!("{file}.dump.xml"))).unwrap();
        let model = |text: &str| {
            let xml = &text[text.find("<domain").unwrap()..];
            VirDomain { uuid: String::new(), ..VirDomain::from_xml(xml).unwrap() }
        };
        assert_eq!(model(&dump), model(&recorded));
    }
}

#[test]
fn libvirt_accepts_and_returns_every_network() {
    for file in ["network-trunk", "network-tag", "network-linux"] {
        let define = golden(&format!("{file}.define.xml"));
        let script = format!("net-define {}; net-dumpxml 02:00:00:00:00:0b", define.display());
        let Some(dump) = virsh(&script) else { return };
        let recorded = std::fs::read_to_string(golden(&format!("{file}.dump.xml"))).unwrap();
        let model = |text: &str| {
            let xml = &text[text.find("<network").unwrap()..];
            NetworkDefinition { uuid: String::new(), ..NetworkDefinition::from_xml(xml).unwrap() }
        };
        assert_eq!(model(&dump), model(&recorded));
    }
}
