//! Snapshots for replicas that lag behind the log of their leader: the receiver's side.
//!
//! What comes is put together in memory and written to a file at the same time, on the thread pool; when the file is
//! durable, the shard has it at hand ([`stage`](crate::shard::Shard::stage)) and the sender is told. Raft takes it
//! from there, or never: a file that is not used is as good as what it was made of, and the next start may begin with
//! it.
//!
//! One is received from each node at a time, and one for each shard: they would write the same file.

use std::io;
use std::sync::Arc;

use crate::cluster::map::{NodeId, shown};
use crate::data::files::{self, Files};
use crate::disk::image::write::ImageWriter;
use crate::failpoint::{self, Point};
use crate::planted::{self, Bug};
use crate::reactor::app::Cx;
use crate::reactor::id::ConnId;
use crate::shard::meta::{Meta, Part};
use crate::shard::recovery::Recovery;
use crate::store::HashSeed;

use super::super::turn::{Next, Turn};
use super::super::{Node, saving};
use super::frames::Outcome;
use super::{Cluster, incoming, serve};

/// Keys that room is made for because somebody says so.
const ROOM_KEYS_MAX: u64 = 1 << 20;

/// A snapshot that is coming in.
pub struct Receiving {
    /// Which one it is among all that ever came in: the sender's ids begin anew with it.
    serial: u64,
    id: u64,
    conn: ConnId,
    part: Part,
    /// Blocks that wait for the worker.
    blocks: Vec<Vec<u8>>,
    taken: u64,
    has_ended: bool,
    /// Unless a job has it.
    worker: Option<Worker>,
}

/// What a job works on.
struct Worker {
    recovery: Recovery,
    writer: Option<ImageWriter>,
    keys: u64,
}

impl Worker {
    fn take(&mut self, shard: u16, blocks: Vec<Vec<u8>>) -> io::Result<()> {
        failpoint::reach(Point::PiecesTaken);
        for block in blocks {
            let loaded = self.recovery.load(&block);
            self.keys += loaded.map_err(io::Error::other)? as u64;
            if let Some(writer) = &mut self.writer {
                for (tag, piece) in saving::pieces(shard, block) {
                    writer.block(tag, &piece)?;
                }
            }
        }
        Ok(())
    }

    fn finish(mut self, keys: u64) -> io::Result<Recovery> {
        if self.keys != keys {
            let text = format!("{} keys have come of {keys}", self.keys);
            return Err(io::Error::other(text));
        }
        if let Some(writer) = self.writer.take()
            && !planted::is(Bug::SnapshotNotKept)
        {
            writer.finish()?;
        }
        Ok(self.recovery)
    }
}

/// REPL SNAP.
pub fn frame(turn: &mut Turn<'_, '_, '_>, frame: &[u8]) -> Next {
    if !incoming::is_peer(turn) {
        return Next::Go;
    }
    let Some(from) = incoming::caller(turn) else {
        return Next::Go;
    };
    let Some((head, rest)) = frame.split_first_chunk::<9>() else {
        return Next::Close;
    };
    let id = u64::from_le_bytes(std::array::from_fn(|at| head[at + 1]));
    let (conn, bytes) = (turn.me, rest.to_vec());
    match head[0] {
        0 => match Meta::decode(rest) {
            Ok(meta) if meta.parts.len() == 1 => {
                let part = meta.parts[0].clone();
                later(turn, move |cx| begin(cx, from, conn, id, meta.shards, part));
            }
            _ => return Next::Close,
        },
        1 => later(turn, move |cx| block(cx, from, conn, id, bytes)),
        2 => later(turn, move |cx| ended(cx, from, conn, id)),
        _ => return Next::Close,
    }
    Next::Go
}

/// Jobs are begun outside of a session, in the order in which they came.
fn later(turn: &mut Turn<'_, '_, '_>, call: impl FnOnce(&mut Cx<'_, Node>) + 'static) {
    turn.net.call_later(std::time::Duration::ZERO, call);
}

fn begin(cx: &mut Cx<'_, Node>, from: NodeId, conn: ConnId, id: u64, shards: u16, part: Part) {
    let is_ours = cx.app.keyspace.has_replica(part.shard, part.replica);
    let has_one = |cluster: &Cluster| has(cluster, part.shard);
    let is_taken =
        cx.app.saving.is_at(part.shard) || (cx.app.cluster.as_deref()).is_none_or(has_one);
    if shards != cx.app.keyspace.count() || !is_ours || is_taken {
        return answer(cx, conn, id, Outcome::Again);
    }
    log::info!(
        "shard {}: receiving a snapshot of {} keys from node {from}",
        shown(part.shard),
        part.keys
    );
    let (files, seed) = (cx.app.saving.files().cloned(), cx.app.hash_seed);
    let meta = Meta {
        shards,
        parts: vec![part.clone()],
    };
    let Some(cluster) = &mut cx.app.cluster else {
        return;
    };
    cluster.received += 1;
    let serial = cluster.received;
    let receiving = Receiving {
        serial,
        id,
        conn,
        part,
        blocks: Vec::new(),
        taken: 0,
        has_ended: false,
        worker: None,
    };
    failpoint::reach(Point::ReceivingBegun);
    cluster.receivings.insert(from, receiving);
    cx.net.defer_to_thread(
        move || worker(files.as_ref(), seed, &meta),
        move |cx, made| worked(cx, from, serial, made),
    );
}

/// Whether a snapshot of a shard is coming in.
pub fn has(cluster: &Cluster, shard: u16) -> bool {
    let mut all = cluster.receivings.values();
    all.any(|receiving| receiving.part.shard == shard)
}

