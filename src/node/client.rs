//! The node's record of each client connection: what other connections may see and change of it.
//!
//! A session owns its bytes; everything about it that `CLIENT LIST` shows, that a publisher, a writer to
//! a watched key or `CLIENT KILL` must reach, stands here, indexed by the connection's slot.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::command::table;
use crate::command::verb::Verb;
use crate::reactor::id::ConnId;
use crate::reactor::timer::Nanos;
use crate::wire::reply::Dialect;

use super::cluster::incoming::Peer;
use super::pubsub::Subscriptions;
use super::replies::Replies;
use super::transaction::Transaction;

/// Whether and how a client gets replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// Replies are sent.
    Off,
    /// The next reply is not (CLIENT REPLY SKIP was just read).
    NextReply,
    /// No reply is (CLIENT REPLY OFF).
    On,
}

/// Names that a client gave itself.
#[derive(Debug, Default)]
pub struct Labels {
    /// CLIENT SETNAME.
    pub name: Vec<u8>,
    /// CLIENT SETINFO LIB-NAME.
    pub library: Vec<u8>,
    /// CLIENT SETINFO LIB-VER.
    pub version: Vec<u8>,
}

/// One client connection.
#[derive(Debug)]
pub struct Client {
    /// Its number, never used twice.
    pub id: u64,
    /// Its connection.
    pub conn: ConnId,
    /// Its own address.
    pub peer: SocketAddr,
    /// The address it connected to.
    pub host: SocketAddr,
    /// When it came.
    pub since: Nanos,
    /// When it last sent something.
    pub active: Nanos,
    /// What it last asked.
    pub last: Option<Verb>,
    /// How its replies look.
    pub dialect: Dialect,
    /// Whether it gets any.
    pub silence: Silence,
    /// Whether it asked not to count as a user of keys.
    pub no_touch: bool,
    /// Whether it asked never to be evicted.
    pub no_evict: bool,
    /// Whether it takes answers that may be old: READONLY.
    pub takes_stale: bool,
    /// Whether its writes are answered as soon as the leader has them: CLIENT ACK LEADER.
    pub is_early: bool,
    /// The shard of its last write; `None`: it has written nothing, or this node is in no cluster.
    pub wrote: Option<u16>,
    /// Whether it sees all commands.
    pub monitor: bool,
    /// Whether it waits for time to pass.
    pub waiting: bool,
    /// Commands of it that are in a batch and not answered yet.
    pub awaiting: u32,
    /// Bytes in which they were typed, and which those that read will answer, about.
    pub awaiting_bytes: usize,
    /// Bytes in which the longest of them was typed.
    pub awaiting_longest: usize,
    /// In which order they are answered.
    pub replies: Replies,
    /// The node that it is.
    pub calling: Option<Box<Peer>>,
    /// Its session wants to know when all of them are answered.
    pub settling: bool,
    /// A key it watches has changed.
    pub watch_broken: bool,
    /// Keys it watches, and whether each was there when it began to.
    pub watched: BTreeMap<Box<[u8]>, bool>,
    /// Names it gave itself.
    pub labels: Option<Box<Labels>>,
    /// The transaction being typed.
    pub transaction: Option<Box<Transaction>>,
    /// What it listens to.
    pub subscriptions: Option<Box<Subscriptions>>,
}

impl Client {
    /// A client that has just connected.
    pub fn new(id: u64, conn: ConnId, peer: SocketAddr, host: SocketAddr, now: Nanos) -> Self {
        Client {
            id,
            conn,
            peer,
            host,
            since: now,
            active: now,
            last: None,
            dialect: Dialect::Resp2,
            silence: Silence::Off,
            no_touch: false,
            no_evict: false,
            takes_stale: false,
            is_early: false,
            wrote: None,
            monitor: false,
            waiting: false,
            awaiting: 0,
            awaiting_bytes: 0,
            awaiting_longest: 0,
            replies: Replies::default(),
            calling: None,
            settling: false,
            watch_broken: false,
            watched: BTreeMap::new(),
            labels: None,
            transaction: None,
            subscriptions: None,
        }
    }

    /// Its names, to be changed.
    pub fn labels_mut(&mut self) -> &mut Labels {
        self.labels.get_or_insert_with(Default::default)
    }

    /// Its name, empty when it has none.
    pub fn name(&self) -> &[u8] {
        self.labels.as_ref().map_or(&[], |labels| &labels.name)
    }

    /// Number of channels and of patterns it listens to.
    pub fn subscribed(&self) -> (usize, usize) {
        self.subscriptions
            .as_ref()
            .map_or((0, 0), |all| (all.channels.len(), all.patterns.len()))
    }

