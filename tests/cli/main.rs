//! `marline cli` against a scripted server: exit codes, output, and the count of `--pipe`.
//!
//! The tool needs a process of its own, with its own stdin, stdout and exit code. That process is this
//! test binary once more: started with [`ARGS`] set, [`the_tool_itself`] becomes the tool.

#![allow(
    clippy::disallowed_methods,
    reason = "a test may look at the clock and start threads"
)]

mod cluster;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;

/// Variable that holds the tool's arguments, separated by [`SEPARATOR`].
const ARGS: &str = "MARLINE_TEST_CLI_ARGS";
const SEPARATOR: &str = "\u{1f}";
/// What the tool's own output begins behind.
const BEGIN: &[u8] = b"\x02begin\x03";

#[test]
fn the_tool_itself() {
    let Ok(joined) = std::env::var(ARGS) else {
        return;
    };
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(BEGIN).expect("stdout");
    stdout.flush().expect("stdout");
    drop(stdout);
    let args: Vec<String> = joined
        .split(SEPARATOR)
        .filter(|arg| !arg.is_empty())
        .map(str::to_owned)
        .collect();
    std::process::exit(match args.split_first() {
        Some((role, rest)) if role == "import" => marline::cli::import::run(rest),
        Some((role, rest)) if role == "backup" => marline::cli::backup::run(rest),
        Some((role, rest)) if role == "leave" => marline::cli::leave::run(rest),
        _ => marline::cli::run(args),
    });
}

/// What became of one run.
#[derive(Debug)]
struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Outcome {
    fn expect(&self, code: i32, stdout: &str, in_stderr: &str) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.stdout, stdout, "{self:?}");
        assert!(self.stderr.contains(in_stderr), "{self:?}");
        if in_stderr.is_empty() {
            assert_eq!(self.stderr, "", "{self:?}");
        }
    }
}

fn tool(port: u16, args: &[&str], stdin: &[u8]) -> Outcome {
    let mut child = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "the_tool_itself", "--nocapture", "--quiet"])
        .env(ARGS, args.join(SEPARATOR))
        .env("MARLINE_PORT", port.to_string())
        .env_remove("MARLINE_HOST")
        .env_remove("MARLINE_PASSWORD_FILE")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a process");
    let mut input = child.stdin.take().expect("piped");
    let bytes = stdin.to_vec();
    let feeding = thread::spawn(move || {
        // The tool may end before it has read everything.
        let _ = input.write_all(&bytes);
    });
    let output = child.wait_with_output().expect("an end");
    feeding.join().expect("fed");
    let begin = output
        .stdout
        .windows(BEGIN.len())
        .position(|window| window == BEGIN)
        .expect("the tool was started");
    Outcome {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout[begin + BEGIN.len()..]).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A server that answers each command with what `answer` says (nothing: it hangs up). Returns its port.
fn server(answer: impl Fn(&[String]) -> Option<Vec<u8>> + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.expect("a client");
            let mut input = BufReader::new(stream.try_clone().expect("a handle"));
            serve(&mut input, stream, &answer);
        }
    });
    port
}

fn serve(
    input: &mut BufReader<TcpStream>,
    mut stream: TcpStream,
    answer: impl Fn(&[String]) -> Option<Vec<u8>>,
) {
    let mut out = Vec::new();
    while let Some(args) = request(input) {
        if !args.is_empty() {
            let Some(reply) = answer(&args) else {
                break;
            };
            out.extend_from_slice(&reply);
        }
        if input.buffer().is_empty() || out.len() > 60_000 {
            if stream.write_all(&out).is_err() {
                return;
            }
            out.clear();
        }
    }
    let _ = stream.write_all(&out);
    // What the client still sends is read, or it would see a reset before the last replies.
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = std::io::copy(input, &mut std::io::sink());
}

