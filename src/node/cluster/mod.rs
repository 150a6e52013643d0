//! The cluster, as one of its nodes sees it.
//!
//! ```text
//!   client ─▶ session ─▶ forward ── REPL FWD ──▶ serve ─▶ commit        (the shard's leader)
//!                          ▲                       │        │ raft
//!                          └──────── answers ──────┘        ▼
//!                                                  link ── REPL MSG ──▶ incoming ─▶ shard.step
//! ```
//!
//! Every node dials every node of the [map](crate::cluster::map), itself included, and speaks the same protocol as
//! clients do: what goes out on a link that it dialed are its messages and the commands it passes on; what comes
//! back are answers. What others have to say to it comes in on links that they dialed. So a link that breaks takes with
//! it only what one side had asked.
//!
//! The map is what the meta shard agrees on, which is a shard like the others, but for its keys: `map`, and `founding`,
//! the first map, with which a founder that was away when the others began can begin too.
//!
//! The rooms: [`founding`] (from a list of addresses to a map), [`link`] (what this node dials), [`incoming`] (what
//! others say), [`frames`] (bytes), [`route`] (where a command is to be run), [`forward`] (commands for other nodes),
//! [`routes`] (their order), [`gather`] (commands over several shards), [`transact`] (transactions and watches),
//! [`serve`] (commands of other nodes), [`spread`] (messages for all nodes), [`sending`] and [`receiving`] (snapshots
//! for replicas that lag behind), [`membership`] (nodes come and go), [`wishes`] (what they ask for), [`handing`]
//! (leaders move), [`status`] (what people look at), [`view`] (what smart clients read), [`wait`] (how far writes are
//! replicated).

pub mod forward;
pub mod founding;
pub mod frames;
pub mod gather;
pub mod handing;
pub mod incoming;
pub mod link;
pub mod membership;
pub mod receiving;
pub mod route;
pub mod routes;
pub mod sending;
pub mod serve;
pub mod spread;
pub mod status;
pub mod transact;
pub mod view;
pub mod wait;
pub mod wishes;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;

use raft::eraftpb::Message;
use slab::Slab;

use crate::cluster::map::{Map, NodeId, ReplicaId, shown};
use crate::command::op::{Action, Op, Set, SetAnswer, SetExpiry};
use crate::failpoint::{self, Point};
use crate::reactor::app::Cx;
use crate::reactor::id::ConnId;
use crate::reactor::net::Net;
use crate::shard::peer;
use crate::shard::{ELECTION_TICKS, NOBODY};

use crate::data::files::Files;
use crate::data::identity::{self, Identity};
use crate::data::mapfile;
use crate::disk::Damage;

use super::{Node, commit};
use forward::Forwards;
use gather::Gathering;
use handing::Handing;
use link::Link;
use receiving::Receiving;
use sending::Sendings;
use serve::Served;
use spread::Spread;

/// The version of what nodes say to each other. A node talks to those of its own version and to those of the one
/// before or after. Version 1 does not say of which term a heartbeat's last committed entry is, and does not understand
/// who does; there is no 2, so that a node of 1 and one of 3 refuse each other in words.
pub const VERSION: u32 = 3;
/// Key of the map in the meta shard.
pub const MAP_KEY: &[u8] = b"map";
/// Key of the first map in the meta shard.
pub const FOUNDING_KEY: &[u8] = b"founding";

/// Ticks after which nothing is heard any more of what a former leader began.
const ORPHANED_TICKS_MAX: usize = 5 * ELECTION_TICKS;
/// How often keys that are past their time get the time stamp that they are removed by, in ticks.
const STAMP_TICKS: u64 = 10;
/// How often it is looked whether nodes have come or gone, in ticks.
const MEMBERSHIP_TICKS: u64 = 2;
/// Bytes that may wait on a link: what comes beyond is dropped, and raft says it again.
const LINK_BYTES_MAX: usize = 64 << 20;

