use proptest::prelude::*;

use crate::http::http1::request::Persistence;

use super::*;

fn limits() -> HttpLimits {
    HttpLimits { head_bytes: 512, headers: 8, body_bytes: 64, ..HttpLimits::default() }
}

/// Feeds the pieces one by one; returns the requests, and the status of the refusal if there was
/// one.
fn feed<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Request>, Option<u16>) {
    let limits = limits();
    let mut parser = Parser::default();
    let mut requests = Vec::new();
    for piece in pieces {
        parser.push(piece);
        loop {
            match parser.next(&limits, |_| Ok(())) {
                Ok(Some(request)) => requests.push(request),
                Ok(None) => break,
                Err(refusal) => return (requests, Some(refusal.reason.status())),
            }
        }
    }
    (requests, None)
}

fn one(bytes: impl AsRef<[u8]>) -> Request {
    let (mut requests, refusal) = feed([bytes.as_ref()]);
    assert_eq!((requests.len(), refusal), (1, None), "{:?}", bytes.as_ref().escape_ascii());
    requests.remove(0)
}

/// Returns the status that the bytes are refused with; 0 if they are accepted.
fn refused(bytes: impl AsRef<[u8]>) -> u16 {
    let (requests, refusal) = feed([bytes.as_ref()]);
    assert_eq!(requests, [], "{}", bytes.as_ref().escape_ascii());
    refusal.unwrap_or(0)
}

fn post(headers: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{headers}\r\n{body}")
}

fn chunked(body: &str) -> String {
    post("Transfer-Encoding: chunked\r\n", body)
}

#[test]
fn a_body_counts_as_it_arrives() {
    let mut parser = Parser::default();
    let mut counted = |bytes: &str| {
        parser.push(bytes.as_bytes());
        let request = parser.next(&limits(), |_| Ok(())).unwrap();
        (parser.body_capacity(), request.is_some())
    };
    assert_eq!(counted("POST / HTTP/1.1\r\nHost: a\r\n"), (0, false));
    assert_eq!(counted("Content-Length: 60\r\n\r\n"), (0, false), "what is announced");
    let (some, is_whole) = counted("he");
    assert!((2..60).contains(&some) && !is_whole, "{some}");
    assert_eq!(counted(&"l".repeat(58)), (0, true));
    let (chunk, is_whole) = counted(&chunked("1F\r\nabc"));
    assert!((3..31).contains(&chunk) && !is_whole, "{chunk}");
}

