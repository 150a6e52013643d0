//! `marline cli --cluster`: how a cluster is, as a table for people or as JSON for scripts.
//!
//! ```text
//!   CLUSTER MAP                       of the node that is named: who is a member
//!   CLUSTER MYID, MAP, REPL STATUS    of every member, all at once: who it is, and how its replicas stand
//! ```
//!
//! The latest map counts, whoever knows it. A member that does not answer in time is a row of the table like any other.
//! A shard has a leader when a member that answers says that it leads it. Looking again and again, the named node is
//! needed for the first look only: then others tell.
//!
//! What was heard is a [`Report`]; the table, the JSON and the exit code are functions of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IsTerminal};
use std::thread;

use serde_json::json;

use super::link::{Link, LinkError, Target};
use super::members::{self, PATIENCE, Replica};
use super::options::{Cluster, Options};
use super::{EXIT_ERROR, EXIT_OK, Failure, print};
use crate::cluster::map::{META, Map, Member, NodeId, shown};
use crate::cluster::plan::{self, Moves};

/// Moves the cursor to the top of the terminal, and erases all below it.
const REDRAW: &str = "\x1b[H\x1b[J";

/// More shards without a leader than these are counted only.
const LISTED_MAX: usize = 20;

const NAME_CHARS: usize = 8;

/// Shows the cluster once, or again and again; the exit code tells whether every shard has a leader.
pub(super) fn cluster(options: &Options, what: &Cluster) -> Result<i32, Failure> {
    let target = Target::new(options)?.within(PATIENCE);
    let is_terminal = io::stdout().is_terminal();
    let colours = is_terminal && options.raw != Some(true) && !is_set("NO_COLOR");
    let mut known = None;
    loop {
        let report = hear(&target, known)?;
        let mut text = match what.json {
            true => format!("{}\n", report.json()),
            false => report.table(colours),
        };
        let Some(interval) = what.interval else {
            print(text.as_bytes())?;
            return Ok(match report.leaderless().is_empty() {
                true => EXIT_OK,
                false => EXIT_ERROR,
            });
        };
        match (what.json, is_terminal) {
            (true, _) => {}
            (false, true) => text.insert_str(0, REDRAW),
            (false, false) => text.push('\n'),
        }
        print(text.as_bytes())?;
        known = Some(report.map);
        thread::sleep(interval);
    }
}

fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.is_empty())
}

/// Asks the named node, then every member. With a map that is known from before, that will do for the named node.
fn hear(target: &Target<'_>, known: Option<Map>) -> Result<Report, Failure> {
    let first = Link::open(target, None)
        .map_err(Failure::Link)
        .and_then(|mut link| members::place(target, &mut link));
    let mut map = match (first, known) {
        (Ok((_, told)), Some(known)) => later(known, told),
        (Ok((_, told)), None) => told,
        (Err(_), Some(known)) => known,
        (Err(failure), None) => return Err(failure),
    };
    let mut heard = BTreeMap::new();
    loop {
        let unasked = map
            .nodes
            .iter()
            .filter(|(node, _)| !heard.contains_key(*node));
        let unasked: Vec<(NodeId, Member)> = unasked.map(|(&id, it)| (id, it.clone())).collect();
        if unasked.is_empty() {
            return Ok(Report { map, heard });
        }
        for (node, said) in ask_all(target, &unasked) {
            let said = said.map(|(told, replicas)| {
                map = later(map.clone(), told);
                replicas
            });
            heard.insert(node, said);
        }
    }
}

/// The later one of two maps of the same cluster.
fn later(one: Map, other: Map) -> Map {
    match other.cluster == one.cluster && other.epoch > one.epoch {
        true => other,
        false => one,
    }
}

/// What a member says; `None`: nothing, or another node is there.
type Said = Option<(Map, Vec<Replica>)>;

fn ask_all(target: &Target<'_>, members: &[(NodeId, Member)]) -> Vec<(NodeId, Said)> {
    thread::scope(|scope| {
        let asking: Vec<_> = members
            .iter()
            .map(|(node, member)| (*node, scope.spawn(move || ask(target, member))))
            .collect();
        asking
            .into_iter()
            .map(|(node, asked)| (node, asked.join().ok().and_then(Result::ok).flatten()))
            .collect()
    })
}

