//! What fails when. Each fault is drawn from the seed and its own number, so that one can be left out and the others
//! stay as they are. Number 0 is that every node stops once at the point of the seed.
//!
//! The budget: what was acknowledged must be left on a node that can come back. A node loses its disk only when all
//! others have what was on it; a machine whose disk failed loses what it had not synced, and comes back.

mod aimed;
pub mod kinds;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fastrand::Rng;
use marline::disk::sim::Fault;
use marline::disk::sim::rot::Rot;
use marline::failpoint::Point;

use super::swarm::Swarm;
use super::world::{Backup, Client, World};
use aimed::{Lurking, Restart};
use kinds::Kind;

/// How long what was ordered may take to be answered, in nanoseconds.
const ORDER_NS: u64 = 10_000_000_000;

/// How long one is down, at most, that halts once at the point of its seed, in milliseconds.
const HALTED_MS_MAX: u64 = 3_000;
/// How long a node is to halt at most, in milliseconds, if it does not come to where it would.
const HALTING_MS_MAX: u64 = 15_000;

/// How long a founding may take, in nanoseconds.
const FOUNDING_NS_MAX: u64 = 60_000_000_000;
/// Between two looks at whether founders have stopped.
const FOUNDING_LOOK: Duration = Duration::from_millis(100);
/// For how long the end of a cut may be put off because of another, in nanoseconds.
const CUT_NS_MAX: u64 = 3_000_000_000;
/// Between two tries of what can only be done at certain times, and how long it is tried, in nanoseconds.
const WAITING_NS: u64 = 50_000_000;
const WAITING_NS_MAX: u64 = 8_000_000_000;

/// How much too fast or too slow a monotonic clock is at most: leases allow for 5 % between two of them.
const DRIFT_PERCENT_MAX: i32 = 2;

/// A fault that will end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Links,
    Paused(usize),
    Down(usize),
    SlowDisk(usize),
    Disk(usize),
    Full(usize),
    /// A node is to halt somewhere; it is down for so long then, in nanoseconds.
    Halting(usize, u64),
    /// Links of a node are cut or mended so often more.
    Flapping(usize, u32),
    Restart(Restart),
    /// A node will reach nobody for so many milliseconds.
    Hold(usize, u64),
}

/// A fault for which the nodes must stand in a certain way: it is tried for a while.
struct Waiting {
    kind: Kind,
    node: usize,
    lasting: u64,
    next_at: u64,
    until: u64,
    rng: Rng,
}

/// See the module.
pub struct Nemesis {
    seed: u64,
    weights: Vec<(Kind, u32)>,
    gap_ms: (u64, u64),
    lasting_ms: u64,
    /// Faults so far, counted, those left out among them.
    count: usize,
    without: BTreeSet<usize>,
    next: (u64, Rng),
    troubles: Vec<(u64, Trouble)>,
    /// When the last of those is over that end by themselves.
    last_end: u64,
    /// Clients that have ordered something, and when.
    orders: Vec<(Client, u64)>,
    /// A disk as it was, and which member of the cluster its node was.
    backup: Option<(usize, Option<u32>, Backup)>,
    /// Where nodes stop above all.
    halts_at: Option<Point>,
    /// How many have stopped.
    halted: usize,
    /// How many of ten faults are aimed at leaders.
    aims: u32,
    /// Since when links have not been mended although they should.
    cut_since: Option<u64>,
    lurking: Lurking,
    /// What could not be done yet.
    waiting: Option<Waiting>,
    /// What happened how often.
    pub fired: BTreeMap<Kind, u64>,
}

impl Nemesis {
    /// Of nodes that have not been started.
    pub fn new(swarm: &Swarm, without: &BTreeSet<usize>, world: &mut World) -> Nemesis {
        let halts_at = swarm.halts_at.filter(|_| !without.contains(&0));
        Nemesis {
            seed: swarm.plan.seed,
            weights: swarm.weights.clone(),
            gap_ms: swarm.gap_ms,
            lasting_ms: swarm.lasting_ms,
            count: 0,
            without: without.clone(),
            next: (0, Rng::with_seed(0)),
            troubles: halts_at.map_or_else(Vec::new, |point| halt_all(world, point)),
            last_end: 0,
            orders: Vec::new(),
            backup: None,
            halts_at: swarm.halts_at,
            halted: 0,
            aims: swarm.aims,
            cut_since: None,
            lurking: Lurking::new(swarm.lurks),
            waiting: None,
            fired: BTreeMap::new(),
        }
    }

