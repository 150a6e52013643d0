//! The shards of a node as replicas of groups: what the cluster asks of them, by the numbers of the shards.

use raft::eraftpb::Message;

use crate::cluster::map::META;
use crate::command::op::Op;
use crate::failpoint::{self, Point};
use crate::shard::Shard;
use crate::shard::members::Change;
use crate::shard::meta::Part;
use crate::shard::peer::check::Refusal;
use crate::shard::recovery::Recovery;
use crate::store::{Dropped, HashSeed};

use super::Keyspace;

impl Keyspace {
    /// The meta shard, if there is one.
    pub fn meta(&self) -> Option<&Shard> {
        self.shards().last().filter(|shard| shard.number() == META)
    }

    /// The numbers of all shards.
    pub fn numbers(&self) -> Vec<u16> {
        self.shards().iter().map(Shard::number).collect()
    }

    /// The shards that are not vacant.
    pub fn replicas(&self) -> impl Iterator<Item = &Shard> {
        self.shards().iter().filter(|shard| !shard.is_vacant())
    }

    fn replica(&self, number: u16) -> Option<&Shard> {
        self.shards().get(self.index_of_number(number))
    }

    /// Up to which entry a shard is applied here.
    pub fn applied(&self, number: u16) -> u64 {
        self.replica(number)
            .map_or(0, |shard| shard.applied().index)
    }

    /// Whether others have a shard and this node does not.
    pub fn is_vacant(&self, number: u16) -> bool {
        self.replica(number).is_none_or(Shard::is_vacant)
    }

    /// The term of a shard, as far as this node's replica knows.
    pub fn term(&self, number: u16) -> u64 {
        self.replica(number)
            .map_or(0, |shard| shard.hard_state().term)
    }

    /// Whether this node's replica leads the group of a shard.
    pub fn is_leader(&self, number: u16) -> bool {
        self.replica(number).is_some_and(Shard::is_leader)
    }

    /// Whether this node is handing the leadership of a shard over.
    pub fn is_transferring(&self, number: u16) -> bool {
        self.replica(number).is_some_and(Shard::is_transferring)
    }

    /// The replica that leads the group of a shard, as far as this node's knows.
    pub fn leader(&self, number: u16) -> Option<u64> {
        self.replica(number)?.leader()
    }

    /// All replicas of a shard, as far as this node's knows.
    pub fn members(&self, number: u16) -> Vec<u64> {
        self.replica(number)
            .map_or_else(Vec::new, |shard| shard.members().all())
    }

    /// Takes in a message of the node `from` for this node's replica of a shard.
    ///
    /// # Errors
    /// It makes no sense, or there is no such shard.
    pub fn step(&mut self, number: u16, message: Message, from: u32) -> Result<(), Refusal> {
        let index = self.index_of_number(number);
        if index >= self.shards().len() {
            return Err(Refusal::Receiver);
        }
        self.shard_mut(number).step(message, from)?;
        self.mark(index);
        Ok(())
    }

    /// Proposes time stamps where keys wait for one to be removed.
    pub fn stamp(&mut self, at_ms: u64) {
        for index in 0..self.shards.len() {
            if self.shards[index].stamp(at_ms) {
                self.mark(index);
            }
        }
    }

    /// Raft's unit of time has passed.
    pub fn tick(&mut self, now: u64) {
        for index in 0..self.shards().len() {
            let number = self.shards()[index].number();
            let was_read = std::mem::take(&mut self.was_read[index]);
            let shard = self.shard_mut(number);
            if was_read {
                shard.renew_lease(now);
            }
            shard.tick();
            if shard.is_dirty() {
                self.mark(index);
            }
        }
    }

    /// Whether this node may answer reads of a shard now. The value must have been read before the clock; if not, it is
    /// seen to that it soon may.
    pub fn can_read(&mut self, number: u16, now: u64) -> bool {
        self.can_read_if(number, now, |shard| shard.can_read(now))
    }

    /// The same behind an entry of `term`, which is applied or will be in this turn.
    pub fn can_read_behind(&mut self, number: u16, term: u64, now: u64) -> bool {
        self.can_read_if(number, now, |shard| shard.can_read_behind(term, now))
    }