fn ask(target: &Target<'_>, member: &Member) -> Result<Said, LinkError> {
    if member.is_gone {
        return Ok(None);
    }
    let mut link = Link::open(&target.at(member.address), None)?;
    if members::name(&mut link)? != member.name {
        return Ok(None);
    }
    let map = members::map(&mut link)?;
    Ok(Some((map, members::replicas(&mut link)?)))
}

/// What was heard of a cluster.
struct Report {
    map: Map,
    /// The replicas of each member; `None`: it does not answer.
    heard: BTreeMap<NodeId, Option<Vec<Replica>>>,
}

/// How a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Up,
    Leaving,
    Joining,
    Silent,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            State::Up => "up",
            State::Leaving => "leaving",
            State::Joining => "joining",
            State::Silent => "does not answer",
        }
    }

    fn colour(self) -> Colour {
        match self {
            State::Up => Colour::Green,
            State::Leaving | State::Joining => Colour::Yellow,
            State::Silent => Colour::Red,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Colour {
    Red = 31,
    Green = 32,
    Yellow = 33,
}

impl Colour {
    fn paint(self, text: &str, colours: bool) -> String {
        match colours {
            true => format!("\x1b[{}m{text}\x1b[0m", self as u8),
            false => text.to_owned(),
        }
    }
}

impl Report {
    fn replicas(&self, node: NodeId) -> Option<&[Replica]> {
        self.heard.get(&node)?.as_deref()
    }

    /// The replicas that say they lead their shard.
    fn leaders(&self) -> impl Iterator<Item = &Replica> {
        let replicas = self.heard.values().flatten().flatten();
        replicas.filter(|replica| replica.is_leader)
    }

    fn leaderless(&self) -> Vec<String> {
        let led: BTreeSet<u16> = self.leaders().map(|replica| replica.shard).collect();
        let shards = self.map.every_placement().map(|(shard, _)| shard);
        shards.filter(|it| !led.contains(it)).map(shown).collect()
    }

    /// Keys in shards that have a leader.
    fn keys(&self) -> u64 {
        keys(self.leaders())
    }

    fn state(&self, node: NodeId, moves: &Moves) -> State {
        let is_leaving = |node: &NodeId| self.map.nodes.get(node).is_some_and(|it| it.is_leaving);
        // Whoever gets replicas while nobody leaves is to hold as much as the others.
        let is_joining = || {
            let is_new = self.map.replicas_on(node).is_empty();
            moves.to_make.contains_key(&node) && (is_new || !self.map.nodes.keys().any(is_leaving))
        };
        match () {
            () if self.replicas(node).is_none() => State::Silent,
            () if is_leaving(&node) => State::Leaving,
            () if is_joining() => State::Joining,
            () => State::Up,
        }
    }

    /// By how many entries a node lags in the shard where it lags most, as that shard's leader sees it; the shard.
    fn lag(&self, node: NodeId) -> Option<(u64, u16)> {
        let lags = self
            .leaders()
            .flat_map(|it| it.lags.iter().map(|lag| (it.shard, lag)));
        let own = lags.filter(|(_, (of, _))| *of == node);
        let own = own.map(|(shard, &(_, entries))| (entries, shard));
        // Of shards with the same lag, the first.
        own.reduce(|most, next| if next.0 > most.0 { next } else { most })
    }

    /// The table with its summary, each line ended.
    fn table(&self, colours: bool) -> String {
        let moves = plan::moves(&self.map);
        let head = [
            "node",
            "name",
            "address",
            "state",
            "leads",
            "replicas",
            "keys",
            "largest lag",
        ];
        let mut rows = vec![head.map(str::to_owned)];
        let mut states = vec![None];
        for (&node, member) in &self.map.nodes {
            let state = self.state(node, &moves);
            rows.push(self.row(node, member, state));
            states.push(Some(state));
        }
        let width = |at: usize| rows.iter().map(|row| row[at].len()).max().unwrap_or(0);
        let widths: [usize; 8] = std::array::from_fn(width);
        let mut text = String::new();
        for (row, state) in rows.iter().zip(states) {
            let cells = row
                .iter()
                .zip(widths)
                .enumerate()
                .map(|(at, (cell, width))| {
                    let padding = " ".repeat(if at == 7 { 0 } else { width - cell.len() });
                    let cell = match state.filter(|_| at == 3) {
                        Some(state) => state.colour().paint(cell, colours),
                        None => cell.clone(),
                    };
                    cell + &padding
                });
            text += &cells.collect::<Vec<_>>().join("  ");
            text.push('\n');
        }
        format!("{text}\n{}\n", self.summary(&moves, colours))
    }

    fn row(&self, node: NodeId, member: &Member, state: State) -> [String; 8] {
        let replicas = self.replicas(node);
        let count = |of: &dyn Fn(&[Replica]) -> u64| {
            replicas.map_or_else(|| "-".to_owned(), |replicas| of(replicas).to_string())
        };
        let lag = match self.lag(node) {
            Some((0, _)) => "0".to_owned(),
            Some((entries, shard)) => format!("{entries} (shard {})", shown(shard)),
            None => "-".to_owned(),
        };
        [
            node.to_string(),
            member.name.chars().take(NAME_CHARS).collect(),
            place(member),
            state.word().to_owned(),
            count(&|replicas| led(replicas)),
            count(&|replicas| replicas.len() as u64),
            count(&|replicas| keys(replicas)),
            lag,
        ]
    }

    fn summary(&self, moves: &Moves, colours: bool) -> String {
        let leaderless = self.leaderless();
        let leaders = match leaderless.as_slice() {
            [] => Colour::Green.paint("every shard has a leader", colours),
            [one] => Colour::Red.paint(&format!("shard {one} has no leader"), colours),
            many if many.len() > LISTED_MAX => {
                let told = format!("{} shards have no leader", many.len());
                Colour::Red.paint(&told, colours)
            }
            some => {
                let told = format!("shards {} have no leader", some.join(", "));
                Colour::Red.paint(&told, colours)
            }
        };
        let moving = match moves.changes {
            0 => "no replica is to move".to_owned(),
            1 => Colour::Yellow.paint("1 replica is to move", colours),
            more => Colour::Yellow.paint(&format!("{more} replicas are to move"), colours),
        };
        let (cluster, epoch, shards) = (self.map.cluster, self.map.epoch, self.map.shards);
        let shards = counted(shards.into(), "shard");
        let keys = counted(self.keys(), "key");
        format!("cluster {cluster:016x}, epoch {epoch}, {shards}, {keys}: {leaders}; {moving}")
    }

    fn json(&self) -> serde_json::Value {
        let (moves, leaderless) = (plan::moves(&self.map), self.leaderless());
        let nodes = self.map.nodes.iter().map(|(&node, member)| {
            let replicas = self.replicas(node);
            let lag = self.lag(node);
            json!({
                "node": node,
                "name": member.name,
                "address": place(member),
                "state": self.state(node, &moves).word(),
                "leads": replicas.map(led),
                "replicas": replicas.map(<[Replica]>::len),
                "keys": replicas.map(keys),
                "lag": lag.map(|(entries, _)| entries),
                "lag_shard": lag.filter(|lag| lag.0 > 0).map(|(_, shard)| shown(shard)),
            })
        });
        json!({
            "ok": leaderless.is_empty(),
            "cluster": format!("{:016x}", self.map.cluster),
            "epoch": self.map.epoch,
            "shards": self.map.shards,
            "keys": self.keys(),
            "leaderless": leaderless,
            "to_move": moves.changes,
            "nodes": nodes.collect::<Vec<_>>(),
        })
    }
}

fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Where a member is reached.
fn place(member: &Member) -> String {
    match member.is_gone {
        true => "(another's)".to_owned(),
        false => member.address.to_string(),
    }
}

fn led(replicas: &[Replica]) -> u64 {
    replicas.iter().filter(|replica| replica.is_leader).count() as u64
}

/// Keys of clients.
fn keys<'r>(replicas: impl IntoIterator<Item = &'r Replica>) -> u64 {
    let of_clients = replicas.into_iter().filter(|it| it.shard != META);
    of_clients.map(|replica| replica.keys).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Node 2 does not answer, node 3 has lost its address, node 4 has just come.
    const MAP: &str = "cluster 00c0ffee00c0ffee\nepoch 12\nshards 4\nreplicas 3\nnext-node 5\n\
        node 1 1111111111111111111111111111111111111111 127.0.0.1:8001\n\
        node 2 2222222222222222222222222222222222222222 [fd00::2]:8002\n\
        node 3 3333333333333333333333333333333333333333 127.0.0.1:8004 gone\n\
        node 4 4444444444444444444444444444444444444444 127.0.0.1:8004\n\
        meta 1.1 2.1 3.1\n\
        shard 0 1.1 2.1 3.1\nshard 1 2.1 3.1 1.1\nshard 2 3.1 1.1 2.1\nshard 3 1.1 3.1 2.1\n";

    fn report(map: &str, heard: [Option<&str>; 4]) -> Report {
        let map = Map::decode(map.as_bytes()).unwrap();
        let replica = |line| Replica::parse(line).unwrap();
        let heard = heard.map(|text| text.map(|text| text.lines().map(replica).collect()));
        let heard = (1..).zip(heard).collect();
        Report { map, heard }
    }

    fn with_trouble() -> Report {
        let first = "shard=0 role=leader keys=40 lag-2=7(away) lag-3=2(away)\n\
            shard=1 role=follower keys=41\nshard=2 role=leader keys=42 lag-2=9(away) lag-3=9(away)\n\
            shard=3 role=leader keys=43 lag-2=9(away) lag-3=0(away)\nshard=meta role=leader keys=2 lag-2=1";
        report(MAP, [Some(first), None, None, Some("")])
    }

    #[test]
    fn a_table_has_a_row_for_each_member() {
        assert_eq!(
            with_trouble().table(false),
            "node  name      address         state            leads  replicas  keys  largest lag\n\
             1     11111111  127.0.0.1:8001  up               4      5         166   -\n\
             2     22222222  [fd00::2]:8002  does not answer  -      -         -     9 (shard 2)\n\
             3     33333333  (another's)     does not answer  -      -         -     9 (shard 2)\n\
             4     44444444  127.0.0.1:8004  joining          0      0         0     -\n\
             \n\
             cluster 00c0ffee00c0ffee, epoch 12, 4 shards, 125 keys: shard 1 has no leader; \
             3 replicas are to move\n"
        );
    }

    #[test]
    fn colours_say_how_it_is_and_move_no_column() {
        let table = with_trouble().table(true);
        for part in [
            "  \x1b[32mup\x1b[0m               4",
            "  \x1b[31mdoes not answer\x1b[0m  -",
            "  \x1b[33mjoining\x1b[0m          0",
            ": \x1b[31mshard 1 has no leader\x1b[0m; \x1b[33m3 replicas are to move\x1b[0m\n",
        ] {
            assert!(table.contains(part), "{part:?} in {table}");
        }
        let plain = ["\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"]
            .iter()
            .fold(table, |text, code| text.replace(code, ""));
        assert_eq!(plain, with_trouble().table(false));
    }

    #[test]
    fn a_script_reads_the_same_as_json() {
        let json = with_trouble().json();
        assert_eq!(
            json["nodes"][1].to_string(),
            "{\"address\":\"[fd00::2]:8002\",\"keys\":null,\"lag\":9,\"lag_shard\":\"2\",\"leads\":null,\
             \"name\":\"2222222222222222222222222222222222222222\",\"node\":2,\"replicas\":null,\
             \"state\":\"does not answer\"}"
        );
        let whole = [
            ("ok", "false"),
            ("cluster", "\"00c0ffee00c0ffee\""),
            ("epoch", "12"),
            ("shards", "4"),
            ("keys", "125"),
            ("leaderless", "[\"1\"]"),
            ("to_move", "3"),
        ];
        for (name, value) in whole {
            assert_eq!(json[name].to_string(), value, "{name}");
        }
    }

    #[test]
    fn who_leaves_is_leaving_and_nobody_joins_by_it() {
        let map = MAP
            .replace("8002\n", "8002 leaving\n")
            .replace("8004 gone\n", "8003\n");
        let map = map.replace("shard 0 1.1", "shard 0 4.2");
        let report = report(&map, [Some(""); 4]);
        let moves = plan::moves(&report.map);
        let states: Vec<State> = (1..=4).map(|node| report.state(node, &moves)).collect();
        use State::{Leaving, Up};
        assert_eq!(states, [Up, Leaving, Up, Up]);
        assert!(moves.changes > 0);
        let leaderless = "shards 0, 1, 2, 3, meta have no leader";
        assert!(report.table(false).contains(leaderless));
    }
}