    /// Founds the cluster. Of what fails nothing happens yet but that nodes stop at the point of the seed.
    pub fn found(&mut self, world: &mut World) {
        let founders = world.plan().nodes;
        (1..=founders).for_each(|node| world.start(node));
        let end = world.net.now() + FOUNDING_NS_MAX;
        while !world.within(FOUNDING_LOOK, |world| {
            world.is_led() && (1..=founders).all(|node| world.is_up(node))
        }) {
            assert!(world.net.now() < end, "in vain: the cluster is founded");
            self.note_halted(world);
            let now = world.net.now();
            self.end(world, |until| until <= now);
        }
        self.next = self.draw(world.net.now());
    }

    fn draw(&self, now: u64) -> (u64, Rng) {
        let number = self.count as u64 + 1;
        let mut rng = Rng::with_seed(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number);
        let (least, most) = self.gap_ms;
        (now + rng.u64(least..most) * 1_000_000, rng)
    }

    /// How many faults were drawn.
    pub fn count(&self) -> usize {
        self.count
    }

    /// How many processes died.
    pub fn deaths(&self) -> usize {
        let died = |(kind, count): (&Kind, &u64)| match kind {
            Kind::PowerOff => 5 * *count as usize,
            Kind::Besiege => 4 * *count as usize,
            Kind::Kill
            | Kind::Vanish
            | Kind::KillInCall
            | Kind::EndProcess
            | Kind::DiskError
            | Kind::ReadError
            | Kind::DiskBroken
            | Kind::Wipe
            | Kind::Rot
            | Kind::Restore
            | Kind::CutElected
            | Kind::Leap
            // Some processes begin anew for it.
            | Kind::Halt => *count as usize,
            _ => 0,
        };
        self.fired.iter().map(died).sum::<usize>() + self.halted
    }

    /// When there is something to do next.
    pub fn next_at(&self) -> u64 {
        let ends = self.troubles.iter().map(|(until, _)| *until);
        let waiting = self.waiting.iter().map(|it| it.next_at);
        ends.chain(waiting)
            .chain([self.next.0, self.lurking.next_at])
            .min()
            .unwrap_or(u64::MAX)
    }

    /// Lets faults end and begin whose time has come.
    pub fn go_on(&mut self, world: &mut World) {
        let now = world.net.now();
        self.note_halted(world);
        self.end(world, |until| until <= now);
        self.lurk(world);
        self.try_again(world);
        if now < self.next.0 {
            return;
        }
        let mut rng = self.next.1.clone();
        self.count += 1;
        let is_left_out = self.without.contains(&self.count);
        self.next = self.draw(now);
        if !is_left_out {
            self.begin(world, &mut rng);
        }
    }

    /// Ends all faults, and waits for those that end by themselves.
    pub fn end_all(&mut self, world: &mut World) {
        let left = self.last_end.saturating_sub(world.net.now());
        world.pass(Duration::from_nanos(left));
        self.note_halted(world);
        world.revives = true;
        self.end(world, |_| true);
        for (client, _) in std::mem::take(&mut self.orders) {
            world.close(client);
        }
    }

    fn begin(&mut self, world: &mut World, rng: &mut Rng) {
        let total: u32 = self.weights.iter().map(|(_, weight)| weight).sum();
        let mut chosen = rng.u32(..total);
        let kind = self.weights.iter().find(|(_, weight)| {
            let is_it = chosen < *weight;
            chosen = chosen.saturating_sub(*weight);
            is_it
        });
        let Some(&(kind, _)) = kind else { return };
        let now = world.net.now();
        let any = rng.usize(world.all());
        let node = match rng.u32(..10) < self.aims {
            true => Nemesis::aim(world, rng).unwrap_or(any),
            false => any,
        };
        let lasting_ms = match rng.u8(..4) {
            0 => rng.u64(1..50),
            _ => rng.u64(20..self.lasting_ms),
        };
        let until = now + lasting_ms * 1_000_000;
        world.tell(&format!("fault {}: {kind:?}", self.count));
        if !self.try_to(world, rng, kind, node, until) && matches!(kind, Kind::Wipe | Kind::Rot) {
            self.waiting = Some(Waiting {
                kind,
                node,
                lasting: until - now,
                next_at: now + WAITING_NS,
                until: now + WAITING_NS_MAX,
                rng: rng.clone(),
            });
        }
    }

    /// Lets a fault happen that ends then, if there is something to break.
    fn try_to(
        &mut self,
        world: &mut World,
        rng: &mut Rng,
        kind: Kind,
        node: usize,
        until: u64,
    ) -> bool {
        let Some(troubles) = self.happen(world, rng, kind, node) else {
            return false;
        };
        *self.fired.entry(kind).or_default() += 1;
        let troubles = troubles.into_iter().map(|it| (until, it));
        self.troubles.extend(troubles);
        true
    }

