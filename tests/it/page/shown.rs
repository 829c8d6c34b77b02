//! The page in a browser, with real guests. Pictures for people are in `target/page-screenshots`.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::browser::{Browser, DOWN, ENTER, ESCAPE, SOON, TAB, Window};
use crate::harness::agent::{Agent, PROGRAM};
use crate::harness::boot_sector;
use crate::harness::screens::telling;
use crate::harness::skip::require;
use crate::harness::stack::Stack;
use crate::harness::support::{Scratch, signal, wait_until};

const DESKTOP: Window = Window(1400, 900, false);
const PHONE: Window = Window(360, 740, true);
/// What would run if it were taken for HTML.
const HTML: &str = "<img src=x onerror=document.title='owned'><b>bold</b>";
/// What a guest says on its console, with a colour.
const SAID: &[u8] = b"\r\n\x1b[32mok\x1b[0m <b>login</b>: ";

/// Real guests, an agent for them, and a browser.
struct Bed {
    browser: Browser,
    agent: Agent,
    stack: Stack,
    files: Scratch,
}

impl Bed {
    fn new() -> Option<Self> {
        let stack = require("qemu", Stack::start())?;
        let browser = require("browser", Browser::start())?;
        let files = Scratch::new();
        let directory = files.path().to_str().expect("UTF-8");
        // Where libvirt's pid files hold, so that processors are measured.
        let agent = Agent::run(
            stack.command_outside_network(PROGRAM),
            &[
                "--libvirt-uri",
                "qemu:///system",
                "--bridge-type",
                "linux",
                "--allow-disk-path",
                directory,
                "--storage",
                &format!("directory:{directory}/store"),
            ],
        );
        is_healthy(&agent);
        Some(Self { browser, agent, stack, files })
    }

    fn open(&self) {
        self.browser.open(&format!("http://{}/ui/", self.agent.address()));
    }

    /// A guest with a NIC that writes to its disk.
    fn writing(&self, id: &str, number: u8) -> Value {
        let disk = self.files.path().join(id);
        boot_sector::write_image(&disk, 1 << 20).expect("scratch is writable");
        let mac = format!("02:00:00:00:50:{number:02x}");
        json!({
            "id": id, "type": "qemu", "memory": 32, "cpu": 2, "disks": [{ "source": disk }],
            "nics": [{ "name": "eth0", "network": "mistify0", "model": "rtl8139", "mac": mac }],
            "metadata": { "owner": "alice" },
        })
    }

    /// A guest with a screen and a word on its console, whose metadata looks like HTML.
    fn telling(&self, id: &str) -> Value {
        let mut guest = telling(id, SAID, &self.files);
        guest["metadata"] = json!({ "owner": HTML });
        guest
    }

    fn make(&self, guest: &Value, is_run: bool) {
        self.agent.ok("CreateGuest", guest);
        if is_run {
            self.agent.ok("Run", guest);
        }
    }

    /// Packets that reach every guest's NIC for as long as this lives.
    fn traffic(&self) -> Traffic {
        let script = "ip addr add 198.51.100.1/24 dev mistify0; ip link set mistify0 up
            ip neigh add 198.51.100.2 lladdr 02:00:00:00:60:01 dev mistify0
            while printf %400s x >/dev/udp/198.51.100.2/9; do read -rt .02; done";
        let mut bash = self.stack.command("bash");
        let bash = bash.args(["-c", script]).stdin(Stdio::piped()).spawn().expect("it starts");
        Traffic(bash)
    }

    /// The browser may have nothing to complain of.
    fn end(self) {
        assert_eq!(self.browser.complaints(), [""; 0]);
    }
}

/// Waits until the agent has queried libvirt: before, the page gets status 503, and the browser
/// reports an error.
fn is_healthy(agent: &Agent) {
    wait_until("it is healthy", SOON, || agent.health().0 == 200);
}

struct Traffic(Child);