#[test]
fn a_request_has_its_parts() {
    let request = one(post("Content-Length: 5\r\nX-A:  b c \r\nX-B: \u{e9}\r\n", "hello"));
    let expected = Request {
        method: "POST".into(),
        target: "/".into(),
        headers: [("Host", "a"), ("Content-Length", "5"), ("X-A", "b c"), ("X-B", "\u{e9}")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        body: b"hello".into(),
        persistence: Persistence::Implied,
        version: Version::Http11,
    };
    assert_eq!(request, expected);
}

#[test]
fn a_body_is_passed_on_whatever_the_verb() {
    let request = one("GET /x?y=z HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}");
    assert_eq!((request.target.as_str(), request.body.as_slice()), ("/x?y=z", &b"{}"[..]));
}

#[test]
fn lengths_that_are_not_plain_digits_are_malformed() {
    let lengths = ["abc", "+3", "-1", "", "5, 6", "5, 5", "0x5", "5 5", "5.0", "\u{b2}"];
    for length in lengths {
        let bytes = post(&format!("Content-Length: {length}\r\n"), "12345");
        assert_eq!(refused(bytes), 400, "{length:?}");
    }
}

#[test]
fn two_lengths_must_be_the_same() {
    let twice = |a, b| post(&format!("Content-Length: {a}\r\nContent-Length: {b}\r\n"), "12345");
    assert_eq!(refused(twice(5, 6)), 400);
    assert_eq!(one(twice(5, 5)).body, b"12345");
}

#[test]
fn body_at_the_limit_passes_and_one_byte_more_fails() {
    let body = "b".repeat(65);
    let sized = |length| post(&format!("Content-Length: {length}\r\n"), "");
    assert_eq!(one(sized(64) + &body[..64]).body.len(), 64);
    assert_eq!(
        one(chunked(&format!("20\r\n{0}\r\n20\r\n{0}\r\n0\r\n\r\n", &body[..32]))).body.len(),
        64
    );
    // Refused for the announced length, before a byte of the body arrives.
    assert_eq!(refused(sized(65)), 413);
    assert_eq!(refused(post("Content-Length: 1099511627776\r\n", "")), 413);
    assert_eq!(refused(post("Content-Length: 18446744073709551615\r\n", "")), 413);
    assert_eq!(refused(post("Content-Length: 18446744073709551616\r\n", "")), 413);
    assert_eq!(refused(chunked("41\r\n")), 413);
    assert_eq!(refused(chunked(&format!("40\r\n{}\r\n1\r\n", &body[..64]))), 413);
    assert_eq!(refused(chunked("ffffffffffffffff\r\n")), 413);
    assert_eq!(refused(chunked("10000000000000000\r\n")), 413);
}

#[test]
fn ambiguous_framing_is_refused() {
    let both = post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n");
    assert_eq!(refused(both), 400);
    for (codings, status) in [
        ("gzip, chunked", 501),
        ("gzip", 400),
        ("chunked, gzip", 400),
        ("chunked, chunked", 400),
        ("gzip, chunked, chunked", 400),
        ("identity", 400),
        ("", 400),
        ("xchunked", 400),
        ("chunked\r\nTransfer-Encoding: chunked", 400),
        ("gzip\r\nTransfer-Encoding: chunked", 501),
    ] {
        let bytes = post(&format!("Transfer-Encoding: {codings}\r\n"), "0\r\n\r\n");
        assert_eq!(refused(bytes), status, "{codings:?}");
    }
    let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(refused(old), 400);
}

#[test]
fn chunks_are_joined_and_extensions_ignored() {
    let body = "3\r\nabc\r\n0A ; x=\"y\"\r\n0123456789\r\n00\r\nTrailer: 1\r\nOther: 2\r\n\r\n";
    assert_eq!(one(chunked(body)).body, b"abc0123456789");
    assert_eq!(one(chunked("0\r\n\r\n")).body, b"");
}

#[test]
fn malformed_chunks_are_refused() {
    let bodies = [
        "\r\n",
        "x\r\n",
        "-1\r\n",
        "+1\r\n",
        "0x1\r\n",
        " 1\r\n",
        "1 1\r\n",
        "1\n",
        "1;a\rb\r\n",
        "1;\0\r\n",
        "1\r\nab",
        "1\r\na\n",
        "1\r\na\r\r\n",
        "0\r\n\n",
        "0\r\na\rb\r\n",
        "0\r\nno field\r\n",
        "0\r\nno field: x\r\n",
        "0\r\n: x\r\n",
        "0\r\n folded\r\n",
    ];
    for body in bodies {
        assert_eq!(refused(chunked(body)), 400, "{body:?}");
    }
}

#[test]
fn extensions_and_trailers_have_a_limit_together() {
    let extension = format!("1;{}\r\na\r\n", "x".repeat(200));
    assert_eq!(one(chunked(&(extension.repeat(2) + "0\r\n\r\n"))).body, b"aa");
    assert_eq!(refused(chunked(&extension.repeat(3))), 431);
    assert_eq!(refused(chunked(&format!("0\r\n{}", "t: v\r\n".repeat(200)))), 431);
    assert_eq!(refused(chunked(&"0".repeat(600))), 400, "a size without an end");
}

#[test]
fn a_head_over_a_limit_is_too_large() {
    let head = |padding| format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(padding));
    let around = head(0).len();
    assert_eq!(one(head(512 - around)).method, "GET");
    assert_eq!(refused(head(513 - around)), 431);
    assert_eq!(refused("x".repeat(512)), 431, "endless");
    assert_eq!(refused("x".repeat(511)), 0, "not decided yet");
    assert_eq!(refused(format!("GET /{}", "x".repeat(507))), 414, "a target without an end");
    assert_eq!(refused(format!("GET /{}", "x".repeat(506))), 0, "not decided yet");

    let lines = |count: usize| post(&"A: b\r\n".repeat(count - 1), "");
    assert_eq!(one(lines(8)).headers.len(), 8);
    assert_eq!(refused(lines(9)), 431);
    assert_eq!(refused(lines(5_000)), 431);
}

