use super::*;
use crate::http::http1::request::{Persistence, Version};
use crate::os::peer::Peer;

const SECRET: &str = "0123456789abcdefABCDEF0123456789";

fn local() -> Caller {
    let peer = Some(Peer { uid: 0, pid: None });
    Caller { origin: Origin::Host("127.0.0.1:5".parse().unwrap()), peer }
}

fn remote() -> Caller {
    Caller { origin: Origin::Network("192.0.2.1:5".parse().unwrap()), peer: None }
}

fn socket() -> Caller {
    Caller { origin: Origin::Socket, peer: None }
}

fn guard() -> Guard {
    Guard { beyond: RemoteAccess::Token(Token::of_test(SECRET)), names: vec!["hv1.example".into()] }
}

/// Returns the status and the sentence of the refusal; 0 for none.
fn judge(guard: &Guard, caller: &Caller, headers: &[(&str, &str)]) -> (u16, &'static str) {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let request = Request {
        method: "POST".into(),
        target: "/".into(),
        headers: headers.collect(),
        body: Vec::new(),
        persistence: Persistence::Implied,
        version: Version::Http11,
    };
    let refusal = guard.judge(&request, caller).err();
    refusal.map_or((0, ""), |refusal| (refusal.reason.status(), refusal.sentence))
}

#[test]
fn host_name_is_an_address_localhost_or_listed() {
    let guard = Guard { names: vec!["hv1.example".into()], ..Guard::default() };
    let status = |host: &str| judge(&guard, &local(), &[("Host", host)]).0;
    for host in [
        "127.0.0.1",
        "127.0.0.1:20001",
        "192.0.2.1:1",
        "[::1]",
        "[::1]:20001",
        "[::ffff:127.0.0.1]:5",
        "localhost",
        "LocalHost:20001",
        "localhost:",
        "hv1.example",
        "HV1.example:443",
    ] {
        assert_eq!(status(host), 0, "{host}");
    }
    for host in [
        "",
        ":80",
        "evil.example",
        "evil.example:20001",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "localhost.",
        "hv1.example.",
        "hv2.example",
        "x.hv1.example",
        "2130706433",
        "127.1",
        "0177.0.0.1",
        "0x7f.0.0.1",
        "%6cocalhost",
    ] {
        assert_eq!(status(host), 403, "{host}");
    }
    for host in [
        "::1",
        "[::1",
        "[127.0.0.1]",
        "[]",
        "[::1]x",
        "[localhost]",
        "localhost:x",
        "localhost:1:2",
        "localhost:-1",
        "user@localhost",
        "localhost/",
        "local host",
        "local%host",
        "b\u{fc}cher.example",
        "localhost, localhost",
    ] {
        assert_eq!(status(host), 400, "{host}");
    }
}

#[test]
fn a_refusal_names_the_header() {
    let guard = Guard::default();
    let sentence = |name, value| judge(&guard, &local(), &[("Host", "localhost"), (name, value)]).1;
    assert!(judge(&guard, &local(), &[("Host", "evil.example")]).1.starts_with("Host: "));
    assert!(sentence("Origin", "null").starts_with("Origin: "));
    assert!(sentence("Sec-Fetch-Site", "cross-site").starts_with("Sec-Fetch-Site: "));
}

#[test]
fn request_without_host_passes_but_not_with_an_origin() {
    let guard = Guard::default();
    assert_eq!(judge(&guard, &local(), &[]).0, 0);
    assert_eq!(judge(&guard, &local(), &[("Origin", "http://localhost")]).0, 403);
}

#[test]
fn unix_socket_has_no_host_name_but_refuses_pages() {
    let guard = Guard::default();
    for host in ["anything", "%2Frun%2Frpc", "a b", ""] {
        assert_eq!(judge(&guard, &socket(), &[("Host", host)]).0, 0, "{host}");
    }
    assert_eq!(judge(&guard, &socket(), &[("Host", "a"), ("Origin", "http://b")]).0, 403);
    assert_eq!(judge(&guard, &socket(), &[("Sec-Fetch-Site", "cross-site")]).0, 403);
}

