//! In which order what is for other nodes goes to them, and what becomes of it: a state machine without a network.
//!
//! ```text
//!   add ─▶ waits ── send ──▶ under way ── done ──────▶ out
//!            ▲                   │ ├────── lost ──────▶ out, if it writes: nobody knows
//!            └──── undone ───────┘ └── lost, if it only reads: waits again
//! ```
//!
//! - What is for one shard reaches its leaders in the order in which it was added: while one node has some that it has
//!   not answered, nothing is sent to another; and once that node has sent something back, nothing is sent at all until
//!   it has sent back or answered the rest.
//! - The node helps: once it has sent something back it sends back everything, up to the first that is marked as
//!   *fresh*: it was sent when nothing was under way. Else it could become the leader between two of them, and do the
//!   second without the first.
//! - What came back is sent again at once to another leader, but only once: then no sooner than at the next tick. So
//!   nodes that each take the other for the leader are not kept busy.
//! - What is not answered for a long time is given up, but still counts as under way: it may be done yet.
//! - Whatever was added leaves exactly once.
//! - What was taken when this node led, and cannot be answered here any more, came before all that is for the same
//!   shard here: while there is something, nothing is taken.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use slab::Slab;

use crate::cluster::map::NodeId;
use crate::planted::{self, Bug};
use crate::reactor::timer::Nanos;

/// How long something may wait for a leader.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// How long something that was sent may be unanswered.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// For how many ticks a node that leads no longer may leave what was sent to it unanswered.
const SILENCE_TICKS: u32 = 5;
/// What was taken before is counted up to here, what was passed on at once from here on.
const CAME_FIRST: u64 = 1 << 63;
/// Serials are counted up to this, and then anew: the highest bit of an id belongs to others.
const SERIAL_MAX: u32 = u32::MAX >> 1;

/// Something for the leader of a shard.
struct Entry<T> {
    /// When it was sent last, counted.
    serial: u32,
    /// When it was added, counted.
    came: u64,
    shard: u16,
    is_write: bool,
    /// Since when it is here.
    since: Nanos,
    /// Whom it was sent to; 0: nobody.
    node: NodeId,
    /// `None`: it was given up.
    what: Option<T>,
}

/// Where the things for a shard go.
#[derive(Default)]
struct Route {
    /// The node that has some.
    node: NodeId,
    /// How many.
    count: usize,
    /// For how many ticks another node has led.
    stale_ticks: u32,
    /// That node has sent something back.
    is_refused: bool,
    /// How often in a row something was sent back.
    refusals: u32,
    /// Those that wait, in the order in which they came: when, counted, and their keys in [`Routes::all`].
    waiting: VecDeque<(u64, usize)>,
    /// Who leads, as somebody said who should know.
    hint: Option<NodeId>,
}

impl Route {
    /// Something waits, in the order in which all came.
    fn wait(&mut self, came: u64, key: usize) {
        match self.waiting.back() {
            Some(&(last, _)) if last > came => {
                let at = self.waiting.partition_point(|&(other, _)| other < came);
                self.waiting.insert(at, (came, key));
            }
            _ => self.waiting.push_back((came, key)),
        }
    }
}

/// See the module.
pub struct Routes<T> {
    all: Slab<Entry<T>>,
    serial: u32,
    /// How many came, and how many came that were taken before.
    came: u64,
    taken: u64,
    routes: BTreeMap<u16, Route>,
}

impl<T> Default for Routes<T> {
    fn default() -> Self {
        Routes {
            all: Slab::new(),
            serial: 0,
            came: CAME_FIRST,
            taken: 0,
            routes: BTreeMap::new(),
        }
    }
}

/// What has ended without an answer.
pub struct Ended<T> {
    /// It was done or will never be, nobody knows.
    pub unknown: Vec<T>,
    /// It was not done.
    pub undone: Vec<T>,
}

impl<T> Routes<T> {
    /// Whether something for a shard waits or is under way.
    pub fn has_some(&self, shard: u16) -> bool {
        let route = self.routes.get(&shard);
        route.is_some_and(|route| route.count > 0 || !route.waiting.is_empty())
    }

    /// Number of things that wait or are under way.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Who leads a shard, as the last one said who was asked and does not.
    pub fn hint(&self, shard: u16) -> Option<NodeId> {
        self.routes.get(&shard)?.hint
    }

    /// Adds something, which waits until [`send`](Self::send).
    pub fn add(&mut self, shard: u16, is_write: bool, now: Nanos, what: T) {
        self.came += 1;
        self.insert(self.came, shard, is_write, now, what);
    }

    /// Adds something that this node had taken, in front of what is here for the shard.
    pub fn add_taken(&mut self, shard: u16, is_write: bool, now: Nanos, what: T) {
        self.taken += 1;
        self.insert(self.taken, shard, is_write, now, what);
    }

    fn insert(&mut self, came: u64, shard: u16, is_write: bool, now: Nanos, what: T) {
        let key = self.all.insert(Entry {
            serial: 0,
            came,
            shard,
            is_write,
            since: now,
            node: 0,
            what: Some(what),
        });
        self.routes.entry(shard).or_default().wait(came, key);
    }

