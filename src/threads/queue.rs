//! A bounded queue between threads that never wait to add an item and threads that sleep until there is one.
//!
//! It is not a channel. The waits of channels spin and yield the processor for a while before they sleep, or
//! wake a thread under a mutex that the woken thread needs at once; and their sleepers are woken in turn. This
//! queue first wakes the thread that fell asleep last, as its memory is still in the caches, and wakes it
//! outside all mutexes. A thread may also skip items that must not be taken now, which keep their position.

use std::collections::VecDeque;
use std::thread::{self, Thread};

use crossbeam_channel::TrySendError;
use parking_lot::Mutex;

/// The queue, which both sides share.
pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    most: usize,
}

struct State<T> {
    items: VecDeque<T>,
    is_closed: bool,
    /// Threads that found nothing, the most recent last. A thread in it sleeps, or is awake and will check
    /// again; so a thread that another thread removes must be woken, and no other.
    sleeping: Vec<Thread>,
}

/// A sleeping thread that must check the queue again, if there was one. Dropping this wakes the thread. The
/// thread that added an item drops it last, after releasing everything that both need, because the woken thread
/// may get this processor at once.
#[must_use = "the sleeping thread is woken when this is dropped"]
pub(crate) struct Wake(Option<Thread>);

impl Drop for Wake {
    fn drop(&mut self) {
        if let Some(sleeper) = &self.0 {
            sleeper.unpark();
        }
    }
}

impl<T> Queue<T> {
    /// Makes an empty queue for `most` items.
    pub(crate) fn new(most: usize) -> Self {
        let state = State { items: VecDeque::new(), is_closed: false, sleeping: Vec::new() };
        Self { state: Mutex::new(state), most }
    }

    /// Adds an item without waiting. An awake thread may take it before this returns.
    ///
    /// # Errors
    /// `Full`; `Disconnected` if the queue is closed.
    pub(crate) fn put(&self, item: T) -> Result<Wake, TrySendError<T>> {
        self.put_by(item, VecDeque::push_back)
    }

    /// Adds an item before all others: one that has waited already.
    ///
    /// # Errors
    /// As [`Queue::put`].
    pub(crate) fn put_first(&self, item: T) -> Result<Wake, TrySendError<T>> {
        self.put_by(item, VecDeque::push_front)
    }

    fn put_by(
        &self,
        item: T,
        push: impl FnOnce(&mut VecDeque<T>, T),
    ) -> Result<Wake, TrySendError<T>> {
        let mut state = self.state.lock();
        if state.is_closed {
            return Err(TrySendError::Disconnected(item));
        }
        if state.items.len() >= self.most {
            return Err(TrySendError::Full(item));
        }
        push(&mut state.items, item);
        Ok(Wake(state.sleeping.pop()))
    }

    /// Takes the oldest item; returns `None` when the queue is closed and empty.
    ///
    /// # Blocking
    /// Until there is an item or the queue is closed.
    pub(crate) fn next(&self) -> Option<T> {
        self.next_where(|_| true)
    }

    /// Takes the first item that `may` accepts, and calls `may` for no later item; returns `None` when the
    /// queue is closed and has none. When a skipped item may be taken, another thread must call
    /// [`Queue::wake`]. `may` is called under the mutex of the queue.
    ///
    /// # Blocking
    /// Until there is such an item or the queue is closed.
    pub(crate) fn next_where(&self, mut may: impl FnMut(&T) -> bool) -> Option<T> {
        let this = thread::current();
        loop {
            let mut state = self.state.lock();
            state.sleeping.retain(|other| other.id() != this.id());
            if let Some(index) = state.items.iter().position(&mut may) {
                return state.items.remove(index);
            }
            if state.is_closed {
                return None;
            }
            state.sleeping.push(this.clone());
            drop(state);
            thread::park();
        }
    }

    /// Lets a sleeping thread check the queue again.
    pub(crate) fn wake(&self) -> Wake {
        Wake(self.state.lock().sleeping.pop())
    }

    /// Removes all items that `keep` rejects.
    pub(crate) fn retain(&self, keep: impl FnMut(&T) -> bool) {
        self.state.lock().items.retain(keep);
    }

    /// Returns the number of items that `is` accepts.
    pub(crate) fn count(&self, is: impl Fn(&T) -> bool) -> usize {
        self.state.lock().items.iter().filter(|item| is(item)).count()
    }

