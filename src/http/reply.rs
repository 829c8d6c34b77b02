//! The answer to a request that no handler has.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use super::Shortcut;
use super::exchange::Exchange;
use super::handlers;
use super::request::{Persistence, Version};
use super::respond::{self, EncodeError, Encoded, Wanted};
use super::shared::{Job, Shared};
use super::tally::NO_ROOM;
use crate::threads::{Reservation, panic_text};

/// What a request waits for whose shortcut has taken it. Dropped, it is 500 without a word.
pub struct Reply {
    exchange: Arc<Exchange>,
    shared: Arc<Shared>,
    version: Version,
    persistence: Persistence,
    wanted: Wanted,
    /// For the body, and for what is not sent at once.
    reservation: Reservation,
    is_sent: bool,
}

impl Reply {
    /// Sends what the socket takes at once; the front sends the rest.
    pub fn send(mut self, response: rouille::Response) {
        let limits = &self.shared.limits;
        // A short answer is mostly sent at once, and that of the agent's health must not be refused.
        let room = |bytes| bytes <= limits.answer_bytes || self.reservation.grow_to(bytes);
        let manner = (self.version, self.persistence());
        let encoded = respond::encode(response, self.wanted, manner, limits.response_bytes, room);
        self.deliver(encoded.unwrap_or_else(|error| match error {
            EncodeError::NoRoom => handlers::refuse(&NO_ROOM, self.version, &self.shared),
            EncodeError::Unusable(error) => {
                log::error!("cannot answer {}: unusable response: {error}", self.exchange.caller);
                respond::encode_failure(self.version, self.persistence())
            }
        }));
    }

    /// Asked late: what led to the answer may have taken long.
    fn persistence(&self) -> Persistence {
        if self.shared.is_stopping() { Persistence::Close } else { self.persistence }
    }

    fn deliver(&mut self, encoded: Encoded) {
        self.is_sent = true;
        let reservation = self.reservation.take();
        handlers::deliver(encoded, self.version, &self.exchange, &self.shared, reservation);
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.is_sent {
            if thread::panicking() {
                self.shared.tally.count_panic();
            }
            self.deliver(respond::encode_failure(self.version, self.persistence()));
        }
    }
}

/// Offers a request to the shortcut; whether it has taken it. A panic before it has done so leaves the
/// request to a handler.
pub(super) fn offer(shortcut: &Shortcut, job: &Job, shared: &Arc<Shared>) -> bool {
    let Job { request, exchange, .. } = job;
    let mut is_taken = false;
    let mut take = || {
        is_taken = true;
        reply(job, shared)
    };
    let outcome = catch_unwind(AssertUnwindSafe(|| shortcut(request, &exchange.caller, &mut take)));
    if let Err(payload) = outcome {
        // Where it was taken, its reply counts the panic.
        if !is_taken {
            shared.tally.count_panic();
        }
        let (method, target, text) = (&request.method, &request.target, panic_text(payload));
        log::error!("the shortcut for {method} {target} panicked: {text}");
    }
    is_taken
}

fn reply(job: &Job, shared: &Arc<Shared>) -> Reply {
    let Job { request, exchange, reservation, .. } = job;
    Reply {
        exchange: Arc::clone(exchange),
        shared: Arc::clone(shared),
        version: request.version,
        persistence: request.persistence,
        wanted: if request.method == "HEAD" { Wanted::Head } else { Wanted::All },
        reservation: reservation.take(),
        is_sent: false,
    }
}
