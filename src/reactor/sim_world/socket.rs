//! What a node's backend asks of the simulated network: the verbs of a TCP stack.
//!
//! They change sockets at once and schedule what the other end will notice; the events themselves are
//! [`World`]'s.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use super::{Event, FIRST_PORT, Sock, State, World};
use crate::reactor::backend::{AcceptError, Raw, Ready};

impl World {
    /// `node` has a reason to poll now.
    pub(in crate::reactor) fn calls(&self, node: usize) -> bool {
        let node = &self.nodes[node];
        let has_edges = !node.edges.is_empty() || !node.stale.is_empty();
        !node.is_paused && (has_edges || node.woken.load(Ordering::Acquire))
    }

    /// Reports a node's edges, in an order of the generator's choosing.
    pub(in crate::reactor) fn take_edges(&mut self, node: usize, ready: &mut Vec<Ready>) {
        self.nodes[node].woken.store(false, Ordering::Release);
        let first = ready.len();
        let edges = std::mem::take(&mut self.nodes[node].edges);
        for raw in edges {
            let Some(sock) = self.socks.get_mut(raw) else {
                continue;
            };
            sock.queued = false;
            let closed = sock.fin_in || matches!(sock.state, State::Broken(_));
            let (readable, writable) = (
                std::mem::take(&mut sock.readable),
                std::mem::take(&mut sock.writable),
            );
            if let Some(token) = sock.token {
                ready.push(Ready {
                    token,
                    readable,
                    writable,
                    closed,
                });
            }
        }
        ready.append(&mut self.nodes[node].stale);
        self.rng.shuffle(&mut ready[first..]);
    }

    pub(super) fn insert(&mut self, node: usize, state: State, local: SocketAddr) -> Raw {
        self.socks.insert(Sock {
            node,
            state,
            token: None,
            local,
            peer: None,
            waiting: VecDeque::new(),
            backlog: 0,
            inbox: VecDeque::new(),
            in_flight: 0,
            unheard: 0,
            is_retrying: false,
            fin_in: false,
            fin_out: false,
            not_before: 0,
            blocked: false,
            readable: false,
            writable: false,
            queued: false,
        })
    }