impl Drop for Traffic {
    fn drop(&mut self) {
        // With its end the bash in the stack has no input any more, or goes with the stack.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The state that is shown of a guest.
fn shows(id: &str, state: &str) -> String {
    format!("document.querySelector('[data-id={id:?}] .state')?.textContent === {state:?}")
}

/// The test driver's guest runs; it has no emulator that could answer.
const SHOWS_TEST: &str =
    "document.querySelector('[data-id=test] .state')?.textContent.startsWith('running') ?? false";

/// Returns a script that selects the drawn values of a guest's line that are above zero.
fn line(id: &str, name: &str) -> String {
    format!(
        "(document.querySelector('[data-id={id:?}] .{name} polyline')?.getAttribute('points') ?? '')
           .split(' ').filter((point) => point.includes(','))"
    )
}

#[test]
fn guest_changes_are_shown_as_they_happen() {
    let Some(bed) = Bed::new() else { return };
    let (agent, browser) = (&bed.agent, &bed.browser);
    browser.shape(DESKTOP, "light");
    bed.open();
    browser.until("document.querySelector('#none').innerText === 'No guests.'");
    browser.until("document.querySelector('#status').innerText === 'ok'");
    let host = fs::read_to_string("/proc/sys/kernel/hostname").expect("Linux has it");
    assert_eq!(browser.text("#host"), host.trim());
    assert!(browser.text("#libvirt").starts_with("libvirt 9."), "{}", browser.text("#libvirt"));
    browser.until("document.querySelector('#storage').innerText.endsWith(' used')");

    // They come, run, pause and go while it is looked at.
    let web = bed.writing("web-1", 1);
    bed.make(&web, false);
    browser.until(&shows("web-1", "shutoff"));
    agent.ok("Run", &web);
    browser.until(&shows("web-1", "running"));
    browser.until("document.querySelector('#running').innerText === '1 of 1 running'");
    let traffic = bed.traffic();
    for (name, points) in [("cpu", 4), ("nic", 4), ("disk", 4)] {
        let line = line("web-1", name);
        browser.until(&format!("{line}.length >= {points}"));
        // Two samples of a disk are some 15 s apart.
        browser.until(&format!("{line}.some((point) => !point.endsWith(',19.5'))"));
    }
    drop(traffic);
    agent.ok("Suspend", &web);
    browser.until(&shows("web-1", "paused"));
    bed.stack.virsh_ok(&["resume", "web-1"]);
    browser.until(&shows("web-1", "running"));
    signal(bed.stack.qemu_pid("web-1").expect("it runs"), "KILL");
    browser.until(&shows("web-1", "shutoff, crashed"));

    // The page shows a domain of any tool and with any name.
    let name = "<i title=x>virsh's <b>own</b>".replace('/', "|");
    let xml = name.replace('&', "&amp;").replace('<', "&lt;");
    let xml = format!(
        "<domain type='qemu'><name>{xml}</name><memory unit='MiB'>16</memory><os><type>hvm</type>\
         </os></domain>"
    );
    assert!(bed.stack.with_xml("define", &xml).status.success());
    let names = "[...document.querySelectorAll('#list tbody a')].map((it) => it.textContent)";
    browser.until(&format!("{names}.includes({name:?})"));
    assert_eq!(browser.find("document.querySelectorAll('main :is(b, i)').length"), 0);
    agent.ok("Delete", &web);
    browser.until("!document.querySelector('[data-id=web-1]')");

    // Events and guests come on ways of their own.
    for word in
        ["created", "started: booted", "suspended: paused", "resumed: unpaused", "deleted", &name]
    {
        browser.until(&format!("document.querySelector('#events').innerText.includes({word:?})"));
    }

    assert_eq!(browser.complaints(), [""; 0]);

    // The page shows an error of libvirt, and its end.
    bed.stack.signal_libvirtd("STOP");
    agent.call("Status", &json!({ "id": name }));
    browser.until("document.querySelector('#status').innerText === 'libvirt does not answer'");
    browser.until("document.querySelector('#guests-error').innerText !== ''");
    bed.stack.signal_libvirtd("CONT");
    browser.until("document.querySelector('#status').innerText === 'ok'");
    browser.until("document.querySelector('#guests-error').hidden");
    // The browser's own word of the status 503.
    let complaints = browser.complaints();
    assert!(complaints.iter().all(|it| it.contains("/healthz - Failed to load")), "{complaints:?}");
}

#[test]
fn a_guest_is_looked_at_by_keyboard_alone() {
    let Some(bed) = Bed::new() else { return };
    let browser = &bed.browser;
    for (number, id) in (1..).zip(["web-1", "web-2", "web-10"]) {
        bed.make(&bed.writing(id, number), number == 1);
    }
    let telling = bed.telling("tells");
    bed.make(&telling, true);
    browser.shape(DESKTOP, "light");
    bed.open();
    let focused = "document.activeElement.textContent";
    let shown = "[...document.querySelectorAll('#list tbody tr:not([hidden])')]
        .map((row) => row.dataset.id).join(' ')";
    browser.until(&format!("{shown} === 'tells web-1 web-2 web-10'"));

    // From row to row; the filter; the order.
    for (keys, id) in [("j", "tells"), ("j", "web-1"), (DOWN, "web-2"), ("k", "web-1")] {
        browser.press(keys);
        assert_eq!(browser.find(focused), id, "{keys}");
    }
    browser.press("/web-1");
    assert_eq!(browser.find(shown), "web-1 web-10");
    browser.press(" shut");
    assert_eq!(browser.find(shown), "web-10");
    assert_eq!(browser.text("#count"), "1 of 4");
    browser.press(ESCAPE);
    assert_eq!(browser.find("document.querySelector('#filter').value"), "");
    assert_eq!(browser.find(shown), "tells web-1 web-2 web-10");
    browser.press(TAB);
    assert_eq!(browser.find(focused), "Guest");
    browser.press(ENTER);
    assert_eq!(browser.find(shown), "web-10 web-2 web-1 tells");
    browser.press(ENTER);

    // One of them: what it is, its console, its screen.
    browser.press("/tells");
    browser.press(ENTER);
    browser.until("document.activeElement.id === 'detail-title'");
    assert_eq!(browser.text("#detail-title"), "tells");
    browser.until("document.querySelector('#facts').innerText.includes('vda')");
    assert!(browser.text("#facts").contains(HTML), "{}", browser.text("#facts"));
    let console = "document.querySelector('#console').textContent";
    wait_until("its console is read", SOON, || {
        browser.press("c");
        browser.find(console).as_str().is_some_and(|text| text.contains("ok <b>login</b>: "))
    });
    assert!(!browser.find(console).to_string().contains("32m"), "colours are left out");
    browser.press("s");
    browser.until("document.querySelector('#screen').naturalWidth > 300");
    assert!(!browser.text("#screen-error").contains(' '));
    browser.until("document.querySelectorAll('#own-events li').length >= 3");
    assert_eq!(browser.find("document.querySelectorAll('main :is(b:not(p b), i)').length"), 0);
    assert!(!browser.find("document.title").to_string().contains("owned"));
    assert!(browser.find("location.hash") == "#guest/tells");

    // Back to where it was opened.
    browser.press(ESCAPE);
    browser.until("document.querySelector('#detail').hidden");
    assert_eq!(browser.find(focused), "tells");
    // The page shows an error at the place of the request.
    browser.press("/web-2");
    browser.press(ENTER);
    browser.until("document.querySelector('#console').textContent === ''");
    browser.press("s");
    browser.until("document.querySelector('#screen-error').innerText !== ''");
    bed.end();
}

/// The least contrast of any text that is seen, by WCAG 2.2, and which text that is.
const CONTRAST: &str = "(() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => rgb.slice(0, 3).map((part) => part / 255)
    .map((part) => part <= .04045 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4)
    .reduce((sum, part, index) => sum + part * [.2126, .7152, .0722][index], 0);
  const back = (element) => {
    for (; element; element = element.parentElement) {
      const rgb = parse(getComputedStyle(element).backgroundColor);
      if (rgb.length === 3 || rgb[3] === 1) return rgb;
    }
    return [255, 255, 255];
  };
  let least = [99, ''];
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility() || element.closest('script')) continue;
    const pair = [light(parse(getComputedStyle(element).color)), light(back(element))];
    const ratio = (Math.max(...pair) + .05) / (Math.min(...pair) + .05);
    if (ratio < least[0]) least = [ratio, element.textContent.slice(0, 40)];
  }
  return least;
})()";

