//! Each rule of the admission by name, then every order of a few callers, then random sequences of
//! events against a slow, plain model.

mod orders;

use proptest::prelude::*;

use super::*;

#[test]
fn guest_lock_passes_on_in_order_of_arrival() {
    let mut admission = Admission::default();
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
    let mut admission = Admission::default();
    for _ in 0..3 {
        admission.acquire("a").unwrap();
    }
    let other = admission.acquire("b").unwrap();
    assert_eq!(admission.place("b", other), Place::Holder);
}

#[test]
fn waiter_that_gave_up_is_skipped() {
    let mut admission = Admission::default();
    let [_, second, third] = [(); 3].map(|()| admission.acquire("a").unwrap());
    admission.give_up("a", second);
    assert_eq!(admission.place("a", second), Place::Gone);
    let fourth = admission.acquire("a").unwrap();
    assert_eq!(admission.release("a"), Some(third));
    assert_eq!(admission.release("a"), Some(fourth));
}

#[test]
fn stop_refuses_waiting_callers_but_not_the_holder() {
    let mut admission = Admission::default();
    admission.enter().unwrap();
    let [holder, waiter] = [(); 2].map(|()| admission.acquire("a").unwrap());
    admission.stop();
    assert_eq!(admission.enter(), Err(Stopping));
    assert_eq!(admission.acquire("b"), Err(Stopping));
    assert_eq!(admission.place("a", holder), Place::Holder);
    assert_eq!(admission.place("a", waiter), Place::Gone);
    assert_eq!(admission.callers(), 1);
    assert_eq!(admission.release("a"), None);
}

/// An event; its numbers select, modulo, one of the callers or keys of that moment.
#[derive(Clone, Debug)]
enum Event {
    Enter,
    Leave,
    Acquire(usize),
    GiveUp(usize, usize),
    Release(usize),
    Stop,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => Just(Event::Enter),
        4 => Just(Event::Leave),
        8 => (0..KEYS.len()).prop_map(Event::Acquire),
        3 => (0..KEYS.len(), any::<usize>()).prop_map(|(key, n)| Event::GiveUp(key, n)),
        5 => (0..KEYS.len()).prop_map(Event::Release),
        1 => Just(Event::Stop),
    ]
}

const KEYS: [&str; 3] = ["a", "b", "c"];

/// The expected state, computed in a slow and plain way: the callers, and each key's holder and
/// waiters.
#[derive(Default)]
struct Model {
    inside: usize,
    lines: [VecDeque<Ticket>; 3],
    left: Vec<(usize, Ticket)>,
    stopping: bool,
}

impl Model {
    fn apply(&mut self, admission: &mut Admission, event: Event) {
        match event {
            Event::Enter => {
                assert_eq!(admission.enter().is_ok(), !self.stopping);
                self.inside += usize::from(!self.stopping);
            }
            Event::Leave if self.inside > 0 => {
                admission.leave();
                self.inside -= 1;
            }
            Event::Acquire(key) => {
                let ticket = admission.acquire(KEYS[key]);
                assert_eq!(ticket.is_ok(), !self.stopping);
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
            Event::Leave | Event::GiveUp(..) => {}
        }
    }

    fn check(&self, admission: &Admission) {
        assert_eq!(admission.callers(), self.inside);
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
}

proptest! {
    #[test]
    fn any_sequence_keeps_the_limits_and_the_lines(
        events in proptest::collection::vec(event(), 0..120),
    ) {
        let mut admission = Admission::default();
        let mut model = Model::default();
        for event in events {
            model.apply(&mut admission, event);
            model.check(&admission);
        }
        while model.inside > 0 {
            model.apply(&mut admission, Event::Leave);
        }
        for key in 0..KEYS.len() {
            while !model.lines[key].is_empty() {
                model.apply(&mut admission, Event::Release(key));
            }
        }
        model.check(&admission);
        assert!(admission.keys.is_empty());
        assert_eq!(admission.callers(), 0);
    }
}
