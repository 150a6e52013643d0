//! Keyspace notifications: changes to keys as messages on `__keyspace@0__:key` and `__keyevent@0__:event`.
//!
//! Which classes are sent is Redis's setting `notify-keyspace-events`, letter by letter. Nothing is
//! recorded, and nothing costs anything, while it is empty and nobody watches a key. In a cluster the node that leads a
//! shard tells of its keys, also those nodes that asked for it ([`spread`]).

use crate::command::op::Event;

use super::cluster::spread;
use super::pubsub;
use super::turn::Turn;

/// Which notifications to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Notify {
    bits: u16,
}

/// Letters in the order in which Redis writes them back.
const LETTERS: [(u8, u16); 13] = [
    (b'K', 1),
    (b'E', 1 << 1),
    (b'g', 1 << 2),
    (b'$', 1 << 3),
    (b'l', 1 << 4),
    (b's', 1 << 5),
    (b'h', 1 << 6),
    (b'z', 1 << 7),
    (b'x', 1 << 8),
    (b'e', 1 << 9),
    (b't', 1 << 10),
    (b'd', 1 << 11),
    (b'm', 1 << 12),
];
const KEYSPACE: u16 = 1;
const KEYEVENT: u16 = 1 << 1;
const NEW: u16 = 1 << 13;
/// What `A` stands for: everything but key misses and new keys.
const ALL: u16 = 0xffc;

impl Notify {
    /// Reads the setting; letters that mean nothing are nothing.
    pub fn parse(text: &str) -> Notify {
        let bit = |letter: u8| match letter {
            b'A' => ALL,
            b'n' => NEW,
            letter => LETTERS
                .iter()
                .find(|(known, _)| *known == letter)
                .map_or(0, |(_, bit)| *bit),
        };
        Notify {
            bits: text.bytes().fold(0, |bits, letter| bits | bit(letter)),
        }
    }

    /// The setting as CONFIG GET shows it: Redis's own order of letters.
    pub fn text(self) -> String {
        let mut text = String::new();
        if self.bits & ALL == ALL {
            text.push('A');
        } else {
            let classes = LETTERS
                .iter()
                .filter(|(_, bit)| bit & ALL != 0 && self.bits & bit != 0);
            // Redis writes the data types before `x` and `e`, then `t` and `d`: the order of LETTERS.
            text.extend(classes.map(|(letter, _)| char::from(*letter)));
        }
        for (letter, bit) in [('K', KEYSPACE), ('E', KEYEVENT), ('m', 1 << 12), ('n', NEW)] {
            if self.bits & bit != 0 {
                text.push(letter);
            }
        }
        text
    }

    /// Whether any notification can be sent at all.
    pub fn is_on(self) -> bool {
        self.bits & (KEYSPACE | KEYEVENT) != 0 && self.bits & !(KEYSPACE | KEYEVENT) != 0
    }

    /// Whether it asks for this event.
    pub fn wants(self, event: Event) -> bool {
        let class = match event {
            Event::Expired => 1 << 8,
            Event::New => NEW,
            Event::KeyMiss => 1 << 12,
            Event::Set
            | Event::IncrBy
            | Event::IncrByFloat
            | Event::Append
            | Event::SetRange
            | Event::SetBit => 1 << 3,
            Event::Expire
            | Event::Persist
            | Event::Del
            | Event::RenameFrom
            | Event::RenameTo
            | Event::CopyTo => 1 << 2,
        };
        self.bits & class != 0
    }
}

/// Breaks watches and sends notifications for what the last command changed.
pub fn tell_touched(turn: &mut Turn<'_, '_, '_>) {
    if turn.node.touched.keys.is_empty() {
        return;
    }
    let mut keys = std::mem::take(&mut turn.node.touched.keys);
    for (key, effect) in keys.drain(..) {
        // A key that only turned out to be past its time was gone before: EXEC asks for itself.
        let was_there = !effect
            .events()
            .all(|event| matches!(event, Event::Expired | Event::KeyMiss));
        if effect.modified && was_there {
            turn.node.watches.key_changed(&key, &mut turn.node.clients);
        }
        if turn.node.notify.is_on() {
            effect.events().for_each(|event| send(turn, event, &key));
        }
        if turn.node.is_wanted_elsewhere() {
            let events = effect.events();
            events.for_each(|event| spread::event(turn.node, event, &key));
        }
    }
    turn.node.touched.keys = keys;
}

/// Sends what one event on one key calls for.
pub fn send(turn: &mut Turn<'_, '_, '_>, event: Event, key: &[u8]) {
    let notify = turn.node.notify;
    if !notify.wants(event) {
        return;
    }
    if notify.bits & KEYSPACE != 0 {
        let channel = [b"__keyspace@0__:".as_slice(), key].concat();
        pubsub::publish(turn, &channel, event.name().as_bytes());
    }
    if notify.bits & KEYEVENT != 0 {
        let channel = format!("__keyevent@0__:{}", event.name());
        pubsub::publish(turn, channel.as_bytes(), key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_reads_back_as_redis_writes_it() {
        for (typed, shown) in [
            ("KEA", "AKE"),
            ("Ex", "xE"),
            ("Kg$", "g$K"),
            ("", ""),
            ("AKEm", "AKEm"),
        ] {
            assert_eq!(Notify::parse(typed).text(), shown);
        }
        assert!(
            !Notify::parse("K").is_on()
                && !Notify::parse("A").is_on()
                && Notify::parse("Kx").is_on()
        );
    }
}
