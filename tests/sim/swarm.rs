//! What a seed draws: its cluster, its clients, and which faults there are how often. No two seeds have the same mix,
//! so that what one kind of fault hides another run shows ("Swarm Testing", Groce and others, ISSTA 2012).

use std::time::Duration;

use fastrand::Rng;
use marline::failpoint::Point;
use marline::odd::Size;
use marline::reactor::sim::Faults;

use super::load::Mix;
use super::nemesis::kinds::Kind;
use super::world::Plan;

/// How long the clients go on while faults happen, in simulated seconds.
pub const SECONDS: u64 = 25;

/// See the module.
pub struct Swarm {
    pub plan: Plan,
    pub clients: usize,
    pub mix: Mix,
    /// How long a client rests between two askings, at most, in milliseconds.
    pub rest_ms: u64,
    /// How long a client waits for an answer before it goes away, in milliseconds.
    pub patience_ms: u64,
    /// How often each kind of fault happens, beside the others.
    pub weights: Vec<(Kind, u32)>,
    /// Between two faults, in milliseconds.
    pub gap_ms: (u64, u64),
    /// How long a fault lasts at most, in milliseconds.
    pub lasting_ms: u64,
    /// Sizes that are not the usual ones.
    pub odd: Vec<(Size, usize)>,
    /// Where each node stops that comes there, once; there are such faults beside it then.
    pub halts_at: Option<Point>,
    /// How many of ten faults concern a node that leads, and not just any.
    pub aims: u32,
    /// Whether some faults wait for their moment.
    pub lurks: bool,
    /// Whether replicas are made anew, because nodes come and go or lose their disks.
    pub moves: bool,
}

/// Sizes that a seed has; half of all seeds have none.
fn odd_sizes(rng: &mut Rng) -> Vec<(Size, usize)> {
    let is_odd = rng.bool();
    let odd = Size::ALL.into_iter().filter_map(|size| {
        let most = match size {
            Size::LogKept => 4_000,
            Size::Message | Size::Committed | Size::ImageBlock => 300,
            Size::Corked | Size::BatchReply => 60,
            Size::SweepRounds => 40,
            Size::Unacknowledged | Size::ImageSlice | Size::BlocksAhead | Size::Awaiting => 6,
        };
        let chosen = rng.usize(1..=most);
        (is_odd && rng.u8(..3) == 0).then_some((size, chosen))
    });
    odd.collect()
}

impl Swarm {
    pub fn draw(seed: u64) -> Swarm {
        let mut rng = Rng::with_seed(seed);
        // By turns, so that few seeds come to all; the rest is drawn of its own.
        let mut of_halts = Rng::with_seed(!seed);
        let halts_at = Point::ALL[(seed % Point::ALL.len() as u64) as usize];
        let halts_at = Some(halts_at).filter(|_| of_halts.u8(..4) > 0);
        let must_move = halts_at.is_some_and(Point::is_of_membership);
        let must_save = halts_at.is_some_and(Point::is_of_saving);
        let comes_and_goes = rng.u8(..4) == 0 || must_move;
        // With more nodes than replicas some ask for what they have nothing of.
        let nodes = match comes_and_goes {
            true => [3, 4, 5, 5, 5][rng.usize(..5)],
            false => 3,
        };
        let mix = match nodes == 5 && rng.u8(..4) > 0 {
            true => Mix::Bursters,
            false => Mix::ALL[rng.usize(..Mix::ALL.len())],
        };
        // How much arrives at once: when it is little, something may happen between two commands of a burst.
        let pieces = match mix {
            Mix::Bursters => [64, 64, 64, 64, 64, 256, 1 << 10, 16 << 10],
            _ => [
                1,
                64,
                1 << 10,
                1 << 10,
                16 << 10,
                16 << 10,
                16 << 10,
                16 << 10,
            ],
        };
        // And how long what is said is on its way: the longer, the more is under way when something happens.
        let delays = match mix {
            Mix::Bursters | Mix::Counters => [2_000_000, 20_000_000, 20_000_000],
            _ => [100_000, 2_000_000, 20_000_000],
        };
        let faults = Faults {
            delay_max_ns: delays[rng.usize(..3)],
            job_delay_max_ns: [500_000, 5_000_000][rng.usize(..2)],
            segment_max_bytes: pieces[rng.usize(..pieces.len())],
            segments_max: Some(6),
            short_write_percent: [0, 20][rng.usize(..2)],
            ..Faults::calm()
        };
        let loses_disks = rng.u8(..3) == 0;
        let lost = [Kind::Wipe, Kind::Rot, Kind::Rot, Kind::Restore][rng.usize(..4)];
        let lost = loses_disks.then_some(lost);
        let plan = Plan {
            faults,
            snapshot_interval: [None, Some(Duration::from_secs(2))]
                [rng.usize(..2).max(must_save.into())],
            nodes,
            joiners: if comes_and_goes { 5 - nodes } else { 0 },
            shards: if comes_and_goes { 4 } else { 2 },
            is_sealed: rng.bool(),
            segment_bytes: [16 << 10, 64 << 10][rng.usize(..2)],
            mixes_versions: rng.u8(..3) == 0,
            ..Plan::new(seed)
        };
        let mut weights: Vec<(Kind, u32)> = Vec::new();
        for kind in Kind::ALL {
            let may_be = (comes_and_goes || !kind.is_of_membership())
                && (loses_disks || !kind.loses_disks());
            // What the seed was drawn for is not left out.
            let more = match kind {
                Kind::Join if comes_and_goes => 1,
                Kind::Isolate if mix == Mix::Readers => 2,
                Kind::Besiege if mix == Mix::Readers => 10,
                Kind::SlowLinks if mix == Mix::Bursters => 5,
                Kind::Leap if mix == Mix::Counters => 16,
                _ if Some(kind) == lost => 10,
                _ => 0,
            };
            let more = more + u32::from(must_move && kind == Kind::Join);
            let weight = more + rng.u32(1..=4) * u32::from(rng.bool());
            if kind != Kind::Halt && may_be && weight > 0 {
                weights.push((kind, weight));
            }
        }
        if weights.is_empty() {
            weights.push((Kind::Kill, 1));
        }
        if halts_at.is_some() {
            weights.push((Kind::Halt, of_halts.u32(1..=4)));
        }
        Swarm {
            plan,
            clients: rng.usize(3..=6),
            mix,
            rest_ms: [1_000, 2_000][rng.usize(..2)],
            // Who says much at once and goes away soon is not there when it matters.
            patience_ms: match mix {
                Mix::Bursters | Mix::Counters => 4_000,
                _ => [500, 4_000][rng.usize(..2)],
            },
            weights,
            gap_ms: [(200, 2_500), (1_000, 8_000)][rng.usize(..2)],
            lasting_ms: [600, 3_000, 8_000][rng.usize(..3)],
            odd: odd_sizes(&mut rng),
            halts_at,
            aims: [0, 5][rng.usize(..2)],
            lurks: rng.bool(),
            moves: comes_and_goes || loses_disks,
        }
    }

    /// Whether the wall clocks of all nodes agree.
    pub fn clocks_agree(&self) -> bool {
        !self.weights.iter().any(|(kind, _)| kind.sets_clocks())
    }
}
