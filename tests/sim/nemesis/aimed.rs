//! Faults that are aimed: at leaders, and at the moments in which something changes hands.
//!
//! ```text
//!   isolate    a leader and all others            ╳ for seconds, while clients still reach it
//!   besiege    a leader and one of its followers  ╳, and meanwhile another restarts, within a moment or two
//!   leap       a leader's clock is set, and what it says then is not agreed upon: it is deaf, and one of those who
//!              hear it restarts soon, or it loses its power
//!   lurk       nothing, until a leader hands over, or has just been elected, or not all replicas know of the same
//!              members: then links are cut between those that have changed and the others, or a voter restarts
//! ```
//!
//! What happens at random seldom meets a moment that is over within a few deliveries; and with many nodes and shards it
//! seldom meets those on whom it depends.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fastrand::Rng;
use marline::cluster::map::ReplicaId;
use marline::node::Node;
use marline::node::cluster::status::Standing;

use super::kinds::Kind;
use super::{Nemesis, Trouble};
use crate::world::World;

/// Between two looks of one that lurks.
const LURK_NS: u64 = 8_000_000;

/// Between two strikes of it.
const PAUSE_NS: u64 = 4_000_000_000;

/// What is waited for, and seen.
#[derive(Default)]
pub(super) struct Lurking {
    /// `u64::MAX`: never.
    pub(super) next_at: u64,
    /// Until when it does nothing, whatever it sees: what it does brings about what it waits for.
    pauses_until: u64,
    /// Shards that are handed over, each with the term.
    handing: BTreeSet<(u16, u64)>,
    /// Shards that were led, each with the term.
    leading: BTreeSet<(u16, u64)>,
    /// Shards whose voters have changed for some, each with the new ones.
    parting: BTreeSet<(u16, Vec<u64>)>,
}

impl Lurking {
    pub(super) fn new(lurks: bool) -> Lurking {
        Lurking {
            next_at: if lurks { 0 } else { u64::MAX },
            ..Lurking::default()
        }
    }
}

/// A node restarts in the midst of a siege.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Restart {
    node: usize,
    /// How long it is down, in milliseconds.
    down_ms: u64,
    /// Whom it does not reach from then on.
    cut_from: Option<usize>,
    is_power: bool,
}

/// A shard, and the node that leads it.
fn led(world: &World, rng: &mut Rng) -> Option<(u16, usize)> {
    let led = |shard| Some((shard, world.leader(shard)?));
    let all: Vec<_> = world.shards().into_iter().filter_map(led).collect();
    rng.choice(all)
}

impl Nemesis {
    /// A node that leads a shard.
    pub(super) fn aim(world: &World, rng: &mut Rng) -> Option<usize> {
        led(world, rng).map(|(_, node)| node)
    }

    /// A leader reaches no other node, and none it.
    pub(super) fn isolate(&mut self, world: &mut World, rng: &mut Rng) -> Option<()> {
        let (_, leader) = led(world, rng).filter(|_| !self.is_cut())?;
        world.isolate(leader);
        self.mend_after(world, rng.u64(800..5_000));
        Some(())
    }

    /// A leader does not reach one of its followers, and another restarts again and again.
    pub(super) fn besiege(&mut self, world: &mut World, rng: &mut Rng) -> Option<()> {
        let (shard, leader) = led(world, rng).filter(|_| !self.is_cut())?;
        let mut followers = world.holders(shard);
        followers.retain(|&node| node != leader && !world.is_paused(node));
        rng.shuffle(&mut followers);
        let &[lost, other, ..] = &followers[..] else {
            return None;
        };
        world.part(leader, lost);
        let mut at = rng.u64(800..1_800);
        for _ in 0..rng.u32(2..5) {
            let restart = Restart {
                node: other,
                down_ms: rng.u64(1..80),
                cut_from: (rng.u8(..3) > 0).then_some(leader),
                is_power: rng.bool(),
            };
            self.restart_after(world, at, restart);
            at += rng.u64(300..1_500);
        }
        self.mend_after(world, at + rng.u64(500..1_500));
        Some(())
    }

