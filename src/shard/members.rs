//! Who is in a group: its replicas, by the names that raft knows them by.
//!
//! ```text
//!   members = voters u16 | learners u16 | outgoing u16 | next u16 | replica u64 replica u64 ...
//! ```
//!
//! The four lists follow each other, each ascending. Outside of a change of members only voters and learners
//! are there; during one (a *joint* configuration, Ongaro's thesis, 4.3) a majority of the voters and one of the
//! outgoing voters must agree, and `next` are voters that will be learners. Integers are little-endian.

use raft::eraftpb::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState,
};

/// Most replicas of one list that are believed.
const REPLICAS_MAX: usize = 1_000;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Members {
    /// They elect, and a majority of them commits.
    pub voters: Vec<u64>,
    /// They receive the log and have no vote.
    pub learners: Vec<u64>,
    /// Voters that are leaving.
    pub outgoing: Vec<u64>,
    /// Outgoing voters that stay as learners.
    pub next: Vec<u64>,
}

/// A change of the members of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A replica begins to receive the log.
    AddLearner(u64),
    /// A learner is no member any more.
    Remove(u64),
    /// Learners become voters, and voters go: from now on majorities of the old and of the new voters count.
    Enter {
        /// Those that come.
        add: Vec<u64>,
        /// Those that go.
        remove: Vec<u64>,
    },
    /// From now on only the new voters count.
    Leave,
}

impl Change {
    /// As raft has it.
    pub(super) fn to_conf_change(&self) -> ConfChangeV2 {
        let mut change = ConfChangeV2::default();
        let mut add = |kind, replica: u64| {
            let mut single = ConfChangeSingle::default();
            single.set_change_type(kind);
            single.node_id = replica;
            change.mut_changes().push(single);
        };
        match self {
            Change::AddLearner(replica) => add(ConfChangeType::AddLearnerNode, *replica),
            Change::Remove(replica) => add(ConfChangeType::RemoveNode, *replica),
            Change::Enter { add: new, remove } => {
                new.iter().for_each(|&id| add(ConfChangeType::AddNode, id));
                remove
                    .iter()
                    .for_each(|&id| add(ConfChangeType::RemoveNode, id));
            }
            Change::Leave => {}
        }
        if matches!(self, Change::Enter { .. }) {
            change.set_transition(ConfChangeTransition::Explicit);
        }
        change
    }
}

impl Members {
    /// These voters and nobody else.
    pub fn of(voters: &[u64]) -> Members {
        let mut voters = voters.to_vec();
        voters.sort_unstable();
        Members {
            voters,
            ..Members::default()
        }
    }

    /// Whether nobody but `replica` is in the group.
    pub fn is_alone(&self, replica: u64) -> bool {
        self.voters == [replica] && self.is_one()
    }

    /// Whether nobody but one voter is in the group.
    pub(super) fn is_one(&self) -> bool {
        self.voters.len() == 1 && self.learners.is_empty() && self.outgoing.is_empty()
    }

    /// Whether a change of members is under way.
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether a replica is in the group.
    pub fn has(&self, replica: u64) -> bool {
        let lists = [&self.voters, &self.learners, &self.outgoing];
        lists.iter().any(|list| list.contains(&replica))
    }

    /// Everybody in the group, each once.
    pub fn all(&self) -> Vec<u64> {
        let mut all = [&self.voters[..], &self.learners, &self.outgoing].concat();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// As raft has it.
    pub(super) fn to_conf_state(&self) -> ConfState {
        let mut state = ConfState::default();
        state.set_voters(self.voters.clone());
        state.set_learners(self.learners.clone());
        state.set_voters_outgoing(self.outgoing.clone());
        state.set_learners_next(self.next.clone());
        state
    }

    /// From what raft has.
    pub(super) fn from_conf_state(state: &ConfState) -> Members {
        let sorted = |list: &[u64]| {
            let mut list = list.to_vec();
            list.sort_unstable();
            list
        };
        Members {
            voters: sorted(state.get_voters()),
            learners: sorted(state.get_learners()),
            outgoing: sorted(state.get_voters_outgoing()),
            next: sorted(state.get_learners_next()),
        }
    }

    /// Appends them as bytes.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        let lists = [&self.voters, &self.learners, &self.outgoing, &self.next];
        for list in lists {
            let len = u16::try_from(list.len()).expect("a group has few replicas");
            out.extend_from_slice(&len.to_le_bytes());
        }
        for replica in lists.into_iter().flatten() {
            out.extend_from_slice(&replica.to_le_bytes());
        }
    }

    /// Takes them from the front of `bytes`; `None` if they are not there or impossible.
    pub(super) fn take(bytes: &mut &[u8]) -> Option<Members> {
        let (lens, mut rest) = bytes.split_first_chunk::<8>()?;
        let mut list = |nth: usize| -> Option<Vec<u64>> {
            let len = usize::from(u16::from_le_bytes([lens[2 * nth], lens[2 * nth + 1]]));
            let (list, behind) = rest.split_at_checked(len * 8)?;
            rest = behind;
            let number = |bytes: &[u8]| u64::from_le_bytes(std::array::from_fn(|at| bytes[at]));
            let list: Vec<u64> = list.chunks_exact(8).map(number).collect();
            let is_ascending = list.windows(2).all(|pair| pair[0] < pair[1]);
            (len <= REPLICAS_MAX && is_ascending && !list.contains(&0)).then_some(list)
        };
        let members = Members {
            voters: list(0)?,
            learners: list(1)?,
            outgoing: list(2)?,
            next: list(3)?,
        };
        *bytes = rest;
        members.is_possible().then_some(members)
    }

    fn is_possible(&self) -> bool {
        let is_new = |learner: &u64| !self.voters.contains(learner);
        let is_outgoing = |replica: &u64| self.outgoing.contains(replica);
        !self.voters.is_empty()
            && self.learners.iter().all(is_new)
            && !self.learners.iter().any(is_outgoing)
            && self.next.iter().all(is_outgoing)
            && self.next.iter().all(is_new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_read_back_and_impossible_ones_refused() {
        let members = Members {
            voters: vec![1, 2, 5],
            learners: vec![7],
            outgoing: vec![1, 3],
            next: vec![3],
        };
        let mut bytes = Vec::new();
        members.put(&mut bytes);
        bytes.push(9);
        let mut rest = &bytes[..];
        assert_eq!(Members::take(&mut rest), Some(members.clone()));
        assert_eq!(rest, [9], "what follows is left");
        let back = Members::from_conf_state(&members.to_conf_state());
        assert_eq!(back, members);
        for cut in 0..bytes.len() - 1 {
            assert_eq!(Members::take(&mut &bytes[..cut]), None, "{cut} bytes");
        }
        let refused = |change: &dyn Fn(&mut Members)| {
            let (mut changed, mut bytes) = (members.clone(), Vec::new());
            change(&mut changed);
            changed.put(&mut bytes);
            Members::take(&mut &bytes[..]).is_none()
        };
        assert!(refused(&|members| members.voters.clear()));
        assert!(refused(&|members| members.voters = vec![2, 1]));
        assert!(refused(&|members| members.voters = vec![0, 1]));
        assert!(refused(&|members| members.learners = vec![1]));
        assert!(refused(&|members| members.next = vec![2]));
    }
}