/// The next request, inline or RESP; `None` at the end.
fn request(input: &mut BufReader<TcpStream>) -> Option<Vec<String>> {
    let first = line(input)?;
    let Some(count) = first.strip_prefix('*') else {
        return Some(first.split_whitespace().map(str::to_owned).collect());
    };
    (0..count.parse::<usize>().ok()?)
        .map(|_| {
            let length: usize = line(input)?.strip_prefix('$')?.parse().ok()?;
            let mut text = vec![0; length + 2];
            input.read_exact(&mut text).ok()?;
            text.truncate(length);
            Some(String::from_utf8_lossy(&text).into_owned())
        })
        .collect()
}

fn line(input: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = String::new();
    (input.read_line(&mut line).ok()? > 0).then(|| line.trim_end().to_owned())
}

/// A little Redis; `hang` makes it hang up, `late` makes it say nothing.
fn redis(args: &[String]) -> Option<Vec<u8>> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let reply = match args.as_slice() {
        ["get", "k"] => "$8\r\na\r\n\tb\0c\n\r\n".to_owned(),
        ["get", _] => "$-1\r\n".to_owned(),
        ["set" | "SET", ..] => "+OK\r\n".to_owned(),
        ["mget", ..] => "*3\r\n$1\r\na\r\n$-1\r\n*1\r\n:7\r\n".to_owned(),
        ["incr", _] => ":1\r\n".to_owned(),
        ["hang"] => return None,
        ["late"] => String::new(),
        ["subscribe", _] => "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n\
             *3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\nhi\r\n"
            .to_owned(),
        ["AUTH", "me", "secret"] => "+OK\r\n".to_owned(),
        ["AUTH", ..] => "-WRONGPASS no\r\n".to_owned(),
        ["HELLO", "JSON"] => "{\"proto\":\"json\"}\n".to_owned(),
        ["json", text] => format!("{text}\n"),
        ["echo" | "ECHO", text] => format!("${}\r\n{text}\r\n", text.len()),
        [verb, ..] => format!("-ERR unknown command '{verb}'\r\n"),
        [] => String::new(),
    };
    Some(reply.into_bytes())
}

#[test]
fn one_command_tells_by_its_exit_code() {
    let port = server(redis);
    tool(port, &["get", "k"], b"").expect(0, "a\r\n\tb\0c\n", "");
    tool(port, &["-r", "2", "get", "k"], b"").expect(0, "a\r\n\tb\0c\n\na\r\n\tb\0c\n\n", "");
    tool(port, &["get", "none"], b"").expect(3, "", "");
    tool(port, &["set", "k", "v"], b"").expect(0, "OK\n", "");
    tool(port, &["incr", "-5"], b"").expect(0, "1\n", "");
    tool(port, &["mget", "a"], b"").expect(0, "a\n\n7\n", "");
    let formatted = "1) \"a\"\n2) (nil)\n3) 1) (integer) 7\n";
    tool(port, &["--no-raw", "mget", "a"], b"").expect(0, formatted, "");
    tool(port, &["bogus"], b"").expect(1, "", "ERR unknown command 'bogus'\n");
}

#[test]
fn the_last_argument_can_come_from_stdin() {
    let port = server(redis);
    tool(port, &["echo", "-"], b"from stdin\n").expect(0, "from stdin\n\n", "");
    tool(port, &["-x", "echo"], b"").expect(0, "\n", "");
}

#[test]
fn what_goes_wrong_before_the_reply() {
    let port = server(redis);
    for args in [
        &["--bogus"][..],
        &["-p", "x", "ping"],
        &["-x"],
        &["--pipe", "ping"],
    ] {
        tool(port, args, b"").expect(2, "", "--help");
    }
    let help = tool(port, &["--help"], b"");
    assert_eq!(help.code, Some(0));
    assert!(help.stdout.contains("Exit codes"), "{help:?}");

    let closed = TcpListener::bind("127.0.0.1:0").expect("a port");
    let nobody = closed.local_addr().expect("bound").port();
    drop(closed);
    let told = format!("cannot connect to 127.0.0.1:{nobody}");
    tool(nobody, &["ping"], b"").expect(4, "", &told);
    tool(nobody, &[], b"ping\n").expect(4, "", "-p PORT");
    tool(nobody, &["--pipe"], b"ping\n").expect(4, "", "MARLINE_PORT");

    tool(port, &["hang"], b"").expect(4, "", "closed the connection");
    tool(port, &["--timeout", "0.2", "late"], b"").expect(4, "", "within 0.2 s");
}

