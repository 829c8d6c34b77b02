//! Accepts connections.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::config::HttpLimits;
use crate::config::fixed::{LAST_ARRIVALS, SPARE_CONNECTIONS};
use crate::http::auth::peer_auth::{self, PeerAuth, Verdict};
use crate::http::http_stats::{Reason, Refusal};
use crate::http::rate_limited_log::RateLimitedLog;
use crate::http::socket::Stream;
use crate::os::peer::Caller;
use crate::os::poll::{self, Interest, PeerState, PollSet};
use crate::sorted::OrderBy;
use crate::threads::ByteBudget;

use super::connection::{Connection, ConnectionKind, Round, StepOutcome};
use super::listener::Listener;

pub(super) const BUSY: Refusal =
    Refusal { reason: Reason::Busy, sentence: "busy: too many connections" };

/// Connections that one listener accepts in its last round, where new connections could not be refused: more
/// than the kernel's backlog of the agent.
const LAST_ACCEPTS: usize = 4096;

/// The listening sockets, and the decision which callers may connect.
pub(super) struct Acceptor {
    listeners: Vec<Listener>,
    peer_auth: PeerAuth,
    /// Connections whose callers are still being authorized: nothing is read from them.
    waiting: Vec<Waiting>,
    /// Set while accepting pauses.
    accept_from: Option<Instant>,
    /// Set once the stop has started.
    closes_at: Option<Instant>,
    /// Limits the log lines about failures to accept.
    failures: RateLimitedLog,
}

struct Waiting {
    stream: Stream,
    caller: Caller,
    since: Instant,
}

impl Acceptor {
    pub(super) fn new(listeners: Vec<Listener>, peer_auth: PeerAuth) -> Self {
        let (waiting, failures) = (Vec::new(), RateLimitedLog::default());
        Self { listeners, peer_auth, waiting, accept_from: None, closes_at: None, failures }
    }

    /// Returns the number of sockets that [`Acceptor::fill`] adds to a set.
    pub(super) fn listeners(&self) -> usize {
        self.listeners.len()
    }

    /// Adds the listening sockets to the set, which so far contains only the waker.
    pub(super) fn fill(&self, set: &mut PollSet) {
        for listener in &self.listeners {
            match self.accept_from {
                Some(_) => set.skip(),
                None => set.add(listener, Interest::Read),
            };
        }
    }

    /// Returns when there is work without an event of a socket.
    pub(super) fn deadline(&self, limits: &HttpLimits) -> Option<Instant> {
        let waiting = self.waiting.iter().filter_map(|it| it.since.checked_add(limits.request));
        let closes_at = self.closes_at.filter(|_| !self.listeners.is_empty());
        waiting.chain(self.accept_from.or(closes_at)).min()
    }

    /// Refuses new connections, and closes the listeners after it has accepted their backlog.
    pub(super) fn close(&mut self) {
        if self.closes_at.is_none() {
            self.listeners.retain_mut(Listener::turn_away);
            self.closes_at = Instant::now().checked_add(LAST_ARRIVALS);
        }
    }

    /// Returns whether all listeners are closed and no connection waits for authorization.
    pub(super) fn is_empty(&self) -> bool {
        self.listeners.is_empty() && self.waiting.is_empty()
    }

    /// Accepts new connections, and serves waiting ones whose callers are authorized by now.
    pub(super) fn admit(
        &mut self,
        set: &PollSet,
        connections: &mut Vec<Connection>,
        round: &mut Round<'_>,
    ) {
        if !self.waiting.is_empty() {
            self.look_again(connections, round);
        }
        self.accept_from = self.accept_from.filter(|from| *from > round.now);
        let is_due = self.closes_at.is_some_and(|at| at <= round.now);
        let is_last = is_due && self.accept_from.is_none();
        // A few per round: with one, a flood would fill the kernel's backlog, where all other callers wait;
        // without a limit, a flood would delay the accepted connections.
        let most = if is_last { LAST_ACCEPTS } else { round.shared.limits.accepts };
        for index in 0..self.listeners.len() {
            if !is_last && !set.is_ready(1 + index) {
                continue;
            }
            for _ in 0..most {
                let Some(listener) = self.listeners.get(index) else { break };
                match listener.accept() {
                    Ok((stream, address)) => self.accept(stream, address, connections, round),
                    Err(error) => match error.kind() {
                        io::ErrorKind::WouldBlock => break,
                        // An error of one connection, or an interrupted call.
                        io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted => {}
                        _ => {
                            self.pause(&error, round);
                            break;
                        }
                    },
                }
            }
        }
        if is_last && self.accept_from.is_none() {
            self.listeners.clear();
        }
    }

    /// Accepts nothing for a time, in which the missing resource may become free.
    fn pause(&mut self, error: &io::Error, round: &Round<'_>) {
        self.accept_from = round.now.checked_add(round.shared.limits.accept_pause);
        if let Some(more) = self.failures.now(round.now) {
            log::error!("accept failed: {error}; retrying; suppressed={more}");
        }
    }

