//! protocol.md and README.md are executed: every transcript in them is typed to a real server, and the lists of
//! commands, settings and errors are compared with the tables and texts in the sources.
//!
//! A transcript is a block fenced as `marline`; protocol.md begins with what its lines mean. One fenced as
//! `marline data` or `marline sealed` is typed to a process with a directory, so that it can be killed. A block
//! fenced as `hex NAME` holds the bytes of a file, which are read as a node reads them.

#![allow(clippy::unwrap_used, reason = "a test says what it misses by failing")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use marline::command::encode::{self, Change};
use marline::command::op::{Action, Op};
use marline::command::rows::ROWS;
use marline::config::Options;
use marline::config::table::{SETTINGS, When};
use marline::config::values::{Origin, Values};
use marline::disk::Disk;
use marline::disk::header::{HEADER_BYTES, Header, Kind};
use marline::disk::image::read::ImageReader;
use marline::disk::real::RealDisk;
use marline::disk::seal::KeyRing;
use marline::disk::sim::SimDisk;
use marline::disk::wal::replay;
use marline::node::{self, Node};
use marline::reactor::mio_backend::MioBackend;
use marline::reactor::remote::Remote;
use marline::shard::meta::Meta;
use marline::shard::section;
use marline::store::{HashSeed, Store};

/// How long a line may take to come. Nothing waits that long unless a transcript is wrong.
const PATIENCE: Duration = Duration::from_secs(5);
/// What a transcript shows when the server has closed the connection.
const CLOSED: &str = "<closed>";
/// What a transcript shows when the server is killed and started again.
const KILLED: &str = "<kill -9, start>";

/// A server of its own for each transcript.
enum Server {
    InMemory(InMemory),
    OnDisk(OnDisk),
}

impl Server {
    fn start(transcript: &Transcript) -> Server {
        match transcript.fence.as_str() {
            "```marline" => Server::InMemory(InMemory::start()),
            fence => Server::OnDisk(OnDisk::start(transcript.at, fence == "```marline sealed")),
        }
    }

    fn address(&self) -> SocketAddr {
        match self {
            Server::InMemory(server) => server.address,
            Server::OnDisk(server) => server.address,
        }
    }

    fn restart(&mut self) {
        match self {
            Server::InMemory(_) => panic!("a server without a directory cannot be started again"),
            Server::OnDisk(server) => server.restart(),
        }
    }
}

/// A process with a directory, which is removed when it is dropped.
struct OnDisk {
    home: PathBuf,
    is_sealed: bool,
    process: Process,
    address: SocketAddr,
}

/// Killed when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl OnDisk {
    fn start(at: usize, is_sealed: bool) -> OnDisk {
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("transcript-{at}"));
        let _ = fs::remove_dir_all(&home);
        let (process, address) = OnDisk::launch(&home, is_sealed);
        OnDisk {
            home,
            is_sealed,
            process,
            address,
        }
    }

    /// Starts a process and reads its log until it is ready.
    fn launch(home: &Path, is_sealed: bool) -> (Process, SocketAddr) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_marline"));
        command
            .args(["--port", "0", "--data"])
            .arg(home.join("data"));
        if is_sealed {
            command.arg("--seal-keys").arg(home.join("keys"));
        }
        let command = command.env("MARLINE_LOG", "info").stderr(Stdio::piped());
        let mut process = Process(command.spawn().unwrap());
        let mut log = BufReader::new(process.0.stderr.take().unwrap());
        let (mut address, mut said) = (None, String::new());
        loop {
            let mut line = String::new();
            assert!(log.read_line(&mut line).unwrap() > 0, "it ended: {said}");
            said.push_str(&line);
            if let Some((_, rest)) = line.split_once(" listens on ") {
                address = rest.split(' ').next().and_then(|text| text.parse().ok());
            } else if line.contains("ready: ") {
                process.0.stderr = Some(log.into_inner());
                return (process, address.unwrap());
            }
        }
    }

    fn restart(&mut self) {
        let _ = self.process.0.kill();
        let _ = self.process.0.wait();
        (self.process, self.address) = OnDisk::launch(&self.home, self.is_sealed);
    }
}

