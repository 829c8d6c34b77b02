//! Each rule of the admission by name, then every order of a few callers, then any sequence of events
//! against a slow, plain model.

mod orders;

use proptest::prelude::*;

use super::*;

const LIMITS: PoolLimits = PoolLimits {
    control_workers: 1,
    read_workers: 1,
    urgent_workers: 1,
    storage_workers: 1,
    queue: 1,
    waiting_change: 3,
    waiting_read: 5,
    waiting_any: 6,
    batches_per_caller: 2,
    batch_helpers: 1,
    waiting_key: 2,
    stuck: 8,
    stuck_age: std::time::Duration::from_secs(60),
};

fn enter(admission: &mut Admission, ration: Ration, times: usize) {
    for _ in 0..times {
        admission.enter(ration).unwrap();
    }
}

#[test]
fn changes_stop_at_their_ration_and_leave_room_for_reads_and_urgent() {
    let mut admission = Admission::new(&LIMITS);
    enter(&mut admission, Ration::Change, 3);
    assert_eq!(admission.enter(Ration::Change), Err(Refusal::Callers(Ration::Change)));
    enter(&mut admission, Ration::Read, 2);
    assert_eq!(admission.enter(Ration::Read), Err(Refusal::Callers(Ration::Read)));
    enter(&mut admission, Ration::Any, 1);
    assert_eq!(admission.enter(Ration::Any), Err(Refusal::Callers(Ration::Any)));
    assert_eq!(admission.callers(), 6);
}

#[test]
fn reads_and_urgent_use_up_what_changes_may_take() {
    let mut admission = Admission::new(&LIMITS);
    enter(&mut admission, Ration::Read, 4);
    enter(&mut admission, Ration::Change, 1);
    assert_eq!(admission.enter(Ration::Change), Err(Refusal::Callers(Ration::Read)));
    enter(&mut admission, Ration::Any, 1);
    admission.leave(Ration::Read);
    enter(&mut admission, Ration::Any, 1);
    assert_eq!(admission.enter(Ration::Change), Err(Refusal::Callers(Ration::Any)));
}

#[test]
fn a_refused_caller_is_not_counted_and_one_that_leaves_makes_room() {
    let mut admission = Admission::new(&LIMITS);
    enter(&mut admission, Ration::Change, 3);
    for _ in 0..10 {
        assert!(admission.enter(Ration::Change).is_err());
    }
    assert_eq!(admission.callers(), 3);
    admission.leave(Ration::Change);
    enter(&mut admission, Ration::Change, 1);
}

#[test]
fn a_key_goes_on_in_order_of_arrival() {
    let mut admission = Admission::new(&LIMITS);
    let tickets = [(); 3].map(|()| admission.acquire("a").unwrap());
    assert_eq!(admission.place("a", tickets[0]), Place::Holder);
    assert_eq!(admission.place("a", tickets[1]), Place::Waiting);
    assert_eq!(admission.release("a"), Some(tickets[1]));
    assert_eq!(admission.place("a", tickets[0]), Place::Gone);
    assert_eq!(admission.place("a", tickets[1]), Place::Holder);
    assert_eq!(admission.release("a"), Some(tickets[2]));
    assert_eq!(admission.release("a"), None);
    assert_eq!(admission.keys_held(), 0);
}

#[test]
fn one_key_does_not_block_another() {
    let mut admission = Admission::new(&LIMITS);
    for _ in 0..3 {
        admission.acquire("a").unwrap();
    }
    assert_eq!(admission.acquire("a"), Err(Refusal::Key));
    let other = admission.acquire("b").unwrap();
    assert_eq!(admission.place("b", other), Place::Holder);
}

#[test]
fn who_gives_up_is_passed_over_and_makes_room() {
    let mut admission = Admission::new(&LIMITS);
    let [_, second, third] = [(); 3].map(|()| admission.acquire("a").unwrap());
    admission.give_up("a", second);
    assert_eq!(admission.place("a", second), Place::Gone);
    let fourth = admission.acquire("a").unwrap();
    assert_eq!(admission.release("a"), Some(third));
    assert_eq!(admission.release("a"), Some(fourth));
}

#[test]
fn stop_lets_nobody_in_and_turns_the_waiting_away_but_not_the_holder() {
    let mut admission = Admission::new(&LIMITS);
    enter(&mut admission, Ration::Change, 1);
    let [holder, waiter] = [(); 2].map(|()| admission.acquire("a").unwrap());
    admission.stop();
    assert_eq!(admission.enter(Ration::Any), Err(Refusal::Stopping));
    assert_eq!(admission.acquire("b"), Err(Refusal::Stopping));
    assert_eq!(admission.place("a", holder), Place::Holder);
    assert_eq!(admission.place("a", waiter), Place::Gone);
    assert_eq!(admission.callers(), 1);
    assert_eq!(admission.release("a"), None);
}

/// An event; numbers pick, modulo, among what is there at the time.
#[derive(Clone, Debug)]
enum Event {
    Enter(Ration),
    Leave(usize),
    Acquire(usize),
    GiveUp(usize, usize),
    Release(usize),
    Stop,
}

