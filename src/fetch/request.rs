//! The protocol between the process that orders content and the fetcher: one line each way over a Unix socket. The
//! first line comes with the file that the fetcher fills.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::hop::{fetch, parse};
use super::{FetchRequest, Service};
use crate::config::fixed::{FETCH_KILL, FETCH_ORDER, FETCH_TIME};
use crate::os::poll::{Interest, PollSet};
use crate::os::rights;

/// The socket on which `mistify-libvirt-fetch.socket` listens, for root and the agent's user.
pub const SOCKET: &str = "/run/mistify-libvirt-fetch.sock";
/// The command that enables the socket, for errors and for `check`.
pub const REMEDY: &str = "systemctl enable --now mistify-libvirt-fetch.socket";
/// The maximum length of a line in both directions, in bytes: a URL, and an error.
const LINE_BYTES_MAX: usize = 8192;
/// The maximum length of an error in an answer: JSON takes at most six bytes for a character.
const ERROR_CHARS_MAX: usize = 1000;
/// The user and group `nobody`, which own no files.
const NOBODY: u32 = 65534;
/// This program, even if `nobody` cannot reach its path or it was replaced meanwhile.
const THIS_PROGRAM: &str = "/proc/self/exe";
/// The interval of checks whether the child has ended.
const CHILD_LOOK: Duration = Duration::from_millis(10);

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Bytes(u64),
    Error(String),
}

/// Cancels a download from another thread.
#[derive(Debug, Default)]
pub struct Cancellation(Mutex<Cancelling>);

#[derive(Debug, Default)]
struct Cancelling {
    is_cancelled: bool,
    /// The fetcher of the current order.
    fetcher: Option<UnixStream>,
}

impl Cancellation {
    /// Cancels the current download and all later ones, which fail. If none runs, only records the request.
    pub fn cancel(&self) {
        let mut state = self.0.lock();
        state.is_cancelled = true;
        if let Some(fetcher) = &state.fetcher {
            // Fails only if the fetcher has closed the connection, which also ends the download.
            let _ = fetcher.shutdown(Shutdown::Both);
        }
    }

    /// Returns whether the download was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.lock().is_cancelled
    }

    /// Sends an order to this fetcher, and returns its answer. Cancelling closes the connection.
    fn talk(&self, stream: UnixStream, order: &FetchRequest, target: &File) -> io::Result<Answer> {
        {
            let mut state = self.0.lock();
            if state.is_cancelled {
                return Err(io::Error::other("cancelled"));
            }
            state.fetcher = Some(stream.try_clone()?);
        }
        let said = talk(stream, order, target);
        let mut state = self.0.lock();
        // The fetcher detects the end of the connection only if no copy remains.
        state.fetcher = None;
        match state.is_cancelled {
            true => Err(io::Error::other("cancelled")),
            false => said,
        }
    }
}

/// Executes the order, through the unit if systemd listens for it, otherwise in a child process as nobody with
/// `service` as the image service. Returns the number of bytes.
///
/// # Errors
/// As [`fetch`]; if the download was cancelled; if no fetcher is available.
///
/// # Blocking
/// Somewhat longer than [`fetch`] may take.
pub fn ask(
    order: &FetchRequest,
    service: Option<&str>,
    target: &File,
    cancellation: &Cancellation,
) -> Result<u64, String> {
    // An invalid URL, or one that is too long for the line, is refused without the fetcher.
    parse(&order.url)?;
    if Path::new(SOCKET).exists() {
        let stream = UnixStream::connect(SOCKET)
            .map_err(|error| format!("cannot connect to {SOCKET}: {error}"))?;
        let said = cancellation.talk(stream, order, target);
        let text = |why: io::Error| format!("cannot fetch through {SOCKET}: {}", unit_error(&why));
        return answer(said.map_err(text)?);
    }
    let text = |error: io::Error| format!("cannot fetch in a child process: {error}");
    let (ours, theirs) = UnixStream::pair().map_err(text)?;
    let mut child = start_child(theirs, service)?;
    let said = cancellation.talk(ours, order, target);
    // The connection is closed now: the child kills curl and ends.
    reap(&mut child, FETCH_KILL + FETCH_ORDER).map_err(text)?;
    answer(said.map_err(text)?)
}

/// Explains an error of the connection to the unit.
fn unit_error(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => {
            "no answer: the unit already runs MaxConnections= fetches, or \
             mistify-libvirt-fetch@.service failed (journalctl -u 'mistify-libvirt-fetch@*')"
                .to_owned()
        }
        _ => error.to_string(),
    }
}

