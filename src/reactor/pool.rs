//! Threads for what blocks or takes long: a fixed number, named, started by the first job.
//!
//! A job carries its own way back (it leaves its result in the reactor's inbox and wakes it), so the pool only runs
//! closures, first in, first out. When the pool is dropped, jobs not begun are dropped and its threads end by
//! themselves. A job that panics ends the process in release builds; elsewhere its thread survives and its result
//! never comes.
#![expect(
    clippy::disallowed_methods,
    reason = "the one place that starts threads"
)]

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use log::error;

use super::backend::Job;

/// A fixed number of threads and one queue.
pub struct Pool {
    name: &'static str,
    shared: Arc<Shared>,
    threads: usize,
    started: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

impl Pool {
    /// A pool that will have `threads` threads, at least one, called `name` and a number.
    pub fn new(name: &'static str, threads: usize) -> Self {
        let queue = Mutex::new(Queue {
            jobs: VecDeque::new(),
            closed: false,
        });
        Pool {
            name,
            shared: Arc::new(Shared {
                queue,
                changed: Condvar::new(),
            }),
            threads: threads.max(1),
            started: false,
        }
    }

    /// Runs `job` on one of the threads, after those given before it were begun.
    pub fn spawn(&mut self, job: Job) {
        if !self.started {
            self.started = true;
            self.start();
        }
        self.shared.lock().jobs.push_back(job);
        self.shared.changed.notify_one();
    }

    fn start(&self) {
        for number in 0..self.threads {
            let shared = Arc::clone(&self.shared);
            let begun = thread::Builder::new()
                .name(format!("{}-{number}", self.name))
                .spawn(move || shared.work());
            if let Err(error) = begun {
                error!(
                    "thread {number} of the {} did not start: {error}",
                    self.name
                );
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.closed = true;
        queue.jobs.clear();
        drop(queue);
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        while let Some(job) = self.next() {
            if catch_unwind(AssertUnwindSafe(job)).is_err() {
                error!("a job panicked");
            }
        }
    }

    /// The next job; `None` when the pool is gone.
    fn next(&self) -> Option<Job> {
        let mut queue = self.lock();
        loop {
            if queue.closed {
                return None;
            }
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            queue = self
                .changed
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}
