//! The way into the reactor from other threads.
//!
//! Calls and results of jobs go into one mutex-guarded list; whoever finds it empty wakes the loop. The loop takes the
//! whole list once a turn, so what arrives while it works through it waits for the next turn. Order is kept.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::app::{App, Cx};
use super::backend::Wake;

/// A call from another thread.
type RemoteCall<A> = Box<dyn FnOnce(&mut Cx<'_, A>) + Send>;

/// What other threads leave for the loop.
pub(super) enum Item<A: App> {
    Call(RemoteCall<A>),
    /// The job deferred under this key came to this result.
    Finished(usize, Box<dyn Any + Send>),
}

/// The list, and the bell.
pub(super) struct Inbox<A: App> {
    items: Mutex<Vec<Item<A>>>,
    wake: Wake,
}

impl<A: App> Inbox<A> {
    pub(super) fn new(wake: Wake) -> Self {
        Inbox {
            items: Mutex::new(Vec::new()),
            wake,
        }
    }

    pub(super) fn put(&self, item: Item<A>) {
        let mut items = self.lock();
        let first = items.is_empty();
        items.push(item);
        drop(items);
        if first {
            (self.wake)();
        }
    }

    /// Exchanges the list for an empty one.
    pub(super) fn take(&self, empty: &mut Vec<Item<A>>) {
        std::mem::swap(&mut *self.lock(), empty);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Item<A>>> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A handle with which any thread runs code on the reactor's.
pub struct Remote<A: App> {
    inbox: Arc<Inbox<A>>,
}

impl<A: App> Clone for Remote<A> {
    fn clone(&self) -> Self {
        Remote {
            inbox: Arc::clone(&self.inbox),
        }
    }
}

impl<A: App> Remote<A> {
    pub(super) fn new(inbox: Arc<Inbox<A>>) -> Self {
        Remote { inbox }
    }

    /// Runs `call` on the reactor's thread in its next turn, and wakes it. Calls of one thread keep their order. A
    /// call made after the reactor has stopped for good is never run.
    pub fn call(&self, call: impl FnOnce(&mut Cx<'_, A>) + Send + 'static) {
        self.inbox.put(Item::Call(Box::new(call)));
    }
}
