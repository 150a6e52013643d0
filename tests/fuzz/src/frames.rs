//! What nodes say to each other beside raft's messages: any bytes are commands, answers and a map, or an error; what
//! was read is written with just these bytes.
//!
//! The first byte says which of the three the rest is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use marline::cluster::map::Map;
use marline::node::cluster::frames;

fn commands(mut frame: &[u8]) {
    let mut ranges = Vec::new();
    while !frame.is_empty() {
        let (mut skimmed, before) = (frame, frame);
        let seen = frames::skim(&mut skimmed);
        let Ok(command) = frames::take_command(&mut frame, &mut ranges) else {
            return;
        };
        let used = &before[..before.len() - frame.len()];
        let mut again = Vec::new();
        frames::put_command(&mut again, command.head, command.args);
        assert_eq!(again, used);
        let two = command.args.get(1).map(|key| [command.args.at(0), key]);
        assert_eq!((seen, skimmed), (Ok(two), frame));
    }
}

fn answers(mut frame: &[u8]) {
    while !frame.is_empty() {
        let before = frame;
        let Ok((id, outcome)) = frames::take_answer(&mut frame) else {
            return;
        };
        let mut again = Vec::new();
        frames::put_answer(&mut again, id, outcome);
        assert_eq!(again, before[..before.len() - frame.len()]);
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, rest)) = data.split_first() else {
        return;
    };
    match choice % 3 {
        0 => commands(rest),
        1 => answers(rest),
        _ => {
            if let Ok(map) = Map::decode(rest) {
                assert_eq!(map.encode().as_bytes(), rest);
            }
        }
    }
});