    fn can_read_if(&mut self, number: u16, now: u64, can: impl Fn(&Shard) -> bool) -> bool {
        let index = self.index_of_number(number);
        self.was_read[index] = true;
        let shard = self.shard_mut(number);
        if can(shard) {
            return true;
        }
        if shard.renew_lease(now) {
            self.mark(index);
        }
        false
    }

    /// Messages for other replicas since the last call, by shard.
    pub fn take_outboxes(&mut self) -> Vec<(u16, Vec<Message>)> {
        let mut all = Vec::new();
        for index in std::mem::take(&mut self.talking) {
            let number = self.shards()[index].number();
            let messages = self.shard_mut(number).take_outbox();
            if !messages.is_empty() {
                all.push((number, messages));
            }
        }
        all
    }

    /// Whether this node's replica of a shard has this name.
    pub fn has_replica(&self, number: u16, name: u64) -> bool {
        self.replica(number)
            .is_some_and(|shard| shard.replica() == name)
    }

    /// Whether an image of a shard is being made.
    pub fn is_imaging(&self, number: u16) -> bool {
        self.replica(number)
            .is_some_and(|shard| shard.store().is_imaging())
    }

    /// Replicas that need a snapshot of a shard that this node leads, since the last call.
    pub fn take_wanted(&mut self) -> Vec<(u16, u64)> {
        let mut wanted = Vec::new();
        for shard in self.shards.iter_mut().filter(|shard| shard.is_leader()) {
            let number = shard.number();
            wanted.extend(shard.take_wanted().into_iter().map(|to| (number, to)));
        }
        wanted
    }

    /// Begins an image of a shard for another replica; what is to be said of it.
    pub fn begin_sending(&mut self, number: u16) -> Part {
        let shard = self.shard_mut(number);
        shard.begin_sending();
        shard.store_mut().begin_image();
        shard.part()
    }

    /// Lets a replica go that is not wanted here any more; what it held.
    pub fn vacate(&mut self, number: u16, seed: HashSeed) -> Dropped {
        let shard = self.shard_mut(number);
        let (applied, state) = (shard.applied(), shard.hard_state());
        let held = shard.store_mut().clear();
        failpoint::reach(Point::ReplicaBuried);
        let grave = Recovery::buried(number, applied, state, seed).finish();
        self.put(number, grave);
        held
    }

    /// A replica of this name begins to wait for what the others of its group bring.
    pub fn begin_joining(&mut self, number: u16, replica: u64, seed: HashSeed) {
        let shard = self.shard_mut(number);
        let joining = Recovery::joining(number, replica, seed);
        let joining = joining.promised(shard.hard_state(), shard.replica());
        failpoint::reach(Point::ReplicaBegun);
        self.put(number, joining.finish());
    }

    /// A shard takes the place of the one of its number.
    fn put(&mut self, number: u16, shard: Shard) {
        let index = self.index_of_number(number);
        self.take_back_of(index);
        self.shards[index] = shard;
        self.mark(index);
    }

    /// Proposes a change of the members of a shard's group.
    pub fn change_members(&mut self, number: u16, change: &Change) {
        self.shard_mut(number).change_members(change);
        self.mark(self.index_of_number(number));
    }

    /// Whether those who are no members of a shard's group any more
    /// [may be let go](crate::shard::Shard::confirm_members).
    pub fn confirm_members(&mut self, number: u16, at_ms: u64) -> bool {
        let is_confirmed = self.shard_mut(number).confirm_members(at_ms);
        self.mark(self.index_of_number(number));
        is_confirmed
    }

    /// Proposes an operation to a shard, whatever slot its key is in.
    pub fn propose_to(&mut self, number: u16, op: &Op<'_>) {
        let index = self.index_of_number(number);
        self.propose_with(index, |shard| shard.propose(op));
    }

    /// What was sent to a replica may have been lost.
    pub fn report_unreachable(&mut self, number: u16, replica: u64) {
        self.shard_mut(number).report_unreachable(replica);
    }

    /// Stands for election in a shard that was founded just now.
    pub fn campaign(&mut self, number: u16) {
        self.shard_mut(number).campaign();
        self.mark(self.index_of_number(number));
    }
}
