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

/// Most nodes of a cluster.
pub const NODES_MAX: usize = 1_000;
/// Most nodes that hold one shard.
pub const REPLICAS_MAX: u8 = 7;

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
    /// Addresses of all nodes that found a cluster together; none: no cluster is founded.
    pub cluster: Vec<SocketAddr>,
    /// A node of the cluster to join; `None`: none is joined.
    pub join: Option<SocketAddr>,
    /// Nodes that hold each shard.
    pub replicas: u8,
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
    /// Whether the node is neither to found nor to join a cluster.
    pub fn is_alone(&self) -> bool {
        self.cluster.is_empty() && self.join.is_none()
    }

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
        let cluster = parse_cluster(values.get("cluster")).map_err(|reason| ("cluster", reason))?;
        let join = parse_join(values.get("join"), &cluster).map_err(|reason| ("join", reason))?;
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
            cluster,
            join,
            replicas: unsigned("replicas") as u8,
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

/// Of whom a cluster is joined: a node that founds one joins none.
fn parse_join(text: &str, cluster: &[SocketAddr]) -> Result<Option<SocketAddr>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    match cluster {
        [] => parse_address(text).map(Some),
        _ => Err(
            "argument must be empty when cluster is given: a cluster is founded or joined"
                .to_owned(),
        ),
    }
}

fn parse_cluster(text: &str) -> Result<Vec<SocketAddr>, String> {
    let mut cluster = Vec::new();
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let address = parse_address(part.trim())?;
        if cluster.contains(&address) {
            return Err(format!("{address} is given twice"));
        }
        if cluster.len() == NODES_MAX {
            return Err(format!("a cluster has at most {NODES_MAX} nodes"));
        }
        cluster.push(address);
    }
    Ok(cluster)
}

/// An address that a node can be connected to.
fn parse_address(text: &str) -> Result<SocketAddr, String> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() == 0 => Err(format!("{address} has no port to connect to")),
        Ok(address) if address.ip().is_unspecified() => Err(format!(
            "nobody can connect to {address}; name the address that others see"
        )),
        Ok(address) => Ok(address),
        Err(_) => {
            let text = text.escape_debug();
            Err(format!(
                "'{text}' is no address: they are written 10.0.0.1:8001 or [fd00::1]:8001"
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use values::Origin;

    fn read(given: &[(&str, &str)]) -> Result<Options, (&'static str, String)> {
        let mut values = Values::default();
        for (name, text) in given {
            values.set(name, text, Origin::Flag).expect(name);
        }
        Options::read(&values)
    }

    #[test]
    fn a_cluster_is_a_list_of_addresses() {
        let options = read(&[]).unwrap();
        let nobody = (Vec::new(), None, 3);
        assert_eq!((options.cluster, options.join, options.replicas), nobody);
        let options = read(&[
            ("cluster", "10.0.0.1:8001, [fd00::1]:8001"),
            ("replicas", "5"),
        ])
        .unwrap();
        let texts: Vec<String> = options.cluster.iter().map(SocketAddr::to_string).collect();
        assert_eq!(texts, ["10.0.0.1:8001", "[fd00::1]:8001"]);
        assert_eq!(options.replicas, 5);
        let options = read(&[("join", "10.0.0.1:8001")]).unwrap();
        assert_eq!(options.join, "10.0.0.1:8001".parse().ok());
    }

    #[test]
    #[rustfmt::skip]
    fn a_list_that_is_none_says_why() {
        for (name, text, reason) in [
            ("cluster", "a:8001", "'a:8001' is no address: they are written 10.0.0.1:8001 or [fd00::1]:8001"),
            ("cluster", "10.0.0.1:1,", "'' is no address: they are written 10.0.0.1:8001 or [fd00::1]:8001"),
            ("cluster", "10.0.0.1:1,10.0.0.2:1,10.0.0.1:1", "10.0.0.1:1 is given twice"),
            ("cluster", "10.0.0.1:0", "10.0.0.1:0 has no port to connect to"),
            ("join", "0.0.0.0:1", "nobody can connect to 0.0.0.0:1; name the address that others see"),
            ("join", "8001", "'8001' is no address: they are written 10.0.0.1:8001 or [fd00::1]:8001"),
        ] {
            assert_eq!(read(&[(name, text)]).unwrap_err(), (name, reason.to_owned()), "{text}");
        }
        let both = read(&[("cluster", "10.0.0.1:1"), ("join", "10.0.0.1:1")]).unwrap_err();
        assert_eq!(both.0, "join");
        let many: Vec<String> = (0..=NODES_MAX).map(|port| format!("10.0.0.1:{}", port + 1)).collect();
        assert_eq!(read(&[("cluster", &many.join(","))]).unwrap_err().1, "a cluster has at most 1000 nodes");
    }
}
