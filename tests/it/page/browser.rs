//! A headless Chromium, driven by WebDriver (W3C, level 2) over plain HTTP.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::documents::reference::WRITE;
use crate::harness::agent::Reply;
use crate::harness::cost::slow;
use crate::harness::screens::unbase64;
use crate::harness::skip::Skip;
use crate::harness::stack::installed;
use crate::harness::support::{Scratch, wait_until};

/// Longer than a loaded machine needs to start a browser, and for any of its answers.
const ANSWER: Duration = Duration::from_secs(120);
/// Longer than a loaded machine needs for what the page does in a minute.
pub(super) const SOON: Duration = Duration::from_secs(300);

/// It may reach this host alone, asks nobody about itself, and leaves nothing behind.
const FLAGS: [&str; 10] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
];

/// The picture that the documents show.
const PUBLISHED: &str = "desktop-list-light";

/// How wide and high a window is, and whether it is a phone's.
#[derive(Clone, Copy)]
pub(super) struct Window(pub(super) u32, pub(super) u32, pub(super) bool);

/// Keys as WebDriver calls them.
pub(super) const ENTER: &str = "\u{E007}";
pub(super) const ESCAPE: &str = "\u{E00C}";
pub(super) const DOWN: &str = "\u{E015}";
pub(super) const TAB: &str = "\u{E004}";

/// A browser with an empty profile, which ends with all its processes when this is dropped.
pub(super) struct Browser {
    driver: Child,
    port: u16,
    session: String,
    _home: Scratch,
}

impl Browser {
    pub(super) fn start() -> Result<Self, Skip> {
        if let Some(lacks) = ["chromium", "chromedriver"].iter().find(|name| !installed(name)) {
            return Err(Skip(format!("{lacks} is not installed")));
        }
        slow("starts Chromium");
        let home = Scratch::new();
        // In a namespace of its own the driver takes the browser with it, however it ends.
        let mut driver = Command::new("unshare")
            .args(["-m", "-p", "--fork", "--mount-proc", "--kill-child"])
            .args(["chromedriver", "--port=0"])
            .env("HOME", home.path())
            .env("TMPDIR", home.path())
            .env("XDG_CONFIG_HOME", home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| Skip(format!("unshare does not start: {error}")))?;
        let lines = BufReader::new(driver.stdout.take().expect("it was piped")).lines();
        let port = lines.map_while(Result::ok).find_map(|line| {
            line.split("started successfully on port ").nth(1)?.trim_end_matches('.').parse().ok()
        });
        let port = port.expect("chromedriver says its port");
        let mut this = Self { driver, port, session: String::new(), _home: home };
        let profile = format!("--user-data-dir={}", this._home.path().display());
        let flags: Vec<&str> = FLAGS.into_iter().chain([profile.as_str()]).collect();
        let wanted = json!({ "alwaysMatch": {
            "goog:chromeOptions": { "args": flags },
            "goog:loggingPrefs": { "browser": "ALL" },
        }});
        let made = this.ask("POST", "/session", &json!({ "capabilities": wanted }));
        made["sessionId"].as_str().expect("a session").clone_into(&mut this.session);
        Ok(this)
    }

    /// One command; its value.
    fn ask(&self, verb: &str, path: &str, body: &Value) -> Value {
        let body = if verb == "POST" { body.to_string() } else { String::new() };
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("the driver listens");
        stream.set_read_timeout(Some(ANSWER)).expect("more than no time");
        let head = format!(
            "{verb} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.port,
            body.len()
        );
        stream.write_all(head.as_bytes()).expect("the driver reads");
        // The client keeps the connection open, regardless of the answer.
        let mut reader = BufReader::new(stream);
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            assert!(reader.read_until(b'\n', &mut bytes).expect("it answers") > 0, "a whole head");
        }
        let mut reply = Reply::parse(&bytes);
        let length = reply.header("content-length").and_then(|it| it.parse().ok());
        reply.body = vec![0; length.expect("it tells the length")];
        reader.read_exact(&mut reply.body).expect("it answers");
        let mut answer: Value = serde_json::from_slice(&reply.body).expect("JSON");
        assert_eq!(reply.status, 200, "{verb} {path} {body}: {answer}");
        answer["value"].take()
    }

    fn command(&self, path: &str, body: &Value) -> Value {
        self.ask("POST", &format!("/session/{}/{path}", self.session), body)
    }

    fn devtools(&self, command: &str, params: Value) -> Value {
        self.command("goog/cdp/execute", &json!({ "cmd": command, "params": params }))
    }

    /// Goes to this address, as a person who writes it.
    pub(super) fn open(&self, url: &str) {
        self.command("url", &json!({ "url": url }));
    }

    /// What this expression is in the page.
    pub(super) fn find(&self, expression: &str) -> Value {
        self.command(
            "execute/sync",
            &json!({ "script": format!("return {expression}"), "args": [] }),
        )
    }

    /// The text that is seen of the first element of this kind.
    pub(super) fn text(&self, selector: &str) -> String {
        let found = self.find(&format!("document.querySelector({selector:?})?.innerText ?? ''"));
        found.as_str().expect("a text").to_owned()
    }

    /// Waits until this holds in the page.
    pub(super) fn until(&self, expression: &str) {
        let mut last = Value::Null;
        let end = std::time::Instant::now() + SOON;
        while last != true {
            assert!(
                std::time::Instant::now() < end,
                "{expression} is {last}\n{}",
                self.text("body")
            );
            last = self.find(expression);
        }
    }

    /// Presses and releases keys one after the other.
    pub(super) fn press(&self, keys: &str) {
        let strokes = keys.chars().flat_map(|key| {
            ["keyDown", "keyUp"].map(|what| json!({ "type": what, "value": key.to_string() }))
        });
        let keyboard = json!({ "type": "key", "id": "k", "actions": strokes.collect::<Vec<_>>() });
        self.command("actions", &json!({ "actions": [keyboard] }));
    }

    /// Shows the page in such a window, in this colour scheme.
    pub(super) fn shape(&self, Window(width, height, is_phone): Window, scheme: &str) {
        let metrics = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": is_phone,
        });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics);
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// Keeps what is seen in `target/page-screenshots`, for people to look at.
    pub(super) fn picture(&self, name: &str) {
        let data = self.ask("GET", &format!("/session/{}/screenshot", self.session), &Value::Null);
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("page-screenshots");
        fs::create_dir_all(&directory).expect("a directory can be made");
        let data = data.as_str().expect("base64");
        assert!(data.starts_with("iVBORw0KGgo"), "it is a PNG");
        let file = directory.join(format!("{name}.png"));
        unbase64(data, &file);
        if name == PUBLISHED && env::var_os(WRITE).is_some() {
            fs::copy(file, "docs/images/page.png").expect("the checkout is writable");
        }
    }

    /// The console's messages since the last call: errors, and breaches of the page's policy.
    pub(super) fn complaints(&self) -> Vec<String> {
        let lines = self.command("se/log", &json!({ "type": "browser" }));
        let lines = lines.as_array().expect("a list").iter();
        lines.map(|line| line["message"].to_string()).collect()
    }

    /// Puts another page in front of this one, or back.
    pub(super) fn hide(&self, is_hidden: bool) {
        if is_hidden {
            self.devtools("Target.createTarget", json!({ "url": "about:blank" }));
        } else {
            self.devtools("Page.bringToFront", json!({}));
        }
        wait_until("it is hidden or seen", SOON, || self.find("document.hidden") == is_hidden);
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It is gone already, or goes now with its namespace.
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
