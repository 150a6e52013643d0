//! What a connection has still to send, and the buffers that go round among connections.
//!
//! A connection owns a buffer only while it has unsent output. The buffer comes from [`Spares`] at the first write of
//! a turn and goes back when the last byte is with the kernel. Idle connections thus hold none, busy ones allocate
//! none, and the buffer handed out is the one used last, still warm in the cache.

/// Unsent bytes of one connection: a buffer and how much of it is gone.
#[derive(Default)]
pub(super) struct Output {
    bytes: Vec<u8>,
    sent: usize,
}

/// A sent prefix is moved away when it is at least this long and half of the buffer.
const COMPACT_MIN_BYTES: usize = 64 << 10;

impl Output {
    /// Unsent bytes.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends; the buffer comes from `spares` when there is none.
    pub(super) fn push(&mut self, data: &[u8], spares: &mut Spares) {
        if self.bytes.capacity() == 0 {
            self.bytes = spares.take(data.len());
        } else if self.sent >= COMPACT_MIN_BYTES && self.sent * 2 >= self.bytes.len() {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
        self.bytes.extend_from_slice(data);
    }

    /// Takes `data`'s bytes by exchanging buffers; only when nothing is unsent.
    pub(super) fn swap(&mut self, data: &mut Vec<u8>) {
        debug_assert!(self.is_empty());
        self.sent = 0;
        std::mem::swap(&mut self.bytes, data);
    }

    /// At most the next `limit` unsent bytes.
    pub(super) fn next(&self, limit: usize) -> &[u8] {
        &self.bytes[self.sent..self.bytes.len().min(self.sent.saturating_add(limit))]
    }

    /// The first `n` unsent bytes are with the kernel.
    pub(super) fn advance(&mut self, n: usize, spares: &mut Spares) {
        self.sent += n;
        assert!(self.sent <= self.bytes.len(), "sent more than there was");
        if self.is_empty() {
            self.discard(spares);
        }
    }

    /// Drops everything and gives the buffer back.
    pub(super) fn discard(&mut self, spares: &mut Spares) {
        self.sent = 0;
        spares.give(std::mem::take(&mut self.bytes));
    }
}

/// Empty buffers waiting for their next connection.
#[derive(Default)]
pub(super) struct Spares {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

/// A larger buffer is not kept.
const SPARE_MAX_BYTES: usize = 64 << 10;
/// All spare buffers together.
const SPARES_MAX_BYTES: usize = 4 << 20;
/// A new buffer's size.
const FRESH_MIN_BYTES: usize = 512;

impl Spares {
    fn take(&mut self, at_least: usize) -> Vec<u8> {
        match self.buffers.pop() {
            Some(buffer) => {
                self.bytes -= buffer.capacity();
                buffer
            }
            None => Vec::with_capacity(at_least.max(FRESH_MIN_BYTES)),
        }
    }

    fn give(&mut self, mut buffer: Vec<u8>) {
        let size = buffer.capacity();
        if size > 0 && size <= SPARE_MAX_BYTES && self.bytes + size <= SPARES_MAX_BYTES {
            buffer.clear();
            self.bytes += size;
            self.buffers.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_keeps_order_over_partial_sends_and_gives_its_buffer_back() {
        let (mut output, mut spares) = (Output::default(), Spares::default());
        let mut expected = Vec::new();
        let mut got = Vec::new();
        for round in 0..2_000_u32 {
            let piece = [round as u8; 97];
            output.push(&piece, &mut spares);
            expected.extend_from_slice(&piece);
            let n = output.next(90).len();
            got.extend_from_slice(output.next(90));
            output.advance(n, &mut spares);
        }
        while !output.is_empty() {
            let n = output.next(1_000).len();
            got.extend_from_slice(output.next(1_000));
            output.advance(n, &mut spares);
        }
        assert_eq!(got, expected);
        assert_eq!(output.bytes.capacity(), 0);
        assert!(spares.buffers.is_empty(), "too large to keep");
        output.push(b"x", &mut spares);
        output.advance(1, &mut spares);
        assert_eq!((output.bytes.capacity(), spares.buffers.len()), (0, 1));
        output.push(b"x", &mut spares);
        assert!(
            spares.buffers.is_empty(),
            "the spare buffer was taken again"
        );
    }
}
