//! Every option: its name, default, form and limits, typed once.
//!
//! - [`table`]: the options, a row each.
//! - [`values`]: what was given where (flag > environment > file > default), with its origin.
//!
//! What was typed becomes what it means in [`Options::read`]; nothing above this layer parses a setting.
//! An option that may change while the node runs is changed by reading all options again, so that a set
//! of changes is made whole or not at all.

pub mod table;
pub mod values;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use table::parse_bytes;
use values::Values;

/// Longest key. A key longer than this is refused with an error.
pub const KEY_BYTES_MAX: usize = 65_536;
/// Longest pattern and longest channel. Matching takes at most the product of the two.
pub const PATTERN_BYTES_MAX: usize = 1_024;
/// See [`PATTERN_BYTES_MAX`].
pub const CHANNEL_BYTES_MAX: usize = 65_536;
/// Longest value that a command may build, and the default of `proto-max-bulk-len`.
pub const VALUE_BYTES_MAX: usize = 512 << 20;

/// When a write is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// Before it is answered: what was answered survives a loss of power.
    Always,
    /// Within a second of its answer.
    EverySecond,
    /// When the operating system writes it.
    Never,
}

/// The options, as what they mean.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where clients connect.
    pub address: SocketAddr,
    /// Whether an address that others can reach is all right although nobody has to authenticate.
    pub insecure: bool,
    /// Directory of the data; `None`: everything is in memory only.
    pub data: Option<PathBuf>,
    /// When a write is on the disk.
    pub sync: Sync,
    /// File of the keys that seal the data; `None`: it is not sealed.
    pub seal_keys: Option<PathBuf>,
    /// Changed shards are saved after this; `None`: not for the time's sake.
    pub snapshot_interval: Option<Duration>,
    /// Bytes of log at which changed shards are saved.
    pub snapshot_log_bytes: u64,
    /// Number of shards.
    pub shards: u16,
    /// Seed of everything random; `None`: from the kernel.
    pub seed: Option<u64>,
    /// Most client connections.
    pub clients_max: usize,
    /// Connections that have not answered to the kernel yet.
    pub backlog: u32,
    /// Idle connections are closed after this; `None`: never.
    pub idle_timeout: Option<Duration>,
    /// Keepalive probes begin after this; `None`: never.
    pub keepalive: Option<Duration>,
    /// Longest argument.
    pub argument_bytes_max: usize,
    /// Most bytes of one request.
    pub request_bytes_max: usize,
    /// Most bytes a client may leave unread before it is cut off.
    pub output_bytes_max: usize,
    /// `notify-keyspace-events`, as typed.
    pub notify: String,
    /// Commands slower than this are kept in the slow log; `None`: none are.
    pub slowlog_threshold_us: Option<u64>,
    /// Entries kept in the slow log.
    pub slowlog_len_max: usize,
    /// Latency spikes from this on are recorded; `None`: none are.
    pub latency_threshold_ms: Option<u64>,
    /// How long a stop may wait for replies to be read.
    pub drain: Duration,
}

impl Options {
    /// What `values` mean together.
    ///
    /// # Errors
    /// The name of the option at fault and what is wrong with it.
    pub fn read(values: &Values) -> Result<Options, (&'static str, String)> {
        let integer = |name: &str| values.get(name).parse::<i64>().unwrap_or_default();
        let unsigned = |name: &str| u64::try_from(integer(name)).unwrap_or_default();
        let size = |name: &str| parse_bytes(values.get(name)).unwrap_or_default() as usize;
        let seconds =
            |name: &str| Some(Duration::from_secs(unsigned(name))).filter(|time| !time.is_zero());
        let ip: IpAddr = values
            .get("bind")
            .parse()
            .map_err(|_| ("bind", "argument must be one IP address".to_owned()))?;
        let insecure = values.get("insecure") == "yes";
        if !ip.is_loopback() && !insecure {
            let reason = format!(
                "refusing to listen on {ip}, where others can connect, while nobody has to authenticate; \
                 listen on 127.0.0.1, or say --insecure"
            );
            return Err(("bind", reason));
        }
        let path = |name: &str| Some(values.get(name)).filter(|path| !path.is_empty());
        let data = match values.get("data") {
            "" => return Err(("data", "argument must be a directory or none".to_owned())),
            "none" => None,
            directory => Some(PathBuf::from(directory)),
        };
        if data.is_none() && path("seal-keys").is_some() {
            let reason = "there is nothing to seal with --data none".to_owned();
            return Err(("seal-keys", reason));
        }
        let seed = values.get("seed");
        Ok(Options {
            address: SocketAddr::new(ip, unsigned("port") as u16),
            insecure,
            data,
            sync: match values.get("sync") {
                "always" => Sync::Always,
                "1s" => Sync::EverySecond,
                _ => Sync::Never,
            },
            seal_keys: path("seal-keys").map(PathBuf::from),
            snapshot_interval: seconds("snapshot-interval"),
            snapshot_log_bytes: size("snapshot-log-size") as u64,
            shards: unsigned("shards") as u16,
            seed: if seed.is_empty() {
                None
            } else {
                Some(unsigned("seed"))
            },
            clients_max: unsigned("maxclients") as usize,
            backlog: unsigned("tcp-backlog") as u32,
            idle_timeout: seconds("timeout"),
            keepalive: seconds("tcp-keepalive"),
            argument_bytes_max: size("proto-max-bulk-len"),
            request_bytes_max: size("client-query-buffer-limit"),
            output_bytes_max: size("client-output-limit"),
            notify: values.get("notify-keyspace-events").to_owned(),
            slowlog_threshold_us: u64::try_from(integer("slowlog-log-slower-than")).ok(),
            slowlog_len_max: unsigned("slowlog-max-len") as usize,
            latency_threshold_ms: Some(unsigned("latency-monitor-threshold")).filter(|&ms| ms > 0),
            drain: Duration::from_secs(unsigned("shutdown-timeout")),
        })
    }
}