#[test]
fn passwords_come_from_files() {
    let port = server(redis);
    let file = std::env::temp_dir().join(format!("marline-cli-test-{}", std::process::id()));
    let path = file.to_str().expect("readable");
    std::fs::write(&file, "secret\n").expect("a file");
    let named = ["--user", "me", "--pass-file", path, "incr", "a"];
    tool(port, &named, b"").expect(0, "1\n", "");
    tool(port, &named[2..], b"").expect(1, "", "WRONGPASS");
    std::fs::remove_file(&file).expect("removed");
    tool(port, &named, b"").expect(2, "", "cannot read");
}

#[test]
fn lines_of_stdin_are_answered_in_order() {
    let port = server(redis);
    let script =
        b"set k 1\n# a comment\n\nincr k\nget none\nbogus\nset \"open\necho 'a b'\nquit\nincr k";
    let outcome = tool(port, &[], script);
    outcome.expect(
        1,
        "OK\n1\n\na b\n",
        "line 6: ERR unknown command 'bogus'\nline 7: unbalanced quotes\n",
    );
    tool(port, &[], b"incr a\necho last").expect(0, "1\nlast\n", "");
    tool(port, &[], b"incr a\nhang\nincr a\n").expect(4, "1\n", "closed the connection");
    let many = "incr a\n".repeat(50_000);
    tool(port, &[], many.as_bytes()).expect(0, &"1\n".repeat(50_000), "");
}

#[test]
fn streams_go_on_until_the_server_ends_them() {
    let port = server(redis);
    let script = b"subscribe c\nhang\n";
    let streamed = "subscribe\nc\n1\nmessage\nc\nhi\n";
    tool(port, &[], script).expect(0, streamed, "");
    let after_error = b"bogus\nsubscribe c\nhang\n";
    tool(port, &[], after_error).expect(1, streamed, "line 1: ERR unknown");
}

#[test]
fn json_is_one_value_a_line() {
    let port = server(redis);
    let value = "[1,{\"a\":null}]";
    tool(port, &["--json", "json", value], b"").expect(0, &format!("{value}\n"), "");
    tool(port, &["--json", "json", "null"], b"").expect(3, "null\n", "");
    let error = "{\"error\":\"ERR no\"}";
    tool(port, &["--json", "json", error], b"").expect(1, &format!("{error}\n"), "");
    let old = server(|_| Some(b"-ERR Protocol version is not an integer\r\n".to_vec()));
    tool(old, &["--json", "incr", "a"], b"").expect(1, "", "refused HELLO JSON");
}

fn summary(outcome: &Outcome) -> &str {
    outcome.stdout.lines().last().unwrap_or_default()
}

#[test]
fn pipe_counts_one_reply_for_each_command() {
    let port = server(redis);
    let resp = "*2\r\n$4\r\nincr\r\n$1\r\na\r\n";
    let fine = "SET key value\r\n".repeat(100_000) + resp + "incr a";
    let outcome = tool(port, &["--pipe"], fine.as_bytes());
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(summary(&outcome), "errors: 0, replies: 100002");
    assert!(outcome.stdout.starts_with("All data transferred."));
    assert_eq!(outcome.stderr, "");

    let empty = tool(port, &["--pipe"], b"");
    assert_eq!(empty.code, Some(0));
    assert_eq!(summary(&empty), "errors: 0, replies: 0");
}

