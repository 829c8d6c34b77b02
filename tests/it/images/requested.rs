//! `ImageStore.RequestImage` and `image pull`: images from an image service on this host.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Bed, MIB, SOON, TEST_DRIVER, store_flags};
use crate::lab::Pool;
use crate::skip::require;
use crate::storage::begins_with;
use crate::support::wait_until;

/// An image service that answers as it is told, one request after the other.
pub(crate) struct ImageService {
    pub(crate) address: SocketAddr,
    /// What was asked for, in order.
    targets: Receiver<String>,
    answers: Sender<Vec<u8>>,
}

impl ImageService {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it has an address");
        let (asked, targets) = channel();
        let (answers, to_give) = channel::<Vec<u8>>();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if asked.send(target(&stream)).is_err() {
                    return;
                }
                let Ok(answer) = to_give.recv() else { return };
                // The other end may have left.
                let _ = (&stream).write_all(&answer);
            }
        });
        Self { address, targets, answers }
    }

    /// What is asked for next.
    pub(crate) fn next_target(&self) -> String {
        self.targets.recv_timeout(SOON).expect("something is asked for")
    }

    pub(crate) fn answer(&self, answer: impl Into<Vec<u8>>) {
        self.answers.send(answer.into()).expect("the service runs");
    }
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

fn disk(text: &str) -> Vec<u8> {
    let mut disk = text.as_bytes().to_vec();
    disk.resize(MIB, 0);
    disk
}

fn bed(service: &ImageService, pool: Option<Pool>) -> Bed {
    Bed::with_flags(TEST_DRIVER, pool, &["--image-service", &service.address.to_string()])
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
    let is_complete = || bed.ok("GetImage", &named)["images"][0]["status"] == "complete";
    wait_until("the image is complete", SOON, is_complete);
    let images = bed.ok("ListImages", &json!({}))["images"].take();
    assert_eq!((images[0]["size"].as_u64(), images[1].is_null()), (Some(1), true), "{images}");
    assert_eq!(bed.ok("RequestImage", &named)["images"], images);
    bed.ok("CloneImage", &json!({ "id": "debian_12", "dest": "guests/web/disk-0" }));
    assert!(begins_with(&bed.path("guests/web/disk-0"), "from the service"));
    // It was asked for four times, and fetched once.
    assert!(service.targets.try_recv().is_err());
    bed.agent.end();
}

#[test]
fn a_requested_image_of_a_directory_store() {
    a_requested_image_is_fetched_once_and_then_complete(None);
}

#[test]
fn a_requested_image_of_a_zpool() {
    let Some(pool) = require("lab", Pool::own(256)) else { return };
    a_requested_image_is_fetched_once_and_then_complete(Some(pool));
}

#[test]
fn an_image_that_does_not_come_says_why() {
    let service = ImageService::start();
    let bed = bed(&service, None);
    let named = json!({ "id": "debian" });
    for (answer, why) in [
        (ABSENT.to_owned(), "404"),
        (redirect("https://127.0.0.2/image"), "no public address"),
        (redirect("http://127.0.0.2/image"), "only https"),
        (redirect("file:///etc/shadow"), "neither http nor https"),
        (String::from_utf8(content(b"")).expect("text"), "empty"),
    ] {
        assert_eq!(bed.ok("RequestImage", &named), fetching("debian"));
        service.next_target();
        service.answer(answer);
        wait_until("it is given up", SOON, || bed.call("GetImage", &named).is_err());
        let error = bed.error("GetImage", &named);
        assert!(error.starts_with("image debian could not be fetched: "), "{error}");
        assert!(error.contains(why), "{why}: {error}");
        assert_eq!(bed.ok("ListImages", &json!({})), json!({ "images": [] }));
    }
    // What failed before is no hindrance.
    bed.ok("RequestImage", &named);
    service.next_target();
    service.answer(content(&disk("at last")));
    let is_complete = || bed.ok("GetImage", &named)["images"][0]["status"] == "complete";
    wait_until("the image is complete", SOON, is_complete);
    bed.agent.end();
}

#[test]
fn a_stop_does_not_wait_for_an_image() {
    let service = ImageService::start();
    let bed = bed(&service, None);
    bed.ok("RequestImage", &json!({ "id": "debian" }));
    service.next_target();
    bed.agent.end();
    drop(service);
}

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
    // As sha256sum says of 1 MiB that begins with "pulled" and is else zeroes.
    const SUM: &str = "485627251ace43388911a52e7ee76db1292af48aa1f0082df036823be9b46b0d";
    let service = ImageService::start();
    let bed = Bed::on_directory();
    let url = format!("http://{}/disk.raw", service.address);
    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();

    let refused = pull(&bed, None, &url, SUM);
    assert!(said(&refused).contains("only https"), "{refused:?}");
    service.answer(content(&disk("other")));
    let refused = pull(&bed, Some(&service), &url, SUM);
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("its SHA-256 sum is "), "{refused:?}");
    assert_eq!(bed.ok("ListImages", &json!({})), json!({ "images": [] }));

    service.answer(content(&disk("pulled")));
    let pulled = pull(&bed, Some(&service), &url, &SUM.to_ascii_uppercase());
    assert!(pulled.status.success(), "{pulled:?}");
    let images = bed.ok("ListImages", &json!({}))["images"].take();
    assert_eq!(images[0]["id"], "pulled");
    for (words, why) in [
        (&["image", "pull", "https://a.example/x", "x"][..], "--sha256 SUM is needed"),
        (&["image", "pull", "https://a.example/x", "x", "--sha256", "abc"], "not 64 hexadecimal"),
        (&["list", "--sha256", SUM], "--sha256 is for image pull"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_mistify-libvirt")).args(words).output();
        let output = output.expect("the program starts");
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(said(&output).contains(why), "{words:?}: {output:?}");
    }
    bed.agent.end();
}

/// That a fetcher notices when nobody waits for it.
#[test]
fn a_fetch_that_nobody_waits_for_ends() {
    let service = ImageService::start();
    let bed = Bed::on_directory();
    let url = format!("http://{}/disk.raw", service.address);
    let mut pulling = Command::new(env!("CARGO_BIN_EXE_mistify-libvirt"))
        .args(["image", "pull", &url, "pulled", "--sha256", &"0".repeat(64)])
        .args(store_flags(&bed.scratch, None))
        .arg(format!("--image-service={}", service.address))
        .stdin(Stdio::null())
        .spawn()
        .expect("the program starts");
    service.next_target();
    let curls = || {
        let listed = Command::new("pgrep").args(["-f", &url]).output().expect("pgrep runs");
        String::from_utf8_lossy(&listed.stdout).lines().count()
    };
    assert!(curls() >= 2, "curl and who pulls");
    pulling.kill().expect("it runs");
    pulling.wait().expect("it has ended");
    wait_until("nothing fetches", Duration::from_secs(60), || curls() == 0);
    bed.agent.end();
}