/// Starts a fetcher as nobody, with the image service of this process instead of a configuration.
fn start_child(socket: UnixStream, service: Option<&str>) -> Result<Child, String> {
    let mut command = Command::new(THIS_PROGRAM);
    command.arg0("mistify-libvirt").args(["fetch", "--config", "/dev/null"]);
    if let Some(service) = service {
        command.args(["--image-service", service]);
    }
    command.env_clear().env("LC_ALL", "C").current_dir("/").uid(NOBODY).gid(NOBODY);
    command.stdin(OwnedFd::from(socket)).stdout(Stdio::null());
    command.spawn().map_err(|error| match error.kind() {
        ErrorKind::PermissionDenied => format!(
            "cannot start a child process as nobody: {error}; {SOCKET} does not exist: run {REMEDY}"
        ),
        _ => format!("cannot fetch in a child process: {error}"),
    })
}

/// Waits for the end of a child, and kills it if it does not end within `patience`.
fn reap(child: &mut Child, patience: Duration) -> io::Result<()> {
    let end = Instant::now() + patience;
    while child.try_wait()?.is_none() {
        if Instant::now() >= end {
            child.kill()?;
            child.wait()?;
            break;
        }
        thread::sleep(CHILD_LOOK);
    }
    Ok(())
}

fn answer(answer: Answer) -> Result<u64, String> {
    match answer {
        Answer::Bytes(bytes) => Ok(bytes),
        Answer::Error(error) => Err(error),
    }
}

fn talk(mut stream: UnixStream, order: &FetchRequest, target: &File) -> io::Result<Answer> {
    let patience = FETCH_TIME + FETCH_KILL + FETCH_ORDER;
    stream.set_write_timeout(Some(FETCH_ORDER))?;
    stream.set_read_timeout(Some(patience))?;
    let line = line_of(order)?;
    let sent = rights::send(&stream, &line, target)?;
    stream.write_all(line.get(sent..).unwrap_or_default())?;
    read_line(&stream, patience)
}

fn line_of(what: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    Ok(line)
}

/// Executes the order from the socket on standard input: the subcommand `mistify-libvirt fetch`. `service` is the image
/// service in this process's own configuration, or the error of reading that, which becomes the answer.
///
/// # Errors
/// If no order arrives. A failed download is an answer, not an error.
///
/// # Blocking
/// As [`fetch`].
pub fn serve(service: Result<Option<Service>, String>) -> Result<(), String> {
    let text = |error: io::Error| format!("cannot fetch: {error}");
    let stream = io::stdin().as_fd().try_clone_to_owned().map_err(text)?;
    serve_on(&UnixStream::from(stream), service).map_err(text)
}

fn serve_on(mut stream: &UnixStream, service: Result<Option<Service>, String>) -> io::Result<()> {
    stream.set_read_timeout(Some(FETCH_ORDER))?;
    stream.set_write_timeout(Some(FETCH_ORDER))?;
    let (order, target) = receive(stream)?;
    let fetched = match service {
        Ok(service) => fetch(&order, service.as_ref(), &target, &|| has_left(stream)),
        Err(why) => Err(format!("cannot read the fetcher's option image-service: {why}")),
    };
    let line = line_of(&match fetched {
        Ok(bytes) => Answer::Bytes(bytes),
        Err(error) => Answer::Error(error.chars().take(ERROR_CHARS_MAX).collect()),
    })?;
    match stream.write_all(&line) {
        // The client no longer waits for the answer.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Returns whether the client has closed its side: after its order it sends nothing.
fn has_left(stream: &UnixStream) -> bool {
    let mut set = PollSet::default();
    let index = set.add(stream, Interest::Read);
    set.wait(Some(Duration::ZERO)).is_ok() && set.is_ready(index)
}

fn receive(stream: &UnixStream) -> io::Result<(FetchRequest, File)> {
    let mut bytes = [0; LINE_BYTES_MAX];
    let received = rights::receive(stream, &mut bytes);
    let (count, target) = received.map_err(|error| timed_out(error, FETCH_ORDER))?;
    let target =
        target.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "the order has no file"))?;
    let started = bytes.get(..count).unwrap_or_default();
    let order = read_line(started.chain(stream), FETCH_ORDER)?;
    Ok((order, target))
}

/// Reads a line; `patience` is the socket's time limit.
fn read_line<T: for<'de> Deserialize<'de>>(from: impl Read, patience: Duration) -> io::Result<T> {
    let most = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX);
    let mut line = Vec::new();
    let read = BufReader::new(from.take(most)).read_until(b'\n', &mut line);
    read.map_err(|error| timed_out(error, patience))?;
    match line.last() {
        Some(b'\n') => Ok(serde_json::from_slice(&line)?),
        _ if line.len() == LINE_BYTES_MAX => {
            let why = format!("the line is longer than {LINE_BYTES_MAX} bytes");
            Err(io::Error::new(ErrorKind::InvalidData, why))
        }
        _ => Err(io::Error::new(ErrorKind::UnexpectedEof, "the peer closed the connection")),
    }
}

