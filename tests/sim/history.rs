//! What clients did to one key and were told, and whether it could have been so: linearizability.
//!
//! ```text
//!   client 1   |--SET 1000--| OK
//!   client 2         |-------GET--------| 1000
//!   client 3                 |--INCR-- ....................   nobody knows: at any time from here on, or never
//! ```
//!
//! The judge looks for an order of all operations, each at a moment between its call and its answer, in which every
//! answer is right and a client's own order is kept (Wing & Gong 1993, with the memory of Lowe 2017). What was refused
//! is left out: had it been done nevertheless, values would be seen that nobody wrote. So values are unique, and a
//! thousand apart for INCR.

use std::collections::{BTreeMap, HashSet};

/// What a client asks of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Set(i64),
    Get,
    Incr,
    Del,
}

/// What it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    Ok,
    /// A number.
    Number(i64),
    /// There is no such key.
    Nil,
    /// Nobody knows.
    Unknown,
}

/// An operation on a key. Times are nanoseconds of the simulation.
#[derive(Debug, Clone, Copy)]
pub struct Op {
    pub client: usize,
    pub call: Call,
    pub told: Told,
    pub called_at: u64,
    /// `u64::MAX` if nobody knows.
    pub told_at: u64,
}

/// States that are looked at before the judge gives up.
const STATES_MAX: usize = 200_000;

impl Call {
    /// What the key holds afterwards, if the answer is right.
    fn apply(self, told: Told, held: Option<i64>) -> Option<Option<i64>> {
        let (right, after) = match self {
            Call::Set(value) => (Told::Ok, Some(value)),
            Call::Get => (held.map_or(Told::Nil, Told::Number), held),
            Call::Incr => {
                let value = held.unwrap_or(0) + 1;
                (Told::Number(value), Some(value))
            }
            Call::Del => (Told::Number(held.is_some().into()), None),
        };
        (told == Told::Unknown || told == right).then_some(after)
    }
}

/// A state of the search: which operations are done, what the key holds.
#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    done: Vec<u64>,
    held: Option<i64>,
}

impl State {
    fn is_done(&self, at: usize) -> bool {
        self.done[at / 64] >> (at % 64) & 1 == 1
    }

    /// The operations that may be next: called before any that is left was answered. First those with answers.
    fn next(&self, ops: &[Op]) -> (Vec<usize>, Vec<usize>) {
        let left = || (0..ops.len()).filter(|&at| !self.is_done(at));
        let first_told = left().map(|at| ops[at].told_at).min().unwrap_or(u64::MAX);
        let is_behind = |at: usize| {
            let before = |&other: &usize| ops[other].client == ops[at].client;
            let mut before = left().take_while(|&other| other < at).filter(before);
            before.any(|other| ops[other].told != Told::Unknown)
        };
        let may_be = |&at: &usize| ops[at].called_at <= first_told;
        left()
            .take_while(may_be)
            .filter(|&at| ops[at].told == Told::Unknown || !is_behind(at))
            .partition(|&at| ops[at].told != Told::Unknown)
    }

    /// What may be done next: an operation with an answer, behind as many of those without one as make it right. They
    /// may be done at any time, so nothing is gained by doing them before they are needed; nor by another before a
    /// read that is right now.
    fn steps(&self, ops: &[Op]) -> Vec<Vec<usize>> {
        let (answered, unknown) = self.next(ops);
        let is_right = |at: usize| ops[at].call.apply(ops[at].told, self.held).is_some();
        let reads = |&&at: &&usize| ops[at].call == Call::Get && is_right(at);
        if let Some(&read) = answered.iter().find(reads) {
            return vec![vec![read]];
        }
        let mut steps = Vec::new();
        for at in answered {
            match is_right(at) {
                true => steps.push(vec![at]),
                false => steps.extend(self.ways(&ops[at], ops, &unknown).into_iter().map(
                    |mut way| {
                        way.push(at);
                        way
                    },
                )),
            }
        }
        steps
    }