    /// Tries again what could not be done.
    fn try_again(&mut self, world: &mut World) {
        let now = world.net.now();
        let Some(mut waiting) = self.waiting.take_if(|it| it.next_at <= now) else {
            return;
        };
        waiting.next_at = now + WAITING_NS;
        let until = now + waiting.lasting;
        let is_done = self.try_to(world, &mut waiting.rng, waiting.kind, waiting.node, until);
        self.waiting = Some(waiting).filter(|it| !is_done && now < it.until);
    }

    /// Lets a fault happen; what of it will end. `None`: there was nothing to break.
    fn happen(
        &mut self,
        world: &mut World,
        rng: &mut Rng,
        kind: Kind,
        node: usize,
    ) -> Option<Vec<Trouble>> {
        let is_well = world.is_up(node) && !world.is_paused(node);
        let trouble = match kind {
            _ if kind.needs_life() && !is_well => return None,
            Kind::Kill => {
                world.kill(node);
                Trouble::Down(node)
            }
            Kind::Vanish => {
                world.vanish(node);
                Trouble::Down(node)
            }
            Kind::Stall => {
                let time = Duration::from_millis(rng.u64(100..self.lasting_ms));
                world.stall(node, time);
                self.note_end(world, time);
                return Some(Vec::new());
            }
            Kind::ReadError => {
                world.fail_read(node, rng.u64(..12));
                Trouble::Disk(node)
            }
            Kind::Drift => {
                world.drift(node, rng.i32(-DRIFT_PERCENT_MAX..=DRIFT_PERCENT_MAX));
                return Some(Vec::new());
            }
            Kind::Clog => {
                let most = Duration::from_millis(rng.u64(20..self.lasting_ms));
                for (from, to) in pairs(world, node) {
                    if rng.bool() {
                        world.clog(from, to, most);
                    }
                }
                self.note_end(world, most);
                return Some(Vec::new());
            }
            Kind::Reset => {
                for other in world.all().filter(|&other| other != node) {
                    world.reset(node, other);
                }
                return Some(Vec::new());
            }
            Kind::KillInCall => {
                world.kill_in_call(node, rng.u64(..12));
                Trouble::Disk(node)
            }
            Kind::EndProcess => {
                world.kill_process(node);
                Trouble::Down(node)
            }
            Kind::PowerOff => return Some(power_off(world)),
            Kind::Pause => {
                world.pause(node);
                Trouble::Paused(node)
            }
            Kind::SlowDisk => {
                let most = Duration::from_millis(rng.u64(20..400));
                world.slow_disk(node, Some(most));
                Trouble::SlowDisk(node)
            }
            Kind::DiskError | Kind::DiskBroken => {
                world.fail_disk(node, rng.u64(..12), Fault::Eio, kind == Kind::DiskBroken);
                Trouble::Disk(node)
            }
            Kind::DiskFull => {
                world.limit_disk(node, Some(rng.u64(..20_000)));
                Trouble::Full(node)
            }
            Kind::Clock => {
                let most = [5_000, 10_000_000][rng.usize(..2)];
                world.set_clock(node, rng.i64(-most..most));
                return Some(Vec::new());
            }
            Kind::SlowLinks => {
                let most = Duration::from_millis(rng.u64(1..150));
                let loss = rng.u8(..30);
                for (from, to) in pairs(world, node) {
                    world.slow(from, to, most, loss);
                }
                Trouble::Links
            }
            Kind::Cut if rng.bool() => {
                // From one of the others only.
                let others = world.all().filter(|&other| other != node);
                let other = rng.choice(others.collect::<Vec<_>>())?;
                world.part(node, other);
                Trouble::Links
            }
            Kind::Cut => {
                cut(world, node, rng.u8(1..4));
                Trouble::Links
            }
            Kind::Flap => {
                cut(world, node, rng.u8(1..4));
                let at = world.net.now() + rng.u64(20..300) * 1_000_000;
                self.troubles
                    .push((at, Trouble::Flapping(node, rng.u32(3..12))));
                return Some(Vec::new());
            }
            Kind::Split => {
                let side = |_| rng.bool();
                let sides: Vec<bool> = world.all().map(side).collect();
                for (from, to) in world
                    .all()
                    .flat_map(|node| pairs(world, node))
                    .collect::<Vec<_>>()
                {
                    if sides[from - 1] != sides[to - 1] {
                        world.cut(from, to);
                    }
                }
                Trouble::Links
            }
            Kind::Wipe => {
                let node = spare(world, rng)?;
                world.wipe(node);
                world.start(node);
                return Some(Vec::new());
            }
            Kind::Rot => {
                let node = spare(world, rng).filter(|_| is_even(world))?;
                world.kill_process(node);
                let kind = match rng.bool() {
                    true => Rot::Bit,
                    false => Rot::ALL[rng.usize(..Rot::ALL.len())],
                };
                world.rot(node, kind, ["", "wal-"][rng.usize(..2)], rng);
                Trouble::Down(node)
            }
            Kind::Restore => {
                let Some((node, number, backup)) = self.backup.take() else {
                    let node = rng.choice(world.members())?;
                    let number = number_of(world, node);
                    self.backup = Some((node, number, world.back_up(node)));
                    return None;
                };
                let is_the_same = number.is_some() && number_of(world, node) == number;
                spare(world, rng).filter(|_| is_even(world) && is_the_same)?;
                world.kill(node);
                world.restore(node, &backup);
                Trouble::Down(node)
            }
            Kind::Join => {
                let node = rng.choice(self.strangers(world))?;
                world.wipe(node);
                world.let_join(node);
                world.start(node);
                return Some(Vec::new());
            }
            Kind::Leave => {
                self.leave(world, rng)?;
                return Some(Vec::new());
            }
            Kind::Halt => {
                self.halt(world, rng, node);
                return Some(Vec::new());
            }
            Kind::Isolate => {
                self.isolate(world, rng)?;
                return Some(Vec::new());
            }
            Kind::Besiege => {
                self.besiege(world, rng)?;
                return Some(Vec::new());
            }
            Kind::Leap => {
                self.leap(world, rng)?;
                return Some(Vec::new());
            }
            Kind::CutHanding | Kind::CutElected | Kind::SplitChange => return None,
        };
        Some(vec![trouble])
    }

