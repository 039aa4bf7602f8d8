//! Whose `Mcp-Session-Id` it is, in memory.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use crate::tokens::{Lookup, SessionKey, SessionStore};

/// Session bindings in memory, bounded. The longest unused binding makes room, first of all one of the same owner's: nobody can
/// push another's bindings out with sessions of their own.
#[derive(Clone)]
pub struct MemorySessions(Arc<Inner>);

struct Inner {
    capacity: usize,
    share: usize,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    bound: HashMap<SessionKey, (Arc<str>, u64)>,
    /// By owner, the longest unused first.
    by_owner: HashMap<Arc<str>, BTreeMap<u64, SessionKey>>,
    by_use: BTreeMap<u64, SessionKey>,
    clock: u64,
}

impl MemorySessions {
    /// At most `capacity` bindings, and an eighth of them for one owner.
    #[must_use]
    pub fn bounded(capacity: usize) -> Self {
        let capacity = capacity.max(8);
        Self(Arc::new(Inner { capacity, share: capacity / 8, table: Mutex::default() }))
    }

    /// The number of bindings.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner).bound.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Table {
    fn put(&mut self, key: SessionKey, owner: &Arc<str>) {
        self.remove(&key);
        self.clock += 1;
        self.bound.insert(key, (Arc::clone(owner), self.clock));
        self.by_owner.entry(Arc::clone(owner)).or_default().insert(self.clock, key);
        self.by_use.insert(self.clock, key);
    }

    fn remove(&mut self, key: &SessionKey) {
        let Some((owner, used)) = self.bound.remove(key) else { return };
        self.by_use.remove(&used);
        if let Some(list) = self.by_owner.get_mut(&owner) {
            list.remove(&used);
            if list.is_empty() {
                self.by_owner.remove(&owner);
            }
        }
    }

    fn oldest_of(&self, owner: &Arc<str>) -> Option<SessionKey> {
        self.by_owner.get(owner)?.values().next().copied()
    }
}

impl SessionStore for MemorySessions {
    fn claim(&self, key: SessionKey, owner: &Arc<str>) -> Lookup<Arc<str>> {
        let mut table = self.0.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((bound, _)) = table.bound.get(&key) {
            let bound = Arc::clone(bound);
            if bound == *owner {
                table.put(key, owner);
            }
            return Lookup::Ready(Ok(Some(bound)));
        }
        let own = table.by_owner.get(owner).map_or(0, BTreeMap::len);
        let full = table.bound.len() >= self.0.capacity;
        if own >= self.0.share || full {
            let oldest = table.oldest_of(owner).or_else(|| table.by_use.values().next().copied());
            if let Some(oldest) = oldest {
                table.remove(&oldest);
            }
        }
        table.put(key, owner);
        Lookup::Ready(Ok(Some(Arc::clone(owner))))
    }
}

impl fmt::Debug for MemorySessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemorySessions").field("capacity", &self.0.capacity).field("bound", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Target;

    fn key(session: &str) -> SessionKey {
        SessionKey::new(session.as_bytes(), Target::parse("https://a.example/").unwrap().origin())
    }

    fn claim(sessions: &MemorySessions, session: &str, owner: &str) -> String {
        let Lookup::Ready(Ok(Some(bound))) = sessions.claim(key(session), &owner.into()) else { unreachable!() };
        bound.to_string()
    }

    #[test]
    fn the_first_owner_stays_the_owner() {
        let sessions = MemorySessions::bounded(100);
        assert_eq!(claim(&sessions, "s", "a"), "a");
        assert_eq!(claim(&sessions, "s", "b"), "a");
        assert_eq!(claim(&sessions, "t", "b"), "b");
        let elsewhere = SessionKey::new(b"s", Target::parse("https://b.example/").unwrap().origin());
        assert!(
            matches!(sessions.claim(elsewhere, &"b".into()), Lookup::Ready(Ok(Some(o))) if &*o == "b"),
            "another target's session"
        );
    }

    #[test]
    fn a_flood_pushes_out_its_own_bindings_only() {
        let sessions = MemorySessions::bounded(80);
        claim(&sessions, "victim", "a");
        for i in 0..10_000 {
            claim(&sessions, &format!("flood-{i}"), "b");
            claim(&sessions, "used", "b");
        }
        assert_eq!(sessions.len(), 11);
        assert_eq!(claim(&sessions, "victim", "b"), "a");
        assert_eq!(claim(&sessions, "used", "a"), "b", "what is in use stays");
        for i in 0..1000 {
            claim(&sessions, &format!("many-{i}"), &format!("owner-{i}"));
        }
        assert_eq!(sessions.len(), 80);
        let table = sessions.0.table.lock().unwrap();
        assert!(table.by_owner.len() <= 80 && table.by_use.len() == 80);
    }
}