/// How many pixels of the guests' table are outside its box.
const OVERLAP: &str = "(() => {
  const guests = document.querySelector('#guests');
  return guests.scrollWidth - guests.clientWidth;
})()";

#[test]
fn it_is_readable_in_the_dark_and_on_a_phone() {
    let Some(bed) = Bed::new() else { return };
    let (agent, browser) = (&bed.agent, &bed.browser);
    for (number, (id, is_run)) in (1..).zip([
        ("api-1", true),
        ("api-2", true),
        ("db-primary", true),
        ("db-replica-with-quite-a-long-name-that-somebody-has-given-it", false),
    ]) {
        bed.make(&bed.writing(id, number), is_run);
    }
    bed.make(&bed.telling("web-1"), true);
    bed.make(&bed.telling("build-7"), true);
    agent.ok("Suspend", &json!({ "id": "build-7" }));
    let traffic = bed.traffic();
    browser.shape(DESKTOP, "light");
    bed.open();
    let disk = line("api-1", "disk");
    browser.until(&format!("{disk}.some((point) => !point.endsWith(',19.5'))"));
    browser.until(&format!("{disk}.length >= 30"));

    let mut backs = BTreeMap::new();
    for (name, window) in
        [("desktop", DESKTOP), ("phone", PHONE), ("tablet", Window(800, 900, true))]
    {
        for scheme in ["light", "dark"] {
            for chosen in ["", "#guest/web-1"] {
                browser.shape(window, scheme);
                browser.find(&format!("void (location.hash = {chosen:?})"));
                if !chosen.is_empty() {
                    browser.until("document.querySelector('#facts').innerText.includes('vda')");
                    browser.find("void document.querySelector('#take-screen').click()");
                    browser.until("document.querySelector('#screen').naturalWidth > 300");
                    browser.until("document.querySelector('#console').textContent !== ''");
                }
                let kind = if chosen.is_empty() { "list" } else { "detail" };
                browser.find("void scrollTo(0, 0)");
                browser.picture(&format!("{name}-{kind}-{scheme}"));
                if kind == "list" {
                    browser.find("void document.querySelector('#overview').scrollIntoView()");
                    browser.picture(&format!("{name}-overview-{scheme}"));
                }
                let over = browser.find(
                    "document.documentElement.scrollWidth - document.documentElement.clientWidth",
                );
                assert_eq!(over, 0, "{name} {kind} scrolls sideways");
                let contrast = browser.find(CONTRAST);
                let least = contrast[0].as_f64().expect("a ratio");
                assert!(least >= 4.5, "{name} {kind} {scheme}: {contrast}");
                let back = browser.find("getComputedStyle(document.body).backgroundColor");
                backs.insert(scheme, back);
            }
        }
    }
    assert_ne!(backs["light"], backs["dark"]);
    for chosen in ["", "#guest/web-1"] {
        browser.find(&format!("void (location.hash = {chosen:?})"));
        for width in (1030..1920).step_by(41).chain([1440]) {
            browser.shape(Window(width, 900, false), "light");
            assert_eq!(browser.find(OVERLAP), 0, "{width} {chosen}: the table leaves its box");
        }
    }
    drop(traffic);
    bed.end();
}

