//! Clients that come back: a client factory around another, with growing and jittered delays.
//!
//! The known mistakes of such clients are answered by construction. The first delay is `initial` and not
//! `initial * factor`; no delay exceeds `max`, because it is clamped *after* the jitter; and the delays start anew
//! when a connection has *received a byte*, not when it was made: a server that accepts and closes at once would
//! otherwise be stormed.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use super::app::{App, Cx};
use super::protocol::{ClientFactory, Factory, Protocol, Reason, Retry};

/// How the delays between attempts grow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// The first delay, before jitter.
    pub initial: Duration,
    /// Each delay is the last one times this.
    pub factor: f64,
    /// No delay is longer, jitter included.
    pub max: Duration,
    /// A delay varies by this part of itself in both directions: 0.2 means 80 % to 120 %.
    pub jitter: f64,
    /// Attempts in a row that may fail before it gives up; `None`: never.
    pub retries: Option<u32>,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff {
            initial: Duration::from_millis(50),
            factor: 2.0,
            max: Duration::from_secs(1),
            jitter: 0.2,
            retries: None,
        }
    }
}

impl Backoff {
    /// The delay after `failures` failures in a row (from 1), with `chance` from 0 to 1 for the jitter.
    pub fn delay(&self, failures: u32, chance: f64) -> Duration {
        let exponent = i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX);
        let max = self.max.as_secs_f64();
        let plain = (self.initial.as_secs_f64() * self.factor.powi(exponent)).min(max);
        let jittered = plain * (1.0 + self.jitter * (2.0 * chance - 1.0));
        Duration::from_secs_f64(jittered.clamp(0.0, max))
    }
}

/// A client factory that dials again after every failure and every loss.
pub struct Reconnecting<F> {
    inner: F,
    backoff: Backoff,
    failures: u32,
    /// The present connection has received a byte.
    heard: Rc<Cell<bool>>,
    rng: fastrand::Rng,
}

impl<F> Reconnecting<F> {
    /// Lets `inner` build the protocols and decides itself when to dial.
    pub fn new(inner: F, backoff: Backoff) -> Self {
        Reconnecting {
            inner,
            backoff,
            failures: 0,
            heard: Rc::new(Cell::new(false)),
            rng: fastrand::Rng::with_seed(0),
        }
    }

    fn again(&mut self) -> Retry {
        if self.heard.replace(false) {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        match self.backoff.retries {
            Some(retries) if self.failures > retries => Retry::Stop,
            _ => Retry::After(self.backoff.delay(self.failures, self.rng.f64())),
        }
    }
}

impl<A: App, F: ClientFactory<A>> Factory<A> for Reconnecting<F> {
    fn build_protocol(
        &mut self,
        cx: &mut Cx<'_, A>,
        peer: SocketAddr,
    ) -> Option<Box<dyn Protocol<A>>> {
        let inner = self.inner.build_protocol(cx, peer)?;
        Some(Box::new(Listening {
            inner,
            heard: Rc::clone(&self.heard),
        }))
    }

    fn start_factory(&mut self, cx: &mut Cx<'_, A>) {
        self.rng = fastrand::Rng::with_seed(cx.net.random());
        self.inner.start_factory(cx);
    }

    fn stop_factory(&mut self, cx: &mut Cx<'_, A>) {
        self.inner.stop_factory(cx);
    }
}

impl<A: App, F: ClientFactory<A>> ClientFactory<A> for Reconnecting<F> {
    fn connection_failed(&mut self, app: &mut A, reason: &Reason, tries: u32) -> Retry {
        self.inner.connection_failed(app, reason, tries);
        self.again()
    }

    fn client_connection_lost(&mut self, app: &mut A, reason: &Reason, uptime: Duration) -> Retry {
        self.inner.client_connection_lost(app, reason, uptime);
        self.again()
    }
}

/// A protocol that notes whether its peer ever said anything.
struct Listening<A: App> {
    inner: Box<dyn Protocol<A>>,
    heard: Rc<Cell<bool>>,
}

impl<A: App> Protocol<A> for Listening<A> {
    super::policy::forward!(A; connection_made, read_closed, pause_producing, resume_producing, timed_out, message, connection_lost);

    fn data_received(&mut self, cx: &mut Cx<'_, A>, data: &[u8]) {
        self.heard.set(true);
        self.inner.data_received(cx, data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_from_the_initial_one_and_never_pass_the_maximum() {
        let backoff = Backoff {
            jitter: 0.0,
            ..Backoff::default()
        };
        let millis: Vec<u128> = (1..=7).map(|n| backoff.delay(n, 0.5).as_millis()).collect();
        assert_eq!(millis, [50, 100, 200, 400, 800, 1000, 1000]);
        let wild = Backoff {
            jitter: 3.0,
            ..Backoff::default()
        };
        for failures in [1, 5, 6, 100, u32::MAX] {
            for chance in [0.0, 0.3, 1.0] {
                assert!(wild.delay(failures, chance) <= wild.max);
            }
        }
    }
}
