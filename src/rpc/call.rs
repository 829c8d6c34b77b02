//! A call: its method, its parameters, and the envelope of its answer.

use std::time::{Duration, Instant};

use serde::de::Error as _;
use serde_json::value::RawValue;

use crate::guest::members::noting;
use crate::guest::seed::files::given as secrets_of;
use crate::ops;
use crate::os::peer::Share;
use crate::pool::{CallClass, CallShare};
use crate::rpc::as_job::{Execution, Mode, file_share, mode_of};
use crate::rpc::bound_method::BoundMethod;
use crate::rpc::encoder::Encoder;
use crate::rpc::envelope::Refusal;
use crate::rpc::strange;
use crate::rpc::table::Effect::{Changes, Reads};
use crate::rpc::table::{Callee, Method, Service};
use crate::rpc::target::Target;

/// The maximum length of a guest's id or dataset, in bytes.
const KEY_BYTES_MAX: usize = 512;

/// Returns the share that counts a call of this method; `None` if it calls neither libvirt nor the store.
fn share_of(callee: Callee, user: Share, target: &Target, waits: bool) -> Option<CallShare> {
    let (name, effect, method) = callee.entry;
    let class = match method {
        Method::Job(_) if effect == Changes => return Some(file_share(user)),
        Method::Events(_) | Method::Job(_) | Method::Jobs(_) => return None,
        Method::Leftovers(_) if effect == Reads => return None,
        _ if callee.service == Service::ImageStore => CallClass::Store,
        _ if name == "Poweroff" || name == "Thaw" => CallClass::Urgent,
        _ if name == "Delete" => CallClass::Delete,
        _ if name == "Trim" => CallClass::Trim,
        Method::Shutdown(_) if waits => CallClass::Shutdown,
        Method::GuestInfo(_) | Method::Login(_) => CallClass::Agent,
        _ if effect == Changes => CallClass::Change,
        _ if matches!(method, Method::Metrics(_) | Method::Screenshot(_)) => CallClass::Metrics,
        _ => CallClass::Read,
    };
    Some(share(class, user, &target.key()))
}

/// Returns the share that counts a call; a key longer than that of any guest counts as none.
pub(super) fn share(class: CallClass, user: Share, key: &str) -> CallShare {
    let guest = if key.len() <= KEY_BYTES_MAX { key.into() } else { "".into() };
    CallShare { class, user, guest }
}

/// A request in its envelope.
pub(super) trait EncodedRequest {
    /// Returns the parameter as it was written, if there is one. `known` are its allowed members.
    ///
    /// # Errors
    /// If it has others, where the envelope refuses them.
    fn params(&self, known: &[&str]) -> Result<Option<&RawValue>, Refusal>;

    /// Refuses or logs unknown members.
    ///
    /// # Errors
    /// Where they are refused.
    fn unknown(&self, callee: Callee, members: &[String]) -> Result<(), Refusal>;

    /// Returns whether members that would be replaced are refused.
    fn is_strict(&self) -> bool;

    /// Returns the refusal of a parameter that does not fit the method.
    fn unfit(&self, error: &serde_json::Error) -> Refusal;

    /// Returns when the call must run, where it may become a job and the envelope says when.
    ///
    /// # Errors
    /// If the envelope says it in an invalid form.
    fn execution(&self) -> Result<Execution<'_>, Refusal>;

    /// Returns the encoder for the envelope of the answer.
    fn encoder(&self) -> Encoder;
}

/// A parsed call that any thread can run.
pub(super) struct Call {
    pub(super) callee: Callee,
    pub(super) bound: Box<dyn BoundMethod>,
    pub(super) target: Target,
    pub(super) is_dry_run: bool,
    /// Whether its answer waits for the requested state of the guest, longer than a call's deadline.
    pub(super) waits: bool,
    pub(super) mode: Mode,
    pub(super) encoder: Encoder,
    pub(super) arrived: Instant,
    /// The timeout that the caller sets; `None` for the default, and for an invalid timeout, which the verb refuses.
    pub(super) timeout: Option<Duration>,
}

impl Call {
    /// Reads the parameters of a request that arrived at `arrived`.
    ///
    /// # Errors
    /// If they do not fit the method.
    pub(super) fn read(
        asked: &dyn EncodedRequest,
        callee: Callee,
        arrived: Instant,
    ) -> Result<Self, Refusal> {
        let mut bound = callee.entry.2.bind();
        let names = bound.names();
        // An error must not repeat a part of a secret.
        let without_secrets = |refusal: Refusal| match callee.entry.2 {
            Method::Login(_) => {
                let names = names.join(", ");
                let why = format!("expected an object with {names}; its content is secret");
                asked.unfit(&serde_json::Error::custom(why))
            }
            _ => refusal,
        };
        let written = asked.params(names).map_err(without_secrets)?;
        if let Some(written) = written {
            let (read, unknown) = noting(|| bound.read(written.get()));
            read.map_err(|error| without_secrets(asked.unfit(&error)))?;
            asked.unknown(callee, &strange::in_words(&unknown))?;
        }
        let params = bound.params_mut();
        let (waits, is_dry_run, mut target) =
            (params.waits(), params.is_dry_run(), params.target());
        let timeout = params.args().and_then(|args| ops::timeout(args).ok().flatten());
        params.set_strict(asked.is_strict());
        let mut mode = Mode::Run;
        if let (true, Some((guest, args))) = (callee.may_be_job(), params.for_job()) {
            let execution = asked.execution()?;
            if let Execution::ByJob(job) = execution {
                target.job = Some(job.to_owned());
            }
            let secret = guest.and_then(|guest| secrets_of(guest).first().copied());
            mode = mode_of(execution, ops::wants_job(args), (is_dry_run, waits), secret, written);
        }
        let encoder = asked.encoder();
        Ok(Self { callee, bound, target, is_dry_run, waits, mode, encoder, arrived, timeout })
    }

    /// Returns the share that counts the call.
    pub(super) fn share(&self, user: Share) -> Option<CallShare> {
        match self.mode {
            Mode::Run => share_of(self.callee, user, &self.target, self.waits),
            Mode::Job(_) => Some(file_share(user)),
            Mode::Fail(_) => None,
        }
    }
}