#[test]
fn pipe_shows_the_first_errors_with_their_numbers() {
    let port = server(redis);
    let outcome = tool(port, &["--pipe"], b"incr a\nbogus\nincr a\nworse\nincr a\n");
    assert_eq!(outcome.code, Some(1));
    assert_eq!(summary(&outcome), "errors: 2, replies: 5");
    assert_eq!(
        outcome.stderr,
        "reply 2: ERR unknown command 'bogus'\nreply 4: ERR unknown command 'worse'\n"
    );
    let many = tool(port, &["--pipe"], "bogus\n".repeat(1000).as_bytes());
    assert_eq!(many.code, Some(1));
    assert_eq!(summary(&many), "errors: 1000, replies: 1000");
    assert_eq!(many.stderr.lines().count(), 6, "{many:?}");
    assert!(many.stderr.ends_with("and 995 errors more\n"), "{many:?}");
}

#[test]
fn pipe_tells_when_replies_are_missing() {
    let port = server(redis);
    let outcome = tool(port, &["--pipe"], b"incr a\nhang\nincr a\n");
    assert_eq!(outcome.code, Some(4));
    assert_eq!(summary(&outcome), "errors: 0, replies: 1");
    assert!(!outcome.stdout.contains("All data"), "{outcome:?}");

    let cut = b"*2\r\n$4\r\nincr\r\n$100\r\nab";
    let outcome = tool(port, &["--timeout", "0.3", "--pipe"], cut);
    assert_eq!(outcome.code, Some(4), "{outcome:?}");
    assert_eq!(summary(&outcome), "errors: 0, replies: 0");
    assert!(outcome.stderr.contains("is the last command whole"));
}

/// A dump in a file of its own, which is removed again.
struct Dump(std::path::PathBuf);

impl Dump {
    fn new(name: &str, bytes: &[u8]) -> Dump {
        let path = std::env::temp_dir().join(format!("marline-{name}-{}", std::process::id()));
        std::fs::write(&path, bytes).expect("a file");
        Dump(path)
    }

    fn import(&self, port: u16, args: &[&str]) -> Outcome {
        let path = self.0.to_str().expect("readable");
        tool(port, &[&["import"], args, &[path]].concat(), b"")
    }
}

