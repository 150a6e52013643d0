//! What clients say to the nodes of a world, and hear.

use std::net::SocketAddr;
use std::time::Duration;

use marline::reactor::backend::Backend;

use super::{Client, Counter, Heard, PATIENCE, World, port};

impl World {
    /// A client that is answered in lines.
    pub fn connect(&mut self, node: usize) -> Client {
        let address = SocketAddr::from(([127, 0, 0, 1], port(node)));
        let token = self.tokens.last_key_value().map_or(1, |(last, _)| last + 1);
        let client = Client(self.talkers.connect(address, token).unwrap());
        self.tokens.insert(token, client);
        let heard = Heard {
            greetings: 1,
            ..Heard::default()
        };
        self.heard.insert(client, heard);
        self.send(client, "HELLO LINE");
        client
    }

    /// A client says a line. Nobody may be there to hear it.
    pub fn send(&mut self, client: Client, text: &str) {
        self.send_bytes(client, format!("{text}\n").as_bytes());
    }

    /// A client says something whose words have no limit.
    pub fn send_words(&mut self, client: Client, words: &[&str]) {
        let mut text = format!("*{}\r\n", words.len());
        let bulk = |word: &&str| format!("${}\r\n{word}\r\n", word.len());
        text.extend(words.iter().map(bulk));
        self.send_bytes(client, text.as_bytes());
    }

    fn send_bytes(&mut self, client: Client, bytes: &[u8]) {
        if let Some(heard) = self.heard.get_mut(&client) {
            heard.unsent.extend_from_slice(bytes);
            self.flush(client);
        }
    }

    /// Sends of what a client says as much as its connection takes.
    pub(super) fn flush(&mut self, client: Client) {
        let Some(heard) = self.heard.get_mut(&client) else {
            return;
        };
        while !heard.unsent.is_empty() {
            match self.talkers.write(client.0, &heard.unsent) {
                Ok(sent) => drop(heard.unsent.drain(..sent)),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(_) => return heard.unsent.clear(),
            }
        }
    }

    /// The next line that a client has heard, if there is one.
    pub fn line(&mut self, client: Client) -> Option<String> {
        let heard = self.heard.get_mut(&client)?;
        loop {
            let end = heard.bytes.iter().position(|&byte| byte == b'\n')?;
            let line: Vec<u8> = heard.bytes.drain(..=end).collect();
            if heard.greetings == 0 {
                return Some(String::from_utf8(line).unwrap().trim_end().to_owned());
            }
            heard.greetings -= 1;
        }
    }

    /// Closes the connections by which [`ask`](Self::ask) asks.
    pub fn hang_up(&mut self) {
        for client in std::mem::take(&mut self.asking).into_values() {
            self.close(client);
        }
    }

    /// Whether the connection of a client has ended.
    pub fn is_closed(&self, client: Client) -> bool {
        self.heard.get(&client).is_none_or(|heard| heard.is_closed)
    }

    pub fn close(&mut self, client: Client) {
        if self.heard.remove(&client).is_some() {
            self.talkers.close(client.0, true);
            self.tokens.retain(|_, other| *other != client);
        }
    }

    /// Waits for a line.
    pub fn line_within(&mut self, client: Client, time: Duration) -> Option<String> {
        let mut line = None;
        self.within(time, |world| {
            line = world.line(client);
            line.is_some() || world.is_closed(client)
        });
        line
    }

    /// Says something to a node and waits for the answer, or what is in the place of one. While the node loads its data
    /// it is asked again.
    pub fn ask(&mut self, node: usize, text: &str) -> String {
        loop {
            let answer = self.ask_once(node, text);
            if !answer.starts_with("-LOADING") {
                return answer;
            }
            self.pass(Duration::from_millis(10));
        }
    }

    fn ask_once(&mut self, node: usize, text: &str) -> String {
        let client = match self.asking.get(&node) {
            Some(&client) if !self.is_closed(client) => client,
            _ => self.connect(node),
        };
        self.asking.insert(node, client);
        self.send(client, text);
        let answer = self.line_within(client, PATIENCE);
        let answer = answer.unwrap_or_else(|| match self.is_closed(client) {
            true => "(closed)".to_owned(),
            false => "(silence)".to_owned(),
        });
        if answer.starts_with('(') && answer != "(nil)" {
            self.asking.remove(&node);
            self.close(client);
        }
        self.note(Some(node), &format!("says {text} -> {answer}"));
        answer
    }

    /// Clients of all running nodes begin to count up, each with keys of its own.
    pub fn begin_load(&mut self) {
        let running: Vec<usize> = self.all().filter(|&node| self.is_up(node)).collect();
        for (node, nth) in running.into_iter().flat_map(|node| [(node, 0), (node, 1)]) {
            let client = self.connect(node);
            let key = format!("load{node}-{nth}");
            self.send(client, &format!("INCR {key}"));
            self.load.push(Counter {
                node,
                client,
                key,
                count: 1,
            });
        }
    }

    pub(super) fn go_on_with_load(&mut self) {
        for at in 0..self.load.len() {
            let client = self.load[at].client;
            let Some(answer) = self.line(client) else {
                continue;
            };
            let counter = &mut self.load[at];
            let (node, key) = (counter.node, &counter.key);
            assert_eq!(answer, counter.count.to_string(), "INCR {key} at {node}");
            counter.count += 1;
            let text = format!("INCR {key}");
            self.send(client, &text);
        }
    }

    /// The counting ends.
    ///
    /// # Errors
    /// Somebody did not come far, or is not answered.
    pub fn end_load(&mut self) -> Result<(), String> {
        for counter in std::mem::take(&mut self.load) {
            let (node, key) = (counter.node, counter.key.clone());
            let answer = self.line_within(counter.client, PATIENCE);
            self.close(counter.client);
            if answer != Some(counter.count.to_string()) {
                return Err(format!("INCR {key} at {node}: {answer:?}"));
            }
            let kept = self.ask(node, &format!("GET {key}"));
            if kept != counter.count.to_string() || counter.count < 10 {
                return Err(format!("{key} at {node}: {kept} of {}", counter.count));
            }
        }
        Ok(())
    }
}
