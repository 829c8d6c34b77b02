//! SetPassword and SetSshKeys: the guest agent changes how a user logs into a running guest.
//!
//! The guest agent writes these texts into lines of a file. A text with more than one line would therefore change
//! another user's entry. No error contains a password, even if the guest agent repeats it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::guest::wire::agent::LoginRequest;
use crate::guest::wire::{Guest, GuestResponse};
use crate::libvirt::{self, Domain};
use crate::ops::base64::base64;
use crate::ops::requests::{named_guest, respond};
use crate::ops::{Error, Guests, Question};

/// The prefixes of password hashes that some crypt(5) supports.
const HASHES: [&str; 9] = ["$1$", "$2a$", "$2b$", "$2y$", "$5$", "$6$", "$7$", "$y$", "$gy$"];

/// A command to a guest agent.
type Command = Box<dyn Fn(&Domain) -> Result<(), libvirt::Error> + Send>;

impl Guests {
    /// Sets the password of a user of a running guest, as text or as a hash of crypt(5). `virDomainSetUserPassword`.
    ///
    /// # Errors
    /// [`Error::NoGuest`] without an id; [`Error::Invalid`] names the invalid member; [`Error::AgentLeftAlone`]; errors
    /// of libvirt and the guest agent, for example that the guest is off or has no such user.
    ///
    /// # Blocking
    /// Up to [`Deadlines::read`](crate::config::Deadlines::read).
    pub fn set_password(&self, request: LoginRequest) -> Result<GuestResponse, Error> {
        let LoginRequest { guest, user, password, password_hash, ssh_keys, args } = request;
        check_user(&user)?;
        let has_hash = !password_hash.is_empty();
        if !ssh_keys.is_empty() || password.is_empty() != has_hash {
            return Err(invalid("SetPassword needs either password or password_hash"));
        }
        if has_hash && !HASHES.iter().any(|method| password_hash.starts_with(method)) {
            return Err(invalid("password_hash must be a hash of crypt(5), such as $6$..."));
        }
        let password = if has_hash { password_hash } else { password };
        check_line("the password", &password)?;
        let set = move |domain: &Domain| {
            let set = domain.set_password(&user, &password, has_hash);
            set.map_err(|error| without(&password, error))
        };
        self.by_agent("SetPassword", guest, &args, Box::new(set))
    }

    /// Replaces all SSH keys of a user of a running guest: the lines of the user's `authorized_keys`.
    /// `virDomainAuthorizedSSHKeysSet`.
    ///
    /// # Errors
    /// As [`Guests::set_password`].
    ///
    /// # Blocking
    /// As [`Guests::set_password`].
    pub fn set_ssh_keys(&self, request: LoginRequest) -> Result<GuestResponse, Error> {
        let LoginRequest { guest, user, password, password_hash, ssh_keys, args } = request;
        check_user(&user)?;
        if ssh_keys.is_empty() || !password.is_empty() || !password_hash.is_empty() {
            return Err(invalid("SetSshKeys needs ssh_keys, and takes no password"));
        }
        for key in &ssh_keys {
            check_line("a key of ssh_keys", key)?;
        }
        let set = move |domain: &Domain| domain.set_ssh_keys(&user, &ssh_keys);
        self.by_agent("SetSshKeys", guest, &args, Box::new(set))
    }

    fn by_agent(
        &self,
        verb: &'static str,
        guest: Option<Guest>,
        args: &BTreeMap<String, String>,
        command: Command,
    ) -> Result<GuestResponse, Error> {
        let guest = named_guest(guest)?;
        let deadline = self.core.read_deadline(args)?;
        let (id, agents) = (guest.id.clone(), Arc::clone(&self.agents));
        let question = Question::new(verb, guest.id.clone(), deadline, move |session| {
            let domain = session.domain(&id)?;
            let agent_guard = agents.agent_guard(&id, verb).map_err(Error::AgentLeftAlone)?;
            agent_guard.command(&domain, &*command)
        });
        self.core.ask(question.of_emulator())?;
        Ok(respond(guest))
    }
}

fn invalid(why: &str) -> Error {
    Error::Invalid(why.to_owned())
}

/// # Errors
/// [`Error::Invalid`] for a name that no user has, and that would be more than a name in the guest agent's lines.
fn check_user(user: &str) -> Result<(), Error> {
    match user.contains(':') {
        true => Err(invalid("user must not contain a colon")),
        false => check_line("user", user),
    }
}

/// # Errors
/// [`Error::Invalid`], without the text, which may be secret.
fn check_line(what: &str, text: &str) -> Result<(), Error> {
    match text.is_empty() || text.chars().any(char::is_control) {
        true => Err(Error::Invalid(format!("{what} must be one line of text"))),
        false => Ok(()),
    }
}

/// Removes a password from an error of a guest agent, both as text and in base64, as the command contains it.
fn without(password: &str, error: libvirt::Error) -> libvirt::Error {
    let repeats = [password, &base64(password.as_bytes())];
    match repeats.iter().any(|secret| error.message.contains(secret)) {
        true => libvirt::Error { message: "the guest agent refused it".to_owned(), ..error },
        false => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libvirt::{Code, ErrorDomain};

    #[test]
    fn a_guest_agents_error_does_not_repeat_a_password() {
        let of = |message: &str| {
            let (code, domain) = (Code::INTERNAL_ERROR, ErrorDomain::RPC);
            let error = libvirt::Error { code, domain, message: message.to_owned(), call: "" };
            without("correct horse", error).message
        };
        assert_eq!(of("no user alice"), "no user alice");
        for reported in ["not correct horse!", "Y29ycmVjdCBob3JzZQ== fails"] {
            assert_eq!(of(reported), "the guest agent refused it");
        }
    }
}