fn worker(files: Option<&Files>, seed: HashSeed, meta: &Meta) -> io::Result<Worker> {
    let part = &meta.parts[0];
    let mut recovery = Recovery::new(part.shard, seed);
    recovery.begin_from(part, part.keys.min(ROOM_KEYS_MAX) as usize);
    let create = |files: &Files| {
        let name = files::snapshot_name(part.shard, part.applied.index);
        let (disk, key) = (Arc::clone(&files.disk), files.active_key());
        ImageWriter::create(disk, &name, key, &mut (files.entropy)(), &meta.encode())
    };
    Ok(Worker {
        recovery,
        writer: files.map(create).transpose()?,
        keys: 0,
    })
}

/// The one that a node has begun on a connection under an id.
fn of_sender<'c>(
    cx: &'c mut Cx<'_, Node>,
    from: NodeId,
    conn: ConnId,
    id: u64,
) -> Option<&'c mut Receiving> {
    let receiving = cx.app.cluster.as_mut()?.receivings.get_mut(&from)?;
    (receiving.id == id && receiving.conn == conn).then_some(receiving)
}

fn receiving<'c>(cx: &'c mut Cx<'_, Node>, from: NodeId, serial: u64) -> Option<&'c mut Receiving> {
    let receiving = cx.app.cluster.as_mut()?.receivings.get_mut(&from)?;
    (receiving.serial == serial).then_some(receiving)
}

/// At every tick: forgets those whose sender is gone. One that a job has stays until that is back: it has the file.
pub fn tend(cx: &mut Cx<'_, Node>) {
    let (clients, cluster) = (&cx.app.clients, &mut cx.app.cluster);
    if let Some(cluster) = cluster {
        let is_there = |it: &Receiving| it.worker.is_none() || clients.get(it.conn).is_some();
        cluster
            .receivings
            .retain(|_, receiving| is_there(receiving));
    }
}

fn block(cx: &mut Cx<'_, Node>, from: NodeId, conn: ConnId, id: u64, block: Vec<u8>) {
    if let Some(receiving) = of_sender(cx, from, conn, id) {
        receiving.blocks.push(block);
        let serial = receiving.serial;
        feed(cx, from, serial);
    }
}

fn ended(cx: &mut Cx<'_, Node>, from: NodeId, conn: ConnId, id: u64) {
    if let Some(receiving) = of_sender(cx, from, conn, id) {
        receiving.has_ended = true;
        let serial = receiving.serial;
        feed(cx, from, serial);
    }
}

/// Gives the worker what has come, if it is there.
fn feed(cx: &mut Cx<'_, Node>, from: NodeId, serial: u64) {
    let Some(receiving) = receiving(cx, from, serial) else {
        return;
    };
    if receiving.blocks.is_empty() && !receiving.has_ended {
        return;
    }
    let Some(mut worker) = receiving.worker.take() else {
        return;
    };
    let (shard, keys) = (receiving.part.shard, receiving.part.keys);
    let blocks = std::mem::take(&mut receiving.blocks);
    if blocks.is_empty() {
        return cx.net.defer_to_thread(
            move || worker.finish(keys),
            move |cx, made| finished(cx, from, serial, made),
        );
    }
    receiving.taken += blocks.len() as u64;
    let take = move || worker.take(shard, blocks).map(|()| worker);
    cx.net
        .defer_to_thread(take, move |cx, made| worked(cx, from, serial, made));
}

/// The worker is back.
fn worked(cx: &mut Cx<'_, Node>, from: NodeId, serial: u64, made: io::Result<Worker>) {
    let worker = match made {
        Ok(worker) => worker,
        Err(error) => return give_up(cx, from, serial, &error),
    };
    let Some(receiving) = receiving(cx, from, serial) else {
        return;
    };
    receiving.worker = Some(worker);
    let (conn, id, taken) = (receiving.conn, receiving.id, receiving.taken);
    answer(cx, conn, id, Outcome::Replied(&taken.to_le_bytes()));
    feed(cx, from, serial);
}

/// Everything is in memory, and durable.
fn finished(cx: &mut Cx<'_, Node>, from: NodeId, serial: u64, made: io::Result<Recovery>) {
    let recovery = match made {
        Ok(recovery) => recovery,
        Err(error) => return give_up(cx, from, serial, &error),
    };
    let Some(receiving) = end(cx, from, serial) else {
        return;
    };
    let (shard, replica) = (receiving.part.shard, receiving.part.replica);
    // It may have been let go meanwhile, for one of another name.
    if cx.app.keyspace.has_replica(shard, replica) {
        failpoint::reach(Point::SnapshotReceived);
        cx.app.keyspace.shard_mut(shard).stage(recovery);
        answer(cx, receiving.conn, receiving.id, Outcome::Replied(&[]));
    }
}

/// Takes one away.
fn end(cx: &mut Cx<'_, Node>, from: NodeId, serial: u64) -> Option<Receiving> {
    receiving(cx, from, serial)?;
    cx.app.cluster.as_mut()?.receivings.remove(&from)
}

fn give_up(cx: &mut Cx<'_, Node>, from: NodeId, serial: u64, error: &io::Error) {
    log::warn!("a snapshot of node {from} could not be taken: {error}");
    if let Some(receiving) = end(cx, from, serial) {
        answer(cx, receiving.conn, receiving.id, Outcome::Again);
    }
}

fn answer(cx: &mut Cx<'_, Node>, conn: ConnId, id: u64, outcome: Outcome<'_>) {
    serve::answer(cx.app, conn, id, outcome);
}
