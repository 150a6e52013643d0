//! All sockets, by number. Numbers are given out one after the other and never again, so that the node of a socket is
//! known after its end.

use super::Sock;
use crate::reactor::backend::Raw;

/// See the module.
#[derive(Default)]
pub(super) struct Sockets {
    /// The node of each that there ever was, and what it is as long as it is open.
    all: Vec<(usize, Option<Box<Sock>>)>,
}

impl Sockets {
    pub(super) fn insert(&mut self, sock: Sock) -> Raw {
        self.all.push((sock.node, Some(Box::new(sock))));
        self.all.len() - 1
    }

    pub(super) fn get(&self, raw: Raw) -> Option<&Sock> {
        self.all.get(raw)?.1.as_deref()
    }

    pub(super) fn get_mut(&mut self, raw: Raw) -> Option<&mut Sock> {
        self.all.get_mut(raw)?.1.as_deref_mut()
    }

    pub(super) fn remove(&mut self, raw: Raw) -> Option<Sock> {
        self.all.get_mut(raw)?.1.take().map(|sock| *sock)
    }

    pub(super) fn contains(&self, raw: Raw) -> bool {
        self.get(raw).is_some()
    }

    /// The node that a socket is of, or was.
    pub(super) fn owner(&self, raw: Raw) -> Option<usize> {
        self.all.get(raw).map(|(node, _)| *node)
    }

    /// Those that are open, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Raw, &Sock)> {
        let all = self.all.iter().enumerate();
        all.filter_map(|(raw, (_, sock))| Some((raw, sock.as_deref()?)))
    }
}