/// The cluster, as one of its nodes sees it.
pub struct Cluster {
    /// This node's own lasting name.
    pub name: String,
    /// Where others reach it.
    pub address: SocketAddr,
    /// Its number in the map; 0 as long as it is in none.
    pub me: NodeId,
    /// The latest map that was applied here.
    pub map: Option<Map>,
    /// What is left to do of the founding.
    pub begun: Option<founding::Begun>,
    /// What this node dials.
    pub links: BTreeMap<SocketAddr, Link>,
    /// Commands for other nodes.
    pub forwards: Forwards,
    /// Commands over several shards.
    pub gatherings: Slab<Gathering>,
    /// What concerns every node.
    pub spread: Spread,
    /// Commands of other nodes.
    pub served: Served,
    /// Answers to other nodes that go out at the end of the turn, by the connection that they called on.
    pub answers: BTreeMap<ConnId, Vec<u8>>,
    /// Addresses of nodes that are to be taken in.
    pub meeting: BTreeSet<SocketAddr>,
    /// The epoch of the map of which it is known that nothing follows by itself.
    pub settled_epoch: Option<u64>,
    /// The shard that is being handed over.
    pub handing: Handing,
    /// The snapshot that is sent.
    pub sendings: Sendings,
    /// For how many looks the newcomer of a shard has been away.
    pub away: BTreeMap<u16, u32>,
    /// Those that come in, by the node that sends them.
    pub receivings: BTreeMap<NodeId, Receiving>,
    /// How many have ever come in.
    pub received: u64,
    /// Shards with writes that wait although this node leads them no longer, and for how many ticks.
    orphaned: BTreeMap<u16, usize>,
    /// Ticks so far.
    pub ticks: u64,
}

impl Cluster {
    /// A node that knows of no others yet.
    pub fn new(name: String, address: SocketAddr) -> Cluster {
        Cluster {
            name,
            address,
            me: 0,
            map: None,
            begun: None,
            links: BTreeMap::new(),
            forwards: Forwards::default(),
            gatherings: Slab::new(),
            spread: Spread::default(),
            served: Served::default(),
            answers: BTreeMap::new(),
            meeting: BTreeSet::new(),
            settled_epoch: None,
            handing: Handing::default(),
            sendings: Sendings::default(),
            away: BTreeMap::new(),
            receivings: BTreeMap::new(),
            received: 0,
            orphaned: BTreeMap::new(),
            ticks: 0,
        }
    }

    /// The link to a node, if it is ready.
    fn link_to(&mut self, node: NodeId) -> Option<&mut Link> {
        let address = self.map.as_ref()?.nodes.get(&node)?.address;
        self.links.get_mut(&address).filter(|link| link.is_ready())
    }

    /// The id of the cluster, if this node is in one.
    pub fn id(&self) -> Option<u64> {
        self.map.as_ref().map(|map| map.cluster)
    }
}

/// Begins to be a node of a cluster, if it is to be one. Everything there was is in memory.
pub fn begin(cx: &mut Cx<'_, Node>, name: &str) {
    let known = cx.app.known_map.take();
    let map = [stored_map(cx.app), known]
        .into_iter()
        .flatten()
        .max_by_key(|map| map.epoch);
    if map.is_none() && cx.app.options.is_alone() {
        return;
    }
    let address = cx.app.options.address;
    cx.app.cluster = Some(Box::new(Cluster::new(name.to_owned(), address)));
    cx.app.commits.split();
    match map {
        Some(map) if founding::is_broken_off(cx.app, &map) => founding::begin_replicas(cx, map),
        Some(map) => adopt(cx, map),
        None => founding::begin(cx),
    }
}

/// The map that the meta shard holds here.
fn stored_map(node: &Node) -> Option<Map> {
    let meta = node.keyspace.meta()?;
    let entry = meta.lookup(MAP_KEY, node.at_ms)?;
    match Map::decode(entry.value) {
        Ok(map) => Some(map),
        Err(reason) => {
            log::error!("the map of the cluster makes no sense: {reason}");
            None
        }
    }
}

/// The operation that puts a text into the meta shard.
fn put<'o>(key: &'o [u8], text: &'o [u8]) -> Op<'o> {
    let set = Set {
        value: text,
        expiry: SetExpiry::Clear,
        condition: None,
        answer: SetAnswer::Silent,
    };
    Op {
        key,
        action: Action::Set(set),
    }
}

/// The meta shard has changed.
pub fn meta_changed(cx: &mut Cx<'_, Node>) {
    if let Some(map) = stored_map(cx.app) {
        adopt_later(cx, map);
    }
}

