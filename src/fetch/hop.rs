//! From one URL to the content, over at most three redirects.

use std::fs::File;
use std::io::{self, Seek};
use std::net::{IpAddr, ToSocketAddrs};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::order::Order;
use super::{Host, Scheme, Url, is_public};
use crate::config::fixed::{
    FETCH_CONNECT, FETCH_KILL, FETCH_MEMORY_BYTES, FETCH_RATE_BYTES, FETCH_REDIRECTS,
    FETCH_SILENCE, FETCH_TIME,
};
use crate::os::confine::Reach;
use crate::os::process;
use crate::os::program::{Ended, Program};

/// Debian's package curl has it there, and so have others.
pub const CURL: &str = "/usr/bin/curl";
/// The user and group `nobody`, who own nothing.
const NOBODY: u32 = 65534;
/// Bytes in a second, below which a server counts as silent.
const SILENT_BYTES: u64 = 1000;

/// Fetches what is ordered into `target`, from its beginning; how many bytes it is. When `is_unwanted` says so,
/// curl is killed.
///
/// # Errors
/// One line that says what is wrong. What is in `target` then is nothing to use.
///
/// # Blocking
/// Up to [`FETCH_TIME`], and as long as the system takes to resolve names.
pub fn fetch(order: &Order, target: &File, is_unwanted: &dyn Fn() -> bool) -> Result<u64, String> {
    let deadline = Instant::now() + FETCH_TIME;
    let service = order.service.as_deref().map(Host::parse).transpose()?;
    let mut url = parse(&order.url)?;
    for _ in 0..=FETCH_REDIRECTS {
        let addresses = allowed(&url, service.as_ref(), resolve)?;
        match hop(&url, &addresses, order.bytes_max, target, deadline, is_unwanted)? {
            Hop::Whole(bytes) => return Ok(bytes),
            Hop::Redirect(to) => {
                url = parse(to.split('#').next().unwrap_or_default())
                    .map_err(|why| format!("{url} leads elsewhere: {why}"))?;
            }
        }
    }
    Err(format!("it leads elsewhere more than {FETCH_REDIRECTS} times"))
}

fn parse(text: &str) -> Result<Url, String> {
    Url::parse(text).map_err(|why| format!("{}: {why}", text.escape_debug()))
}

/// The addresses that may be connected to for this URL: all of the configured service's host, and the public
/// ones of any other, which has to speak https.
///
/// # Errors
/// In words, when there is none.
fn allowed(
    url: &Url,
    service: Option<&Host>,
    resolve: impl FnOnce(&str, u16) -> io::Result<Vec<IpAddr>>,
) -> Result<Vec<IpAddr>, String> {
    let Url { host, port, .. } = url;
    let is_service = service == Some(host);
    if url.scheme == Scheme::Http && !is_service {
        return Err(format!("{url}: http proves nobody; only https is allowed for this host"));
    }
    let mut addresses = match host {
        Host::Address(address) => vec![*address],
        Host::Name(name) => {
            resolve(name, *port).map_err(|error| format!("cannot resolve {name}: {error}"))?
        }
    };
    if !is_service {
        addresses.retain(|address| is_public(*address));
    }
    match addresses.is_empty() {
        true => Err(format!("{host} has no public address, and images come from no other")),
        false => Ok(addresses),
    }
}

fn resolve(name: &str, port: u16) -> io::Result<Vec<IpAddr>> {
    Ok((name, port).to_socket_addrs()?.map(|address| address.ip()).collect())
}