    /// The clock of a leader is set, and what it says from then on is not agreed upon: it hears of no other node any
    /// more, or loses its power.
    pub(super) fn leap(&mut self, world: &mut World, rng: &mut Rng) -> Option<()> {
        let (_, node) = led(world, rng)?;
        world.set_clock(node, rng.i64(-1_000..12_000));
        if rng.u8(..4) > 0 {
            for other in world.all().filter(|&other| other != node) {
                world.cut(other, node);
            }
            let most = Duration::from_millis(rng.u64(1..70));
            let others = world.all().filter(|&other| other != node);
            let others: Vec<usize> = others.collect();
            for (&from, &to) in others
                .iter()
                .flat_map(|one| others.iter().map(move |to| (one, to)))
            {
                if from != to {
                    world.slow(from, to, most, 0);
                }
            }
            let deaf_ms = rng.u64(1_500..5_000);
            self.mend_after(world, deaf_ms);
            // What the others have taken from it and from its successor one of them reads again.
            let restart = Restart {
                node: rng.choice(others)?,
                down_ms: rng.u64(1..80),
                cut_from: None,
                is_power: rng.bool(),
            };
            self.restart_after(world, rng.u64(1_200..deaf_ms + 1_000), restart);
            return Some(());
        }
        let restart = Restart {
            node,
            down_ms: rng.u64(1_500..4_000),
            cut_from: None,
            is_power: rng.bool(),
        };
        self.restart_after(world, rng.u64(1..100), restart);
        Some(())
    }

    /// Whether links are cut: without a leader for long, clients are told nothing that could be wrong.
    fn is_cut(&self) -> bool {
        self.troubles.iter().any(|(_, it)| *it == Trouble::Links)
    }

    fn mend_after(&mut self, world: &World, ms: u64) {
        let until = world.net.now() + ms * 1_000_000;
        self.troubles.push((until, Trouble::Links));
    }

    fn restart_after(&mut self, world: &World, ms: u64, restart: Restart) {
        let when = world.net.now() + ms * 1_000_000;
        self.troubles.push((when, Trouble::Restart(restart)));
    }

    /// A restart in the midst of a siege.
    pub(super) fn restart(&mut self, world: &mut World, restart: Restart) {
        let node = restart.node;
        if !world.is_up(node) || world.is_paused(node) {
            return;
        }
        match restart.is_power {
            true => world.kill(node),
            false => world.kill_process(node),
        }
        if let Some(other) = restart.cut_from {
            world.part(node, other);
        }
        let until = world.net.now() + restart.down_ms * 1_000_000;
        self.troubles.push((until, Trouble::Down(node)));
    }

    /// All links of a node are cut for so many milliseconds.
    pub(super) fn hold(&mut self, world: &mut World, node: usize, ms: u64) {
        world.isolate(node);
        self.mend_after(world, ms);
    }

    /// Looks whether the moment has come; what then happens is a fault like another.
    pub(super) fn lurk(&mut self, world: &mut World) {
        let now = world.net.now();
        if now < self.lurking.next_at {
            return;
        }
        self.lurking.next_at = now + LURK_NS;
        let handing = |node| Some((node, world.node(node)?.handing()?));
        let handing: Vec<(usize, (u16, ReplicaId))> = world.all().filter_map(handing).collect();
        for (node, (shard, heir)) in handing {
            let mut standings = world.node(node).into_iter().flat_map(Node::standings);
            let term = standings
                .find(|it| it.shard == shard && it.is_handing)
                .map(|it| it.term);
            drop(standings);
            if let Some(term) = term
                && self.lurking.handing.insert((shard, term))
            {
                self.strike(world, Kind::CutHanding, |world, rng| {
                    cut_handing(world, rng, node, heir)
                });
            }
        }
        for node in world.all() {
            let mut reigns = world.node(node).into_iter().flat_map(Node::reigns);
            let new = reigns.find(|reign| !self.lurking.leading.contains(reign));
            drop(reigns);
            if let Some(reign) = new {
                self.lurking.leading.insert(reign);
                self.strike(world, Kind::CutElected, |world, rng| {
                    cut_elected(world, rng, reign.0, node)
                });
            }
        }
        if world.is_changing() {
            for (shard, voters, side) in partings(world) {
                if self.lurking.parting.insert((shard, voters)) {
                    self.strike(world, Kind::SplitChange, |world, _| {
                        split(world, &side);
                        None
                    });
                }
            }
        }
    }

