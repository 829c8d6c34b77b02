//! Every order in which a few callers can enter, request a lock, get it or give up, and leave,
//! while the pool stops at any point: all reachable states, and every step from each of them.

use std::collections::HashSet;

use super::*;

/// The callers, each with the index of its lock.
const CALLERS: [Option<usize>; 6] = [Some(0), Some(0), Some(0), Some(1), None, Some(0)];

/// The state of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    Away,
    Inside,
    /// It has a ticket.
    Asked,
    /// It released its lock or did not get it, and has not left yet.
    Done,
    Gone,
}

/// The expected state: that of each caller, and the callers of each lock in their order, the holder
/// first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    callers: [At; CALLERS.len()],
    queues: [Vec<usize>; 2],
    stopping: bool,
}

/// The expected state beside the admission after the same steps.
#[derive(Clone)]
struct Search {
    world: World,
    admission: AdmissionState,
    tickets: [Option<LockTicket>; CALLERS.len()],
}

impl Search {
    fn begin() -> Self {
        let world = World {
            callers: [At::Away; CALLERS.len()],
            queues: [Vec::new(), Vec::new()],
            stopping: false,
        };
        Self { world, admission: AdmissionState::default(), tickets: [None; CALLERS.len()] }
    }

    /// Does a caller's next step; returns `false` if it has none.
    fn step(&mut self, caller: usize) -> bool {
        self.world.callers[caller] = match (self.world.callers[caller], CALLERS[caller]) {
            (At::Away, _) => {
                let is_in = self.admission.enter().is_ok();
                assert_eq!(is_in, !self.world.stopping);
                if is_in { At::Inside } else { At::Gone }
            }
            (At::Inside, Some(guest)) => self.ask(caller, guest),
            (At::Asked, Some(guest)) => {
                self.end(caller, guest);
                At::Done
            }
            (At::Inside | At::Asked | At::Done, _) => {
                self.admission.leave();
                At::Gone
            }
            (At::Gone, _) => return false,
        };
        true
    }

    fn ask(&mut self, caller: usize, guest: usize) -> At {
        let queue = &mut self.world.queues[guest];
        let ticket = self.admission.acquire(GUESTS[guest]);
        assert_eq!(ticket.is_ok(), !self.world.stopping);
        self.tickets[caller] = ticket.ok();
        if self.world.stopping {
            return At::Done;
        }
        queue.push(caller);
        At::Asked
    }

    /// The holder releases, a waiter gives up, or a refused caller notices the refusal.
    fn end(&mut self, caller: usize, guest: usize) {
        let queue = &mut self.world.queues[guest];
        match queue.iter().position(|it| *it == caller) {
            Some(0) => {
                queue.remove(0);
                let next = queue.first().map(|next| self.tickets[*next].unwrap());
                assert_eq!(self.admission.release(GUESTS[guest]), next);
            }
            Some(position) => {
                queue.remove(position);
                self.admission.give_up(GUESTS[guest], self.tickets[caller].unwrap());
            }
            None => assert!(self.world.stopping, "only a stop turns away"),
        }
    }

    fn stop(&mut self) -> bool {
        self.admission.stop();
        self.world.queues.iter_mut().for_each(|queue| queue.truncate(1));
        !std::mem::replace(&mut self.world.stopping, true)
    }

    fn check(&self) {
        let Self { world, admission, tickets } = self;
        let is_in = |at: &&At| !matches!(at, At::Away | At::Gone);
        assert_eq!(admission.callers(), world.callers.iter().filter(is_in).count(), "{world:?}");
        for (caller, ticket) in tickets.iter().enumerate() {
            let (Some(ticket), Some(guest)) = (ticket, CALLERS[caller]) else { continue };
            let expected = match world.queues[guest].iter().position(|it| *it == caller) {
                Some(0) => TicketState::Holder,
                Some(_) => TicketState::Waiting,
                None => TicketState::Gone,
            };
            assert_eq!(
                admission.ticket_state(GUESTS[guest], *ticket),
                expected,
                "{caller} in {world:?}"
            );
        }
        let held = world.queues.iter().filter(|queue| !queue.is_empty()).count();
        let in_queues: usize = world.queues.iter().map(Vec::len).sum();
        assert_eq!((admission.locks_held(), admission.locks_waiting()), (held, in_queues - held));
        if world.callers.iter().all(|at| *at == At::Gone) {
            assert!(admission.locks.is_empty() && admission.callers() == 0, "{world:?}");
        }
    }
}

#[test]
fn limits_and_queues_hold_in_every_order_of_callers() {
    crate::cost::slow("tries every order of callers");
    let mut seen = HashSet::new();
    let mut searches = vec![Search::begin()];
    let mut steps = 0;
    while let Some(search) = searches.pop() {
        search.check();
        if !seen.insert(search.world.clone()) {
            continue;
        }
        for caller in 0..=CALLERS.len() {
            let mut next = search.clone();
            let done = if caller < CALLERS.len() { next.step(caller) } else { next.stop() };
            steps += usize::from(done);
            searches.extend(done.then_some(next));
        }
    }
    assert!(seen.len() > 5_000, "{} states, {steps} steps", seen.len());
}