impl Drop for OnDisk {
    fn drop(&mut self) {
        let _ = self.process.0.kill();
        let _ = self.process.0.wait();
        let _ = fs::remove_dir_all(&self.home);
    }
}

/// A server in a thread, stopped when dropped.
struct InMemory {
    address: SocketAddr,
    remote: Remote<Node>,
    thread: Option<JoinHandle<()>>,
}

impl InMemory {
    #[expect(
        clippy::disallowed_methods,
        reason = "a test's server is not a reactor's job"
    )]
    fn start() -> InMemory {
        let (tell, told) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            let mut values = Values::default();
            values.set("port", "0", Origin::Flag).unwrap();
            values.set("data", "none", Origin::Flag).unwrap();
            let options = Options::read(&values).unwrap();
            let backend = MioBackend::with_threads(1, 1).unwrap();
            let (mut reactor, address) =
                node::start(backend, Node::new(values, options, 1)).unwrap();
            tell.send((address, reactor.remote())).unwrap();
            reactor.run().unwrap();
        });
        let (address, remote) = told.recv().unwrap();
        let thread = Some(thread);
        InMemory {
            address,
            remote,
            thread,
        }
    }
}

impl Drop for InMemory {
    fn drop(&mut self) {
        self.remote.call(|cx| cx.net.stop());
        let ended = self.thread.take().unwrap().join();
        assert!(
            ended.is_ok() || thread::panicking(),
            "the server ended well"
        );
    }
}

/// One client: `A` types after `>`, `B` after `B>`, and so on.
struct Client {
    name: char,
    stream: BufReader<TcpStream>,
    /// Whether replies are lines that end in LF alone (HELLO LINE, HELLO JSON).
    plain_lines: bool,
}

impl Client {
    fn connect(name: char, address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client {
            name,
            stream: BufReader::new(stream),
            plain_lines: false,
        }
    }

    /// The next line without its end.
    fn line(&mut self) -> Result<String, String> {
        let mut line = Vec::new();
        match self.stream.read_until(b'\n', &mut line) {
            Ok(0) => return Ok(CLOSED.to_owned()),
            Ok(_) => {}
            Err(error) => return Err(format!("nothing more came ({error}); so far {line:?}")),
        }
        if line.pop() != Some(b'\n') {
            return Err(format!("the last line has no end: {line:?}"));
        }
        if line.last() == Some(&b'\r') {
            if self.plain_lines {
                return Err(format!("a plain line ends in CR: {line:?}"));
            }
            line.pop();
        }
        Ok(String::from_utf8_lossy(&line).into_owned())
    }
}

/// Some lines that one client types at once, and what it then receives.
#[derive(Debug)]
struct Step {
    client: char,
    /// Line of the document at which it stands.
    at: usize,
    typed: Vec<u8>,
    expected: Vec<String>,
}

struct Transcript {
    at: usize,
    /// The line that begins it.
    fence: String,
    steps: Vec<Step>,
}

/// The client and the text of a line that somebody types: `> text`, `B> text`, or a prompt alone.
fn prompt(line: &str) -> Option<(char, Option<&str>)> {
    let client = line.chars().next().filter(char::is_ascii_uppercase);
    let rest = match client {
        Some(_) => &line[1..],
        None => line,
    };
    let text = rest.strip_prefix('>')?;
    match text {
        "" => Some((client.unwrap_or('A'), None)),
        text => Some((client.unwrap_or('A'), Some(text.strip_prefix(' ')?))),
    }
}

fn transcripts(document: &str) -> Vec<Transcript> {
    let mut found: Vec<Transcript> = Vec::new();
    let mut inside = false;
    for (number, line) in document.lines().enumerate() {
        let at = number + 1;
        if line.starts_with("```") {
            inside = ["```marline", "```marline data", "```marline sealed"].contains(&line);
            if inside {
                found.push(Transcript {
                    at,
                    fence: line.to_owned(),
                    steps: Vec::new(),
                });
            }
        } else if inside {
            add_line(&mut found.last_mut().unwrap().steps, at, line);
        }
    }
    found
}

