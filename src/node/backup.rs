//! BACKUP: images of all shards at one moment, beside the data; and their way to wherever they are wanted.
//!
//! ```text
//!   BACKUP name                      makes it, answers when it is durable
//!   BACKUP LIST                      names and sizes
//!   BACKUP READ name offset count    a piece of it, at most 1 MiB; empty at the end
//!   BACKUP REMOVE name               removes it
//! ```
//!
//! A name is no path: clients choose no places on the disk of a node.

use std::io;
use std::sync::Arc;

use crate::command::parse;
use crate::disk::publish::is_temporary;
use crate::disk::{DIRECTORY, Disk};
use crate::reactor::id::ConnId;
use crate::wire::number;
use crate::wire::request::Args;

use super::session::{Message, Said};
use super::turn::{Next, Turn, Wait};

/// Longest name.
const NAME_BYTES_MAX: usize = 128;
/// Bytes that one READ answers with.
const READ_BYTES_MAX: u64 = 1 << 20;

/// Words that are no names.
const WORDS: [&str; 4] = ["LIST", "READ", "REMOVE", "HELP"];

const USAGE: &str = "ERR usage: BACKUP name | LIST | READ name offset count | REMOVE name";
const BAD_NAME: &str =
    "ERR a backup's name has at most 128 letters, digits, '-', '_' and '.', the first no '.'";
const NONE_SUCH: &str = "ERR there is no such backup";

/// BACKUP.
pub fn backup(turn: &mut Turn<'_, '_, '_>, args: Args<'_>) -> Next {
    let Some(files) = turn.node.saving.files() else {
        turn.reply.error(super::server::MEMORY_ONLY);
        return Next::Go;
    };
    let disk = Arc::clone(&files.backups);
    let word = args.at(1);
    match args.len() {
        2 if parse::is(word, "LIST") => turn.ask(move || list(&*disk)),
        2 if WORDS.iter().any(|reserved| parse::is(word, reserved)) => refuse(turn, USAGE),
        2 => make(turn, disk, word),
        3 if parse::is(word, "REMOVE") => match name(args.at(2)) {
            Some(name) => turn.ask(move || remove(&*disk, &name)),
            None => refuse(turn, BAD_NAME),
        },
        5 if parse::is(word, "READ") => read(turn, disk, args),
        _ => refuse(turn, USAGE),
    }
}

fn refuse(turn: &mut Turn<'_, '_, '_>, text: &str) -> Next {
    turn.reply.error(text);
    Next::Go
}

fn name(word: &[u8]) -> Option<String> {
    let is_fine = |&byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let fits = (1..=NAME_BYTES_MAX).contains(&word.len())
        && word.iter().all(is_fine)
        && !word.starts_with(b".");
    let text = std::str::from_utf8(word).ok()?;
    (fits && !is_temporary(text)).then(|| text.to_owned())
}

fn make(turn: &mut Turn<'_, '_, '_>, disk: Arc<dyn Disk>, word: &[u8]) -> Next {
    let Some(name) = name(word) else {
        return refuse(turn, BAD_NAME);
    };
    let me: ConnId = turn.me;
    let wanted = name.clone();
    let look = move || find(&*disk, &wanted);
    turn.net.defer_to_thread(look, move |cx, found| {
        let text = match found {
            Ok(None) if !cx.app.saving.has_queued(&name) => {
                return cx.app.saving.queue_backup(name, me);
            }
            Ok(_) => "ERR there is a backup of this name".to_owned(),
            Err(error) => format!("ERR {error}"),
        };
        cx.net.post(me, Message::Say(Said::Error(text)));
    });
    Next::Wait(Wait::UNTIL_DONE)
}

/// Bytes of a backup, if there is one of this name.
fn find(disk: &dyn Disk, name: &str) -> io::Result<Option<u64>> {
    let files = disk.list()?;
    Ok(files
        .iter()
        .find(|file| file.name == name)
        .map(|file| file.bytes))
}

fn list(disk: &dyn Disk) -> io::Result<Said> {
    let files = disk.list()?;
    let whole = files.into_iter().filter(|file| !is_temporary(&file.name));
    let fields = whole.map(|file| (file.name, vec![("bytes", file.bytes.to_string())]));
    Ok(Said::Fields(fields.collect()))
}

fn remove(disk: &dyn Disk, name: &str) -> io::Result<Said> {
    if find(disk, name)?.is_none() {
        return Ok(Said::Error(NONE_SUCH.to_owned()));
    }
    disk.remove(name)?;
    disk.sync(DIRECTORY)?;
    Ok(Said::Ok)
}

fn read(turn: &mut Turn<'_, '_, '_>, disk: Arc<dyn Disk>, args: Args<'_>) -> Next {
    let number =
        |at: usize| number::parse_i64(args.at(at)).and_then(|value| u64::try_from(value).ok());
    let (Some(name), Some(offset), Some(count)) = (name(args.at(2)), number(3), number(4)) else {
        return refuse(turn, USAGE);
    };
    turn.ask(move || {
        if find(&*disk, &name)?.is_none() {
            return Ok(Said::Error(NONE_SUCH.to_owned()));
        }
        let mut bytes = vec![0; count.min(READ_BYTES_MAX) as usize];
        let len = disk.read(&name, offset, &mut bytes)?;
        bytes.truncate(len);
        Ok(Said::Bulk(bytes))
    })
}
