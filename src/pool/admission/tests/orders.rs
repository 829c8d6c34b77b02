//! Every order in which a few callers can enter, request a lock, get it or give up, and leave,
//! while the pool stops at any point: all reachable states, and every step from each of them.

use std::collections::HashSet;

use super::*;

/// The callers, each with the index of its key.
const CALLERS: [Option<usize>; 6] = [Some(0), Some(0), Some(0), Some(1), None, Some(0)];

/// The state of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    Away,
    Inside,
    /// It has a ticket.
    Asked,
    /// It needs no lock any more, and has not left yet.
    Done,
    Gone,
}

/// The expected state: that of each caller, and the callers of each key in their order, the holder
/// first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    callers: [At; CALLERS.len()],
    lines: [Vec<usize>; 2],
    stopping: bool,
}

/// The expected state beside the admission after the same steps.
#[derive(Clone)]
struct Walk {
    world: World,
    admission: Admission,
    tickets: [Option<Ticket>; CALLERS.len()],
}

impl Walk {
    fn begin() -> Self {
        let world = World {
            callers: [At::Away; CALLERS.len()],
            lines: [Vec::new(), Vec::new()],
            stopping: false,
        };
        Self { world, admission: Admission::default(), tickets: [None; CALLERS.len()] }
    }

    /// Does a caller's next step; returns `false` if it has none.
    fn step(&mut self, caller: usize) -> bool {
        self.world.callers[caller] = match (self.world.callers[caller], CALLERS[caller]) {
            (At::Away, _) => {
                let is_in = self.admission.enter().is_ok();
                assert_eq!(is_in, !self.world.stopping);
                if is_in { At::Inside } else { At::Gone }
            }
            (At::Inside, Some(key)) => self.ask(caller, key),
            (At::Asked, Some(key)) => {
                self.end(caller, key);
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

    fn ask(&mut self, caller: usize, key: usize) -> At {
        let line = &mut self.world.lines[key];
        let ticket = self.admission.acquire(KEYS[key]);
        assert_eq!(ticket.is_ok(), !self.world.stopping);
        self.tickets[caller] = ticket.ok();
        if self.world.stopping {
            return At::Done;
        }
        line.push(caller);
        At::Asked
    }

    /// The holder releases, a waiter gives up, or a refused caller notices the refusal.
    fn end(&mut self, caller: usize, key: usize) {
        let line = &mut self.world.lines[key];
        match line.iter().position(|it| *it == caller) {
            Some(0) => {
                line.remove(0);
                let next = line.first().map(|next| self.tickets[*next].unwrap());
                assert_eq!(self.admission.release(KEYS[key]), next);
            }
            Some(place) => {
                line.remove(place);
                self.admission.give_up(KEYS[key], self.tickets[caller].unwrap());
            }
            None => assert!(self.world.stopping, "only a stop turns away"),
        }
    }

    fn stop(&mut self) -> bool {
        self.admission.stop();
        self.world.lines.iter_mut().for_each(|line| line.truncate(1));
        !std::mem::replace(&mut self.world.stopping, true)
    }

    fn check(&self) {
        let Self { world, admission, tickets } = self;
        let is_in = |at: &&At| !matches!(at, At::Away | At::Gone);
        assert_eq!(admission.callers(), world.callers.iter().filter(is_in).count(), "{world:?}");
        for (caller, ticket) in tickets.iter().enumerate() {
            let (Some(ticket), Some(key)) = (ticket, CALLERS[caller]) else { continue };
            let expected = match world.lines[key].iter().position(|it| *it == caller) {
                Some(0) => Place::Holder,
                Some(_) => Place::Waiting,
                None => Place::Gone,
            };
            assert_eq!(admission.place(KEYS[key], *ticket), expected, "{caller} in {world:?}");
        }
        let held = world.lines.iter().filter(|line| !line.is_empty()).count();
        let in_lines: usize = world.lines.iter().map(Vec::len).sum();
        assert_eq!((admission.keys_held(), admission.keys_waiting()), (held, in_lines - held));
        if world.callers.iter().all(|at| *at == At::Gone) {
            assert!(admission.keys.is_empty() && admission.callers() == 0, "{world:?}");
        }
    }
}

#[test]
fn limits_and_queues_hold_in_every_order_of_callers() {
    crate::cost::slow("tries every order of callers");
    let mut seen = HashSet::new();
    let mut walks = vec![Walk::begin()];
    let mut steps = 0;
    while let Some(walk) = walks.pop() {
        walk.check();
        if !seen.insert(walk.world.clone()) {
            continue;
        }
        for caller in 0..=CALLERS.len() {
            let mut next = walk.clone();
            let done = if caller < CALLERS.len() { next.step(caller) } else { next.stop() };
            steps += usize::from(done);
            walks.extend(done.then_some(next));
        }
    }
    assert!(seen.len() > 5_000, "{} states, {steps} steps", seen.len());
}