/// Who types the step that kills the server.
const NOBODY: char = '!';

fn add_line(steps: &mut Vec<Step>, at: usize, line: &str) {
    if line == KILLED {
        return steps.push(Step {
            client: NOBODY,
            at,
            typed: Vec::new(),
            expected: Vec::new(),
        });
    }
    let Some((client, text)) = prompt(line) else {
        let step = steps.last_mut().expect("somebody types first");
        return step.expected.push(line.to_owned());
    };
    let mut typed = Vec::new();
    if let Some(text) = text {
        // A line that is to end in CR LF shows its CR.
        typed = text.replace('␍', "\r").into_bytes();
        typed.push(b'\n');
    }
    match steps.last_mut() {
        Some(step) if step.client == client && step.expected.is_empty() => step.typed.extend(typed),
        _ => steps.push(Step {
            client,
            at,
            typed,
            expected: Vec::new(),
        }),
    }
}

/// Whether `line` is as a transcript shows it, `…` standing for any run of characters.
fn is_as_shown(line: &str, shown: &str) -> bool {
    let mut parts = shown.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(found) => rest = &rest[found + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Types a step and compares; `Err` says what came instead.
fn take(step: &Step, client: &mut Client) -> Result<(), String> {
    client
        .stream
        .get_mut()
        .write_all(&step.typed)
        .map_err(|error| error.to_string())?;
    let typed = String::from_utf8_lossy(&step.typed).to_ascii_uppercase();
    for shown in &step.expected {
        let line = client.line()?;
        if !is_as_shown(&line, shown) {
            return Err(format!("expected {shown:?}\n  received {line:?}"));
        }
        if typed.starts_with("HELLO ") || typed.starts_with("RESET") {
            client.plain_lines = typed.starts_with("HELLO LINE") || typed.starts_with("HELLO JSON");
        }
    }
    Ok(())
}

/// What a client receives after the last line that the transcript shows.
fn left_over(client: &mut Client) -> String {
    let mut rest = Vec::new();
    let stream = client.stream.get_mut();
    // The server may have closed first.
    let _ = stream.shutdown(Shutdown::Write);
    let _ = client.stream.read_to_end(&mut rest);
    String::from_utf8_lossy(&rest).into_owned()
}

fn play(transcript: &Transcript) -> Result<(), String> {
    let mut server = Server::start(transcript);
    let mut clients: Vec<Client> = Vec::new();
    for step in &transcript.steps {
        if step.client == NOBODY {
            clients.clear();
            server.restart();
            continue;
        }
        if !clients.iter().any(|client| client.name == step.client) {
            clients.push(Client::connect(step.client, server.address()));
        }
        let mut ours = clients
            .iter_mut()
            .filter(|client| client.name == step.client);
        take(step, ours.next().unwrap()).map_err(|why| format!("{}: {why}", step.at))?;
    }
    for client in &mut clients {
        let rest = left_over(client);
        if !rest.is_empty() {
            return Err(format!(
                "{}: client {} also received {rest:?}",
                transcript.at, client.name
            ));
        }
    }
    Ok(())
}

fn document(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// Plays every transcript of a document; all that fail are told.
fn play_all(name: &str, at_least: usize) {
    let transcripts = transcripts(&document(name));
    assert!(transcripts.len() >= at_least, "{name} shows conversations");
    let failed: Vec<String> = transcripts
        .iter()
        .filter_map(|transcript| play(transcript).err())
        .map(|why| format!("{name}:{why}"))
        .collect();
    assert!(failed.is_empty(), "\n{}", failed.join("\n"));
}

#[test]
fn the_protocol_is_as_protocol_md_shows_it() {
    play_all("protocol.md", 25);
}

#[test]
fn the_readme_shows_what_happens() {
    play_all("README.md", 1);
}

#[test]
fn every_command_is_listed_as_its_row_has_it() {
    let document = document("protocol.md");
    let listed: Vec<&str> = document
        .lines()
        .filter_map(|line| line.strip_prefix("- `")?.split_once("` — "))
        .map(|(command, _)| command)
        .collect();
    let rows: Vec<String> = ROWS
        .iter()
        .map(|row| {
            format!("{} {}", row.typed_name(), row.syntax)
                .trim_end()
                .to_owned()
        })
        .collect();
    let missing: Vec<&String> = rows
        .iter()
        .filter(|row| !listed.contains(&row.as_str()))
        .collect();
    assert!(
        missing.is_empty(),
        "protocol.md lacks lines like \"- `{}` — …\": {missing:#?}",
        missing[0]
    );
    let unknown: Vec<&&str> = listed
        .iter()
        .filter(|line| !rows.iter().any(|row| row == *line))
        .collect();
    assert!(
        unknown.is_empty(),
        "protocol.md lists what is in no row: {unknown:#?}"
    );
}

#[test]
fn every_setting_is_listed_with_its_default() {
    let document = document("protocol.md");
    for setting in &SETTINGS {
        let default = match setting.default {
            "" => "empty".to_owned(),
            default => format!("`{default}`"),
        };
        let when = match setting.when {
            When::Always => "any time",
            When::Start => "start",
            When::Never => "fixed",
        };
        let line = format!("| `{}` | {default} | {when} | ", setting.name);
        assert!(
            document.contains(&line),
            "protocol.md lacks a line that begins with {line:?}"
        );
    }
}

/// Rust files beneath `folder`.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => sources(&path, found),
            false => found.push(path),
        }
    }
}

