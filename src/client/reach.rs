//! The addresses of a guest, and the subcommand `ssh`.

use std::ffi::OsString;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use crate::client::Error;
use crate::client::connection::Client;
use crate::client::output::{printable, word};
use crate::client::progress::Progress;
use crate::client::verbs::of_guest;
use crate::config::Config;
use crate::config::fixed::{SSH_ADDRESSES, SSH_ANSWER, SSH_GREETING_BYTES};

/// The port of SSH (RFC 4253, section 4.1).
const PORT: u16 = 22;
/// The program that `ssh` runs, found in `PATH`.
const SSH: &str = "ssh";

/// Returns the addresses of GuestInfo's list that a guest can have, in the order of the list, except that IPv4
/// link-local addresses come last. The guest itself reports some of them, so addresses that no guest can have are
/// left out, such as this host's loopback. IPv6 addresses that need a zone are left out, too.
pub(super) fn usable(listed: &Value) -> Vec<IpAddr> {
    let listed = listed.as_array().into_iter().flatten();
    let all = listed.filter_map(|it| it["address"].as_str()?.parse::<IpAddr>().ok());
    let (mut wide, mut narrow) = (Vec::new(), Vec::new());
    for address in all.map(|address| address.to_canonical()) {
        let is_narrow = match address {
            IpAddr::V4(address) if address.is_broadcast() => continue,
            IpAddr::V6(address) if address.is_unicast_link_local() => continue,
            _ if address.is_loopback() || address.is_unspecified() => continue,
            _ if address.is_multicast() => continue,
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(_) => false,
        };
        if is_narrow { narrow.push(address) } else { wide.push(address) }
    }
    wide.append(&mut narrow);
    wide.truncate(SSH_ADDRESSES);
    wide
}

/// Returns the first of these addresses at which an SSH server sends its greeting.
///
/// # Errors
/// The result of each address.
///
/// # Blocking
/// Up to 16 times [`SSH_ANSWER`].
pub(super) fn first_that_greets(addresses: &[IpAddr]) -> Result<IpAddr, String> {
    let mut why = String::new();
    for address in addresses {
        match greets_at(SocketAddr::new(*address, PORT)) {
            Ok(true) => return Ok(*address),
            Ok(false) => why += &format!("{address}: no SSH server of a guest greets; "),
            Err(error) => why += &format!("{address}: {error}; "),
        }
    }
    Err(if why.is_empty() { "no address is known".to_owned() } else { why })
}