#[test]
fn hidden_page_pauses_and_visible_page_resumes() {
    let Some(browser) = require("browser", Browser::start()) else { return };
    let agent = Agent::on_test_driver();
    is_healthy(&agent);
    browser.open(&format!("http://{}/ui/", agent.address()));
    browser.until(SHOWS_TEST);
    let asked = || agent.log().matches("request processed").count();
    // Each listener to events has a thread of its own.
    let listeners = || {
        let tasks = fs::read_dir(format!("/proc/{}/task", agent.pid())).expect("it runs");
        let names =
            tasks.flatten().filter_map(|it| fs::read_to_string(it.path().join("comm")).ok());
        names.filter(|name| name.starts_with("http-stream")).count()
    };
    let before = asked();
    wait_until("it asks on", SOON, || asked() > before + 2);
    wait_until("it listens", SOON, || listeners() == 1);
    browser.hide(true);
    // What was on its way is answered; then three times as long as it waits between two looks.
    let mut quiet_since = (std::time::Instant::now(), asked());
    wait_until("it is quiet", SOON, || {
        if asked() != quiet_since.1 {
            quiet_since = (std::time::Instant::now(), asked());
        }
        quiet_since.0.elapsed() > Duration::from_secs(6)
    });
    wait_until("nobody listens", SOON, || listeners() == 0);
    let before = asked();
    agent.ok("CreateGuest", &json!({ "id": "meanwhile", "memory": 64, "cpu": 1 }));
    wait_until("that one is logged", SOON, || asked() > before);
    let before = asked();
    browser.hide(false);
    browser.until(&shows("meanwhile", "shutoff"));
    browser.until("document.querySelector('#events').innerText.includes('created')");
    wait_until("it asks again", SOON, || asked() > before);
    assert_eq!(browser.complaints(), [""; 0]);
    agent.end();
}

#[test]
fn failure_is_shown_in_place_until_it_ends() {
    let Some(browser) = require("browser", Browser::start()) else { return };
    let flags = ["--libvirt-uri", "test:///default"];
    let agent = Agent::start(&flags);
    let address = agent.address();
    browser.open(&format!("http://{address}/ui/#guest/test"));
    browser
        .until("document.querySelector('#console-error').innerText.includes('has no console log')");
    browser.find("void (location.hash = '#guest/nobody')");
    browser.until("document.querySelector('#detail-error').innerText.includes('not found')");
    browser.find("void (location.hash = '')");
    agent.end();
    browser.until("document.querySelector('#status').innerText === 'cannot reach the agent'");
    browser.until("document.querySelector('#guests-error').innerText !== ''");
    assert_eq!(browser.find(SHOWS_TEST), true, "what was last seen stays");
    let port = address.port().to_string();
    let again = Agent::start(&[&flags[..], &["--port", &port]].concat());
    browser.until("document.querySelector('#status').innerText === 'ok'");
    browser.until("document.querySelector('#guests-error').hidden");
    browser.until("document.querySelector('#events').innerText.includes('gap')");
    again.end();
}
