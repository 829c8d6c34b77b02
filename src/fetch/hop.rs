//! Fetches the content of a URL, over at most three redirects.

use std::fs::File;
use std::io::{self, Seek};
use std::net::{IpAddr, ToSocketAddrs};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{FetchRequest, Host, Scheme, Service, Url, is_public};
use crate::config::fixed::{
    FETCH_CONNECT, FETCH_KILL, FETCH_MEMORY_BYTES, FETCH_RATE_BYTES, FETCH_REDIRECTS,
    FETCH_SILENCE, FETCH_SILENT_BYTES, FETCH_TIME,
};
use crate::os::confine::AccessScope;
use crate::os::program::{Ended, Program};

/// The path in Debian's package curl and in those of other distributions.
pub const CURL: &str = "/usr/bin/curl";
/// The exit status for content above `--max-filesize`.
const TOO_LARGE: i32 = 63;

/// Fetches the order's URL into `target`, from its start, and returns the number of bytes. curl runs as this process's
/// user, and is killed when `is_unwanted` returns true.
///
/// # Errors
/// The cause in one line. The content of `target` is then unusable.
///
/// # Blocking
/// Up to [`FETCH_TIME`], and as long as the system takes to resolve names.
pub fn fetch(
    order: &FetchRequest,
    service: Option<&Service>,
    target: &File,
    is_unwanted: &dyn Fn() -> bool,
) -> Result<u64, String> {
    let deadline = Instant::now() + FETCH_TIME;
    let mut url = parse(&order.url)?;
    let mut from = None;
    for _ in 0..=FETCH_REDIRECTS {
        let addresses = allowed(&url, from.as_ref(), service, resolve)?;
        match hop(&url, &addresses, order.bytes_max, target, deadline, is_unwanted)? {
            Hop::Whole(bytes) => return Ok(bytes),
            Hop::Redirect(to) => {
                let next = parse(to.split('#').next().unwrap_or_default())
                    .map_err(|why| format!("cannot follow the redirect of {url}: {why}"))?;
                from = Some(std::mem::replace(&mut url, next));
            }
        }
    }
    Err(format!("cannot fetch {url}: more than {FETCH_REDIRECTS} redirects"))
}

/// Parses a URL.
///
/// # Errors
/// The URL and its fault.
pub(super) fn parse(text: &str) -> Result<Url, String> {
    Url::parse(text).map_err(|why| format!("invalid URL {}: {why}", text.escape_debug()))
}

/// Returns the permitted addresses for this URL, which is the order's, or the target of a redirect by `from`.
///
/// The image service may use http at its host and port, and its host may have a private address, unless another host
/// redirects there. Everything else must use https and have a public address.
///
/// # Errors
/// The cause in one line: a scheme that is not permitted, a name that cannot be resolved, or no permitted address.
fn allowed(
    url: &Url,
    from: Option<&Url>,
    service: Option<&Service>,
    resolve: impl FnOnce(&str, u16) -> io::Result<Vec<IpAddr>>,
) -> Result<Vec<IpAddr>, String> {
    let Url { host, port, .. } = url;
    let has_host = |url: &Url| service.is_some_and(|it| it.host == url.host);
    let has_host_and_port =
        |url: &Url| has_host(url) && service.is_some_and(|it| it.port == url.port);
    let may_be_private = has_host(url) && from.is_none_or(has_host);
    if url.scheme == Scheme::Http && !(has_host_and_port(url) && from.is_none_or(has_host_and_port))
    {
        return Err(format!(
            "cannot fetch {url}: only https is allowed; http is allowed only for the host and port of \
             image-service, and not in a redirect from another server"
        ));
    }
    let mut addresses = match host {
        Host::Address(address) => vec![*address],
        Host::Name(name) => {
            resolve(name, *port).map_err(|error| format!("cannot resolve {name}: {error}"))?
        }
    };
    if !may_be_private {
        addresses.retain(|address| is_public(*address));
    }
    match addresses.is_empty() {
        true => Err(format!("cannot fetch from {host}: it has no public address")),
        false => Ok(addresses),
    }
}

fn resolve(name: &str, port: u16) -> io::Result<Vec<IpAddr>> {
    Ok((name, port).to_socket_addrs()?.map(|address| address.ip()).collect())
}

/// The result of one request.
#[derive(Debug, PartialEq, Eq)]
enum Hop {
    /// The target has the whole content, with this number of bytes.
    Whole(u64),
    /// The server redirects to this URL.
    Redirect(String),
}