impl Drop for Dump {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Strings one of which expired in 1970 and one expires in the year 5138, a list, a key of database 3.
const DUMP: &[u8] = b"REDIS0010\xfe\x00\x00\x01a\x011\x00\x06exists\xc0\x05\
    \xfc\x01\x00\x00\x00\x00\x00\x00\x00\x00\x03old\x01x\
    \xfc\x00\x40\x7a\x10\xf3\x5a\x00\x00\x00\x05later\x00\
    \x01\x01l\x01\x01e\x00\x07refused\x01x\xfe\x03\x00\x01b\x01x\xff\0\0\0\0\0\0\0\0";

#[test]
fn a_dump_is_imported() {
    let port = server(|args| {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let reply = match args.as_slice() {
            ["SET", "a", "1"] | ["SET", "exists", "5"] | ["SET", "a", "1", "NX"] => "+OK\r\n",
            ["SET", "later", "", "PXAT", "100000000000000"] => "+OK\r\n",
            ["SET", "later", "", "PXAT", "100000000000000", "NX"] => "+OK\r\n",
            ["SET", "exists", "5", "NX"] => "$-1\r\n",
            ["SET", "refused", "x", ..] => "-OOM no room\r\n",
            _ => "-ERR not expected\r\n",
        };
        Some(reply.as_bytes().to_vec())
    });
    let dump = Dump::new("import", DUMP);
    let skipped = "skipped 1: key of database 3\nskipped 1: list\n";
    dump.import(port, &[]).expect(
        1,
        &format!("{skipped}imported: 3, expired: 1, existing: 0, refused: 1, skipped: 2\n"),
        "refused: \"refused\": OOM no room\n",
    );
    dump.import(port, &["--no-overwrite"]).expect(
        1,
        &format!("{skipped}imported: 2, expired: 1, existing: 1, refused: 1, skipped: 2\n"),
        "OOM no room",
    );
}

#[test]
fn many_keys_are_imported_in_batches() {
    let mut bytes = b"REDIS0010".to_vec();
    for number in 0..25_000u32 {
        bytes.extend([b"\x00\xc2".as_slice(), &number.to_le_bytes(), b"\xc0\x07"].concat());
    }
    bytes.extend(b"\x00\x03big\x80\x00\x10\x00\x00");
    bytes.extend(vec![b'x'; 1 << 20]);
    bytes.extend(b"\xff\0\0\0\0\0\0\0\0");
    let dump = Dump::new("import-many", &bytes);
    let summary = "imported: 25001, expired: 0, existing: 0, refused: 0, skipped: 0\n";
    dump.import(server(redis), &[]).expect(0, summary, "");
    let errors = server(|_| Some(format!("-ERR {}\r\n", "no ".repeat(30)).into_bytes()));
    let refused = "imported: 0, expired: 0, existing: 0, refused: 25001, skipped: 0\n";
    dump.import(errors, &[])
        .expect(1, refused, "and 24996 more\n");
}

#[test]
fn nothing_of_a_damaged_dump_is_sent() {
    let port = server(|_| panic!("nothing is sent"));
    let cut = Dump::new("import-cut", &DUMP[..DUMP.len() - 20]);
    let place = format!("at byte {}: the file ends here", DUMP.len() - 20);
    cut.import(port, &[]).expect(1, "", &place);
    let mut changed = DUMP.to_vec();
    *changed.last_mut().expect("bytes") = 1;
    let changed = Dump::new("import-changed", &changed);
    changed
        .import(port, &[])
        .expect(1, "", "the checksum does not fit");
    let other = Dump::new("import-other", b"SET a 1\nSET b 2\n");
    other.import(port, &[]).expect(1, "", "not a dump of Redis");
    tool(port, &["import", "/no/such/dump"], b"").expect(1, "", "cannot open /no/such/dump");
    tool(port, &["import"], b"").expect(2, "", "marline import --help");
    let help = tool(port, &["import", "--help"], b"");
    assert!(
        help.code == Some(0) && help.stdout.contains("--no-overwrite"),
        "{help:?}"
    );
}

#[test]
fn an_import_tells_when_the_node_goes_away() {
    let dump = Dump::new("import-hang", DUMP);
    let hang = server(|_| None);
    let summary = "skipped 1: key of database 3\nskipped 1: list\n\
                   imported: 0, expired: 1, existing: 0, refused: 0, skipped: 2\n";
    dump.import(hang, &[])
        .expect(4, summary, "closed the connection");
    let late = server(|_| Some(Vec::new()));
    dump.import(late, &["--timeout", "0.2"])
        .expect(4, summary, "within 0.2 s");
}

/// A directory that backups are written to, and what there is to fetch.
struct Fetching {
    home: std::path::PathBuf,
    image: Vec<u8>,
}

impl Fetching {
    fn new(name: &str) -> Fetching {
        let home = std::env::temp_dir().join(format!("marline-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&home);
        std::fs::create_dir(&home).expect("a directory");
        let golden = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/golden/image-1/sealed.image"
        );
        let image = std::fs::read(golden).expect("an image");
        Fetching { home, image }
    }

    /// A node that gives `image` in pieces of 100 bytes, and tells on the channel what it was asked.
    fn node(&self, image: &[u8]) -> (u16, mpsc::Receiver<String>) {
        let (told, asked) = mpsc::channel();
        let told = std::sync::Mutex::new(told);
        let image = image.to_vec();
        let port = server(move |args| {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let told = told.lock().expect("one at a time");
            let _ = told.send(args.join(" "));
            match args.as_slice() {
                ["BACKUP", "READ", _, offset, "1048576"] => {
                    let rest = &image[offset.parse::<usize>().expect("a number")..];
                    let piece = &rest[..rest.len().min(100)];
                    let head = format!("${}\r\n", piece.len());
                    Some([head.as_bytes(), piece, b"\r\n"].concat())
                }
                _ => Some(b"+OK\r\n".to_vec()),
            }
        });
        (port, asked)
    }

    fn run(&self, port: u16, args: &[&str]) -> Outcome {
        let node = format!("127.0.0.1:{port}");
        let file = self.home.join("file");
        let file = file.to_str().expect("readable");
        tool(1, &[&["backup"], args, &[&node, file]].concat(), b"")
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.home).expect("a directory");
        let name = |entry: std::io::Result<std::fs::DirEntry>| entry.expect("an entry").file_name();
        entries
            .map(|entry| name(entry).to_string_lossy().into_owned())
            .collect()
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.home);
    }
}

