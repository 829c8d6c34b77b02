//! Each rule of the admission by name, then every order of a few callers, then random sequences of
//! events against a slow, plain model.

mod orders;

use proptest::prelude::*;

use super::*;

#[test]
fn guest_lock_passes_on_in_order_of_arrival() {
    let mut admission = AdmissionState::default();
    let tickets = [(); 3].map(|()| admission.acquire("a").unwrap());
    assert_eq!(admission.ticket_state("a", tickets[0]), TicketState::Holder);
    assert_eq!(admission.ticket_state("a", tickets[1]), TicketState::Waiting);
    assert_eq!(admission.release("a"), Some(tickets[1]));
    assert_eq!(admission.ticket_state("a", tickets[0]), TicketState::Gone);
    assert_eq!(admission.ticket_state("a", tickets[1]), TicketState::Holder);
    assert_eq!(admission.release("a"), Some(tickets[2]));
    assert_eq!(admission.release("a"), None);
    assert_eq!(admission.locks_held(), 0);
}

#[test]
fn one_guest_lock_does_not_block_another() {
    let mut admission = AdmissionState::default();
    for _ in 0..3 {
        admission.acquire("a").unwrap();
    }
    let other = admission.acquire("b").unwrap();
    assert_eq!(admission.ticket_state("b", other), TicketState::Holder);
}

#[test]
fn waiter_that_gave_up_is_skipped() {
    let mut admission = AdmissionState::default();
    let [_, second, third] = [(); 3].map(|()| admission.acquire("a").unwrap());
    admission.give_up("a", second);
    assert_eq!(admission.ticket_state("a", second), TicketState::Gone);
    let fourth = admission.acquire("a").unwrap();
    assert_eq!(admission.release("a"), Some(third));
    assert_eq!(admission.release("a"), Some(fourth));
}

#[test]
fn stop_refuses_waiting_callers_but_not_the_holder() {
    let mut admission = AdmissionState::default();
    admission.enter().unwrap();
    let [holder, waiter] = [(); 2].map(|()| admission.acquire("a").unwrap());
    admission.stop();
    assert_eq!(admission.enter(), Err(Stopping));
    assert_eq!(admission.acquire("b"), Err(Stopping));
    assert_eq!(admission.ticket_state("a", holder), TicketState::Holder);
    assert_eq!(admission.ticket_state("a", waiter), TicketState::Gone);
    assert_eq!(admission.callers(), 1);
    assert_eq!(admission.release("a"), None);
}

/// An event, with the index of its guest; the second number selects, modulo, one of the waiters of that moment.
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
        8 => (0..GUESTS.len()).prop_map(Event::Acquire),
        3 => (0..GUESTS.len(), any::<usize>()).prop_map(|(guest, n)| Event::GiveUp(guest, n)),
        5 => (0..GUESTS.len()).prop_map(Event::Release),
        1 => Just(Event::Stop),
    ]
}

const GUESTS: [&str; 3] = ["a", "b", "c"];

/// The expected state, computed in a slow and plain way: the callers, each lock's holder and waiters,
/// and the tickets that are gone.
#[derive(Default)]
struct Model {
    callers: usize,
    queues: [VecDeque<LockTicket>; 3],
    gone: Vec<(usize, LockTicket)>,
    stopping: bool,
}

impl Model {
    fn apply(&mut self, admission: &mut AdmissionState, event: Event) {
        match event {
            Event::Enter => {
                assert_eq!(admission.enter().is_ok(), !self.stopping);
                self.callers += usize::from(!self.stopping);
            }
            Event::Leave if self.callers > 0 => {
                admission.leave();
                self.callers -= 1;
            }
            Event::Acquire(guest) => {
                let ticket = admission.acquire(GUESTS[guest]);
                assert_eq!(ticket.is_ok(), !self.stopping);
                self.queues[guest].extend(ticket.ok());
            }
            Event::GiveUp(guest, n) if self.queues[guest].len() > 1 => {
                let waiters = self.queues[guest].len() - 1;
                let ticket = self.queues[guest].remove(1 + n % waiters).unwrap();
                admission.give_up(GUESTS[guest], ticket);
                self.gone.push((guest, ticket));
            }
            Event::Release(guest) => {
                let holder = self.queues[guest].pop_front();
                self.gone.extend(holder.map(|ticket| (guest, ticket)));
                assert_eq!(admission.release(GUESTS[guest]), self.queues[guest].front().copied());
            }
            Event::Stop => {
                admission.stop();
                self.stopping = true;
                for (guest, queue) in self.queues.iter_mut().enumerate() {
                    let refused = queue.split_off(queue.len().min(1));
                    self.gone.extend(refused.into_iter().map(|ticket| (guest, ticket)));
                }
            }
            Event::Leave | Event::GiveUp(..) => {}
        }
    }

    fn check(&self, admission: &AdmissionState) {
        assert_eq!(admission.callers(), self.callers);
        for (guest, queue) in GUESTS.iter().zip(&self.queues) {
            for (position, &ticket) in queue.iter().enumerate() {
                let ticket_state =
                    if position == 0 { TicketState::Holder } else { TicketState::Waiting };
                assert_eq!(admission.ticket_state(guest, ticket), ticket_state);
            }
        }
        for &(guest, ticket) in &self.gone {
            assert_eq!(admission.ticket_state(GUESTS[guest], ticket), TicketState::Gone);
        }
        let held = self.queues.iter().filter(|queue| !queue.is_empty()).count();
        assert_eq!(admission.locks_held(), held);
        let tickets: usize = self.queues.iter().map(VecDeque::len).sum();
        assert_eq!(admission.locks_waiting(), tickets - held);
    }
}

proptest! {
    #[test]
    fn any_sequence_keeps_the_order_of_waiters(
        events in proptest::collection::vec(event(), 0..120),
    ) {
        let mut admission = AdmissionState::default();
        let mut model = Model::default();
        for event in events {
            model.apply(&mut admission, event);
            model.check(&admission);
        }
        while model.callers > 0 {
            model.apply(&mut admission, Event::Leave);
        }
        for guest in 0..GUESTS.len() {
            while !model.queues[guest].is_empty() {
                model.apply(&mut admission, Event::Release(guest));
            }
        }
        model.check(&admission);
        assert!(admission.locks.is_empty());
        assert_eq!(admission.callers(), 0);
    }
}
