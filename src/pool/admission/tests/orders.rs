//! Every order in which a few callers can come, ask for a key, get it or give up, and leave, while
//! the pool stops anywhere: all states that there are, and from each of them every step.

use std::collections::HashSet;

use super::*;

/// Who comes, and for which key: one more than each limit of [`FEW`] lets in.
const CALLERS: [(Ration, Option<usize>); 6] = [
    (Ration::Change, Some(0)),
    (Ration::Change, Some(0)),
    (Ration::Change, Some(0)),
    (Ration::Change, Some(1)),
    (Ration::Read, None),
    (Ration::Any, Some(0)),
];
const FEW: PoolLimits =
    PoolLimits { waiting_change: 3, waiting_read: 4, waiting_any: 5, waiting_key: 2, ..LIMITS };

/// Where a caller is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    Away,
    Inside,
    /// It has a ticket.
    Asked,
    /// It wants nothing more, and has yet to leave.
    Done,
    Gone,
}

/// What must be so: where all are, and the callers of each key in their order, the holder first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    callers: [At; CALLERS.len()],
    lines: [Vec<usize>; 2],
    stopping: bool,
}

/// The world beside the admission that has come to the same.
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
        Self { world, admission: Admission::new(&FEW), tickets: [None; CALLERS.len()] }
    }

    /// Lets a caller do the next thing; `false` where there is none.
    fn step(&mut self, caller: usize) -> bool {
        let (ration, wanted) = CALLERS[caller];
        self.world.callers[caller] = match (self.world.callers[caller], wanted) {
            (At::Away, _) => {
                let expected = self.refusal(ration);
                assert_eq!(self.admission.enter(ration).err(), expected);
                if expected.is_some() { At::Gone } else { At::Inside }
            }
            (At::Inside, Some(key)) => self.ask(caller, key),
            (At::Asked, Some(key)) => {
                self.end(caller, key);
                At::Done
            }
            (At::Inside | At::Asked | At::Done, _) => {
                self.admission.leave(ration);
                At::Gone
            }
            (At::Gone, _) => return false,
        };
        true
    }

    fn ask(&mut self, caller: usize, key: usize) -> At {
        let line = &mut self.world.lines[key];
        let expected = match line.len() {
            _ if self.world.stopping => Some(Refusal::Stopping),
            callers if callers > FEW.waiting_key => Some(Refusal::Key),
            _ => None,
        };
        let ticket = self.admission.acquire(KEYS[key]);
        assert_eq!(ticket.err(), expected);
        self.tickets[caller] = ticket.ok();
        if expected.is_some() {
            return At::Done;
        }
        line.push(caller);
        At::Asked
    }

    /// The holder is done, who waits gives up, and who was turned away has seen it.
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

    /// Why a caller of this ration would have to be turned away.
    fn refusal(&self, ration: Ration) -> Option<Refusal> {
        let inside = |rations: &[Ration]| {
            let is_in = |at: At| !matches!(at, At::Away | At::Gone);
            let all = CALLERS.iter().zip(self.world.callers);
            all.filter(|((ration, _), at)| rations.contains(ration) && is_in(*at)).count()
        };
        let (change, read) = (Ration::Change, Ration::Read);
        let full = [
            (change, inside(&[change]) >= FEW.waiting_change),
            (read, inside(&[change, read]) >= FEW.waiting_read),
            (Ration::Any, inside(&[change, read, Ration::Any]) >= FEW.waiting_any),
        ];
        let counts = match ration {
            Ration::Change => &full[..],
            Ration::Read => &full[1..],
            Ration::Any => &full[2..],
        };
        let first = counts.iter().find(|(_, is_full)| *is_full);
        let callers = first.map(|(ration, _)| Refusal::Callers(*ration));
        if self.world.stopping { Some(Refusal::Stopping) } else { callers }
    }

    fn check(&self) {
        let Self { world, admission, tickets } = self;
        for ration in [Ration::Change, Ration::Read, Ration::Any] {
            assert_eq!(admission.would_refuse(ration), self.refusal(ration), "{world:?}");
        }
        for (caller, ticket) in tickets.iter().enumerate() {
            let (Some(ticket), Some(key)) = (ticket, CALLERS[caller].1) else { continue };
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
fn in_every_order_of_callers_the_limits_and_the_lines_hold() {
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