    fn any_port(&mut self, mut addr: SocketAddr) -> SocketAddr {
        while addr.port() == 0 || self.listeners.contains_key(&addr) {
            self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_PORT);
            addr.set_port(self.next_port);
        }
        addr
    }

    fn take_descriptor(&mut self, node: usize) -> bool {
        let node = &mut self.nodes[node];
        let free = node.descriptors < node.descriptors_max;
        node.descriptors += usize::from(free);
        free
    }

    pub(in crate::reactor) fn listen(
        &mut self,
        node: usize,
        addr: SocketAddr,
        backlog: usize,
        token: u64,
    ) -> io::Result<(Raw, SocketAddr)> {
        let addr = match addr.port() {
            0 => self.any_port(addr),
            _ if self.listeners.contains_key(&addr) => return Err(ErrorKind::AddrInUse.into()),
            _ => addr,
        };
        if !self.take_descriptor(node) {
            return Err(io::Error::other("out of descriptors"));
        }
        let raw = self.insert(node, State::Listening, addr);
        if let Some(sock) = self.socks.get_mut(raw) {
            (sock.token, sock.backlog) = (Some(token), backlog);
        }
        self.listeners.insert(addr, raw);
        self.dark.remove(&addr);
        Ok((raw, addr))
    }

    pub(in crate::reactor) fn accept(
        &mut self,
        listener: Raw,
        spare: bool,
    ) -> Result<(Raw, SocketAddr), AcceptError> {
        let Some(sock) = self.socks.get_mut(listener) else {
            return Err(AcceptError::Broken(ErrorKind::NotConnected.into()));
        };
        let node = sock.node;
        // As in the kernel: the descriptor comes first, whether anybody waits or not.
        if !spare && !self.take_descriptor(node) {
            return Err(AcceptError::Exhausted);
        }
        let next = self
            .socks
            .get_mut(listener)
            .and_then(|sock| sock.waiting.pop_front());
        match next {
            Some(raw) => {
                self.nodes[node].descriptors += usize::from(spare);
                Ok((raw, self.remote_of(raw)))
            }
            None => {
                self.nodes[node].descriptors -= usize::from(!spare);
                Err(AcceptError::Empty)
            }
        }
    }

    fn remote_of(&self, raw: Raw) -> SocketAddr {
        let peer = self
            .socks
            .get(raw)
            .and_then(|sock| sock.peer)
            .and_then(|peer| self.socks.get(peer));
        peer.map_or(SocketAddr::from(([127, 0, 0, 1], 0)), |peer| peer.local)
    }

    pub(in crate::reactor) fn connect(
        &mut self,
        node: usize,
        to: SocketAddr,
        token: u64,
    ) -> io::Result<Raw> {
        if !self.take_descriptor(node) {
            return Err(io::Error::other("out of descriptors"));
        }
        let mut local = to;
        local.set_port(0);
        let local = self.any_port(local);
        let raw = self.insert(node, State::Connecting, local);
        if let Some(sock) = self.socks.get_mut(raw) {
            sock.token = Some(token);
        }
        let listener = self.listeners.get(&to).copied();
        let delay = self.delay_of(Some(node), listener.and_then(|raw| self.owner(raw)));
        self.schedule(delay, Event::Syn { client: raw, to });
        Ok(raw)
    }

    pub(in crate::reactor) fn connect_result(&self, raw: Raw) -> io::Result<()> {
        match self.socks.get(raw).map(|sock| sock.state) {
            Some(State::Up) => Ok(()),
            Some(State::Broken(kind)) => Err(kind.into()),
            _ => Err(ErrorKind::WouldBlock.into()),
        }
    }

    pub(in crate::reactor) fn register(&mut self, raw: Raw, token: u64) -> io::Result<()> {
        let Some(sock) = self.socks.get_mut(raw) else {
            return Err(ErrorKind::NotConnected.into());
        };
        sock.token = Some(token);
        let waiting =
            !sock.inbox.is_empty() || sock.fin_in || matches!(sock.state, State::Broken(_));
        self.edge(raw, waiting, true);
        Ok(())
    }

    pub(in crate::reactor) fn local(&self, raw: Raw) -> io::Result<SocketAddr> {
        self.socks
            .get(raw)
            .map(|sock| sock.local)
            .ok_or(ErrorKind::NotConnected.into())
    }

    pub(in crate::reactor) fn read(&mut self, raw: Raw, into: &mut [u8]) -> io::Result<usize> {
        let Some(sock) = self.socks.get_mut(raw) else {
            return Err(ErrorKind::NotConnected.into());
        };
        if let State::Broken(kind) = sock.state {
            return Err(kind.into());
        }
        let n = sock.inbox.len().min(into.len());
        if n == 0 {
            return if sock.fin_in {
                Ok(0)
            } else {
                Err(ErrorKind::WouldBlock.into())
            };
        }
        let (head, tail) = sock.inbox.as_slices();
        let split = n.min(head.len());
        into[..split].copy_from_slice(&head[..split]);
        into[split..n].copy_from_slice(&tail[..n - split]);
        sock.inbox.drain(..n);
        let peer = sock.peer;
        if let Some(peer) = peer
            && self.socks.get(peer).is_some_and(|peer| peer.blocked)
        {
            let delay = self.delay();
            self.schedule(delay, Event::Unblock { raw: peer });
        }
        Ok(n)
    }

    pub(in crate::reactor) fn write(&mut self, raw: Raw, from: &[u8]) -> io::Result<usize> {
        let room = self.room(raw)?;
        let mut n = room.min(from.len());
        let whim = self.rng.u8(..100);
        if n > 0 && whim < self.faults.would_block_percent {
            n = 0;
            self.count("blocked write");
        } else if n > 1
            && whim
                < self
                    .faults
                    .would_block_percent
                    .saturating_add(self.faults.short_write_percent)
        {
            n = self.rng.usize(1..n);
            self.count("short write");
        }
        if n < from.len() {
            self.block(raw, n < room);
        }
        if n == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.send(raw, &from[..n]);
        Ok(n)
    }

    /// How much the peer's window takes.
    fn room(&self, raw: Raw) -> io::Result<usize> {
        let Some(sock) = self.socks.get(raw) else {
            return Err(ErrorKind::NotConnected.into());
        };
        match sock.state {
            State::Broken(kind) => return Err(kind.into()),
            State::Up if sock.fin_out => return Err(ErrorKind::BrokenPipe.into()),
            State::Up => {}
            _ => return Ok(0),
        }
        let peer = sock.peer.and_then(|peer| self.socks.get(peer));
        let taken = peer.map_or(sock.unheard, |peer| peer.inbox.len() + peer.in_flight);
        Ok(self.faults.window_bytes.saturating_sub(taken))
    }

    /// A write was not taken whole. When it was a whim, nobody else will end it.
    fn block(&mut self, raw: Raw, whim: bool) {
        if let Some(sock) = self.socks.get_mut(raw) {
            sock.blocked = true;
        }
        if whim {
            let delay = self.delay();
            self.schedule(delay, Event::Unblock { raw });
        }
    }

    fn send(&mut self, raw: Raw, bytes: &[u8]) {
        let Some(to) = self.socks.get(raw).and_then(|sock| sock.peer) else {
            return;
        };
        if let Some(peer) = self.socks.get_mut(to) {
            peer.in_flight += bytes.len();
        } else if self.vanished.contains(&to)
            && let Some(sock) = self.socks.get_mut(raw)
        {
            sock.unheard += bytes.len();
        }
        let most = self.faults.segment_max_bytes.max(1);
        let pieces = bytes.len().div_ceil(most);
        // Where they are too many, some of them are torn off at a place that chance chooses.
        let torn = match self.faults.segments_max.filter(|max| *max < pieces) {
            None => 0..bytes.len(),
            Some(max) => {
                let from = self.rng.usize(..bytes.len() - max * most);
                from..from + max * most
            }
        };
        let (before, behind) = (&bytes[..torn.start], &bytes[torn.end..]);
        let pieces = [before].into_iter();
        let pieces = pieces.chain(bytes[torn].chunks(most)).chain([behind]);
        for piece in pieces.filter(|piece| !piece.is_empty()) {
            let (from, bytes) = (raw, piece.to_vec());
            self.deliver(to, Event::Arrive { from, to, bytes });
        }
    }

    pub(in crate::reactor) fn shutdown_write(&mut self, raw: Raw) {
        if let Some(sock) = self.socks.get_mut(raw)
            && !sock.fin_out
        {
            sock.fin_out = true;
            if let Some(to) = sock.peer {
                self.deliver(to, Event::Fin { from: raw, to });
            }
        }
    }

    pub(in crate::reactor) fn close(&mut self, raw: Raw, reset: bool) {
        let Some(sock) = self.socks.remove(raw) else {
            return;
        };
        let node = &mut self.nodes[sock.node];
        node.descriptors = node.descriptors.saturating_sub(1);
        if let Some(token) = sock.token.filter(|_| self.faults.stale_events) {
            node.stale.push(Ready {
                token,
                readable: true,
                writable: true,
                closed: true,
            });
        }
        if sock.state == State::Listening {
            self.listeners.remove(&sock.local);
            for waiting in sock.waiting {
                // It held no descriptor yet.
                self.nodes[sock.node].descriptors += 1;
                self.close(waiting, true);
            }
        }
        let Some(to) = sock.peer else { return };
        if reset || !sock.inbox.is_empty() {
            self.deliver(to, Event::Reset { from: raw, to });
        } else if !sock.fin_out {
            self.deliver(to, Event::Fin { from: raw, to });
        }
    }
}