fn hop(
    url: &Url,
    addresses: &[IpAddr],
    bytes_max: u64,
    target: &File,
    deadline: Instant,
    is_unwanted: &dyn Fn() -> bool,
) -> Result<Hop, String> {
    let text = |error: io::Error| format!("cannot fetch with {CURL}: {error}");
    // The body of a redirect is not part of the content.
    target.set_len(0).map_err(text)?;
    (&*target).rewind().map_err(text)?;
    let late = || format!("cannot fetch {url}: timed out after {} s", FETCH_TIME.as_secs());
    let time = deadline.saturating_duration_since(Instant::now());
    // curl and the limit of processor time use whole seconds.
    if time < Duration::from_secs(1) {
        return Err(late());
    }
    let mut command = Command::new(CURL);
    command.args(arguments(url, addresses, bytes_max, time));
    command.stdin(Stdio::null()).stdout(target.try_clone().map_err(text)?);
    let (scope, memory_bytes) = (AccessScope::Network, FETCH_MEMORY_BYTES);
    let (file_bytes, kill) = (bytes_max, FETCH_KILL);
    let program = Program { command, scope, memory_bytes, file_bytes, time, kill, is_unwanted };
    let ended = program.run(&mut |_| {}).map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => late(),
        _ => text(error),
    });
    let Ended { status, first_error_line: said } = ended?;
    if status.signal() == Some(libc::SIGXFSZ) || status.code() == Some(TOO_LARGE) {
        return Err(format!(
            "cannot fetch {url}: it is larger than the {bytes_max} bytes that are available"
        ));
    }
    if !status.success() {
        let what = if said.is_empty() { status.to_string() } else { said };
        return Err(format!("cannot fetch {url}: {what}"));
    }
    let said: Vec<&str> = said.split('\t').collect();
    match said[..] {
        ["200", version, length, coding, _] if has_end(version, length, coding) => {
            Ok(Hop::Whole(target.metadata().map_err(text)?.len()))
        }
        ["200", ..] => Err(format!(
            "cannot fetch {url}: the answer has neither a Content-Length nor a chunked coding, so it \
             may be incomplete"
        )),
        [_, _, _, _, to] if !to.is_empty() => Ok(Hop::Redirect(to.to_owned())),
        _ => Err(format!(
            "cannot fetch {url}: the answer is {said:?}, neither content nor a redirect"
        )),
    }
}

/// Returns whether curl detects a truncated answer of this HTTP version, by its `Content-Length` and
/// `Transfer-Encoding`: in HTTP/1 the end of the connection ends an answer without both (RFC 9112, section 6.3). Since
/// HTTP/2, streams have their own end.
fn has_end(version: &str, length: &str, coding: &str) -> bool {
    let last_coding = coding.rsplit(',').next().unwrap_or_default().trim();
    !version.starts_with('1') || !length.is_empty() || last_coding.eq_ignore_ascii_case("chunked")
}

/// The status, the HTTP version, the headers that define the end of the answer, and the URL of a redirect, on standard
/// error.
const WRITE_OUT: &str = "%{stderr}%{http_code}\\t%{http_version}\\t%header{content-length}\\t\
                         %header{transfer-encoding}\\t%{redirect_url}\\n";

