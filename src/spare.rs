//! Pieces of memory that one request leaves behind for a later one of the same thread. The last comes first, because it is still in the
//! processor's cache.

use std::{cell::RefCell, thread::LocalKey};

/// So many of a kind are kept by each thread.
pub(crate) const KEPT: usize = 64;

/// Those of one kind, in a `thread_local!`.
pub(crate) struct Spare<T>(RefCell<Vec<T>>);

impl<T: 'static> Spare<T> {
    pub(crate) const fn new() -> Self {
        Self(RefCell::new(Vec::new()))
    }

    #[inline]
    pub(crate) fn take(all: &'static LocalKey<Self>) -> Option<T> {
        all.try_with(|all| all.0.try_borrow_mut().ok()?.pop()).ok().flatten()
    }

    /// Keeps it, unless there are enough. A thread that is about to end keeps nothing.
    #[inline]
    pub(crate) fn put(all: &'static LocalKey<Self>, piece: T) {
        let _ = all.try_with(|all| {
            if let Ok(mut all) = all.0.try_borrow_mut()
                && all.len() < KEPT
            {
                all.push(piece);
            }
        });
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.borrow().len()
    }
}
