//! Directories as a node writes them: shards, a log in several segments, snapshots, backups, on a simulated disk.

use std::sync::Arc;

use marline::command::op::{Action, Op, Set, SetAnswer, SetExpiry};
use marline::data::files::{self, NewEntropy};
use marline::data::identity::{self, Identity};
use marline::data::loading;
use marline::disk::Disk;
use marline::disk::image::write::ImageWriter;
use marline::disk::seal::{Entropy, KeyRing};
use marline::disk::sim::SimDisk;
use marline::disk::wal::ActiveKey;
use marline::disk::wal::writer::Wal;
use marline::offline::Verdict;
use marline::offline::check::Check;
use marline::shard::Shard;
use marline::shard::meta::Meta;
use marline::shard::recovery::Recovery;
use marline::store::HashSeed;
use marline::wire::reply::{Dialect, Reply};

pub(crate) const SHARDS: u16 = 3;
pub(crate) const SEED: HashSeed = HashSeed(1, 2);
/// 2026-11-23T20:10:00Z
pub(crate) const AT_MS: u64 = 1_795_464_600_000;
const SEGMENT_BYTES: u64 = 1024;

pub(crate) fn entropy() -> Entropy {
    let mut random = fastrand::Rng::with_seed(11);
    Box::new(move |bytes| random.fill(bytes))
}

/// A ring with two keys.
pub(crate) fn ring() -> KeyRing {
    let (disk, mut random) = (SimDisk::new(1), entropy());
    let mut ring = KeyRing::create(&disk, "keys", AT_MS, &mut random).unwrap();
    ring.rotate(&disk, "keys", AT_MS, &mut random).unwrap();
    ring
}

/// A node without the node: what it has in memory, and its directory.
pub(crate) struct World {
    pub(crate) disk: Arc<SimDisk>,
    pub(crate) backups: Arc<SimDisk>,
    ring: Option<KeyRing>,
    shards: Vec<Shard>,
    wal: Wal,
    at_ms: u64,
}

impl World {
    /// Starts from what is in the directory, as a node does.
    pub(crate) fn start(disk: Arc<SimDisk>, ring: Option<KeyRing>) -> World {
        let shared: Arc<dyn Disk> = Arc::clone(&disk) as Arc<dyn Disk>;
        let names: Vec<String> = disk.contents().into_keys().collect();
        if !names.iter().any(|name| name == files::IDENTITY) {
            let node = "n".repeat(40);
            let identity = Identity {
                shards: SHARDS,
                node,
                seed: SEED,
                is_restored: false,
            };
            identity::write(Arc::clone(&shared), &mut entropy(), &identity).unwrap();
        }
        let shards = identity::read(Arc::clone(&shared)).unwrap().shards;
        let secret = |id| ring.as_ref()?.secret(id);
        let mut recoveries: Vec<Recovery> = (0..shards)
            .map(|number| Recovery::new(number, SEED))
            .collect();
        for name in names {
            if let Some((shard, _)) = files::parse_snapshot_name(&name) {
                let place = &mut recoveries[usize::from(shard)];
                let disk = Arc::clone(&shared);
                let mut keep = |recovery| *place = recovery;
                loading::image(disk, &name, &secret, SEED, &mut |_, _| {}, &mut keep).unwrap();
            }
        }
        let end = loading::log(&*shared, &secret, &mut recoveries, &mut |_, _| {}).unwrap();
        let mut record = Vec::new();
        let mut shards = Vec::new();
        for recovery in recoveries {
            recovery.write_tail(&mut record);
            shards.push(recovery.finish());
        }
        let key = ring.as_ref().map(KeyRing::active);
        let key = key.map(|(id, secret)| ActiveKey { id, secret });
        let wal = Wal::begin(shared, key, entropy(), &end, SEGMENT_BYTES).unwrap();
        let backups = Arc::new(SimDisk::new(3));
        let at_ms = AT_MS;
        let mut world = World {
            disk,
            backups,
            ring,
            shards,
            wal,
            at_ms,
        };
        world.commit(record);
        world
    }

