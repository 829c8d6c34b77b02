//! The answer of a call in the envelope of its request: JSON-RPC 1.0 or 2.0.

use crate::ops::Error;
use crate::rpc::envelope::Id;
use crate::rpc::inbound::Inbound;
use crate::rpc::json::Writer;
use crate::rpc::target::Target;
use crate::rpc::texts;
use crate::rpc::v1::answers as v1;
use crate::rpc::v2::answers as v2;
use crate::rpc::v2::errors::Failure;

/// Writes the answer of a call. A request without an id is a notification, which is never answered.
#[derive(Clone, Debug)]
pub(super) enum Encoder {
    /// JSON-RPC 1.0, which ends with a line feed.
    V1(Option<Id>),
    /// JSON-RPC 2.0, without a line feed.
    V2(Option<Id>),
}

impl Encoder {
    /// Returns the answer, if the request gets one: with the result of the writer, or the error of a call about
    /// this target.
    pub(super) fn answer(
        &self,
        outcome: Result<Writer<'_>, &Error>,
        target: &Target,
    ) -> Option<Vec<u8>> {
        match (self, outcome) {
            (Self::V1(id), Ok(write)) => Some(v1::encode_success(write, id.as_ref()?)),
            (Self::V1(id), Err(error)) => {
                Some(v1::encode_error(&texts::on_old_path(error), id.as_ref()?))
            }
            // The answer is mostly the request's guest again, so the buffer rarely grows.
            (Self::V2(id), Ok(write)) => v2::success(id.as_ref(), 1024, write),
            (Self::V2(id), Err(error)) => v2::fail(id.as_ref(), &Failure::of(error, target)),
        }
    }

    /// Returns this answer, or an error of JSON-RPC 2.0 if the answer exceeds the memory budget. JSON-RPC 1.0 has no such
    /// error: there the connection refuses the answer.
    pub(super) fn fit(
        &self,
        answer: Option<Vec<u8>>,
        inbound: &dyn Inbound,
        changes: bool,
    ) -> Option<Vec<u8>> {
        match (self, &answer) {
            (Self::V2(id), Some(it)) if !inbound.reserve_answer(it.len()) => {
                v2::without_room(id.as_ref(), changes)
            }
            _ => answer,
        }
    }
}