/// Explains an error of a read that exceeded its time limit (`SO_RCVTIMEO`, socket(7)).
fn timed_out(error: io::Error, patience: Duration) -> io::Error {
    match error.kind() {
        ErrorKind::WouldBlock => {
            io::Error::new(ErrorKind::TimedOut, format!("no data for {} s", patience.as_secs()))
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::sync::Arc;

    use super::*;
    use crate::os::files;

    fn order(url: &str) -> FetchRequest {
        FetchRequest { url: url.to_owned(), bytes_max: 100 }
    }

    /// Returns the answer to an order, of a fetcher with this image service or error of its configuration.
    fn answered(service: Result<Option<Service>, String>, url: &str) -> Result<u64, String> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let file = files::nameless(&env::temp_dir()).unwrap();
        thread::scope(|scope| {
            let server = scope.spawn(move || serve_on(&theirs, service));
            let said = talk(ours, &order(url), &file).unwrap();
            server.join().unwrap().unwrap();
            answer(said)
        })
    }

    #[test]
    fn failed_order_is_answered_with_its_cause() {
        let error = answered(Ok(None), "https://127.0.0.1/").unwrap_err();
        assert!(error.contains("no public address"), "{error}");
    }

    #[test]
    fn settings_that_cannot_be_read_are_the_answer() {
        let error = answered(Err("a.conf: denied".to_owned()), "https://127.0.0.1/").unwrap_err();
        assert_eq!(error, "cannot read the fetcher's option image-service: a.conf: denied");
    }

    #[test]
    fn an_error_is_cut_to_the_length_of_a_line() {
        let error =
            answered(Err("\u{1}".repeat(LINE_BYTES_MAX)), "https://127.0.0.1/").unwrap_err();
        assert_eq!(error.chars().count(), ERROR_CHARS_MAX);
    }

    #[test]
    fn order_without_a_file_or_a_line_end_is_refused() {
        for (line, why) in
            [("{\"url\":\"https://a.example/\",\"bytes_max\":1}\n", "no file"), ("", "no file")]
        {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            ours.write_all(line.as_bytes()).unwrap();
            drop(ours);
            let error = serve_on(&theirs, Ok(None)).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        let long = "x".repeat(LINE_BYTES_MAX);
        for (line, why) in
            [("{\"url\":", "closed the connection"), (&long, "longer than 8192 bytes")]
        {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let file = files::nameless(&env::temp_dir()).unwrap();
            rights::send(&ours, line.as_bytes(), &file).unwrap();
            drop(ours);
            let error = serve_on(&theirs, Ok(None)).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn answer_without_a_reader_is_no_error() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let file = files::nameless(&env::temp_dir()).unwrap();
        rights::send(&ours, &line_of(&order("https://127.0.0.1/")).unwrap(), &file).unwrap();
        drop(ours);
        serve_on(&theirs, Ok(None)).unwrap();
    }

    #[test]
    fn a_cancel_ends_the_connection_to_the_fetcher() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let file = files::nameless(&env::temp_dir()).unwrap();
        let cancellation = Arc::new(Cancellation::default());
        let shared = Arc::clone(&cancellation);
        let thread = thread::spawn(move || {
            shared.talk(ours, &order("https://127.0.0.1/"), &file).map(answer)
        });
        let (mut first, mut rest) = ([0], Vec::new());
        theirs.read_exact(&mut first).unwrap();
        assert!(!cancellation.is_cancelled());
        cancellation.cancel();
        theirs.read_to_end(&mut rest).unwrap();
        assert_eq!(thread.join().unwrap().unwrap_err().to_string(), "cancelled");
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let file = files::nameless(&env::temp_dir()).unwrap();
        let error = cancellation.talk(ours, &order("https://127.0.0.1/"), &file).unwrap_err();
        assert_eq!(error.to_string(), "cancelled");
    }

    #[test]
    fn errors_of_the_connection_are_explained() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let file = files::nameless(&env::temp_dir()).unwrap();
        // As systemd does above MaxConnections=.
        drop(theirs);
        let error =
            talk(ours.try_clone().unwrap(), &order("https://127.0.0.1/"), &file).unwrap_err();
        assert!(unit_error(&error).contains("MaxConnections="), "{error}");
        let (_theirs, mine) = UnixStream::pair().unwrap();
        ours = mine;
        ours.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        let error = read_line::<Answer>(&ours, Duration::from_secs(7)).unwrap_err();
        assert_eq!(error.to_string(), "no data for 7 s");
    }

    #[test]
    fn a_child_that_does_not_end_is_killed() {
        let mut child = Command::new("/bin/cat").stdin(Stdio::piped()).spawn().unwrap();
        reap(&mut child, Duration::ZERO).unwrap();
        assert!(child.try_wait().unwrap().is_some());
    }
}
