//! The `marline` binary: its first argument says which role it plays.
//!
//! ```text
//! marline [node] [options]     a node
//! marline cli [options] …      the client tool
//! marline import [options] …   brings a dump of Redis into a node
//! marline backup [options] …   fetches a backup from a node, or verifies one
//! marline leave [options] …    lets a node leave its cluster
//! marline restore [options] …  makes a data directory out of a backup
//! marline check [options] …    looks whether a data directory is whole
//! ```
//!
//! Exit codes of a node: 0 stopped as asked, 1 could not go on, 2 wrong usage, 74 the disk failed or the data are
//! damaged, 78 wrong configuration.

use std::process::exit;

use marline::config::Options;
use marline::config::values::{self, Values};
use marline::data::files::Files;
use marline::data::opening;
use marline::disk::real::Lock;
use marline::node::{self, Node};
use marline::reactor::backend::Backend;
use marline::reactor::mio_backend::MioBackend;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

const EXIT_FAILURE: i32 = 1;
const EXIT_USAGE: i32 = 2;
const EXIT_IO: i32 = 74;
const EXIT_CONFIG: i32 = 78;

const USAGE: &str = "\
Usage: marline [node] [options]
       marline cli [options] [command …]
       marline import [options] FILE
       marline backup HOST:PORT FILE
       marline backup --verify FILE
       marline leave HOST:PORT
       marline restore FILE --data DIR
       marline check DIR";

/// Threads for what must not hold up the loop.
const POOL_THREADS: usize = 2;

fn main() {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("cli") => exit(marline::cli::run(args.split_off(1))),
        Some("import") => exit(marline::cli::import::run(&args.split_off(1))),
        Some("backup") => exit(backup(&args.split_off(1))),
        Some("leave") => exit(marline::cli::leave::run(&args.split_off(1))),
        Some("restore") => exit(marline::offline::restore::run(&args.split_off(1))),
        Some("check") => exit(marline::offline::check::run(&args.split_off(1))),
        Some("node") => run_node(&args.split_off(1)),
        Some(word) if !word.starts_with('-') => {
            eprintln!(
                "marline: there is no role '{word}'; try marline --help, or marline cli for a command"
            );
            exit(EXIT_USAGE);
        }
        _ => run_node(&args),
    }
}

/// A backup comes from a node, and is verified without one.
fn backup(args: &[String]) -> i32 {
    match args.iter().any(|arg| arg == "--verify") {
        true => marline::offline::verify::run(args),
        false => marline::cli::backup::run(args),
    }
}

fn run_node(args: &[String]) {
    let flags = values::flags();
    let matches = flags.parse(args).unwrap_or_else(|fault| {
        eprintln!("marline: {fault}; try marline --help");
        exit(EXIT_USAGE);
    });
    if matches.opt_present("help") {
        print!("{}", flags.usage(USAGE));
        exit(0);
    }
    if matches.opt_present("version") {
        println!("marline {}", env!("CARGO_PKG_VERSION"));
        exit(0);
    }
    if let Some(word) = matches.free.first() {
        eprintln!("marline: nothing is called '{word}' here; try marline --help");
        exit(EXIT_USAGE);
    }
    let (values, options) = configuration(&matches);
    env_logger::Builder::from_env(env_logger::Env::new().filter_or("MARLINE_LOG", "info"))
        .format_target(false)
        .init();
    serve(values, options);
}

/// The configuration, or the end with the place of what is wrong in it.
fn configuration(matches: &getopts::Matches) -> (Values, Options) {
    let variables: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let read =
        |path: &str| std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
    let wrong = |text: String| -> ! {
        eprintln!("marline: {text}");
        exit(EXIT_CONFIG);
    };
    let values = values::gather(matches, &variables, read)
        .unwrap_or_else(|invalid| wrong(invalid.to_string()));
    let options =
        Options::read(&values).unwrap_or_else(|(name, reason)| wrong(format!("{name}: {reason}")));
    if matches.opt_present("print-config") {
        for (setting, value, origin) in values.iter() {
            println!(
                "{:<28} {:<14} # {origin}",
                setting.name,
                if value.is_empty() { "\"\"" } else { value }
            );
        }
        exit(0);
    }
    if matches.opt_present("check-config") {
        println!("the configuration is whole");
        exit(0);
    }
    (values, options)
}

/// The data directory, locked for as long as the second value lives; `None` when everything is in memory.
fn files(options: &Options, at_ms: u64) -> Option<(Files, Lock)> {
    let directory = options.data.as_deref()?;
    let opened = opening::open(directory, options.seal_keys.as_deref(), at_ms);
    Some(opened.unwrap_or_else(|text| {
        eprintln!("marline: {text}");
        exit(EXIT_FAILURE);
    }))
}

fn serve(values: Values, options: Options) {
    let seed = options
        .seed
        .or_else(|| getrandom::u64().ok())
        .unwrap_or_else(|| {
            eprintln!("marline: the kernel gives no random numbers; say --seed NUMBER");
            exit(EXIT_FAILURE);
        });
    let address = options.address;
    let mut backend = MioBackend::with_threads(POOL_THREADS, seed).unwrap_or_else(|error| {
        eprintln!("marline: {error}");
        exit(EXIT_FAILURE);
    });
    let opened = files(&options, backend.wall_ms());
    let mut node = Node::new(values, options, seed);
    if let Some((files, _)) = &opened {
        node = node.with_files(files.clone());
    }
    let started = node::start(backend, node);
    let (mut reactor, address) = started.unwrap_or_else(|error| {
        eprintln!("marline: cannot listen on {address}: {error}");
        exit(EXIT_FAILURE);
    });
    stop_on_signals(&reactor);
    log::info!(
        "marline {} listens on {address} (seed {seed}); try: nc {} {}",
        env!("CARGO_PKG_VERSION"),
        address.ip(),
        address.port()
    );
    if let Err(error) = reactor.run() {
        eprintln!("marline: {error}");
        exit(EXIT_FAILURE);
    }
    if let Some(text) = reactor.app().fatal() {
        eprintln!("marline: {text}");
        exit(EXIT_IO);
    }
    log::info!("stopped");
    // The process ends here: giving ten million keys back to the allocator one by one helps nobody.
    exit(0);
}

/// The first SIGTERM or SIGINT stops the node in order, a second one at once.
fn stop_on_signals(reactor: &marline::reactor::Reactor<MioBackend, Node>) {
    let remote = reactor.remote();
    let mut signals = match Signals::new([SIGTERM, SIGINT]) {
        Ok(signals) => signals,
        Err(error) => {
            log::warn!("signals end the node without order: {error}");
            return;
        }
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "waiting for signals is all this thread does"
    )]
    std::thread::spawn(move || {
        let mut asked = false;
        for _ in signals.forever() {
            if std::mem::replace(&mut asked, true) {
                log::warn!("stopped at once by a second signal");
                exit(0);
            }
            log::info!(
                "stopping: no new clients, replies are sent out; a second signal stops at once"
            );
            remote.call(|cx| node::stop(cx.app, &mut cx.net));
        }
    });
}