    /// Whether it listens to anything.
    pub fn is_subscribed(&self) -> bool {
        self.subscriptions
            .as_ref()
            .is_some_and(|all| !all.is_empty())
    }

    /// Whether its next command can simply be run: no transaction, subscription, silence or wish.
    pub fn is_plain(&self) -> bool {
        self.transaction.is_none()
            && self.subscriptions.is_none()
            && self.silence == Silence::Off
            && !self.no_touch
    }

    /// Its line in CLIENT LIST; `out_bytes` wait to be read by it.
    pub fn describe(&self, now: Nanos, out_bytes: usize) -> String {
        let seconds = |from: Nanos| now.saturating_sub(from) / 1_000_000_000;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (channels, patterns) = self.subscribed();
        let mut flags = String::new();
        for (flag, holds) in [
            ('O', self.monitor),
            ('P', self.is_subscribed()),
            ('r', self.takes_stale),
            ('a', self.is_early),
            ('x', self.transaction.is_some()),
            ('b', self.waiting),
            ('d', self.watch_broken),
            ('e', self.no_evict),
            ('T', self.no_touch),
        ] {
            if holds {
                flags.push(flag);
            }
        }
        if flags.is_empty() {
            flags.push('N');
        }
        let labels = self.labels.as_deref();
        format!(
            "id={} addr={} laddr={} fd={} name={} age={} idle={} flags={flags} db=0 sub={channels} \
             psub={patterns} ssub=0 multi={} qbuf=0 qbuf-free=0 argv-mem=0 multi-mem={} rbs=0 rbp=0 obl=0 \
             oll={} omem={out_bytes} tot-mem={} events=r cmd={} user=default redir=-1 resp={} lib-name={} \
             lib-ver={}",
            self.id,
            self.peer,
            self.host,
            self.conn.index(),
            text(self.name()),
            seconds(self.since),
            seconds(self.active),
            self.transaction
                .as_ref()
                .map_or(-1, |transaction| transaction.len() as i64),
            self.transaction
                .as_ref()
                .map_or(0, |transaction| transaction.bytes()),
            usize::from(out_bytes > 0),
            size_of::<Client>() + out_bytes,
            self.last.map_or("NULL", |verb| table::row(verb).name),
            if self.dialect == Dialect::Resp2 { 2 } else { 3 },
            text(labels.map_or(&[], |labels| &labels.library)),
            text(labels.map_or(&[], |labels| &labels.version)),
        )
    }
}

/// All clients, by connection and by number.
#[derive(Debug, Default)]
pub struct Clients {
    slots: Vec<Option<Box<Client>>>,
    numbers: BTreeMap<u64, ConnId>,
    last_number: u64,
}

impl Clients {
    /// Adds a client and returns its number.
    pub fn add(&mut self, conn: ConnId, peer: SocketAddr, host: SocketAddr, now: Nanos) -> u64 {
        self.last_number += 1;
        let index = conn.index();
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, || None);
        }
        self.slots[index] = Some(Box::new(Client::new(
            self.last_number,
            conn,
            peer,
            host,
            now,
        )));
        self.numbers.insert(self.last_number, conn);
        self.last_number
    }

    /// Takes a client away.
    pub fn remove(&mut self, conn: ConnId) -> Option<Box<Client>> {
        let client = self
            .slots
            .get_mut(conn.index())?
            .take_if(|client| client.conn == conn)?;
        self.numbers.remove(&client.id);
        Some(client)
    }

    /// The client of a connection, unless that is gone.
    pub fn get(&self, conn: ConnId) -> Option<&Client> {
        self.slots
            .get(conn.index())?
            .as_deref()
            .filter(|client| client.conn == conn)
    }

    /// As [`Clients::get`], to be changed.
    pub fn get_mut(&mut self, conn: ConnId) -> Option<&mut Client> {
        self.slots
            .get_mut(conn.index())?
            .as_deref_mut()
            .filter(|client| client.conn == conn)
    }

    /// The sessions on which the node of this name calls.
    pub fn calls_of(&self, name: &str) -> Vec<ConnId> {
        let is_of = |conn: &&ConnId| {
            let client = self.get(**conn);
            let peer = client.and_then(|client| client.calling.as_ref());
            peer.is_some_and(|peer| peer.name == name)
        };
        self.numbers.values().filter(is_of).copied().collect()
    }

    /// The connection of a client's number.
    pub fn conn_of(&self, id: u64) -> Option<ConnId> {
        self.numbers.get(&id).copied()
    }

    /// All clients in the order in which they came.
    pub fn iter(&self) -> impl Iterator<Item = &Client> {
        self.numbers.values().filter_map(|&conn| self.get(conn))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }
}