/// Takes over a map that is later than the one that is known: what was told may be ahead of what is applied here.
fn adopt_later(cx: &mut Cx<'_, Node>, map: Map) {
    let known = |node: &Node| Some(node.cluster.as_ref()?.map.as_ref()?.epoch);
    if known(cx.app).is_none_or(|epoch| epoch < map.epoch) {
        adopt(cx, map);
    }
}

/// Takes over a map: whom to dial, and which replicas to have.
fn adopt(cx: &mut Cx<'_, Node>, map: Map) {
    let Some(cluster) = &mut cx.app.cluster else {
        return;
    };
    let before = std::mem::replace(&mut cluster.me, map.node_of(&cluster.name).unwrap_or(0));
    if before != cluster.me {
        log::info!(
            "node {} of the cluster {:016x}, {} nodes, {} shards",
            cluster.me,
            map.cluster,
            map.nodes.len(),
            map.shards
        );
    }
    let text = map.encode();
    let (replicas, epoch) = (map.replicas_on(cluster.me), map.epoch);
    let (was_new, shards) = (cluster.map.is_none(), map.shards);
    cluster.map = Some(map);
    if was_new {
        cx.app.recut(shards);
    }
    link::dial_known(cx);
    keep(cx, text);
    failpoint::reach(Point::MapAdopted);
    hold(cx.app, epoch, &replicas);
}

/// Writes the map down, for the next start.
fn keep(cx: &mut Cx<'_, Node>, text: String) {
    let Some(files) = cx.app.saving.files().cloned() else {
        return;
    };
    let shards = cx.app.keyspace.count();
    // On the one thread for the disk: an older map never comes behind a newer one.
    let write = move || {
        keep_shards(&files, shards)?;
        mapfile::write(files.disk.clone(), &mut (files.entropy)(), &text)
    };
    cx.net.defer_to_disk(write, |_, written| {
        if let Err(error) = written {
            log::warn!("the map of the cluster could not be written down: {error}");
        }
    });
}

/// The directory of a node that joined says how many shards its cluster has.
fn keep_shards(files: &Files, shards: u16) -> io::Result<()> {
    let unreadable = |damage: Damage| io::Error::other(damage.to_string());
    let identity = identity::read(files.disk.clone()).map_err(unreadable)?;
    if identity.shards == shards {
        return Ok(());
    }
    failpoint::reach(Point::ShardsCounted);
    let identity = Identity { shards, ..identity };
    identity::write(files.disk.clone(), &mut (files.entropy)(), &identity)
}

/// Begins the replicas that the map gives this node, and lets those go that it does not. A replica that was planned
/// later than the map it does not know, and leaves it alone.
fn hold(node: &mut Node, epoch: u64, replicas: &[(u16, ReplicaId)]) {
    for number in node.keyspace.numbers() {
        let wanted = replicas.iter().find(|(shard, _)| *shard == number);
        let wanted = wanted.map(|&(_, replica)| replica.0);
        let index = node.keyspace.index_of_number(number);
        let shard = &node.keyspace.shards()[index];
        let is_vacant = shard.is_vacant();
        let planned = u64::from(ReplicaId(shard.replica()).generation());
        if shard.replica() != NOBODY && planned > epoch {
            continue;
        }
        if wanted == Some(shard.replica()) || wanted.is_none() && is_vacant {
            continue;
        }
        if !is_vacant {
            log::info!("shard {}: another node has it now", shown(number));
            let held = node.keyspace.vacate(number, node.hash_seed);
            sending::forget(node, number);
            node.saving.void(number);
            node.saving.bury(number);
            node.keyspace.add_dropped(Some(held));
        }
        if let Some(replica) = wanted {
            node.keyspace.begin_joining(number, replica, node.hash_seed);
        }
    }
}

/// A tick of raft, if this is a node of a cluster.
pub fn tick(cx: &mut Cx<'_, Node>) {
    if cx.app.cluster.is_none() {
        return;
    }
    let now = cx.net.clock();
    cx.app.keyspace.tick(now);
    founding::tend(cx);
    link::tend(cx);
    forward::tend(cx);
    sending::tend(cx);
    transact::tend(cx.app);
    receiving::tend(cx);
    give_up_orphaned(cx);
    handing::go_on(cx);
    let Some(cluster) = &mut cx.app.cluster else {
        return;
    };
    cluster.ticks += 1;
    let ticks = cluster.ticks;
    if ticks.is_multiple_of(STAMP_TICKS) {
        let at_ms = cx.app.at_ms;
        cx.app.keyspace.stamp(at_ms);
    }
    if ticks.is_multiple_of(MEMBERSHIP_TICKS) {
        membership::tend(cx);
        founding::ask_to_join(cx);
    }
}