    /// Accepts no more items; threads end when they find none.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        let sleeping: Vec<_> = state.sleeping.drain(..).collect();
        drop(state);
        sleeping.iter().for_each(Thread::unpark);
    }

    /// Takes the oldest item, if there is one now.
    pub(crate) fn try_next(&self) -> Option<T> {
        self.state.lock().items.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread::{JoinHandle, ThreadId};
    use std::time::{Duration, Instant};

    use crossbeam_channel::{Receiver, bounded};

    use super::*;

    /// Threads that take items; each works on its item until the test receives it.
    struct Takers {
        queue: Arc<Queue<u32>>,
        threads: Vec<JoinHandle<()>>,
        taken: Receiver<(ThreadId, u32)>,
    }

    fn until(claim: &str, condition: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !condition() {
            assert!(Instant::now() < end, "never came: {claim}");
            thread::yield_now();
        }
    }

    impl Takers {
        fn new(most: usize, count: usize) -> Self {
            let queue = Arc::new(Queue::new(most));
            let (sender, taken) = bounded(0);
            let threads = (0..count).map(|_| {
                let (queue, sender) = (Arc::clone(&queue), sender.clone());
                thread::spawn(move || {
                    while let Some(item) = queue.next() {
                        sender.send((thread::current().id(), item)).unwrap();
                    }
                })
            });
            Self { threads: threads.collect(), queue, taken }
        }

        fn wait_until_all_sleep(&self) {
            until("all sleep", || self.queue.state.lock().sleeping.len() == self.threads.len());
        }

        fn next(&self) -> (ThreadId, u32) {
            self.taken.recv_timeout(Duration::from_secs(20)).expect("somebody takes it")
        }

        fn end(self) {
            self.queue.close();
            until("all end", || self.threads.iter().all(JoinHandle::is_finished));
            self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        }
    }

    #[test]
    fn last_sleeper_takes_the_next_item() {
        let takers = Takers::new(8, 3);
        takers.wait_until_all_sleep();
        let last = takers.queue.state.lock().sleeping[2].id();
        for item in 0..100 {
            drop(takers.queue.put(item).unwrap());
            assert_eq!(takers.next(), (last, item));
            takers.wait_until_all_sleep();
        }
        takers.end();
    }

    #[test]
    fn woken_thread_is_not_one_already_at_work() {
        let takers = Takers::new(8, 2);
        takers.wait_until_all_sleep();
        let last = {
            let mut state = takers.queue.state.lock();
            state.items.push_back(1);
            state.sleeping[1].clone()
        };
        last.unpark();
        until("it takes it", || takers.queue.state.lock().items.is_empty());
        drop(takers.queue.put(2).unwrap());
        until("the other takes it", || takers.queue.state.lock().items.is_empty());
        let (one, other) = (takers.next(), takers.next());
        assert!(one.0 != other.0 && [one, other].contains(&(last.id(), 1)));
        takers.end();
    }

    #[test]
    fn no_worker_sleeps_while_an_item_waits() {
        let takers = Takers::new(8, 3);
        for (item, up) in (0..3000).zip(takers.threads.iter().cycle()) {
            // Other code of a thread may leave an unpark token, which ends the next sleep.
            up.thread().unpark();
            drop(takers.queue.put(item).unwrap());
            assert_eq!(takers.next().1, item);
        }
        takers.end();
    }

    #[test]
    fn blocked_item_keeps_its_place() {
        let queue = Queue::new(4);
        for item in 1..=4 {
            drop(queue.put(item).unwrap());
        }
        assert_eq!(queue.next_where(|item| *item > 2), Some(3));
        assert_eq!(queue.count(|item| *item < 3), 2);
        queue.retain(|item| *item != 2);
        assert_eq!(queue.next(), Some(1));
        queue.close();
        assert_eq!(queue.next_where(|item| *item > 4), None);
        assert_eq!((queue.try_next(), queue.try_next()), (Some(4), None));
    }

    #[test]
    fn skipped_item_is_taken_on_the_next_wake() {
        let (queue, may) = (Queue::new(1), AtomicBool::new(false));
        thread::scope(|scope| {
            let taker = scope.spawn(|| queue.next_where(|_| may.load(Ordering::Relaxed)));
            drop(queue.put(1).unwrap());
            until("it sleeps", || queue.state.lock().sleeping.len() == 1);
            may.store(true, Ordering::Relaxed);
            drop(queue.wake());
            assert_eq!(taker.join().unwrap(), Some(1));
        });
    }

    #[test]
    fn closed_queue_rejects_push_and_drains() {
        let queue = Queue::new(2);
        drop(queue.put(1).unwrap());
        drop(queue.put(2).unwrap());
        assert!(matches!(queue.put(3), Err(TrySendError::Full(3))));
        queue.close();
        assert!(matches!(queue.put(4), Err(TrySendError::Disconnected(4))));
        assert_eq!(queue.next(), Some(1));
        assert_eq!(queue.try_next(), Some(2));
        assert_eq!(queue.next(), None);
        let takers = Takers::new(2, 2);
        takers.wait_until_all_sleep();
        takers.end();
    }
}
