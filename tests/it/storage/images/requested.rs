//! `ImageStore.RequestImage` and `image pull`: images from an image service on this host.

use std::env;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::process::{self, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Instant;

use mistify_libvirt::config::fixed::FETCH_SILENCE;
use mistify_libvirt::fetch::SOCKET;
use serde_json::{Value, json};

use super::{Bed, MIB, SOON, TEST_DRIVER, store_flags};
use crate::harness::agent::copy_program;
use crate::harness::skip::{Skip, require};
use crate::harness::support::wait_until;
use crate::harness::zpool::Pool;
use crate::storage::store::begins_with;

/// An image service with configurable answers; requests wait for these concurrently.
pub(crate) struct ImageService {
    pub(crate) address: SocketAddr,
    /// The requests, in order.
    targets: Receiver<String>,
    answers: Arc<Answers>,
}

/// The answers for the next request, or for the next one of that target.
#[derive(Default)]
struct Answers {
    given: Mutex<Given>,
    changed: Condvar,
}

#[derive(Default)]
struct Given {
    answers: Vec<(Option<String>, Vec<u8>)>,
    is_over: bool,
}

impl Answers {
    fn change(&self, change: impl FnOnce(&mut Given)) {
        change(&mut self.given.lock().expect("no panic"));
        self.changed.notify_all();
    }

    /// The answer to a request of this target; `None` when the service has ended.
    fn wait(&self, target: &str) -> Option<Vec<u8>> {
        let mut given = self.given.lock().expect("no panic");
        loop {
            if given.is_over {
                return None;
            }
            let fits = |to: &Option<String>| to.as_deref().is_none_or(|to| to == target);
            if let Some(found) = given.answers.iter().position(|(to, _)| fits(to)) {
                return Some(given.answers.remove(found).1);
            }
            given = self.changed.wait(given).expect("no panic");
        }
    }
}

impl ImageService {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it has an address");
        let (asked, targets) = channel();
        let answers = Arc::new(Answers::default());
        let to_give = Arc::clone(&answers);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let target = target(&stream);
                if asked.send(target.clone()).is_err() {
                    return;
                }
                let to_give = Arc::clone(&to_give);
                thread::spawn(move || {
                    let answer = to_give.wait(&target).unwrap_or_default();
                    // The other end may have left.
                    let _ = (&stream).write_all(&answer);
                });
            }
        });
        Self { address, targets, answers }
    }

    /// What is asked for next.
    pub(crate) fn next_target(&self) -> String {
        self.targets.recv_timeout(SOON).expect("something is asked for")
    }

    pub(crate) fn answer(&self, answer: impl Into<Vec<u8>>) {
        self.answers.change(|given| given.answers.push((None, answer.into())));
    }

    /// Answers the request for this image.
    fn answer_for(&self, id: &str, answer: impl Into<Vec<u8>>) {
        let target = Some(target_of(id));
        self.answers.change(|given| given.answers.push((target, answer.into())));
    }
}

impl Drop for ImageService {
    fn drop(&mut self) {
        self.answers.change(|given| given.is_over = true);
    }
}

fn target_of(id: &str) -> String {
    format!("/images/{id}/download")
}

fn target(mut stream: &TcpStream) -> String {
    let (mut request, mut byte) = (Vec::new(), [0]);
    while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count == 1) {
        request.push(byte[0]);
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    request.split(' ').nth(1).unwrap_or_default().to_owned()
}