    /// Operations without answers that make the answer of `op` right.
    fn ways(&self, op: &Op, ops: &[Op], unknown: &[usize]) -> Vec<Vec<usize>> {
        let of = |call: Call| {
            unknown
                .iter()
                .copied()
                .filter(move |&at| ops[at].call == call)
        };
        let sets = unknown.iter().filter_map(|&at| match ops[at].call {
            Call::Set(value) => Some((vec![at], value)),
            _ => None,
        });
        let del: Option<Vec<usize>> = of(Call::Del).next().map(|at| vec![at]);
        let wanted = match (op.call, op.told) {
            (Call::Del, Told::Number(1)) => {
                let one = of(Call::Incr).next().map(|at| vec![at]);
                return sets.map(|(way, _)| way).chain(one).collect();
            }
            (Call::Get, Told::Number(value)) => value,
            (Call::Incr, Told::Number(value)) => value - 1,
            _ => 0,
        };
        if wanted == 0 {
            return del.into_iter().collect();
        }
        let nothing = match self.held {
            Some(_) => del.map(|way| (way, 0)),
            None => Some((Vec::new(), 0)),
        };
        let held = self.held.map(|value| (Vec::new(), value));
        let begins = held.into_iter().chain(sets).chain(nothing);
        begins
            .filter_map(|(mut way, value)| {
                let more = usize::try_from(wanted - value).ok()?;
                let incrs: Vec<usize> = of(Call::Incr).take(more).collect();
                way.extend(&incrs);
                (incrs.len() == more).then_some(way)
            })
            .collect()
    }

    /// Whether somebody who is still to be answered saw what the key can never hold again: a value is written once, and
    /// only ever grows.
    fn is_dead(&self, ops: &[Op], written: &BTreeMap<i64, usize>) -> bool {
        (0..ops.len()).any(|at| {
            let seen = match (ops[at].call, ops[at].told) {
                (Call::Get, Told::Number(value)) => value,
                (Call::Incr, Told::Number(value)) => value - 1,
                _ => return false,
            };
            let begin = seen / 1_000;
            if begin == 0 || self.is_done(at) {
                return false;
            }
            match self.held.filter(|held| held / 1_000 == begin) {
                Some(held) => held > seen,
                None => written.get(&begin).is_none_or(|&set| self.is_done(set)),
            }
        })
    }

    fn with(&self, at: usize, held: Option<i64>) -> State {
        let mut done = self.done.clone();
        done[at / 64] |= 1 << (at % 64);
        State { done, held }
    }
}