    /// One of the moments that were waited for: some of them are used.
    fn strike(
        &mut self,
        world: &mut World,
        kind: Kind,
        how: impl FnOnce(&mut World, &mut Rng) -> Option<(u64, Trouble)>,
    ) {
        let now = world.net.now();
        if now < self.lurking.pauses_until {
            return;
        }
        let is_frequent = kind == Kind::CutElected;
        let (_, mut rng) = self.draw(now);
        self.count += 1;
        // The next in turn has a number of its own.
        self.next.1 = self.draw(now).1;
        if self.without.contains(&self.count) || rng.u8(..if is_frequent { 4 } else { 2 }) > 0 {
            return;
        }
        world.tell(&format!("fault {}: {kind:?}", self.count));
        self.lurking.pauses_until = now + PAUSE_NS;
        let trouble = how(world, &mut rng);
        self.troubles.extend(trouble);
        *self.fired.entry(kind).or_default() += 1;
        let ms = match kind {
            Kind::CutHanding => rng.u64(20..1_500),
            _ => rng.u64(1_500..5_000),
        };
        self.mend_after(world, ms);
    }
}

/// Who hands over does not hear of what becomes of it: from its followers, or from some of them; or nothing becomes of
/// it, since the heir hears nothing, and the leader resigns and may lead again.
fn cut_handing(
    world: &mut World,
    rng: &mut Rng,
    leader: usize,
    heir: ReplicaId,
) -> Option<(u64, Trouble)> {
    let is_heir = |&node: &usize| super::number_of(world, node) == Some(heir.node());
    if rng.bool()
        && let Some(heir) = world.all().find(is_heir)
    {
        world.isolate(heir);
        let until = world.net.now() + rng.u64(1_100..3_000) * 1_000_000;
        return Some((until, Trouble::Links));
    }
    let is_deaf_only = rng.bool();
    for other in world.all().filter(|&other| other != leader) {
        if is_deaf_only || rng.bool() {
            world.cut(other, leader);
        }
    }
    None
}

/// Who has just been elected reaches nobody, and one of those that may have elected it restarts at once; or one of them
/// reaches nobody in a moment, for another.
fn cut_elected(
    world: &mut World,
    rng: &mut Rng,
    shard: u16,
    leader: usize,
) -> Option<(u64, Trouble)> {
    let mut followers = world.holders(shard);
    followers.retain(|&node| node != leader);
    let node = rng.choice(followers)?;
    let now = world.net.now();
    if rng.bool() {
        let hold = Trouble::Hold(node, rng.u64(100..600));
        return Some((now + rng.u64(..80) * 1_000_000, hold));
    }
    world.isolate(leader);
    let restart = Restart {
        node,
        down_ms: rng.u64(1..80),
        cut_from: None,
        is_power: rng.bool(),
    };
    Some((now, Trouble::Restart(restart)))
}

/// Shards of which some replicas know of a change of the voters and others do not: the voters as the leader knows them,
/// and the nodes on its side, which are those that have come.
fn partings(world: &World) -> Vec<(u16, Vec<u64>, Vec<usize>)> {
    let mut all = Vec::new();
    let mut by_shard: BTreeMap<u16, Vec<(usize, Standing<'_>)>> = BTreeMap::new();
    for node in world.all() {
        for standing in world.node(node).into_iter().flat_map(Node::standings) {
            let of_shard = by_shard.entry(standing.shard).or_default();
            of_shard.push((node, standing));
        }
    }
    for (shard, standings) in by_shard {
        let leaders = standings.iter().filter(|(_, it)| it.is_leader);
        let Some((leader, of)) = leaders.max_by_key(|(_, it)| it.term) else {
            continue;
        };
        let voters = &of.members.voters;
        let is_behind = |(_, it): &&(usize, Standing<'_>)| {
            it.members.voters != *voters && voters.contains(&it.replica)
        };
        let Some((_, behind)) = standings.iter().find(is_behind) else {
            continue;
        };
        let has_come = |(_, it): &&(usize, Standing<'_>)| {
            voters.contains(&it.replica) && !behind.members.voters.contains(&it.replica)
        };
        let mut side: Vec<usize> = standings.iter().filter(has_come).map(|it| it.0).collect();
        side.push(*leader);
        all.push((shard, voters.clone(), side));
    }
    all
}

/// These nodes and the others do not reach each other.
fn split(world: &mut World, side: &[usize]) {
    for one in world.all().filter(|node| side.contains(node)) {
        for other in world.all().filter(|node| !side.contains(node)) {
            world.part(one, other);
        }
    }
}
