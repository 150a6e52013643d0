//! KEY ROTATE and KEY STATUS: the keys that seal the data at rest.
//!
//! Rotating makes a new key, seals everything with it that is begun from then on, and saves all shards, so that
//! what older keys have sealed goes: the old snapshots at once, the old segments of the log as the snapshots
//! replace them, backups when somebody removes them. A key that seals nothing any more may be taken out of the
//! ring file by hand.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use crate::data::files::{Files, Keys};
use crate::disk::header::{HEADER_BYTES, Header, Kind};
use crate::disk::seal::KeyRing;
use crate::disk::{Damage, Disk};

use super::journal;
use super::session::{Message, Said};
use super::turn::{Next, Turn, Wait};

const NOT_SEALED: &str = "ERR the data are not sealed; start the node with --seal-keys FILE";

/// KEY ROTATE: answers with the id of the new key.
pub fn rotate(turn: &mut Turn<'_, '_, '_>) -> Next {
    let files = turn.node.saving.files();
    let sealed = files.and_then(|files| Some((files.keys.clone()?, files.entropy)));
    let Some((keys, entropy)) = sealed else {
        turn.reply.error(NOT_SEALED);
        return Next::Go;
    };
    let (me, at_ms) = (turn.me, turn.node.at_ms);
    let job = move || {
        // As the file is by now: others may have asked, too, and not been answered yet.
        let ring = KeyRing::open(&*keys.disk, &keys.name);
        let mut ring = ring.map_err(|damage| io::Error::other(damage.to_string()))?;
        let id = ring.rotate(&*keys.disk, &keys.name, at_ms, &mut entropy())?;
        Ok((id, Arc::new(ring)))
    };
    turn.net
        .defer_to_disk(job, move |cx, rotated: io::Result<_>| {
            let said = match rotated {
                Ok((id, ring)) => {
                    if let Some(keys) = cx
                        .app
                        .saving
                        .files_mut()
                        .and_then(|files| files.keys.as_mut())
                    {
                        keys.ring = ring;
                    }
                    let key = cx.app.saving.files().and_then(Files::active_key);
                    journal::set_key(cx, key);
                    cx.app.saving.queue_all_anew();
                    log::info!("sealing with key {id} from now on; everything is saved anew");
                    Said::Bulk(id.to_string().into_bytes())
                }
                Err(error) => Said::Error(format!(
                    "ERR the ring of keys could not be written: {error}"
                )),
            };
            cx.net.post(me, Message::Say(said));
        });
    Next::Wait(Wait::UNTIL_DONE)
}

/// KEY STATUS: each key with when it was made and how many files it seals.
pub fn status(turn: &mut Turn<'_, '_, '_>) -> Next {
    let files = turn.node.saving.files().cloned();
    let sealed = files.and_then(|files| Some((files.keys.clone()?, files)));
    let Some((keys, files)) = sealed else {
        turn.reply.error(NOT_SEALED);
        return Next::Go;
    };
    turn.ask(move || count(&files, &keys))
}

fn count(files: &Files, keys: &Keys) -> io::Result<Said> {
    let mut sealed: BTreeMap<u32, u64> = BTreeMap::new();
    for disk in [&files.disk, &files.backups] {
        for file in disk.list()? {
            if let Some(id) = key_of(&**disk, &file.name)? {
                *sealed.entry(id).or_default() += 1;
            }
        }
    }
    let (active, _) = keys.ring.active();
    let mut fields: Vec<(String, Vec<(&'static str, String)>)> = keys
        .ring
        .ids()
        .map(|(id, created_ms)| {
            let state = if id == active { "active" } else { "old" };
            let files = sealed.remove(&id).unwrap_or(0);
            let facts = vec![
                ("state", state.to_owned()),
                ("created_ms", created_ms.to_string()),
                ("files", files.to_string()),
            ];
            (id.to_string(), facts)
        })
        .collect();
    if let Some(plain) = sealed.remove(&0) {
        fields.push(("unsealed".to_owned(), vec![("files", plain.to_string())]));
    }
    Ok(Said::Fields(fields))
}

/// The id of the key that a file is sealed with, 0 for none; `None` for what is no segment and no image.
fn key_of(disk: &dyn Disk, name: &str) -> io::Result<Option<u32>> {
    let mut bytes = [0; HEADER_BYTES];
    // A file may have been removed since it was listed.
    let Ok(len) = disk.read(name, 0, &mut bytes) else {
        return Ok(None);
    };
    let decode = |kind| -> Result<Header, Damage> { Header::decode(&bytes[..len], kind, name) };
    let header = decode(Kind::Segment).or_else(|_| decode(Kind::Image));
    Ok(header.ok().map(|header| header.key_id))
}