#[test]
fn malformed_heads_are_refused() {
    let heads = [
        "GET\r\n\r\n",
        "GET / \r\n\r\n",
        "GET /\r\n\r\n",
        "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / FTP/1.1\r\nHost: a\r\n\r\n",
        "GET / http/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1\r\nHost: a\r\n\r\n",
        "GET / HTTP/11\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.x\r\nHost: a\r\n\r\n",
        "G(T / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
        "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n",
        "\r\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
        "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /#x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /<x> HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\u{fc} HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /%2 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /%x0 HTTP/1.1\r\nHost: a\r\n\r\n",
        "\x16\x03\x01\x02\0\x01\0\x01\u{fc}",
    ];
    for head in heads {
        assert_eq!(refused(head), 400, "{head:?}");
    }
}

#[test]
fn other_versions_are_refused_as_such() {
    for version in ["HTTP/2.0", "HTTP/1.2", "HTTP/0.9", "HTTP/3"] {
        assert_eq!(refused(format!("GET / {version}\r\nHost: a\r\n\r\n")), 505, "{version}");
    }
    assert_eq!(refused("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505);
}

#[test]
fn a_target_with_an_authority_loses_it_to_host() {
    let cases = [
        ("http://b:1/x?y", "/x?y", "b:1"),
        ("HTTP://b", "/", "b"),
        ("http://b?y=/z", "/?y=/z", "b"),
        ("/http://b/", "/http://b/", "a"),
    ];
    for (target, path, host) in cases {
        let request = one(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!((request.target.as_str(), request.headers[0].1.as_str()), (path, host));
    }
    let old = one("GET http://b:1/x HTTP/1.0\r\n\r\n");
    assert_eq!(old.headers, [("Host".to_owned(), "b:1".to_owned())], "also where there is none");
    assert_eq!(one("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").target, "*");
}

#[test]
fn a_connection_stays_open_as_its_version_has_it() {
    let cases = [
        ("1.1", "", Persistence::Implied),
        ("1.1", "Connection: Keep-Alive\r\n", Persistence::Implied),
        ("1.1", "Connection: x, Close\r\n", Persistence::Close),
        ("1.1", "Connection: keep-alive\r\nConnection: close\r\n", Persistence::Close),
        ("1.0", "", Persistence::Close),
        ("1.0", "Connection: Keep-Alive\r\n", Persistence::Asked),
        ("1.0", "Connection: keep-alive, close\r\n", Persistence::Close),
    ];
    for (version, header, persistence) in cases {
        let request = one(format!("GET / HTTP/{version}\r\nHost: a\r\n{header}\r\n"));
        assert_eq!(request.persistence, persistence, "{version} {header:?}");
    }
}

#[test]
fn a_head_is_judged_once_and_before_its_body() {
    let mut parser = Parser::default();
    let head = post("Content-Length: 2\r\n", "");
    let mut judged = 0;
    for piece in [head.as_str(), "a", "b"] {
        parser.push(piece.as_bytes());
        let next = parser.next(&limits(), |request| {
            judged += 1;
            assert_eq!((request.method.as_str(), request.body.len()), ("POST", 0));
            Ok(())
        });
        assert_eq!(next.unwrap().is_some(), piece == "b");
    }
    assert_eq!(judged, 1);
    parser.push(head.as_bytes());
    let no = Refusal { reason: Reason::Page, sentence: "no" };
    assert_eq!(parser.next(&limits(), |_| Err(no)), Err(no));
}

#[test]
fn continue_is_sent_once_and_only_on_request() {
    let head = post("Content-Length: 5\r\nExpect: 100-Continue\r\n", "");
    let expectations = |first: &str, second: &str| {
        let mut parser = Parser::default();
        let mut expectations = Vec::new();
        for piece in [first, second] {
            parser.push(piece.as_bytes());
            assert_eq!(parser.next(&limits(), |_| Ok(())), Ok(None));
            expectations.extend([parser.take_expectation(), parser.take_expectation()]);
        }
        expectations
    };
    assert_eq!(expectations(&head[..9], &head[9..]), [false, false, true, false]);
    assert_eq!(expectations(&head, "12"), [true, false, false, false]);
    assert_eq!(expectations(&(head.clone() + "1"), "2"), [false; 4]);
    let old = head.replace("HTTP/1.1", "HTTP/1.0");
    assert_eq!(expectations(&old, ""), [false; 4], "HTTP/1.0 has no such answer");
    assert_eq!(refused(post("Expect: 200-ok\r\n", "")), 417);
}

#[test]
fn empty_lines_before_a_request_are_none() {
    let mut parser = Parser::default();
    for piece in ["\r\n", "\n", "\r", "\n"] {
        parser.push(piece.as_bytes());
        assert_eq!(parser.next(&limits(), |_| Ok(())), Ok(None));
    }
    assert!(!parser.has_started());
    parser.push(post("", "").as_bytes());
    assert!(parser.has_started());
    assert!(parser.next(&limits(), |_| Ok(())).unwrap().is_some());
    assert!(!parser.has_started());
}

#[test]
fn a_drained_parser_keeps_little_memory() {
    let mut parser = Parser::default();
    parser.push(post("", "").repeat(1_000).as_bytes());
    while parser.next(&limits(), |_| Ok(())).unwrap().is_some() {}
    assert!(parser.buffer.capacity() <= BUFFER_BYTES_RETAINED);
}

/// Makes valid and invalid requests and fragments, so that sequences of them reach every state.
fn fragment() -> impl Strategy<Value = Vec<u8>> {
    let texts = [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 65\r\n\r\n",
        "GET http://b/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n",
        "3\r\nabc\r\n",
        "0b;ext=1\r\n0123456789\r\n\r\n",
        "0\r\n\r\n",
        "0\r\nTrailer: x\r\n\r\n",
        "GET / HTTP/2.0\r\n",
        "GET / HTTP/1.",
        "\r\n",
        "\r",
        "Header: value\r\n",
        "X-Long: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n",
    ];
    prop_oneof![
        8 => proptest::sample::select(texts.map(|text| text.as_bytes().to_vec()).to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..40),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn however_the_bytes_are_cut_the_result_is_the_same(
        fragments in proptest::collection::vec(fragment(), 0..12),
        cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..6),
    ) {
        let bytes = fragments.concat();
        let whole = feed([bytes.as_slice()]);
        prop_assert_eq!(&feed(bytes.chunks(1)), &whole);

        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        prop_assert_eq!(&feed(cuts.windows(2).map(|ends| &bytes[ends[0]..ends[1]])), &whole);
    }

    #[test]
    fn chunked_body_is_decoded(
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..9), 0..8),
    ) {
        let mut bytes = chunked("").into_bytes();
        for chunk in &chunks {
            bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
            bytes.extend(chunk);
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"0\r\n\r\n");
        prop_assert_eq!(one(bytes).body, chunks.concat());
    }
}
