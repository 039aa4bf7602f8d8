//! The sessions that are kept for callers: a bounded map whose longest unused entry makes room.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::HeaderValue;
use sha2::{Digest as _, Sha256};

use crate::Secret;

/// Whose session with which server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    principal: Arc<str>,
    target: Box<str>,
    token: [u8; 32],
}

impl Key {
    pub(super) fn new(principal: &Arc<str>, target: String, token: Option<&Secret>) -> Self {
        let mut hash = Sha256::new();
        // A missing token is not an empty one.
        hash.update([u8::from(token.is_some())]);
        hash.update(token.map_or("", Secret::expose));
        Self { principal: Arc::clone(principal), target: target.into(), token: hash.finalize().into() }
    }
}

/// What is known about the conversation.
#[derive(Clone, Debug, Default)]
pub(super) enum Mode {
    /// Nothing yet.
    #[default]
    Unknown,
    /// Revisions 2025-03-26 to 2025-11-25.
    Session(Session),
    /// Revision 2026-07-28 and later.
    Stateless(Box<str>),
}

/// An open session.
#[derive(Clone, Debug)]
pub(super) struct Session {
    /// A number of our own, to tell a session from the one that replaced it.
    pub(super) serial: u64,
    /// `Mcp-Session-Id`; not every server has one.
    pub(super) id: Option<HeaderValue>,
    /// `MCP-Protocol-Version`.
    pub(super) version: Option<HeaderValue>,
    /// Whether `notifications/initialized` has been sent.
    pub(super) initialized: bool,
}

/// One conversation. The lock is held while it is being opened, so that it is opened once.
pub(super) type Slot = Arc<tokio::sync::Mutex<Mode>>;

/// All conversations.
#[derive(Debug)]
pub(super) struct Sessions {
    capacity: usize,
    idle: Duration,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    slots: HashMap<Key, Entry>,
    by_use: BTreeMap<u64, Key>,
    next: u64,
}

#[derive(Debug)]
struct Entry {
    slot: Slot,
    used: u64,
    at: Duration,
}

impl Sessions {
    pub(super) fn new(capacity: usize, idle: Duration) -> Self {
        Self { capacity: capacity.max(1), idle, inner: Mutex::default() }
    }

    /// The conversation of that key, an empty one if there is none or it has been idle for too long.
    pub(super) fn slot(&self, key: &Key, now: Duration) -> Slot {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let inner = &mut *inner;
        inner.next += 1;
        let used = inner.next;
        if let Some(entry) = inner.slots.get_mut(key) {
            inner.by_use.remove(&entry.used);
            inner.by_use.insert(used, key.clone());
            entry.used = used;
            let last = std::mem::replace(&mut entry.at, now);
            if now.saturating_sub(last) > self.idle {
                entry.slot = Slot::default();
            }
            return Arc::clone(&entry.slot);
        }
        if inner.slots.len() >= self.capacity
            && let Some((_, oldest)) = inner.by_use.pop_first()
        {
            inner.slots.remove(&oldest);
        }
        let slot = Slot::default();
        inner.by_use.insert(used, key.clone());
        inner.slots.insert(key.clone(), Entry { slot: Arc::clone(&slot), used, at: now });
        slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(principal: &str, token: Option<&str>) -> Key {
        Key::new(&principal.into(), "https://t.example/mcp".into(), token.map(Secret::new).as_ref())
    }

    #[test]
    fn keys_differ_by_principal_and_token() {
        assert_eq!(key("a", Some("x")), key("a", Some("x")));
        for other in [key("b", Some("x")), key("a", Some("y")), key("a", None), key("a", Some(""))] {
            assert_ne!(key("a", Some("x")), other);
        }
        assert_ne!(key("a", None), key("a", Some("")));
    }

    #[test]
    fn the_longest_unused_makes_room_and_idle_ones_start_anew() {
        let sessions = Sessions::new(2, Duration::from_secs(60));
        let now = Duration::from_secs(1);
        let a = sessions.slot(&key("a", None), now);
        let b = sessions.slot(&key("b", None), now);
        assert!(Arc::ptr_eq(&a, &sessions.slot(&key("a", None), now)));
        sessions.slot(&key("c", None), now);
        assert!(Arc::ptr_eq(&a, &sessions.slot(&key("a", None), now)));
        assert!(!Arc::ptr_eq(&b, &sessions.slot(&key("b", None), now)));
        let inner = sessions.inner.lock().unwrap();
        assert_eq!((inner.slots.len(), inner.by_use.len()), (2, 2));
        drop(inner);
        assert!(!Arc::ptr_eq(&b, &sessions.slot(&key("b", None), now + Duration::from_secs(62))));
    }
}
