//! The table of options. Names, where Redis has the same thing, are Redis's.

use super::REPLICAS_MAX;

/// One option.
#[derive(Debug)]
pub struct Setting {
    /// Its name: `--name` as a flag, `MARLINE_NAME` in the environment, `name value` in the file.
    pub name: &'static str,
    /// Its value when nobody says otherwise.
    pub default: &'static str,
    /// What a value looks like.
    pub form: Form,
    /// When it may be set.
    pub when: When,
    /// What it is for.
    pub help: &'static str,
}

/// What a value looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `yes` or `no`; as a flag, its presence means yes.
    YesNo,
    /// A whole number within the bounds, both included.
    Integer(i64, i64),
    /// As `Integer`, or nothing.
    OptionalInteger(i64, i64),
    /// A number of bytes within the bounds, with an optional unit (`k kb m mb g gb`).
    Bytes(u64, u64),
    /// Letters of keyspace notifications.
    Events,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Anything.
    Text,
}

/// When an option may be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// At start and by CONFIG SET.
    Always,
    /// At start.
    Start,
    /// Never: told to clients that ask because Redis has it.
    Never,
}

const fn row(
    name: &'static str,
    default: &'static str,
    form: Form,
    when: When,
    help: &'static str,
) -> Setting {
    Setting {
        name,
        default,
        form,
        when,
        help,
    }
}

use Form::{Bytes, Choice, Events, Integer, OptionalInteger, Text, YesNo};
use When::{Always, Never, Start};

/// Every option.
#[rustfmt::skip]
pub static SETTINGS: [Setting; 41] = [
    row("bind", "127.0.0.1", Text, Start, "address to listen on"),
    row("port", "8001", Integer(0, 65_535), Start, "port to listen on; 0 takes a free one and prints it"),
    row("insecure", "no", YesNo, Start, "allow an address that others can reach, without authentication"),
    row("data", "marline-data", Text, Start, "directory of the data, or none to keep everything in memory"),
    row("sync", "always", Choice(&["always", "1s", "never"]), Start, "when a write is on the disk: before its answer, within a second, or when the system likes"),
    row("seal-keys", "", Text, Start, "file of the keys that seal the data at rest; made when it and the data are new"),
    row("snapshot-interval", "300", Integer(0, 86_400), Always, "seconds after which changed shards are saved; 0 never for the time's sake"),
    row("snapshot-log-size", "256mb", Bytes(1 << 20, 1 << 40), Always, "bytes of log at which changed shards are saved"),
    row("shards", "16", Integer(1, 16_384), Start, "number of shards that the keys are cut into"),
    row("cluster", "", Text, Start, "addresses of all nodes that found a cluster together, a:p,b:p,c:p: the same on each"),
    row("join", "", Text, Start, "address of any node of a cluster to join"),
    row("replicas", "3", Integer(1, REPLICAS_MAX as i64), Start, "nodes that hold each shard"),
    row("seed", "", OptionalInteger(0, i64::MAX), Start, "seed of everything random; empty takes one from the kernel"),
    row("maxclients", "10000", Integer(1, 1_000_000), Always, "most client connections"),
    row("tcp-backlog", "511", Integer(1, 65_535), Start, "connections that wait to be accepted"),
    row("tcp-keepalive", "300", Integer(0, 86_400), Start, "seconds until a silent peer is probed; 0 never"),
    row("timeout", "0", Integer(0, 31_536_000), Always, "seconds until an idle client is closed; 0 never"),
    row("proto-max-bulk-len", "512mb", Bytes(1 << 20, 512 << 20), Always, "longest argument, in bytes"),
    row("client-query-buffer-limit", "1gb", Bytes(1 << 20, 1 << 40), Always, "most bytes of one request"),
    row("client-output-limit", "1gb", Bytes(1 << 20, 1 << 40), Always, "bytes of unread replies at which a client is cut off"),
    row("notify-keyspace-events", "", Events, Always, "which keyspace notifications to send, in Redis's letters"),
    row("slowlog-log-slower-than", "10000", Integer(-1, i64::MAX), Always, "microseconds from which a command is slow; -1 none is"),
    row("slowlog-max-len", "128", Integer(0, 1_000_000), Always, "slow commands that are kept"),
    row("latency-monitor-threshold", "0", Integer(0, i64::MAX), Always, "milliseconds from which a spike is recorded; 0 none is"),
    row("shutdown-timeout", "10", Integer(0, 3_600), Always, "seconds that a stop waits for clients to read their replies"),
    row("appendonly", "no", YesNo, Never, "Redis's: there is no such file; see data and sync"),
    row("save", "", Text, Never, "Redis's: see snapshot-interval"),
    row("dir", "", Text, Never, "Redis's: see data"),
    row("dbfilename", "", Text, Never, "Redis's: see data"),
    row("databases", "1", Integer(1, 1), Never, "there is one"),
    row("maxmemory", "0", Bytes(0, 0), Never, "there is no limit"),
    row("maxmemory-policy", "noeviction", Text, Never, "no key is ever evicted"),
    row("maxmemory-clients", "0", Bytes(0, 0), Never, "no client is ever evicted"),
    row("io-threads", "1", Integer(1, 1), Never, "one thread runs the commands"),
    row("hz", "10", Integer(10, 10), Never, "housekeeping runs every 100 ms"),
    row("cluster-enabled", "no", YesNo, Never, "Redis's: yes on a node of a cluster"),
    row("protected-mode", "yes", YesNo, Never, "see insecure"),
    row("requirepass", "", Text, Never, "there are no passwords"),
    row("daemonize", "no", YesNo, Never, "the node stays in the foreground"),
    row("lazyfree-lazy-user-flush", "yes", YesNo, Never, "flushing never blocks"),
    row("supervised", "no", YesNo, Never, "the node needs no supervisor"),
];