/// Returns whether an SSH server of another host sends its greeting at this address.
fn greets_at(address: SocketAddr) -> io::Result<bool> {
    let deadline = Instant::now() + SSH_ANSWER;
    let mut stream = TcpStream::connect_timeout(&address, SSH_ANSWER)?;
    // When the kernel connects to one of its own addresses, both ends have the same address. A guest may report such
    // an address.
    if stream.local_addr()?.ip() == address.ip() {
        return Ok(false);
    }
    stream.set_read_timeout(Some(SSH_ANSWER))?;
    let (mut greeting, mut part) = (Vec::new(), [0; 256]);
    while !is_greeting(&greeting) {
        let read = stream.read(&mut part)?;
        greeting.extend_from_slice(part.get(..read).unwrap_or_default());
        if read == 0 || greeting.len() > SSH_GREETING_BYTES || Instant::now() > deadline {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns whether a line is the server's identification (RFC 4253, section 4.2); other lines may precede it.
pub(super) fn is_greeting(bytes: &[u8]) -> bool {
    bytes.split(|byte| *byte == b'\n').any(|line| line.starts_with(b"SSH-"))
}

/// Replaces this process with ssh(1), which logs in to the guest: `ssh [options] ADDRESS [words]`. Returns only if
/// that fails.
///
/// # Errors
/// When no address answers, or when ssh is not installed.
///
/// # Blocking
/// Some seconds for each address that does not answer, and as long as two calls.
pub fn ssh(config: &Config, id: &str, words: &[OsString]) -> Result<(), Error> {
    let client = Client::new(config)?;
    let progress = Progress::of(printable(&format!("looking for an address of {id}")));
    let guest = of_guest(id);
    let uuid = word(&client.call("Libvirt.Describe", &guest)?["uuid"]);
    let info = client.call("Libvirt.GuestInfo", &guest)?;
    let found = first_that_greets(&usable(&info["addresses"]));
    drop(progress);
    let address = found.map_err(|why| {
        let why = format!("cannot reach {id} by SSH: {why}; {}", word(&info["message"]));
        Error::Answered(why.trim_end_matches([';', ' ']).to_owned())
    })?;
    let error = command(address, &uuid, words).exec();
    Err(Error::Asked(format!("cannot run {SSH}: {error}")))
}

/// Makes the command. Guests get addresses that other guests had before, so ssh stores the host key by the guest's
/// uuid.
fn command(address: IpAddr, uuid: &str, words: &[OsString]) -> Command {
    let mut command = Command::new(SSH);
    command.arg("-o").arg(format!("HostKeyAlias={uuid}")).args(["-o", "CheckHostIP=no"]);
    command.arg(address.to_string()).args(words);
    command
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;
    use std::thread;

    use serde_json::json;

    use super::*;

    #[test]
    fn addresses_that_no_guest_has_are_left_out() {
        let listed = |all: &[&str]| {
            let all: Vec<_> = all.iter().map(|address| json!({ "address": address })).collect();
            let usable = usable(&json!(all)).into_iter().map(|address| address.to_string());
            usable.collect::<Vec<_>>().join(" ")
        };
        let odd = [
            "-oProxyCommand=touch /tmp/x",
            "a.example",
            "",
            "192.0.2.7/24",
            "192.0.2.1 ",
            "::1",
            "127.0.0.1",
            "::ffff:127.0.0.1",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
            "fe80::1",
            "fe80::1%eth0",
            "022.0.0.1",
        ];
        assert_eq!(listed(&odd), "");
        let order = ["169.254.1.2", "2001:db8::7", "192.0.2.7", "::ffff:192.0.2.8"];
        assert_eq!(listed(&order), "2001:db8::7 192.0.2.7 192.0.2.8 169.254.1.2");
        let many: Vec<String> = (0..40).map(|it| format!("192.0.2.{it}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(listed(&many).split(' ').count(), SSH_ADDRESSES);
        assert!(usable(&json!("192.0.2.7")).is_empty() && usable(&json!([7, {}])).is_empty());
    }

    #[test]
    fn a_greeting_is_a_line_that_begins_with_ssh() {
        for (bytes, is) in [
            (&b"SSH-2.0-OpenSSH_9.2p1\r\n"[..], true),
            (b"Go away\r\nSSH-2.0-x", true),
            (b"HTTP/1.1 400 SSH-2.0\r\n", false),
            (b"SSH", false),
            (b"", false),
        ] {
            assert_eq!(is_greeting(bytes), is, "{bytes:?}");
        }
    }

    #[test]
    fn an_ssh_server_of_this_host_is_no_guest() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // The client may have disconnected.
            let _ = stream.write_all(b"SSH-2.0-x\r\n");
        });
        assert!(matches!(greets_at(address), Ok(false)));
        server.join().unwrap();
    }

    #[test]
    fn ssh_gets_the_arguments_after_the_address() {
        let words = ["-l", "alice", "uptime"].map(OsString::from);
        let command = command("2001:db8::7".parse().unwrap(), "6a1f-2c7e", &words);
        let given: Vec<_> = command.get_args().map(|it| it.to_str().unwrap()).collect();
        let expected = "-o HostKeyAlias=6a1f-2c7e -o CheckHostIP=no 2001:db8::7 -l alice uptime";
        assert_eq!((command.get_program(), given.join(" ").as_str()), (SSH.as_ref(), expected));
    }
}