#[test]
fn only_the_agents_own_origin_may_call() {
    let guard = Guard::default();
    let status = |origins: &[&str]| {
        let mut headers = vec![("Host", "localhost:20001")];
        headers.extend(origins.iter().map(|origin| ("Origin", *origin)));
        judge(&guard, &local(), &headers).0
    };
    for origin in ["http://localhost:20001", "HTTP://LOCALHOST:20001"] {
        assert_eq!(status(&[origin]), 0, "{origin}");
    }
    for origin in [
        "null",
        "",
        "http://",
        "localhost:20001",
        "https://localhost:20001",
        "http://localhost",
        "http://localhost:20002",
        "http://localhost:200010",
        "http://localhost:20001/",
        "http://127.0.0.1:20001",
        "http://evil.example",
        "http://localhost:20001 http://evil.example",
        "http://localhost:20001.evil.example",
        "h\u{fc}ttp://",
    ] {
        assert_eq!(status(&[origin]), 403, "{origin}");
    }
    assert_eq!(status(&["http://localhost:20001", "null"]), 403, "each of them counts");
}

#[test]
fn only_persons_and_the_agents_own_site_may_call() {
    let guard = Guard::default();
    let status =
        |site| judge(&guard, &local(), &[("Host", "localhost"), ("Sec-Fetch-Site", site)]).0;
    for site in ["none", "same-origin"] {
        assert_eq!(status(site), 0, "{site}");
    }
    for site in ["cross-site", "same-site", "", "None", "same-origin, cross-site", "later"] {
        assert_eq!(status(site), 403, "{site}");
    }
}

#[test]
fn from_beyond_this_host_the_token_is_wanted_first() {
    let (guard, host) = (guard(), ("Host", "192.0.2.9"));
    let bearer = |token: &str| format!("Bearer {token}");
    let right = bearer(SECRET);
    let auth = ("Authorization", right.as_str());
    assert_eq!(judge(&guard, &remote(), &[host, auth]).0, 0);
    let lower = format!("bearer {SECRET}");
    assert_eq!(judge(&guard, &remote(), &[host, ("authorization", &lower)]).0, 0);
    assert_eq!(judge(&guard, &remote(), &[("Host", "evil.example"), auth]).0, 403);
    for headers in [
        &[host][..],
        &[host, ("Authorization", "Bearer")],
        &[host, ("Authorization", &bearer(&SECRET.to_lowercase()))],
        &[host, ("Authorization", &bearer(&SECRET[1..]))],
        &[host, auth, auth],
        &[("Host", "evil.example")],
        &[host, ("Origin", "null")],
    ] {
        assert_eq!(judge(&guard, &remote(), headers), (401, "unauthorized"), "{headers:?}");
    }
}

#[test]
fn on_this_host_no_token_is_wanted_and_none_is_wrong() {
    let guard = guard();
    for caller in [local(), socket()] {
        assert_eq!(judge(&guard, &caller, &[("Host", "localhost")]).0, 0);
        let wrong = ("Authorization", "Bearer wrong");
        assert_eq!(judge(&guard, &caller, &[("Host", "localhost"), wrong]).0, 0);
    }
}

#[test]
fn remote_callers_need_a_token_unless_all_may_call() {
    let host = ("Host", "192.0.2.9");
    let auth = ("Authorization", "Bearer ");
    assert_eq!(judge(&Guard::default(), &remote(), &[host, auth]).0, 401);
    let open = Guard { beyond: RemoteAccess::Open, ..Guard::default() };
    assert_eq!(judge(&open, &remote(), &[host]).0, 0);
    assert_eq!(judge(&open, &remote(), &[("Host", "evil.example")]).0, 403);
}

#[test]
fn host_name_has_no_port_scheme_or_address() {
    for name in ["hv1.example", "hv1", "a_b"] {
        assert!(is_host_name(name), "{name}");
    }
    for name in ["", "hv1:80", "http://hv1", "127.0.0.1", "[::1]", "a b", "*@x"] {
        assert!(!is_host_name(name), "{name}");
    }
}
