//! A one-shot signal with many listeners: a token was revoked, a policy forbids a tunnel, the server drains.

use tokio::sync::watch;

/// Why something alive has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// The token that opened it is no longer valid (WebSocket close 1008).
    Revoked,
    /// A new policy forbids its target (WebSocket close 1008).
    Policy,
    /// The server is going away (WebSocket close 1001).
    Shutdown,
}

impl CloseReason {
    /// The WebSocket close code (RFC 6455 §7.4.1).
    #[must_use]
    pub fn websocket_code(self) -> u16 {
        match self {
            Self::Revoked | Self::Policy => 1008,
            Self::Shutdown => 1001,
        }
    }
}

/// The side that fires.
#[derive(Debug)]
pub struct Trigger(watch::Sender<Option<CloseReason>>);

/// The side that listens. Cloning is cheap. A trigger that is dropped without firing never fires.
#[derive(Clone, Debug)]
pub struct Signal(watch::Receiver<Option<CloseReason>>);

impl Trigger {
    /// A trigger and its first listener.
    #[must_use]
    pub fn new() -> (Self, Signal) {
        let (tx, rx) = watch::channel(None);
        (Self(tx), Signal(rx))
    }

    /// Another listener.
    #[must_use]
    pub fn signal(&self) -> Signal {
        Signal(self.0.subscribe())
    }

    /// Fires once; later calls change nothing.
    pub fn fire(&self, reason: CloseReason) {
        self.0.send_if_modified(|slot| {
            slot.is_none() && {
                *slot = Some(reason);
                true
            }
        });
    }
}

impl Default for Trigger {
    fn default() -> Self {
        Self::new().0
    }
}

impl Signal {
    /// The reason, if it has fired.
    #[must_use]
    pub fn get(&self) -> Option<CloseReason> {
        *self.0.borrow()
    }

    /// Waits until it fires; pends for ever if it never does.
    pub async fn fired(&mut self) -> CloseReason {
        let reason = match self.0.wait_for(Option::is_some).await {
            Ok(slot) => *slot,
            Err(_) => None,
        };
        match reason {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }
}