#[test]
fn a_backup_is_fetched() {
    let fetching = Fetching::new("backup-fetched");
    // What an earlier run left behind.
    std::fs::write(fetching.home.join("file.tmp"), [b'x'; 9000]).expect("a file");
    let (port, asked) = fetching.node(&fetching.image);
    let outcome = fetching.run(port, &[]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(
        outcome.stdout.contains("440 bytes, sealed with key 2, "),
        "{outcome:?}"
    );
    assert_eq!(fetching.names(), ["file"]);
    let fetched = std::fs::read(fetching.home.join("file")).expect("a file");
    assert_eq!(fetched, fetching.image);
    let asked: Vec<String> = asked.try_iter().collect();
    let name = asked[0].strip_prefix("BACKUP ").expect("a backup is made");
    assert_eq!(asked.len(), 1 + 6 + 1, "{asked:?}");
    assert_eq!(asked[3], format!("BACKUP READ {name} 200 1048576"));
    assert_eq!(asked[7], format!("BACKUP REMOVE {name}"));

    // There it is, and it is never replaced.
    let outcome = fetching.run(port, &[]);
    outcome.expect(1, "", "is there already");
}

#[test]
fn nothing_is_left_of_a_backup_that_fails() {
    let fetching = Fetching::new("backup-fails");
    let mut changed = fetching.image.clone();
    changed[300] ^= 1;
    let (port, asked) = fetching.node(&changed);
    (fetching.run(port, &[])).expect(1, "", "what came is damaged: file.tmp at byte");
    assert_eq!(fetching.names().len(), 0);
    assert!(
        asked
            .try_iter()
            .any(|asked| asked.starts_with("BACKUP REMOVE")),
        "the node needs it no more"
    );

    let refusing = server(|_| Some(b"-ERR there are no files\r\n".to_vec()));
    let outcome = fetching.run(refusing, &[]);
    outcome.expect(1, "", "refused BACKUP: ERR there are no files");
    assert!(
        !outcome.stderr.contains("its copy"),
        "it has none: {outcome:?}"
    );

    let hangs_up = server(|args| match args[1].as_str() {
        "READ" => None,
        _ => Some(b"+OK\r\n".to_vec()),
    });
    (fetching.run(hangs_up, &[])).expect(
        4,
        "",
        "may have kept its copy: marline cli backup remove",
    );
    let silent = server(|args| match args[1].as_str() {
        "READ" => Some(Vec::new()),
        _ => Some(b"+OK\r\n".to_vec()),
    });
    (fetching.run(silent, &["--timeout", "0.2"])).expect(4, "", "within 0.2 s");
    fetching.run(1, &[]).expect(4, "", "cannot connect");
    assert_eq!(fetching.names().len(), 0);
    tool(1, &["backup", "127.0.0.1:1", "/no/such/file"], b"").expect(1, "", "no such directory");
    tool(1, &["backup"], b"").expect(2, "", "marline backup --help");
    let help = tool(1, &["backup", "--help"], b"");
    assert!(
        help.code == Some(0) && help.stdout.contains("--verify"),
        "{help:?}"
    );
}
