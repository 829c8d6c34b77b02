//! The page for people: how it is served here, and in a browser with real guests in `shown`.

mod browser;
mod shown;

use mistify_libvirt::rpc::Service;

use crate::harness::agent::{Agent, Reply};
use crate::harness::image_store;
use crate::harness::support::{feed, wait_for};

const METHODS: [&str; 5] = ["AllMetrics", "Console", "Describe", "List", "Screenshot"];

fn get(agent: &Agent, path: &str, headers: &[(&str, &str)]) -> Reply {
    agent.request("GET", path, headers, b"")
}

/// The page as an agent serves it.
fn page() -> Reply {
    let agent = Agent::on_test_driver();
    let reply = get(&agent, "/ui/", &[]);
    agent.end();
    reply
}

/// What is between these, which are there once.
fn between<'t>(text: &'t str, begin: &str, end: &str) -> &'t str {
    assert_eq!((text.matches(begin).count(), text.matches(end).count()), (1, 1), "{begin} {end}");
    text.split(begin).nth(1).and_then(|rest| rest.split(end).next()).unwrap_or_default()
}

#[test]
fn it_is_at_ui_to_be_read_and_nowhere_else() {
    let agent = Agent::on_test_driver();
    let page = get(&agent, "/ui/", &[]);
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.text().starts_with("<!doctype html>") && page.text().ends_with("</html>\n"));
    let head = agent.request("HEAD", "/ui/", &[], b"");
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), Some(page.body.len().to_string().as_str()));
    let moved = get(&agent, "/ui", &[]);
    assert_eq!((moved.status, moved.header("location")), (308, Some("/ui/")));
    for path in ["/ui/", "/ui"] {
        for verb in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let reply = agent.request(verb, path, &[], b"");
            assert_eq!((reply.status, reply.header("allow")), (405, Some("GET, HEAD")), "{verb}");
        }
    }
    for path in ["/", "/ui/x", "/ui/page.js", "/ui/../ui", "/UI/"] {
        assert_eq!(get(&agent, path, &[]).status, 404, "{path}");
    }
    agent.end();
}

#[test]
fn listeners_that_know_no_guests_do_not_have_it() {
    let bed = image_store::Bed::on_directory();
    assert_eq!(get(&bed.agent, "/ui/", &[]).status, 200);
    for path in ["/ui/", "/ui"] {
        let reply = bed.agent.request_at(bed.address(), "GET", path, &[], b"");
        assert_eq!(reply.status, 404, "{path} of the image store");
    }
    let flags = ["--libvirt-uri", "test:///default", "--metrics-listen", "127.0.0.1:0"];
    let agent = Agent::start(&flags);
    let address = wait_for("metrics are served", image_store::SOON, || {
        let log = agent.log();
        let address = log.split("metrics are served on ").nth(1)?;
        address.split_whitespace().next()?.parse().ok()
    });
    assert_eq!(agent.request_at(address, "GET", "/ui/", &[], b"").status, 404);
}

#[test]
fn no_other_page_reaches_or_frames_it() {
    let agent = Agent::on_test_driver();
    for (name, value, status) in [
        ("Sec-Fetch-Site", "none", 200),
        ("Sec-Fetch-Site", "same-origin", 200),
        ("Sec-Fetch-Site", "same-site", 403),
        ("Sec-Fetch-Site", "cross-site", 403),
        ("Origin", "null", 403),
        ("Origin", "http://evil.example", 403),
    ] {
        assert_eq!(get(&agent, "/ui/", &[(name, value)]).status, status, "{name}: {value}");
    }
    let reply = get(&agent, "/ui/", &[]);
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "same-origin"),
        ("cache-control", "no-store"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        assert_eq!(reply.header(name), Some(value), "{name}");
    }
    agent.end();
}

#[test]
fn policy_names_the_parts_of_the_page() {
    let page = page();
    let text = page.text();
    let policy = page.header("content-security-policy").expect("there is a policy");
    let script = "import base64, hashlib, sys
print(base64.b64encode(hashlib.sha256(sys.stdin.buffer.read()).digest()).decode())";
    let sha256 = |text: &str| {
        let output = feed("/usr/bin/python3", &["-c", script], text).expect("python3 starts");
        format!("'sha256-{}'", String::from_utf8_lossy(&output.stdout).trim())
    };
    let style = sha256(between(&text, "<style>", "</style>"));
    let script = sha256(between(&text, "<script>", "</script>"));
    let mut rules: Vec<_> = policy.split("; ").collect();
    rules.sort_unstable();
    let expected = [
        "base-uri 'none'",
        "connect-src 'self'",
        "default-src 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "img-src data:",
        "require-trusted-types-for 'script'",
        &format!("script-src {script}"),
        &format!("style-src {style}"),
        "trusted-types 'none'",
    ];
    assert_eq!(rules, expected);
}

#[test]
fn page_is_one_file_without_requests_and_escapes_text() {
    let text = page().text();
    assert!(text.len() <= 40 * 1024, "{} bytes", text.len());
    // The name of a vocabulary, which nothing is fetched from.
    let rest = text.replace("'http://www.w3.org/2000/svg'", "");
    for word in [
        "://",
        "'//",
        "\"//",
        "`//",
        "@import",
        "url(",
        " src=",
        "import(",
        "import ",
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "Function(",
        "style=",
        " onclick=",
        " onload=",
        "srcdoc",
        "localStorage",
        "cookie",
    ] {
        assert!(!rest.contains(word), "{word}");
    }
    let links: Vec<_> = rest.split("href=\"").skip(1).map(|it| it.split('"').next()).collect();
    assert_eq!(links, [Some("data:,")]);
}

#[test]
fn it_calls_what_only_reads_and_hears_every_event() {
    let text = page().text();
    let is_called = |name: &&str| text.contains(&format!("'{name}'"));
    let mut called: Vec<_> = Service::Libvirt.method_names().filter(is_called).collect();
    called.sort_unstable();
    assert_eq!(called, METHODS);
    let names = include_str!("../../../src/events.rs").split("=> \"").skip(1);
    let names: Vec<_> = names.filter_map(|rest| rest.split('"').next()).collect();
    assert!(names.len() >= 13, "{names:?}");
    for name in names.into_iter().chain(["gap"]) {
        assert!(
            between(&text, "const KINDS = [", "];\nconst TROUBLE").contains(&format!("'{name}'"))
        );
    }
}
