//! What every callback is given: the application and the network, as two public fields.
//!
//! Twisted's protocols reach their shared state through `self.factory`, a reference that every object of the server
//! holds. Here the reactor owns the state and lends it out, one callback at a time: [`Cx`] has the fields `app` and
//! `net`, and because they are fields and not getters, `match cx.app.get(k) { Some(v) => cx.net.write(v), .. }`
//! borrows both at once. There is no `RefCell` to be borrowed twice and no cycle to leak.

use super::net::Net;

/// What a reactor's protocols share.
pub trait App: Sized + 'static {
    /// What protocols and threads may post to a connection ([`Net::post`]).
    type Message: 'static;

    /// Once a turn, after all input was processed and before anything is flushed.
    ///
    /// What a turn's callbacks have gathered goes out here in one piece (a log batch, a replication frame).
    /// [`Net::id`] names no connection here; write with [`Net::write_to`].
    fn commit(_cx: &mut Cx<'_, Self>) {}
}

/// What a callback may touch: the application and the network.
pub struct Cx<'a, A: App> {
    /// The state that all protocols of the reactor share.
    pub app: &'a mut A,
    /// The connections, timers and threads of the reactor.
    pub net: Net<'a, A>,
}
