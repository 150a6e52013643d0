//! `marline leave` and `marline cli --cluster` against scripted members.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::{Outcome, server, tool};

/// Two members of a cluster, by scripted servers: the first leads everything and is to leave.
struct Two {
    first: u16,
    second: u16,
}

/// What [`Two`] are to say.
#[derive(Default, Clone, Copy)]
struct Play {
    /// The answer of the first to CLUSTER LEAVE.
    leave: &'static [u8],
    /// How often the second says that the first still holds something; after that the first is no member any more.
    looks: usize,
    /// Whether the second hangs up whatever it is asked.
    is_alone: bool,
}

const NAMES: [&str; 2] = [
    "1111111111111111111111111111111111111111",
    "2222222222222222222222222222222222222222",
];

fn bulk(text: &str) -> Vec<u8> {
    format!("${}\r\n{text}\r\n", text.len()).into_bytes()
}

impl Two {
    fn new(play: Play) -> Two {
        let ports = Arc::new(OnceLock::<(u16, u16)>::new());
        let known = Arc::clone(&ports);
        let first = server(move |args| {
            let (first, second) = known.wait();
            Some(match args.join(" ").as_str() {
                "CLUSTER MYID" => bulk(NAMES[0]),
                "CLUSTER MAP" => bulk(&map(*first, *second, 5, 2)),
                "REPL STATUS" => [
                    b"*2\r\n".to_vec(),
                    bulk("shard=0 role=leader keys=7"),
                    bulk("shard=meta role=leader keys=2 lag-2=3"),
                ]
                .concat(),
                "CLUSTER LEAVE" => play.leave.to_vec(),
                _ => return None,
            })
        });
        let known = Arc::clone(&ports);
        let looks = AtomicUsize::new(0);
        let second = server(move |args| {
            let (first, second) = known.wait();
            let look = looks.fetch_add(1, Ordering::Relaxed);
            Some(match args.join(" ").as_str() {
                _ if play.is_alone => return None,
                "CLUSTER MAP" if look < play.looks => {
                    bulk(&map(*first, *second, 6 + look as u64, play.looks - look))
                }
                "CLUSTER MAP" => bulk(&map(*first, *second, 6 + look as u64, 0)),
                _ => return None,
            })
        });
        ports.set((first, second)).expect("once");
        Two { first, second }
    }

    fn leave(&self, args: &[&str]) -> Outcome {
        tool(self.first, &[&["leave"], args].concat(), b"")
    }
}

/// A map in which the first of two members holds the meta shard and the other one, the meta shard only, or nothing:
/// then it is no member any more. From the sixth epoch on it is leaving.
fn map(first: u16, second: u16, epoch: u64, held: usize) -> String {
    let leaving = if epoch > 5 { " leaving" } else { "" };
    let [one, two] = NAMES;
    let (one, meta, shard) = match held {
        0 => (String::new(), "2.2", "2.2"),
        1 => (
            format!("node 1 {one} 127.0.0.1:{first}{leaving}\n"),
            "1.1",
            "2.2",
        ),
        _ => (
            format!("node 1 {one} 127.0.0.1:{first}{leaving}\n"),
            "1.1",
            "1.1",
        ),
    };
    format!(
        "cluster 00c0ffee00c0ffee\nepoch {epoch}\nshards 1\nreplicas 1\nnext-node 3\n\
         {one}node 2 {two} 127.0.0.1:{second}\nmeta {meta}\nshard 0 {shard}\n"
    )
}

#[test]
fn a_node_leaves_while_somebody_looks_on() {
    let ok = b"+OK\r\n".as_slice();
    let two = Two::new(Play {
        leave: ok,
        looks: 4,
        ..Play::default()
    });
    let told = format!(
        "node 1 (127.0.0.1:{}) has left: its process may be stopped, and its directory removed\n",
        two.first
    );
    two.leave(&[]).expect(
        0,
        &told,
        "marline leave: 2 replicas to hand over\nmarline leave: 1 replica to hand over\n",
    );
    // Said once more, it has left before; the node itself does not know.
    two.leave(&[]).expect(1, "", "is no member any more");

    let endless = Two::new(Play {
        leave: ok,
        looks: usize::MAX,
        ..Play::default()
    });
    let outcome = endless.leave(&["--wait", "0.3"]);
    outcome.expect(
        1,
        "",
        "is a member still, with 2 replicas\nThe leaving goes on.",
    );
    let how = format!("marline cli -h 127.0.0.1 -p {} --cluster", endless.second);
    assert!(outcome.stderr.contains(&how), "{outcome:?}");
}

#[test]
fn a_node_that_cannot_leave_says_why() {
    let refuses = Two::new(Play {
        leave: b"-CLUSTERDOWN no leader\r\n",
        looks: 9,
        ..Play::default()
    });
    refuses
        .leave(&[])
        .expect(1, "", "refused CLUSTER LEAVE: CLUSTERDOWN no leader");
    let unsure = Two::new(Play {
        leave: b"-UNKNOWN who knows\r\n",
        looks: 9,
        ..Play::default()
    });
    unsure
        .leave(&[])
        .expect(1, "", "refused CLUSTER LEAVE: UNKNOWN who knows");
    let alone = server(|_| Some(b"-ERR This instance has cluster support disabled\r\n".to_vec()));
    tool(alone, &["leave"], b"").expect(1, "", "is in no cluster: ERR This instance");
    tool(alone, &["--cluster"], b"").expect(1, "", "is in no cluster: ERR This instance");
    let other = server(|_| Some(b":1\r\n".to_vec()));
    tool(other, &["leave"], b"").expect(4, "", "does not answer CLUSTER MYID as a node would");
    let silent = server(|_| Some(Vec::new()));
    tool(silent, &["leave", "--timeout", "0.2"], b"").expect(4, "", "within 0.2 s");
    tool(1, &["leave"], b"").expect(4, "", "cannot connect");
    tool(1, &["leave", "a", "b"], b"").expect(2, "", "marline leave --help");
    let help = tool(1, &["leave", "--help"], b"");
    assert!(
        help.code == Some(0) && help.stdout.contains("--wait"),
        "{help:?}"
    );
}

#[test]
fn a_cluster_is_shown_with_those_that_do_not_answer() {
    let two = Two::new(Play {
        is_alone: true,
        ..Play::default()
    });
    let (first, second) = (two.first, two.second);
    let width = format!("127.0.0.1:{}", first.max(second)).len();
    let address = |port: u16| format!("{:width$}", format!("127.0.0.1:{port}"));
    let table = format!(
        "node  name      {:width$}  state            leads  replicas  keys  largest lag\n\
         1     11111111  {}  up               2      2         7     -\n\
         2     22222222  {}  does not answer  -      -         -     3 (shard meta)\n\n\
         cluster 00c0ffee00c0ffee, epoch 5, 1 shard, 7 keys: every shard has a leader; \
         no replica is to move\n",
        "address",
        address(first),
        address(second)
    );
    tool(first, &["--cluster"], b"").expect(0, &table, "");
    let json = tool(first, &["--cluster", "--json"], b"");
    assert_eq!(json.code, Some(0), "{json:?}");
    assert!(
        json.stdout
            .starts_with("{\"cluster\":\"00c0ffee00c0ffee\",\"epoch\":5,"),
        "{json:?}"
    );
    assert_eq!(json.stdout.lines().count(), 1);
    tool(1, &["--cluster"], b"").expect(4, "", "cannot connect");
    tool(1, &["--cluster", "ping"], b"").expect(2, "", "--cluster goes without a command");
}
