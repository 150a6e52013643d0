//! The command lines of `marline cli`, `marline import`, `marline backup` and `marline leave`: from arguments and
//! environment to [`Options`].
//!
//! Options end at the first word that is none: everything from there on belongs to the command, so
//! `marline cli incrby k -5` needs no quoting. No option takes a secret; a password comes from a file.

mod texts;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use getopts::{Matches, ParsingStyle};

use crate::wire::number::{parse_i64, parse_u64};

use texts::{
    BACKUP_BRIEF, BACKUP_NOTES, BRIEF, IMPORT_BRIEF, IMPORT_NOTES, LEAVE_BRIEF, LEAVE_NOTES, NOTES,
};

const DEFAULT_HOST: &str = "127.0.0.1";
const DEFAULT_PORT: u16 = 8001;
/// An interval or a patience beyond a year is a slip of the finger.
const SECONDS_MAX: f64 = 366.0 * 86_400.0;

/// What was asked for.
#[derive(Debug)]
pub(super) enum Parsed {
    /// This text on stdout.
    Help(String),
    /// To talk to a node.
    Run(Box<Options>),
}

/// Everything that the command line and the environment say.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) user: Option<String>,
    pub(super) password_file: Option<PathBuf>,
    pub(super) mode: Mode,
    /// `None`: as fits stdout.
    pub(super) raw: Option<bool>,
    pub(super) json: bool,
    /// How long to wait for the connection and for each reply; `None`: the defaults of each.
    pub(super) timeout: Option<Duration>,
}

impl fmt::Display for Options {
    /// The address of the node, as it is typed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl Options {
    /// The node is the one that is named without an option, if one is.
    fn name_node(&mut self, node: Option<(String, u16)>, matches: &Matches) -> Result<(), String> {
        if let Some((host, port)) = node {
            if matches.opt_present("h") || matches.opt_present("p") {
                return Err("HOST:PORT and -h or -p exclude each other".to_owned());
            }
            (self.host, self.port) = (host, port);
        }
        Ok(())
    }
}

/// The ways to run.
#[derive(Debug)]
pub(super) enum Mode {
    /// One command from the arguments.
    Once(Once),
    /// stdin, as fast as it goes.
    Pipe,
    /// The shell, or the lines of stdin.
    Session,
    /// A dump of Redis.
    Import(Import),
    /// A backup.
    Backup(Backup),
    /// How the cluster is.
    Cluster(Cluster),
    /// A node that is to leave its cluster.
    Leave(Leave),
}

/// How the cluster is shown, and how often.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cluster {
    /// As JSON. The connections themselves are in RESP.
    pub(super) json: bool,
    /// `None`: once.
    pub(super) interval: Option<Duration>,
}

/// How a leaving is followed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Leave {
    /// How long; `None`: until the node has left.
    pub(super) patience: Option<Duration>,
}

/// Where a backup is to be written.
#[derive(Debug)]
pub(super) struct Backup {
    pub(super) file: PathBuf,
}

/// Which dump, and how.
#[derive(Debug)]
pub(super) struct Import {
    pub(super) file: PathBuf,
    /// Keys that are there stay as they are.
    pub(super) keep_existing: bool,
}

/// One command and how often.
#[derive(Debug)]
pub(super) struct Once {
    pub(super) args: Vec<String>,
    /// stdin is the last argument.
    pub(super) stdin_last: bool,
    /// `None`: until interrupted.
    pub(super) times: Option<u64>,
    pub(super) interval: Duration,
}