    /// Sends what waits for a shard to the node that leads it, if it may be sent now: each with its id and whether it
    /// is fresh. `is_tick`: time has passed.
    pub fn send(
        &mut self,
        shard: u16,
        leader: NodeId,
        is_tick: bool,
        mut put: impl FnMut(u64, bool, &T),
    ) {
        let Some(route) = self.routes.get_mut(&shard) else {
            return;
        };
        let must_wait = route.count > 0 && (route.node != leader || route.is_refused);
        let must_wait = must_wait && !planted::is(Bug::TwoLeadersAsked);
        let is_soon = route.refusals > 1 && !is_tick;
        if must_wait || is_soon {
            return;
        }
        (route.node, route.is_refused) = (leader, false);
        for (_, key) in route.waiting.drain(..) {
            let entry = &mut self.all[key];
            // 0 is nobody's.
            self.serial = self.serial % SERIAL_MAX + 1;
            (entry.serial, entry.node) = (self.serial, leader);
            let is_fresh = route.count == 0;
            route.count += 1;
            let id = u64::from(entry.serial) << 32 | key as u64;
            if let Some(what) = &entry.what {
                put(id, is_fresh, what);
            }
        }
    }

    /// What was sent under this id.
    fn under_way(&mut self, id: u64) -> Option<(usize, &mut Route)> {
        let key = (id & u64::from(u32::MAX)) as usize;
        let entry = self.all.get(key)?;
        if entry.node == 0 || u64::from(entry.serial) != id >> 32 {
            return None;
        }
        let route = self.routes.get_mut(&entry.shard)?;
        Some((key, route))
    }

    /// It was done: it leaves, unless it was given up. Its shard.
    pub fn done(&mut self, id: u64) -> Option<(u16, Option<T>)> {
        let (key, route) = self.under_way(id)?;
        route.count -= 1;
        route.refusals = 0;
        let entry = self.all.remove(key);
        Some((entry.shard, entry.what))
    }

    /// It came back undone, with who leads instead, if that is known: it waits again. The shard.
    pub fn undone(&mut self, id: u64, leader: Option<NodeId>) -> Option<u16> {
        let (key, route) = self.under_way(id)?;
        route.count -= 1;
        route.hint = leader;
        if !std::mem::replace(&mut route.is_refused, true) {
            route.refusals += 1;
        }
        let entry = &mut self.all[key];
        let (came, shard) = (entry.came, entry.shard);
        entry.node = 0;
        if entry.what.is_none() {
            self.all.remove(key);
        } else if let Some(route) = self.routes.get_mut(&shard) {
            route.wait(came, key);
        }
        Some(shard)
    }

    /// The connection to a node is gone: what writes leaves, in its order; the rest waits again.
    pub fn lost(&mut self, node: NodeId) -> Vec<T> {
        self.give_up(|entry| entry.node == node)
    }

    /// Shards of which something is under way, and the nodes that have it.
    pub fn busy(&self) -> Vec<(u16, NodeId)> {
        let busy =
            |(&shard, route): (&u16, &Route)| (route.count > 0).then_some((shard, route.node));
        self.routes.iter().filter_map(busy).collect()
    }

    /// At every tick, for each busy shard: whether another node leads it. What was sent to a node that leads no longer
    /// and says nothing for a while is given up, as if the connection were gone: it may be a machine that is gone
    /// without a word.
    pub fn silent(&mut self, stale: &[(u16, bool)]) -> Vec<T> {
        let mut given_up = Vec::new();
        for &(shard, is_stale) in stale {
            let Some(route) = self.routes.get_mut(&shard) else {
                continue;
            };
            route.stale_ticks = if is_stale { route.stale_ticks + 1 } else { 0 };
            if route.stale_ticks > SILENCE_TICKS {
                route.stale_ticks = 0;
                given_up.extend(self.give_up(|entry| entry.node != 0 && entry.shard == shard));
            }
        }
        given_up
    }

    /// Nobody will answer for these.
    fn give_up(&mut self, is_lost: impl Fn(&Entry<T>) -> bool) -> Vec<T> {
        let lost = self.all.iter().filter(|(_, entry)| is_lost(entry));
        let mut lost: Vec<(u64, usize)> = lost.map(|(key, entry)| (entry.came, key)).collect();
        lost.sort_unstable();
        let mut unknown = Vec::new();
        for (came, key) in lost {
            let entry = &mut self.all[key];
            let route = self.routes.entry(entry.shard).or_default();
            route.count -= 1;
            entry.node = 0;
            let is_write = entry.is_write && !planted::is(Bug::WriteSentAgain);
            if is_write || entry.what.is_none() {
                unknown.extend(self.all.remove(key).what);
            } else {
                route.wait(came, key);
            }
        }
        unknown
    }

    /// What has waited or been under way for too long.
    pub fn expire(&mut self, now: Nanos) -> Ended<T> {
        let is_older =
            |since: Nanos, max: Duration| now.saturating_sub(since) > max.as_nanos() as Nanos;
        let (mut undone, mut unknown) = (Vec::new(), Vec::new());
        for route in self.routes.values_mut() {
            let all = &mut self.all;
            route.waiting.retain(|&(_, key)| {
                let stays = !is_older(all[key].since, WAIT_MAX);
                if !stays {
                    undone.extend(all.remove(key).what);
                }
                stays
            });
        }
        for (_, entry) in &mut self.all {
            if entry.node != 0 && is_older(entry.since, ANSWER_MAX) {
                let ended = match entry.is_write {
                    true => &mut unknown,
                    false => &mut undone,
                };
                ended.extend(entry.what.take());
            }
        }
        Ended { unknown, undone }
    }

    /// Shards for which something waits.
    pub fn waiting(&self) -> Vec<u16> {
        let waits = |(&shard, route): (&u16, &Route)| (!route.waiting.is_empty()).then_some(shard);
        self.routes.iter().filter_map(waits).collect()
    }
}

#[cfg(test)]
mod tests;