    /// A node is to halt, within a time that rare points need too. Of some the process begins anew at once, for what
    /// is done at no other time.
    fn halt(&mut self, world: &mut World, rng: &mut Rng, node: usize) {
        let drawn = Point::ALL[rng.usize(..Point::ALL.len())];
        let (point, passes) = match rng.u8(..4) {
            0 => (None, rng.u64(..200)),
            1 => (Some(drawn), passes(rng)),
            _ => (Some(self.halts_at.unwrap_or(drawn)), passes(rng)),
        };
        world.halt_at(node, point, passes);
        if point.is_some_and(Point::is_of_start) || rng.u8(..6) == 0 {
            world.kill_process(node);
            world.start(node);
        }
        let down_ns = rng.u64(1..self.lasting_ms) * 1_000_000;
        let until = world.net.now() + rng.u64(1_000..HALTING_MS_MAX) * 1_000_000;
        self.troubles.push((until, Trouble::Halting(node, down_ns)));
    }

    /// Those that have halted are down for a while.
    fn note_halted(&mut self, world: &World) {
        let now = world.net.now();
        for (until, trouble) in &mut self.troubles {
            if let Trouble::Halting(node, down_ns) = *trouble
                && !world.is_to_halt(node)
            {
                self.halted += 1;
                (*until, *trouble) = (now + down_ns, Trouble::Down(node));
            }
        }
    }

    /// Mends the links, unless some are to be cut for longer; but not for long.
    fn mend(&mut self, world: &mut World) {
        let now = world.net.now();
        let since = *self.cut_since.get_or_insert(now);
        let is_last = !self.troubles.iter().any(|(_, it)| *it == Trouble::Links);
        if is_last || now > since + CUT_NS_MAX {
            self.cut_since = None;
            world.heal();
        }
    }

    /// Something ends by itself after this time.
    fn note_end(&mut self, world: &World, time: Duration) {
        let end = world.net.now() + time.as_nanos() as u64;
        self.last_end = self.last_end.max(end);
    }

    /// Nodes that are no members, and that nobody is about to start.
    fn strangers(&self, world: &World) -> Vec<usize> {
        let members = world.members();
        let is_down = |node: usize| {
            let mut troubles = self.troubles.iter().map(|(_, trouble)| *trouble);
            troubles.any(|it| it == Trouble::Down(node) || it == Trouble::Disk(node))
        };
        let is_stranger =
            |node: &usize| !members.contains(node) && !is_down(*node) && !world.is_known(*node);
        world.all().filter(is_stranger).collect()
    }

