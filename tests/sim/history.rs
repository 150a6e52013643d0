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

use std::collections::{BTreeMap, BTreeSet, VecDeque};

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

/// Answered operations behind the first that is not done, among which it is looked for one whose answer is impossible.
const WINDOW: usize = 256;

/// What is known of a key: the operations that were answered, and those that were not, each by the time of their call.
struct Case {
    told: Vec<Op>,
    unknown: Vec<Op>,
    /// Which operation wrote a value; values are a thousand apart.
    written: BTreeMap<i64, Writer>,
}

#[derive(Clone, Copy)]
enum Writer {
    Told(usize),
    Unknown(usize),
}

/// A set of numbers, nearly all of those below `base` being in it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Done {
    /// All below are in it.
    base: usize,
    /// A bit for each from there on, 64 at a time.
    words: VecDeque<u64>,
}

impl Done {
    fn has(&self, at: usize) -> bool {
        let Some(ahead) = at.checked_sub(self.base) else {
            return true;
        };
        let word = self.words.get(ahead / 64).copied().unwrap_or(0);
        word >> (ahead % 64) & 1 == 1
    }

    fn add(&mut self, at: usize) {
        let ahead = at - self.base;
        if self.words.len() <= ahead / 64 {
            self.words.resize(ahead / 64 + 1, 0);
        }
        self.words[ahead / 64] |= 1 << (ahead % 64);
        while self.words.front() == Some(&u64::MAX) {
            self.words.pop_front();
            self.base += 64;
        }
    }
}

/// A state of the search: which operations are done, what the key holds.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    told: Done,
    unknown: Done,
    held: Option<i64>,
    /// How many of those with answers are done.
    count: usize,
}

/// What may be done next: an operation with an answer, behind some without.
struct Step {
    unknown: Vec<usize>,
    told: usize,
}

impl State {
    /// The operations with answers that may be next: called before any that is left was answered, and the first of
    /// their clients; and the time before which.
    fn next(&self, case: &Case) -> (Vec<usize>, u64) {
        let (mut first_told, mut next) = (u64::MAX, Vec::new());
        let left = (self.told.base..case.told.len()).filter(|&at| !self.told.has(at));
        for at in left {
            let op = &case.told[at];
            if op.called_at > first_told {
                break;
            }
            first_told = first_told.min(op.told_at);
            let is_of_client = |&before: &usize| case.told[before].client == op.client;
            if !next.iter().any(is_of_client) {
                next.push(at);
            }
        }
        next.retain(|&at| case.told[at].called_at <= first_told);
        (next, first_told)
    }

    /// What may be done next. Those without answers may be done at any time, so nothing is gained by doing them before
    /// they are needed; nor by another before a read that is right now.
    fn steps(&self, case: &Case) -> Vec<Step> {
        let (next, first_told) = self.next(case);
        let is_right = |at: usize| {
            let op = &case.told[at];
            op.call.apply(op.told, self.held).is_some()
        };
        let at_once = |told| Step {
            unknown: Vec::new(),
            told,
        };
        let is_read = |&&at: &&usize| case.told[at].call == Call::Get && is_right(at);
        if let Some(&read) = next.iter().find(is_read) {
            return vec![at_once(read)];
        }
        let may_be = |&at: &usize| case.unknown[at].called_at <= first_told;
        let unknown = (self.unknown.base..case.unknown.len()).take_while(may_be);
        let unknown: Vec<usize> = unknown.filter(|&at| !self.unknown.has(at)).collect();
        let mut steps = Vec::new();
        for told in next {
            match is_right(told) {
                true => steps.push(at_once(told)),
                false => {
                    let ways = self.ways(&case.told[told], case, &unknown);
                    steps.extend(ways.into_iter().map(|unknown| Step { unknown, told }));
                }
            }
        }
        steps
    }