fn event() -> impl Strategy<Value = Event> {
    let ration = prop_oneof![Just(Ration::Change), Just(Ration::Read), Just(Ration::Any)];
    prop_oneof![
        8 => ration.prop_map(Event::Enter),
        4 => any::<usize>().prop_map(Event::Leave),
        8 => (0..KEYS.len()).prop_map(Event::Acquire),
        3 => (0..KEYS.len(), any::<usize>()).prop_map(|(key, n)| Event::GiveUp(key, n)),
        5 => (0..KEYS.len()).prop_map(Event::Release),
        1 => Just(Event::Stop),
    ]
}

const KEYS: [&str; 3] = ["a", "b", "c"];

/// What must be so, kept the slow and plain way: who is in, and each key's holder and waiters.
#[derive(Default)]
struct Model {
    inside: Vec<Ration>,
    lines: [VecDeque<Ticket>; 3],
    left: Vec<(usize, Ticket)>,
    stopping: bool,
}

impl Model {
    fn apply(&mut self, admission: &mut Admission, event: Event) {
        match event {
            Event::Enter(ration) => {
                let fits = !self.stopping && self.fits(ration);
                assert_eq!(admission.enter(ration).is_ok(), fits);
                self.inside.extend(fits.then_some(ration));
            }
            Event::Leave(n) if !self.inside.is_empty() => {
                admission.leave(self.inside.swap_remove(n % self.inside.len()));
            }
            Event::Acquire(key) => {
                let fits = !self.stopping && self.lines[key].len() <= LIMITS.waiting_key;
                let ticket = admission.acquire(KEYS[key]);
                assert_eq!(ticket.is_ok(), fits);
                self.lines[key].extend(ticket.ok());
            }
            Event::GiveUp(key, n) if self.lines[key].len() > 1 => {
                let waiters = self.lines[key].len() - 1;
                let ticket = self.lines[key].remove(1 + n % waiters).unwrap();
                admission.give_up(KEYS[key], ticket);
                self.left.push((key, ticket));
            }
            Event::Release(key) => {
                let holder = self.lines[key].pop_front();
                self.left.extend(holder.map(|ticket| (key, ticket)));
                assert_eq!(admission.release(KEYS[key]), self.lines[key].front().copied());
            }
            Event::Stop => {
                admission.stop();
                self.stopping = true;
                for (key, line) in self.lines.iter_mut().enumerate() {
                    let turned_away = line.split_off(line.len().min(1));
                    self.left.extend(turned_away.into_iter().map(|ticket| (key, ticket)));
                }
            }
            Event::Leave(_) | Event::GiveUp(..) => {}
        }
    }

    fn fits(&self, ration: Ration) -> bool {
        let inside = |rations: &[Ration]| {
            self.inside.iter().filter(|ration| rations.contains(ration)).count()
        };
        let change = inside(&[Ration::Change]) < LIMITS.waiting_change;
        let read = inside(&[Ration::Change, Ration::Read]) < LIMITS.waiting_read;
        let any = self.inside.len() < LIMITS.waiting_any;
        match ration {
            Ration::Change => change && read && any,
            Ration::Read => read && any,
            Ration::Any => any,
        }
    }

    fn check(&self, admission: &Admission) {
        assert_eq!(admission.callers(), self.inside.len());
        assert_eq!(admission.change.callers, self.count(Ration::Change));
        let reads = self.count(Ration::Read) + self.count(Ration::Change);
        assert_eq!(admission.read.callers, reads);
        for (key, line) in KEYS.iter().zip(&self.lines) {
            for (position, &ticket) in line.iter().enumerate() {
                let place = if position == 0 { Place::Holder } else { Place::Waiting };
                assert_eq!(admission.place(key, ticket), place);
            }
        }
        for &(key, ticket) in &self.left {
            assert_eq!(admission.place(KEYS[key], ticket), Place::Gone);
        }
        let held = self.lines.iter().filter(|line| !line.is_empty()).count();
        assert_eq!(admission.keys_held(), held);
        let tickets: usize = self.lines.iter().map(VecDeque::len).sum();
        assert_eq!(admission.keys_waiting(), tickets - held);
    }

    fn count(&self, ration: Ration) -> usize {
        self.inside.iter().filter(|&&inside| inside == ration).count()
    }
}

proptest! {
    #[test]
    fn any_sequence_keeps_the_limits_and_the_lines(
        events in proptest::collection::vec(event(), 0..120),
    ) {
        let mut admission = Admission::new(&LIMITS);
        let mut model = Model::default();
        for event in events {
            model.apply(&mut admission, event);
            model.check(&admission);
        }
        while !model.inside.is_empty() {
            model.apply(&mut admission, Event::Leave(0));
        }
        for key in 0..KEYS.len() {
            while !model.lines[key].is_empty() {
                model.apply(&mut admission, Event::Release(key));
            }
        }
        model.check(&admission);
        assert!(admission.keys.is_empty());
        let left = [&admission.change, &admission.read, &admission.any];
        assert!(left.iter().all(|count| count.callers == 0));
    }
}