    fn commit(&mut self, mut record: Vec<u8>) {
        for shard in &mut self.shards {
            shard.close(self.at_ms);
            shard.advance(Some(&mut record), 1);
        }
        self.wal.append(&record, true).unwrap();
        for shard in &mut self.shards {
            shard.persisted(1);
            shard.advance(Some(&mut Vec::new()), 2);
            let mut unread = Vec::new();
            let mut reply = Reply::new(&mut unread, Dialect::Resp2);
            while shard.apply_next(&mut reply, |_, _| {}).is_some() {}
        }
    }

    /// Sets keys that expire and keys that do not in every shard, a batch each.
    pub(crate) fn fill(&mut self, from: u32, to: u32) {
        for number in from..to {
            self.at_ms += 10;
            let (key, value) = (format!("key:{number}"), format!("value {number}"));
            let expiry = match number % 4 {
                0 => SetExpiry::At(self.at_ms + 1_000_000),
                1 => SetExpiry::At(self.at_ms + 5),
                _ => SetExpiry::Clear,
            };
            let action = Action::Set(Set {
                value: value.as_bytes(),
                expiry,
                condition: None,
                answer: SetAnswer::Ok,
            });
            let op = Op {
                key: key.as_bytes(),
                action,
            };
            let shards = self.shards.len();
            self.shards[number as usize % shards].propose(&op);
            self.commit(Vec::new());
        }
    }

    fn image(&mut self, disk: Arc<SimDisk>, name: &str, numbers: &[u16]) {
        let shards = self.shards.len() as u16;
        let parts = numbers
            .iter()
            .map(|&number| self.shards[usize::from(number)].part());
        let meta = Meta {
            shards,
            parts: parts.collect(),
        };
        let key = self.ring.as_ref().map(KeyRing::active);
        let mut writer =
            ImageWriter::create(disk, name, key, &mut entropy(), &meta.encode()).unwrap();
        for &number in numbers {
            let store = self.shards[usize::from(number)].store_mut();
            store.begin_image();
            while !store.advance_image(10) {}
            while store.image_bytes() > 0 {
                let block = store.take_image(100);
                writer.block(u32::from(number), &block).unwrap();
            }
        }
        writer.finish().unwrap();
    }

    /// Saves a shard. What older snapshot and log there is stays.
    pub(crate) fn save(&mut self, shard: u16) -> String {
        let index = self.shards[usize::from(shard)].applied().index;
        let name = files::snapshot_name(shard, index);
        self.image(Arc::clone(&self.disk), &name, &[shard]);
        name
    }

    pub(crate) fn backup(&mut self, name: &str) {
        let all: Vec<u16> = (0..self.shards.len() as u16).collect();
        self.image(Arc::clone(&self.backups), name, &all);
    }

    /// Digests of all shards at the latest time of the data.
    pub(crate) fn digests(&self) -> Vec<String> {
        let at_ms = self.shards.iter().map(|shard| shard.applied().at_ms).max();
        let digest = |shard: &Shard| format!("{:016x}", shard.store().digest(at_ms.unwrap()));
        self.shards.iter().map(digest).collect()
    }
}

/// A world with two snapshots of shard 1, one of shard 0, a log of several segments and a backup.
pub(crate) fn world(ring: Option<KeyRing>) -> World {
    let mut world = World::start(Arc::new(SimDisk::new(2)), ring);
    world.fill(0, 20);
    world.save(1);
    world.fill(20, 30);
    world.save(0);
    world.save(1);
    world.backup("monday");
    world.fill(30, 40);
    world
}

/// What `marline check` finds.
pub(crate) fn check(
    disk: &Arc<SimDisk>,
    backups: Option<&Arc<SimDisk>>,
    ring: Option<&KeyRing>,
    is_verbose: bool,
) -> (Verdict, Vec<String>) {
    let mut lines = Vec::new();
    let check = Check {
        disk: Arc::clone(disk) as Arc<dyn Disk>,
        backups: backups.map(|disk| Arc::clone(disk) as Arc<dyn Disk>),
        ring,
        seed: SEED,
        is_verbose,
    };
    let verdict = check.run(&mut |line| lines.push(line.to_owned())).unwrap();
    (verdict, lines)
}

/// The digests in what check tells.
pub(crate) fn digests_in(lines: &[String]) -> Vec<String> {
    let digest = |line: &String| Some(line.split_once("digest ")?.1.to_owned());
    lines.iter().filter_map(digest).collect()
}

pub(crate) const NEW_ENTROPY: NewEntropy = entropy;
