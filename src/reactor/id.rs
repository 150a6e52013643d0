//! Names of things that live in slots: an index, and a generation that makes a reused slot a different name.
//!
//! A slab gives the slot freed last to whoever comes next, so a stale name that hits a new tenant is the common case
//! and not the rare one. Every name therefore carries the generation it was made in; a name whose generation is not
//! the tenant's is a no-op everywhere. One counter of 31 bits serves all kinds, so a name repeats after two thousand
//! million births in the same slot.
//!
//! A poll token is a name in 64 bits: `port << 63 | generation << 32 | index`.

/// Set in the tokens of listening ports.
const PORT_BIT: u64 = 1 << 63;

/// Bits of a generation.
pub(super) const GENERATION_MASK: u32 = 0x7fff_ffff;

macro_rules! slot_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub struct $name {
            index: u32,
            generation: u32,
        }

        impl $name {
            pub(super) fn new(index: usize, generation: u32) -> Self {
                Self { index: u32::try_from(index).unwrap_or(u32::MAX), generation }
            }

            /// The slot: small, dense, and reused after the name is dead.
            pub fn index(self) -> usize {
                self.index as usize
            }

            pub(super) fn generation(self) -> u32 {
                self.generation
            }
        }
    };
}

slot_name!(
    /// A connection. A stale id is a no-op everywhere.
    ConnId
);
slot_name!(
    /// A listening port.
    PortId
);
slot_name!(
    /// An outgoing connection with its factory, over all its attempts.
    ConnectorId
);

impl ConnId {
    /// No connection: what [`Net::id`](super::net::Net::id) says outside a connection's callbacks.
    pub const NONE: ConnId = ConnId {
        index: u32::MAX,
        generation: 0,
    };
}

/// What a poll token names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Named {
    Conn(ConnId),
    Port(PortId),
}

impl Named {
    /// The name as a poll token.
    pub(super) fn token(self) -> u64 {
        match self {
            Named::Conn(id) => u64::from(id.generation) << 32 | u64::from(id.index),
            Named::Port(id) => PORT_BIT | u64::from(id.generation) << 32 | u64::from(id.index),
        }
    }

    /// The name in a poll token.
    pub(super) fn of_token(token: u64) -> Named {
        let (index, generation) = (token as u32, (token >> 32) as u32 & GENERATION_MASK);
        match token & PORT_BIT {
            0 => Named::Conn(ConnId { index, generation }),
            _ => Named::Port(PortId { index, generation }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_name_what_they_were_made_of() {
        for name in [
            Named::Conn(ConnId::new(7, 9)),
            Named::Port(PortId::new(7, 9)),
            Named::Conn(ConnId::new(0, 0x7fff_ffff)),
        ] {
            assert_eq!(Named::of_token(name.token()), name);
        }
        assert_ne!(
            Named::Conn(ConnId::new(1, 1)).token(),
            Named::Conn(ConnId::new(1, 2)).token()
        );
    }
}