/// Returns the arguments of curl, which reads no configuration and no environment. Its answer goes to standard output,
/// and [`WRITE_OUT`] to standard error.
fn arguments(url: &Url, addresses: &[IpAddr], bytes_max: u64, time: Duration) -> Vec<String> {
    let [size, whole, connect, silent, silence, rate, redirects] = [
        bytes_max,
        time.as_secs().max(1),
        FETCH_CONNECT.as_secs(),
        FETCH_SILENT_BYTES,
        FETCH_SILENCE.as_secs(),
        FETCH_RATE_BYTES,
        FETCH_REDIRECTS.into(),
    ]
    .map(|number: u64| number.to_string());
    let mut words: Vec<String> = [
        "-q",
        "--silent",
        "--show-error",
        "--fail",
        "--globoff",
        "--noproxy",
        "*",
        "--proto",
        "=http,https",
        "--proto-redir",
        "=https",
        "--max-redirs",
        &redirects,
        "--max-filesize",
        &size,
        "--max-time",
        &whole,
        "--connect-timeout",
        &connect,
        "--speed-limit",
        &silent,
        "--speed-time",
        &silence,
        "--limit-rate",
        &rate,
        "--write-out",
        WRITE_OUT,
        "--output",
        "-",
    ]
    .map(str::to_owned)
    .into();
    if let Host::Name(name) = &url.host {
        let pinned: Vec<_> =
            addresses.iter().map(|address| Host::Address(*address).to_string()).collect();
        words.extend(["--resolve".to_owned(), format!("{name}:{}:{}", url.port, pinned.join(","))]);
    }
    words.extend(["--url".to_owned(), url.to_string()]);
    words
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::env;
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener};
    use std::os::unix::fs::FileExt;
    use std::thread::{self, JoinHandle};

    use super::*;
    use crate::os::files;

    /// Returns the permitted addresses for the URL of an order, or for a redirect by `from`.
    fn after(
        from: Option<&str>,
        url: &str,
        service: Option<&str>,
        found: &[&str],
    ) -> Result<Vec<IpAddr>, String> {
        let service = service.map(|text| Service::parse(text).unwrap());
        let from = from.map(|from| Url::parse(from).unwrap());
        allowed(&Url::parse(url).unwrap(), from.as_ref(), service.as_ref(), |_, _| {
            Ok(found.iter().map(|text| text.parse().unwrap()).collect())
        })
    }

    fn at(url: &str, service: Option<&str>, found: &[&str]) -> Result<Vec<IpAddr>, String> {
        after(None, url, service, found)
    }

    #[test]
    fn only_public_addresses_are_connected_to() {
        let public: IpAddr = "1.1.1.1".parse().unwrap();
        let found = at("https://a.example/", None, &["127.0.0.1", "1.1.1.1", "fe80::1"]);
        assert_eq!(found.unwrap(), [public]);
        for (url, found) in [
            ("https://a.example/", &["127.0.0.1", "::1", "10.0.0.1", "169.254.169.254"][..]),
            ("https://127.0.0.1/", &[]),
            ("https://[::ffff:10.0.0.1]/", &[]),
        ] {
            let error = at(url, Some("images.example"), found).unwrap_err();
            assert!(error.contains("has no public address"), "{error}");
        }
        let error = at("http://a.example/", Some("images.example"), &["1.1.1.1"]).unwrap_err();
        assert!(error.contains("only https"), "{error}");
        for url in ["http://images.example/", "https://images.example:8443/"] {
            assert_eq!(at(url, Some("Images.Example"), &["10.0.0.1"]).unwrap().len(), 1, "{url}");
        }
    }

    #[test]
    fn http_is_for_the_services_own_port() {
        let service = Some("images.example:8080");
        for (from, url) in [
            (None, "http://images.example/"),
            (None, "http://images.example:8081/"),
            (Some("http://images.example:8080/"), "http://images.example:8081/"),
            (Some("https://images.example:8443/"), "http://images.example:8080/"),
        ] {
            let error = after(from, url, service, &["1.1.1.1"]).unwrap_err();
            assert!(error.contains("only https"), "{from:?} {url}: {error}");
        }
        for from in [None, Some("http://images.example:8080/")] {
            let found = after(from, "http://images.example:8080/", service, &["10.0.0.1"]);
            assert_eq!(found.unwrap().len(), 1, "{from:?}");
        }
    }

    #[test]
    fn another_host_redirects_to_no_service() {
        let (service, other) = (Some("images.example:8080"), Some("https://a.example/"));
        let found = &["10.0.0.1"];
        let error = after(other, "http://images.example:8080/", service, found).unwrap_err();
        assert!(error.contains("only https"), "{error}");
        let error = after(other, "https://images.example/", service, found).unwrap_err();
        assert!(error.contains("no public address"), "{error}");
        let own = Some("https://images.example:8443/");
        assert_eq!(after(own, "https://images.example/", service, found).unwrap().len(), 1);
    }

    #[test]
    fn curl_connects_to_the_checked_address() {
        let url = Url::parse("https://a.example:8443/%2F").unwrap();
        let addresses = ["1.1.1.1", "2620::1"].map(|text| text.parse().unwrap());
        let words = arguments(&url, &addresses, 5, Duration::from_secs(9));
        let after = |word: &str| {
            let index = words.iter().position(|it| it == word).unwrap();
            words[index + 1].as_str()
        };
        assert_eq!(words[0], "-q");
        assert_eq!(after("--resolve"), "a.example:8443:1.1.1.1,[2620::1]");
        assert_eq!(after("--url"), "https://a.example:8443/%2F");
        assert_eq!((after("--max-filesize"), after("--max-time")), ("5", "9"));
        assert_eq!((after("--proto"), after("--proto-redir")), ("=http,https", "=https"));
        assert_eq!(after("--max-redirs"), "3");
        // curl aborts a download that is slower than the first rate for this many seconds, and limits itself to the
        // last rate.
        assert_eq!((after("--speed-limit"), after("--speed-time")), ("65536", "60"));
        assert_eq!(after("--limit-rate"), "104857600");
    }

    /// Starts a server with these answers, one for each connection; returns its address and thread.
    fn server(answers: Vec<String>) -> (String, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let thread = thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let (mut byte, mut request) = ([0], Vec::new());
                while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
                    request.push(byte[0]);
                }
                // The client may close the connection early.
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        (address, thread)
    }

    fn content(body: &str) -> String {
        format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
    }

    fn redirect(to: &str) -> String {
        format!(
            "HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 4\r\nConnection: close\r\n\r\nGone"
        )
    }

    /// Fetches from such a server, configured as the image service, into a file of at most 100 bytes.
    fn fetched(answers: Vec<String>) -> Result<String, String> {
        let (address, thread) = server(answers);
        let file = files::nameless(&env::temp_dir()).unwrap();
        file.write_all_at(b"of before", 0).unwrap();
        let service = Service::parse(&address).unwrap();
        let order = FetchRequest { url: format!("http://{address}/images"), bytes_max: 100 };
        let outcome = fetch(&order, Some(&service), &file, &|| false);
        thread.join().unwrap();
        outcome.map(|bytes| {
            let mut text = vec![0; usize::try_from(bytes).unwrap()];
            file.read_exact_at(&mut text, 0).unwrap();
            String::from_utf8(text).unwrap()
        })
    }

    #[test]
    fn content_arrives_over_redirects_and_nothing_else() {
        assert_eq!(fetched(vec![content("disk")]).unwrap(), "disk");
        let redirects = |count| vec![redirect("/further#part"); count];
        let all = [redirects(3), vec![content("disk")]].concat();
        assert_eq!(fetched(all).unwrap(), "disk");
        let error = fetched(redirects(4)).unwrap_err();
        assert!(error.contains("more than 3 redirects"), "{error}");
    }

    #[test]
    fn curl_obeys_the_pinned_address() {
        let (address, thread) = server(vec![content("disk")]);
        let port = address.rsplit(':').next().unwrap();
        // No resolver knows this name (RFC 6761).
        let url = Url::parse(&format!("http://name.invalid:{port}/image")).unwrap();
        let file = files::nameless(&env::temp_dir()).unwrap();
        let (pinned, end) = ([Ipv4Addr::LOCALHOST.into()], Instant::now() + FETCH_TIME);
        assert_eq!(hop(&url, &pinned, 100, &file, end, &|| false), Ok(Hop::Whole(4)));
        thread.join().unwrap();
    }

    #[test]
    fn without_time_left_curl_is_not_started() {
        let url = Url::parse("http://127.0.0.1/").unwrap();
        let file = files::nameless(&env::temp_dir()).unwrap();
        let outcome = hop(&url, &[], 100, &file, Instant::now(), &|| false);
        let late = "cannot fetch http://127.0.0.1:80/: timed out after 14400 s";
        assert_eq!(outcome.unwrap_err(), late);
    }

    #[test]
    fn redirect_to_a_forbidden_address_is_refused() {
        for (to, why) in [
            ("https://127.0.0.2/", "no public address"),
            ("https://[::1]/", "no public address"),
            ("http://1.1.1.1/", "only https"),
            ("http://127.0.0.1:1/", "only https"),
            ("file:///etc/shadow", "the scheme must be http or https"),
            ("https://u@a.example/", "neither a name nor an address"),
        ] {
            let error = fetched(vec![redirect(to)]).unwrap_err();
            assert!(error.contains(why), "{to}: {error}");
        }
    }

    #[test]
    fn oversized_or_truncated_download_is_an_error() {
        let long = "x".repeat(101);
        let without_end =
            |body: &str| format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{body}");
        let chunks = |body: &str| {
            format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n{body}"
            )
        };
        assert_eq!(fetched(vec![chunks("4\r\ndisk\r\n0\r\n\r\n")]).unwrap(), "disk");
        let short = "HTTP/1.1 200 OK\r\nContent-Length: 50\r\nConnection: close\r\n\r\ndisk";
        let absent = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        for (answer, why) in [
            (content(&long), "larger than the 100 bytes"),
            (without_end(&"x".repeat(4096)), "larger than the 100 bytes"),
            (without_end("disk"), "neither a Content-Length"),
            (without_end("disk").replace("1.1", "1.0"), "neither a Content-Length"),
            (chunks("4\r\ndisk\r\n"), "curl: (18)"),
            (short.to_owned(), "curl: (18)"),
            (absent.to_owned(), "404"),
            (String::new(), "curl: (52)"),
        ] {
            let error = fetched(vec![answer]).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_name_is_resolved_once_for_each_request() {
        let asked = Cell::new(0);
        let url = Url::parse("https://a.example/").unwrap();
        let found = allowed(&url, None, None, |name, port| {
            asked.set(asked.get() + 1);
            assert_eq!((name, port), ("a.example", 443));
            Err(io::Error::other("no such name"))
        });
        assert_eq!(found.unwrap_err(), "cannot resolve a.example: no such name");
        assert_eq!(asked.get(), 1);
    }
}