/// The fixed beginnings of the error texts that a file says outside its tests.
fn error_texts(source: &str) -> Vec<String> {
    const CODES: [&str; 7] = [
        "ERR ",
        "EXECABORT ",
        "LOADING ",
        "NOPROTO ",
        "NOSPACE ",
        "WRONGPASS ",
        "WRONGTYPE ",
    ];
    let said = source.split("#[cfg(test)]").next().unwrap_or_default();
    said.split('"')
        .map(|text| text.trim_start_matches('-'))
        .filter(|text| {
            CODES
                .iter()
                .any(|code| text.starts_with(code) && text.len() > code.len())
        })
        .map(|text| {
            text.split(['{', '\\', '\n'])
                .next()
                .unwrap_or_default()
                .trim_end()
                .to_owned()
        })
        .filter(|text| text.len() > "EXECABORT ".len())
        .collect()
}

#[test]
fn every_error_is_told_of() {
    // A bar within a table's cell is escaped.
    let document = document("protocol.md").replace("\\|", "|");
    let mut paths = Vec::new();
    for room in ["node", "command", "store"] {
        sources(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(room),
            &mut paths,
        );
    }
    let mut texts: Vec<String> = paths
        .iter()
        .flat_map(|path| error_texts(&fs::read_to_string(path).unwrap()))
        .collect();
    texts.sort();
    texts.dedup();
    assert!(texts.len() > 50, "the sources say errors: {texts:?}");
    texts.retain(|text| !document.contains(text.as_str()));
    assert!(texts.is_empty(), "protocol.md does not tell of {texts:#?}");
}

#[test]
fn a_transcript_reads_as_the_document_says() {
    let document = "```marline\n> SET a b\n> *1␍\n+OK\nB> GET a\nB>\n…x\n```\n```sh\n> no\n```\n";
    let read = transcripts(document);
    let steps: Vec<_> = read[0]
        .steps
        .iter()
        .map(|step| (step.client, step.typed.as_slice(), step.expected.len()))
        .collect();
    let typed: [(char, &[u8], usize); 2] = [('A', b"SET a b\n*1\r\n", 1), ('B', b"GET a\n", 1)];
    assert_eq!((read.len(), steps.as_slice()), (1, typed.as_slice()));
    assert!(is_as_shown("abcabd", "a…d") && is_as_shown("ab", "a…b…") && is_as_shown("x", "x"));
    assert!(!is_as_shown("abc", "a…d") && !is_as_shown("ab", "a") && !is_as_shown("ab", "b…"));
}