/// Whether these operations on one key, which began without a value, can have been so.
///
/// # Errors
/// They cannot, or nobody can tell in reasonable time; the longest possible beginning, and what comes next.
pub fn judge(ops: &[Op]) -> Result<(), String> {
    let is_of_use = |op: &&Op| op.call != Call::Get || op.told != Told::Unknown;
    let mut ops: Vec<Op> = ops.iter().filter(is_of_use).copied().collect();
    ops.sort_by_key(|op| op.called_at);
    let answered = |state: &State| {
        let of_state = |&at: &usize| ops[at].told != Told::Unknown && state.is_done(at);
        (0..ops.len()).filter(of_state).count()
    };
    let wanted = ops.iter().filter(|op| op.told != Told::Unknown).count();
    let sets = ops.iter().enumerate().filter_map(|(at, op)| match op.call {
        Call::Set(value) => Some((value / 1_000, at)),
        _ => None,
    });
    let written: BTreeMap<i64, usize> = sets.collect();
    let first = State {
        done: vec![0; ops.len().div_ceil(64)],
        held: None,
    };
    let (mut best, mut seen) = ((0, first.clone()), HashSet::new());
    let mut stack = vec![first];
    while let Some(state) = stack.pop() {
        let count = answered(&state);
        if count == wanted {
            return Ok(());
        }
        if count > best.0 {
            best = (count, state.clone());
        }
        for step in state.steps(&ops) {
            let mut next = state.clone();
            for at in step {
                let held = ops[at].call.apply(ops[at].told, next.held);
                next = next.with(at, held.expect("the step is a way"));
            }
            if !next.is_dead(&ops, &written) && seen.insert(next.clone()) {
                stack.push(next);
            }
        }
        if seen.len() > STATES_MAX {
            break;
        }
    }
    let (count, state) = best;
    let is_sure = seen.len() <= STATES_MAX;
    let mut text = format!(
        "for sure: {is_sure}; {count} of {wanted} answers are possible, then the key holds {:?}:\n",
        state.held
    );
    let done: Vec<usize> = (0..ops.len()).filter(|&at| state.is_done(at)).collect();
    for at in done.iter().rev().take(12).rev() {
        text.push_str(&format!("  done  {:?}\n", ops[*at]));
    }
    let (answered, unknown) = state.next(&ops);
    for at in answered.into_iter().chain(unknown) {
        text.push_str(&format!("  next? {:?}\n", ops[at]));
    }
    if std::env::var_os("CLUSTER_HISTORY").is_some() {
        ops.iter()
            .for_each(|op| text.push_str(&format!("  {op:?}\n")));
    }
    Err(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(call: Call, told: Told, called_at: u64, told_at: u64) -> Op {
        thread_local! {
            static NEXT: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
        }
        Op {
            client: NEXT.replace(NEXT.get() + 1),
            call,
            told,
            called_at,
            told_at,
        }
    }

    #[test]
    fn what_is_possible_is_found() {
        let unknown = op(Call::Set(1_000), Told::Unknown, 0, u64::MAX);
        let set = op(Call::Set(2_000), Told::Ok, 1, 2);
        for read in [Told::Number(1_000), Told::Number(2_000)] {
            let ops = [unknown, set, op(Call::Get, read, 3, 4)];
            assert_eq!(judge(&ops), Ok(()));
        }
        let incr = op(Call::Incr, Told::Number(2_001), 3, 9);
        let during = op(Call::Get, Told::Number(2_001), 4, 5);
        assert_eq!(judge(&[set, incr, during]), Ok(()));
        let del = op(Call::Del, Told::Number(1), 6, 7);
        let after = op(Call::Get, Told::Nil, 8, 9);
        assert_eq!(judge(&[set, incr, during, del, after]), Ok(()));
    }

    #[test]
    fn what_one_client_says_is_done_in_its_order() {
        let set = op(Call::Set(1_000), Told::Ok, 0, 9);
        let incr = op(Call::Incr, Told::Number(1), 1, 9);
        assert_eq!(judge(&[set, incr]), Ok(()));
        let client = set.client;
        assert!(judge(&[set, Op { client, ..incr }]).is_err());
    }

    #[test]
    fn what_is_impossible_is_refused() {
        let first = op(Call::Set(1_000), Told::Ok, 0, 1);
        let second = op(Call::Set(2_000), Told::Ok, 2, 3);
        let stale = op(Call::Get, Told::Number(1_000), 4, 5);
        assert!(judge(&[first, second, stale]).is_err());
        let lost = op(Call::Get, Told::Nil, 4, 5);
        assert!(judge(&[first, lost]).is_err());
        let twice = [
            op(Call::Incr, Told::Number(1), 0, 9),
            op(Call::Incr, Told::Number(1), 0, 9),
        ];
        assert!(judge(&twice).is_err());
        let invented = op(Call::Get, Told::Number(7), 0, 9);
        assert!(judge(&[invented]).is_err());
        let back = op(Call::Get, Told::Number(1_000), 6, 7);
        let new = op(Call::Get, Told::Number(2_000), 4, 5);
        let wide = op(Call::Set(2_000), Told::Ok, 2, 9);
        assert!(judge(&[first, wide, new, back]).is_err());
    }
}
