//! What a client is told before it connects: its nodes, and how patient it is.

use std::time::Duration;

use super::Client;
use super::batch::Batch;
use super::error::Error;

/// What a client is told before it connects.
#[derive(Debug, Clone)]
pub struct Builder {
    pub(super) nodes: Vec<String>,
    pub(super) connect_timeout: Duration,
    pub(super) reply_timeout: Duration,
    pub(super) retries: u32,
    pub(super) reply_bytes_max: usize,
}

impl Default for Builder {
    fn default() -> Builder {
        Builder {
            nodes: Vec::new(),
            connect_timeout: Duration::from_secs(2),
            reply_timeout: Duration::from_secs(10),
            retries: 3,
            reply_bytes_max: 1 << 30,
        }
    }
}

impl Builder {
    /// The nodes, each `host:port`. The first one is tried first.
    pub fn nodes<N: Into<String>>(mut self, nodes: impl IntoIterator<Item = N>) -> Builder {
        self.nodes = nodes.into_iter().map(Into::into).collect();
        self
    }

    /// How long one node may take to accept a connection; 2 s. A name's addresses share it.
    pub fn connect_timeout(mut self, timeout: Duration) -> Builder {
        self.connect_timeout = timeout;
        self
    }

    /// How long a reply may take from the moment when everything is sent, or from the reply before; 10 s. Sending
    /// may take as long, for each 64 KiB of a pipeline or one larger command. A node that is not ready is asked
    /// again until the call is so old.
    pub fn reply_timeout(mut self, timeout: Duration) -> Builder {
        self.reply_timeout = timeout;
        self
    }

    /// How many times more a call is tried where that is safe, after no node took a connection or one was lost; 3.
    /// The pauses between are short at first and grow to a second. A try takes at most the connect timeout of every
    /// node and the reply timeout for each reply and each piece sent.
    pub fn retries(mut self, retries: u32) -> Builder {
        self.retries = retries;
        self
    }

    /// How many bytes a reply may have; 1 GiB. What arrived of it is held in memory.
    pub fn reply_bytes_max(mut self, bytes: usize) -> Builder {
        self.reply_bytes_max = bytes;
        self
    }

    /// Connects to the first node that can be reached.
    ///
    /// # Errors
    /// [`Error::NotDone`]: there is none.
    pub fn connect(self) -> Result<Client, Error> {
        let mut client = Client::new(self);
        client.run(&Batch::default())?;
        Ok(client)
    }
}