/// Reads the arguments after `marline cli`; `environment` looks a variable up.
///
/// # Errors
/// A text for stderr.
pub(super) fn parse(
    args: &[String],
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Parsed, String> {
    let grammar = grammar();
    let matches = grammar.parse(args).map_err(|error| error.to_string())?;
    if matches.opt_present("help") {
        return Ok(Parsed::Help(grammar.usage(BRIEF) + NOTES));
    }
    let raw = match (matches.opt_present("raw"), matches.opt_present("no-raw")) {
        (true, true) => return Err("--raw and --no-raw exclude each other".to_owned()),
        (false, false) => None,
        (raw, _) => Some(raw),
    };
    let mut options = connection(&matches, environment, mode(&matches)?)?;
    options.raw = raw;
    options.json = matches.opt_present("json");
    check(&options)?;
    if let Mode::Cluster(shown) = &mut options.mode {
        shown.json = std::mem::take(&mut options.json);
    }
    Ok(Parsed::Run(Box::new(options)))
}

/// Reads the arguments after `marline import`, as [`parse`] does those of `marline cli`.
///
/// # Errors
/// A text for stderr.
pub(super) fn parse_import(
    args: &[String],
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Parsed, String> {
    let mut grammar = connection_grammar();
    grammar.optflag("", "no-overwrite", "leave keys that exist as they are");
    let matches = grammar.parse(args).map_err(|error| error.to_string())?;
    if matches.opt_present("help") {
        return Ok(Parsed::Help(grammar.usage(IMPORT_BRIEF) + IMPORT_NOTES));
    }
    let [file] = matches.free.as_slice() else {
        return Err("it takes the name of one file".to_owned());
    };
    let import = Import {
        file: PathBuf::from(file),
        keep_existing: matches.opt_present("no-overwrite"),
    };
    let options = connection(&matches, environment, Mode::Import(import))?;
    check(&options)?;
    Ok(Parsed::Run(Box::new(options)))
}

/// Reads the arguments after `marline backup`, as [`parse`] does those of `marline cli`.
///
/// # Errors
/// A text for stderr.
pub(super) fn parse_backup(
    args: &[String],
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Parsed, String> {
    let grammar = connection_grammar();
    let matches = grammar.parse(args).map_err(|error| error.to_string())?;
    if matches.opt_present("help") {
        return Ok(Parsed::Help(grammar.usage(BACKUP_BRIEF) + BACKUP_NOTES));
    }
    let (node, file) = match matches.free.as_slice() {
        [file] => (None, file),
        [node, file] => (Some(address(node)?), file),
        _ => return Err("it takes the address of a node and the name of a file".to_owned()),
    };
    let file = PathBuf::from(file);
    let mut options = connection(&matches, environment, Mode::Backup(Backup { file }))?;
    options.name_node(node, &matches)?;
    check(&options)?;
    Ok(Parsed::Run(Box::new(options)))
}

/// Reads the arguments after `marline leave`, as [`parse`] does those of `marline cli`.
///
/// # Errors
/// A text for stderr.
pub(super) fn parse_leave(
    args: &[String],
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Parsed, String> {
    let mut grammar = connection_grammar();
    grammar.optopt(
        "",
        "wait",
        "follow so long (default: to the end)",
        "SECONDS",
    );
    let matches = grammar.parse(args).map_err(|error| error.to_string())?;
    if matches.opt_present("help") {
        return Ok(Parsed::Help(grammar.usage(LEAVE_BRIEF) + LEAVE_NOTES));
    }
    let node = match matches.free.as_slice() {
        [] => None,
        [node] => Some(address(node)?),
        _ => return Err("it takes the address of one node".to_owned()),
    };
    let patience = seconds(&matches, "wait")?;
    let mut options = connection(&matches, environment, Mode::Leave(Leave { patience }))?;
    options.name_node(node, &matches)?;
    check(&options)?;
    Ok(Parsed::Run(Box::new(options)))
}

/// `HOST:PORT`, or `[HOST]:PORT` for a host with colons.
fn address(text: &str) -> Result<(String, u16), String> {
    let wrong = || format!("'{text}' is no address: it is HOST:PORT, as in 127.0.0.1:8001");
    let (host, digits) = text.rsplit_once(':').ok_or_else(wrong)?;
    let inner = (host.strip_prefix('[')).and_then(|host| host.strip_suffix(']'));
    let host = inner.unwrap_or(host);
    if host.is_empty() || inner.is_none() && host.contains(':') {
        return Err(wrong());
    }
    Ok((host.to_owned(), port(digits)?))
}

/// The options that say which node, and as whom.
fn connection(
    matches: &Matches,
    environment: impl Fn(&str) -> Option<String>,
    mode: Mode,
) -> Result<Options, String> {
    let environment = |name: &str| environment(name).filter(|value| !value.is_empty());
    let port = match matches.opt_str("p").or_else(|| environment("MARLINE_PORT")) {
        None => DEFAULT_PORT,
        Some(text) => port(&text)?,
    };
    Ok(Options {
        host: matches
            .opt_str("h")
            .or_else(|| environment("MARLINE_HOST"))
            .unwrap_or_else(|| DEFAULT_HOST.to_owned()),
        port,
        user: matches.opt_str("user"),
        password_file: matches
            .opt_str("pass-file")
            .or_else(|| environment("MARLINE_PASSWORD_FILE"))
            .map(PathBuf::from),
        mode,
        raw: None,
        json: false,
        timeout: seconds(matches, "timeout")?,
    })
}

fn connection_grammar() -> getopts::Options {
    let mut grammar = getopts::Options::new();
    grammar
        .optopt("h", "host", "node to talk to (default 127.0.0.1)", "HOST")
        .optopt("p", "port", "its port (default 8001)", "PORT")
        .optopt("", "user", "user to authenticate as", "NAME")
        .optopt("", "pass-file", "file that holds the password", "FILE")
        .optopt("", "timeout", "give up after so many seconds", "SECONDS")
        .optflag("", "help", "print this text");
    grammar
}

fn grammar() -> getopts::Options {
    let mut grammar = connection_grammar();
    grammar
        .parsing_style(ParsingStyle::StopAtFirstFree)
        .optflag("", "pipe", "send stdin as it is, count the replies")
        .optflag("", "cluster", "how the cluster of the node is")
        .optflag("", "json", "replies as JSON, one value a line")
        .optflag("", "raw", "plain output, also on a terminal")
        .optflag("", "no-raw", "formatted output, also elsewhere")
        .optflag("x", "", "take the last argument from stdin")
        .optopt("r", "", "run the command N times (-1: forever)", "N")
        .optopt(
            "i",
            "",
            "wait between the runs of -r or --cluster",
            "SECONDS",
        );
    grammar
}

fn mode(matches: &Matches) -> Result<Mode, String> {
    let mut args = matches.free.clone();
    let pipe = matches.opt_present("pipe");
    if matches.opt_present("cluster") {
        if !args.is_empty() || ["pipe", "x", "r"].iter().any(|it| matches.opt_present(it)) {
            return Err("--cluster goes without a command, --pipe, -x and -r".to_owned());
        }
        let (json, interval) = (false, seconds(matches, "i")?);
        return Ok(Mode::Cluster(Cluster { json, interval }));
    }
    let one_only = ["x", "r", "i"]
        .into_iter()
        .find(|name| matches.opt_present(name));
    if args.is_empty() || pipe {
        return match (one_only, args.is_empty()) {
            (Some(name), _) => Err(format!("-{name} needs a command")),
            (None, false) => Err("--pipe takes its commands from stdin, not from here".to_owned()),
            (None, true) if pipe => Ok(Mode::Pipe),
            (None, true) => Ok(Mode::Session),
        };
    }
    let mut stdin_last = matches.opt_present("x");
    if args.len() > 1 && args.last().is_some_and(|last| last == "-") {
        args.pop();
        stdin_last = true;
    }
    let times = match matches.opt_str("r") {
        None => Some(1),
        Some(text) => match parse_i64(text.as_bytes()) {
            Some(-1) => None,
            Some(times) if times > 0 => Some(times.unsigned_abs()),
            _ => return Err(format!("-r: '{text}' is neither a count nor -1")),
        },
    };
    Ok(Mode::Once(Once {
        args,
        stdin_last,
        times,
        interval: seconds(matches, "i")?.unwrap_or_default(),
    }))
}

fn check(options: &Options) -> Result<(), String> {
    if options.user.is_some() && options.password_file.is_none() {
        return Err("--user needs --pass-file or MARLINE_PASSWORD_FILE".to_owned());
    }
    if options.json && options.raw == Some(false) {
        return Err("--json and --no-raw exclude each other".to_owned());
    }
    if options.json && matches!(options.mode, Mode::Pipe) {
        return Err("--pipe prints no replies: --json has no meaning there".to_owned());
    }
    Ok(())
}

fn port(text: &str) -> Result<u16, String> {
    parse_u64(text.as_bytes())
        .and_then(|port| u16::try_from(port).ok())
        .filter(|&port| port != 0)
        .ok_or_else(|| format!("'{text}' is no port: a number from 1 to 65535"))
}

fn seconds(matches: &Matches, name: &str) -> Result<Option<Duration>, String> {
    let Some(text) = matches.opt_str(name) else {
        return Ok(None);
    };
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= SECONDS_MAX => {
            Ok(Some(Duration::from_secs_f64(seconds)))
        }
        _ => Err(format!("'{text}' is no number of seconds")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str, variables: &[(&str, &str)]) -> Result<Parsed, String> {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(&args, |name| {
            let found = variables.iter().find(|(known, _)| *known == name)?;
            Some(found.1.to_owned())
        })
    }

    fn options(line: &str, variables: &[(&str, &str)]) -> Options {
        match parsed(line, variables) {
            Ok(Parsed::Run(options)) => *options,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_command_line_wins_over_the_environment() {
        let variables = [("MARLINE_HOST", "db"), ("MARLINE_PORT", "9000")];
        let both = options("", &variables);
        assert_eq!((both.host.as_str(), both.port), ("db", 9000));
        let given = options("-h ::1 -p 7000", &variables);
        assert_eq!((given.host.as_str(), given.port), ("::1", 7000));
        let neither = options("", &[("MARLINE_HOST", "")]);
        assert_eq!((neither.host.as_str(), neither.port), ("127.0.0.1", 8001));
    }

    #[test]
    fn the_command_begins_at_the_first_free_word() {
        let Mode::Once(once) = options("-p 1 incrby k -5 --json", &[]).mode else {
            panic!("one command");
        };
        assert_eq!(once.args, ["incrby", "k", "-5", "--json"]);
        assert_eq!((once.times, once.stdin_last), (Some(1), false));
        let Mode::Once(once) = options("-r -1 -i 0.5 set k -", &[]).mode else {
            panic!("one command");
        };
        assert_eq!(
            (once.args, once.times),
            (vec!["set".to_owned(), "k".to_owned()], None)
        );
        assert!(once.stdin_last);
        assert_eq!(once.interval, Duration::from_millis(500));
    }

    #[test]
    fn a_backup_is_of_the_node_that_is_named() {
        for (line, shown) in [
            ("f", "127.0.0.1:9000"),
            ("-h db f", "db:9000"),
            ("db:7 f", "db:7"),
            ("[::1]:7 f", "[::1]:7"),
        ] {
            let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            let environment = |name: &str| (name == "MARLINE_PORT").then(|| "9000".to_owned());
            match parse_backup(&args, environment) {
                Ok(Parsed::Run(options)) => assert_eq!(options.to_string(), shown, "{line}"),
                other => panic!("{line}: {other:?}"),
            }
        }
    }

    #[test]
    fn the_cluster_is_shown_once_or_again_and_again() {
        let once = options("--cluster -p 7 --json", &[]);
        let (json, interval) = (true, None);
        assert!(matches!(once.mode, Mode::Cluster(shown) if shown == Cluster { json, interval }));
        assert!(!once.json, "the connections are in RESP");
        let again = options("--cluster -i 2", &[]);
        let (json, interval) = (false, Some(Duration::from_secs(2)));
        assert!(matches!(again.mode, Mode::Cluster(shown) if shown == Cluster { json, interval }));
    }

    #[test]
    fn a_leaving_is_followed_to_its_end_or_for_a_while() {
        for (line, node, wait) in [
            ("", "127.0.0.1:9000", None),
            ("db:7 --wait 1.5", "db:7", Some(1500)),
            ("-h db --wait 60", "db:9000", Some(60_000)),
        ] {
            let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            let environment = |name: &str| (name == "MARLINE_PORT").then(|| "9000".to_owned());
            let Ok(Parsed::Run(options)) = parse_leave(&args, environment) else {
                panic!("{line}");
            };
            assert_eq!(options.to_string(), node, "{line}");
            let patience = wait.map(Duration::from_millis);
            assert!(matches!(options.mode, Mode::Leave(leave) if leave == Leave { patience }));
        }
        for line in ["a:1 b:2", "a", "-p 1 a:1", "--wait 0", "--json"] {
            let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            assert!(parse_leave(&args, |_| None).is_err(), "{line}");
        }
    }

    #[test]
    fn slips_are_told() {
        for line in [
            "-p 0",
            "-p 65536",
            "-p x",
            "-x",
            "-r 0 ping",
            "-r 3",
            "-i x ping",
            "--timeout -1 ping",
            "--pipe ping",
            "--pipe --json",
            "--cluster ping",
            "--cluster --pipe",
            "--cluster -r 3",
            "--cluster --json --no-raw",
            "--raw --no-raw ping",
            "--json --no-raw ping",
            "--user me ping",
            "--pass secret",
            "-h",
        ] {
            assert!(parsed(line, &[]).is_err(), "{line}");
        }
        assert!(parsed("ping", &[("MARLINE_PORT", "x")]).is_err());
        for line in ["", "a b", "-p 0 a", "--json a", "--user me a"] {
            let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            assert!(parse_import(&args, |_| None).is_err(), "{line}");
        }
        for line in [
            "",
            "a b c",
            "db f",
            ":1 f",
            "db:0 f",
            "::1:7 f",
            "-p 1 db:1 f",
            "--pipe f",
        ] {
            let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            assert!(parse_backup(&args, |_| None).is_err(), "{line}");
        }
        assert!(matches!(parsed("--help", &[]), Ok(Parsed::Help(text)) if text.contains("Exit")));
    }
}
