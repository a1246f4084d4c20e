//! The other end, played by a test.
//!
//! Knows: bytes in, bytes out, and the ways to be gone. Refuses to know: rings and tokens; nothing
//! here is asynchronous, and no knob acts on what a raw peer does itself.

use std::{fmt, rc::Rc};

use super::{Shared, kernel::Kernel, network::SocketId, with_network};
use crate::ring::{Errno, Shutdown};

/// What a raw peer finds when it reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SimRead {
    /// These bytes, at least one.
    Bytes(Vec<u8>),
    /// Nothing yet.
    Nothing,
    /// The end of the stream.
    End,
    /// The connection is gone.
    Failed(Errno),
}

/// An end of a connection that a test plays itself. One that does not read lets the window fill, so
/// that the other end's sends wait. Dropping it closes it.
pub struct SimPeer {
    shared: Shared,
    id: SocketId,
}

impl SimPeer {
    pub(super) fn new(shared: Shared, id: SocketId) -> Self {
        Self { shared, id }
    }

    /// Writes as many of `bytes` as there is room for, and says how many.
    ///
    /// # Errors
    ///
    /// EPIPE when nobody will read them.
    pub fn write(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        with_network(&self.shared, |network, _| {
            let count = network.room(self.id)?.min(bytes.len());
            network.put(self.id, &bytes[..count]);
            Ok(count)
        })
    }

    /// Reads what has arrived, at most `max` bytes.
    pub fn read(&mut self, max: usize) -> SimRead {
        match with_network(&self.shared, |network, faults| {
            network.take(faults, self.id, max)
        }) {
            Ok(Some(bytes)) if bytes.is_empty() => SimRead::Nothing,
            Ok(Some(bytes)) => SimRead::Bytes(bytes),
            Ok(None) => SimRead::End,
            Err(errno) => SimRead::Failed(errno),
        }
    }

    /// Ends the stream to the other end, and goes on reading.
    pub fn shutdown_write(&mut self) {
        with_network(&self.shared, |network, faults| {
            network.shutdown(faults, self.id, Shutdown::Write);
        });
    }

    /// Resets the connection. What the other end has not read yet is lost.
    pub fn reset(self) {
        with_network(&self.shared, |network, _| network.reset(self.id, true));
    }
}

impl fmt::Debug for SimPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimPeer({})", self.id)
    }
}

impl Drop for SimPeer {
    fn drop(&mut self) {
        close(&self.shared, self.id);
    }
}

/// Closes what a raw peer held, unless unwinding comes from within the kernel.
fn close(shared: &Shared, id: SocketId) {
    if let Ok(mut kernel) = shared.try_borrow_mut() {
        let Kernel {
            network, faults, ..
        } = &mut *kernel;
        network.close(faults, id);
    }
}

/// A listener that a test plays itself.
pub struct SimPeerListener {
    shared: Shared,
    id: SocketId,
}

impl SimPeerListener {
    pub(super) fn new(shared: Shared, id: SocketId) -> Self {
        Self { shared, id }
    }

    /// The next connection that waits, if any.
    pub fn accept(&mut self) -> Option<SimPeer> {
        let id = with_network(&self.shared, |network, _| network.accept_outside(self.id))?;
        Some(SimPeer::new(Rc::clone(&self.shared), id))
    }
}

impl fmt::Debug for SimPeerListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimPeerListener({})", self.id)
    }
}

impl Drop for SimPeerListener {
    fn drop(&mut self) {
        close(&self.shared, self.id);
    }
}