    /// Operations without answers that make the answer of `op` right.
    fn ways(&self, op: &Op, case: &Case, unknown: &[usize]) -> Vec<Vec<usize>> {
        let of = |call: Call| {
            let all = unknown.iter().copied();
            all.filter(move |&at| case.unknown[at].call == call)
        };
        let sets = || {
            unknown
                .iter()
                .filter(|&&at| matches!(case.unknown[at].call, Call::Set(_)))
        };
        let del: Option<Vec<usize>> = of(Call::Del).next().map(|at| vec![at]);
        let wanted = match (op.call, op.told) {
            (Call::Del, Told::Number(1)) => {
                let one = of(Call::Incr).next().map(|at| vec![at]);
                return sets().map(|&at| vec![at]).chain(one).collect();
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
        let writer = match case.written.get(&(wanted / 1_000)) {
            Some(&Writer::Unknown(at)) if unknown.binary_search(&at).is_ok() => {
                Some((vec![at], wanted / 1_000 * 1_000))
            }
            _ => None,
        };
        let begins = held.into_iter().chain(writer).chain(nothing);
        // What was written a thousand before or more was counted up to there by nobody.
        let begins = begins.filter(|(_, value)| value / 1_000 == wanted / 1_000);
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
    fn is_dead(&self, case: &Case) -> bool {
        let window = self.told.base..case.told.len().min(self.told.base + WINDOW);
        window.filter(|&at| !self.told.has(at)).any(|at| {
            let seen = match (case.told[at].call, case.told[at].told) {
                (Call::Get, Told::Number(value)) => value,
                (Call::Incr, Told::Number(value)) => value - 1,
                _ => return false,
            };
            let begin = seen / 1_000;
            if begin == 0 {
                return false;
            }
            if let Some(held) = self.held.filter(|held| held / 1_000 == begin) {
                return held > seen;
            }
            match case.written.get(&begin) {
                None => true,
                Some(&Writer::Told(at)) => self.told.has(at),
                Some(&Writer::Unknown(at)) => self.unknown.has(at),
            }
        })
    }

    /// The state behind a step; `None`: the answer cannot have been so, whatever was done before it.
    fn behind(&self, step: &Step, case: &Case) -> Option<State> {
        let mut next = self.clone();
        for &at in &step.unknown {
            let op = &case.unknown[at];
            next.held = op.call.apply(op.told, next.held)?;
            next.unknown.add(at);
        }
        let op = &case.told[step.told];
        next.held = op.call.apply(op.told, next.held)?;
        next.told.add(step.told);
        next.count += 1;
        Some(next)
    }
}

impl Case {
    fn new(ops: &[Op]) -> Case {
        let is_of_use = |op: &&Op| op.call != Call::Get || op.told != Told::Unknown;
        let mut ops: Vec<Op> = ops.iter().filter(is_of_use).copied().collect();
        ops.sort_by_key(|op| op.called_at);
        let (unknown, told) = ops.into_iter().partition(|op| op.told == Told::Unknown);
        let mut case = Case {
            told,
            unknown,
            written: BTreeMap::new(),
        };
        let value = |op: &Op| match op.call {
            Call::Set(value) => Some(value / 1_000),
            _ => None,
        };
        for (at, op) in case.told.iter().enumerate() {
            case.written
                .extend(value(op).map(|value| (value, Writer::Told(at))));
        }
        for (at, op) in case.unknown.iter().enumerate() {
            case.written
                .extend(value(op).map(|value| (value, Writer::Unknown(at))));
        }
        case
    }

    /// The longest possible beginning, and what comes next.
    fn describe(&self, state: &State) -> String {
        let (count, wanted) = (state.count, self.told.len());
        let mut text = format!(
            "{count} of {wanted} answers are possible, then the key holds {:?}:\n",
            state.held
        );
        let done: Vec<usize> = (0..wanted).filter(|&at| state.told.has(at)).collect();
        for at in done.iter().rev().take(12).rev() {
            text.push_str(&format!("  done  {:?}\n", self.told[*at]));
        }
        let (next, first_told) = state.next(self);
        for at in next {
            text.push_str(&format!("  next? {:?}\n", self.told[at]));
        }
        let soon = |op: &&Op| op.called_at < first_told && op.told_at >= first_told;
        for op in self.told.iter().filter(soon) {
            text.push_str(&format!("  beside {op:?}\n"));
        }
        let unknown = (0..self.unknown.len()).filter(|&at| !state.unknown.has(at));
        for at in unknown.take_while(|&at| self.unknown[at].called_at <= first_told) {
            text.push_str(&format!("  next? {:?}\n", self.unknown[at]));
        }
        text
    }
}

/// Whether these operations on one key, which began without a value, can have been so; false: nobody can tell in
/// reasonable time, which happens when many of them were not answered.
///
/// # Errors
/// They cannot; the longest possible beginning, and what comes next.
pub fn judge(ops: &[Op]) -> Result<bool, String> {
    let case = Case::new(ops);
    let first = State {
        told: Done::default(),
        unknown: Done::default(),
        held: None,
        count: 0,
    };
    let (mut best, mut seen, mut stack) = (first.clone(), BTreeSet::new(), vec![first]);
    while let Some(state) = stack.pop() {
        if state.count == case.told.len() {
            return Ok(true);
        }
        if state.count > best.count {
            best = state.clone();
        }
        for step in state.steps(&case) {
            let Some(next) = state.behind(&step, &case) else {
                continue;
            };
            if !next.is_dead(&case) && seen.insert(next.clone()) {
                stack.push(next);
            }
        }
        if seen.len() > STATES_MAX {
            return Ok(false);
        }
    }
    Err(case.describe(&best))
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
            assert_eq!(judge(&ops), Ok(true));
        }
        let incr = op(Call::Incr, Told::Number(2_001), 3, 9);
        let during = op(Call::Get, Told::Number(2_001), 4, 5);
        assert_eq!(judge(&[set, incr, during]), Ok(true));
        let del = op(Call::Del, Told::Number(1), 6, 7);
        let after = op(Call::Get, Told::Nil, 8, 9);
        assert_eq!(judge(&[set, incr, during, del, after]), Ok(true));
    }

    #[test]
    fn what_one_client_says_is_done_in_its_order() {
        let set = op(Call::Set(1_000), Told::Ok, 0, 9);
        let incr = op(Call::Incr, Told::Number(1), 1, 9);
        assert_eq!(judge(&[set, incr]), Ok(true));
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