/// What came of one request.
#[derive(Debug, PartialEq, Eq)]
enum Hop {
    /// The target has it all: so many bytes.
    Whole(u64),
    /// It is elsewhere.
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
    let text = |error: io::Error| format!("{CURL}: {error}");
    // What a redirect brought is no content.
    target.set_len(0).map_err(text)?;
    (&*target).rewind().map_err(text)?;
    let time = deadline.saturating_duration_since(Instant::now());
    let mut command = Command::new(CURL);
    command.args(arguments(url, addresses, bytes_max, time));
    command.stdin(Stdio::null()).stdout(target.try_clone().map_err(text)?);
    if process::user() == 0 {
        command.uid(NOBODY).gid(NOBODY);
    }
    let (reach, memory_bytes) = (Reach::Network, FETCH_MEMORY_BYTES);
    let (file_bytes, kill) = (bytes_max, FETCH_KILL);
    let program = Program { command, reach, memory_bytes, file_bytes, time, kill, is_unwanted };
    let Ended { status, first_error_line: said } = program.run(&mut |_| {}).map_err(text)?;
    if status.signal() == Some(libc::SIGXFSZ) {
        return Err(format!("{url}: it has more than {bytes_max} bytes"));
    }
    if !status.success() {
        let what = if said.is_empty() { status.to_string() } else { said };
        return Err(format!("{url}: {what}"));
    }
    match said.split_once(' ') {
        Some(("200", _)) => Ok(Hop::Whole(target.metadata().map_err(text)?.len())),
        Some((_, to)) if !to.is_empty() => Ok(Hop::Redirect(to.to_owned())),
        _ => Err(format!("{url}: the answer is {said:?}, neither content nor a redirect")),
    }
}

/// What curl is told; it reads no configuration and no environment. Its answer goes to standard output, and the
/// status with the URL of a redirect to standard error.
fn arguments(url: &Url, addresses: &[IpAddr], bytes_max: u64, time: Duration) -> Vec<String> {
    let [size, whole, connect, silent, silence, rate, redirects] = [
        bytes_max,
        time.as_secs().max(1),
        FETCH_CONNECT.as_secs(),
        SILENT_BYTES,
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
        "%{stderr}%{http_code} %{redirect_url}\\n",
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
    use std::net::TcpListener;
    use std::os::unix::fs::FileExt;
    use std::thread::{self, JoinHandle};

    use super::*;
    use crate::os::files;

    fn at(url: &str, service: Option<&str>, found: &[&str]) -> Result<Vec<IpAddr>, String> {
        let service = service.map(|host| Host::parse(host).unwrap());
        allowed(&Url::parse(url).unwrap(), service.as_ref(), |_, _| {
            Ok(found.iter().map(|text| text.parse().unwrap()).collect())
        })
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
    fn curl_connects_to_what_was_judged() {
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
    }

    /// A server that gives these answers, one to each connection.
    fn server(answers: Vec<String>) -> (String, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = listener.local_addr().unwrap().to_string();
        let thread = thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let (mut byte, mut request) = ([0], Vec::new());
                while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
                    request.push(byte[0]);
                }
                // The client may leave when it has enough.
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        (place, thread)
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

    /// Fetches from such a server, which counts as the configured one, into a file of 100 bytes at most.
    fn fetched(answers: Vec<String>) -> Result<String, String> {
        let (place, thread) = server(answers);
        let file = files::nameless(&env::temp_dir()).unwrap();
        file.write_all_at(b"of before", 0).unwrap();
        let service = Some("127.0.0.1".to_owned());
        let order = Order { url: format!("http://{place}/images"), service, bytes_max: 100 };
        let outcome = fetch(&order, &file, &|| false);
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
        assert!(error.contains("more than 3 times"), "{error}");
    }

    #[test]
    fn a_redirect_to_where_nothing_may_come_from_is_refused() {
        for (to, why) in [
            ("https://127.0.0.2/", "no public address"),
            ("https://[::1]/", "no public address"),
            ("http://1.1.1.1/", "only https"),
            ("file:///etc/shadow", "neither http nor https"),
            ("https://u@a.example/", "neither a name nor an address"),
        ] {
            let error = fetched(vec![redirect(to)]).unwrap_err();
            assert!(error.contains(why), "{to}: {error}");
        }
    }

    #[test]
    fn what_is_too_large_or_not_whole_is_an_error() {
        let long = "x".repeat(101);
        let unknown_length =
            format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{}", "x".repeat(4096));
        let short = "HTTP/1.1 200 OK\r\nContent-Length: 50\r\nConnection: close\r\n\r\ndisk";
        let absent = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        for (answer, why) in [
            (content(&long), "Maximum file size"),
            (unknown_length, "more than 100 bytes"),
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
        let found = allowed(&url, None, |name, port| {
            asked.set(asked.get() + 1);
            assert_eq!((name, port), ("a.example", 443));
            Err(io::Error::other("no such name"))
        });
        assert_eq!(found.unwrap_err(), "cannot resolve a.example: no such name");
        assert_eq!(asked.get(), 1);
    }
}