/// The bytes of the block fenced as `hex name`. A line: where it stands, at most 16 bytes, what they mean.
fn hex(name: &str) -> Vec<u8> {
    let fence = format!("```hex {name}");
    let document = document("protocol.md");
    let lines = document.lines().skip_while(|line| *line != fence).skip(1);
    let mut bytes = Vec::new();
    for line in lines.take_while(|line| *line != "```") {
        let (at, rest) = line.split_once("  ").unwrap();
        assert_eq!(usize::from_str_radix(at, 16), Ok(bytes.len()), "{line}");
        let digits = rest.split("  ").next().unwrap();
        bytes.extend(
            digits
                .split(' ')
                .map(|two| u8::from_str_radix(two, 16).unwrap()),
        );
    }
    assert!(!bytes.is_empty(), "protocol.md shows {name}");
    bytes
}

#[test]
fn the_log_that_is_drawn_is_one() {
    const NAME: &str = "wal-0000000000000001";
    let (mut bytes, disk) = (hex(NAME), SimDisk::new(1));
    let header = Header::decode(&bytes, Kind::Segment, NAME).unwrap();
    assert_eq!(header.encode(), bytes[..HEADER_BYTES]);
    assert_eq!((header.key_id, header.number), (0, 1));
    bytes.resize(16 << 20, 0);
    disk.install(NAME, &bytes);

    let mut store = Store::new(HashSeed(1, 2));
    let mut changes = Vec::new();
    let end = replay::replay(&disk, &|_| None, &mut |record| {
        for entry in section::read(record.payload)?
            .iter()
            .flat_map(|section| &section.entries)
        {
            if let Some((_, body)) = section::body(entry.data)? {
                changes.extend_from_slice(body);
            }
        }
        Ok(())
    })
    .unwrap();
    assert_eq!((end.sequence, end.torn), (6, None));
    let (change, used) = encode::decode(&changes).unwrap();
    assert_eq!(
        (used, changes.as_slice()),
        (6, b"\x01\x01k\x00\x01v".as_slice())
    );
    let Change::One(op) = &change else {
        panic!("{change:?}")
    };
    assert!(matches!(op, Op { key: b"k", action: Action::Set(set) } if set.value == b"v"));
    let mut reply = Vec::new();
    let mut reply =
        marline::wire::reply::Reply::new(&mut reply, marline::wire::reply::Dialect::Resp2);
    store.apply(op, 1, &mut reply);
    assert_eq!(store.lookup(b"k", 1).unwrap().value, b"v");
    let mut again = Vec::new();
    encode::encode(&change, &mut again);
    assert_eq!(again, changes);
}

#[test]
fn the_backup_that_is_drawn_is_one() {
    let (bytes, disk) = (hex("backups/one"), SimDisk::new(1));
    assert_eq!(
        Header::decode(&bytes, Kind::Image, "one").unwrap().encode(),
        bytes[..HEADER_BYTES]
    );
    disk.install("one", &bytes);
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let (mut reader, meta) = ImageReader::open(disk, "one", &|_| None).unwrap();
    let meta = Meta::decode(&meta).unwrap();
    let [part] = &meta.parts[..] else {
        panic!("{meta:?}")
    };
    assert_eq!(
        (meta.shards, part.shard, part.applied.index, part.keys),
        (1, 0, 2, 1)
    );
    let mut block = Vec::new();
    assert_eq!(reader.next(&mut block).unwrap(), Some(0));
    let mut store = Store::new(HashSeed(1, 2));
    assert_eq!(store.load(&block, part.applied.at_ms), Ok(1));
    assert_eq!(store.lookup(b"k", 1).unwrap().value, b"v");
    assert_eq!(reader.next(&mut block).unwrap(), None);
}

#[test]
fn the_ring_of_keys_that_is_shown_is_the_golden_one() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/image-1");
    let ring = fs::read_to_string(golden.join("keys")).unwrap();
    assert!(document("protocol.md").contains(&format!("```text\n{ring}```")));
    let ring = KeyRing::open(&RealDisk::open(&golden).unwrap(), "keys").unwrap();
    assert_eq!(ring.active().0, 2);
}