/// What waits for entries of a shard that this node led learns from the next leader what became of them, or never.
fn give_up_orphaned(cx: &mut Cx<'_, Node>) {
    let keyspace = &cx.app.keyspace;
    let is_orphaned = |shard: &u16| {
        let index = keyspace.index_of_number(*shard);
        cx.app.commits.is_awaited(index) && !keyspace.is_leader(*shard)
    };
    let orphaned: Vec<u16> = keyspace.numbers().into_iter().filter(is_orphaned).collect();
    let Some(cluster) = &mut cx.app.cluster else {
        return;
    };
    cluster.orphaned.retain(|shard, _| orphaned.contains(shard));
    let mut given_up = Vec::new();
    for shard in orphaned {
        let ticks = cluster.orphaned.entry(shard).or_default();
        *ticks += 1;
        if *ticks > ORPHANED_TICKS_MAX {
            given_up.push(shard);
        }
    }
    given_up
        .into_iter()
        .for_each(|shard| commit::give_up(cx, shard));
}

/// Sends what has gathered in this turn.
pub fn send(cx: &mut Cx<'_, Node>) {
    if cx.app.cluster.is_none() {
        return;
    }
    for (shard, messages) in cx.app.keyspace.take_outboxes() {
        for message in messages {
            put_message(cx.app, &cx.net, shard, &message);
        }
    }
    failpoint::reach(Point::MessagesReady);
    spread::tell(cx.app);
    let Some(cluster) = &mut cx.app.cluster else {
        return;
    };
    for link in cluster.links.values_mut() {
        link.send(&mut cx.net);
    }
    failpoint::reach(Point::MessagesSent);
    for (conn, frame) in std::mem::take(&mut cluster.answers) {
        let head = format!("${}\r\n", frame.len());
        cx.net.write_to(conn, head.as_bytes());
        cx.net.write_to(conn, &frame);
        cx.net.write_to(conn, b"\r\n");
    }
}

/// A session is gone: a client's, whose watches end where its keys are led; or that of a node, with all that it asked
/// for.
pub fn forget(cx: &mut Cx<'_, Node>, conn: ConnId) {
    let now = cx.net.now();
    transact::forget(cx.app, now, conn);
    let Some(cluster) = &mut cx.app.cluster else {
        return;
    };
    cluster.served.forget(conn);
    cluster.spread.forget(conn);
    cx.app.watches.forget_link(conn);
    cx.app.update_recording();
}

/// Gives a message of a shard to the link that it goes out on; without one it is lost, and raft hears of it.
fn put_message(node: &mut Node, net: &Net<'_, Node>, shard: u16, message: &Message) {
    let Some(cluster) = &mut node.cluster else {
        return;
    };
    let link = cluster.link_to(ReplicaId(message.to).node());
    match link.filter(|link| link.unsent(net) < LINK_BYTES_MAX) {
        Some(link) => peer::encode(shard, message, &mut link.messages),
        None => node.keyspace.report_unreachable(shard, message.to),
    }
}

/// The connection to a node is gone: what was on its way may not have arrived.
fn unreachable(cx: &mut Cx<'_, Node>, address: SocketAddr) {
    let Some(cluster) = &cx.app.cluster else {
        return;
    };
    let Some(node) = cluster.map.as_ref().and_then(|map| map.node_at(address)) else {
        return;
    };
    for shard in cx.app.keyspace.numbers() {
        let of_node = cx.app.keyspace.members(shard);
        for replica in of_node
            .into_iter()
            .filter(|&id| ReplicaId(id).node() == node)
        {
            cx.app.keyspace.report_unreachable(shard, replica);
        }
    }
    sending::lost(cx, node);
}

/// Whether this node is handing the leadership of a shard over.
pub fn is_handing(node: &Node, shard: u16) -> bool {
    let cluster = node.cluster.as_ref();
    node.keyspace.is_transferring(shard)
        || cluster.is_some_and(|cluster| cluster.handing.has(shard))
}