    fn accept(
        &mut self,
        stream: Stream,
        address: Option<SocketAddr>,
        connections: &mut Vec<Connection>,
        round: &mut Round<'_>,
    ) {
        match self.peer_auth.identify(&stream, address) {
            Some(caller) => {
                self.judge(Waiting { stream, caller, since: round.now }, connections, round);
            }
            None => round.shared.stats.count_denied(),
        }
    }

    /// Serves a connection, refuses it, or lets it wait for the group lookup.
    fn judge(
        &mut self,
        pending: Waiting,
        connections: &mut Vec<Connection>,
        round: &mut Round<'_>,
    ) {
        let limits = &round.shared.limits;
        let why = match self.peer_auth.judge(&pending.caller, limits, round.now) {
            Verdict::Allowed => return self.register(pending, connections, round),
            Verdict::Denied if pending.caller.peer.is_some() => "not allowed to call",
            Verdict::Denied => "disconnected before its user was known, or not on this host",
            Verdict::Unknown => {
                let same = self.waiting.iter().filter(|it| it.caller.peer == pending.caller.peer);
                let (all, same) = (self.waiting.len(), same.count());
                let is_late = pending.since.checked_add(limits.request) <= Some(round.now);
                if !is_late && all < limits.unknown && same < limits.unknown_per_caller {
                    self.waiting.push(pending);
                    return;
                }
                "timed out looking up the groups of the user"
            }
        };
        round.shared.stats.count_denied();
        self.peer_auth.log_denied(&pending.caller, why, round.now);
    }

    fn look_again(&mut self, connections: &mut Vec<Connection>, round: &mut Round<'_>) {
        let limits = &round.shared.limits;
        let has_learned = self.peer_auth.learn(limits, round.now);
        if has_learned || self.deadline(limits).is_some_and(|deadline| deadline <= round.now) {
            for pending in std::mem::take(&mut self.waiting) {
                self.judge(pending, connections, round);
            }
        }
    }

    /// Serves a connection whose caller may call. Over a limit it replaces an idle connection of the same
    /// caller. If that caller has none, the front answers that it is busy.
    fn register(&self, pending: Waiting, connections: &mut Vec<Connection>, round: &mut Round<'_>) {
        let Waiting { stream, caller, .. } = pending;
        let limits = &round.shared.limits;
        if let Err(error) = stream.prepare() {
            log::debug!("cannot accept the connection of {caller}: {error}");
            return;
        }
        let served = connections.iter().filter(|it| it.kind() == ConnectionKind::Served);
        let has_room = peer_auth::has_room(&caller, served.map(Connection::caller), limits);
        // The budget is taken first, as the idle connection may be the last that holds the caller's budget.
        let budget = Self::budget_of(&caller, connections, round);
        if has_room || evict_idle(&caller, connections, round) {
            connections.push(Connection::new(
                stream,
                caller,
                ConnectionKind::Served,
                round.now,
                &budget,
            ));
            return;
        }
        let mut connection =
            Connection::new(stream, caller, ConnectionKind::Spare, round.now, &budget);
        let outcome = connection.refuse(BUSY, round);
        let spare = connections.iter().filter(|it| it.kind() == ConnectionKind::Spare).count();
        if spare < SPARE_CONNECTIONS && !matches!(outcome, StepOutcome::Closed) {
            connections.push(connection);
        }
    }

    /// Returns the byte budget of this caller, which its connections share.
    fn budget_of(
        caller: &Caller,
        connections: &[Connection],
        round: &Round<'_>,
    ) -> Arc<ByteBudget> {
        let (share, shared) = (caller.share(), round.shared);
        if let Some(other) = connections.iter().find(|it| it.caller().share() == share) {
            return Arc::clone(other.budget());
        }
        let whole = if share.is_privileged() { &shared.budget } else { &shared.others_budget };
        whole.part(shared.limits.held_per_caller_bytes)
    }
}

/// Closes the longest idle connection of this caller to make room for a new one; returns whether there was
/// one. The connections of other callers stay, however long they are idle.
///
/// A connection stays open, as at the end of its idle time, if a request has arrived by now or may be in
/// flight.
fn evict_idle(caller: &Caller, connections: &mut Vec<Connection>, round: &Round<'_>) -> bool {
    let (share, age_min) = (caller.share(), round.shared.limits.idle_before_eviction);
    let is_old = |since: &Instant| round.now.saturating_duration_since(*since) >= age_min;
    let mut idle: Vec<(Instant, usize)> = connections
        .iter()
        .enumerate()
        .filter(|(_, it)| it.kind() == ConnectionKind::Served && it.caller().share() == share)
        .filter_map(|(index, it)| Some((it.idle_since().filter(is_old)?, index)))
        .collect();
    idle.order_by(&Ord::cmp);
    let is_quiet = |index: &usize| {
        let connection = connections.get(*index);
        // The front reads what has arrived, including an end of the stream, in its next round.
        connection.is_some_and(|it| matches!(poll::peer_state(it.stream()), Ok(PeerState::Idle)))
    };
    let Some(longest) = idle.into_iter().map(|(_, index)| index).find(is_quiet) else {
        return false;
    };
    let closed = connections.swap_remove(longest);
    log::debug!("closed an idle connection of {}: the caller opened another", closed.caller());
    true
}
