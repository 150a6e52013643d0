//! Policies: factories around factories. `Limit::new(Timeout::new(Throttle::new(f, ..), ..), ..)` reads from
//! outside in.
//!
//! What a policy counts, it counts with a permit that is dropped together with the connection's protocol, in the
//! closing phase: a count cannot leak, whatever way the connection ends.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use super::app::{App, Cx};
use super::protocol::{Factory, Protocol};
use super::timer::Nanos;

/// Callbacks that a wrapper leaves to `self.inner`.
macro_rules! forward {
    ($A:ident; $($name:ident),*) => { $(super::policy::forward!(@ $A $name);)* };
    (@ $A:ident message) => {
        fn message(&mut self, cx: &mut Cx<'_, $A>, message: $A::Message) {
            self.inner.message(cx, message);
        }
    };
    (@ $A:ident connection_lost) => {
        fn connection_lost(&mut self, cx: &mut Cx<'_, $A>, reason: &super::protocol::Reason) {
            self.inner.connection_lost(cx, reason);
        }
    };
    (@ $A:ident data_received) => {
        fn data_received(&mut self, cx: &mut Cx<'_, $A>, data: &[u8]) {
            self.inner.data_received(cx, data);
        }
    };
    (@ $A:ident $name:ident) => {
        fn $name(&mut self, cx: &mut Cx<'_, $A>) {
            self.inner.$name(cx);
        }
    };
}
pub(super) use forward;

/// Forwards what a policy leaves to the factory inside.
macro_rules! forward_factory {
    () => {
        fn start_factory(&mut self, cx: &mut Cx<'_, A>) {
            self.inner.start_factory(cx);
        }

        fn stop_factory(&mut self, cx: &mut Cx<'_, A>) {
            self.inner.stop_factory(cx);
        }
    };
}

/// At most so many connections, in all and from one address.
pub struct Limit<F> {
    inner: F,
    total_max: usize,
    per_ip_max: usize,
    last_words: Vec<u8>,
    counts: Rc<RefCell<Counts>>,
}

#[derive(Default)]
struct Counts {
    total: usize,
    by_ip: BTreeMap<IpAddr, usize>,
}

impl<F> Limit<F> {
    /// One connection more than `total_max`, or than `per_ip_max` from one address, hears `last_words` (may be empty)
    /// and is closed.
    pub fn new(inner: F, total_max: usize, per_ip_max: usize, last_words: &[u8]) -> Self {
        Limit {
            inner,
            total_max,
            per_ip_max,
            last_words: last_words.to_vec(),
            counts: Rc::default(),
        }
    }
}

/// One connection's place in the counts.
struct Permit {
    ip: IpAddr,
    counts: Rc<RefCell<Counts>>,
}

impl Permit {
    fn new(ip: IpAddr, counts: &Rc<RefCell<Counts>>) -> Self {
        let mut inside = counts.borrow_mut();
        inside.total += 1;
        *inside.by_ip.entry(ip).or_default() += 1;
        Permit {
            ip,
            counts: Rc::clone(counts),
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = self.counts.borrow_mut();
        counts.total -= 1;
        if let Some(count) = counts.by_ip.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                counts.by_ip.remove(&self.ip);
            }
        }
    }
}

impl<A: App, F: Factory<A>> Factory<A> for Limit<F> {
    fn build_protocol(
        &mut self,
        cx: &mut Cx<'_, A>,
        peer: SocketAddr,
    ) -> Option<Box<dyn Protocol<A>>> {
        let counts = self.counts.borrow();
        let from_ip = counts.by_ip.get(&peer.ip()).copied().unwrap_or(0);
        if counts.total >= self.total_max || from_ip >= self.per_ip_max {
            return None;
        }
        drop(counts);
        let inner = self.inner.build_protocol(cx, peer)?;
        Some(Box::new(Permitted {
            inner,
            _permit: Permit::new(peer.ip(), &self.counts),
        }))
    }

    fn refused(&mut self, peer: SocketAddr) -> Option<&[u8]> {
        if self.last_words.is_empty() {
            self.inner.refused(peer)
        } else {
            Some(&self.last_words)
        }
    }

    forward_factory!();
}

struct Permitted<A: App> {
    inner: Box<dyn Protocol<A>>,
    _permit: Permit,
}