    fn leave(&mut self, world: &mut World, rng: &mut Rng) -> Option<()> {
        let now = world.net.now();
        self.orders.retain(|&(client, since)| {
            let is_over =
                world.line(client).is_some() || world.is_closed(client) || now > since + ORDER_NS;
            if is_over {
                world.close(client);
            }
            !is_over
        });
        let map = world.map()?;
        let staying = map.staying();
        let node = rng.choice(world.members())?;
        let number = rng.choice(&staying).filter(|_| staying.len() > 3)?;
        let text = format!("CLUSTER FORGET {number}");
        world.note(Some(node), &text);
        let client = world.connect(node);
        world.send(client, &text);
        self.orders.push((client, now));
        Some(())
    }

    fn end(&mut self, world: &mut World, is_over: impl Fn(u64) -> bool) {
        let over = self.troubles.extract_if(.., |(until, _)| is_over(*until));
        let over: Vec<(u64, Trouble)> = over.collect();
        let is_last = is_over(u64::MAX);
        for (_, trouble) in over {
            match trouble {
                Trouble::Links => self.mend(world),
                Trouble::Paused(node) if world.is_paused(node) => world.wake(node),
                Trouble::SlowDisk(node) => world.slow_disk(node, None),
                Trouble::Full(node) => world.limit_disk(node, None),
                Trouble::Disk(node) => {
                    world.heal_disk(node);
                    world.revive(node);
                }
                Trouble::Down(node) => world.revive(node),
                Trouble::Halting(node, _) => world.halt_nowhere(node),
                Trouble::Flapping(_, 0) => world.heal(),
                Trouble::Flapping(..) if is_last => world.heal(),
                Trouble::Flapping(node, left) => {
                    match left % 2 {
                        0 => world.isolate(node),
                        _ => world.heal(),
                    }
                    let at = world.net.now() + 20_000_000 * (1 + u64::from(left));
                    self.troubles.push((at, Trouble::Flapping(node, left - 1)));
                }
                Trouble::Restart(_) | Trouble::Hold(..) if is_last => {}
                Trouble::Hold(node, ms) => self.hold(world, node, ms),
                Trouble::Restart(restart) => self.restart(world, restart),
                Trouble::Paused(_) => {}
            }
        }
        if is_last {
            world.heal();
            world
                .all()
                .filter(|&node| !world.is_up(node))
                .collect::<Vec<_>>()
                .into_iter()
                .for_each(|node| {
                    // One that its disk ended in the last moment, or that has left.
                    world.revive(node);
                });
        }
    }
}

/// How many hits a node passes before it halts.
fn passes(rng: &mut Rng) -> u64 {
    match rng.u8(..4) {
        0 => rng.u64(..30),
        _ => 0,
    }
}

/// Lets each node stop once at the point of the seed, whenever it comes there: be it while the cluster is founded.
fn halt_all(world: &mut World, point: Point) -> Vec<(u64, Trouble)> {
    let mut rng = Rng::with_seed(world.plan().seed);
    let mut all = Vec::new();
    for node in world.all() {
        world.halt_at(node, Some(point), passes(&mut rng));
        let down_ns = rng.u64(1..HALTED_MS_MAX) * 1_000_000;
        all.push((u64::MAX, Trouble::Halting(node, down_ns)));
    }
    all
}

/// The links of a node, both ways.
fn pairs(world: &World, node: usize) -> Vec<(usize, usize)> {
    let others = world.all().filter(|&other| other != node);
    let both = others.flat_map(|other| [(node, other), (other, node)]);
    both.collect()
}

/// Cuts the links of a node; a bit for each way.
fn cut(world: &mut World, node: usize, ways: u8) {
    for (from, to) in pairs(world, node) {
        if ways & (1 << u8::from(from == node)) != 0 {
            world.cut(from, to);
        }
    }
}

/// Which member of the cluster a node is.
fn number_of(world: &World, node: usize) -> Option<u32> {
    let (map, number) = world.node(node)?.place()?;
    map.nodes.contains_key(&number).then_some(number)
}

fn power_off(world: &mut World) -> Vec<Trouble> {
    let up: Vec<usize> = world.all().filter(|&node| world.is_up(node)).collect();
    for &node in &up {
        world.kill(node);
    }
    up.into_iter().map(Trouble::Down).collect()
}

/// A node that may lose its disk: all the others have what is on it, and no other disk is wrong.
fn spare(world: &World, rng: &mut Rng) -> Option<usize> {
    let members = world.members();
    let map = world.map()?;
    let is_whole = members.len() >= 3
        && map.nodes.len() == members.len()
        && world.misplaced().is_none()
        && !world.all().any(|node| world.is_rotten(node));
    rng.choice(members).filter(|_| is_whole)
}

/// Whether all replicas have the same entries: then one may forget some, for the others need not ask it.
fn is_even(world: &World) -> bool {
    let mut shards = world.shards().into_iter();
    shards.all(|shard| world.difference(shard).is_none())
}
