//! INFO: facts and counters, in Redis's format: `# Section`, then `name:value` lines.
//!
//! Names that Redis has are Redis's, so that dashboards work; ours begin with `marline_`.

use std::fmt::Display;
use std::sync::atomic::Ordering;

use crate::command::parse;
use crate::config::VALUE_BYTES_MAX;
use crate::wire::request::Args;

use super::cluster::view;
use super::turn::Turn;
use super::{REDIS_VERSION, process};

type Section = fn(&Turn<'_, '_, '_>, &mut Facts);

/// Sections by name; the flag says whether INFO without arguments shows it.
const SECTIONS: [(&str, bool, Section); 12] = [
    ("Server", true, server),
    ("Clients", true, clients),
    ("Memory", true, memory),
    ("Persistence", true, persistence),
    ("Stats", true, stats),
    ("Replication", true, replication),
    ("CPU", true, cpu),
    ("Modules", true, |_, _| {}),
    ("Commandstats", false, command_stats),
    ("Errorstats", true, error_stats),
    ("Cluster", true, cluster),
    ("Keyspace", true, keyspace),
];

struct Facts {
    text: String,
}

impl Facts {
    fn add(&mut self, name: &str, value: impl Display) {
        self.text.push_str(&format!("{name}:{value}\r\n"));
    }

    /// A number of bytes, and the same for people.
    fn add_bytes(&mut self, name: &str, bytes: usize) {
        self.add(name, bytes);
        self.add(&format!("{name}_human"), human(bytes));
    }
}

fn human(bytes: usize) -> String {
    let bytes = bytes as f64;
    match bytes {
        _ if bytes < 1024.0 => format!("{bytes}B"),
        _ if bytes < 1024.0 * 1024.0 => format!("{:.2}K", bytes / 1024.0),
        _ if bytes < 1024.0 * 1024.0 * 1024.0 => format!("{:.2}M", bytes / (1024.0 * 1024.0)),
        _ => format!("{:.2}G", bytes / (1024.0 * 1024.0 * 1024.0)),
    }
}

/// INFO [section ...].
pub fn info(turn: &mut Turn<'_, '_, '_>, args: Args<'_>) {
    let asked = args.skip(1);
    let wanted = |name: &str, usual: bool| {
        let is = |word: &[u8]| {
            parse::is(word, name)
                || parse::is(word, "ALL")
                || parse::is(word, "EVERYTHING")
                || parse::is(word, "DEFAULT") && usual
        };
        if asked.is_empty() {
            usual
        } else {
            asked.iter().any(is)
        }
    };
    let mut facts = Facts {
        text: String::new(),
    };
    for (name, usual, section) in SECTIONS {
        if wanted(name, usual) {
            if !facts.text.is_empty() {
                facts.text.push_str("\r\n");
            }
            facts.text.push_str(&format!("# {name}\r\n"));
            section(turn, &mut facts);
        }
    }
    turn.reply.verbatim(&facts.text);
}

fn server(turn: &Turn<'_, '_, '_>, facts: &mut Facts) {
    let node = &turn.node;
    let uptime = turn.net.now().saturating_sub(node.started) / 1_000_000_000;
    facts.add("redis_version", REDIS_VERSION);
    facts.add("redis_mode", view::mode(node));
    facts.add("server_name", "marline");
    facts.add("marline_version", env!("CARGO_PKG_VERSION"));
    facts.add("os", std::env::consts::OS);
    facts.add("arch_bits", usize::BITS);
    facts.add("multiplexing_api", "mio");
    facts.add("process_id", std::process::id());
    facts.add("run_id", &node.run_id);
    facts.add("tcp_port", node.options.address.port());
    facts.add("server_time_usec", node.at_ms * 1000);
    facts.add("uptime_in_seconds", uptime);
    facts.add("uptime_in_days", uptime / 86_400);
    facts.add("hz", 10);
    facts.add("configured_hz", 10);
    facts.add(
        "executable",
        std::env::current_exe().unwrap_or_default().display(),
    );
    facts.add("config_file", "");
    facts.add("marline_seed", node.seed);
    facts.add("marline_shards", node.options.shards);
}

fn clients(turn: &Turn<'_, '_, '_>, facts: &mut Facts) {
    let node = &turn.node;
    facts.add("connected_clients", node.clients.len());
    facts.add("cluster_connections", 0);
    facts.add("maxclients", node.options.clients_max);
    facts.add(
        "blocked_clients",
        node.clients.iter().filter(|client| client.waiting).count(),
    );
    facts.add("tracking_clients", 0);
    facts.add("clients_in_timeout_table", 0);
}

fn memory(turn: &Turn<'_, '_, '_>, facts: &mut Facts) {
    let node = &turn.node;
    let used = node.keyspace.memory_bytes();
    let resident = process::resident_bytes();
    let ratio = resident as f64 / used.max(1) as f64;
    facts.add_bytes("used_memory", used);
    facts.add_bytes("used_memory_rss", resident);
    facts.add_bytes("used_memory_peak", node.stats.memory_peak.max(used));
    facts.add("used_memory_rss_peak", process::resident_peak_bytes());
    facts.add("used_memory_dataset", used);
    facts.add_bytes("maxmemory", 0);
    facts.add("maxmemory_policy", "noeviction");
    facts.add("mem_fragmentation_ratio", format!("{ratio:.2}"));
    facts.add("mem_allocator", "system");
    facts.add("lazyfree_pending_objects", turn.net.stats().jobs_pending);
    facts.add("marline_value_bytes_max", VALUE_BYTES_MAX);
}

fn persistence(turn: &Turn<'_, '_, '_>, facts: &mut Facts) {
    let node = &turn.node;
    let (saving, journal) = (&node.saving, &node.journal);
    facts.add("loading", u8::from(node.is_loading()));
    if let Some(progress) = node.loading_progress() {
        let (total, read) = (&progress.bytes_total, &progress.bytes_read);
        facts.add("loading_total_bytes", total.load(Ordering::Relaxed));
        facts.add("loading_loaded_bytes", read.load(Ordering::Relaxed));
        facts.add("loading_loaded_perc", progress.percent());
        facts.add(
            "marline_loading_keys",
            progress.keys.load(Ordering::Relaxed),
        );
    }
    facts.add("async_loading", 0);
    facts.add("rdb_changes_since_last_save", node.unsaved_writes());
    facts.add("rdb_bgsave_in_progress", u8::from(saving.is_busy()));
    facts.add("rdb_last_save_time", node.last_save_ms() / 1000);
    let ok = |failed: bool| if failed { "err" } else { "ok" };
    facts.add("rdb_last_bgsave_status", ok(saving.last.failed));
    facts.add("aof_enabled", u8::from(!journal.is_absent()));
    facts.add("aof_rewrite_in_progress", 0);
    facts.add("aof_last_bgrewrite_status", "ok");
    facts.add("aof_last_write_status", ok(journal.is_full()));
    facts.add("marline_sync", turn.node.values.get("sync"));
    facts.add("marline_saving_shards", saving.queued());
    facts.add("marline_saved_bytes_last", saving.last.bytes);
    facts.add("marline_saved_keys_last", saving.last.keys);
    facts.add("marline_saved_ms_last", saving.last.took_ms);
    facts.add("marline_log_segments", journal.segments.count());
    facts.add("marline_log_records", journal.figures.records);
    facts.add("marline_log_bytes", journal.figures.bytes);
    facts.add("marline_log_queued_bytes", journal.queued_bytes());
    facts.add("marline_log_write_us_last", journal.figures.last_ns / 1000);
    facts.add("marline_log_write_us_max", journal.figures.max_ns / 1000);
    facts.add("marline_disk_full", u8::from(journal.is_full()));
    facts.add("marline_writes_under_way", node.commits.len());
}

fn stats(turn: &Turn<'_, '_, '_>, facts: &mut Facts) {
    let (node, now, base) = (&turn.node, turn.net.stats(), &turn.node.stats_base);
    facts.add("total_connections_received", node.stats.connections);
    facts.add("total_commands_processed", node.stats.commands);
    facts.add("instantaneous_ops_per_sec", node.stats.commands_per_second);
    facts.add("total_net_input_bytes", now.bytes_read - base.bytes_read);
    facts.add(
        "total_net_output_bytes",
        now.bytes_written - base.bytes_written,
    );
    let (input, output) = node.stats.bytes_per_second;
    facts.add(
        "instantaneous_input_kbps",
        format!("{:.2}", input as f64 / 1024.0),
    );
    facts.add(
        "instantaneous_output_kbps",
        format!("{:.2}", output as f64 / 1024.0),
    );
    facts.add("rejected_connections", node.stats.refused);
    facts.add("expired_keys", node.touched.expired);
    facts.add("evicted_keys", 0);
    facts.add("evicted_clients", 0);
    facts.add(
        "keyspace_hits",
        node.touched.reads.saturating_sub(node.touched.misses),
    );
    facts.add("keyspace_misses", node.touched.misses);
    facts.add("pubsub_channels", node.pubsub.channels());
    facts.add("pubsub_patterns", node.pubsub.patterns());
    facts.add("latest_fork_usec", 0);
    facts.add("total_forks", 0);
    facts.add(
        "total_error_replies",
        node.stats.errors.values().sum::<u64>(),
    );
    facts.add("total_reads_processed", now.reads - base.reads);
    facts.add("total_writes_processed", now.writes - base.writes);
    facts.add("marline_turns", now.turns - base.turns);
    facts.add("marline_turn_us_max", now.turn_ns_max / 1000);
    facts.add("marline_turn_us_last", now.turn_ns_last / 1000);
    facts.add(
        "marline_clients_overflowed",
        now.overflowed - base.overflowed,
    );
    facts.add("marline_stale_events", now.stale_events - base.stale_events);
}

fn replication(turn: &Turn<'_, '_, '_>, facts: &mut Facts) {
    facts.add("role", "master");
    facts.add("connected_slaves", 0);
    facts.add("master_failover_state", "no-failover");
    facts.add("master_replid", &turn.node.run_id);
    facts.add("master_replid2", "0".repeat(40));
    facts.add("master_repl_offset", turn.node.keyspace.index());
    facts.add("second_repl_offset", -1);
    facts.add("repl_backlog_active", 0);
    facts.add("marline_early_writes_lost", turn.node.stats.early_lost);
}

fn cpu(_turn: &Turn<'_, '_, '_>, facts: &mut Facts) {
    let (user, system) = process::cpu_seconds();
    facts.add("used_cpu_sys", format!("{system:.6}"));
    facts.add("used_cpu_user", format!("{user:.6}"));
    facts.add("used_cpu_sys_children", "0.000000");
    facts.add("used_cpu_user_children", "0.000000");
}

fn command_stats(turn: &Turn<'_, '_, '_>, facts: &mut Facts) {
    for (name, stats) in turn.node.stats.used() {
        let usec = stats.nanos / 1000;
        facts.add(
            &format!("cmdstat_{name}"),
            format_args!(
                "calls={},usec={usec},usec_per_call={:.2},rejected_calls={},failed_calls={}",
                stats.calls,
                stats.nanos as f64 / 1000.0 / stats.calls.max(1) as f64,
                stats.rejected,
                stats.failed
            ),
        );
    }
}

fn error_stats(turn: &Turn<'_, '_, '_>, facts: &mut Facts) {
    for (code, count) in &turn.node.stats.errors {
        facts.add(&format!("errorstat_{code}"), format_args!("count={count}"));
    }
}

fn cluster(turn: &Turn<'_, '_, '_>, facts: &mut Facts) {
    facts.add("cluster_enabled", u8::from(view::is_enabled(turn.node)));
}

fn keyspace(turn: &Turn<'_, '_, '_>, facts: &mut Facts) {
    let (keys, expires) = (turn.node.keyspace.len(), turn.node.keyspace.expiring());
    if keys > 0 {
        facts.add(
            "db0",
            format_args!("keys={keys},expires={expires},avg_ttl=0"),
        );
    }
}