impl<A: App> Protocol<A> for Permitted<A> {
    forward!(A; connection_made, data_received, read_closed, pause_producing, resume_producing, timed_out, message, connection_lost);
}

/// Connections that say nothing for too long are timed out.
pub struct Timeout<F> {
    inner: F,
    idle: Duration,
}

impl<F> Timeout<F> {
    /// `timed_out` is called after `idle` without input.
    pub fn new(inner: F, idle: Duration) -> Self {
        Timeout { inner, idle }
    }
}

impl<A: App, F: Factory<A>> Factory<A> for Timeout<F> {
    fn build_protocol(
        &mut self,
        cx: &mut Cx<'_, A>,
        peer: SocketAddr,
    ) -> Option<Box<dyn Protocol<A>>> {
        cx.net.set_timeout(Some(self.idle));
        self.inner.build_protocol(cx, peer)
    }

    fn refused(&mut self, peer: SocketAddr) -> Option<&[u8]> {
        self.inner.refused(peer)
    }

    forward_factory!();
}

/// Each connection may send so many bytes a second.
pub struct Throttle<F> {
    inner: F,
    bytes_per_second: u64,
    burst_bytes: u64,
}

impl<F> Throttle<F> {
    /// A token bucket per connection: `burst_bytes` at once, refilled with `bytes_per_second` (at least 1). What was
    /// received is delivered; reading rests until the bucket is no longer overdrawn.
    pub fn new(inner: F, bytes_per_second: u64, burst_bytes: u64) -> Self {
        Throttle {
            inner,
            bytes_per_second: bytes_per_second.max(1),
            burst_bytes,
        }
    }
}

impl<A: App, F: Factory<A>> Factory<A> for Throttle<F> {
    fn build_protocol(
        &mut self,
        cx: &mut Cx<'_, A>,
        peer: SocketAddr,
    ) -> Option<Box<dyn Protocol<A>>> {
        let inner = self.inner.build_protocol(cx, peer)?;
        let bucket = Bucket {
            bytes_per_second: self.bytes_per_second,
            burst_bytes: self.burst_bytes,
            paid_until: cx.net.now(),
        };
        Some(Box::new(Throttled { inner, bucket }))
    }

    fn refused(&mut self, peer: SocketAddr) -> Option<&[u8]> {
        self.inner.refused(peer)
    }

    forward_factory!();
}

/// A token bucket as a point in time: what was taken is paid off at `paid_until`.
struct Bucket {
    bytes_per_second: u64,
    burst_bytes: u64,
    paid_until: Nanos,
}

impl Bucket {
    fn nanos_of(&self, bytes: u64) -> Nanos {
        u64::try_from(u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second))
            .unwrap_or(u64::MAX)
    }

    /// Takes `bytes`, and says how long to wait until the bucket is no longer overdrawn.
    fn take(&mut self, now: Nanos, bytes: u64) -> Duration {
        self.paid_until = self
            .paid_until
            .max(now)
            .saturating_add(self.nanos_of(bytes));
        let credit_ends = now.saturating_add(self.nanos_of(self.burst_bytes));
        Duration::from_nanos(self.paid_until.saturating_sub(credit_ends))
    }
}

struct Throttled<A: App> {
    inner: Box<dyn Protocol<A>>,
    bucket: Bucket,
}

impl<A: App> Protocol<A> for Throttled<A> {
    forward!(A; connection_made, read_closed, pause_producing, resume_producing, timed_out, message, connection_lost);

    fn data_received(&mut self, cx: &mut Cx<'_, A>, data: &[u8]) {
        let wait = self.bucket.take(cx.net.now(), data.len() as u64);
        if !wait.is_zero() {
            cx.net.throttle();
            let id = cx.net.id();
            cx.net.call_later(wait, move |cx| cx.net.unthrottle(id));
        }
        self.inner.data_received(cx, data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_allows_a_burst_and_then_its_rate() {
        let mut bucket = Bucket {
            bytes_per_second: 1_000,
            burst_bytes: 500,
            paid_until: 0,
        };
        assert_eq!(bucket.take(0, 500), Duration::ZERO);
        assert_eq!(bucket.take(0, 100), Duration::from_millis(100));
        assert_eq!(bucket.take(1_000_000_000, 500), Duration::ZERO);
    }
}