/// The row of an option.
pub fn find(name: &str) -> Option<(usize, &'static Setting)> {
    SETTINGS
        .iter()
        .enumerate()
        .find(|(_, setting)| setting.name.eq_ignore_ascii_case(name))
}

impl Setting {
    /// The value as it is kept, when `text` has the option's form.
    ///
    /// # Errors
    /// What is wrong, in Redis's words where Redis has some.
    pub fn check(&self, text: &str) -> Result<String, String> {
        let within = |value: i64, least: i64, most: i64| match (least..=most).contains(&value) {
            true => Ok(value.to_string()),
            false => Err(format!(
                "argument must be between {least} and {most} inclusive"
            )),
        };
        match self.form {
            YesNo => match text.to_ascii_lowercase().as_str() {
                value @ ("yes" | "no") => Ok(value.to_owned()),
                _ => Err("argument must be 'yes' or 'no'".to_owned()),
            },
            OptionalInteger(..) if text.is_empty() => Ok(String::new()),
            Integer(least, most) | OptionalInteger(least, most) => match text.parse() {
                Ok(value) => within(value, least, most),
                Err(_) => Err("argument couldn't be parsed into an integer".to_owned()),
            },
            Bytes(least, most) => match parse_bytes(text) {
                Some(value) if (least..=most).contains(&value) => Ok(value.to_string()),
                Some(_) => Err(format!(
                    "argument must be between {least} and {most} inclusive"
                )),
                None => Err("argument must be a memory value".to_owned()),
            },
            Events => match text
                .bytes()
                .all(|letter| b"KEg$lshzxetdmnA".contains(&letter))
            {
                true => Ok(text.to_owned()),
                false => Err("Invalid event class character. Use 'Ag$lszhxeKEtmdn'.".to_owned()),
            },
            Choice(words) => match words.iter().find(|word| word.eq_ignore_ascii_case(text)) {
                Some(word) => Ok((*word).to_owned()),
                None => Err(format!("argument must be one of: {}", words.join(", "))),
            },
            Text => Ok(text.to_owned()),
        }
    }
}

/// A number of bytes with Redis's units: `k m g` in thousands, `kb mb gb` in 1,024s.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.to_ascii_lowercase();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match &text[digits.len()..] {
        "" | "b" => 1,
        "k" => 1_000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_has_its_options_form() {
        for setting in &SETTINGS {
            assert!(setting.check(setting.default).is_ok(), "{}", setting.name);
        }
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_bytes("1kb"), Some(1024));
        assert_eq!(parse_bytes("2M"), Some(2_000_000));
        assert_eq!(parse_bytes("3gb"), Some(3 << 30));
        assert_eq!(parse_bytes("3tb"), None);
        assert_eq!(parse_bytes("x"), None);
        assert_eq!(parse_bytes("99999999999gb"), None);
    }
}