pub(crate) fn content(body: &[u8]) -> Vec<u8> {
    let head =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

const ABSENT: &str = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

fn redirect(to: &str) -> String {
    format!(
        "HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
}

pub(super) fn disk(text: &str) -> Vec<u8> {
    let mut disk = text.as_bytes().to_vec();
    disk.resize(MIB, 0);
    disk
}

fn bed(service: &ImageService, pool: Option<Pool>) -> Bed {
    Bed::with_flags(TEST_DRIVER, pool, &["--image-service", &service.address.to_string()])
}

/// Whether images can be fetched without the unit: only root starts a child as nobody.
pub(super) fn fetcher() -> Result<(), Skip> {
    if Path::new(SOCKET).exists() {
        return Err(Skip(format!("the unit of {SOCKET} fetches here")));
    }
    match fs::metadata("/proc/self").expect("it is there").uid() {
        0 => Ok(()),
        user => Err(Skip(format!("user {user} starts no fetcher as nobody"))),
    }
}

fn is_complete(bed: &Bed, id: &str) -> bool {
    let found = bed.call("GetImage", &json!({ "id": id }));
    found.is_ok_and(|found| found["images"][0]["status"] == "complete")
}

/// The curl processes that fetch a URL with these words from this service.
fn curls(service: &ImageService, words: &str) -> Vec<String> {
    let pattern = format!("^/usr/bin/curl .*{}.*{words}", service.address);
    let listed = Command::new("pgrep").args(["-f", &pattern]).output().expect("pgrep runs");
    String::from_utf8_lossy(&listed.stdout).lines().map(str::to_owned).collect()
}

fn fetching(id: &str) -> Value {
    json!({ "images": [{ "id": id, "type": "", "size": 0, "status": "fetching" }] })
}

fn a_requested_image_is_fetched_once_and_then_complete(pool: Option<Pool>) {
    let service = ImageService::start();
    let bed = bed(&service, pool);
    let named = json!({ "id": "debian_12" });
    assert_eq!(bed.ok("RequestImage", &named), fetching("debian_12"));
    assert_eq!(service.next_target(), "/images/debian_12/download");
    for method in ["RequestImage", "GetImage", "ListImages"] {
        assert_eq!(bed.ok(method, &named), fetching("debian_12"), "{method}");
    }
    service.answer(content(&disk("from the service")));
    wait_until("the image is complete", SOON, || is_complete(&bed, "debian_12"));
    let images = bed.ok("ListImages", &json!({}))["images"].take();
    assert_eq!((images[0]["size"].as_u64(), images[1].is_null()), (Some(1), true), "{images}");
    assert_eq!(bed.ok("RequestImage", &named)["images"], images);
    bed.ok("CloneImage", &json!({ "id": "debian_12", "dest": "guests/web/disk-0" }));
    assert!(begins_with(&bed.path("guests/web/disk-0"), "from the service"));
    // It was asked for four times, and fetched once: another request comes next.
    bed.ok("RequestImage", &json!({ "id": "other" }));
    assert_eq!(service.next_target(), "/images/other/download");
    bed.agent.end();
}

#[test]
fn a_requested_image_of_a_directory_store() {
    let Some(()) = require("users", fetcher()) else { return };
    a_requested_image_is_fetched_once_and_then_complete(None);
}

#[test]
fn a_requested_image_of_a_zpool() {
    let Some(pool) = require("lab", Pool::own(256)) else { return };
    a_requested_image_is_fetched_once_and_then_complete(Some(pool));
}

#[test]
fn failed_image_request_names_the_cause() {
    let Some(()) = require("users", fetcher()) else { return };
    let service = ImageService::start();
    let bed = bed(&service, None);
    for (number, (answer, why)) in (0..).zip([
        (ABSENT.to_owned(), "404"),
        (redirect("https://127.0.0.2/image"), "no public address"),
        (redirect("http://127.0.0.2/image"), "only https"),
        (redirect("file:///etc/shadow"), "the scheme must be http or https"),
        ("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\ndisk".to_owned(), "neither a Content-Length"),
        (String::from_utf8(content(b"")).expect("text"), "empty"),
    ]) {
        let id = format!("debian-{number}");
        let named = json!({ "id": id });
        assert_eq!(bed.ok("RequestImage", &named), fetching(&id));
        service.next_target();
        service.answer(answer);
        wait_until("it is given up", SOON, || bed.call("GetImage", &named).is_err());
        let error = bed.error("GetImage", &named);
        assert!(error.starts_with(&format!("cannot fetch image {id}: ")), "{error}");
        assert!(error.contains(why), "{why}: {error}");
        assert_eq!(bed.ok("ListImages", &json!({})), json!({ "images": [] }));
    }
    // What failed before is no hindrance, after a while.
    let named = json!({ "id": "debian-0" });
    wait_until("it is tried anew", SOON, || bed.call("RequestImage", &named).is_ok());
    service.next_target();
    service.answer(content(&disk("at last")));
    wait_until("the image is complete", SOON, || is_complete(&bed, "debian-0"));
    bed.agent.end();
}

#[test]
fn a_stop_does_not_wait_for_an_image() {
    let Some(()) = require("users", fetcher()) else { return };
    let service = ImageService::start();
    let bed = bed(&service, None);
    let started = Instant::now();
    bed.ok("RequestImage", &json!({ "id": "debian" }));
    service.next_target();
    bed.agent.end();
    // The service has sent nothing: a download ends by that limit, and no sooner.
    assert!(started.elapsed() < FETCH_SILENCE, "{:?}", started.elapsed());
    wait_until("nothing fetches", SOON, || curls(&service, "debian").is_empty());
}

#[test]
fn without_the_unit_a_child_of_user_nobody_fetches() {
    let Some(()) = require("users", fetcher()) else { return };
    let service = ImageService::start();
    let bed = bed(&service, None);
    bed.ok("RequestImage", &json!({ "id": "debian" }));
    service.next_target();
    let pid = bed.agent.pid().to_string();
    let child = Command::new("pgrep").args(["-P", &pid]).output().expect("pgrep runs");
    let child = String::from_utf8_lossy(&child.stdout).trim().to_owned();
    let curl = curls(&service, "debian").concat();
    for pid in [child, curl] {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let nobody = "\t65534\t65534\t65534\t65534\n";
        for line in [format!("Uid:{nobody}"), format!("Gid:{nobody}")] {
            assert!(status.contains(&line), "{line}: {status}");
        }
        assert!(status.contains("CapEff:\t0000000000000000\n"), "{status}");
        assert!(status.contains("Groups:\t \n"), "{status}");
    }
    bed.agent.end();
}

#[test]
fn a_slow_image_does_not_hold_another_one_up() {
    let Some(()) = require("users", fetcher()) else { return };
    let service = ImageService::start();
    let bed = bed(&service, None);
    for id in ["slow", "quick"] {
        bed.ok("RequestImage", &json!({ "id": id }));
        assert_eq!(service.next_target(), target_of(id));
    }
    service.answer_for("quick", content(&disk("quick")));
    wait_until("the image is complete", SOON, || is_complete(&bed, "quick"));
    assert_eq!(bed.ok("GetImage", &json!({ "id": "slow" })), fetching("slow"));
    bed.agent.end();
}

#[test]
fn a_deleted_image_is_fetched_no_further() {
    let Some(()) = require("users", fetcher()) else { return };
    let service = ImageService::start();
    let bed = bed(&service, None);
    let named = |id: &str| json!({ "id": id });
    for id in ["one", "two"] {
        bed.ok("RequestImage", &named(id));
        service.next_target();
    }
    bed.ok("RequestImage", &named("waiting"));
    for id in ["waiting", "one"] {
        assert_eq!(bed.ok("DeleteImage", &named(id)), fetching(id));
        for method in ["GetImage", "DeleteImage"] {
            assert_eq!(bed.error(method, &named(id)), "not found", "{method} {id}");
        }
    }
    wait_until("its download has ended", SOON, || curls(&service, "/one/").is_empty());
    service.answer_for("two", content(&disk("two")));
    wait_until("the other image is complete", SOON, || is_complete(&bed, "two"));
    // The one that waited is never fetched, and the other one anew.
    bed.ok("RequestImage", &named("one"));
    assert_eq!(service.next_target(), target_of("one"));
    // The connection of the first download may take one of the answers.
    for _ in 0..2 {
        service.answer_for("one", content(&disk("one")));
    }
    wait_until("the image is complete", SOON, || is_complete(&bed, "one"));
    bed.agent.end();
}

#[test]
fn image_that_exists_meanwhile_is_no_failure() {
    let Some(()) = require("users", fetcher()) else { return };
    let service = ImageService::start();
    let bed = bed(&service, None);
    bed.ok("RequestImage", &json!({ "id": "debian" }));
    service.next_target();
    fs::write(bed.scratch.path().join("disk.raw"), disk("imported")).expect("it is ours");
    let imported = bed.run_import("disk.raw", "debian");
    assert!(imported.status.success(), "{imported:?}");
    service.answer(content(&disk("fetched")));
    bed.agent.logged("image fetched; image=debian");
    assert!(begins_with(&bed.path("images/debian"), "imported"));
    bed.agent.end();
}

/// What sha256sum says of 1 MiB that begins with "pulled" and is else zeroes.
pub(super) const SUM: &str = "485627251ace43388911a52e7ee76db1292af48aa1f0082df036823be9b46b0d";

/// Runs `image pull` on the store of a bed.
fn pull(bed: &Bed, service: Option<&ImageService>, url: &str, sum: &str) -> Output {
    let service = service.map(|service| format!("--image-service={}", service.address));
    Command::new(env!("CARGO_BIN_EXE_mistify-libvirt"))
        .args(["image", "pull", url, "pulled", "--sha256", sum])
        .args(store_flags(&bed.scratch, bed.pool.as_ref()))
        .args(service)
        .stdin(Stdio::null())
        .output()
        .expect("the program starts")
}

#[test]
fn a_pulled_image_has_the_sum_that_was_named() {
    let service = ImageService::start();
    let bed = Bed::on_directory();
    let url = format!("http://{}/disk.raw", service.address);
    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let Some(()) = require("users", fetcher()) else { return };

    let refused = pull(&bed, None, &url, SUM);
    assert!(said(&refused).contains("only https"), "{refused:?}");
    service.answer(content(&disk("other")));
    let refused = pull(&bed, Some(&service), &url, SUM);
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("SHA-256 checksum is "), "{refused:?}");
    assert_eq!(bed.ok("ListImages", &json!({})), json!({ "images": [] }));

    service.answer(content(&disk("pulled")));
    let pulled = pull(&bed, Some(&service), &url, &SUM.to_ascii_uppercase());
    assert!(pulled.status.success(), "{pulled:?}");
    let images = bed.ok("ListImages", &json!({}))["images"].take();
    assert_eq!(images[0]["id"], "pulled");
    // Without a download: nothing would answer it.
    let again = pull(&bed, Some(&service), &url, SUM);
    assert!(said(&again).contains("images/pulled: it already exists"), "{again:?}");
    for (words, why) in [
        (&["image", "pull", "https://a.example/x", "x"][..], "--sha256 SUM is required"),
        (&["image", "pull", "https://a.example/x", "x", "--sha256", "abc"], "write 64 hexadecimal"),
        (&["list", "--sha256", SUM], "--sha256: valid only with image pull"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_mistify-libvirt")).args(words).output();
        let output = output.expect("the program starts");
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(said(&output).contains(why), "{words:?}: {output:?}");
    }
    bed.agent.end();
}

#[test]
fn a_pull_without_root_names_the_socket_to_enable() {
    let Some(()) = require("users", fetcher()) else { return };
    const STRANGER: u32 = 64999;
    let directory = env::temp_dir().join(format!("mistify-pull-{}", process::id()));
    fs::create_dir(&directory).expect("a directory can be made");
    chown(&directory, Some(STRANGER), None).expect("root may");
    let program = directory.join("program");
    copy_program(&program);
    let user = STRANGER.to_string();
    let pulled = Command::new("setpriv")
        .args(["--reuid", &user, "--regid", &user, "--clear-groups"])
        .arg(&program)
        .args(["image", "pull", "https://a.example/x", "x", "--sha256", &"0".repeat(64)])
        .args(["--config", "/dev/null", "--storage"])
        .arg(format!("directory:{}", directory.join("store").display()))
        .stdin(Stdio::null())
        .output()
        .expect("setpriv starts");
    fs::remove_dir_all(&directory).expect("it is ours");
    let said = String::from_utf8_lossy(&pulled.stderr);
    let remedy = "systemctl enable --now mistify-libvirt-fetch.socket\n";
    assert!(
        said.contains("cannot start a child process as nobody") && said.ends_with(remedy),
        "{said}"
    );
}

/// That a fetcher notices when nobody waits for it.
#[test]
fn fetch_without_a_waiter_ends() {
    let Some(()) = require("users", fetcher()) else { return };
    let service = ImageService::start();
    let bed = Bed::on_directory();
    let url = format!("http://{}/disk.raw", service.address);
    let mut pulling = Command::new(env!("CARGO_BIN_EXE_mistify-libvirt"))
        .args(["image", "pull", &url, "pulled", "--sha256", &"0".repeat(64)])
        .args(store_flags(&bed.scratch, None))
        .arg(format!("--image-service={}", service.address))
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    service.next_target();
    assert_eq!(curls(&service, "disk.raw").len(), 1);
    pulling.kill().expect("it runs");
    wait_until("nothing fetches", SOON, || curls(&service, "disk.raw").is_empty());
    // The fetcher has the same standard error, until it ends.
    let output = pulling.wait_with_output().expect("it has ended");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    bed.agent.end();
}
