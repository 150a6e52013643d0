//! Faults that need no more than to be told to the network or to a disk.

use std::time::Duration;

use marline::disk::sim::Crash;
use marline::disk::sim::rot::Rot;
use marline::reactor::sim::SimNet;
use marline::reactor::timer::Nanos;

use super::{Backup, World};

impl World {
    /// The machine of a node is gone, and nobody is told. Its disk is as after [`kill`](World::kill).
    pub fn vanish(&mut self, node: usize) {
        self.note(Some(node), "vanish");
        let chance = self.net.random();
        self.end(node, Crash::Random(chance), SimNet::vanish);
    }

    /// Nothing gets from one node to the other, nor back.
    pub fn part(&mut self, one: usize, other: usize) {
        self.cut(one, other);
        self.cut(other, one);
    }

    /// A node reaches no other, and none it.
    pub fn isolate(&mut self, node: usize) {
        for other in self.all().filter(|&other| other != node) {
            self.part(node, other);
        }
    }

    /// Nothing gets from one node to another for so long; then everything arrives.
    pub fn clog(&mut self, from: usize, to: usize, time: Duration) {
        self.note(Some(from), &format!("clog to {to}: {time:?}"));
        let until = self.net.now() + time.as_nanos() as Nanos;
        let ends = (self.seats[from - 1].at, self.seats[to - 1].at);
        self.net.clog(ends.0, ends.1, until);
    }

    /// All connections between two nodes are reset.
    pub fn reset(&mut self, one: usize, other: usize) {
        self.note(Some(one), &format!("reset with {other}"));
        let ends = (self.seats[one - 1].at, self.seats[other - 1].at);
        self.net.reset(ends.0, ends.1);
    }

    /// The disk of a node hangs for so long.
    pub fn stall(&mut self, node: usize, time: Duration) {
        self.note(Some(node), &format!("disk: hangs {time:?}"));
        let until = self.net.now() + time.as_nanos() as Nanos;
        self.net.stall(self.seats[node - 1].at, until);
    }

    /// The monotonic clock of a node is so much too fast from now on.
    pub fn drift(&mut self, node: usize, percent: i32) {
        self.note(Some(node), &format!("clock: drifts {percent} %"));
        self.net
            .set_drift(self.seats[node - 1].at, percent * 10_000);
    }

    /// Something on the disk of a node becomes wrong where it lies; what, or nothing if there is nothing of that kind.
    /// The node may end by it at any time, until its disk is wiped. `begin`: how the names of the files begin.
    pub fn rot(
        &mut self,
        node: usize,
        kind: Rot,
        begin: &str,
        rng: &mut fastrand::Rng,
    ) -> Option<String> {
        let seat = self.seat(node);
        let may_rot = |name: &str| name.starts_with(begin) && !name.starts_with("spare-");
        let what = seat.disk.rot(kind, rng, may_rot)?;
        seat.rot = Some(kind);
        self.note(Some(node), &format!("rot: {what}"));
        Some(what)
    }

    /// Whether something on the disk of a node is wrong.
    pub fn is_rotten(&self, node: usize) -> bool {
        self.seats[node - 1].rot.is_some()
    }

    /// Which disk of a node it is that it has.
    pub fn disk_number(&self, node: usize) -> u64 {
        self.seats[node - 1].disk_number
    }

    /// How often the disk of a node was put back to an earlier state.
    pub fn put_backs(&self, node: usize) -> u64 {
        self.seats[node - 1].put_backs
    }

    /// What of the disk of a node is wrong.
    pub fn rot_of(&self, node: usize) -> Option<Rot> {
        self.seats[node - 1].rot
    }

    /// Whether a node has found out that its disk is wrong, and ended.
    pub fn has_found_rot(&self, node: usize) -> bool {
        let seat = &self.seats[node - 1];
        seat.rot.is_some() && seat.process.is_none() && seat.has_failed
    }

    /// The disk of a node as it is now.
    pub fn back_up(&mut self, node: usize) -> Backup {
        self.note(Some(node), "back up");
        let seat = self.seat(node);
        Backup {
            disk: seat.disk.fork(),
            number: seat.disk_number,
        }
    }

    /// The disk of a node that is down becomes what it was.
    pub fn restore(&mut self, node: usize, backup: &Backup) {
        self.note(Some(node), "restore");
        let seat = self.seat(node);
        seat.put_backs += 1;
        seat.disk_number = backup.number;
        seat.disk.restore(&backup.disk);
    }

    /// A read of a node's disk fails, `reads` reads from now. The node may end by it.
    pub fn fail_read(&mut self, node: usize, reads: u64) {
        self.note(Some(node), &format!("disk: a read fails in {reads} reads"));
        let seat = self.seat(node);
        seat.let_fail();
        seat.disk.fail_read_at(seat.disk.reads() + reads, false);
    }

    /// Each call of a node's disk takes up to so long; `None`: as on the others.
    pub fn slow_disk(&mut self, node: usize, most: Option<Duration>) {
        self.note(Some(node), &format!("disk: {most:?}"));
        let most = most.map(|most| most.as_nanos() as u64);
        self.net.set_job_delay_max(self.seats[node - 1].at, most);
    }

    /// The disk of a node has room for so many bytes more; `None`: for all there is.
    pub fn limit_disk(&mut self, node: usize, bytes: Option<u64>) {
        self.note(Some(node), &format!("disk: room for {bytes:?} bytes"));
        let disk = &self.seat(node).disk;
        let used: u64 = disk.contents().values().map(|it| it.len() as u64).sum();
        disk.limit(bytes.map_or(u64::MAX, |bytes| used + bytes));
    }

    /// The wall clock of a node is so many milliseconds off from now on.
    pub fn set_clock(&mut self, node: usize, skew_ms: i64) {
        self.note(Some(node), &format!("clock: {skew_ms} ms off"));
        self.net.set_wall_skew_ms(self.seats[node - 1].at, skew_ms);
    }
}
